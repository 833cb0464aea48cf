"""Low-rank updates chosen per row, on both backends: their formula in float64, and a row in any company."""

import pytest
import torch

from headwater.kernels import Backend, load_backend
from headwater.kernels.low_rank import LowRank

from .attention_case import assert_close

INNER, WIDTHS = 94, (128, 144, 20)  # the last part is no whole panel
RANKS = (1, 16, 40, 256)  # of slots 1 to 4
BACKENDS = pytest.mark.parametrize("name", ["cpu", "triton"])


def updates(slot: int) -> list[LowRank | None]:
    """Slot 2 leaves a part out."""
    rank = RANKS[slot - 1]
    parts: list[LowRank | None] = [
        LowRank(torch.randn(rank, INNER) / INNER**0.5, torch.randn(width, rank) / rank**0.5, 0.5 * slot)
        for width in WIDTHS
    ]
    return [None if slot == 2 and index == 1 else part for index, part in enumerate(parts)]


def oracle(x: torch.Tensor, slots: torch.Tensor, y: torch.Tensor, adapters: list[list[LowRank | None]]) -> torch.Tensor:
    y = y.double()
    for row, slot in enumerate(slots.tolist()):
        start = 0
        for width, part in zip(WIDTHS, adapters[slot - 1] if slot else [None] * 3, strict=True):
            if part is not None:
                a, b = (matrix.to(x.dtype).double() for matrix in (part.a, part.b))
                y[row, start : start + width] += part.scale * (b @ (a @ x[row].double()))
            start += width
    return y


def mixed_slots(rows: int) -> torch.Tensor:
    return torch.sort(torch.arange(rows, dtype=torch.int32) % 5).values


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_adapter(name: str, dtype: torch.dtype) -> None:
    if name == "triton" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter gets bf16 wrong
    torch.manual_seed(0)
    backend: Backend = load_backend(name)  # type: ignore[arg-type]
    table = backend.new_adapters(INNER, WIDTHS, 4, dtype, torch.device("cpu"))
    adapters = [updates(slot) for slot in (1, 2, 3, 4)]
    for slot, parts in enumerate(adapters, 1):
        table.put(slot, table.pack(parts))
    stream = backend.stream_dtype(dtype)
    tolerance = 1e-6 if stream == torch.float32 else 2e-3
    for rows in (1, 7, 37):
        slots = mixed_slots(rows) if rows > 1 else torch.full((1,), 4, dtype=torch.int32)
        x, base = torch.randn(rows, INNER, dtype=dtype), torch.randn(rows, sum(WIDTHS), dtype=stream)
        y = base.clone()
        table.add(x, slots, y)
        assert_close(y, oracle(x, slots, base, adapters), tolerance)
        assert torch.equal(y[slots == 0], base[slots == 0]), "a row without an adapter was touched"
        for row in range(0, rows, 3 if name == "cpu" else 12):
            alone = base[row : row + 1].clone()
            table.add(x[row : row + 1].clone(), slots[row : row + 1].clone(), alone)
            if name == "cpu":  # the interpreter's products are NumPy's, whose order is its own
                assert torch.equal(alone[0], y[row]), "a row depends on its batch"
            assert_close(alone[0], y[row].double(), tolerance)


@BACKENDS
def test_a_slot_can_be_emptied_and_taken_again(name: str) -> None:
    torch.manual_seed(0)
    backend: Backend = load_backend(name)  # type: ignore[arg-type]
    table = backend.new_adapters(INNER, WIDTHS, 2, torch.float32, torch.device("cpu"))
    x, slots = torch.randn(3, INNER), torch.tensor([0, 1, 2], dtype=torch.int32)
    first, second = updates(3), updates(1)
    for packed, expected in (
        (table.pack(first), [[None] * 3, first]),
        (None, [[None] * 3, [None] * 3]),
        (table.pack(second), [[None] * 3, second]),
    ):
        table.put(2, packed)
        y = torch.zeros(3, sum(WIDTHS))
        table.add(x, slots, y)
        assert_close(y, oracle(x, slots, torch.zeros_like(y), expected), 1e-6)


def test_an_adapter_of_a_bf16_linear_of_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of inputs, not 95"):
        load_backend("cpu").new_adapters(95, [16], 1, torch.bfloat16, torch.device("cpu"))
