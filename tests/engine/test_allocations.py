"""After warm-up the engine's loop takes no more memory: no tensor is made, and the host's lists stay small."""

import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headwater.engine.engine import Engine

from .test_soak import random_submit
from .tiny import save_tiny_llama, tiny_engine

LIVE = 96
SETTLED = 600  # requests after which every buffer and cache is there
STEPS = 300
VOCAB_SIZE = 20_000


class NewTensors(TorchDispatchMode):
    """Notes every tensor operation whose result has memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() and memory(leaf) not in known:
                self.found[str(func)] = self.found.get(str(func), 0) + 1
        return result


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Traffic:
    """Requests of all kinds that come as others end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._chance = random.Random(0)
        self._submitted = 0
        self._live: set[int] = set()

    def until(self, requests: int) -> None:
        while self._submitted < requests:
            self.fill()
            self.step()

    def fill(self) -> None:
        while len(self._live) < LIVE:
            assert self._engine.submit(0, random_submit(self._chance, self._submitted)) is None
            self._live.add(self._submitted)
            self._submitted += 1

    def step(self) -> None:
        for step in self._engine.step().values():
            self._live -= {new.request_id for new in step.tokens if new.finish_reason is not None}


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    save_tiny_llama(tmp_path, vocab_size=VOCAB_SIZE)
    engine = tiny_engine(tmp_path, max_batch_size=32, max_batch_prefill_tokens=128, kv_cache_bytes=1 << 20)
    traffic = Traffic(engine)
    traffic.until(SETTLED)
    return traffic


def test_no_step_makes_a_tensor(traffic: Traffic) -> None:
    with NewTensors() as new:
        traffic.until(2 * SETTLED)
    assert not new.found
    with NewTensors() as new:
        torch.zeros(3)
    assert list(new.found.values()) == [1]


def test_a_step_makes_no_large_array_on_the_host(traffic: Traffic) -> None:
    """Its lists of tokens and messages are a few KiB. NumPy's arrays are counted, too."""
    most = 0
    tracemalloc.start()
    try:
        for _ in range(STEPS):
            traffic.fill()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            traffic.step()
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert 0 < most < 4 * VOCAB_SIZE
