"""Tensors of a GGUF -> model.safetensors in bf16, under Hugging Face's names.

Needs no torch: safetensors is a JSON header with offsets, then the raw bytes. Rows are dequantised in blocks, so that
memory stays small whatever the size of the model.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from msgspec import Struct

from ..log import Progress
from .errors import ModelError
from .gguf_file import GgufFile

INDEX_FILE = "gguf_tensors.json"
# Elements dequantised at a time: 32 MiB as fp32, small beside any model and large beside a call's cost.
BLOCK_ELEMENTS = 8 << 20

# Norms of a layer: name there, name here.
LLAMA_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA2_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OLMO2_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    **QK_NORMS,
}
GPT_OSS_NORMS = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}
GLM4_NORMS = {**LLAMA_NORMS, "post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm"}
# They describe the rotary embedding: gguf_config.py reads them.
ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}

INTEGER_TYPES = {
    GGMLQuantizationType.I8,
    GGMLQuantizationType.I16,
    GGMLQuantizationType.I32,
    GGMLQuantizationType.I64,
}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write."""

    source: str  # its name in the GGUF
    name: str  # its name in the safetensors file
    shape: tuple[int, ...]
    rotary_heads: int = 0  # > 0: rows of this many heads are stored in llama.cpp's order of rotary pairs
    offset: float = 0.0  # added by llama.cpp
    expert: int = 0  # which of those that the source has, one after the other
    experts: int = 0  # 0: it is no stack of experts

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the source; llama.cpp leaves out the one output of a gate."""
        if self.experts:
            return ((self.experts, *self.shape),)
        return (self.shape, self.shape[1:]) if self.shape[0] == 1 else (self.shape,)


@dataclass(frozen=True)
class Layout:
    """How llama.cpp stores the layers of an architecture."""

    norms: dict[str, str] = field(default_factory=lambda: LLAMA_NORMS)  # name there, name here
    norm_offset: float = 0.0  # added by llama.cpp
    rotary_pairs: bool = False  # rows of Q and K are in llama.cpp's own order
    qkv_bias: bool = False  # on Q, K and V whatever config.json says
    output_bias: bool = True  # attention_bias is of the output projection, too
    fused_qkv: bool = False  # Q, K and V are one matrix
    fused_up: bool = False  # gate and up are one matrix
    wide_qk_norm: bool = False  # over all heads
    sinks: bool = False  # of attention
    expert_bias: bool = False  # of router and experts
    router: str = "gate"  # Hugging Face's name
    can_convert: bool = True  # to a directory that others read


LAYOUTS = {
    "llama": Layout(rotary_pairs=True),
    "qwen2": Layout(qkv_bias=True),
    "qwen3": Layout(LLAMA_NORMS | QK_NORMS),
    "qwen2moe": Layout(qkv_bias=True),
    "qwen3moe": Layout(LLAMA_NORMS | QK_NORMS),
    "olmoe": Layout(LLAMA_NORMS | QK_NORMS, wide_qk_norm=True),
    "gpt-oss": Layout(GPT_OSS_NORMS, sinks=True, expert_bias=True, router="router", can_convert=False),
    "phi3": Layout(fused_qkv=True, fused_up=True),
    "gemma": Layout(norm_offset=1.0),  # Gemma multiplies by 1 + weight
    "gemma2": Layout(GEMMA2_NORMS, norm_offset=1.0),
    "gemma3": Layout(GEMMA2_NORMS | QK_NORMS, norm_offset=1.0),
    "granite": Layout(rotary_pairs=True),
    "smollm3": Layout(rotary_pairs=True),
    "olmo2": Layout(OLMO2_NORMS, wide_qk_norm=True),
    "glm4": Layout(GLM4_NORMS, output_bias=False, fused_up=True),
    "command-r": Layout({"attn_norm": "input_layernorm"}),
    "cohere2": Layout({"attn_norm": "input_layernorm"}),
}


class _Linear(NamedTuple):
    there: str
    here: str
    outputs: int
    inputs: int
    has_bias: bool
    rotary_heads: int = 0


def plan_tensors(architecture: str, config: dict) -> list[TensorPlan]:
    """What a model of this config.json consists of; ``architecture`` is llama.cpp's."""
    layout = LAYOUTS[architecture]
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    linears = _linears(layout, config)
    plan = [TensorPlan("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden))]
    for i in range(config["num_hidden_layers"]):
        source, name = f"blk.{i}", f"model.layers.{i}"
        for there, here in layout.norms.items():
            size = _norm_size(here, layout, config)
            weights = f"{source}.{there}.weight", f"{name}.{here}.weight"
            plan.append(TensorPlan(*weights, (size,), offset=layout.norm_offset))
        for linear in linears:
            there, here = f"{source}.{linear.there}", f"{name}.{linear.here}"
            shape = (linear.outputs, linear.inputs)
            plan.append(TensorPlan(f"{there}.weight", f"{here}.weight", shape, linear.rotary_heads))
            if linear.has_bias:
                plan.append(TensorPlan(f"{there}.bias", f"{here}.bias", shape[:1], linear.rotary_heads))
        if layout.sinks:
            heads = config["num_attention_heads"]
            plan.append(TensorPlan(f"{source}.attn_sinks.weight", f"{name}.self_attn.sinks", (heads,)))
        plan += plan_experts(layout, config, source, name)
    plan.append(TensorPlan("output_norm.weight", "model.norm.weight", (hidden,), offset=layout.norm_offset))
    if not config["tie_word_embeddings"]:
        plan.append(TensorPlan("output.weight", "lm_head.weight", (vocab, hidden)))
    return plan


def _norm_size(name: str, layout: Layout, config: dict) -> int:
    if not name.startswith("self_attn"):
        return config["hidden_size"]
    heads = config["num_attention_heads" if name.endswith("q_norm") else "num_key_value_heads"]
    return config["head_dim"] * (heads if layout.wide_qk_norm else 1)


def _linears(layout: Layout, config: dict) -> list[_Linear]:
    """Of one layer, without experts."""
    hidden, width = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    q, kv = heads * config["head_dim"], kv_heads * config["head_dim"]
    output_bias, mlp_bias = config["attention_bias"], config.get("mlp_bias", False)
    qkv_bias = output_bias or layout.qkv_bias
    output_bias = output_bias and layout.output_bias
    output = _Linear("attn_output", "self_attn.o_proj", hidden, q, output_bias)
    down = _Linear("ffn_down", "mlp.down_proj", hidden, width, mlp_bias)
    if layout.fused_qkv:
        qkv = [_Linear("attn_qkv", "self_attn.qkv_proj", q + 2 * kv, hidden, qkv_bias)]
    else:
        q_order, k_order = (heads, kv_heads) if layout.rotary_pairs else (0, 0)
        qkv = [
            _Linear("attn_q", "self_attn.q_proj", q, hidden, qkv_bias, q_order),
            _Linear("attn_k", "self_attn.k_proj", kv, hidden, qkv_bias, k_order),
            _Linear("attn_v", "self_attn.v_proj", kv, hidden, qkv_bias),
        ]
    if "num_experts_per_tok" in config:
        return [*qkv, output]
    if layout.fused_up:
        up = [_Linear("ffn_up", "mlp.gate_up_proj", 2 * width, hidden, mlp_bias)]
    else:
        up = [
            _Linear("ffn_gate", "mlp.gate_proj", width, hidden, mlp_bias),
            _Linear("ffn_up", "mlp.up_proj", width, hidden, mlp_bias),
        ]
    return [*qkv, output, *up, down]


def plan_experts(layout: Layout, config: dict, source: str, name: str) -> list[TensorPlan]:
    """The mixture of a layer: router, experts and a shared one; nothing if there is none."""
    if "num_experts_per_tok" not in config:
        return []
    hidden = config["hidden_size"]
    if "num_local_experts" in config:
        module, parts = f"{name}.block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}
        count, width, shared = config["num_local_experts"], config["intermediate_size"], 0
    else:
        module, parts = f"{name}.mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
        count, width = config["num_experts"], config.get("moe_intermediate_size") or config["intermediate_size"]
        shared = config.get("shared_expert_intermediate_size", 0)

    def shape(part: str, width: int) -> tuple[int, int]:
        return (hidden, width) if part == "down" else (width, hidden)

    kinds = {"weight": 2, "bias": 1} if layout.expert_bias else {"weight": 2}  # and their dims
    plan = [
        TensorPlan(f"{source}.ffn_gate_inp.{kind}", f"{module}.{layout.router}.{kind}", (count, hidden)[:dims])
        for kind, dims in kinds.items()
    ]
    plan += [
        TensorPlan(
            f"{source}.ffn_{there}_exps.{kind}", f"{module}.experts.{expert}.{here}.{kind}", shape(there, width)[:dims],
            expert=expert, experts=count,
        )
        for kind, dims in kinds.items() for there, here in parts.items() for expert in range(count)
    ]  # fmt: skip
    if shared:
        there, here = f"{source}.ffn_gate_inp_shexp.weight", f"{module}.shared_expert_gate.weight"
        plan.append(TensorPlan(there, here, (1, hidden)))
        for part, own in parts.items():
            there, here = f"{source}.ffn_{part}_shexp.weight", f"{module}.shared_expert.{own}.weight"
            plan.append(TensorPlan(there, here, shape(part, shared)))
    return plan


def check_plan(gguf: GgufFile, plan: list[TensorPlan]) -> None:
    """Every tensor of the plan is there in its shape, and nothing else is. Raises ModelError."""
    for tensor in plan:
        if tensor.source not in gguf.tensors:
            raise gguf.error(f"tensor {tensor.source} is missing. The file is incomplete: get or convert it again")
        if gguf.shape(tensor.source) not in tensor.stored_shapes:
            raise gguf.error(
                f"tensor {tensor.source} has shape {list(gguf.shape(tensor.source))}, the metadata asks for "
                f"{list(tensor.stored_shapes[0])}. The file is damaged or of a variant that is not known here"
            )
        kind = gguf.tensors[tensor.source].tensor_type
        if kind in INTEGER_TYPES:
            raise gguf.error(f"tensor {tensor.source} is stored as {kind.name}, which is no kind of float")
    unknown = sorted(set(gguf.tensors) - {tensor.source for tensor in plan} - ROPE_TENSORS)
    if unknown:
        raise gguf.error(f"tensor {unknown[0]} has no place in this architecture. The variant is not known here")


def write_safetensors(gguf: GgufFile, plan: list[TensorPlan], path: Path) -> None:
    """Dequantise the planned tensors, round them to bf16 and write them. Raises ModelError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in plan:
        end = offset + 2 * int(np.prod(tensor.shape))
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode()
    progress = Progress(f"converting {gguf.path.name}", offset, "MB", scale=1e6)
    text += b" " * (-len(text) % 8)  # the data starts aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in plan:
            rows, kind = gguf.rows(tensor.source)
            if tensor.experts:
                rows = rows.reshape(tensor.experts, tensor.shape[0], -1)[tensor.expert]
            if tensor.rotary_heads:
                rows = unpermute(rows.reshape(tensor.shape[0], -1), tensor.rotary_heads)
            step = max(1, BLOCK_ELEMENTS // tensor.shape[-1])
            for start in range(0, len(rows), step):
                try:
                    values = dequantize(rows[start : start + step], kind)
                except NotImplementedError as error:
                    raise gguf.error(f"{tensor.source} is stored as {kind.name}, which cannot be read") from error
                values = values.astype(np.float32, copy=False)
                progress.add(file.write(to_bf16(values - tensor.offset if tensor.offset else values).tobytes()))


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of the rows of Q and K: it keeps the two values of a rotary pair side by side.

    [heads * head_dim, anything], each head's rows (0, d/2, 1, d/2 + 1, ...) -> (0, 1, 2, ...), as Hugging Face's
    rotation of halves wants them. Rows may still be quantised: blocks lie within a row.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def rotary_rows(rows: int, heads: int) -> np.ndarray:
    """Where each row of Q or K is in the file, int64 [rows]; see ``unpermute``."""
    return unpermute(np.arange(rows)[:, None], heads)[:, 0]


class StoredTensor(Struct, frozen=True):
    """One tensor that stays in the GGUF: where it is, and what it is called here."""

    name: str
    source: str  # its name in the GGUF
    kind: int  # GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file
    size: int  # bytes
    rotary_heads: int
    norm_offset: float


def write_index(gguf: GgufFile, plan: list[TensorPlan], directory: Path) -> None:
    """Note where the planned tensors are: reading a GGUF's header takes seconds, most of them for its vocabulary."""
    stored = []
    for tensor in plan:
        found = gguf.tensors[tensor.source]
        size = int(found.n_bytes) // (tensor.experts or 1)
        place = int(found.data_offset) + tensor.expert * size, size
        kind, heads = int(found.tensor_type), tensor.rotary_heads
        stored.append(StoredTensor(tensor.name, tensor.source, kind, tensor.shape, *place, heads, tensor.offset))
    (directory / INDEX_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")


def read_index(directory: Path) -> list[StoredTensor]:
    """What ``write_index`` wrote. Raises ModelError."""
    path = directory / INDEX_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[StoredTensor])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}. Serve the .gguf file itself.") from error


def to_bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> the bits of bf16 as uint16, rounded to nearest even; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    # Rounding could carry a NaN's mantissa into the sign, so NaNs are cut and made quiet instead.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
