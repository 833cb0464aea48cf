"""A small random model of each family, written as llama.cpp's converter writes it, comes back as it was."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.checkpoint.convert import SERVED_ONLY, convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_config import model_config
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.models.families import read_config
from headwater.engine.models.rope import inverse_frequencies
from headwater.engine.models.rope_config import RopeConfig

from ..forward import prompt_logits
from .conftest import HIDDEN, write_gguf
from .gguf_models import CASES, LONG, ORIGINAL, POSITIONS, SHORT, SMALL, metadata, random_model, write

FACTORS = {"factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0, "original_positions": 8192}


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_are_those_of_the_model_that_was_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = random_model(CASES[case][0])
    path = write(tmp_path, case, model)
    ids = [5, 9, 7] * 13  # longer than the windows
    want = model(torch.tensor([ids])).logits[0]
    if CASES[case][1] in SERVED_ONLY:
        with pytest.raises(ModelError, match="is served as the file has it"):
            convert(path, tmp_path / "out")
    else:
        convert(path, tmp_path / "out")
        converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        torch.testing.assert_close(converted(torch.tensor([ids])).logits[0], want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prompt_logits(tmp_path / "out", ids), want, rtol=1e-4, atol=1e-4)
    served = prompt_logits(cached_conversion(path), ids)  # the file's own tensors
    torch.testing.assert_close(served, want, rtol=1e-4, atol=1e-4)
    spread = want.std().item()
    assert spread > 0.1, "logits so close together would hide an error"


def test_a_window_makes_a_llama_a_mistral(tmp_path: Path) -> None:
    convert(write(tmp_path, "mistral with a window"), tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert config.architecture == "MistralForCausalLM"
    assert {layer.window for layer in config.layers} == {9}


def test_longrope_keeps_both_sets_of_divisors_and_its_context(tmp_path: Path) -> None:
    convert(write(tmp_path, "phi3, longrope"), tmp_path / "out")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert converted.rope_parameters["short_factor"] == SHORT
    assert converted.rope_parameters["long_factor"] == LONG
    assert (converted.max_position_embeddings, converted.original_max_position_embeddings) == (POSITIONS, ORIGINAL)
    config = read_config(tmp_path / "out")
    assert config.max_positions == ORIGINAL
    assert config.layers[0].rope.partial == 0.75


@pytest.mark.parametrize(("positions", "window"), [(4096, 2047), (8192, 0)])
def test_old_files_of_phi3_4k_have_its_window(tmp_path: Path, positions: int, window: int) -> None:
    """llama.cpp tells these models by 32 or 40 layers and a context of 4096."""
    config = Phi3Config(**SMALL | {"num_hidden_layers": 32, "max_position_embeddings": positions})
    weights = {name: tensor.detach().numpy() for name, tensor in random_model(config).named_parameters()}
    said = metadata(config, "phi3", {})
    convert(write_gguf(tmp_path / "tiny.gguf", weights, said, architecture="phi3"), tmp_path / "out")
    assert {layer.window for layer in read_config(tmp_path / "out").layers} == {window}


@pytest.mark.parametrize("rotated", [26, 30, 92])
def test_any_share_of_a_head_is_rotated_as_its_readers_compute_it(tmp_path: Path, rotated: int) -> None:
    """26 / 92 * 92 is a little less than 26 in floating point."""
    path = write(tmp_path, "phi3", changes={"phi3.attention.key_length": 92, "phi3.rope.dimension_count": rotated})
    assert int(92 * model_config(GgufFile(path))["partial_rotary_factor"]) == rotated


def test_llama_4_has_one_bound_between_long_and_short_waves(tmp_path: Path) -> None:
    said = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
    config = LlamaConfig(
        rope_parameters={**said, "rope_theta": 5e5, "original_max_position_embeddings": 8192}, head_dim=16
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    divisors = (5e5 ** -(torch.arange(0, 16, 2) / 16) / frequencies).numpy()
    assert set(divisors.round(3)) == {1.0, 16.0}
    path = write(tmp_path, "llama4", tensors={"rope_freqs.weight": divisors}, changes={"llama4.rope.freq_base": 5e5})
    found = model_config(GgufFile(path))["rope_scaling"]
    assert found == {**said, "original_max_position_embeddings": 8192}
    torch.testing.assert_close(inverse_frequencies(RopeConfig(theta=5e5, kind="llama3", **FACTORS), 16), frequencies)


Damage = tuple[str, dict[str, Any], dict[str, np.ndarray], str]
DAMAGED: dict[str, Damage] = {
    "kv heads": ("qwen2", {"qwen2.attention.head_count_kv": 3}, {}, "head_count_kv is 3, which does not divide 4"),
    "no kv heads": ("qwen2", {"qwen2.attention.head_count_kv": 0}, {}, "head_count_kv is 0"),
    "no heads": ("qwen3", {"qwen3.attention.head_count": 0}, {}, "head_count is 0"),
    "heads by layer": ("qwen3", {"qwen3.attention.head_count_kv": [2, 2]}, {}, r"head_count_kv is \[2, 2\]"),
    "layers": ("qwen2", {"qwen2.block_count": 4_000_000_000}, {}, "block_count is 4000000000, of"),
    "eps": ("qwen2", {"qwen2.attention.layer_norm_rms_epsilon": math.nan}, {}, "rms_epsilon is nan"),
    "theta": ("qwen2", {"qwen2.rope.freq_base": math.inf}, {}, "freq_base is inf"),
    "values": ("qwen3", {"qwen3.attention.value_length": 64}, {}, "value_length is not its key_length"),
    "rotation": ("qwen2", {"qwen2.rope.dimension_count": 8}, {}, "partial rotation"),
    "too much rotation": ("phi3", {"phi3.rope.dimension_count": 18}, {}, "dimension_count is 18"),
    "odd rotation": ("phi3", {"phi3.rope.dimension_count": 11}, {}, "dimension_count is 11"),
    "scaling": ("qwen2", {"qwen2.rope.scaling.type": "dynamic"}, {}, "'dynamic' is not known; known: none, linear"),
    "olmo 3": ("olmo2", {"olmo2.attention.sliding_window": 9}, {}, "OLMo 3"),
    "no logit scale": ("cohere2", {"cohere2.logit_scale": None}, {}, "no cohere2.logit_scale"),
    "no factor": ("qwen2", {"qwen2.rope.scaling.type": "yarn"}, {}, "no qwen2.rope.scaling.factor"),
    "factor": ("qwen2, yarn", {"qwen2.rope.scaling.factor": 0.0}, {}, "scaling.factor is 0.0"),
    "context": ("qwen2, yarn", {"qwen2.rope.scaling.original_context_length": 0}, {}, "original_context_length is 0"),
    "yarn's variant": ("qwen2, yarn", {"qwen2.rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier is 0"),
    "no divisors": ("phi3", {"phi3.rope.scaling.type": "longrope"}, {}, "rope_factors_short.weight is missing"),
    "divisors": (
        "phi3, longrope", {}, {"rope_factors_long.weight": np.ones(5, np.float32)}, r"factors_long.weight has shape"
    ),
    "a divisor": (
        "phi3, longrope", {}, {"rope_factors_short.weight": np.zeros(6, np.float32)}, "rope_factors_short.weight is 0.0"
    ),
    "llama3's divisors": ("qwen2", {}, {"rope_freqs.weight": np.ones(5, np.float32)}, "rope_freqs.weight has shape"),
    "a shared expert": (
        "granite moe", {}, {"blk.1.ffn_up_shexp.weight": np.ones((8, HIDDEN), np.float32)}, "with a shared expert"
    ),
    "another choice": ("glm4 moe", {"glm4moe.expert_gating_func": 1}, {}, "expert_gating_func is not that"),
    "another xielu": ("apertus", {"xielu.beta": [0.5, 0.7]}, {}, "xielu.beta is not 0.5"),
    "no xielu": ("apertus", {"xielu.alpha_n": None}, {}, "xielu.alpha_n is missing"),
    "bias": ("qwen2", {}, {"model.layers.0.self_attn.o_proj.bias": np.ones(HIDDEN, np.float32)}, "has no place"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused_by_name(case: str, tmp_path: Path) -> None:
    written, changes, tensors, message = DAMAGED[case]
    path = write(tmp_path, written, changes=changes, tensors=tensors)
    with pytest.raises(ModelError, match=message) as caught:
        convert(path, tmp_path / "out", weights=False)
    assert str(path) in str(caught.value)


def test_biases_of_qwen2_must_be_there(tmp_path: Path) -> None:
    model = random_model(CASES["qwen2"][0])
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias = None
    with pytest.raises(ModelError, match=r"blk\.0\.attn_k\.bias is missing"):
        convert(write(tmp_path, "qwen2", model), tmp_path / "out")
