"""Model families, chosen by what config.json says. No torch here: a model is refused before its weights are there."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..checkpoint.errors import ModelError
from ..checkpoint.json_files import read_json
from .apertus import ApertusFields, apertus
from .cohere import CohereFields, cohere, cohere2
from .config import Family, Fields, HfConfig, ModelConfig
from .ernie import ErnieFields, ErnieMoeFields, ernie, ernie_moe, helium
from .exaone4 import Exaone4Fields, exaone4
from .experts_config import ExpertsFields
from .falcon import FalconFields, falcon
from .gemma import gemma, gemma2
from .gemma3 import gemma3
from .glm import GlmFields, glm, glm4
from .glm_moe import DeepSeekFields, Glm4MoeFields, dots1, glm4_moe
from .gpt2 import Gpt2Fields, gpt2, gpt_bigcode
from .gpt_neox import GptNeoxFields, gpt_neox
from .gpt_oss import GptOssFields, gpt_oss
from .gptj import GptJFields, gptj
from .granite import GraniteFields, GraniteHybridFields, GraniteMoeFields, granite, granite_hybrid, granite_moe
from .hunyuan import HunyuanFields, hunyuan
from .llama import InternLm3Fields, internlm3, llama, ministral, ministral3, mistral
from .llama4 import Llama4Fields, llama4
from .minimax_m2 import MiniMaxM2Fields, minimax_m2
from .mixtral import mixtral
from .multimodal import Llama4TextFields, MultimodalFields, multimodal, multimodal_llama4
from .nemotron import ArceeFields, Jais2Fields, NemotronFields, arcee, jais2, nemotron
from .olmo import OlmoFields, olmo, olmo2, olmo3
from .olmoe import OlmoeFields, olmoe
from .opt import OptFields, opt
from .phi import PhiFields, phi
from .phi3 import phi3
from .phimoe import PhimoeFields, phimoe
from .qwen import qwen2, qwen3
from .qwen_moe import Qwen2MoeFields, qwen2_moe, qwen3_moe
from .seed_oss import SeedOssFields, seed_oss
from .smollm3 import SmolLm3Fields, smollm3
from .stablelm import StableLmFields, stablelm
from .starcoder2 import StarCoder2Fields, starcoder2

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "MinistralForCausalLM": ministral,
    "Ministral3ForCausalLM": ministral3,
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
    "GraniteMoeForCausalLM": granite_moe,
    "GraniteMoeSharedForCausalLM": granite_moe,
    "GraniteMoeHybridForCausalLM": granite_hybrid,
    "SmolLM3ForCausalLM": smollm3,
    "OlmoForCausalLM": olmo,
    "Olmo2ForCausalLM": olmo2,
    "Olmo3ForCausalLM": olmo3,
    "CohereForCausalLM": cohere,
    "Cohere2ForCausalLM": cohere2,
    "GlmForCausalLM": glm,
    "Glm4ForCausalLM": glm4,
    "Glm4MoeForCausalLM": glm4_moe,
    "Dots1ForCausalLM": dots1,
    "MiniMaxM2ForCausalLM": minimax_m2,
    "Starcoder2ForCausalLM": starcoder2,
    "StableLmForCausalLM": stablelm,
    "GPTNeoXForCausalLM": gpt_neox,
    "GPTJForCausalLM": gptj,
    "GPT2LMHeadModel": gpt2,
    "GPTBigCodeForCausalLM": gpt_bigcode,
    "OPTForCausalLM": opt,
    "FalconForCausalLM": falcon,
    "SeedOssForCausalLM": seed_oss,
    "Ernie4_5ForCausalLM": ernie,
    "Ernie4_5_ForCausalLM": ernie,  # in its first checkpoints
    "Ernie4_5_MoeForCausalLM": ernie_moe,
    "HeliumForCausalLM": helium,
    "NemotronForCausalLM": nemotron,
    "ArceeForCausalLM": arcee,
    "ApertusForCausalLM": apertus,
    "Jais2ForCausalLM": jais2,
    "Exaone4ForCausalLM": exaone4,
    "HunYuanDenseV1ForCausalLM": hunyuan,
    "InternLM3ForCausalLM": internlm3,
    "Llama4ForCausalLM": llama4,
    "Llama4ForConditionalGeneration": multimodal_llama4,
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
_MLA = "latent attention (MLA), whose cache is one vector a token, has no kernel here"
_ALIBI = "ALiBi, a bias by distance, is in no attention kernel here"
_LINEAR = "its layers of linear attention keep a state, for which no kernel is here"
_MAMBA = "its layers of Mamba keep a state, for which no kernel is here"
_CODE = "its code is not in transformers, so there is nothing to compare with"
# Why others are not served.
REFUSED = {
    **dict.fromkeys(("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM"), _MLA),
    **dict.fromkeys(("KimiK25ForConditionalGeneration", "MiniCPM3ForCausalLM", "Glm4MoeLiteForCausalLM"), _MLA),
    **dict.fromkeys(("BloomForCausalLM", "MPTForCausalLM", "MptForCausalLM", "JAISLMHeadModel"), _ALIBI),
    **dict.fromkeys(("Qwen3NextForCausalLM", "MiniMaxForCausalLM", "KimiLinearForCausalLM"), _LINEAR),
    **dict.fromkeys(("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"), _LINEAR),
    **dict.fromkeys(("NemotronHForCausalLM", "JambaForCausalLM", "FalconH1ForCausalLM", "Zamba2ForCausalLM"), _MAMBA),
    **dict.fromkeys(("InternLM2ForCausalLM", "MiniCPMForCausalLM", "ChatGLMModel", "QWenLMHeadModel"), _CODE),
    **dict.fromkeys(("ExaoneForCausalLM", "XverseForCausalLM"), _CODE),
    "BaichuanForCausalLM": f"{_CODE}; the 13B model needs ALiBi, too",
    "DbrxForCausalLM": "clipped Q, K and V are not known here",
    "DeciLMForCausalLM": "heads and widths differ from layer to layer",
    "Lfm2ForCausalLM": "its layers of convolutions have no kernel here",
    "MllamaForConditionalGeneration": "its layers of cross-attention to images are not known here",
    "PaliGemmaForConditionalGeneration": "a prompt attends to all of itself, which attention here does not do",
    **dict.fromkeys(
        ("Gemma3nForConditionalGeneration", "Gemma3nForCausalLM", "Gemma4ForConditionalGeneration"),
        "embeddings for each layer and shared KV are not known here",
    ),
    **dict.fromkeys(("MambaForCausalLM", "Mamba2ForCausalLM"), "a state-space model: there is no attention in it"),
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
    granite_moe: GraniteMoeFields,
    granite_hybrid: GraniteHybridFields,
    smollm3: SmolLm3Fields,
    cohere: CohereFields,
    cohere2: CohereFields,
    glm: GlmFields,
    glm4: GlmFields,
    glm4_moe: Glm4MoeFields,
    dots1: DeepSeekFields,
    minimax_m2: MiniMaxM2Fields,
    starcoder2: StarCoder2Fields,
    phi: PhiFields,
    stablelm: StableLmFields,
    gpt_neox: GptNeoxFields,
    gptj: GptJFields,
    gpt2: Gpt2Fields,
    gpt_bigcode: Gpt2Fields,
    opt: OptFields,
    falcon: FalconFields,
    seed_oss: SeedOssFields,
    ernie: ErnieFields,
    ernie_moe: ErnieMoeFields,
    nemotron: NemotronFields,
    arcee: ArceeFields,
    apertus: ApertusFields,
    llama4: Llama4Fields,
    jais2: Jais2Fields,
    exaone4: Exaone4Fields,
    hunyuan: HunyuanFields,
    internlm3: InternLm3Fields,
    olmo: OlmoFields,
    multimodal: MultimodalFields,
    multimodal_llama4: Llama4TextFields,
}
# For a config.json that names no architecture.
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
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
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "dots1": "Dots1ForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_bigcode": "GPTBigCodeForCausalLM",
    "opt": "OPTForCausalLM",
    "falcon": "FalconForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "helium": "HeliumForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "arcee": "ArceeForCausalLM",
    "apertus": "ApertusForCausalLM",
    "llama4": "Llama4ForConditionalGeneration",
    "llama4_text": "Llama4ForCausalLM",
    "jais2": "Jais2ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
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
    path = model_dir / "config.json"
    fields = read_json(path, dict[str, Any])
    if fields is None:
        raise ModelError(f"{path}: No such file. A model directory in Hugging Face format has one.")
    return parse_config(fields, path)


def parse_config(fields: Fields, path: Path) -> ModelConfig:
    """The model that a config.json describes; ``path``: whose faults are told. Raises ModelError."""
    try:
        architecture = _architecture(msgspec.convert(fields, _Said))
        family = FAMILIES[architecture]
        kind = OWN_FIELDS.get(family, HfConfig)
        hf = msgspec.convert(kind.fields(fields), kind)
        hf.architectures = [architecture]
        return family(hf)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: this is no JSON that can be used: {error}.") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


class _Said(Struct):
    """Read first: the fields of an unknown architecture mean nothing."""

    architectures: list[str] | None = None
    model_type: str | None = None


def _architecture(said: _Said) -> str:
    """The known one that config.json names. Raises ModelError."""
    known = ", ".join(FAMILIES)
    if said.architectures:
        architecture = said.architectures[0]
        if architecture in REFUSED:
            raise ModelError(f"{architecture}: {REFUSED[architecture]}")
        if architecture not in FAMILIES:
            raise ModelError(f"architecture {architecture} is not known (known: {known})")
        return architecture
    if said.model_type not in MODEL_TYPES:
        raise ModelError(f"no architectures, and model_type {said.model_type} is not known (known: {known})")
    return MODEL_TYPES[said.model_type]
