"""Linear layers: y = x W^T + b, unquantised or with weights in 8 bits.

    y[row, out] = scale[out] * sum_in x[row, in] * Q[out, in] + b[out]

Weight-only quantisation halves what a decode step reads: Q is int8 or fp8 (e4m3), both exact in bf16 and fp16, so the
product is the one of the unquantised layer on rounded weights. A row's result does not depend on its batch: see
linear_kernel.py. The vendor's library picks an algorithm by the number of rows, and so does not promise that; it serves
weights in fp32, and all unquantised ones if asked to (``pack_vendor_linear``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from triton import knobs

from .. import GatedActivation, Linear, StepBatch
from ..quantize import round_weight
from .linear_kernel import linear_kernel
from .linear_tiles import LinearTile, choose_tile, linear_tiles, register_limit, segments_of
from .qkv_kernel import qkv_kernel
from .tiles import Gpu, check_pages, gpu_of
from .workspace import Workspace, workspace

# The library may add up parts of a sum over k in the rows' dtype unless told not to: sums here are fp32.
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

_GROUP = 16  # tiles of rows that pass over the outputs together: their rows stay in L2


@dataclass(frozen=True)
class VendorLinear:
    """A weight as it was loaded: [out, in], and bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.weight, self.bias) if part is not None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class TritonLinear:
    """A weight [out, in] in 16 bits, or in int8 or float8_e4m3fn with one fp32 scale for each output."""

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, gpu: Gpu | None = None
    ) -> None:
        """``scale``: fp32 [out]; ``bias``: [out]; ``gpu``: if not the weight's device."""
        self.weight, self.scale, self.bias = weight, scale, bias
        self._gpu = gpu or gpu_of(weight.device)
        outputs, inputs = weight.shape
        self._segments, self._segment = segments_of(outputs, inputs)
        self._workspace: Workspace | None = None
        if self._segments > 1:
            counts = [
                (tile, triton.cdiv(outputs, tile.outputs) * triton.cdiv(tile.most, tile.rows))
                for itemsize in (2, 4)
                for tile in linear_tiles(self._gpu.arch, self._segments, itemsize) if tile.is_split
            ]  # fmt: skip
            sums = max(count * tile.outputs * tile.rows for tile, count in counts) * self._segments
            self._workspace = workspace(weight.device, sums, max(count for _, count in counts))
        self._compiled: set[str] = set()

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.weight, self.scale, self.bias) if part is not None)

    def __call__(self, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """``dtype`` of the result: that of ``x`` unless given."""
        y = x.new_empty(len(x), len(self.weight), dtype=dtype)
        self._run(_Epilogue("", linear_kernel, (), {"GATED": False, "GELU": False}), x, y)
        return y

    def can_gate(self) -> bool:
        """See GatedLinear: of each half whole runs of 8 outputs, as tiles take them."""
        return len(self.weight) % 16 == 0

    def gated(self, x: torch.Tensor, activation: GatedActivation) -> torch.Tensor:
        """See GatedLinear: the bits that the product and the activation have one after the other."""
        y = x.new_empty(len(x), len(self.weight) // 2)
        constants = {"GATED": True, "GELU": activation == "gelu_tanh"}
        self._run(_Epilogue(activation, linear_kernel, (), constants), x, y)
        return y

    def can_rotate(self, head_dim: int) -> bool:
        """See QkvLinear: of each half of a head whole runs of 8."""
        return head_dim % 16 == 0

    def rotated(
        self,
        x: torch.Tensor,
        cos_sin: torch.Tensor,
        batch: StepBatch,
        k_pages: torch.Tensor,
        v_pages: torch.Tensor,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> torch.Tensor:
        """See QkvLinear: the bits that the product and ``rope_and_write`` have one after the other."""
        check_pages(k_pages)
        _, kv_heads, page_size, head_dim = k_pages.shape
        q = x.new_empty(len(x), len(self.weight) // head_dim - 2 * kv_heads, head_dim)
        arguments = cos_sin, batch.positions, batch.slots, k_pages, v_pages, 1.0 / k_scale, 1.0 / v_scale
        constants = {"KV_HEADS": kv_heads, "HEAD_DIM": head_dim, "PAGE_SIZE": page_size}
        self._run(_Epilogue("qkv", qkv_kernel, arguments, constants), x, q)
        return q

    def _run(self, epilogue: "_Epilogue", x: torch.Tensor, y: torch.Tensor) -> None:
        tiles = linear_tiles(self._gpu.arch, self._segments, x.itemsize)
        # No request is to wait for the compiler, whatever tile it comes to need. The interpreter compiles nothing.
        if epilogue.name not in self._compiled and not knobs.runtime.interpret:
            for tile in tiles:
                self._launch(epilogue, x[: tile.most], y, tile)
            self._compiled.add(epilogue.name)
        self._launch(epilogue, x, y, choose_tile(tiles, len(x)))

    def _launch(self, epilogue: "_Epilogue", x: torch.Tensor, y: torch.Tensor, tile: LinearTile) -> None:
        weight, scale, bias, rows = self.weight, self.scale, self.bias, len(x)
        outputs, inputs = weight.shape
        split = self._segments > 1 and tile.is_split
        partial, arrived = self._workspace or (weight, weight)
        tiles = triton.cdiv(outputs, tile.outputs) * triton.cdiv(rows, tile.rows)
        epilogue.kernel[(tiles, self._segments if split else 1)](
            x, weight, weight if scale is None else scale, weight if bias is None else bias, y, partial, arrived, rows,
            *epilogue.arguments,
            OUTPUTS=outputs, INPUTS=inputs, SEGMENTS=self._segments, SEGMENT=self._segment, SPLIT=split,
            SCALED=scale is not None, BIAS=bias is not None, BLOCK_ROWS=tile.rows, BLOCK_OUTPUTS=tile.outputs,
            BLOCK_INPUTS=tile.inputs, GROUP=_GROUP, **epilogue.constants, num_warps=tile.warps,
            num_stages=tile.stages, maxnreg=register_limit(weight.dtype),
        )  # fmt: skip


class _Epilogue(NamedTuple):
    """What becomes of a linear's sums: the kernel, and what it is given beside the linear."""

    name: str
    kernel: Any
    arguments: tuple[object, ...]
    constants: Mapping[str, object]


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> TritonLinear | VendorLinear:
    """Keep ``weight`` [out, in] and ``bias`` [out] as they are."""
    return VendorLinear(weight, bias) if weight.itemsize > 2 else TritonLinear(weight, None, bias)


def pack_vendor_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> VendorLinear:
    """Keep ``weight`` [out, in] and ``bias`` [out] as they are, for the vendor's library."""
    return VendorLinear(weight, bias)


def logits(head: Linear, x: torch.Tensor) -> torch.Tensor:
    """What ``head`` makes of rows [rows, in], in fp32: the sums themselves, where a kernel of its own has them."""
    if isinstance(head, TritonLinear):
        return head(x, torch.float32)
    return head(x).float()


def quantize_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.int8
) -> TritonLinear:
    """Round ``weight`` [out, in] to ``dtype`` (int8 or float8_e4m3fn), scaled so that each output's largest fits."""
    return TritonLinear(*round_weight(weight, dtype), bias)


def pack_quantized(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> TritonLinear:
    """Keep a ``weight`` [out, in] of int8 or float8_e4m3fn as it is, with its ``scale``, fp32 [out]."""
    return TritonLinear(weight, scale, bias)
