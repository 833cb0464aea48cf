"""Why engines ended, from the supervisor, which sees their exit codes, to the workers, which have other engines to turn
to: a file beside the socket, a line for each end."""

import json
from pathlib import Path
from typing import Literal

# An engine died of itself; was killed, perhaps by the kernel for its memory; or ended by somebody.
Cause = Literal["crashed", "killed", "ended"]


def tell_exit(socket: Path, pid: int, cause: Cause) -> None:
    """Of the engine that listened on ``socket``. One write: a reader sees all of a line or nothing."""
    with open(_path(socket), "a") as exits:
        exits.write(json.dumps([pid, cause]) + "\n")


def told_exit(socket: Path, pid: int) -> Cause | None:
    """None if nothing is known yet."""
    try:
        lines = _path(socket).read_text().splitlines()
    except FileNotFoundError:
        return None
    told: dict[int, Cause] = dict(map(json.loads, lines))
    return told.get(pid)


def _path(socket: Path) -> Path:
    return socket.with_suffix(".exits")
