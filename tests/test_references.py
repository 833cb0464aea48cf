"""What docs, docstrings and comments name is there: files, headings, commands."""

import re
from collections.abc import Iterator
from pathlib import Path

from headwater.api.cli import app as cli
from headwater.bench.cli import app as bench_cli

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "engine", "api", "bench", "tests", "docs")
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
SOURCES = [path for folder in FOLDERS[:-1] for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]
FILES = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
NAMES = {name.rpartition("/")[2] for name in FILES}

# A file of llama.cpp, and one that a test writes.
ELSEWHERE = {"convert_hf_to_gguf.py", "fake_engine.py"}

IN_TREE = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
BARE = re.compile(r"(?<![\w/.*-])[a-z_]+\.(?:py|md)\b")
HEADING = re.compile(r"(docs/\w+\.md), ([A-Z][\w ]+\w)")
MODULE = re.compile(r"python -m (headwater[\w.]*)")
COMMAND = re.compile(r"headwater (bench |)([a-z][a-z-]*)(?= [A-Z0-9-]|`)")


def prose(path: Path) -> str:
    """A document whole; of a module its comments and docstrings."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return "\n".join([*re.findall(r'"""(.*?)"""', text, re.S), *re.findall(r"#(.*)", text)])


def named(pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
    for path in (*TEXTS, *SOURCES):
        if path != Path(__file__):
            for match in pattern.finditer(prose(path)):
                yield path.relative_to(ROOT), match[0] if not match.groups() else "|".join(match.groups())


def test_files_that_are_named_exist() -> None:
    known = FILES | set(FOLDERS)
    dead = {(str(path), name) for path, name in named(IN_TREE) if name not in known and f"{name}.py" not in known}
    assert dead == set()


def test_modules_that_are_named_exist() -> None:
    roots = {path.name for path in ROOT.iterdir()}
    dead = {(str(path), name) for path, name in named(BARE) if name not in NAMES | ELSEWHERE | roots}
    assert dead == set()


def test_headings_that_are_named_exist() -> None:
    for path, name in named(HEADING):
        document, heading = name.split("|")
        headings = re.findall(r"^#+ (.*)", (ROOT / document).read_text(), re.M)
        assert any(heading.startswith(each) or each.startswith(heading) for each in headings), (path, name)


def test_commands_that_are_named_exist() -> None:
    for path, module in named(MODULE):
        place = "/".join(module.split(".")[1:])
        assert {f"{place}.py", f"{place}/__main__.py"} & FILES, (path, module)


def test_commands_of_the_command_line_that_are_named_exist() -> None:
    commands = {command.name or command.callback.__name__ for command in cli.registered_commands}
    benches = {command.name or command.callback.__name__ for command in bench_cli.registered_commands}
    groups = {group.name for group in cli.registered_groups}
    found = {name for _, name in named(COMMAND)}
    assert {"bench |offline", "|convert"} <= found
    processes = {"api", "engine"}  # as ps shows them
    for name in found:
        bench, _, command = name.partition("|")
        assert command in (benches if bench else commands | processes | groups), name


def test_no_hint_installs_headwater_by_a_name_that_no_index_has() -> None:
    hints = {str(path.relative_to(ROOT)) for path in (*TEXTS, *SOURCES) if "headwater[" in path.read_text()}
    assert hints == {"tests/test_references.py"}
