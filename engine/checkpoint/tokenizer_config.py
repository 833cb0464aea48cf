"""A model directory with another tokenizer_config.json in it: what --tokenizer-config-path asks for.

Made of links, so that whoever reads the directory, for templates, end tokens or weights, needs to know nothing of it.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from .conversion_cache import cache_dir
from .convert import scratch_dir
from .errors import ModelError

NAME = "tokenizer_config.json"
# What comes before the chat template in tokenizer_config.json, see api/text/chat_template_files.py.
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "additional_chat_templates")


def with_tokenizer_config(model_dir: Path, path: Path) -> Path:
    """A directory in the cache that has the model's files, but for tokenizer_config.json, which is the one at ``path``.

    A chat template in that comes before all that the model has. Raises ModelError.
    """
    data, hides_templates = _read(path)
    names = sorted(entry.name for entry in model_dir.iterdir())
    key = hashlib.sha256(msgspec.json.encode([str(model_dir), names]) + data).hexdigest()[:16]
    cache = cache_dir()
    directory = cache / f"{model_dir.name}-{key}"
    if directory.is_dir():
        return directory
    hidden = {NAME, *(_TEMPLATES if hides_templates else ())}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with scratch_dir(cache, f".{directory.name}.") as made:
            for name in names:
                if name not in hidden:
                    (made / name).symlink_to(model_dir / name)
            (made / NAME).write_bytes(data)
            os.replace(made, directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another server made it meanwhile
            reason = f"{error.strerror or error}. Set XDG_CACHE_HOME to a folder that can be written"
            raise ModelError(f"{cache}: {reason}.") from error
    return directory


def _read(path: Path) -> tuple[bytes, bool]:
    """The file, and whether it has a chat template."""
    try:
        data = path.read_bytes()
        config = msgspec.json.decode(data, type=dict[str, Any])
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}. --tokenizer-config-path is a {NAME}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: this is no {NAME}: {error}.") from error
    return data, config.get("chat_template") is not None
