"""Which tensor of a GGUF is which of a model in Hugging Face format: llama.cpp has one name for each part of a layer,
whatever the architecture, so the names follow from the model's ModelConfig.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
from gguf import GGMLQuantizationType
from msgspec import Struct

from ..models.config import ExpertsConfig, ModelConfig
from .gguf_file import LEARNED_ACTIVATION, GgufFile

# Rows of Q and K are in llama.cpp's own order, which keeps the two values of a rotary pair side by side.
ROTARY_PAIRS = ("llama", "granite", "granitemoe", "smollm3", "arcee", "olmo")
PARTS = ("gate", "up", "down")  # of an expert
# They describe the rotary embedding: gguf_config.py reads them.
ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
INTEGER_TYPES = {
    GGMLQuantizationType.I8,
    GGMLQuantizationType.I16,
    GGMLQuantizationType.I32,
    GGMLQuantizationType.I64,
}


class RowOrder(Struct, frozen=True):
    """In which order a file has the outputs of a linear: Hugging Face's, unless a field says otherwise."""

    rotary_heads: int = 0  # each of so many heads has its rows as (0, d/2, 1, d/2 + 1, ...)
    kv_groups: int = 0  # all queries, keys, values; here each of so many KV heads has its own together
    group_heads: int = 0  # heads of one of those groups: its queries, key and value

    def rows(self, count: int) -> np.ndarray | None:
        """Where each of ``count`` rows is in the file, int64 [count]; None: where it is here."""
        if self.rotary_heads:
            return np.arange(count).reshape(self.rotary_heads, -1, 2).swapaxes(1, 2).reshape(count)
        if self.kv_groups:
            heads = np.arange(count).reshape(self.kv_groups * self.group_heads, -1)
            last = [heads[-2 * self.kv_groups : -self.kv_groups], heads[-self.kv_groups :]]
            queries = heads[: -2 * self.kv_groups].reshape(self.kv_groups, self.group_heads - 2, -1)
            return np.concatenate([queries, *(part[:, None] for part in last)], axis=1).reshape(count)
        return None


AS_HERE = RowOrder()


class TensorPlan(Struct, frozen=True):
    """One tensor to write."""

    source: str  # its name in the GGUF
    name: str  # its name in the safetensors file
    shape: tuple[int, ...]
    order: RowOrder = AS_HERE
    offset: float = 0.0  # added by llama.cpp
    source_shape: tuple[int, ...] = ()  # where it is some of the source's rows
    first_row: int = 0  # of them
    transposed: bool = False  # [in, out] in the safetensors file
    exact: bool = False  # in fp32, not bf16

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the source; llama.cpp leaves out the one output of a gate."""
        if self.source_shape:
            return (self.source_shape,)
        return (self.shape, self.shape[1:]) if self.shape[0] == 1 else (self.shape,)

    def place(self, source_bytes: int) -> tuple[int, int]:
        """Where it begins in a source of that size, and its own size: bytes both."""
        values = math.prod(self.source_shape or self.shape)
        row = self.source_shape[-1] if len(self.source_shape) > 1 else 1
        first = self.first_row * row
        return source_bytes * first // values, source_bytes * math.prod(self.shape) // values


def plan_tensors(gguf: GgufFile, config: ModelConfig) -> list[TensorPlan]:
    """What a model of that config consists of."""
    names, hidden, vocab = config.names, config.hidden_size, config.vocab_size
    plan = [TensorPlan("token_embd.weight", f"{names.embedding}.weight", (vocab, hidden))]
    if names.positions:
        rows = config.first_position + config.max_positions
        plan.append(TensorPlan("position_embd.weight", f"{names.positions}.weight", (rows, hidden)))
    for index, layer in enumerate(config.layers):
        source, name = f"blk.{index}", f"{names.layers}.{index}"
        plan += _norms(gguf, config, source, name)
        plan += _attention(gguf, config, source, f"{name}.{names.attention}")
        if layer.experts is None:
            plan += _mlp(config, source, f"{name}.{names.mlp}" if names.mlp else name)
            plan += _activation(config, index, f"{name}.{names.mlp}.act_fn")
        else:
            plan += _experts(config, layer.experts, source, name)
    plan += _norm(config, "output_norm", names.norm)
    if not config.tie_embeddings:
        plan += _linear("output", names.head, (vocab, hidden), config.head_bias)
    return plan


def _linear(
    there: str, here: str, shape: tuple[int, int], bias: bool, order: RowOrder = AS_HERE, transposed: bool = False
) -> Iterator[TensorPlan]:
    yield TensorPlan(f"{there}.weight", f"{here}.weight", shape, order, transposed=transposed)
    if bias:
        yield TensorPlan(f"{there}.bias", f"{here}.bias", shape[:1], order)


def _norm(config: ModelConfig, there: str, here: str) -> Iterator[TensorPlan]:
    shape = (config.hidden_size,)
    if not config.norm_weight:
        return
    yield TensorPlan(f"{there}.weight", f"{here}.weight", shape, offset=config.norm_offset)
    if config.norm_bias:
        yield TensorPlan(f"{there}.bias", f"{here}.bias", shape)


def _norms(gguf: GgufFile, config: ModelConfig, source: str, name: str) -> Iterator[TensorPlan]:
    """Around the attention and the MLP of a layer."""
    names = config.names
    attention, mlp = "attn_norm", "ffn_norm"
    if gguf.architecture == "falcon" and names.mlp_norm:
        attention, mlp = "attn_norm_2", "attn_norm"
    if gguf.architecture in ("seed_oss", "gpt-oss", "glm4moe"):
        mlp = "post_attention_norm"
    parts = (
        (attention, names.attention_norm),
        ("post_attention_norm", names.attention_post_norm),
        (mlp, names.mlp_norm),
        ("post_ffw_norm", names.mlp_post_norm),
    )
    for there, here in parts:
        if here:
            yield from _norm(config, f"{source}.{there}", f"{name}.{here}")


def _attention(gguf: GgufFile, config: ModelConfig, source: str, name: str) -> Iterator[TensorPlan]:
    names, hidden = config.names, config.hidden_size
    heads, kv_heads = config.num_q_heads, config.num_kv_heads
    q, kv = heads * config.head_dim, kv_heads * config.head_dim
    transposed = names.qkv[0] in config.transposed
    fused, bias = f"{source}.attn_qkv", config.qkv_bias
    if len(names.qkv) == 1:
        order = RowOrder(kv_groups=kv_heads, group_heads=heads // kv_heads + 2) if config.qkv_grouped else AS_HERE
        yield from _linear(fused, f"{name}.{names.qkv[0]}", (q + 2 * kv, hidden), bias, order, transposed)
    else:
        paired, first = gguf.architecture in ROTARY_PAIRS, 0
        parts = zip("qkv", names.qkv, (heads, kv_heads, kv_heads), strict=True)
        for part, here, count in parts:
            rows = count * config.head_dim
            order = RowOrder(rotary_heads=count) if paired and part != "v" else AS_HERE
            if f"{fused}.weight" not in gguf.tensors:
                yield from _linear(f"{source}.attn_{part}", f"{name}.{here}", (rows, hidden), bias, order)
                continue
            # Files of early 2024 have one matrix of what are three here.
            for kind, rest in (("weight", (hidden,)), ("bias", ()))[: 1 + bias]:
                yield TensorPlan(
                    f"{fused}.{kind}", f"{name}.{here}.{kind}", (rows, *rest), order,
                    source_shape=(q + 2 * kv, *rest), first_row=first,
                )  # fmt: skip
            first += rows
    yield from _linear(
        f"{source}.attn_output", f"{name}.{names.output}", (hidden, q), config.output_bias,
        transposed=names.output in config.transposed,
    )  # fmt: skip
    if config.attention_sinks:
        yield TensorPlan(f"{source}.attn_sinks.weight", f"{name}.sinks", (heads,))
    if config.qk_norm and config.qk_norm_weight:
        for part, here, count in zip("qk", names.qk_norm, (heads, kv_heads), strict=True):
            there, here = f"{source}.attn_{part}_norm.weight", f"{name}.{here}"
            size = config.head_dim * (count if config.qk_norm == "width" else 1)
            if config.qk_norm == "heads":
                yield from _norms_of_heads(gguf, there, here, (count, size))
            else:
                yield TensorPlan(there, f"{here}.weight", (size,), offset=config.norm_offset)


def _norms_of_heads(gguf: GgufFile, there: str, here: str, shape: tuple[int, int]) -> Iterator[TensorPlan]:
    """One matrix there; here, where the module is a list, a vector for each head."""
    # Whose shape is not that of the file is refused, however many heads a damaged one speaks of.
    if not here.endswith(".norms") or there not in gguf.tensors or gguf.shape(there) != shape:
        yield TensorPlan(there, f"{here}.weight", shape)
        return
    for index in range(shape[0]):
        yield TensorPlan(there, f"{here}.{index}.weight", shape[1:], source_shape=shape, first_row=index)


def _mlp(config: ModelConfig, source: str, name: str) -> Iterator[TensorPlan]:
    names, hidden, width, bias = config.names, config.hidden_size, config.intermediate_size, config.mlp_bias
    if len(names.up) == 1:
        (up,) = names.up
        rows = 2 * width if config.gated_mlp else width
        yield from _linear(f"{source}.ffn_up", f"{name}.{up}", (rows, hidden), bias, transposed=up in config.transposed)
    else:
        for there, here in zip(("ffn_gate", "ffn_up"), names.up, strict=True):
            yield from _linear(f"{source}.{there}", f"{name}.{here}", (width, hidden), bias)
    yield from _linear(
        f"{source}.ffn_down", f"{name}.{names.down}", (hidden, width), bias, transposed=names.down in config.transposed
    )


def _activation(config: ModelConfig, layer: int, name: str) -> Iterator[TensorPlan]:
    """Its numbers of each layer, side by side there."""
    if config.activation == "xielu":
        for source in LEARNED_ACTIVATION:
            here, layers = f"{name}.{source.rpartition('.')[2]}", (config.num_layers,)
            yield TensorPlan(source, here, (1,), source_shape=layers, first_row=layer, exact=True)


def _experts(config: ModelConfig, experts: ExpertsConfig, source: str, name: str) -> Iterator[TensorPlan]:
    """Router, experts, which are stacked there, and a shared one."""
    module, hidden = f"{name}.{experts.module}", config.hidden_size

    def shape(part: str, width: int) -> tuple[int, int]:
        return (hidden, width) if part == "down" else (width, hidden)

    yield from _linear(f"{source}.ffn_gate_inp", f"{module}.{experts.router}", (experts.count, hidden), experts.bias)
    if experts.choice_bias:
        alone = (1,) if experts.choice_bias.startswith("moe_statics") else ()
        where = f"{module}.{experts.choice_bias}"
        yield TensorPlan(f"{source}.exp_probs_b.bias", where, (*alone, experts.count), exact=True)
    for there, here in zip(PARTS, experts.names, strict=True):
        own = shape(there, experts.width)
        for index, (kind, dims) in product(range(experts.count), (("weight", 2), ("bias", 1))[: 1 + experts.bias]):
            yield TensorPlan(
                f"{source}.ffn_{there}_exps.{kind}", f"{module}.experts.{index}.{here}.{kind}", own[:dims],
                source_shape=(experts.count, *own[:dims]), first_row=index * own[0] if dims == 2 else index,
            )  # fmt: skip
    if experts.shared_width:
        for there, here in zip(PARTS, (*config.names.up, config.names.down), strict=True):
            own = shape(there, experts.shared_width)
            yield TensorPlan(f"{source}.ffn_{there}_shexp.weight", f"{name}.{experts.shared}.{here}.weight", own)
    if experts.shared_gate:
        yield TensorPlan(f"{source}.ffn_gate_inp_shexp.weight", f"{name}.{experts.shared_gate}.weight", (1, hidden))


def check_plan(gguf: GgufFile, plan: list[TensorPlan]) -> None:
    """Every tensor of the plan is there in its shape, and nothing else is. Raises ModelError.

    Layers that predict further tokens (MTP) may be there: they come last, and are not read.
    """
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
    layers = gguf.get(f"{gguf.architecture}.block_count", 0)
    unread = range(layers - gguf.get(f"{gguf.architecture}.nextn_predict_layers", 0), layers)
    passed = {name for name in gguf.tensors if any(name.startswith(f"blk.{layer}.") for layer in unread)}
    unknown = sorted(set(gguf.tensors) - {tensor.source for tensor in plan} - ROPE_TENSORS - passed)
    if unknown:
        raise gguf.error(f"tensor {unknown[0]} has no place in this architecture. The variant is not known here")
