import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from headwater.engine.install_hints import install_extra

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("extra", ["kv-events", "otlp"])
def test_an_extra_is_installed_by_the_names_of_its_packages(extra: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    python, dash_m, pip, install, *packages = shlex.split(install_extra(extra))
    assert (python, dash_m, pip, install) == (sys.executable, "-m", "pip", "install")
    assert {Requirement(each) for each in packages} == {Requirement(each) for each in declared}


@pytest.mark.parametrize("extra", ["kv-events", "otlp"])
def test_the_command_runs_as_it_stands(extra: str) -> None:
    """In an environment that has the packages: pip reads every word of it, and finds nothing to do."""
    ended = subprocess.run(
        install_extra(extra) + " --dry-run --no-index", shell=True, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "Would install" not in ended.stdout


def test_an_extra_that_is_none() -> None:
    with pytest.raises(AssertionError, match="no extra"):
        install_extra("nothing")
