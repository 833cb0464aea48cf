"""Packed weights of a checkpoint -> the one description of block-quantised weights, without loss.

    GPTQ                 weight[o, i] = scales[g, o] * (code(qweight)[i, o] - code(qzeros)[g, o] - 1)     v2: without 1
    AWQ                  weight[o, i] = scales[g, o] * (code(qweight)[i, o] - code(qzeros)[g, o])
    compressed-tensors   weight[o, i] = weight_scale[o, g] * (code(weight_packed)[o, i] - code(weight_zero_point)[o, g])

g is the group of input i: i // group, or what a tensor says. GPTQ packs along the inputs, AWQ along the outputs, in an
order of its own, compressed-tensors its weights along the inputs and its zero points along the outputs.
"""

from collections.abc import Sequence

import torch

from ...kernels.block_weight import BlockWeight, Scales
from .errors import ModelError
from .packed_bits import compact_zeros, group_order, unpack, words
from .packed_config import PackedWeights, Packing
from .safetensors_dir import Checkpoint

CODES = {"gptq": "qweight", "awq": "qweight", "compressed-tensors": "weight_packed"}  # the tensor that has them
AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word outputs 0 to 7 are: it holds 0, 2, 4, 6, 1, 3, 5, 7


def packed_weight(
    checkpoint: Checkpoint, weights: PackedWeights, module: str, outputs: int, inputs: int
) -> BlockWeight | None:
    """The weight [outputs, inputs] of a linear by its name; None if it is stored as plain floats.

    Raises ModelError if a tensor is missing, of another shape or damaged.
    """
    codes = f"{module}.{CODES[weights.method]}"
    packing = weights.packing(module)
    if codes not in checkpoint and (packing is None or f"{module}.weight" in checkpoint):
        return None  # such as a head, which the tools leave alone whatever config.json says
    if packing is None:
        raise ModelError(f"{checkpoint.model_dir}: tensor {codes} is there, but config.json excludes it from packing")
    read = {"gptq": gptq_weight, "awq": awq_weight, "compressed-tensors": compressed_weight}[weights.method]
    return read(checkpoint, packing, module, outputs, inputs)


class PackedCheckpoint:
    """A checkpoint some of whose linears are packed; see Checkpoint."""

    def __init__(self, checkpoint: Checkpoint, weights: PackedWeights) -> None:
        self._checkpoint, self._weights = checkpoint, weights

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as it is stored. Raises ModelError if there is none of that name."""
        return self._checkpoint.shape(name)

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:
        """A tensor as floats. Raises ModelError if it is missing, of another shape or no float."""
        packed = self.blocks(name, expected_shape)
        return self._checkpoint.get(name, expected_shape) if packed is None else packed.dequantized()

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockWeight | None:
        """A weight as it is packed; None if it is stored as floats. Raises ModelError if it is damaged."""
        if not name.endswith(".weight") or len(expected_shape) != 2:
            return None
        outputs, inputs = expected_shape
        return packed_weight(self._checkpoint, self._weights, name.removesuffix(".weight"), outputs, inputs)


def gptq_weight(checkpoint: Checkpoint, packing: Packing, module: str, outputs: int, inputs: int) -> BlockWeight:
    """See ``packed_weight``."""
    bits, group = packing.bits, packing.group_size(module, inputs)
    groups = inputs // group
    packed = checkpoint.get_integers(f"{module}.qweight", (words(inputs, bits), outputs))
    packed_zeros = checkpoint.get_integers(f"{module}.qzeros", (groups, words(outputs, bits)))
    codes = unpack(packed.t(), bits, inputs)
    zeros = unpack(_add_zero(packed_zeros, packing), bits, outputs).t()
    if bits == 3:
        zeros = (zeros + packing.added_zero) & 7
    scale = Scales(checkpoint.get(f"{module}.scales", (groups, outputs)).t().contiguous())
    order = _order(checkpoint, f"{module}.g_idx", inputs, groups, packing)
    return BlockWeight(_ordered(codes, order), bits, group, scale, compact_zeros(zeros), order=order)


def _add_zero(packed: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Undo what GPTQModel does to write v1: it subtracts from whole words, where a zero borrows from its neighbours."""
    if packing.bits == 3 or not packing.added_zero:
        return packed  # codes in two words are counted one by one
    return packed + sum(packing.added_zero << shift for shift in range(0, 32, packing.bits))


def awq_weight(checkpoint: Checkpoint, packing: Packing, module: str, outputs: int, inputs: int) -> BlockWeight:
    """See ``packed_weight``."""
    group = packing.group_size(module, inputs)
    shape = (inputs // group, words(outputs, packing.bits))
    packed = checkpoint.get_integers(f"{module}.qweight", (inputs, shape[1]))
    zeros = checkpoint.get_integers(f"{module}.qzeros", shape)
    scale = Scales(checkpoint.get(f"{module}.scales", (shape[0], outputs)).t().contiguous())
    return BlockWeight(_awq_codes(packed, outputs), 4, group, scale, compact_zeros(_awq_codes(zeros, outputs)))


def _awq_codes(packed: torch.Tensor, outputs: int) -> torch.Tensor:
    """int32 [rows, outputs / 8] -> uint8 [outputs, rows]."""
    places = unpack(packed, 4, packed.shape[1] * 8).view(len(packed), -1, 8)
    return places[..., AWQ_PLACES].view(len(packed), -1)[:, :outputs].t().contiguous()


def compressed_weight(checkpoint: Checkpoint, packing: Packing, module: str, outputs: int, inputs: int) -> BlockWeight:
    """See ``packed_weight``."""
    bits, group = packing.bits, packing.group_size(module, inputs)
    groups = inputs // group
    shape = f"{module}.weight_shape"
    if shape in checkpoint and (stored := checkpoint.get_integers(shape, (2,)).tolist()) != [outputs, inputs]:
        raise ModelError(f"{checkpoint.model_dir}: {shape} is {stored}, config.json asks for {[outputs, inputs]}")
    codes = unpack(checkpoint.get_integers(f"{module}.weight_packed", (outputs, words(inputs, bits))), bits, inputs)
    zeros: torch.Tensor | int = 2 ** (bits - 1)
    if not packing.symmetric:
        packed = checkpoint.get_integers(f"{module}.weight_zero_point", (words(outputs, bits), groups))
        zeros = compact_zeros(unpack(packed.t(), bits, outputs).t())
    scale = Scales(checkpoint.get_scales(f"{module}.weight_scale", (outputs, groups)))
    order = _order(checkpoint, f"{module}.weight_g_idx", inputs, groups, packing)
    return BlockWeight(_ordered(codes, order), bits, group, scale, zeros, order=order)


def _order(checkpoint: Checkpoint, name: str, inputs: int, groups: int, packing: Packing) -> torch.Tensor | None:
    if name not in checkpoint and not packing.reordered:
        return None
    g_idx = checkpoint.get_integers(name, (inputs,)).long()
    if bool((g_idx == -1).all()):  # as compressed-tensors has it before anything sets it
        return None
    return group_order(f"{checkpoint.model_dir}: {name}", g_idx, groups)


def _ordered(codes: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return codes if order is None else codes[:, order]
