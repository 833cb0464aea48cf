"""The value of --root-path."""

import re

import typer

_SEGMENTS = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


def parse_root_path(value: str) -> str:
    """A path with a slash before it and none behind, "" for none. Raises typer.BadParameter for what is no path."""
    path = f"/{value.strip('/')}".rstrip("/")
    if not _SEGMENTS.fullmatch(path):
        raise typer.BadParameter(f"'{value}' is no path, such as /llm: letters, digits, '.', '_', '~', '-' and '/'")
    return path
