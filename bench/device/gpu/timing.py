"""How long a kernel takes: device events around a CUDA graph of many calls, over inputs that the L2 cache cannot hold.

A graph, because a launch from Python takes longer than a small kernel runs; events around single launches would time
the host.
"""

import statistics
from collections.abc import Callable, Sequence

import torch

from .setup import Setup

_SAMPLES = 30  # timed replays; the median of them counts
_QUICK_SAMPLES = 10
_SAMPLE_S = 1e-3  # a replay is at least this long, so that the events' own time (a few us) does not show
_MOST_S = 0.3  # of all replays together


def events_s(run: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of ``count`` runs, by device events."""
    begin, end = ([torch.cuda.Event(enable_timing=True) for _ in range(count)] for _ in range(2))
    for first, last in zip(begin, end, strict=True):
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) * 1e-3 for first, last in zip(begin, end, strict=True)]


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of ``run``, which was run before on a stream of its own, so that nothing is compiled in the capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def seconds_per_call(setup: Setup, calls: Sequence[Callable[[], object]]) -> float:
    """Median over many replays. The calls take turns: between them they should touch more than the L2 cache."""
    for call in calls:
        call()  # compiles, fills caches of shapes
    torch.cuda.synchronize()
    once_s = max(min(events_s(lambda: [call() for call in calls], 3)), 1e-6)
    turns = max(1, int(_SAMPLE_S / once_s))

    def all_turns() -> None:
        for _ in range(turns):
            for call in calls:
                call()

    graph = capture(all_turns)
    graph.replay()
    replay_s = min(events_s(graph.replay, 2))
    samples = _QUICK_SAMPLES if setup.quick else _SAMPLES
    samples = max(5, min(samples, int(_MOST_S / replay_s)))
    return statistics.median(events_s(graph.replay, samples)) / (turns * len(calls))


def copies_beyond_l2(setup: Setup, call_bytes: int) -> int:
    """How many sets of inputs of that size leave nothing of the first in the L2 cache when its turn comes again."""
    l2_bytes = torch.cuda.get_device_properties(setup.device).L2_cache_size
    return max(1, min(64, -(-4 * l2_bytes // max(call_bytes, 1))))
