"""./serve as a user runs it, from another directory, with the .venv that is there."""

import subprocess
from pathlib import Path

import pytest

from .serving import ROOT, SMALL, descendants, running, serving, wait_until

SERVE = str(ROOT / "serve")


def test_what_it_prints_when_ready_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(*SMALL, command=(SERVE,)) as server:
        server.wait_ready()
        curl = server.wait_for(r"(?m)^    (curl -N (?:.*\\\n)*.*)$").group(1)
        streamed = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=120, check=True).stdout
        assert streamed.count("data:") == 20
        assert '"generated_text":"' in streamed.splitlines()[-2]
        pids = descendants(server.process.pid)
        assert "headwater engine 0" in pids.values()
        assert server.stop() == 0
        wait_until(lambda: not any(map(running, pids)), f"the end of {pids}")


def test_a_second_run_installs_nothing() -> None:
    runs = [subprocess.run([SERVE, "--help"], capture_output=True, text=True, timeout=600) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0]
    assert "--max-total-tokens" in runs[1].stdout
    assert runs[1].stderr == ""


def test_a_relative_model_path_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    ended = subprocess.run([SERVE, "model", "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1
    assert f"headwater: error: {tmp_path}/model/config.json: No such file." in ended.stderr


def test_a_python_that_is_too_old_is_told(tmp_path: Path) -> None:
    """With nothing but an old python on the path: the script is copied, so that no .venv is there."""
    for name in ("serve", "environment.sh", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "dirname", "cat", "cksum"):
        (commands / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (commands / name).write_text("#!/bin/sh\nexit 1\n")  # what `sys.version_info < (3, 11)` makes of an old one
        (commands / name).chmod(0o755)
    ended = subprocess.run(
        ["bash", str(tmp_path / "serve")], env={"PATH": str(commands)}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "Python 3.11 or newer is needed" in ended.stderr
    assert not (tmp_path / ".venv").exists()
