"""Model families, chosen by what config.json says. No torch here: a model is refused before its weights are there."""

from pathlib import Path

from .config import Family, ModelConfig
from .config import read_config as _read_config
from .gemma3 import gemma3
from .llama import llama, mistral
from .mixtral import mixtral
from .phi3 import phi3
from .qwen import qwen2, qwen3
from .qwen_moe import qwen2_moe, qwen3_moe

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Gemma3ForCausalLM": gemma3,
    "Phi3ForCausalLM": phi3,
    "MixtralForCausalLM": mixtral,
    "Qwen2MoeForCausalLM": qwen2_moe,
    "Qwen3MoeForCausalLM": qwen3_moe,
}
# For a config.json that names no architecture.
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def read_config(model_dir: Path) -> ModelConfig:
    """Read config.json of a model directory of a known family. Raises ModelError."""
    return _read_config(model_dir, FAMILIES, MODEL_TYPES)
