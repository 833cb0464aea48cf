"""Small checkpoints with weights in 8 bits, as compressed-tensors and DeepSeek write them, and their oracle."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from headwater.engine.checkpoint.safetensors_dir import SINGLE_FILE


def quantize_checkpoint(
    source: Path, directory: Path, dtype: torch.dtype, block: tuple[int, int], quantization: dict[str, Any]
) -> Path:
    """Quantise the linears of ``source``, with a scale for each block of rows x columns (0: all).

    Writes the quantised checkpoint to ``directory`` and the one with the same weights as floats beside it, whose
    directory it returns. The head stays as it is, as in most published checkpoints.
    """
    scale_name = "weight_scale_inv" if "weight_block_size" in quantization else "weight_scale"
    largest = 127.0 if dtype == torch.int8 else 448.0
    stored, floats = {}, {}
    for name, weight in load_file(source / SINGLE_FILE).items():
        floats[name] = stored[name] = weight
        if "_proj.weight" not in name:
            continue
        outputs, inputs = weight.shape
        rows, cols = block[0] or outputs, block[1] or inputs
        scale = torch.empty(math.ceil(outputs / rows), math.ceil(inputs / cols))
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                part = weight[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols]
                scale[i, j] = part.abs().max() / largest
        wide = scale.repeat_interleave(rows, 0)[:outputs].repeat_interleave(cols, 1)[:, :inputs]
        values = weight / wide
        stored[name] = (values.round() if dtype == torch.int8 else values).to(dtype)
        stored[name.replace("weight", scale_name)] = scale.reshape(-1) if scale.numel() == 1 else scale
        stored[name.replace("weight", "input_scale")] = torch.ones(1)  # of W8A8: not read
        floats[name] = stored[name].float() * wide
    config = json.loads((source / "config.json").read_text())
    dense = directory.with_name(f"{directory.name}-dense")
    for where, tensors, extra in ((directory, stored, {"quantization_config": quantization}), (dense, floats, {})):
        where.mkdir()
        save_file(tensors, where / SINGLE_FILE)
        (where / "config.json").write_text(json.dumps(config | extra))
    return dense


def compressed_tensors(kind: str, **weights: object) -> dict[str, Any]:
    """quantization_config as compressed-tensors 0.10 writes it; ``kind`` is int or float."""
    scheme = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "channel", "group_size": None,
              "block_structure": None, "actorder": None, "dynamic": False, "observer": "minmax"}  # fmt: skip
    activations = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "format": f"{kind}-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": scheme | weights, "input_activations": activations}
        },
    }
