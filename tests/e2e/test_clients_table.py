"""The table of clients in the documentation has the versions that the tests run."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-test.lock", "tests/e2e/new_clients/requirements.txt",
         "tests/e2e/old_clients/requirements.txt")  # fmt: skip


def installed() -> dict[str, set[str]]:
    """Versions by name, as pip and npm write them."""
    found: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", (ROOT / lock).read_text()):
            found.setdefault(name.replace("-", "_"), set()).add(version)
    packages = json.loads((ROOT / "tests/e2e/js/package.json").read_text())["dependencies"]
    for name, version in packages.items():
        npm = re.fullmatch(r"npm:(.+)@(.+)", version)
        found.setdefault((npm[1] if npm else name).replace("-", "_"), set()).add(npm[2] if npm else version)
    return found


def test_its_versions_are_those_that_are_installed_and_its_tests_exist() -> None:
    known = installed()
    text = (ROOT / "docs" / "compatibility.md").read_text().partition("## Clients that were tried")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for clients, versions, _, tests in rows:
        names = re.findall(r"`(.+?)`", clients)
        for at, version in enumerate(versions.split(", ")):
            assert version in known[names[min(at, len(names) - 1)].replace("-", "_")], clients
        for test in re.findall(r"`(.+?)`", tests):
            assert (ROOT / test).is_file()
