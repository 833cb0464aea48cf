"""Models that exist as shapes only: config.json of real ones, and a checkpoint that makes its tensors up."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from ....engine.checkpoint.safetensors_dir import Checkpoint
from ....engine.config import EngineConfig
from ....engine.models.decoder import DecoderModel
from ....engine.models.dtypes import choose_dtypes
from ....engine.models.families import read_config
from ....engine.models.weights import WeightLoader
from ....engine.runner import Runner
from ....engine.start import Loaded
from ....kernels import Backend
from ....kernels.block_weight import BlockWeight
from ..blocks import made_up_blocks

# The fields of the models' config.json that the runtime reads.
SHAPES: dict[str, dict[str, object]] = {
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
    "qwen2.5-7b": {
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "attention_bias": True,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
    },
    # The text model of google/gemma-3-4b-it, as the text-only class takes it.
    "gemma-3-4b": {
        "architectures": ["Gemma3ForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh",
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "tie_word_embeddings": True,
    },
}


# Of shapes with block-quantised weights: the kind (see blocks.py) of the matrices with these words in their names, the
# first that fits; the others are in 16 bits.
SHAPES["llama-3.1-8b-q4_k_m"] = SHAPES["llama-3.1-8b-gptq"] = SHAPES["llama-3.1-8b"]
BLOCKS: dict[str, dict[str, str]] = {
    "llama-3.1-8b-q4_k_m": {"v_proj": "Q6_K", "down_proj": "Q6_K", "lm_head": "Q6_K", "proj": "Q4_K", "embed": "Q4_K"},
    "llama-3.1-8b-gptq": {"proj": "GPTQ"},
    "gpt-oss-20b": {"experts": "MXFP4"},
}


class MadeUpCheckpoint(Checkpoint):
    """Has every tensor that is asked for but scales, in the shape that is asked for."""

    def __init__(self, make: Callable[[tuple[int, ...]], torch.Tensor], kinds: dict[str, str]) -> None:
        super().__init__(Path("made up"), {})
        self._make = make
        self._kinds = kinds

    def __contains__(self, name: str) -> bool:
        return not name.endswith("_scale")

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:  # noqa: ARG002
        return self._make(tuple(expected_shape))

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockWeight | None:
        kind = next((kind for word, kind in self._kinds.items() if word in name), None)
        if kind is None:
            return None
        outputs, inputs = expected_shape
        return made_up_blocks(kind, outputs, inputs, self._make((1,)).device)


def load_shape(
    shape: str | Mapping[str, object],
    backend: Backend,
    device: torch.device,
    make: Callable[[tuple[int, ...]], torch.Tensor],
    num_layers: int | None = None,
    **settings: Any,
) -> Loaded:
    """All of an engine but its size: a model of that shape, its weights made by ``make`` on the device.

    ``shape``: one of SHAPES, or such fields; ``settings``: of EngineConfig. Raises ModelError.
    """
    name = shape if isinstance(shape, str) else "made up"
    fields = dict(SHAPES[shape] if isinstance(shape, str) else shape)
    if num_layers is not None:
        fields["num_hidden_layers"] = num_layers
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(fields))
        model_config = read_config(Path(directory))
        config = EngineConfig(
            model_dir=Path(directory), model_id=name, socket=Path(directory), device="cuda", **settings
        )
    dtypes = choose_dtypes(backend, model_config.dtype, None, config.kv_cache_dtype)
    checkpoint = MadeUpCheckpoint(make, BLOCKS.get(name, {}))
    positions = min(config.max_total_tokens or model_config.max_positions, model_config.max_positions)
    model = DecoderModel(model_config, checkpoint, WeightLoader(checkpoint, backend, dtypes, device), positions)
    return Loaded(config, model, backend, dtypes, device, None, None, None)


def make_runner(
    shape: str,
    backend: Backend,
    device: torch.device,
    make: Callable[[tuple[int, ...]], torch.Tensor],
    num_layers: int | None = None,
    kv_cache_bytes: int = 16 << 30,
    max_total_tokens: int | None = None,
    graph_rows: tuple[int, ...] | None = None,
    **settings: Any,
) -> Runner:
    """The runner of a model of that shape, its weights made by ``make`` on the device. Raises ModelError.

    ``graph_rows``: what steps are captured for, if not all that an engine has; ``settings``: of EngineConfig.
    """
    loaded = load_shape(
        shape, backend, device, make, num_layers, kv_cache_bytes=kv_cache_bytes, max_total_tokens=max_total_tokens,
        **settings,
    )  # fmt: skip
    limits = loaded.limits()
    if graph_rows is not None:
        limits = replace(limits, graph_rows=graph_rows)
    return Runner(loaded.model, backend, limits, loaded.dtypes, device)
