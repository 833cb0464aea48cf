"""Files that GPTQModel, AutoAWQ and compressed-tensors wrote: the weights are those that the tools make of them.

``tests/data/write_packed.py`` wrote the files. Each has one linear, and beside it the tool's own weight.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from headwater.engine.checkpoint.packed_config import read_packed
from headwater.engine.checkpoint.packed_weights import packed_weight
from headwater.engine.checkpoint.safetensors_dir import Checkpoint

FILES = sorted((Path(__file__).parents[2] / "data" / "packed").glob("*.safetensors"))
MODULE = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_weight_is_the_tools_own_to_the_last_bit(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        names, quantization = list(file.keys()), json.loads(file.metadata()["quantization_config"])
    checkpoint = Checkpoint(path.parent, dict.fromkeys(names, path))
    want = checkpoint.get("dequantized", (64, 128))
    packed = read_packed(quantization)
    assert packed is not None
    weight = packed_weight(checkpoint, packed, MODULE, 64, 128)
    assert weight is not None
    # The tools multiply in the dtype of the scales; the product in fp32 is exact, so it is rounded like theirs.
    assert torch.equal(weight.dequantized().to(want.dtype), want)
    assert ("order" in path.stem) == (weight.order is not None)
    assert ("asymmetric" in path.stem) <= isinstance(weight.zero, torch.Tensor)


def test_every_tool_has_its_files() -> None:
    assert {path.stem.split("-")[0] for path in FILES} == {"gptq", "awq", "compressed"}
