"""What an engine's successor has to load: the adapters that came and went since the start. No torch here."""

from pathlib import Path

import msgspec
from msgspec import Struct

from .messages import Adapter


class Record(Struct, frozen=True, array_like=True):
    """One adapter that sequences may have."""

    adapter: Adapter
    retired: bool  # it is being unloaded: only sequences that had it may go on with it


def write_records(socket: Path, records: list[Record]) -> None:
    """For the engine that will listen on ``socket`` next. All of it or nothing: this one may die at any moment."""
    new = _path(socket).with_suffix(".adapters-new")
    new.write_bytes(msgspec.msgpack.encode(records))
    new.replace(_path(socket))


def read_records(socket: Path) -> list[Record] | None:
    """What the engine before this one wrote; None if there was none, or it changed nothing."""
    try:
        return msgspec.msgpack.decode(_path(socket).read_bytes(), type=list[Record])
    except FileNotFoundError:
        return None


def remove_records(socket: Path) -> None:
    """No engine will follow."""
    _path(socket).unlink(missing_ok=True)


def _path(socket: Path) -> Path:
    return socket.with_suffix(".adapters")
