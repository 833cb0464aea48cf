"""A .gguf file -> a directory in Hugging Face format: what `headwater convert` does."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ModelError

# Part of the key in conversion_cache.py: raise it when the converter's output changes.
CONVERTER_VERSION = 6
# Whose files in Hugging Face format have experts, or constants of an activation, in another way.
SERVED_ONLY = ("gpt-oss", "granitemoe", "llama4", "apertus")


def convert(gguf_path: Path, directory: Path, *, weights: bool = True) -> None:
    """Write ``directory``, which must not exist or be empty. All of it appears, or nothing. Raises ModelError.

    Args:
        weights: as safetensors in bf16; else there are none, and config.json is for those of the file.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ModelError(f"{directory}: this exists already. Choose another directory or remove it.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with scratch_dir(directory.parent, f".{directory.name}.") as scratch:
            _write(gguf_path, scratch, weights)
            os.replace(scratch, directory)
    except OSError as error:
        raise ModelError(f"{directory}: {error.strerror or error}.") from error


@contextmanager
def scratch_dir(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory beside the final one, so that a rename completes the work; gone if it was not renamed."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write(gguf_path: Path, directory: Path, weights: bool) -> None:
    # Imported here: a start from the cache needs none of them, and numpy alone costs 0.1 s and 30 MB.
    from ..models.families import parse_config
    from .gguf_config import model_config, token_ids
    from .gguf_file import GgufFile
    from .gguf_plan import check_plan, plan_tensors
    from .gguf_tokenizer import build_tokenizer, tokenizer_config
    from .gguf_weights import write_index, write_safetensors
    from .safetensors_dir import SINGLE_FILE

    gguf = GgufFile(gguf_path)
    config = model_config(gguf)
    parsed = parse_config(config, gguf_path)
    if weights and gguf.architecture in SERVED_ONLY:
        raise gguf.error(f"architecture {gguf.architecture!r} is served as the file has it; it cannot be converted")
    plan = plan_tensors(gguf, parsed)
    check_plan(gguf, plan)
    tokenizer = build_tokenizer(gguf)
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", token_ids(gguf))
    _write_json(directory / "tokenizer_config.json", tokenizer_config(gguf))
    tokenizer.save(str(directory / "tokenizer.json"))
    if weights:
        write_safetensors(gguf, plan, directory / SINGLE_FILE)
    else:
        write_index(gguf, plan, directory)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
