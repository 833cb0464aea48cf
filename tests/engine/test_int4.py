"""--quantize int4 from the flag to the linears: what is rounded, what is not, and what is refused."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.models.decoder import DecoderModel
from headwater.engine.models.dtypes import choose_dtypes
from headwater.engine.models.families import read_config
from headwater.engine.models.load import load_model
from headwater.kernels import load_backend
from headwater.kernels.cpu.block_linear import BlockLinear
from headwater.kernels.quantize_blocks import round_blocks

from .forward import prompt_logits
from .tiny import save_tiny_llama, tiny_engine

PROMPT = [1, 5, 9, 2, 7, 7, 3]


def linears_of(model: DecoderModel) -> list[object]:
    """Of the first layer and the head."""
    attention, mlp = model._layers[0]._attention, model._layers[0]._mlp
    return [attention._qkv, attention._output, mlp._gate_up, mlp._down, model._head]


def test_logits_are_those_of_the_rounded_weights(tiny_llama: tuple[Path, LlamaForCausalLM]) -> None:
    directory, _ = tiny_llama
    oracle = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        for name, parameter in oracle.named_parameters():
            if name.endswith("_proj.weight") or name == "lm_head.weight":
                parameter.copy_(round_blocks(parameter).dequantized())
        want = oracle(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(prompt_logits(directory, PROMPT, quantize="int4"), want, rtol=1e-3, atol=1e-3)
    model = tiny_engine(directory, quantize="int4").runner._model
    assert all(isinstance(linear, BlockLinear) for linear in linears_of(model))


def test_linears_of_other_widths_stay_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tiny_llama(tmp_path, intermediate_size=80)
    with caplog.at_level(logging.WARNING):
        model = tiny_engine(tmp_path, quantize="int4").runner._model
    kinds = [isinstance(linear, BlockLinear) for linear in linears_of(model)]
    assert kinds == [True, True, True, False, True]
    (said,) = [record.getMessage() for record in caplog.records if "not rounded" in record.getMessage()]
    assert said == "model.layers.0.mlp.down_proj and others like it are not rounded: 80 inputs are not groups of 32"


def test_int8_rows_are_for_all_linears_in_blocks_but_the_head(tiny_llama: tuple[Path, LlamaForCausalLM]) -> None:
    directory, _ = tiny_llama
    config, backend = read_config(directory), load_backend("cpu")
    dtypes = choose_dtypes(backend, "float32", "int8")
    model = load_model(directory, config, backend, dtypes, torch.device("cpu"), 64, "int4")
    assert [linear._panels[0]._rounds_rows for linear in linears_of(model)] == [True, True, True, True, False]


def test_int8_rows_are_refused_where_nothing_would_read_them(tiny_llama: tuple[Path, LlamaForCausalLM]) -> None:
    with pytest.raises(ModelError, match=r"--activation-dtype int8: .* has no weights in blocks"):
        tiny_engine(tiny_llama[0], activation_dtype="int8")
    with pytest.raises(ModelError, match="only the cpu backend multiplies them"):
        choose_dtypes(load_backend("triton"), "float32", "int8")


def test_a_damaged_weight_is_named(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"][3, 5] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"--quantize int4: model.layers.1.self_attn.o_proj: a weight is not finite"):
        prompt_logits(tmp_path, PROMPT, quantize="int4")
