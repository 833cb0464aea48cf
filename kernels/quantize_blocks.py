"""Weight-only quantisation to 4 bits on load: groups of 32 inputs with a scale and a minimum, as GGUF's Q4_1 has them.

For some spacings of the codes, over the group's whole range to a part of it, the line through them that fits the
weights best (least squares) is found; the line with the least squared error is kept.
"""

from dataclasses import dataclass

import torch

from .block_weight import BlockWeight, Scales

GROUP = 32
_LARGEST = 15  # code
_SHRINK = (0.0, 0.06, 0.12, 0.18)  # of the range, tried first to last; twice as many gain 0.4 % of the error
_ELEMENTS = 1 << 18  # rounded at a time: 1 MiB as fp32, so that the few copies of it stay in the cache


@dataclass(frozen=True)
class RoundedBlocks:
    """A float weight [out, in] as a BlockSource: outputs are rounded when they are read, so no copy is in memory.

    ``in`` is a multiple of GROUP.
    """

    weight: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        out, inner = self.weight.shape
        return out, inner

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        return round_blocks(self.weight[rows])


def round_blocks(weight: torch.Tensor) -> BlockWeight:
    """Round a weight [out, in] to 4 bits, with fp16 scales and minima of groups of 32 inputs.

    Raises ValueError for a weight that fp16 cannot hold: infinite, not a number or beyond 65504.
    """
    out, inner = weight.shape
    groups = weight.reshape(-1, GROUP)
    codes = torch.empty(groups.shape, dtype=torch.uint8, device=weight.device)
    scale, low = (torch.empty(len(groups), dtype=torch.float16, device=weight.device) for _ in range(2))
    step = _ELEMENTS // GROUP
    for start in range(0, len(groups), step):
        some = slice(start, start + step)
        block = groups[some].float()
        if not block.abs().max() <= torch.finfo(torch.float16).max:
            raise ValueError("a weight is not finite, or beyond what fp16 holds")
        codes[some], scale[some], low[some] = _fit(block)
    shape = (out, inner // GROUP)
    return BlockWeight(codes.view(out, inner), 4, GROUP, Scales(scale.view(shape)), minimum=Scales(-low.view(shape)))


def _fit(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """fp32 [n, 32] -> codes [n, 32] as floats, scales and lowest values [n], exact in fp16."""
    lowest, highest = groups.aminmax(dim=1, keepdim=True)
    mean = groups.mean(1, keepdim=True)
    best_error = torch.full_like(mean, torch.inf)
    best_scale, best_low = torch.zeros_like(mean), _half(mean)
    for shrink in _SHRINK:
        first_scale = (highest - lowest) * ((1 - shrink) / _LARGEST)
        codes = _codes(groups, first_scale, lowest + (highest - lowest) * (shrink / 2))
        codes_mean = codes.mean(1, keepdim=True)
        spread = codes - codes_mean
        scale = (spread * (groups - mean)).sum(1, keepdim=True) / spread.square().sum(1, keepdim=True)
        scale = _half(scale.nan_to_num(0.0))  # of equal codes
        low = _half(mean - scale * codes_mean)
        error = (scale * _codes(groups, scale, low) + low - groups).square_().sum(1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_low = torch.where(better, scale, best_scale), torch.where(better, low, best_low)
    return _codes(groups, best_scale, best_low), best_scale[:, 0], best_low[:, 0]


def _codes(groups: torch.Tensor, scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The nearest of ``scale`` * 0 ... 15 + ``low``; of a constant group 0."""
    return ((groups - low) / scale).nan_to_num_(0.0).round_().clamp_(0, _LARGEST)


def _half(values: torch.Tensor) -> torch.Tensor:
    """Rounded to fp16, in fp32."""
    return values.half().float()
