"""Linear layers and embeddings with block-quantised weights (kernels/block_weight.py), kept as they are packed."""

from collections.abc import Sequence
from itertools import groupby

import torch
import triton
from triton import knobs

from ..block_weight import BlockSource
from .block_form import BlockForm, form_of
from .block_kernel import block_embed_kernel, block_linear_kernel, row_sums_kernel
from .block_pack import pack
from .block_tiles import SPLIT_ROWS, SUMMED_ROWS, BlockTile, block_tiles, segments_of
from .tiles import Gpu, gpu_of
from .workspace import workspace

_SUMMED, _SUMMED_TILE = 1024, 64  # values that a program sums, of so many rows
_EMBEDDED = 1024  # values of a program


class Segment:
    """Weights of one form and order of the inputs, one after another: one launch."""

    def __init__(
        self, parts: Sequence[BlockSource], form: BlockForm, order: torch.Tensor | None, device: torch.device, gpu: Gpu
    ) -> None:
        self.form = form
        self.order = None if order is None else order.to(device)
        self.outputs, self.inputs = sum(part.shape[0] for part in parts), parts[0].shape[1]
        self.packed = pack(parts, form, device)
        self._segments, self._segment = segments_of(self.outputs, self.inputs)
        self.tiles = block_tiles(gpu.arch, form.block, form.bits, self._segments > 1)
        few = [tile for tile in self.tiles if tile.rows <= SPLIT_ROWS]
        counts = [triton.cdiv(self.outputs, tile.outputs) * triton.cdiv(SPLIT_ROWS, tile.rows) for tile in few]
        sums = max(count * tile.outputs * tile.rows for count, tile in zip(counts, few, strict=True))
        self._workspace = workspace(device, sums * self._segments, max(counts)) if self._segments > 1 else None

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + (0 if self.order is None else self.order.nbytes)

    def write(self, x: torch.Tensor, y: torch.Tensor, column: int, bias: torch.Tensor | None) -> None:
        """The product into the columns of y [rows, any] from ``column`` on."""
        rows, form = x.shape[0], self.form
        if self.order is not None:
            x = x.index_select(1, self.order)
        tile = next((tile for tile in self.tiles if rows <= tile.rows), self.tiles[-1])
        stages = tile.stages if x.itemsize == 2 else 2  # of fp32 rows no more fit in 99 KiB of shared memory
        sums = self.row_sums(x) if self.is_summed(tile) else None
        split = self._segments > 1 and rows <= SPLIT_ROWS
        partial, arrived = self._workspace or (x, x)
        grid = triton.cdiv(self.outputs, tile.outputs), triton.cdiv(rows, tile.rows), self._segments if split else 1
        block_linear_kernel[grid](
            x, *self.packed, x if sums is None else sums, x if bias is None else bias, x, y, partial, arrived, rows,
            INPUTS=self.inputs, OUTPUTS=self.outputs, WIDTH=self.outputs, EXPERTS=0, EXPERT_BLOCK=1,
            Y_STRIDE=y.shape[1], COLUMN=column, BIAS=bias is not None,
            FORM=form, PAIRS=takes_pairs(form, x.dtype), SUMMED=sums is not None,
            SEGMENTS=self._segments, SEGMENT=self._segment, SPLIT=split,
            BLOCK_ROWS=tile.rows, BLOCK_OUTPUTS=tile.outputs, STEPS=tile.steps,
            STAGES=stages, num_warps=tile.warps, num_stages=stages, maxnreg=tile.registers,
        )  # fmt: skip

    def is_summed(self, tile: BlockTile) -> bool:
        """Whether the rows are summed before: products with ones, as few rows have them, would double the work."""
        return self.form.minima and tile.rows >= SUMMED_ROWS

    def row_sums(self, x: torch.Tensor) -> torch.Tensor:
        """fp32 [units, rows], of each unit of a row."""
        rows, unit = x.shape[0], self.form.unit
        sums = torch.empty((triton.cdiv(self.inputs, unit), rows), dtype=torch.float32, device=x.device)
        block = _SUMMED // unit
        tile = self.tiles[0]  # whose instruction is that of all
        row_sums_kernel[(triton.cdiv(rows, _SUMMED_TILE), triton.cdiv(len(sums), block))](
            x, sums, rows, INPUTS=self.inputs, UNIT=unit, BLOCK=block,
            BLOCK_ROWS=_SUMMED_TILE, BLOCK_OUTPUTS=tile.outputs, num_warps=tile.warps,
        )  # fmt: skip
        return sums

    def embed(self, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
        """Rows of the weight at ``token_ids`` (int64 [rows]), times ``scale``, in ``dtype``."""
        rows = token_ids.shape[0]
        y = torch.empty((rows, self.inputs), dtype=dtype, device=token_ids.device)
        block_embed_kernel[(rows, triton.cdiv(self.inputs, _EMBEDDED))](
            token_ids, *self.packed, y, scale,
            INPUTS=self.inputs, OUTPUTS=self.outputs, FORM=self.form, BLOCK=_EMBEDDED,
        )  # fmt: skip
        if self.order is None:
            return y
        ordered = torch.empty_like(y)
        ordered[:, self.order] = y
        return ordered


def takes_pairs(form: BlockForm, dtype: torch.dtype) -> bool:
    """Whether PTX widens the codes two at a time; the interpreter has none."""
    return not knobs.runtime.interpret and dtype.itemsize == 2 and (not form.has_table or form.is_e2m1)


class BlockLinear:
    """Weights [out, in] that read the same rows, one after another, and bias [all outputs] or None."""

    def __init__(
        self, parts: Sequence[BlockSource], bias: torch.Tensor | None, device: torch.device, gpu: Gpu | None = None
    ) -> None:
        """``gpu``: what it is packed for, if not the device. Raises Unsupported."""
        self._outputs = sum(part.shape[0] for part in parts)
        self.bias = bias
        samples = [part.take(slice(0, 1)) for part in parts]
        kinds = [(form_of(each), None if each.order is None else tuple(each.order.tolist())) for each in samples]
        gpu = gpu or gpu_of(device)
        self.segments: list[Segment] = []
        for (form, _), group in groupby(range(len(parts)), key=kinds.__getitem__):
            indices = list(group)
            order = samples[indices[0]].order
            self.segments.append(Segment([parts[i] for i in indices], form, order, device, gpu))

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments) + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in], fp16, bf16 or fp32 -> [rows, out] in the same dtype."""
        y = x.new_empty(x.shape[0], self._outputs)
        column = 0
        for segment in self.segments:
            segment.write(x, y, column, self.bias)
            column += segment.outputs
        return y

    def embed(self, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
        """Rows of the weight at ``token_ids`` (int64 [rows]), times ``scale``, in ``dtype``."""
        (segment,) = self.segments
        return segment.embed(token_ids, scale, dtype)


def pack_blocks(
    parts: Sequence[BlockSource], bias: torch.Tensor | None, dtype: torch.dtype, device: torch.device
) -> BlockLinear:
    """Pack weights [out, in] that read the same rows, and a bias [all outputs]; the weights may be dropped afterwards.

    Raises Unsupported.
    """
    del dtype  # of any rows
    return BlockLinear(parts, bias, device)
