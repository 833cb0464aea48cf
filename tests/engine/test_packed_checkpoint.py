"""A checkpoint in GPTQ's form is served as it is packed: its logits are those of the weights that it describes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.packed_config import read_packed
from headwater.engine.checkpoint.packed_weights import PackedCheckpoint
from headwater.engine.checkpoint.safetensors_dir import open_checkpoint
from headwater.engine.model_parts import rounding
from headwater.engine.models.families import read_config

from .forward import prompt_logits

PROMPT = [1, 5, 9, 2, 7, 7, 3]
GROUP = 32


def packed(codes: torch.Tensor) -> torch.Tensor:
    """4-bit codes [n, any] -> int32 [n / 8, any], the first in the lowest bits."""
    words = torch.zeros(codes.shape[0] // 8, codes.shape[1], dtype=torch.int64)
    for i in range(8):
        words |= codes[i::8].long() << (4 * i)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def write_gptq(source: Path, directory: Path, reordered: bool) -> None:
    """Every linear of a model in random codes, scales and zero points."""
    shutil.copytree(source, directory)
    weights = load_file(source / "model.safetensors")
    torch.manual_seed(0)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        outputs, inputs = weights.pop(name).shape
        groups = inputs // GROUP
        module = name.removesuffix(".weight")
        weights[f"{module}.qweight"] = packed(torch.randint(0, 16, (inputs, outputs)))
        weights[f"{module}.qzeros"] = packed(torch.randint(4, 12, (outputs, groups))).t().contiguous()
        weights[f"{module}.scales"] = (torch.rand(groups, outputs) / 50).half()
        order = torch.randperm(inputs) if reordered else torch.arange(inputs)
        weights[f"{module}.g_idx"] = (order // GROUP).to(torch.int32)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": reordered, "sym": False}
    config["quantization_config"] = quantization | {"checkpoint_format": "gptq_v2"}
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("reordered", [False, True])
def test_logits_are_those_of_the_described_weights(
    tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path, reordered: bool
) -> None:
    source, _ = tiny_llama
    directory = tmp_path / "model"
    write_gptq(source, directory, reordered)
    quantization = read_packed(json.loads((directory / "config.json").read_text())["quantization_config"])
    assert quantization is not None
    checkpoint = PackedCheckpoint(open_checkpoint(directory), quantization)
    oracle = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        for name, parameter in oracle.named_parameters():
            if name.endswith("_proj.weight"):
                parameter.copy_(checkpoint.get(name, parameter.shape))
        want = oracle(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(prompt_logits(directory, PROMPT), want, rtol=1e-3, atol=1e-3)
    config = read_config(directory)
    assert rounding("gptq", config) is None
    with pytest.raises(ModelError, match="--quantize awq: the checkpoint is gptq quantised"):
        rounding("awq", config)
    rounded = prompt_logits(directory, PROMPT, quantize="int8")
    assert 0 < (rounded - want).abs().mean() < 0.1 * want.std()
