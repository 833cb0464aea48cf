"""Sizes of the engine, chosen from the hardware where the user says nothing, each with its reason."""

import os

import torch
from msgspec import Struct

from .checkpoint.errors import ModelError
from .config import EngineConfig, max_guesses
from .models.config import ModelConfig
from .models.dtypes import kv_cache_name
from .models.kv_cache import page_bytes

# A step of this many rows is what a decoding neighbour waits for when a prompt comes in: about 0.25 s per 256 rows of a
# 135 M model on two cores. On a GPU 2048 rows already fill the tensor cores.
DEFAULT_ROWS = {"cpu": 256, "cuda": 2048}
DEFAULT_SEQUENCES = {"cpu": 64, "cuda": 256}
CACHE_SHARE = 0.25  # of the memory that is free once the weights are loaded; on a GPU it is measured, see memory.py


class Limits(Struct, frozen=True, kw_only=True):
    """Derived from EngineConfig, the model and the device. Fixed for the engine's life."""

    page_size: int  # tokens
    num_pages: int  # with the trash page
    max_sequences: int  # in a step
    max_rows: int  # in a step
    max_total_tokens: int  # of a sequence
    max_samples: int  # rows of a step whose next token is drawn
    graph_rows: tuple[int, ...]  # row counts that steps are recorded for, where a recording has one
    max_logit_bias: int = 1024  # entries of one sequence
    reasons: tuple[str, ...]  # one line each, for the start-up log


def _free_memory_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _graph_rows(max_sequences: int) -> tuple[int, ...]:
    """1, 2, 4, 8, and from there on so that a step computes at most 8 rows for nothing."""
    return (*(size for size in (1, 2, 4) if size < max_sequences), *range(8, max_sequences, 8), max_sequences)


def _choose_pages(config: EngineConfig, per_page: int, wanted: int, measured_bytes: float | None) -> tuple[int, str]:
    """How many pages the cache gets, and why.

    Args:
        config: what the user said.
        per_page: bytes of a page.
        wanted: pages of which no more are of use.
        measured_bytes: see choose_limits.
    """
    if config.num_pages is not None and (measured_bytes is None or config.num_pages * per_page <= measured_bytes):
        return config.num_pages, "as the engine before this one"
    if config.kv_cache_bytes is not None:
        return config.kv_cache_bytes // per_page, "as asked for"
    room, of_what = measured_bytes, "what the largest step leaves"
    if room is None:
        share = CACHE_SHARE / config.replicas
        room, of_what = _free_memory_bytes() * share, f"{share:.0%} of the free memory"
    num_pages = int(min(wanted, room // per_page))
    return num_pages, "every sequence at its longest" if num_pages == wanted else of_what


def choose_limits(
    config: EngineConfig,
    model: ModelConfig,
    pages_dtype: torch.dtype,
    device: torch.device,
    draft_page_bytes: int = 0,
    measured_bytes: float | None = None,
) -> Limits:
    """Fill in what the user left open. Raises ModelError if the model can't be served within the limits.

    Args:
        config: what the user said.
        model: what is served.
        pages_dtype: of the cache.
        device: where.
        draft_page_bytes: what a page takes in the cache of the draft model, which has as many.
        measured_bytes: what the cache may take, where it was measured (a GPU).
    """
    reasons = []
    max_sequences = config.max_batch_size or DEFAULT_SEQUENCES[device.type]
    max_rows = max(config.max_batch_prefill_tokens or DEFAULT_ROWS[device.type], max_sequences)
    if config.threads is not None and device.type == "cuda":
        reasons.append("--threads changes nothing: it is for the cpu backend")
    if config.cpu_features is not None and device.type == "cuda":
        reasons.append("--cpu-features changes nothing: it is for the cpu backend")
    reasons.append(f"step: up to {max_sequences} sequences and {max_rows} rows")

    # What all ranks together have of a page; on a GPU each has its own memory.
    ranks = config.num_shard if device.type == "cpu" else 1
    per_page = page_bytes(model, config.page_size, pages_dtype) * ranks + draft_page_bytes
    longest = min(config.max_total_tokens or model.max_positions, model.max_positions)
    wanted = max_sequences * -(-longest // config.page_size) + 1  # every sequence at its longest: more is of no use
    num_pages, why = _choose_pages(config, per_page, wanted, measured_bytes)
    capacity = (num_pages - 1) * config.page_size
    if capacity < config.page_size:
        short = f"the KV cache has no room for one page of {per_page} bytes: give it more memory"
        if measured_bytes is not None:
            left = f"weights and the largest step leave {measured_bytes / 2**20:.0f} MiB of the GPU"
            short += f" ({left}; --quantize and a smaller --max-batch-size or --max-batch-prefill-tokens leave more)"
        raise ModelError(short)
    max_total_tokens = min(longest, capacity)
    reasons.append(
        f"KV cache: {num_pages * per_page / 2**20:.0f} MiB, {capacity} tokens in {kv_cache_name(pages_dtype)} ({why})"
    )
    by = (
        "the cache" if max_total_tokens < longest else "the model" if longest == model.max_positions else "as asked for"
    )
    reasons.append(f"longest sequence: {max_total_tokens} tokens ({by})")
    return Limits(
        page_size=config.page_size,
        num_pages=num_pages,
        max_sequences=max_sequences,
        max_rows=max_rows,
        max_total_tokens=max_total_tokens,
        max_samples=max_sequences * (1 + max_guesses(config)),
        graph_rows=_graph_rows(max_sequences),
        reasons=tuple(reasons),
    )
