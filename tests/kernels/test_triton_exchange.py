"""Two processes in the interpreter, connected by Gloo, give the bits of one that takes its sums in the same tree."""

import subprocess
import sys
from pathlib import Path

import torch

from headwater.kernels.exchange import SEGMENTS
from headwater.kernels.triton.exchange import MANY_ROWS, TorchExchange, new_exchange
from headwater.kernels.triton.linear import pack_linear

INPUTS, OUTPUTS, ROWS = 256, 128, (3, MANY_ROWS)
WIDTHS = [
    64,
    64,
]  # outputs of each rank: whole tiles, as the product that stands for tensor cores here has no fixed order


def problem() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator).half()
    return weight, [torch.randn(rows, INPUTS, generator=generator).half() for rows in ROWS]


def compute(exchange: TorchExchange) -> list[torch.Tensor]:
    """Sums of all, what rank 0 has, and outputs that were divided."""
    weight, rows = problem()
    each, own = INPUTS // SEGMENTS, SEGMENTS // exchange.size
    segments = weight.split(each, 1)[exchange.rank * own : (exchange.rank + 1) * own]
    with exchange.packing():
        linear = exchange.summed([pack_linear(part.contiguous()) for part in segments], [each] * own)
    found = [linear(x.split(each * own, 1)[exchange.rank].contiguous()) for x in rows]
    told = torch.full((4,), exchange.rank + 7)
    exchange.broadcast([told])
    widths = WIDTHS if exchange.size == 2 else [OUTPUTS]
    part = weight.split(widths)[exchange.rank].contiguous()
    with exchange.packing():
        product = pack_linear(part)(rows[0], torch.float32)
    return [*found, told, exchange.gather(product, widths)]


def run(rank: int, memory_file: str, result: str) -> None:
    memory = torch.from_file(memory_file, shared=True, size=64, dtype=torch.uint8)
    torch.save(compute(new_exchange(rank, 2, memory)), result)


def test_two_ranks_give_the_bits_of_one(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(64))
    results = [tmp_path / str(rank) for rank in (0, 1)]
    ranks = [
        subprocess.Popen([sys.executable, "-P", __file__, str(rank), str(memory), str(result)])
        for rank, result in enumerate(results)
    ]
    one = compute(new_exchange(0, 1, None))
    for process in ranks:
        assert process.wait(240) == 0
    for result in results:
        for found, wanted in zip(torch.load(result), one, strict=True):
            assert torch.equal(found, wanted)
    weight, rows = problem()
    for x, found in zip(rows, one, strict=False):
        torch.testing.assert_close(found.float(), x.float() @ weight.float().t(), rtol=2e-3, atol=2e-2)


if __name__ == "__main__":
    run(int(sys.argv[1]), *sys.argv[2:])
