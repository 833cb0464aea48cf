"""The text part of a multimodal checkpoint, under each name that its tensors have had: the tokens of the text model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from headwater.engine.models.families import read_config

from .families import randomise
from .family_shapes import HEAD_DIM_16, PROMPTS, SCALED_QUERIES, SMALL, TWO_LAYERS, YARN
from .forward import prompt_logits

OLD, NEW = ("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")
INNER = ("model.text_model.", "lm_head.")
SCALED = {**YARN, "original_max_position_embeddings": 96, **SCALED_QUERIES}
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}
# The text's config, the beginnings of its tensors (the model's, the head's), and how the text's config.json differs
# from that of the text alone: with None it is the outer one.
Case = tuple[str, object, tuple[str, str], dict[str, object] | None]
CASES: dict[str, Case] = {
    "gemma3": ("Gemma3ForConditionalGeneration", Gemma3TextConfig(**SMALL, sliding_window=13), OLD, {}),
    "mistral3": ("Mistral3ForConditionalGeneration", MistralConfig(**SMALL, sliding_window=None), OLD, {}),
    "mistral3, new": ("Mistral3ForConditionalGeneration", MistralConfig(**SMALL, sliding_window=None), NEW, {}),
    "ministral3": ("Mistral3ForConditionalGeneration", Ministral3Config(**SMALL, rope_parameters=SCALED), NEW, {}),
    "qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        Qwen2Config(**HEAD_DIM_16),
        ("model.", "lm_head."),
        None,
    ),
    "qwen2-vl, new": (
        "Qwen2VLForConditionalGeneration",
        Qwen2Config(**HEAD_DIM_16),
        NEW,
        {"model_type": "qwen2_vl_text", "rope_parameters": {"rope_theta": 10000.0, **MROPE}},
    ),
    "qwen3-vl": ("Qwen3VLForConditionalGeneration", Qwen3Config(**SMALL), NEW, {"model_type": "qwen3_vl_text"}),
    "llava": ("LlavaForConditionalGeneration", LlamaConfig(**SMALL), OLD, {}),
    "idefics2": ("Idefics2ForConditionalGeneration", MistralConfig(**SMALL, sliding_window=None), INNER, {}),
    "internvl": ("InternVLForConditionalGeneration", Qwen2Config(**HEAD_DIM_16), OLD, {}),
    "llama4": (
        "Llama4ForConditionalGeneration",
        Llama4TextConfig(**TWO_LAYERS, num_local_experts=3, moe_layers=[1], no_rope_layers=[1, 0]),
        OLD,
        {},
    ),
    "smolvlm": ("SmolVLMForConditionalGeneration", LlamaConfig(**SMALL), INNER, {}),
}


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_text_part_is_the_text_model(case: str, tmp_path: Path) -> None:
    architecture, config, (body, head), changes = CASES[case]
    torch.manual_seed(0)
    text = AutoModelForCausalLM.from_config(config).eval()
    randomise(text)
    tensors = {
        name.replace("model.", body, 1) if name.startswith("model.") else name.replace("lm_head.", head, 1): tensor
        for name, tensor in text.state_dict().items()
    }
    tied = text.config.tie_word_embeddings
    tensors = {name: tensor for name, tensor in tensors.items() if not (tied and name.startswith(head))}
    save_file(tensors | {"vision_tower.patch": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    inner = text.config.to_dict() | (changes or {})
    outer = {"architectures": [architecture], "tie_word_embeddings": tied}
    said = inner | {"model_type": "qwen2_5_vl", "rope_scaling": MROPE} if changes is None else {"text_config": inner}
    (tmp_path / "config.json").write_text(json.dumps(said | outer))
    for prompt in PROMPTS[1:]:
        want = text.double()(torch.tensor([prompt])).logits[0].float()
        torch.testing.assert_close(prompt_logits(tmp_path, prompt), want, rtol=0.0, atol=1e-4)
    assert "reads no images" in read_config(tmp_path).notes[-1]


@torch.inference_mode()
def test_a_gemma3_that_reads_images_gives_its_own_logits_of_text(tmp_path: Path) -> None:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=Gemma3TextConfig(**SMALL, sliding_window=13), vision_config=vision, mm_tokens_per_image=4,
            boi_token_index=317, eoi_token_index=318, image_token_index=319,
        )
    ).eval()  # fmt: skip
    randomise(model)
    model.save_pretrained(tmp_path)
    prompt = PROMPTS[1]
    want = model.double()(torch.tensor([prompt])).logits[0].float()
    torch.testing.assert_close(prompt_logits(tmp_path, prompt), want, rtol=0.0, atol=1e-4)


def test_what_the_inner_config_leaves_out_is_its_class_s_default(tmp_path: Path) -> None:
    """The config.json of google/gemma-3-4b-it, as far as it concerns the text."""
    said = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(said))
    config = read_config(tmp_path)
    want = Gemma3Config(**said).text_config
    assert (config.vocab_size, config.head_dim, config.max_positions) == (want.vocab_size, 256, 131072)
    assert (config.num_q_heads, config.num_kv_heads) == (want.num_attention_heads, want.num_key_value_heads) == (8, 4)
    windowed, full = config.layers[4], config.layers[5]
    assert (windowed.window, windowed.rope.theta, windowed.rope.kind) == (1024, 10000.0, "default")
    assert (full.window, full.rope.theta, full.rope.kind, full.rope.factor) == (0, 1e6, "linear", 8.0)
    assert (config.dtype, config.tie_embeddings, config.attention_scale) == ("bfloat16", True, 256**-0.5)
