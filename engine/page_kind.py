"""What a page of the KV cache depends on beside its tokens: two engines may share pages if this is the same for both.

Model, dtypes and quantisation, the code and the libraries that compute, and the machine. Where any of it differs, bits
may; that a page is found then would be an answer that depends on what was asked before.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ..kernels import Backend
from .checkpoint.conversion_cache import FileStamp
from .checkpoint.safetensors_dir import WEIGHTS_FILE
from .checkpoint.whole_files import write_whole
from .config import EngineConfig
from .models.dtypes import Dtypes

_PACKAGES = Path(__file__).parents[1]
_COMPUTING = ("engine", "kernels")  # those whose code may change numbers
_CONFIGS = ("config.json", "quantize_config.json", "hf_quant_config.json", "generation_config.json")
_DIGESTS = "digests"  # directory of those of large files that were read before


def page_kind(config: EngineConfig, dtypes: Dtypes, backend: Backend, max_positions: int, directory: Path) -> bytes:
    """16 bytes. Reads the model's files once, as long as they aren't changed. Raises OSError.

    Args:
        max_positions: of the model as it is served: some rotate by it.
        directory: where digests of files are kept.
    """
    parts = [*map(str, dtypes), config.quantize, config.exact, config.shard_invariant, config.page_size, max_positions]
    parts += [torch.__version__, backend.numerics()]
    parts += [f"{name} {digest}" for name, digest in _model(config.model_dir, directory / _DIGESTS)]
    parts.append(_code())
    return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=16).digest()


def _model(model_dir: Path, digests: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of each file that makes the model what it computes."""
    weights = sorted({*model_dir.glob("*.safetensors"), *model_dir.glob(WEIGHTS_FILE)})
    for path in (*weights, *(model_dir / name for name in _CONFIGS)):
        if path.exists():
            yield path.name, _digest(path, digests)


def _digest(path: Path, digests: Path) -> str:
    """Of a file's content, which is read again only if ``stat`` says something else of it than before."""
    known = digests / hashlib.blake2b(repr(FileStamp.of(path)).encode(), digest_size=16).hexdigest()
    with suppress(OSError):
        if len(digest := known.read_text()) == 64:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # it is read again the next time
        digests.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(known, digest.encode())
    return digest


def _code() -> str:
    """A digest of the code that computes."""
    whole = hashlib.blake2b(digest_size=16)
    for package in _COMPUTING:
        for path in sorted((_PACKAGES / package).resolve().rglob("*.py")):
            whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()
