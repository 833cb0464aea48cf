"""config.json as the runtime sees it: one frozen Struct, checked once."""

from collections.abc import Collection
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


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What the runtime needs to know of a decoder-only model."""

    architecture: str
    dtype: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int  # tokens
    rms_norm_eps: float
    tie_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rope: RopeConfig


class _HfArchitecture(Struct):
    """Read first: the fields of an unknown architecture mean nothing."""

    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


class _HfConfig(Struct):
    """The fields of config.json that are read, under their Hugging Face names; others are ignored."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5: rope_theta and rope_scaling in one
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    dtype: str | None = None
    torch_dtype: str | None = None  # before transformers 5
    quantization_config: dict[str, Any] | None = None


def read_config(model_dir: Path, architectures: Collection[str]) -> ModelConfig:
    """Read config.json of a model directory; ``architectures`` are the known ones. Raises ModelError."""
    path = model_dir / "config.json"
    try:
        data = path.read_bytes()
        architecture = msgspec.json.decode(data, type=_HfArchitecture).architectures[0]
        if architecture not in architectures:
            known = ", ".join(architectures)
            raise ModelError(f"{path}: architecture {architecture} is not known (known: {known})")
        hf = msgspec.json.decode(data, type=_HfConfig)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}. A model directory in Hugging Face format has one.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    if hf.quantization_config is not None:
        method = hf.quantization_config.get("quant_method", "unknown")
        raise ModelError(f"{path}: weights quantised by '{method}' are not supported; use the unquantised model")
    if hf.hidden_act != "silu":
        raise ModelError(f"{path}: activation '{hf.hidden_act}' is not supported (known: silu)")
    return ModelConfig(
        architecture=architecture,
        dtype=hf.dtype or hf.torch_dtype or "float32",
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_q_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads or hf.num_attention_heads,
        head_dim=hf.head_dim or hf.hidden_size // hf.num_attention_heads,
        max_positions=hf.max_position_embeddings,
        rms_norm_eps=hf.rms_norm_eps,
        tie_embeddings=hf.tie_word_embeddings,
        attention_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        rope=_read_rope(path, hf),
    )


def _read_rope(path: Path, hf: _HfConfig) -> RopeConfig:
    fields = {**(hf.rope_scaling or {}), **(hf.rope_parameters or {})}
    kind = fields.get("rope_type", fields.get("type", "default"))
    known = ("default", "linear", "llama3")
    if kind not in known:
        raise ModelError(f"{path}: RoPE scaling '{kind}' is not supported (known: {', '.join(known)})")
    wanted = {name: fields[name] for name in RopeConfig.__struct_fields__ if fields.get(name) is not None}
    theta = fields.get("rope_theta") or hf.rope_theta or 10000.0
    try:
        return msgspec.convert({**wanted, "theta": theta, "kind": kind}, RopeConfig)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: RoPE parameters: {error}") from error
