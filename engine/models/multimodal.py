"""The text part of models that read images, too: their language model is a family of its own, with a config.json inside
config.json and tensors under another beginning. The rest of the file is not read.
"""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Family, Fields, HfConfig, ModelConfig
from .gemma3 import gemma3
from .llama import llama, ministral3, mistral
from .llama4 import Llama4Fields, llama4
from .qwen import qwen2, qwen3

# Of the text's tensors, as transformers wrote them at one time or another.
SPELLINGS = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("model.text_model.", "model."),
)
NOTE = "only the text part of this model is served: it reads no images"

# By the text's model_type.
TEXT_FAMILIES: dict[str, Family] = {
    "gemma3_text": gemma3,
    "llama": llama,
    "llama4_text": llama4,
    "mistral": mistral,
    "ministral3": ministral3,
    "qwen2": qwen2,
    "qwen2_vl": qwen2,
    "qwen2_vl_text": qwen2,
    "qwen2_5_vl": qwen2,
    "qwen2_5_vl_text": qwen2,
    "qwen3": qwen3,
    "qwen3_vl_text": qwen3,
}
# The inner config.json has what differs from these alone.
_QWEN2_VL: Fields = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
}  # fmt: skip
TEXT_DEFAULTS: dict[str, Fields] = {
    "gemma3_text": {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 4096,
    },
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    },
    "mistral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    "ministral3": {
        "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
    },
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3_vl_text": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 128000,
    },
}  # fmt: skip
_OUTER = ("dtype", "torch_dtype", "quantization_config", "tie_word_embeddings")  # count for the text, too


class MultimodalFields(HfConfig, kw_only=True):
    model_type: str

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return _of_the_text(said)


class Llama4TextFields(Llama4Fields, kw_only=True):
    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return _of_the_text(said)


def multimodal(hf: MultimodalFields) -> ModelConfig:
    return _text_part(TEXT_FAMILIES[hf.model_type](hf))


def multimodal_llama4(hf: Llama4TextFields) -> ModelConfig:
    return _text_part(llama4(hf))


def _of_the_text(said: Fields) -> Fields:
    text: Fields = said.get("text_config") or {}
    if not isinstance(text, dict):
        raise ModelError("text_config is no JSON object")
    model_type = text.get("model_type") or said.get("model_type")
    if model_type not in TEXT_FAMILIES:
        raise ModelError(f"text_config is of model_type {model_type} (known: {', '.join(TEXT_FAMILIES)})")
    outer = {name: said[name] for name in _OUTER if said.get(name) is not None}
    if not text:  # Qwen2-VL and 2.5-VL had all in one
        return said
    return {**TEXT_DEFAULTS.get(model_type, {}), **text, **outer, "model_type": model_type}


def _text_part(config: ModelConfig) -> ModelConfig:
    return replace(config, spellings=SPELLINGS, notes=(*config.notes, NOTE))
