"""What the engine is told at start. No torch here: the supervisor builds this from the command line."""

from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

C = TypeVar("C", bound=Struct)


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Settings of one engine process; None means: chosen from the hardware and printed at start."""

    model_dir: Path
    model_id: str  # what clients see
    socket: Path  # Unix socket the engine listens on
    index: int = 0  # replica number
    device: Literal["cpu", "cuda"] | None = None
    backend: Literal["cpu", "triton"] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None  # of weights; None: the checkpoint's
    # Of rows and KV cache. None: like the weights. float32 beside bfloat16 weights is exact and slower (cpu backend).
    activation_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    page_size: int = 16  # tokens
    kv_cache_bytes: int | None = None
    max_total_tokens: int | None = None  # prompt + generated tokens of one sequence
    max_batch_prefill_tokens: int | None = None  # rows of one step
    max_batch_size: int | None = None  # sequences of one step
    max_waiting: int = 4096  # sequences
    threads: int | None = None  # of the cpu backend
    prefix_cache: bool = True
    quantize: Literal["int8", "fp8"] | None = None  # round the weights of the linears on load
    speculate: int = 0  # tokens guessed per step from the text so far (n-gram look-up); 0: none
    # Of an engine that follows one that died: as many pages as that had, so that whatever it took still fits.
    num_pages: int | None = None
    crashed: tuple[int, ...] = ()  # messages.Hello.crashed
    killed: tuple[int, ...] = ()  # messages.Hello.killed
    faults: tuple[str, ...] = ()  # for tests: faults.py


def encode_config(config: Struct) -> bytes:
    """One JSON line: how a child process gets its settings, as the first line of its standard input."""
    return msgspec.json.encode(config, enc_hook=str) + b"\n"


def decode_config(line: bytes, kind: type[C]) -> C:
    """The settings in the line that encode_config wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=kind, dec_hook=lambda to, value: to(value))
