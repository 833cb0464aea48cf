"""JSON files of a checkpoint, read as transformers reads them: a byte order mark or a NaN is no fault."""

import json
from pathlib import Path
from typing import TypeVar

import msgspec

from .errors import ModelError

BOM = b"\xef\xbb\xbf"

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T | None:
    """What a file holds, None if there is none. Raises ModelError, which names the file and what is wrong with it."""
    try:
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # msgspec's and json's among them
        raise ModelError(f"{path}: this is no JSON that can be used: {error}.") from error
