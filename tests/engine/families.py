"""A small random model of each family, in transformers' own classes."""

from copy import deepcopy
from pathlib import Path

import torch
from transformers import (
    ApertusConfig,
    ApertusForCausalLM,
    ArceeConfig,
    ArceeForCausalLM,
    AttentionInterface,
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Exaone4Config,
    Exaone4ForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    HeliumConfig,
    HeliumForCausalLM,
    HunYuanDenseV1Config,
    HunYuanDenseV1ForCausalLM,
    Jais2Config,
    Jais2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    NemotronConfig,
    NemotronForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.gemma3.modeling_gemma3 import eager_attention_forward

from .family_shapes import (
    DYNAMIC,
    FULL,
    GPT2,
    HALF,
    HALF_ROTATED,
    HEAD_DIM_16,
    LLAMA3,
    LONGROPE,
    MULTIPLIERS,
    OLMO,
    PHI3,
    PLAIN,
    SCALED_QUERIES,
    SMALL,
    TWO_LAYERS,
    YARN,
    Families,
)
from .mixtures import MIXTURES

DENSE: Families = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3)),
    "llama dynamic": (LlamaForCausalLM, LlamaConfig(**SMALL, rope_parameters=DYNAMIC)),
    "mistral": (MistralForCausalLM, MistralConfig(**SMALL, sliding_window=11)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**HEAD_DIM_16)),
    "qwen2 window": (
        Qwen2ForCausalLM,
        Qwen2Config(**HEAD_DIM_16, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    ),
    "qwen2 yarn": (Qwen2ForCausalLM, Qwen2Config(**HEAD_DIM_16, rope_parameters=YARN)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
    "qwen3 yarn": (
        Qwen3ForCausalLM,
        Qwen3Config(**SMALL, rope_parameters={**YARN, "beta_fast": 4, "attention_factor": 1.3, "truncate": False}),
    ),
    "apertus": (ApertusForCausalLM, ApertusConfig(**TWO_LAYERS | {"initializer_range": 0.15}, rope_parameters=LLAMA3)),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, sliding_window=13, query_pre_attn_scalar=24)),
    "gemma3 softcap": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **{**SMALL, "num_hidden_layers": 7},
            sliding_window=13,
            final_logit_softcapping=30.0,
            attn_logit_softcapping=20.0,
            attn_implementation="eager_with_softcap",
        ),
    ),
    "gemma": (GemmaForCausalLM, GemmaConfig(**SMALL, hidden_act="gelu_pytorch_tanh")),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **SMALL,
            sliding_window=13,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=20.0,
            attn_implementation="eager",
        ),
    ),
    "granite": (
        GraniteForCausalLM,
        GraniteConfig(**HEAD_DIM_16, **MULTIPLIERS),
    ),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**{**SMALL, "num_hidden_layers": 4}, use_sliding_window=True, sliding_window=11),
    ),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**OLMO, attention_bias=True)),
    "olmo3": (Olmo3ForCausalLM, Olmo3Config(**OLMO, sliding_window=11)),
    "cohere": (CohereForCausalLM, CohereConfig(**HEAD_DIM_16, logit_scale=0.7)),
    "cohere2": (
        Cohere2ForCausalLM,
        Cohere2Config(**{**HEAD_DIM_16, "num_hidden_layers": 4}, sliding_window=11, logit_scale=0.7),
    ),
    "glm": (GlmForCausalLM, GlmConfig(**SMALL)),
    "glm4": (Glm4ForCausalLM, Glm4Config(**SMALL)),
    "starcoder2": (Starcoder2ForCausalLM, Starcoder2Config(**HEAD_DIM_16, sliding_window=11)),
    "phi": (PhiForCausalLM, PhiConfig(**HEAD_DIM_16)),
    "stablelm": (StableLmForCausalLM, StableLmConfig(**HALF_ROTATED, use_qkv_bias=True)),
    "stablelm in parallel": (StableLmForCausalLM, StableLmConfig(**HALF_ROTATED, use_parallel_residual=True)),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**PLAIN, intermediate_size=80)),
    "gpt_neox one after the other": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**PLAIN, intermediate_size=80, use_parallel_residual=False, hidden_act="gelu_fast"),
    ),
    "gptj": (GPTJForCausalLM, GPTJConfig(**GPT2, rotary_dim=12)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "gpt_bigcode": (GPTBigCodeForCausalLM, GPTBigCodeConfig(**GPT2)),
    "gpt_bigcode without groups": (GPTBigCodeForCausalLM, GPTBigCodeConfig(**GPT2, multi_query=False)),
    "opt": (OPTForCausalLM, OPTConfig(**PLAIN, ffn_dim=80, word_embed_proj_dim=96)),
    "falcon 7b": (FalconForCausalLM, FalconConfig(**PLAIN)),
    "falcon 40b": (FalconForCausalLM, FalconConfig(**PLAIN, num_kv_heads=2, new_decoder_architecture=True, bias=True)),
    "falcon one after the other": (FalconForCausalLM, FalconConfig(**PLAIN, parallel_attn=False, multi_query=False)),
    "cohere with norms of heads": (CohereForCausalLM, CohereConfig(**HEAD_DIM_16, use_qk_norm=True, logit_scale=0.7)),
    "stablelm with norms of heads": (StableLmForCausalLM, StableLmConfig(**HALF_ROTATED, qk_layernorm=True)),
    "seed_oss": (SeedOssForCausalLM, SeedOssConfig(**SMALL, attention_bias=True, attention_out_bias=False)),
    "ernie": (Ernie4_5ForCausalLM, Ernie4_5Config(**SMALL, use_bias=True)),
    "helium": (HeliumForCausalLM, HeliumConfig(**HEAD_DIM_16)),
    "nemotron": (
        NemotronForCausalLM,
        NemotronConfig(**TWO_LAYERS | {"initializer_range": 0.15}, rope_parameters=HALF),
    ),
    "arcee": (ArceeForCausalLM, ArceeConfig(**SMALL, mlp_bias=True, rope_parameters=YARN)),
    "jais2": (Jais2ForCausalLM, Jais2Config(**SMALL)),
    "exaone4": (Exaone4ForCausalLM, Exaone4Config(**{**SMALL, "num_hidden_layers": 4}, sliding_window=11)),
    "exaone4 without windows": (Exaone4ForCausalLM, Exaone4Config(**SMALL, sliding_window=None, layer_types=FULL)),
    "hunyuan": (
        HunYuanDenseV1ForCausalLM,
        HunYuanDenseV1Config(**SMALL, rope_parameters={**DYNAMIC, "factor": 1.0, "alpha": 50.0}),
    ),
    "granite hybrid without mamba": (
        GraniteMoeHybridForCausalLM,
        GraniteMoeHybridConfig(
            **PHI3, layer_types=["full_attention"] * 3, num_local_experts=0, num_experts_per_tok=0,
            shared_intermediate_size=72, position_embedding_type="rope", residual_multiplier=0.3,
            embedding_multiplier=7.0, attention_multiplier=0.2, mamba_n_heads=6, mamba_d_head=32,
        ),
    ),
    "olmo": (OlmoForCausalLM, OlmoConfig(**PHI3)),
    "ministral": (
        MinistralForCausalLM,
        MinistralConfig(**SMALL, sliding_window=11, layer_types=["sliding_attention", *FULL[1:]]),
    ),
    "ministral3": (
        Ministral3ForCausalLM,
        Ministral3Config(**SMALL, rope_parameters={**YARN, "original_max_position_embeddings": 96, **SCALED_QUERIES}),
    ),
    "phi3": (Phi3ForCausalLM, Phi3Config(**PHI3, sliding_window=11)),
    "phi3 longrope": (
        Phi3ForCausalLM,
        Phi3Config(**PHI3, original_max_position_embeddings=96, rope_parameters=LONGROPE),
    ),
    "phi3 half rotated": (
        Phi3ForCausalLM,
        Phi3Config(
            **PHI3,
            original_max_position_embeddings=96,
            rope_parameters={
                **LONGROPE, "partial_rotary_factor": 0.5, "short_factor": [1.5] * 4, "long_factor": [9.0] * 4,
            },
        ),
    ),
}  # fmt: skip

FAMILIES = DENSE | MIXTURES

# All ops that Llama doesn't have, with heads that Triton's attention takes.
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
WIDE_HEADS = {**WIDE, "head_dim": 64, "num_key_value_heads": 1}
TRITON_FAMILIES: Families = {
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**OLMO | WIDE)),
    "cohere": (CohereForCausalLM, CohereConfig(**PHI3 | WIDE, logit_scale=0.7, use_qk_norm=True)),
    "gpt_oss": (
        GptOssForCausalLM,
        GptOssConfig(
            **SMALL | WIDE_HEADS,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=11,
            swiglu_limit=2.5,
        ),
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2 | {"n_embd": 128, "n_head": 2, "n_layer": 2})),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**PLAIN | WIDE, intermediate_size=80)),
    "opt": (OPTForCausalLM, OPTConfig(**PLAIN | WIDE, ffn_dim=80, word_embed_proj_dim=128)),
    "apertus": (
        ApertusForCausalLM,
        ApertusConfig(**SMALL | WIDE_HEADS | {"num_hidden_layers": 1}, rope_parameters=LLAMA3),
    ),
    "glm4 moe": (
        Glm4MoeForCausalLM,
        Glm4MoeConfig(
            **SMALL | WIDE_HEADS | {"num_hidden_layers": 1},
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=40,
            first_k_dense_replace=0,
        ),
    ),
    "llama4": (
        Llama4ForCausalLM,
        Llama4TextConfig(**SMALL | WIDE_HEADS, num_local_experts=3, moe_layers=[1], no_rope_layers=[1, 0]),
    ),
}


def eager_with_softcap(module: torch.nn.Module, *args: torch.Tensor, **settings: object) -> tuple[torch.Tensor, ...]:
    """transformers' Gemma 3 has the formula, but leaves it out: what it knows of Gemma 2's cap is not passed on."""
    return eager_attention_forward(module, *args, softcap=module.attn_logit_softcapping, **settings)


AttentionInterface.register("eager_with_softcap", eager_with_softcap)
AttentionMaskInterface.register("eager_with_softcap", eager_mask)


def randomise(model: PreTrainedModel) -> None:
    """Norm weights and biases too, which are initialised to what hides them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for name, values in model.state_dict().items():  # some are buffers
            if name.endswith("e_score_correction_bias"):
                values.copy_(torch.randn(values.shape, generator=generator) * 0.2)


def save(family: str, directory: Path, families: Families = FAMILIES) -> PreTrainedModel:
    """Write the model of that family to ``directory`` and return it, fp32."""
    architecture, config = families[family]
    torch.manual_seed(0)
    model = architecture(deepcopy(config)).eval()  # a model changes it
    model.set_experts_implementation("eager")  # the others know no fp64
    randomise(model)
    model.save_pretrained(directory)
    return model
