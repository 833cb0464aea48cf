"""Node programs beside this file, run with the packages of their lock file."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .serving import PATIENCE_S, ROOT

SOURCES = Path(__file__).with_name("js")
BUILD = ROOT / "build" / "js"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OLDEST_NODE = 18


def install() -> Path:
    """Put programs and packages into build/js; skips where there is no node. Returns that folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, check=True, text=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version.strip()} is older than {OLDEST_NODE}")
    BUILD.mkdir(parents=True, exist_ok=True)
    lock, installed = SOURCES / "package-lock.json", BUILD / "package-lock.json"
    stale = not (BUILD / "node_modules").exists() or installed.read_bytes() != lock.read_bytes()
    for source in SOURCES.iterdir():
        shutil.copy(source, BUILD)
    if stale:
        subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=BUILD, check=True)
    return BUILD


def chromium() -> str:
    """Path of a Chromium; skips where there is none."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(CHROMIUM)} is installed")
    return found


def run(program: str, *arguments: str) -> Any:
    """Run one of the programs. Returns the JSON that it writes last; what else it says is shown if it fails."""
    folder = install()
    ended = subprocess.run(
        ["node", program, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
