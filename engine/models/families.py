"""Model families, chosen by what config.json says. No torch here: a model is refused before its weights are there."""

from pathlib import Path

from .cohere import CohereFields, cohere, cohere2
from .config import Family, HfConfig, ModelConfig
from .config import read_config as _read_config
from .experts_config import ExpertsFields
from .falcon import FalconFields, falcon
from .gemma import gemma, gemma2
from .gemma3 import gemma3
from .glm import GlmFields, glm, glm4
from .gpt2 import Gpt2Fields, gpt2, gpt_bigcode
from .gpt_neox import GptNeoxFields, gpt_neox
from .gpt_oss import GptOssFields, gpt_oss
from .gptj import GptJFields, gptj
from .granite import GraniteFields, granite
from .llama import llama, mistral
from .mixtral import mixtral
from .multimodal import MultimodalFields, multimodal
from .olmo import olmo2, olmo3
from .olmoe import OlmoeFields, olmoe
from .opt import OptFields, opt
from .phi import PhiFields, phi
from .phi3 import phi3
from .phimoe import PhimoeFields, phimoe
from .qwen import qwen2, qwen3
from .qwen_moe import Qwen2MoeFields, qwen2_moe, qwen3_moe
from .smollm3 import SmolLm3Fields, smollm3
from .stablelm import StableLmFields, stablelm
from .starcoder2 import StarCoder2Fields, starcoder2

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "GemmaForCausalLM": gemma,
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "PhiForCausalLM": phi,
    "Phi3ForCausalLM": phi3,
    "MixtralForCausalLM": mixtral,
    "Qwen2MoeForCausalLM": qwen2_moe,
    "Qwen3MoeForCausalLM": qwen3_moe,
    "OlmoeForCausalLM": olmoe,
    "GptOssForCausalLM": gpt_oss,
    "PhimoeForCausalLM": phimoe,
    "PhiMoEForCausalLM": phimoe,  # in its checkpoints
    "GraniteForCausalLM": granite,
    "SmolLM3ForCausalLM": smollm3,
    "Olmo2ForCausalLM": olmo2,
    "Olmo3ForCausalLM": olmo3,
    "CohereForCausalLM": cohere,
    "Cohere2ForCausalLM": cohere2,
    "GlmForCausalLM": glm,
    "Glm4ForCausalLM": glm4,
    "Starcoder2ForCausalLM": starcoder2,
    "StableLmForCausalLM": stablelm,
    "GPTNeoXForCausalLM": gpt_neox,
    "GPTJForCausalLM": gptj,
    "GPT2LMHeadModel": gpt2,
    "GPTBigCodeForCausalLM": gpt_bigcode,
    "OPTForCausalLM": opt,
    "FalconForCausalLM": falcon,
    "Gemma3ForConditionalGeneration": multimodal,
    "Mistral3ForConditionalGeneration": multimodal,
    "Qwen2VLForConditionalGeneration": multimodal,
    "Qwen2_5_VLForConditionalGeneration": multimodal,
    "Qwen3VLForConditionalGeneration": multimodal,
    "LlavaForConditionalGeneration": multimodal,
    "LlavaNextForConditionalGeneration": multimodal,
    "Idefics2ForConditionalGeneration": multimodal,
    "Idefics3ForConditionalGeneration": multimodal,
    "InternVLForConditionalGeneration": multimodal,
    "SmolVLMForConditionalGeneration": multimodal,
}
# Why others are not served.
REFUSED = {
    "DeepseekV2ForCausalLM": "latent attention (MLA), whose cache is one vector a token, has no kernel here",
    "DeepseekV3ForCausalLM": "latent attention (MLA), whose cache is one vector a token, has no kernel here",
    "BloomForCausalLM": "ALiBi, a bias by distance, is in no attention kernel here",
    "MPTForCausalLM": "ALiBi, a bias by distance, is in no attention kernel here",
    "BaichuanForCausalLM": "its code is not in transformers; the 13B model needs ALiBi, too",
    "Llama4ForConditionalGeneration": "a mixture of experts with chunked attention",
    "MllamaForConditionalGeneration": "its layers of cross-attention to images are not known here",
    "PaliGemmaForConditionalGeneration": "a prompt attends to all of itself, which attention here does not do",
    "Gemma3nForConditionalGeneration": "embeddings for each layer and shared KV are not known here",
    "MambaForCausalLM": "a state-space model: there is no attention in it",
    "T5ForConditionalGeneration": "an encoder beside the decoder",
}
# What is read of their config.json, where it is more than what Llama's has or has other names.
OWN_FIELDS: dict[Family, type[HfConfig]] = {
    mixtral: ExpertsFields,
    qwen2_moe: Qwen2MoeFields,
    qwen3_moe: ExpertsFields,
    olmoe: OlmoeFields,
    gpt_oss: GptOssFields,
    phimoe: PhimoeFields,
    granite: GraniteFields,
    smollm3: SmolLm3Fields,
    cohere: CohereFields,
    cohere2: CohereFields,
    glm: GlmFields,
    glm4: GlmFields,
    starcoder2: StarCoder2Fields,
    phi: PhiFields,
    stablelm: StableLmFields,
    gpt_neox: GptNeoxFields,
    gptj: GptJFields,
    gpt2: Gpt2Fields,
    gpt_bigcode: Gpt2Fields,
    opt: OptFields,
    falcon: FalconFields,
    multimodal: MultimodalFields,
}
# For a config.json that names no architecture.
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "phimoe": "PhimoeForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_bigcode": "GPTBigCodeForCausalLM",
    "opt": "OPTForCausalLM",
    "falcon": "FalconForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "idefics2": "Idefics2ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}


def read_config(model_dir: Path) -> ModelConfig:
    """Read config.json of a model directory of a known family. Raises ModelError."""
    own_fields = {name: OWN_FIELDS[family] for name, family in FAMILIES.items() if family in OWN_FIELDS}
    return _read_config(model_dir, FAMILIES, own_fields, MODEL_TYPES, REFUSED)
