"""Each family against transformers: a small random model in fp32, the same greedy tokens."""

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from headwater.engine.messages import SamplingParams

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
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
PROMPTS = [[7], list(range(3, 43)), [5, 9] * 30]
FAMILIES: list[tuple[type[PreTrainedModel], PretrainedConfig]] = [
    (MistralForCausalLM, MistralConfig(**SMALL, sliding_window=11)),
    (Qwen2ForCausalLM, Qwen2Config(**{**SMALL, "head_dim": 16})),
    (
        Qwen2ForCausalLM,
        Qwen2Config(**{**SMALL, "head_dim": 16}, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    ),
    (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
    (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, sliding_window=13, query_pre_attn_scalar=24)),
    (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **{**SMALL, "num_hidden_layers": 7},
            sliding_window=13,
            final_logit_softcapping=30.0,
            attn_logit_softcapping=20.0,
            attn_implementation="eager",
        ),
    ),
]


def randomise(model: PreTrainedModel) -> None:
    """Norm weights and biases too, which are initialised to what hides them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=lambda value: getattr(value, "__name__", ""))
def test_greedy_tokens_are_those_of_transformers(
    family: type[PreTrainedModel], config: PretrainedConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = family(config).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    answers = generate(tiny_engine(tmp_path), [(prompt, SamplingParams(12, greedy=True)) for prompt in PROMPTS])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert answer == logits.argmax(-1).tolist()
