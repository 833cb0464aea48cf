"""Weight-only quantisation to 8 bits, one scale per output: what both backends make of the same weight."""

import torch


def round_weight(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight [out, in] to int8 or float8_e4m3fn, scaled so that each output's largest value fits.

    Returns:
        The rounded weight [out, in] in ``dtype`` and its scales, fp32 [out]: weight ~ rounded * scale[:, None].
    """
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = (weight.abs().amax(1).float() / largest).clamp(min=1e-12)
    scaled = weight.float() / scale[:, None]
    if dtype == torch.int8:
        scaled = scaled.round()
    return scaled.clamp(-largest, largest).to(dtype), scale
