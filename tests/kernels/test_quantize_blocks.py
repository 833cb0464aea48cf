"""Rounding to 4 bits: each weight becomes the nearest that its group can hold, and no group spoils another."""

import pytest
import torch

from headwater.kernels import load_backend
from headwater.kernels.quantize_blocks import GROUP, RoundedBlocks, round_blocks


def weights(outputs: int = 48, inputs: int = 96) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.distributions.Laplace(0.01, 0.02).sample((outputs, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_the_nearest_that_its_group_can_hold(dtype: torch.dtype) -> None:
    weight = weights().to(dtype)
    rounded = round_blocks(weight)
    assert rounded.minimum is not None
    steps = torch.arange(16, dtype=torch.float64)
    scale, minimum = (each.values().double()[..., None] for each in (rounded.scale, rounded.minimum))
    levels = scale * steps - minimum  # [out, groups, 16]
    grouped = weight.double().view(48, -1, GROUP)
    nearest = (grouped[..., None] - levels[:, :, None]).abs().amin(-1)
    off = (rounded.dequantized().double().view(48, -1, GROUP) - grouped).abs()
    torch.testing.assert_close(off, nearest, rtol=0, atol=1e-8)
    # No group is further off than codes over its whole range: half a step, and what fp16 makes of scale and minimum.
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = (high - low) / 15
    by_range = ((grouped - low) / step).round() * step + low - grouped
    slack = grouped.abs().amax(-1) * 2**-9
    assert (off.square().mean(-1).sqrt() <= by_range.square().mean(-1).sqrt() + slack).all()
    assert (off.amax(-1, keepdim=True) <= 0.12 * (high - low)).all(), "what the narrowest line cuts off"


def test_groups_of_one_value_are_that_value() -> None:
    weight = torch.zeros(3, 2 * GROUP)
    weight[1], weight[2, GROUP:] = 0.375, -2.5
    assert torch.equal(round_blocks(weight).dequantized(), weight)


def test_weights_of_two_values_are_these() -> None:
    weight = torch.where(torch.rand(4, GROUP, generator=torch.Generator().manual_seed(0)) < 0.5, 1.0, -0.5)
    torch.testing.assert_close(round_blocks(weight).dequantized(), weight, rtol=1e-3, atol=1e-3)


def test_a_group_is_rounded_whatever_stands_beside_it() -> None:
    weight = weights()
    beside = weight.clone()
    beside[:, GROUP:] *= 1000
    alone, among = round_blocks(weight[5:6]), round_blocks(beside)
    assert torch.equal(alone.dequantized()[0, :GROUP], among.dequantized()[5, :GROUP])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e6])
def test_what_fp16_cannot_hold_is_refused(value: float) -> None:
    weight = weights()
    weight[7, 40] = value
    with pytest.raises(ValueError, match="not finite, or beyond what fp16 holds"):
        round_blocks(weight)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_packed_weights_take_five_bits_each(backend: str) -> None:
    weight = weights(192, 512)
    linear = load_backend(backend).pack_blocks([RoundedBlocks(weight)], None, torch.float32, torch.device("cpu"))
    assert linear.nbytes == pytest.approx(weight.numel() * 5 / 8, rel=0.02)
