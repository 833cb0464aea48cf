"""config.json as the runtime sees it: one frozen Struct that a family fills in, checked once."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ..checkpoint.errors import ModelError
from ..checkpoint.packed_config import PackedWeights, read_packed
from ..checkpoint.quantized import QuantizationArgs, StoredScales, read_kv_scheme, read_scales
from .names import Names
from .rope_config import RopeConfig, RopeFields, read_rope

DTYPE_NAMES = ("bfloat16", "float16", "float32")
# transformers' names, and the kernels'.
GATED_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
PLAIN_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu", "relu": "relu",
    "relu2": "relu2", "xielu": "xielu",
}  # fmt: skip

# RoPE whose angles change with the length of a sequence from the original context on: it ends there, see phi3.py.
ENDING_KINDS = {"longrope": "LongRoPE", "dynamic": "dynamic RoPE"}

Fields = dict[str, Any]  # of a JSON object


class ClampedSilu(Struct, frozen=True):
    """GPT-OSS's gate of an MLP; see ``clamped_silu_and_mul``."""

    alpha: float
    limit: float


class ExpertsConfig(Struct, frozen=True, kw_only=True):
    """A mixture of experts in place of a layer's MLP."""

    count: int
    slots: int  # experts that a row goes to
    width: int  # of each
    scoring: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    tolerance: float = 0.0  # sparsemixer's
    weighs_input: bool = False  # weights are of what enters an expert
    shared_width: int = 0  # of one that every row goes to; 0: none
    clamp: ClampedSilu | None = None  # in place of the model's activation
    bias: bool = False  # of router and experts
    transposed: bool = False  # a file has them stacked as [experts, in, out]
    module: str = "mlp"  # its name in the checkpoint
    router: str = "gate"
    choice_bias: str = ""  # added to weights where experts are chosen; "": none
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    # Of the layer:
    shared: str = "mlp.shared_expert"
    shared_gate: str = ""  # whose sigmoid the shared one is multiplied by; "": none


class LayerConfig(Struct, frozen=True):
    """What differs from layer to layer."""

    rope: RopeConfig
    window: int = 0  # positions that a row sees, its own included; 0: all
    experts: ExpertsConfig | None = None


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What the runtime needs to know of a decoder-only model. The defaults are Llama's."""

    architecture: str
    dtype: str
    vocab_size: int
    stored_vocab_size: int = 0  # rows of embedding and head in the checkpoint, if not as many
    hidden_size: int
    intermediate_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int  # tokens
    norm_eps: float
    tie_embeddings: bool
    layers: tuple[LayerConfig, ...]
    names: Names = Names()
    spellings: tuple[tuple[str, str], ...] = ()  # how names may begin in the checkpoint, and how they do here
    transposed: tuple[str, ...] = ()  # modules that the checkpoint has as [in, out]
    interleaved_experts: bool = False  # see checkpoint/interleaved_experts.py
    qkv_grouped: bool = False  # one matrix, in which each KV head's queries, key and value lie together
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    head_bias: bool = False
    gated_mlp: bool = True
    activation: Literal["silu", "gelu_tanh", "gelu", "relu", "relu2", "xielu"] = "silu"
    norm: Literal["rms", "layer"] = "rms"
    norm_weight: bool = True  # of LayerNorm
    norm_bias: bool = False  # of LayerNorm
    norm_offset: float = 0.0  # added to every norm weight
    # Of each head; of each head, with weights of its own; or of all of Q and all of K.
    qk_norm: Literal["head", "heads", "width"] | None = None
    qk_norm_kind: Literal["rms", "layer"] = "rms"
    qk_norm_after: bool = False  # the rotation, in the layers that have one
    qk_norm_weight: bool = True
    parallel_residual: bool = False  # attention and MLP read the same rows; without a norm of its own the same norm's
    first_position: int = 0  # row of the first position, where positions are learned
    embedding_scale: float = 1.0
    rounds_embedding_scale: bool = False  # to the model's dtype, as the reference does
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_softcap: float = 0.0  # 0: none
    attention_sinks: bool = False
    logit_scale: float = 1.0
    logit_softcap: float = 0.0  # 0: none
    stored_scales: StoredScales | None = None  # of weights that the checkpoint has in 8 bits
    packed_weights: PackedWeights | None = None  # how the checkpoint packs others
    kv_scheme: QuantizationArgs | None = None  # of the KV cache that the checkpoint has scales for
    notes: tuple[str, ...] = ()  # for the start-up log: where this differs from what a user may expect

    @property
    def stored_form(self) -> str | None:
        """How the checkpoint is quantised, as its config.json names it; None: not at all, or as a GGUF."""
        stored = self.packed_weights or self.stored_scales
        return None if stored is None else stored.method

    @property
    def num_layers(self) -> int:
        return len(self.layers)


class HfConfig(Struct, kw_only=True):
    """The fields of config.json that are read, under their Hugging Face names; others are ignored."""

    architectures: list[str] | None = None
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None  # Gemma's name
    max_position_embeddings: int = 2048
    original_max_position_embeddings: int | None = None  # Phi-3's place for it
    partial_rotary_factor: float | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_local_base_freq: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5: rope_theta and rope_scaling in one
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool | None = None
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int | None = None
    sliding_window_pattern: int | None = None
    layer_types: list[str] | None = None
    query_pre_attn_scalar: float = 256.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    dtype: str | None = None
    torch_dtype: str | None = None  # before transformers 5
    quantization_config: dict[str, Any] | None = None

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        """What config.json says, where a family says it in its own way. Raises ModelError."""
        return said


Family = Callable[[Any], ModelConfig]  # of an HfConfig, or of what the family's own fields are read into


def base_config(hf: HfConfig, *, tied: bool = False, **special: Any) -> ModelConfig:
    """What all families read alike, and what is ``special``. ``tied``: the family's default. Raises ModelError."""
    activation = hf.hidden_activation or hf.hidden_act or "silu"
    activations = GATED_ACTIVATIONS if special.get("gated_mlp", True) else PLAIN_ACTIVATIONS
    if activation not in activations:
        raise ModelError(f"activation '{activation}' is not supported (known: {', '.join(activations)})")
    rope = rope_config(hf)
    packed = None if hf.quantization_config is None else read_packed(hf.quantization_config)
    scales = None if hf.quantization_config is None or packed is not None else read_scales(hf.quantization_config)
    common = {
        "architecture": (hf.architectures or [""])[0],
        "dtype": hf.dtype or hf.torch_dtype or "float32",
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "intermediate_size": hf.intermediate_size,
        "num_q_heads": hf.num_attention_heads,
        "num_kv_heads": hf.num_key_value_heads or hf.num_attention_heads,
        "head_dim": hf.head_dim or hf.hidden_size // hf.num_attention_heads,
        "max_positions": _max_positions(hf, rope),
        "norm_eps": hf.rms_norm_eps,
        "tie_embeddings": tied if hf.tie_word_embeddings is None else hf.tie_word_embeddings,
        "activation": activations[activation],
        "stored_scales": scales,
        "packed_weights": packed,
        "kv_scheme": None if hf.quantization_config is None else read_kv_scheme(hf.quantization_config),
        "notes": _notes(hf, rope, scales),
    }
    return ModelConfig(**{**common, **special})


def check_dtype(name: str) -> None:
    """Raises ModelError unless the runtime has numbers of that kind."""
    if name not in DTYPE_NAMES:
        raise ModelError(f"dtype {name} is not supported (known: {', '.join(DTYPE_NAMES)}); --dtype chooses one")


def rope_config(hf: HfConfig, layer_type: str = "full_attention") -> RopeConfig:
    """The rotary embedding of layers of that type. Raises ModelError."""
    parameters = hf.rope_parameters or {}
    fields: dict[str, Any] = {
        "rope_theta": hf.rope_theta,
        "partial_rotary_factor": hf.partial_rotary_factor,
        **(hf.rope_scaling or {}),
        **parameters.get(layer_type, parameters),
    }
    if hf.original_max_position_embeddings is not None:
        fields["original_max_position_embeddings"] = hf.original_max_position_embeddings
    try:
        return read_rope(msgspec.convert(fields, RopeFields), hf.max_position_embeddings)
    except msgspec.ValidationError as error:
        raise ModelError(f"RoPE parameters: {error}") from error


def same_layers(hf: HfConfig, window: int = 0) -> tuple[LayerConfig, ...]:
    """Layers that are all alike. Raises ModelError."""
    return (LayerConfig(rope_config(hf), window),) * hf.num_hidden_layers


def renamed(said: Fields, **names: str) -> Fields:
    """``said`` with a value under each of ``names``, from under the name given for it, where it has none."""
    return {**{new: said[old] for new, old in names.items() if said.get(old) is not None}, **_without_none(said)}


def _without_none(said: Fields) -> Fields:
    return {name: value for name, value in said.items() if value is not None}


def _max_positions(hf: HfConfig, rope: RopeConfig) -> int:
    if rope.kind == "yarn":
        return max(hf.max_position_embeddings, int(rope.factor * rope.original_positions))
    if rope.kind in ENDING_KINDS:
        return min(hf.max_position_embeddings, rope.original_positions)
    return hf.max_position_embeddings


def _notes(hf: HfConfig, rope: RopeConfig, scales: StoredScales | None) -> tuple[str, ...]:
    notes = []
    if rope.kind == "dynamic" or (rope.kind == "longrope" and rope.original_positions < hf.max_position_embeddings):
        notes.append(
            f"{ENDING_KINDS[rope.kind]}: served up to its original context of {rope.original_positions} tokens"
            + (f", not {hf.max_position_embeddings}" if rope.original_positions < hf.max_position_embeddings else "")
            + ": keys of a longer sequence would all have to be computed again"
        )
    if scales is not None and scales.cols:
        notes.append(
            f"weights in {scales.method} with a scale for each block: widened to the model's dtype on load. "
            "--quantize int8 or fp8 rounds them to 8 bits again, one scale for each output"
        )
    elif scales is not None:
        notes.append(f"weights in 8 bits as {scales.method} has them, activations in the model's dtype")
    return tuple(notes)
