"""Tensors of a GGUF -> model.safetensors in bf16, under Hugging Face's names.

Needs no torch: safetensors is a JSON header with offsets, then the raw bytes. Rows are dequantised in blocks, so that
memory stays small whatever the size of the model.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ..log import Progress
from .gguf_file import GgufFile

# Elements dequantised at a time: 32 MiB as fp32, small beside any model and large beside a call's cost.
BLOCK_ELEMENTS = 8 << 20

# Norms of a layer: name there, name here.
LLAMA_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
GEMMA3_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}

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


def plan_tensors(architecture: str, config: dict) -> list[TensorPlan]:
    """What a model of this config.json consists of; ``architecture`` is llama.cpp's."""
    hidden, width, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    gemma = architecture == "gemma3"
    norms = GEMMA3_NORMS if gemma else LLAMA_NORMS
    offset = 1.0 if gemma else 0.0  # Gemma multiplies by 1 + weight
    q_order, k_order = (0, 0) if gemma else (heads, kv_heads)
    attention_bias, mlp_bias = config["attention_bias"], config.get("mlp_bias", False)
    linears = [  # name there, name here, out features, in features, heads to put in order, has a bias
        ("attn_q", "self_attn.q_proj", heads * head_dim, hidden, q_order, attention_bias),
        ("attn_k", "self_attn.k_proj", kv_heads * head_dim, hidden, k_order, attention_bias),
        ("attn_v", "self_attn.v_proj", kv_heads * head_dim, hidden, 0, attention_bias),
        ("attn_output", "self_attn.o_proj", hidden, heads * head_dim, 0, attention_bias),
        ("ffn_gate", "mlp.gate_proj", width, hidden, 0, mlp_bias),
        ("ffn_up", "mlp.up_proj", width, hidden, 0, mlp_bias),
        ("ffn_down", "mlp.down_proj", hidden, width, 0, mlp_bias),
    ]
    plan = [TensorPlan("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden))]
    for i in range(config["num_hidden_layers"]):
        source, name = f"blk.{i}", f"model.layers.{i}"
        for there, here in norms.items():
            size = head_dim if here.startswith("self_attn") else hidden
            plan.append(TensorPlan(f"{source}.{there}.weight", f"{name}.{here}.weight", (size,), offset=offset))
        for there, here, rows, columns, rotary_heads, bias in linears:
            plan.append(TensorPlan(f"{source}.{there}.weight", f"{name}.{here}.weight", (rows, columns), rotary_heads))
            if bias:
                plan.append(TensorPlan(f"{source}.{there}.bias", f"{name}.{here}.bias", (rows,), rotary_heads))
    plan.append(TensorPlan("output_norm.weight", "model.norm.weight", (hidden,), offset=offset))
    if not config["tie_word_embeddings"]:
        plan.append(TensorPlan("output.weight", "lm_head.weight", (vocab, hidden)))
    return plan


def check_plan(gguf: GgufFile, plan: list[TensorPlan], ignored: set[str]) -> None:
    """Every tensor of the plan is there in its shape, and nothing else is. Raises ModelError."""
    for tensor in plan:
        if tensor.source not in gguf.tensors:
            raise gguf.error(f"tensor {tensor.source} is missing. The file is incomplete: get or convert it again")
        if gguf.shape(tensor.source) != tensor.shape:
            raise gguf.error(
                f"tensor {tensor.source} has shape {list(gguf.shape(tensor.source))}, the metadata asks for "
                f"{list(tensor.shape)}. The file is damaged or of a variant that is not known here"
            )
        kind = gguf.tensors[tensor.source].tensor_type
        if kind in INTEGER_TYPES:
            raise gguf.error(f"tensor {tensor.source} is stored as {kind.name}, which is no kind of float")
    unknown = sorted(set(gguf.tensors) - {tensor.source for tensor in plan} - ignored)
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


def to_bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> the bits of bf16 as uint16, rounded to nearest even; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    # Rounding could carry a NaN's mantissa into the sign, so NaNs are cut and made quiet instead.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
