"""Several GPUs on paper: ``python -m headwater.bench.device.shards``.

A step of N H100s with NVLink, each with its part of Llama 3.1 8B or 70B in bf16: bytes that a rank receives in a layer,
the least time by data sheets, and what is to be expected. Nothing here was measured; what is assumed stands below.
Exchanges are those of kernels/triton/exchange.py: of few rows all partial sums, in fp32; of many, each rank adds up
some of the rows for all.
"""

from typing import NamedTuple

from ...kernels.exchange import SEGMENTS
from ...kernels.triton.exchange import MANY_ROWS
from .audit.gpus import AUDITED_GPUS

NVLINK_GB_S = 450.0  # of an H100 SXM, in one direction
NVLINK_SHARE = 0.75  # what NCCL gets of it in large messages
COLLECTIVE_US = 10.0  # of a small message in a graph, any number of ranks in one box
LAUNCHES_A_LAYER = 9  # of one device; of several, see extra_launches
LAUNCH_US = 2.0
MEMORY_SHARE, MATH_SHARE = 0.85, 0.62  # as in estimate.py
MEMORY_BYTES = 80e9


class Shape(NamedTuple):
    """Of a model."""

    name: str
    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Values."""
        attention = (2 * self.q_heads + 2 * self.kv_heads) * self.head_dim * self.hidden
        return attention + 3 * self.intermediate * self.hidden

    @property
    def kv_bytes(self) -> int:
        """Of a token, in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


MODELS = (
    Shape("Llama 3.1 8B", 32, 4096, 32, 8, 128, 14336, 128256),
    Shape("Llama 3.1 70B", 80, 8192, 64, 8, 128, 28672, 128256),
)
STEPS = (("decode 1 x 1024", 1, 1024), ("decode 64 x 1024", 64, 64 * 1024), ("prompt of 2048", 2048, 2048))


def extra_launches(ranks: int) -> int:
    """Of a layer's two sums: its rows cut for each segment of a rank, a product for each, the two parts of the tree."""
    if ranks == 1:
        return 0
    segments = SEGMENTS // ranks
    return 2 * (1 if segments == 1 else 2 * segments + 1)


class OnPaper(NamedTuple):
    """A step of one rank."""

    received_bytes: int  # in a layer
    least_ms: float
    expected_ms: float


def on_paper(model: Shape, ranks: int, rows: int, tokens: int) -> OnPaper:
    """``rows`` of a step, which read the keys and values of ``tokens``."""
    card = AUDITED_GPUS[90]
    values, others = rows * model.hidden, ranks - 1
    many = rows >= MANY_ROWS
    received = 2 * (6 * values * others // ranks if many else 4 * values * others)
    head = model.vocab * model.hidden
    samples = rows if rows < 2048 else 1
    weights = (model.layers * model.layer_weights + head) / ranks
    memory_us = (2 * weights + tokens * model.kv_bytes / ranks) / card.memory_gb_s * 1e-3
    flops = 2 * (rows * model.layers * model.layer_weights + samples * head) / ranks
    math_us = flops / card.dense_tflops * 1e-6
    wire_us = model.layers * received / NVLINK_GB_S * 1e-3
    collectives = model.layers * 2 * (2 if many else 1) * (ranks > 1)
    launches = model.layers * (LAUNCHES_A_LAYER + extra_launches(ranks)) * LAUNCH_US
    expected = max(memory_us / MEMORY_SHARE, math_us / MATH_SHARE) + launches
    expected += wire_us / NVLINK_SHARE + collectives * COLLECTIVE_US
    return OnPaper(received, (max(memory_us, math_us) + wire_us) / 1e3, expected / 1e3)


def table() -> list[str]:
    """Markdown."""
    lines = ["| model | step | GPUs | received a layer, KB | least, ms | expected, ms | tokens/s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model in MODELS:
        for name, rows, tokens in STEPS:
            for ranks in (1, 2, 4, 8):
                if 2 * model.layers * model.layer_weights / ranks > MEMORY_BYTES:
                    continue
                found = on_paper(model, ranks, rows, tokens)
                speed = rows / found.expected_ms * 1e3
                numbers = f"{found.received_bytes / 1e3:.0f} | {found.least_ms:.2f} | {found.expected_ms:.2f}"
                lines.append(f"| {model.name} | {name} | {ranks} | {numbers} | {speed:.0f} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
