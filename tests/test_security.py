"""What docs/security.md promises of the whole tree."""

import ast
import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "engine", "api", "bench")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# Modules that run code which is hidden in data, or write it.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pty", "telnetlib"}
UNSAFE_CALLS = {"eval", "exec", "load_pickle"}
# Their files have other hashes on other machines: docs/security.md.
UNHASHED = {"torch"}


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


def pins(file: str) -> dict[str, str]:
    lines = re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==([^\s;]+)", (ROOT / file).read_text())
    return {canonicalize_name(name): version for name, version in lines}


def test_every_package_is_locked_with_its_hashes() -> None:
    """After a change of pyproject.toml or constraints.txt, run ./lock."""
    locked = pins("requirements.lock") | pins("requirements-test.lock")
    missing = {
        name: version
        for name, version in pins("constraints.txt").items()
        if locked.get(name) != version and name not in UNHASHED
    }
    assert not missing
    for file in ("requirements.lock", "requirements-test.lock"):
        blocks = re.split(r"(?m)^(?=\S)", (ROOT / file).read_text())
        requirements = [block for block in blocks if re.match(r"[A-Za-z0-9]", block)]
        assert len(requirements) > 30
        for block in requirements:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
