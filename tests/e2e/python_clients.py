"""Python programs that run with packages of their own, which the other tests should not see."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .serving import PATIENCE_S, ROOT


def run(program: Path, *arguments: str) -> Any:
    """Run a program with the packages of the requirements.txt beside it. Returns the JSON that it writes last."""
    packages = _install(program.parent)
    ended = subprocess.run(
        [sys.executable, "-P", str(program), *arguments],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def _install(sources: Path) -> Path:
    """Their folder; it goes before what the tests have."""
    folder = ROOT / "build" / sources.name
    wanted, stamp = (sources / "requirements.txt").read_bytes(), folder / "installed"
    if not stamp.exists() or stamp.read_bytes() != wanted:
        # What is imported is compiled then; all of it would take as long as the installation.
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--upgrade"]
        wanted_from = ["--target", str(folder), "-r", str(sources / "requirements.txt")]
        command = [sys.executable, "-m", "pip", "install", *options, *wanted_from]
        subprocess.run(command, check=True, timeout=600)
        stamp.write_bytes(wanted)
    return folder
