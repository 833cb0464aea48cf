"""Who imports whom: arrows point down, between the packages and between the rooms of api/."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "engine", "api", "bench")  # each imports those before it; the command line mounts bench's

# From the ground up: a room imports those before it. A file on the top floor is a room of its own.
ROOMS = (
    "config", "launch", "http", "engine_client", "text", "telemetry", "generation", "resume", "tgi", "chat", "openai",
    "anthropic", "vllm", "platforms", "web", "openapi", "routes", "app", "server", "cache_commands", "cli",
)  # fmt: skip


def modules_of(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path) -> Iterator[str]:
    """The project's modules that a file imports, with dots, from the root."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for name in node.names:
                yield ".".join([*base, *(node.module.split(".") if node.module else []), name.name])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headwater."):
            yield f"{node.module}".removeprefix("headwater.")


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_those_below(package: str) -> None:
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    found = {
        (str(path.relative_to(ROOT)), module)
        for path in modules_of(package) for module in imports_of(path) if module.split(".")[0] not in allowed
    }  # fmt: skip
    assert found <= {("api/cli.py", "bench.cli.app")}


def test_every_room_of_the_api_is_listed() -> None:
    rooms = {path.name for path in (ROOT / "api").iterdir() if (path / "__init__.py").is_file()}
    files = {path.stem for path in (ROOT / "api").glob("*.py")} - {"__init__"}
    assert set(ROOMS) == rooms | files


def test_rooms_of_the_api_import_those_below() -> None:
    up = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules_of("api") if path.name != "__init__.py" or path.parent != ROOT / "api"
        for module in imports_of(path) if module.startswith("api.")
        if ROOMS.index(room_of(module)) > ROOMS.index(path.relative_to(ROOT / "api").parts[0].removesuffix(".py"))
    ]  # fmt: skip
    assert up == []


def test_the_kernels_know_nothing_of_requests_and_the_api_nothing_of_torch() -> None:
    for path in modules_of("api"):
        assert "import torch" not in path.read_text(), path


def test_rooms_of_the_bench_know_only_its_floor() -> None:
    rooms = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    across = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules_of("bench") if path.parent != ROOT / "bench"
        for module in imports_of(path) if module.startswith("bench.")
        if room_of(module) in rooms - {path.relative_to(ROOT / "bench").parts[0]}
    ]  # fmt: skip
    assert across == []
