"""Each family against transformers: a small random model in fp32, the same greedy tokens and the same logits."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AttentionInterface,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.gemma3.modeling_gemma3 import eager_attention_forward

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.messages import SamplingParams
from headwater.engine.models.families import read_config

from .forward import prompt_logits
from .tiny import generate, tiny_engine

SMALL = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
TWO_LAYERS = {**SMALL, "num_hidden_layers": 2}  # a choice of experts may hang on a rounding of the layers before
HEAD_DIM_16 = {**SMALL, "head_dim": 16}
EXPERTS = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
SHARED = {**TWO_LAYERS, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 56}
PHI3 = {name: value for name, value in SMALL.items() if name != "head_dim"}
PROMPTS = [[7], list(range(3, 43)), [5, 9] * 30]
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [4.0 + i for i in range(8)],
}
FAMILIES: dict[str, tuple[type[PreTrainedModel], PretrainedConfig]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3)),
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
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**TWO_LAYERS, num_local_experts=5, num_experts_per_tok=2, sliding_window=11),
    ),
    "qwen2 moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig(**SHARED, decoder_sparse_step=2)),
    "qwen2 moe window": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(
            **SHARED, qkv_bias=False, norm_topk_prob=True, use_sliding_window=True, sliding_window=9,
            max_window_layers=1,
        ),
    ),
    "qwen3 moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**TWO_LAYERS, **EXPERTS, norm_topk_prob=True, mlp_only_layers=[1]),
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


def save(family: str, directory: Path) -> PreTrainedModel:
    architecture, config = FAMILIES[family]
    torch.manual_seed(0)
    model = architecture(config).eval()
    model.set_experts_implementation("eager")  # the others know no fp64
    randomise(model)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = save(family, tmp_path).double()  # the same weights, without roundings of its own
    for prompt in PROMPTS[1:]:
        with torch.inference_mode():
            want = model(torch.tensor([prompt])).logits[0].float()
        got = prompt_logits(tmp_path, prompt)
        assert want.abs().max() > 5.0  # far from what a model without weights gives
        torch.testing.assert_close(got, want, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = save(family, tmp_path)
    answers = generate(tiny_engine(tmp_path), [(prompt, SamplingParams(12, greedy=True)) for prompt in PROMPTS])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert answer == logits.argmax(-1).tolist()


def saved_config(directory: Path, family: str, **changes: object) -> Path:
    """config.json of a family, with other values at the top level."""
    FAMILIES[family][1].save_pretrained(directory)
    path = directory / "config.json"
    fields = json.loads(path.read_text()) | {"architectures": [FAMILIES[family][0].__name__]} | changes
    path.write_text(json.dumps(fields))
    return directory


def test_longrope_is_served_up_to_the_context_of_its_short_factors(tmp_path: Path) -> None:
    config = read_config(saved_config(tmp_path, "phi3 longrope"))
    assert config.max_positions == 96
    assert "original context of 96 tokens, not 128" in config.notes[0]


def test_phi3_in_the_words_of_its_first_checkpoints(tmp_path: Path) -> None:
    scaling = {"type": "su", "short_factor": LONGROPE["short_factor"], "long_factor": LONGROPE["long_factor"]}
    directory = saved_config(
        tmp_path, "phi3", rope_parameters=None, rope_theta=10000.0, rope_scaling=scaling,
        original_max_position_embeddings=32, partial_rotary_factor=0.75,
    )  # fmt: skip
    rope = read_config(directory).layers[0].rope
    assert (rope.kind, rope.partial, rope.original_positions) == ("longrope", 0.75, 32)
    assert rope.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(32)))


def test_yarn_reaches_its_factor_times_the_original_context(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    config = read_config(saved_config(tmp_path, "qwen2", rope_parameters=None, rope_scaling=scaling))
    assert config.max_positions == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": "four"}}, "RoPE parameters: Expected"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported"),
        ({"architectures": ["DbrxForCausalLM"]}, "DbrxForCausalLM is not known .known: LlamaForCausalLM, .*Phi3"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_config(saved_config(tmp_path, "qwen2", **changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_type_says_what_names_no_architecture(tmp_path: Path, family: str) -> None:
    named = read_config(saved_config(tmp_path, family))
    assert read_config(saved_config(tmp_path, family, architectures=None)) == named
    assert read_config(saved_config(tmp_path, family, architectures=[])) == named


def test_a_byte_order_mark_and_a_nan_are_no_faults(tmp_path: Path) -> None:
    named = read_config(saved_config(tmp_path, "qwen2", not_read=float("nan")))
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_config(tmp_path) == named


def test_a_rotation_in_part_needs_heads_without_norm(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="partial_rotary_factor"):
        read_config(saved_config(tmp_path, "qwen3", partial_rotary_factor=0.5))
