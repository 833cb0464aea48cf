"""What to type when a package is missing: a command that works from a checkout and wherever else headwater runs."""

import importlib.metadata
import shlex
import sys


def pip_install(*arguments: str) -> str:
    """A command for the environment that runs this, whichever is active in the shell."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def install_extra(extra: str) -> str:
    """The command that adds one of headwater's extras, its packages by their own names: no index has headwater."""
    wanted = [each.partition(";") for each in importlib.metadata.requires("headwater") or ()]
    packages = [name.strip() for name, _, marker in wanted if marker.strip() == f'extra == "{extra}"']
    assert packages, f"headwater has no extra {extra}"
    return pip_install(*packages)
