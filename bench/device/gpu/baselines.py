"""Times of what others have for the same work, by the same clock: torch's attention, and its products in 8 bits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .figures import HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, device_randn, in_turn
from .setup import Figure, Results, Setup
from .timing import seconds_per_call

CHUNKS = (2048, 16384)  # rows of a prompt


def figures_of_baselines(setup: Setup) -> Results:
    """SDPA for a whole prompt, linears of the vendor's library in 16 and 8 bits for many rows."""
    for rows in CHUNKS[:1] if setup.quick else CHUNKS:
        q = device_randn(setup, 1, HEADS, rows, HEAD_DIM)
        k, v = (device_randn(setup, 1, HEADS, rows, HEAD_DIM) for _ in range(2))  # heads repeated: all its kernels can

        def attend(q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        flops = 2 * rows * rows * HEADS * HEAD_DIM
        yield Figure(f"SDPA, {rows} rows, causal", seconds_per_call(setup, [attend]), flops=flops)
    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    for inputs, outputs in ((HIDDEN, qkv), (HIDDEN, HIDDEN), (HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN)):
        for rows in (64, 2048):
            for kind in ("bfloat16", "fp8 by fp8")[: 1 + setup.converts_fp8]:

                def prepare(
                    kind: str = kind, rows: int = rows, inputs: int = inputs, outputs: int = outputs
                ) -> Callable[[], object]:
                    x, weight = device_randn(setup, rows, inputs), device_randn(setup, outputs, inputs)
                    return _scaled(x, weight) if kind == "fp8 by fp8" else lambda: F.linear(x, weight)

                size = 2 if kind == "bfloat16" else 1
                traffic = inputs * outputs * size + rows * (inputs * size + outputs * 2)
                name = f"library, {kind} {inputs} -> {outputs}, {rows} rows"
                yield in_turn(setup, name, traffic, prepare, 2 * rows * inputs * outputs)


def _scaled(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """Both in e4m3, a scale for each row and for each output."""
    rows, outputs = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    row_scale = torch.ones(len(x), 1, device=x.device)
    output_scale = torch.ones(1, len(weight), device=x.device)
    return lambda: torch._scaled_mm(
        rows, outputs.t(), scale_a=row_scale, scale_b=output_scale, out_dtype=torch.bfloat16
    )
