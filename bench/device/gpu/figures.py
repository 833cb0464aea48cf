"""Times of the roofs, the row-wise kernels, the linears and the sampler."""

from collections.abc import Callable
from functools import partial

import torch

from ....kernels import StepBatch
from ....kernels.block_weight import BlockWeight
from ....kernels.triton import (
    TritonLinear,
    add_rms_norm,
    gelu_tanh_and_mul,
    pack_linear,
    quantize_linear,
    rms_norm,
    rope_and_write,
    sample,
    silu_and_mul,
)
from ....kernels.triton.block_linear import BlockLinear
from ..blocks import made_up_blocks
from ..shapes import LLAMA_3_VOCAB, LLAMA_8B
from .check_sampling import model_like, plain_batch, to_device
from .setup import Figure, Results, Setup
from .timing import copies_beyond_l2, seconds_per_call

COPY, MATMUL = "copy", "matmul"  # the figures that the others are measured against

HIDDEN, INTERMEDIATE = LLAMA_8B.hidden, LLAMA_8B.intermediate
HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE, VOCAB = LLAMA_8B.q_heads, LLAMA_8B.kv_heads, LLAMA_8B.head_dim, 16, LLAMA_3_VOCAB


def figures_of_roofs(setup: Setup) -> Results:
    """What a large copy and a large matmul reach."""
    yield _copy_figure(setup)
    yield _matmul_figure(setup)


def _copy_figure(setup: Setup) -> Figure:
    source = torch.ones(1 << 29, dtype=torch.bfloat16, device=setup.device)
    target = torch.empty_like(source)
    seconds = seconds_per_call(setup, [lambda: target.copy_(source)])
    return Figure(COPY, seconds, traffic_bytes=2 * source.nbytes)


def _matmul_figure(setup: Setup) -> Figure:
    size = 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=setup.device) for _ in range(2))
    out = torch.empty_like(a)
    seconds = seconds_per_call(setup, [lambda: torch.mm(a, b, out=out)])
    return Figure(MATMUL, seconds, flops=2 * size**3)


def device_randn(setup: Setup, *shape: int) -> torch.Tensor:
    """Random numbers made on the device: what they are does not matter here."""
    return torch.randn(shape, dtype=setup.dtype, device=setup.device)


def in_turn(
    setup: Setup, name: str, traffic_bytes: int, prepare: Callable[[], Callable[[], object]], flops: int = 0
) -> Figure:
    """Time a call on as many sets of inputs as the L2 cache makes necessary."""
    calls = [prepare() for _ in range(copies_beyond_l2(setup, traffic_bytes))]
    return Figure(name, seconds_per_call(setup, calls), traffic_bytes, flops)


def figures_of_rows(setup: Setup) -> Results:
    """Norms, activations, rotation and KV write."""
    for rows in (64, 2048) if setup.quick else (1, 64, 2048, 8192):
        row_bytes = rows * HIDDEN * setup.dtype.itemsize
        weight = device_randn(setup, HIDDEN)

        def norm(rows: int = rows, weight: torch.Tensor = weight) -> Callable[[], object]:
            x = device_randn(setup, rows, HIDDEN)
            return lambda: rms_norm(x, weight, 1e-5)

        def add_norm(rows: int = rows, weight: torch.Tensor = weight) -> Callable[[], object]:
            x, residual = device_randn(setup, rows, HIDDEN), device_randn(setup, rows, HIDDEN)
            return lambda: add_rms_norm(x, residual, weight, 1e-5)

        yield in_turn(setup, f"rms_norm, {rows} rows", 2 * row_bytes, norm)
        yield in_turn(setup, f"add_rms_norm, {rows} rows", 4 * row_bytes, add_norm)
        gate_up_bytes = rows * 2 * INTERMEDIATE * setup.dtype.itemsize
        for act in (silu_and_mul, gelu_tanh_and_mul):

            def gated(rows: int = rows, act: Callable[..., torch.Tensor] = act) -> Callable[[], object]:
                gate_up = device_randn(setup, rows, 2 * INTERMEDIATE)
                return lambda: act(gate_up)

            yield in_turn(setup, f"{act.__name__}, {rows} rows", gate_up_bytes * 3 // 2, gated)
        qkv_bytes = rows * (HEADS + 2 * KV_HEADS) * HEAD_DIM * setup.dtype.itemsize

        def rope(rows: int = rows) -> Callable[[], object]:
            return _rope_call(setup, rows)

        yield in_turn(setup, f"rope_and_write, {rows} rows", 2 * qkv_bytes, rope)


def _rope_call(setup: Setup, rows: int) -> Callable[[], object]:
    pages = -(-rows // PAGE_SIZE) + 1
    k_pages, v_pages = (
        torch.zeros(pages, KV_HEADS, PAGE_SIZE, HEAD_DIM, dtype=setup.dtype, device=setup.device) for _ in range(2)
    )
    qkv = device_randn(setup, rows, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    cos_sin = torch.randn(8192, HEAD_DIM, device=setup.device)
    positions = torch.arange(rows, dtype=torch.int32, device=setup.device)
    slots = torch.arange(rows, device=setup.device) + PAGE_SIZE
    batch = StepBatch(positions, slots, positions, positions, positions[:, None])
    return lambda: rope_and_write(qkv, cos_sin, batch, k_pages, v_pages)


def figures_of_linears(setup: Setup) -> Results:
    """Unquantised, int8 and fp8, at decode-sized batches: bytes are the weight's and the rows'."""
    for inputs, outputs in ((HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN)):
        for rows in (1, 64) if setup.quick else (1, 16, 64, 128):
            for kind in ("bfloat16", "int8", "fp8")[: 2 + setup.converts_fp8]:

                def linear(
                    kind: str = kind, rows: int = rows, inputs: int = inputs, outputs: int = outputs
                ) -> Callable[[], object]:
                    x = device_randn(setup, rows, inputs)
                    made = _linear(setup, kind, inputs, outputs)
                    return lambda: made(x)

                size = setup.dtype.itemsize if kind == "bfloat16" else 1
                traffic = inputs * outputs * size + rows * (inputs + outputs) * setup.dtype.itemsize
                name = f"{kind} linear {inputs} -> {outputs}, {rows} rows"
                yield in_turn(setup, name, traffic, linear, 2 * rows * inputs * outputs)


def _linear(setup: Setup, kind: str, inputs: int, outputs: int) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = device_randn(setup, outputs, inputs)
    if kind == "bfloat16":
        return pack_linear(weight)
    made: TritonLinear = quantize_linear(weight, None, torch.int8 if kind == "int8" else torch.float8_e4m3fn)
    return made


def figures_of_blocks(setup: Setup) -> Results:
    """Block-quantised weights: few rows as a share of the copy's bandwidth, many as one of the matmul's rate."""
    for kind in ("Q4_K", "GPTQ", "Q6_K")[: 2 if setup.quick else 3]:
        for inputs, outputs in ((HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN)):
            weight = made_up_blocks(kind, outputs, inputs, setup.device)
            weight_bytes = BlockLinear([weight], None, setup.device).nbytes
            for rows in (1, 2048) if setup.quick else (1, 8, 16, 64, 2048):

                def linear(rows: int = rows, weight: BlockWeight = weight) -> Callable[[], object]:
                    x = device_randn(setup, rows, weight.shape[1])
                    made = BlockLinear([weight], None, setup.device)
                    return lambda: made(x)

                traffic = weight_bytes + rows * (inputs + outputs) * setup.dtype.itemsize
                name = f"{kind} linear {inputs} -> {outputs}, {rows} rows"
                yield in_turn(setup, name, traffic, linear, 2 * rows * inputs * outputs)


def figures_of_sampling(setup: Setup) -> Results:
    """64 rows of Llama 3's vocabulary, against one read of their logits; temperature 1, so that repeating is idle."""
    rows = 64
    logits = [model_like(rows, VOCAB, seed).to(setup.device) for seed in (1, 2)]
    logits = [logits[i % 2].clone() for i in range(copies_beyond_l2(setup, logits[0].nbytes))]
    greedy, plain, top_k, top_p = (plain_batch(rows, VOCAB) for _ in range(4))
    every, details = (plain_batch(rows, VOCAB, full=True) for _ in range(2))
    greedy["greedy"][:] = 1
    top_k["top_k"][:] = 50
    top_p["top_p"][:] = 0.9
    every["top_k"][:], every["top_p"][:] = 200, 0.9
    every["min_p"][:], every["typical_p"][:] = 0.01, 0.9
    details["top_p"][:], details["top_n"][:] = 0.9, 20
    for name, batch in {
        "greedy": greedy,
        "temperature": plain,
        "top-k 50": top_k,
        "top-p 0.9": top_p,
        "top-k 200, top-p, min-p, typical-p": every,
        "top-p 0.9 and the 20 best": details,
    }.items():
        there = to_device(batch, setup.device)
        seconds = seconds_per_call(setup, [partial(sample, x, there) for x in logits])
        yield Figure(f"sampling {rows} x {VOCAB}, {name}", seconds, traffic_bytes=logits[0].nbytes)
