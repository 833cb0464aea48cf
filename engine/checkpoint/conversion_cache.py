"""What was made of .gguf files beside their weights, once for each, whatever it is called and wherever it lies.

A conversion is a directory with config.json, the tokenizer, where each tensor is, and a link to the file. Its name is a
hash of the whole file and the converter's version. A file that was hashed is known again by what `stat` says of it, as
git knows its files, so that only the first start with a file reads all of it (blake2b: about a second for a gigabyte).
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import msgspec
from msgspec import Struct

from ..log import Progress, logger
from .convert import CONVERTER_VERSION, convert
from .errors import ModelError
from .safetensors_dir import WEIGHTS_FILE
from .whole_files import scratch_name, write_whole

_RECORD = "conversion.json"
_PREFIX = "gguf-"


class FileStamp(Struct, frozen=True):
    """What `stat` says of a file. The last two change with every write, and no tool sets ``changed_ns``."""

    device: int
    inode: int
    size: int  # bytes
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileStamp":
        """Raises OSError."""
        stat = path.stat()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class _Record(Struct):
    """conversion.json in each conversion: where it came from."""

    converter: int = 0
    sources: dict[str, FileStamp] = {}  # by absolute path: files with the same content


class Conversion(Struct, frozen=True):
    """One entry of the cache.

    Attributes:
        size: bytes.
        used: whether a server would find it: this version made it, and a file that it was made from is there.
    """

    path: Path
    size: int
    sources: tuple[str, ...]
    used: bool


def cache_dir() -> Path:
    """Where converted models are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification asks to ignore a path that is not absolute.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "headwater"


def cached_conversion(gguf_path: Path) -> Path:
    """The directory made from a .gguf file: from the cache, or converted into it now. Raises ModelError."""
    cache = cache_dir()
    try:
        stamp = FileStamp.of(gguf_path)
    except OSError as error:
        raise ModelError(f"{gguf_path}: {error.strerror}.") from error
    known = _known(cache, gguf_path, stamp)
    if known is not None:
        _link(known, gguf_path)
        return known
    directory = cache / f"{_PREFIX}{_key(gguf_path)}"
    try:
        if not directory.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            # Two servers that start at once convert once; the kernel frees the lock of a process that died.
            with _lock(cache / f"{directory.name}.lock"):
                if not directory.is_dir():
                    for leftover in cache.glob(f".{directory.name}.*"):  # of a conversion that was killed
                        shutil.rmtree(leftover, ignore_errors=True)
                    logger.info("reading the tokenizer of %s, once", gguf_path)
                    convert(gguf_path, directory, weights=False)
    except OSError as error:
        raise ModelError(f"{cache}: {error.strerror or error}. Set XDG_CACHE_HOME to a folder with room.") from error
    _link(directory, gguf_path)
    with suppress(OSError):  # a cache that others share and this user can only read
        _note(directory, gguf_path, stamp)
    return directory


def conversions() -> list[Conversion]:
    """All that is kept, what killed conversions and other versions left among it."""
    cache = cache_dir()
    found = []
    for path in sorted(cache.iterdir()) if cache.is_dir() else ():
        if path.is_dir() and not (path.name.startswith(".") and _is_locked(path)):
            record = _read(path)
            current = path.name.startswith(_PREFIX) and record.converter == CONVERTER_VERSION
            used = current and any(_is_there(Path(name), stamp) for name, stamp in record.sources.items())
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
            found.append(Conversion(path, size, tuple(record.sources), used))
    return found


def remove(conversion: Conversion) -> None:
    """Delete one. A server that runs from it goes on, but cannot start its engine again. Raises ModelError."""
    path = conversion.path
    try:
        # First out of sight: nobody finds the half of it.
        if not path.name.startswith("."):
            path = path.rename(path.with_name(f".{path.name}.removed"))
        shutil.rmtree(path)
        path.with_name(f"{conversion.path.name}.lock").unlink(missing_ok=True)  # earlier versions left them
    except OSError as error:
        raise ModelError(f"{conversion.path}: {error.strerror or error}.") from error


def _link(directory: Path, gguf_path: Path) -> None:
    """Let the directory's weights be those of this file, of all that have the same content. Raises ModelError."""
    link = directory / WEIGHTS_FILE
    if link.is_symlink() and os.readlink(link) == str(gguf_path):
        return
    scratch = scratch_name(link)
    try:
        scratch.symlink_to(gguf_path)
        os.replace(scratch, link)
    except OSError as error:
        raise ModelError(f"{link}: {error.strerror}. Set XDG_CACHE_HOME to a folder that can be written.") from error


def _key(gguf_path: Path) -> str:
    digest = hashlib.blake2b(f"{CONVERTER_VERSION} ".encode(), digest_size=16)
    try:
        with gguf_path.open("rb") as file:
            progress = Progress(f"reading {gguf_path.name}", os.fstat(file.fileno()).st_size, "MB", scale=1e6)
            while block := file.read(1 << 20):
                digest.update(block)
                progress.add(len(block))
    except OSError as error:
        raise ModelError(f"{gguf_path}: {error.strerror}.") from error
    return digest.hexdigest()


def _known(cache: Path, gguf_path: Path, stamp: FileStamp) -> Path | None:
    """The conversion of a file that was hashed before and has not changed since."""
    for record in cache.glob(f"{_PREFIX}*/{_RECORD}"):
        if record.is_symlink():  # a conversion with another tokenizer_config.json in it
            continue
        said = _read(record.parent)
        if said.converter == CONVERTER_VERSION and said.sources.get(str(gguf_path)) == stamp:
            return record.parent
    return None


def _note(directory: Path, gguf_path: Path, stamp: FileStamp) -> None:
    """Remember that the directory was made from this file, and forget files that are gone."""
    before = {name: old for name, old in _read(directory).sources.items() if _is_there(Path(name), old)}
    record = _Record(CONVERTER_VERSION, before | {str(gguf_path): stamp})
    write_whole(directory / _RECORD, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def _read(directory: Path) -> _Record:
    try:
        return msgspec.json.decode((directory / _RECORD).read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # of another version, or none: not used by this one
        return _Record()


def _is_there(path: Path, stamp: FileStamp) -> bool:
    """Whether the file may still be what was converted; a copy of it has another inode and other times."""
    with suppress(OSError):
        return path.stat().st_size == stamp.size
    return False


def _is_locked(scratch: Path) -> bool:
    """Whether a process is at work on a scratch directory, .NAME.RANDOM."""
    lock = scratch.parent / f"{scratch.name[1:].rpartition('.')[0]}.lock"
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock whose file is gone afterwards, however the work ends."""
    with _acquire(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> TextIO:
    while True:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            # Who held it before has removed the file that this process waited for.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
