"""Files that are there whole or not at all, whoever else writes or reads them meanwhile."""

import os
import secrets
from pathlib import Path


def scratch_name(path: Path) -> Path:
    """A name beside a path for what will replace it: of this call alone, as threads and processes do so at once."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def write_whole(path: Path, content: bytes) -> None:
    """Raises OSError."""
    scratch = scratch_name(path)
    scratch.write_bytes(content)
    os.replace(scratch, path)
