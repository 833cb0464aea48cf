"""The model of a step on many threads counts the work items that the kernels have."""

import pytest
import torch

from headwater.bench.device.many_threads import claims_of, cost, phases_of
from headwater.bench.device.shapes import LLAMA_8B, MODELS
from headwater.kernels import load_backend
from headwater.kernels.cpu.thread_pool import FIXED, PER_ROWS, TIMES

cpu = load_backend("cpu")


@pytest.mark.parametrize(("out", "rows"), [(100, 1), (960, 64), (576, 65)])
def test_a_linear_has_as_many_items_as_its_phase(out: int, rows: int) -> None:
    linear, x = cpu.pack_linear(torch.zeros(out, 32)), torch.zeros(128, 32)
    program = cpu.capture(lambda most: linear(x[:most]), [128])
    (phase,) = program._phases
    assert phase[TIMES] * (phase[FIXED] + -(-rows // phase[PER_ROWS])) == claims_of(out, rows)


def test_threads_beyond_the_work_items_only_wait() -> None:
    phases = phases_of(next(model for model in MODELS if model.name == "smollm2-135m"), 1, 512)
    costs = [cost(phases, threads) for threads in (1, 8, 64)]
    assert costs[0].idle == pytest.approx(0)
    assert costs[2].idle + costs[2].claims > costs[2].work  # the small model's step ends up waiting
    assert costs[2].total > costs[1].total * 0.5
    large = phases_of(LLAMA_8B, 1, 512)
    assert cost(large, 64).work > 5 * (cost(large, 64).idle + cost(large, 64).claims)
