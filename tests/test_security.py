"""What docs/security.md promises of the whole tree."""

import ast
import importlib.metadata
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "engine", "api", "bench")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# Modules that run code which is hidden in data, or write it.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pty", "telnetlib"}
UNSAFE_CALLS = {"eval", "exec", "load_pickle"}
LOCKS = ("requirements.lock", "requirements-test.lock", "requirements-torch.lock")


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_no_module_runs_code_from_data(source: Path) -> None:
    tree = ast.parse(source.read_text())
    assert not imported(tree) & UNSAFE_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id not in UNSAFE_CALLS, f"line {node.lineno}"
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                called = f"{node.func.value.id}.{node.func.attr}"
                assert called not in {"torch.load", "np.load", "yaml.load", "os.system"}, f"line {node.lineno}"
            assert not any(k.arg == "shell" for k in node.keywords), f"line {node.lineno}"


def locked() -> dict[str, str]:
    text = "".join((ROOT / name).read_text() for name in LOCKS)
    lines = re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==([^\s;]+)", text)
    return {canonicalize_name(name): version for name, version in lines}


def test_what_the_project_asks_for_is_locked_within_its_ranges() -> None:
    """After a change of pyproject.toml, run ./lock."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = wanted["project"]["optional-dependencies"].values()
    asked = [*wanted["build-system"]["requires"], *wanted["project"]["dependencies"], *chain.from_iterable(extras)]
    versions = locked()
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert name == "headwater" or versions[name] in requirement.specifier, requirement
        assert name == "headwater" or not {each.operator for each in requirement.specifier} & {"==", "==="}, requirement


def test_what_is_locked_is_what_is_installed() -> None:
    # What only other platforms need is locked too, pip is the environment's own.
    installed = {canonicalize_name(each.name): each.version for each in importlib.metadata.distributions()}
    versions = locked()
    assert {name for name in versions if name in installed} >= {"torch", "triton", "granian", "pytest"}
    for name in installed.keys() & versions.keys():
        assert installed[name].split("+")[0] == versions[name], name


def test_every_package_but_torch_is_locked_with_its_hashes() -> None:
    assert set(re.findall(r"(?m)^[^#\s].*$", (ROOT / "requirements-torch.lock").read_text())) == {
        f"torch=={locked()['torch']}"
    }
    for file in ("requirements.lock", "requirements-test.lock"):
        blocks = re.split(r"(?m)^(?=\S)", (ROOT / file).read_text())
        requirements = [block for block in blocks if re.match(r"[A-Za-z0-9]", block)]
        assert len(requirements) > 30
        for block in requirements:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
