"""The launches of real models, recorded without a GPU.

The launchers run on CPU tensors that nothing reads; Triton's own binder turns their arguments into a signature with
the attributes (alignment, divisibility) of a real launch, and a hook takes it before anything is compiled.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from ....kernels import StepBatch
from ....kernels.sampling_batch import SamplingBatch
from ....kernels.triton import (
    activation,
    adapters,
    attention,
    attention_plan,
    block_linear,
    linear,
    logprobs,
    norm,
    rope,
)
from ....kernels.triton import rows as small_ops
from ....kernels.triton.block_tiles import SINGLE_SEGMENT_OUTPUTS
from ....kernels.triton.layer_norm import add_layer_norm, layer_norm
from ....kernels.triton.sample import sample
from ....kernels.triton.tiles import Gpu
from ..blocks import made_up_blocks
from ..shapes import LLAMA_3_VOCAB, Model
from .gpus import AUDITED_GPUS

_OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


class Launch(NamedTuple):
    """One specialisation of a kernel, as ``ASTSource`` and ``triton.compile`` take it, and the work of a launch."""

    name: str
    kernel: triton.JITFunction
    signature: dict[str, str]
    constexprs: dict[Any, object]
    attrs: dict[Any, list[list[object]]]
    options: dict[str, object]
    traffic_bytes: int = 0  # read and written by a launch, each once
    flops: int = 0
    min_blocks: int = 1  # of one multiprocessor, that its grid counts on


# The steps whose bytes and FLOPs are counted.
DECODE_ROWS, DECODE_TOKENS = 64, 4096  # sequences of one row each, tokens in each
PREFILL_ROWS = 2048  # of one sequence, its first
_PAGE_SIZE = 16
_POSITIONS = 8192
AUDITED_BLOCKS = ("Q4_K", "GPTQ")
LINEAR_NAMES = {torch.bfloat16: "bf16", torch.int8: "int8", torch.float8_e4m3fn: "fp8"}
LINEAR_DTYPES = tuple(LINEAR_NAMES)
FP8_FROM = 89  # the first architecture whose conversions Triton compiles


class _NoDevice:
    """Stands in for the CUDA driver while launches are recorded."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_device(self) -> int:
        return self._arch  # launch caches are kept apart by it

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)


@contextmanager
def recording(arch: int) -> Iterator[list[Launch]]:
    """Collect the launches made inside instead of running them. Triton cannot launch in this process from then on."""
    launches: list[Launch] = []

    def take(*, fn: Any, compile: dict[str, Any], **_: object) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        attrs = compile["configs"][0]
        options = {name: options[name] for name in _OPTIONS}
        kernel = fn.jit_function
        launches.append(Launch(kernel.__name__, kernel, compile["signature"], compile["constants"], attrs, options))
        return True  # do not compile, do not launch

    triton.runtime.driver.set_active(_NoDevice(arch))
    knobs.runtime.jit_cache_hook = take
    try:
        yield launches
    finally:
        knobs.runtime.jit_cache_hook = None


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def attention_launches(model: Model, arch: int) -> list[Launch]:
    """Few rows at the decode step, many rows and the plan at the prefill step, merge at the decode step."""
    gpu = AUDITED_GPUS[arch]
    rows, tokens, kv_heads, dim = DECODE_ROWS, DECODE_TOKENS, model.kv_heads, model.head_dim
    k_pages, v_pages = (_empty(16, kv_heads, _PAGE_SIZE, dim, dtype=_cache_dtype(model)) for _ in range(2))
    int32 = torch.int32
    batch = StepBatch(
        _empty(rows, dtype=int32),
        _empty(rows, dtype=torch.int64),
        _empty(rows + 1, dtype=int32),
        _empty(rows, dtype=int32),
        _empty(rows, tokens // _PAGE_SIZE, dtype=int32),
    )
    q = _empty(PREFILL_ROWS, model.q_heads, dim)  # so many that both roles are launched
    plan = attention_plan.new_plan(
        rows, rows, tokens, model.q_heads, kv_heads, dim, _PAGE_SIZE, q.device, model.window,
        Gpu(arch, gpu.multiprocessors),
    )  # fmt: skip
    with recording(arch) as launches:
        attention_plan.fill_plan(plan, batch)
        sinks = _empty(model.q_heads, dtype=torch.float32) if model.sinks else None
        attention.paged_attention(q, k_pages, v_pages, batch, plan, dim**-0.5, model.softcap, sinks=sinks)
    planned, few, many, merge = launches

    seen = min(tokens, model.window or tokens)
    kv_bytes = 2 * kv_heads * dim * k_pages.element_size()  # of one position
    partial_bytes = rows * (tokens // 256) * model.q_heads * (dim + 2) * 4
    prefill_q_bytes = 2 * PREFILL_ROWS * model.q_heads * dim * 2
    prefill_pairs = PREFILL_ROWS * (PREFILL_ROWS + 1) // 2
    return [
        planned._replace(name="plan"),
        few._replace(
            name="attention few rows",
            traffic_bytes=rows * (seen * kv_bytes + model.q_heads * dim * 2) + partial_bytes,
            flops=4 * rows * seen * model.q_heads * dim,
            min_blocks=plan.few_rows.blocks,
        ),
        many._replace(
            name="attention many rows",
            traffic_bytes=PREFILL_ROWS * kv_bytes + prefill_q_bytes,
            flops=4 * prefill_pairs * model.q_heads * dim,
            min_blocks=plan.many_rows.blocks,
        ),
        merge._replace(name="attention merge", traffic_bytes=partial_bytes + rows * model.q_heads * dim * 2),
    ]


def row_launches(model: Model, arch: int) -> list[Launch]:
    """The kernels that work row by row, at the decode step."""
    rows, heads = DECODE_ROWS, model.q_heads + 2 * model.kv_heads
    x, weight = _empty(rows, model.hidden), _empty(model.hidden)
    gate_up = _empty(rows, 2 * model.intermediate)
    qkv = _empty(rows, heads * model.head_dim)
    page_shape = (16, model.kv_heads, _PAGE_SIZE, model.head_dim)
    k_pages, v_pages = (_empty(*page_shape, dtype=_cache_dtype(model)) for _ in range(2))
    cos_sin = _empty(_POSITIONS, model.head_dim, dtype=torch.float32)
    positions, slots = _empty(rows, dtype=torch.int32), _empty(rows, dtype=torch.int64)
    batch = StepBatch(positions, slots, positions, positions, positions[:, None])
    head_weight = _empty(model.head_dim)
    qk_norm = rope.QkNorm(head_weight, head_weight, 1e-6) if model.qk_norm else None
    q_weight, k_weight = (_empty(heads * model.head_dim) for heads in (model.q_heads, model.kv_heads))
    all_heads_norm = rope.QkNorm(q_weight, k_weight, 1e-6, whole=True)
    token_ids = _empty(rows, dtype=torch.int64)
    logits = _empty(rows, LLAMA_3_VOCAB, dtype=torch.float32)
    with recording(arch) as launches:
        norm.rms_norm(x, weight, 1e-6)
        norm.add_rms_norm(x, x, weight, 1e-6)
        rope.rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, qk_norm)
        layer_norm(x, weight, None, 1e-5)
        add_layer_norm(x, x, weight, weight, 1e-5)
        rope.norm_width(qkv, all_heads_norm)
        activation.act(gate_up, "gelu")
        activation.act(gate_up, "gelu_tanh")
        activation.xielu(gate_up, 0.7, 1.2, 0.5, -1e-6)
        activation.silu_and_mul(gate_up)
        activation.gelu_tanh_and_mul(gate_up)
        activation.clamped_silu_and_mul(gate_up, 1.702, 7.0)
        logprobs.token_logprobs(logits, token_ids)
        small_ops.soft_cap(logits, 30.0)
        small_ops.take_tokens(token_ids, token_ids, token_ids)
        small_ops.count_tokens(_empty(rows, LLAMA_3_VOCAB, dtype=torch.int32), positions, token_ids)
    traffic = (
        ("rms_norm", 2 * x.nbytes),
        ("add_rms_norm", 4 * x.nbytes),
        ("rope_and_write", 2 * qkv.nbytes),
        ("layer_norm", 2 * x.nbytes),
        ("add_layer_norm", 4 * x.nbytes),
        ("norm of all heads", 2 * qkv.nbytes),
        ("gelu", 2 * gate_up.nbytes),
        ("gelu_tanh", 2 * gate_up.nbytes),
        ("xielu", 2 * gate_up.nbytes),
        ("silu_and_mul", gate_up.nbytes * 3 // 2),
        ("gelu_tanh_and_mul", gate_up.nbytes * 3 // 2),
        ("clamped_silu_and_mul", gate_up.nbytes * 3 // 2),
        ("token_logprobs", logits.nbytes),
        ("soft_cap", 2 * logits.nbytes),
        ("take_tokens", 3 * token_ids.nbytes),
        ("count_tokens", token_ids.nbytes + positions.nbytes),
    )
    return [
        launch._replace(name=name, traffic_bytes=traffic_bytes)
        for launch, (name, traffic_bytes) in zip(launches, traffic, strict=True)
    ]


def linear_launches(model: Model, arch: int) -> list[Launch]:
    """The linear layers with weights in 16 and 8 bits, in each of their tiles: down, whose sums have segments, and gate
    and up together, with their activation and without."""
    found = []
    gpu = Gpu(arch, AUDITED_GPUS[arch].multiprocessors)
    hidden, width = model.hidden, model.intermediate
    for dtype in LINEAR_DTYPES if arch >= FP8_FROM else LINEAR_DTYPES[:2]:
        name = LINEAR_NAMES[dtype]
        shapes = (("linear", hidden, width), ("wide linear", 2 * width, hidden), ("gated linear", 2 * width, hidden))
        for what, outputs, inputs in shapes:
            weight = _empty(outputs, inputs, dtype=dtype)
            scale = _empty(outputs, dtype=torch.float32) if dtype.itemsize == 1 else None
            made = linear.TritonLinear(weight, scale, None, gpu)
            written = outputs // 2 if what == "gated linear" else outputs
            for count in (16, 32, DECODE_ROWS, 2 * DECODE_ROWS, 512, PREFILL_ROWS):
                x = _empty(count, inputs)
                with recording(arch) as launches:
                    made.gated(x, "silu") if what == "gated linear" else made(x)
                found.append(
                    launches[-1]._replace(
                        name=f"{name} {what}, {count} rows",
                        traffic_bytes=weight.nbytes + 2 * count * (written + inputs),
                        flops=2 * count * weight.numel(),
                    )
                )
    return found


def qkv_launches(model: Model, arch: int) -> list[Launch]:
    """The linear of Q, K and V that rotates them and writes them to the pages, in each of its tiles."""
    found = []
    heads, dim = model.q_heads + 2 * model.kv_heads, model.head_dim
    gpu, cache_dtype = Gpu(arch, AUDITED_GPUS[arch].multiprocessors), _cache_dtype(model)
    weight = _empty(heads * dim, model.hidden)
    made = linear.TritonLinear(weight, None, None, gpu)
    pages = _empty(16, model.kv_heads, _PAGE_SIZE, dim, dtype=cache_dtype)
    for count in (16, 32, DECODE_ROWS, 2 * DECODE_ROWS, 512, PREFILL_ROWS):
        positions, slots = _empty(count, dtype=torch.int32), _empty(count, dtype=torch.int64)
        batch = StepBatch(positions, slots, positions, positions, positions[:, None])
        with recording(arch) as launches:
            made.rotated(
                _empty(count, model.hidden), _empty(_POSITIONS, dim, dtype=torch.float32), batch, pages, pages.clone()
            )
        traffic_bytes = weight.nbytes + 2 * count * (model.hidden + heads * dim)
        found.append(
            launches[-1]._replace(
                name=f"bf16 qkv linear, {count} rows", traffic_bytes=traffic_bytes, flops=2 * count * weight.numel()
            )
        )
    return found


def block_launches(model: Model, arch: int) -> list[Launch]:
    """The linear layers with block-quantised weights, in each of their tiles; and the embedding."""
    found = []
    cpu, gpu = torch.device("cpu"), Gpu(arch, AUDITED_GPUS[arch].multiprocessors)
    for kind in AUDITED_BLOCKS:
        # Down, whose inputs have segments; and as many outputs as need none, with fewer inputs than gate and up have.
        shapes = (("", model.hidden, model.intermediate), ("wide ", SINGLE_SEGMENT_OUTPUTS, 1024))
        for what, outputs, inputs in shapes:
            blocks = block_linear.BlockLinear([made_up_blocks(kind, outputs, inputs, cpu)], None, cpu, gpu)
            for count in (8, 16, 32, DECODE_ROWS, PREFILL_ROWS):
                with recording(arch) as launches:
                    blocks(_empty(count, inputs))
                found.append(
                    launches[-1]._replace(
                        name=f"{kind} {what}linear, {count} rows",
                        traffic_bytes=blocks.nbytes + 2 * count * (outputs + inputs),
                        flops=2 * count * outputs * inputs,
                    )
                )
                found += [
                    launch._replace(name=f"{kind} {what}sums, {count} rows", flops=2 * count * inputs)
                    for launch in launches[:-1]
                ]
            if not what:
                with recording(arch) as launches:
                    blocks.embed(_empty(DECODE_ROWS, dtype=torch.int64), 1.0, torch.bfloat16)
                found.append(launches[0]._replace(name=f"{kind} embedding"))
    return found


ADAPTER_RANK = 16


def adapter_launches(model: Model, arch: int) -> list[Launch]:
    """Low-rank updates of Q, K and V, all rows of one adapter: the decode step, and the prefill step."""
    widths = [heads * model.head_dim for heads in (model.q_heads, model.kv_heads, model.kv_heads)]
    table = adapters.new_adapters(model.hidden, widths, 8, torch.bfloat16, torch.device("cpu"))
    found = []
    for rows in (DECODE_ROWS, PREFILL_ROWS):
        x, y = _empty(rows, model.hidden), _empty(rows, sum(widths))
        with recording(arch) as launches:
            table.add(x, _empty(rows, dtype=torch.int32), y)
        shares = ((len(widths) * model.hidden, x.nbytes), (sum(widths), 2 * y.nbytes))
        for launch, name, (width, row_bytes) in zip(launches, ("down", "up"), shares, strict=True):
            found.append(
                launch._replace(
                    name=f"adapters {name}, {rows} rows",
                    traffic_bytes=2 * ADAPTER_RANK * width + row_bytes,
                    flops=2 * rows * ADAPTER_RANK * width,
                )
            )
    return found


def sampler_launches(arch: int) -> list[Launch]:
    """The sampler's, which are the same for every model: without optional fields, and with all of them."""
    found = []
    for name, full in (("plain", False), ("full", True)):
        batch = SamplingBatch.neutral(DECODE_ROWS, LLAMA_3_VOCAB, full=full)
        with recording(arch) as launches:
            sample(_empty(DECODE_ROWS, LLAMA_3_VOCAB, dtype=torch.float32), batch)
        found += [
            launch._replace(name=f"sample {kernel}, {name}")
            for launch, kernel in zip(launches, ("tiles", "masses", "rows"), strict=True)
        ]
    return found


def _cache_dtype(model: Model) -> torch.dtype:
    return torch.float8_e4m3fn if model.fp8_cache else torch.bfloat16
