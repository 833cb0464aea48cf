"""Noise and weights: right against float64, and the same bits in both backends and in the oracle."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numba import njit

from headwater.bench.device.gpu import sampling_oracle as oracle
from headwater.kernels.cpu import exact as cpu
from headwater.kernels.triton import exact as gpu

FULL = 0xFFFFFFFF
RANDOM123 = [  # philox4x32-10 in Random123's kat_vectors: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
BITS = torch.cat(
    [
        torch.arange(0, 512),  # the largest noise
        torch.arange(2**32 - 512, 2**32),  # the smallest: u is cut below 1
        torch.arange(2**31 - 512, 2**31 + 512),
        torch.randint(0, 2**32, (6144,), generator=torch.Generator().manual_seed(0)),
    ]
)
DISTANCES = torch.cat([torch.linspace(0, 70, 8190), torch.tensor([1e38, torch.inf])])


@njit(error_model="numpy")
def cpu_philox(key, counter):
    return cpu.philox(key[0], key[1], counter[0], counter[1], counter[2], counter[3])


@njit(error_model="numpy")
def cpu_gumbel(bits, out):
    for i in range(bits.size):
        out[i] = cpu.gumbel(bits[i])


@njit(error_model="numpy")
def cpu_weight(r, out):
    for i in range(r.size):
        out[i] = cpu.weight(r[i])


@triton.jit
def words_kernel(out_ptr, key, place, first_id, domain, TILE: tl.constexpr):
    index = tl.arange(0, TILE)
    tl.store(out_ptr + index, gpu.words_of_tile(key, place, first_id, domain, TILE).to(tl.int64))
    tl.store(out_ptr + TILE + index, gpu.words_of(key, place, first_id + index, domain).to(tl.int64))


@triton.jit
def gumbel_kernel(bits_ptr, out_ptr, N: tl.constexpr):
    index = tl.arange(0, N)
    tl.store(out_ptr + index, gpu.gumbel(tl.load(bits_ptr + index).to(tl.uint32)))


@triton.jit
def weight_kernel(r_ptr, out_ptr, N: tl.constexpr):
    index = tl.arange(0, N)
    tl.store(out_ptr + index, gpu.weight(tl.load(r_ptr + index)))


@pytest.mark.parametrize(("counter", "key", "words"), RANDOM123)
def test_philox_gives_the_published_vectors(counter, key, words):
    assert cpu_philox(np.array(key, np.uint32), np.array(counter, np.uint32)) == words
    assert tuple(oracle.philox(key[1] << 32 | key[0], np.array([counter])).flatten().tolist()) == words


@pytest.mark.parametrize("key", [0, -1, 0x0123456789ABCDEF])
@pytest.mark.parametrize("place", [0, 3, 2**40 + 1])
def test_triton_takes_the_same_words(key, place):
    out = torch.zeros(2, 64, dtype=torch.int64)
    words_kernel[(1,)](out, torch.tensor([key]).item(), place, 256, 1, TILE=64)
    want = oracle.token_words(key, 320, place, 1)[256:]
    assert torch.equal(out[0], want)
    assert torch.equal(out[1], want)


def test_gumbel_noise():
    want = oracle.gumbel(BITS)
    on_cpu, on_gpu = torch.empty(len(BITS)), torch.empty(len(BITS))
    cpu_gumbel(BITS.numpy().astype(np.uint32), on_cpu.numpy())
    gumbel_kernel[(1,)](BITS, on_gpu, N=len(BITS))
    assert torch.equal(on_cpu, want)
    assert torch.equal(on_gpu, want)
    u = ((BITS.float() + 0.5) * 2**-32).clamp(max=1 - 2**-24)  # in fp32, by the contract
    formula = -torch.log(-torch.log1p(-u.double()))
    assert (want - formula).abs().max() < 2e-6  # one unit in the last place of the largest noise, 22.9


def test_weights():
    want = oracle.weights(DISTANCES)
    on_cpu, on_gpu = torch.empty_like(want), torch.empty_like(want)
    cpu_weight(DISTANCES.numpy(), on_cpu.numpy())
    weight_kernel[(1,)](DISTANCES, on_gpu, N=len(DISTANCES))
    assert torch.equal(on_cpu, want)
    assert torch.equal(on_gpu, want)
    formula = torch.exp(-DISTANCES.double()) * 2**40
    near = DISTANCES < 10
    assert ((want - formula).abs() / formula)[near].max() < 1e-6
    assert (want - formula).abs().max() < 2**40 * 1e-7
    assert (want.diff() <= 0).all()
    assert want[0] == 2**40
    assert (want[DISTANCES >= 28] == 0).all()
