"""Each family against transformers: a small random model in fp32, the same greedy tokens and the same logits."""

import json
import math
from pathlib import Path

import pytest
import torch

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.messages import SamplingParams
from headwater.engine.models.families import read_config

from .families import FAMILIES, TRITON_FAMILIES, save
from .family_shapes import LONGROPE, PROMPTS
from .forward import prompt_logits
from .tiny import generate, tiny_engine


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


@pytest.mark.parametrize("family", TRITON_FAMILIES)
def test_tokens_do_not_depend_on_the_company(family: str, tmp_path: Path) -> None:
    save(family, tmp_path, TRITON_FAMILIES)
    engine = tiny_engine(tmp_path, dtype="bfloat16", prefix_cache=False)
    requests = [(prompt, SamplingParams(12, greedy=False, seed=len(prompt))) for prompt in PROMPTS]
    alone = [generate(engine, [request])[0] for request in requests]
    assert generate(engine, requests * 3) == alone * 3


@pytest.mark.parametrize("family", TRITON_FAMILIES)
def test_the_triton_backend_has_what_llama_does_not_need(family: str, tmp_path: Path) -> None:
    model = save(family, tmp_path, TRITON_FAMILIES).double()
    prompt = [5, 9, 7]  # the interpreter takes a while for each row
    with torch.inference_mode():
        want = model(torch.tensor([prompt])).logits[0].float()
    got = prompt_logits(tmp_path, prompt, backend_name="triton")
    torch.testing.assert_close(got, want, rtol=0.0, atol=1e-4)


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


def test_dynamic_rope_is_served_up_to_the_original_context(tmp_path: Path) -> None:
    config = read_config(saved_config(tmp_path, "llama dynamic"))
    assert config.max_positions == 128
    assert "original context of 128 tokens: keys" in config.notes[0]


def test_llama_4_ends_where_its_chunks_and_factors_would_begin(tmp_path: Path) -> None:
    config = read_config(saved_config(tmp_path, "llama4", max_position_embeddings=1048576))
    assert config.max_positions == 8191
    assert "up to 8191 tokens, not 1048576" in config.notes[0]
    bare = saved_config(tmp_path, "llama4", max_position_embeddings=99, attn_temperature_tuning=False)
    assert (read_config(bare).max_positions, read_config(bare).notes) == (99, ())


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


A_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": None, "rope_scaling": {"type": "bent", "factor": 2.0}}, "'bent' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": "four"}}, "RoPE parameters: Expected"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported"),
        (
            {"architectures": ["PersimmonForCausalLM"]},
            "PersimmonForCausalLM is not known .known: LlamaForCausalLM, .*Phi3",
        ),
        ({"architectures": ["DeepseekV3ForCausalLM"]}, "DeepseekV3ForCausalLM: latent attention"),
        ({"architectures": ["BloomForCausalLM"]}, "BloomForCausalLM: ALiBi"),
        ({"architectures": ["Glm4MoeForCausalLM"], **A_MIXTURE, "n_group": 2}, "n_group is 2"),
        ({"architectures": ["Ernie4_5_MoeForCausalLM"], **A_MIXTURE, "use_bias": True}, "use_bias"),
        ({"architectures": ["Llama4ForCausalLM"], "interleave_moe_layer_step": 0}, "moe_layer_step 0"),
        ({"architectures": ["FalconForCausalLM"], "alibi": True}, "alibi"),
        ({"architectures": ["OPTForCausalLM"], "do_layer_norm_before": False}, "OPT-350m"),
        ({"architectures": ["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"model_type": "t5"}}, "model_type t5"),
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
