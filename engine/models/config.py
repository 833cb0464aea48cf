"""config.json as the runtime sees it: one frozen Struct that a family fills in, checked once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from ..checkpoint.errors import ModelError


class RopeConfig(Struct, frozen=True, kw_only=True):
    """Rotary embedding and how it is stretched to longer contexts."""

    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # llama3 only, as the three below
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192  # tokens


class LayerConfig(Struct, frozen=True):
    """What differs from layer to layer."""

    rope: RopeConfig
    window: int = 0  # positions that a row sees, its own included; 0: all


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What the runtime needs to know of a decoder-only model. The defaults are Llama's."""

    architecture: str
    dtype: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int  # tokens
    rms_norm_eps: float
    tie_embeddings: bool
    layers: tuple[LayerConfig, ...]
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    qk_norm: bool = False
    norm_offset: float = 0.0  # added to every norm weight
    sandwich_norms: bool = False  # attention and MLP are normalised before they are added, too
    embedding_scale: float = 1.0
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_softcap: float = 0.0  # 0: none
    logit_softcap: float = 0.0  # 0: none

    @property
    def num_layers(self) -> int:
        return len(self.layers)


class HfConfig(Struct, kw_only=True):
    """The fields of config.json that are read, under their Hugging Face names; others are ignored."""

    architectures: list[str]
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
    sliding_window_pattern: int = 6
    layer_types: list[str] | None = None
    query_pre_attn_scalar: float = 256.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    dtype: str | None = None
    torch_dtype: str | None = None  # before transformers 5
    quantization_config: dict[str, Any] | None = None


Family = Callable[[HfConfig], ModelConfig]


class _HfArchitecture(Struct):
    """Read first: the fields of an unknown architecture mean nothing."""

    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


def read_config(model_dir: Path, families: Mapping[str, Family]) -> ModelConfig:
    """Read config.json of a model directory; ``families`` has the known architectures. Raises ModelError."""
    path = model_dir / "config.json"
    try:
        data = path.read_bytes()
        architecture = msgspec.json.decode(data, type=_HfArchitecture).architectures[0]
        if architecture not in families:
            known = ", ".join(families)
            raise ModelError(f"{path}: architecture {architecture} is not known (known: {known})")
        hf = msgspec.json.decode(data, type=HfConfig)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}. A model directory in Hugging Face format has one.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    if hf.quantization_config is not None:
        method = hf.quantization_config.get("quant_method", "unknown")
        raise ModelError(f"{path}: weights quantised by '{method}' are not supported; use the unquantised model")
    try:
        return families[architecture](hf)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def base_config(hf: HfConfig, *, tied: bool = False, **special: Any) -> ModelConfig:
    """What all families read alike, and what is ``special``. ``tied``: the family's default. Raises ModelError."""
    activations = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
    activation = hf.hidden_activation or hf.hidden_act or "silu"
    if activation not in activations:
        raise ModelError(f"activation '{activation}' is not supported (known: {', '.join(activations)})")
    common = {
        "architecture": hf.architectures[0],
        "dtype": hf.dtype or hf.torch_dtype or "float32",
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "intermediate_size": hf.intermediate_size,
        "num_q_heads": hf.num_attention_heads,
        "num_kv_heads": hf.num_key_value_heads or hf.num_attention_heads,
        "head_dim": hf.head_dim or hf.hidden_size // hf.num_attention_heads,
        "max_positions": hf.max_position_embeddings,
        "rms_norm_eps": hf.rms_norm_eps,
        "tie_embeddings": tied if hf.tie_word_embeddings is None else hf.tie_word_embeddings,
        "activation": activations[activation],
    }
    return ModelConfig(**{**common, **special})


def rope_config(hf: HfConfig, layer_type: str = "full_attention") -> RopeConfig:
    """The rotary embedding of layers of that type. Raises ModelError."""
    parameters = hf.rope_parameters or {}
    fields = {**(hf.rope_scaling or {}), **parameters.get(layer_type, parameters)}
    kind = fields.get("rope_type", fields.get("type", "default"))
    known = ("default", "linear", "llama3")
    if kind not in known:
        raise ModelError(f"RoPE scaling '{kind}' is not supported (known: {', '.join(known)})")
    wanted = {name: fields[name] for name in RopeConfig.__struct_fields__ if fields.get(name) is not None}
    theta = fields.get("rope_theta") or hf.rope_theta or 10000.0
    try:
        return msgspec.convert({**wanted, "theta": theta, "kind": kind}, RopeConfig)
    except msgspec.ValidationError as error:
        raise ModelError(f"RoPE parameters: {error}") from error


def same_layers(hf: HfConfig, window: int = 0) -> tuple[LayerConfig, ...]:
    """Layers that are all alike. Raises ModelError."""
    return (LayerConfig(rope_config(hf), window),) * hf.num_hidden_layers
