"""tokenizer.json of a checkpoint."""

from pathlib import Path

import tokenizers

from .errors import ModelError
from .json_files import BOM


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json; a byte order mark is no fault. Raises ModelError, which names the file."""
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes().removeprefix(BOM))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}.") from error
    except Exception as error:  # tokenizers raises no narrower type
        raise ModelError(f"{path}: not a tokenizer: {error}.") from error
