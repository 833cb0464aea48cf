"""Linear layers: y = x W^T + b, unquantised or with weights in 8 bits.

Unquantised weights go to the vendor's library, which Triton does not beat. Weight-only quantisation halves what a
decode step reads: W = scale[out] * Q[out, in], Q int8 or fp8 (e4m3), so

    y[row, out] = scale[out] * sum_in x[row, in] * Q[out, in] + b[out]

Both formats are exact in bf16 and fp16, so the product is the one of the unquantised layer on rounded weights. The
sum is never split over programs: a row's result does not depend on its batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from ..quantize import round_weight
from .tiles import LINEAR_TILES

# The library may add up parts of a sum over k in the rows' dtype unless told not to: sums here are fp32.
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


@dataclass(frozen=True)
class DenseLinear:
    """A weight as it was loaded: [out, in], and bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.weight, self.bias) if part is not None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class QuantizedLinear:
    """A weight in 8 bits: [out, in] int8 or float8_e4m3fn, with one fp32 scale for each output."""

    weight: torch.Tensor
    scale: torch.Tensor  # fp32 [out]
    bias: torch.Tensor | None  # [out]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.weight, self.scale, self.bias) if part is not None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, inputs = x.shape
        outputs = self.weight.shape[0]
        y = x.new_empty(rows, outputs)
        tile = next((tile for tile in LINEAR_TILES if rows <= tile.rows), LINEAR_TILES[-1])
        _linear_kernel[(triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows))](
            x, self.weight, self.scale, self.scale if self.bias is None else self.bias, y, rows,
            OUTPUTS=outputs, INPUTS=inputs, BIAS=self.bias is not None,
            BLOCK_ROWS=tile.rows, BLOCK_OUTPUTS=tile.outputs, BLOCK_INPUTS=tile.inputs,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return y


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x_ptr,  # [rows, INPUTS]
    weight_ptr,  # int8 or fp8 [OUTPUTS, INPUTS]
    scale_ptr,  # fp32 [OUTPUTS]
    bias_ptr,  # [OUTPUTS], read with BIAS
    y_ptr,  # [rows, OUTPUTS] out
    rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_INPUTS)
    output_mask = output < OUTPUTS
    row_mask = row < rows
    x_ptrs = x_ptr + row.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    weight_ptrs = weight_ptr + output.to(tl.int64)[:, None] * INPUTS + cols[None, :]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    for start in range(0, INPUTS, BLOCK_INPUTS):
        in_range = start + cols[None, :] < INPUTS
        x = tl.load(x_ptrs + start, mask=row_mask[:, None] & in_range, other=0.0)
        weight = tl.load(weight_ptrs + start, mask=output_mask[:, None] & in_range, other=0.0)
        acc = tl.dot(x, tl.trans(weight.to(x.dtype)), acc, input_precision="ieee")
    y = acc * tl.load(scale_ptr + output, mask=output_mask, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + output, mask=output_mask, other=0.0).to(tl.float32)[None, :]
    y_ptrs = y_ptr + row.to(tl.int64)[:, None] * OUTPUTS + output[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=row_mask[:, None] & output_mask[None, :])


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> DenseLinear:
    """Keep ``weight`` [out, in] and ``bias`` [out] as they are; the library reads them fastest so."""
    return DenseLinear(weight, bias)


def quantize_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.int8
) -> QuantizedLinear:
    """Round ``weight`` [out, in] to ``dtype`` (int8 or float8_e4m3fn), scaled so that each output's largest fits."""
    return QuantizedLinear(*round_weight(weight, dtype), bias)


def pack_quantized(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> QuantizedLinear:
    """Keep a ``weight`` [out, in] of int8 or float8_e4m3fn as it is, with its ``scale``, fp32 [out]."""
    return QuantizedLinear(weight, scale, bias)
