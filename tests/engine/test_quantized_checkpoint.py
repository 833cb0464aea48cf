"""Checkpoints with 8-bit weights: the logits are those of the model with the same weights written out as floats."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.models.families import read_config

from .forward import prompt_logits
from .quantized_checkpoint import compressed_tensors, quantize_checkpoint

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
FP8, INT8 = torch.float8_e4m3fn, torch.int8
FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [40, 24]}
# dtype, rows and columns that share a scale (0: all), quantization_config
CHECKPOINTS: dict[str, tuple[torch.dtype, tuple[int, int], dict[str, Any]]] = {
    "fp8 per channel": (FP8, (1, 0), compressed_tensors("float")),
    "fp8 per tensor": (FP8, (0, 0), compressed_tensors("float", strategy="tensor")),
    "int8 per channel": (INT8, (1, 0), compressed_tensors("int")),
    "int8 per tensor": (INT8, (0, 0), compressed_tensors("int", strategy="tensor")),
    "int8 in groups": (INT8, (1, 32), compressed_tensors("int", strategy="group", group_size=32)),
    "fp8 in blocks": (FP8, (40, 24), compressed_tensors("float", strategy="block", block_structure=[40, 24])),
    "plain fp8 in blocks": (FP8, (40, 24), FP8_BLOCKS),
    "plain fp8 per tensor": (FP8, (0, 0), {"quant_method": "fp8", "activation_scheme": "static"}),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_logits_are_those_of_the_dequantised_weights(
    kind: str, tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    dtype, block, quantization = CHECKPOINTS[kind]
    dense = quantize_checkpoint(tiny_llama[0], tmp_path / "model", dtype, block, quantization)
    got, want = prompt_logits(tmp_path / "model", PROMPT), prompt_logits(dense, PROMPT)
    torch.testing.assert_close(got, want, rtol=0.0, atol=2e-4)
    assert (want - prompt_logits(tiny_llama[0], PROMPT)).abs().max() > 0.05  # what quantising itself changes


def test_a_fused_matrix_in_another_order_keeps_its_scales(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=320, hidden_size=96, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=None, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    Phi3ForCausalLM(config).save_pretrained(tmp_path / "source")
    dense = quantize_checkpoint(tmp_path / "source", tmp_path / "model", INT8, (1, 0), compressed_tensors("int"))
    got, want = prompt_logits(tmp_path / "model", PROMPT), prompt_logits(dense, PROMPT)
    torch.testing.assert_close(got, want, rtol=0.0, atol=2e-4)


def test_one_linear_with_quantised_and_unquantised_parts(
    tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    dense = quantize_checkpoint(tiny_llama[0], tmp_path / "model", INT8, (1, 0), compressed_tensors("int"))
    stored, floats = (load_file(where / "model.safetensors") for where in (tmp_path / "model", dense))
    excluded = "model.layers.1.self_attn.k_proj.weight"
    stored[excluded] = floats[excluded]
    del stored[f"{excluded}_scale"]
    save_file(stored, tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(
        prompt_logits(tmp_path / "model", PROMPT), prompt_logits(dense, PROMPT), rtol=0.0, atol=2e-4
    )


def test_a_block_wise_checkpoint_says_that_it_is_widened(
    tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    quantize_checkpoint(tiny_llama[0], tmp_path / "model", FP8, (40, 24), FP8_BLOCKS)
    assert "widened to the model's dtype" in read_config(tmp_path / "model").notes[0]
    rounded = prompt_logits(tmp_path / "model", PROMPT, quantize="int8")  # may be rounded again
    assert 0 < (rounded - prompt_logits(tmp_path / "model", PROMPT)).abs().max() < 2.0


REFUSED = {
    "eetq": ({"quant_method": "eetq"}, "quantised by 'eetq' are not supported .known: .*--quantize int8 or fp8"),
    "gptq": ({"quant_method": "gptq", "bits": 5, "group_size": 128}, "5"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "marlin"}, "marlin"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "'bitsandbytes' are not supported"),
    "packed": (compressed_tensors("int", strategy="tensor") | {"format": "pack-quantized"}, "tensor"),
    "four bits": (compressed_tensors("int", num_bits=4), "4-bit int weights are not supported"),
    "asymmetric": (compressed_tensors("int", symmetric=False), "8-bit asymmetric int weights are not supported"),
    "order": (compressed_tensors("int", actorder="group"), "in another order of inputs"),
    "strategy": (compressed_tensors("int", strategy="tensor_group"), "strategy 'tensor_group' is not supported"),
    "sparse": (compressed_tensors("int") | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
    "transformed": (
        compressed_tensors("int") | {"transform_config": {"config_groups": {"R4": {"apply": [{"location": "input"}]}}}},
        "transform of 'input' in each step is not supported",
    ),
    "two schemes": (
        compressed_tensors("int")
        | {"config_groups": {str(i): {"weights": {"strategy": s}} for i, s in enumerate(("channel", "tensor"))}},
        "2 ways to quantise",
    ),
    "damaged": ({"quant_method": "fp8", "weight_block_size": "128"}, "quantization_config: Expected `array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_quantisations_are_refused_by_name(
    case: str, tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    quantization, message = REFUSED[case]
    fields = json.loads((tiny_llama[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"quantization_config": quantization}))
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)


def test_what_is_quantised_is_not_quantised_in_another_way(
    tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    quantize_checkpoint(tiny_llama[0], tmp_path / "model", INT8, (1, 0), compressed_tensors("int"))
    with pytest.raises(ModelError, match="stored in 8 bits already: leave --quantize fp8 out"):
        prompt_logits(tmp_path / "model", PROMPT, quantize="fp8")


def test_a_missing_scale_is_named(tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    quantize_checkpoint(tiny_llama[0], tmp_path / "model", INT8, (1, 0), compressed_tensors("int", strategy="tensor"))
    with pytest.raises(ModelError, match=r"q_proj.weight_scale has shape \[384, 1\], config.json asks for \[1, 1\]"):
        prompt_logits(tmp_path / "model", PROMPT)
