"""Sizes of the engine, chosen from the hardware where the user says nothing, each with its reason."""

import os

import torch
from msgspec import Struct

from .checkpoint.errors import ModelError
from .config import EngineConfig
from .models.config import ModelConfig
from .models.dtypes import kv_cache_name
from .models.kv_cache import page_bytes

# A step of this many rows is what a decoding neighbour waits for when a prompt comes in: about 0.25 s per 256 rows of a
# 135 M model on two cores. On a GPU 2048 rows already fill the tensor cores.
DEFAULT_ROWS = {"cpu": 256, "cuda": 2048}
DEFAULT_SEQUENCES = {"cpu": 64, "cuda": 256}
CACHE_SHARE = {"cpu": 0.25, "cuda": 0.9}  # of the memory that is free once the weights are loaded


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


def free_memory_bytes(device: torch.device) -> int:
    """Memory that the cache could take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _graph_rows(max_sequences: int) -> tuple[int, ...]:
    """1, 2, 4, 8, and from there on so that a step computes at most 8 rows for nothing."""
    return (*(size for size in (1, 2, 4) if size < max_sequences), *range(8, max_sequences, 8), max_sequences)


def choose_limits(
    config: EngineConfig, model: ModelConfig, pages_dtype: torch.dtype, device: torch.device, draft_page_bytes: int = 0
) -> Limits:
    """Fill in what the user left open. Raises ModelError if the model can't be served within the limits.

    ``draft_page_bytes``: what a page takes in the cache of the draft model, which has as many.
    """
    reasons = []
    max_sequences = config.max_batch_size or DEFAULT_SEQUENCES[device.type]
    max_rows = max(config.max_batch_prefill_tokens or DEFAULT_ROWS[device.type], max_sequences)
    if config.threads is not None and device.type == "cuda":
        reasons.append("--threads changes nothing: it is for the cpu backend")
    reasons.append(f"step: up to {max_sequences} sequences and {max_rows} rows")

    per_page = page_bytes(model, config.page_size, pages_dtype) + draft_page_bytes
    longest = min(config.max_total_tokens or model.max_positions, model.max_positions)
    wanted = max_sequences * -(-longest // config.page_size) + 1  # every sequence at its longest: more is of no use
    if config.num_pages is not None:
        num_pages = config.num_pages
        why = "as the engine before this one"
    elif config.kv_cache_bytes is not None:
        num_pages = config.kv_cache_bytes // per_page
        why = "as asked for"
    else:
        share = CACHE_SHARE[device.type]
        num_pages = min(wanted, int(free_memory_bytes(device) * share) // per_page)
        why = "every sequence at its longest" if num_pages == wanted else f"{share:.0%} of the free memory"
    capacity = (num_pages - 1) * config.page_size
    if capacity < config.page_size:
        raise ModelError(f"the KV cache has no room for one page of {per_page} bytes: give it more memory")
    max_total_tokens = min(longest, capacity)
    reasons.append(
        f"KV cache: {num_pages * per_page / 2**20:.0f} MiB, {capacity} tokens in {kv_cache_name(pages_dtype)} ({why})"
    )
    reasons.append(
        f"longest sequence: {max_total_tokens} tokens ("
        + (
            "the cache"
            if max_total_tokens < longest
            else "the model"
            if longest == model.max_positions
            else "as asked for"
        )
        + ")"
    )
    return Limits(
        page_size=config.page_size,
        num_pages=num_pages,
        max_sequences=max_sequences,
        max_rows=max_rows,
        max_total_tokens=max_total_tokens,
        max_samples=max_sequences * (1 + config.speculate),
        graph_rows=_graph_rows(max_sequences),
        reasons=tuple(reasons),
    )
