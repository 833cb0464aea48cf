"""Weight-only quantisation to 8 bits, one scale per output: what both backends make of the same weight."""

import torch

BLOCK_ELEMENTS = 4 << 20  # rounded at a time: 16 MiB as fp32, so that a large embedding needs no copy of itself in fp32


def round_weight(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight [out, in] to int8 or float8_e4m3fn, scaled so that each output's largest value fits.

    Returns:
        The rounded weight [out, in] in ``dtype`` and its scales, fp32 [out]: weight ~ rounded * scale[:, None].
    """
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    rounded = torch.empty_like(weight, dtype=dtype)
    scale = torch.empty(weight.shape[0], device=weight.device)
    for rows in _row_blocks(weight):
        block = weight[rows].to(torch.float32, copy=True)
        scale[rows] = (block.abs().amax(1) / largest).clamp(min=1e-12)
        block /= scale[rows, None]
        if dtype == torch.int8:
            block.round_()
        rounded[rows] = block.clamp_(-largest, largest).to(dtype)
    return rounded, scale


def scale_blocks(values: torch.Tensor, scale: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Undo a quantisation with one scale for each block of ``rows`` x ``cols`` values.

    Args:
        values: [out, in], int8 or float8_e4m3fn.
        scale: fp32 [ceil(out / rows), ceil(in / cols)].

    Returns:
        [out, in] fp32.
    """
    outputs, inputs = values.shape
    scaled = values.float()
    scaled *= scale.repeat_interleave(rows, 0)[:outputs].repeat_interleave(cols, 1)[:, :inputs]
    return scaled


def _row_blocks(weight: torch.Tensor) -> list[slice]:
    """Ranges of rows, a few million values each."""
    step = max(1, BLOCK_ELEMENTS // max(1, weight.shape[1]))
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]
