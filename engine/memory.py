"""How much memory the KV cache may take on a GPU: what is left where the largest step has run, measured.

An engine with a cache of the least size is started, records its graphs, runs the largest step that it allows, and is
thrown away. What it took beside its cache is what the real one will take; nothing of it is computed from shapes.
"""

import gc
from collections.abc import Callable

import torch
from msgspec.structs import replace

from ..kernels import Backend
from .engine import Engine
from .limits import Limits
from .messages import MAX_TOP_N, SamplingParams, Submit

# Left free beside all that was measured: the allocator's blocks lie differently after hours of traffic.
_RESERVE_SHARE = 0.01
_LEAST_RESERVE_BYTES = 256 << 20


def probe_limits(limits: Limits, new_tokens: int) -> Limits:
    """Those of the engine that is measured: all sizes as in ``limits``, but a cache of one largest step."""

    def pages(sequences: int, tokens: int) -> int:
        return sequences * -(-(tokens + new_tokens) // limits.page_size)

    worst = max(
        pages(limits.max_sequences, _rows_each(limits)),  # run_largest_step
        pages(2, limits.max_rows + limits.page_size),  # the warm-up's two prompts, with guesses
    )
    return replace(limits, num_pages=min(1 + worst, limits.num_pages))


def _rows_each(limits: Limits) -> int:
    return max(1, limits.max_rows // limits.max_sequences)


def run_largest_step(engine: Engine, limits: Limits) -> None:
    """As many sequences and rows as a step may have, each with every parameter of the sampler that needs room.

    And the scores of a whole prompt, as many rows at a time as there may be.
    """
    new_tokens = min(2, limits.max_total_tokens - 1)
    rare = SamplingParams(
        new_tokens, greedy=False, top_p=0.9, min_p=0.01, typical_p=0.9, repetition_penalty=1.1, presence_penalty=0.1,
        top_n=MAX_TOP_N,
    )  # fmt: skip
    scored = SamplingParams(new_tokens, greedy=True, prompt_logprobs=True, prompt_top_n=MAX_TOP_N)

    def run(count: int, rows: int, sampling: SamplingParams) -> None:
        prompt = [0] * min(rows, limits.max_total_tokens - new_tokens)
        for request_id in range(count):
            failed = engine.submit(-1, Submit(request_id, prompt, sampling))
            assert failed is None, failed
        while engine.has_work:
            engine.step()

    run(limits.max_sequences, _rows_each(limits), rare)
    run(1, limits.max_rows, scored)


def measure_room(
    limits: Limits,
    page_bytes: int,
    fraction: float,
    start: Callable[[Limits], Engine],
    backend: Backend,
    device: torch.device,
) -> int:
    """Bytes that the cache may take, negative where even the largest step has no room.

    Args:
        limits: with sequences as long as they may ever be; their cache is not made.
        page_bytes: of a page in all layers.
        fraction: of the device's memory, what all of this may take.
        start: makes an engine and warms it up.
        backend: the engine's.
        device: the GPU.
    """
    _give_back()
    before, total = torch.cuda.mem_get_info(device)
    probe = probe_limits(limits, 2)
    engine = start(probe)
    run_largest_step(engine, probe)
    torch.cuda.synchronize()
    # Nothing that torch has freed has gone back to the driver since the graphs were recorded: this is the most.
    taken = before - torch.cuda.mem_get_info(device)[0] - probe.num_pages * page_bytes
    del engine
    backend.release_recordings()
    _give_back()
    reserve = max(int(total * _RESERVE_SHARE), _LEAST_RESERVE_BYTES)
    return int(before - (1 - fraction) * total) - taken - reserve


def _give_back() -> None:
    """What nobody has any more, to the driver; some of it waits for the garbage collector."""
    gc.collect()
    torch.cuda.empty_cache()
