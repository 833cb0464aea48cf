"""A .gguf file -> a directory in Hugging Face format: what `headwater convert` does, and the cache of what it made."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ModelError

# Part of the cache's key: raise it when the converter's output changes.
CONVERTER_VERSION = 3
HASHED_BYTES = 1 << 20  # of the file's start: metadata and the first tensor names


def convert(gguf_path: Path, directory: Path) -> None:
    """Write ``directory``, which must not exist or be empty. All of it appears, or nothing. Raises ModelError."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ModelError(f"{directory}: this exists already. Choose another directory or remove it.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with scratch_dir(directory.parent, f".{directory.name}.") as scratch:
            _write(gguf_path, scratch)
            os.replace(scratch, directory)
    except OSError as error:
        raise ModelError(f"{directory}: {error.strerror or error}.") from error


def cached_conversion(gguf_path: Path) -> Path:
    """The directory made from a .gguf file: from the cache, or converted into it now. Raises ModelError."""
    cache = cache_dir()
    directory = cache / _cache_key(gguf_path)
    if directory.is_dir():
        return directory
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Two servers that start at once convert once; the kernel frees the lock of a process that died.
        with (cache / f"{directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not directory.is_dir():
                for leftover in cache.glob(f".{directory.name}.*"):  # of a conversion that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                convert(gguf_path, directory)
    except OSError as error:
        raise ModelError(f"{cache}: {error.strerror or error}. Set XDG_CACHE_HOME to a folder with room.") from error
    return directory


def cache_dir() -> Path:
    """Where converted models are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification asks to ignore a path that is not absolute.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "headwater"


def _cache_key(gguf_path: Path) -> str:
    try:
        stat = gguf_path.stat()
        with gguf_path.open("rb") as file:
            start = file.read(HASHED_BYTES)
    except OSError as error:
        raise ModelError(f"{gguf_path}: {error.strerror}.") from error
    identity = f"{CONVERTER_VERSION} {stat.st_size} {stat.st_mtime_ns} ".encode()
    return f"{gguf_path.stem}-{hashlib.sha256(identity + start).hexdigest()[:16]}"


@contextmanager
def scratch_dir(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory beside the final one, so that a rename completes the work; gone if it was not renamed."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write(gguf_path: Path, directory: Path) -> None:
    # Imported here: a start from the cache needs none of them, and numpy alone costs 0.1 s and 30 MB.
    from .gguf_config import model_config, token_ids
    from .gguf_file import GgufFile
    from .gguf_tokenizer import build_tokenizer, tokenizer_config
    from .gguf_weights import check_plan, plan_tensors, write_safetensors
    from .safetensors_dir import SINGLE_FILE

    gguf = GgufFile(gguf_path)
    config = model_config(gguf)
    plan = plan_tensors(gguf.architecture, config)
    check_plan(gguf, plan, ignored={"rope_freqs.weight"})
    tokenizer = build_tokenizer(gguf)
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", token_ids(gguf))
    _write_json(directory / "tokenizer_config.json", tokenizer_config(gguf))
    tokenizer.save(str(directory / "tokenizer.json"))
    write_safetensors(gguf, plan, directory / SINGLE_FILE)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
