"""The sampling contract written plainly: process, sort, mask, add the noise, argmax. One row at a time, in torch.

Weights and noise follow ``kernels/exact.py`` operation by operation, so a backend's tokens must be equal, not close;
the tests hold those functions against float64. It lives here, where the check of a GPU finds it with no test installed.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ....kernels import exact
from ....kernels.sampling_batch import TOP_WIDTH, SamplingBatch

NEVER = -torch.inf


def philox(key: int, counters: np.ndarray) -> torch.Tensor:
    """Words of Philox-4x32-10: integer counters [n, 4] -> int64 [n, 4], each holding a uint32."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = counters.astype(np.uint64).T
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(exact.PHILOX_M0), c2 * np.uint64(exact.PHILOX_M1)
        c0, c1, c2, c3 = p1 >> half ^ c1 ^ k0, p1 & mask, p0 >> half ^ c3 ^ k1, p0 & mask
        k0, k1 = k0 + np.uint64(exact.PHILOX_W0) & mask, k1 + np.uint64(exact.PHILOX_W1) & mask
    return torch.from_numpy(np.stack([c0, c1, c2, c3], 1).astype(np.int64))


def token_words(key: int, vocab: int, place: int, domain: int) -> torch.Tensor:
    """The random word of each token, int64 [vocab]."""
    counters = np.zeros(((vocab + 3) // 4, 4), np.uint64)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 1:] = place & 0xFFFFFFFF, place >> 32, domain
    return philox(key, counters).flatten()[:vocab]


def ln(x: torch.Tensor) -> torch.Tensor:
    """fp32, positive and normal."""
    bits = x.view(torch.int32)
    k = (bits - exact.SQRT_HALF_BITS) >> 23
    g = (bits - (k << 23)).view(torch.float32) - 1
    p = torch.zeros_like(g)
    for coefficient in exact.LN_POLYNOMIAL:
        p = p * g + coefficient
    k = k.to(torch.float32)
    square = g * g
    return (g + (p * g * square + k * exact.LN2_LOW - square * 0.5)) + k * exact.LN2_HIGH


def gumbel(bits: torch.Tensor) -> torch.Tensor:
    """int64 holding uint32 -> fp32."""
    u = torch.clamp((bits.to(torch.float32) + 0.5) * exact.TWO_POW_MINUS_32, max=exact.BELOW_ONE)
    y = 1 - u
    lost = -u - (y - 1)
    return -ln(-(ln(y) + lost * (2 - y)))


def weights(r: torch.Tensor) -> torch.Tensor:
    """exp(-r) in units of 2^-40, int64."""
    t = r.clamp(max=exact.FAR) * exact.MINUS_LOG2_E
    k = (t - 0.5).to(torch.int32)
    f = t - k
    p = torch.zeros_like(f)
    for coefficient in exact.EXP2_POLYNOMIAL:
        p = p * f + coefficient
    return ((p * f + 1) * torch.exp2(k.to(torch.float32) + exact.WEIGHT_BITS)).to(torch.int64)


def noise(seed: int, position: int, vocab: int) -> torch.Tensor:
    return gumbel(token_words(seed, vocab, position, 0))


def process(logits: torch.Tensor, batch: SamplingBatch, row: int) -> torch.Tensor:
    """Everything before the allowed set, in the order of TGI's pipeline."""
    z = logits.float()
    entries = slice(int(batch["bias_start"][row]), int(batch["bias_end"][row]))
    z = z.index_add(0, batch.bias_ids[entries].long(), batch.bias_values[entries])
    counted = int(batch["counts_row"][row])
    if counted >= 0:
        counts = batch.token_counts[counted]
        p = batch["repetition_penalty"][row]
        z = torch.where(counts > 0, torch.where(z < 0, z * p, z / p), z)
        length = batch["position"][row].clamp(min=1).float()
        z = z - counts.float() / length * batch["frequency_penalty"][row]
        counts = batch.output_counts[counted]
        z = z - counts.float() * batch["output_frequency_penalty"][row]
        z = z - (counts > 0).float() * batch["presence_penalty"][row]
    if batch["grammar_row"][row] >= 0:
        bits = batch.grammar_bits[batch["grammar_row"][row]]
        token = torch.arange(len(z))
        z = torch.where((bits[token // 32] >> (token % 32)) & 1 == 1, z, NEVER)
    if not batch["greedy"][row]:
        z = z * (1 / batch["temperature"][row].clamp(min=exact.LOWEST_TEMPERATURE))
    return torch.where(z.isnan(), NEVER, z.clamp(max=exact.HIGHEST_LOGIT))


def lightest(keys: torch.Tensor, mass: torch.Tensor, p: float) -> torch.Tensor:
    """Tokens in ascending order of key, equal keys together, until they weigh p of all: those that are kept."""
    values, inverse = torch.unique(keys, sorted=True, return_inverse=True)
    of_value = torch.zeros(len(values), dtype=torch.int64).index_add_(0, inverse, mass)
    before = of_value.cumsum(0) - of_value
    return (before.double() < float(p) * mass.sum().double())[inverse]


def allowed(r: torch.Tensor, batch: SamplingBatch, row: int) -> torch.Tensor:
    """Which tokens may be drawn, from their distances to the best."""
    keep = r < torch.inf
    if batch["greedy"][row]:
        return keep
    top_k, top_p = int(batch["top_k"][row]), float(batch["top_p"][row])
    min_p, typical_p = batch["min_p"][row], float(batch["typical_p"][row])
    if 0 < top_k < len(r):
        keep &= r <= r.sort().values[top_k - 1]
    if top_p < 1:
        keep &= lightest(r, weights(r) * keep, top_p)
    if min_p > 0:
        keep &= r <= (-ln(min_p[None].clamp(min=exact.LOWEST_MIN_P))).clamp(min=0)
    if typical_p < 1:
        mass = weights(r) * keep
        moment = (mass.float() * torch.where(mass > 0, r, 0)).long()
        centre = (moment.sum().double() / mass.sum().double()).float()
        keep &= lightest((r - centre).abs(), mass, typical_p)
    return keep


def seed_of(batch: SamplingBatch, row: int) -> int:
    low, high = int(batch["seed_low"][row]), int(batch["seed_high"][row])
    return (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF


def best(r: torch.Tensor, keep: torch.Tensor, wanted: int) -> list[int]:
    """The ``wanted`` nearest tokens, by (r, id), and those equal to the last, as far as there is room."""
    order = torch.argsort(r, stable=True)
    order = order[keep[order]]
    if wanted == 0:
        return []
    if wanted < len(order):
        order = order[r[order] <= r[order[wanted - 1]]]
    return order[:TOP_WIDTH].tolist()


@dataclass
class Row:
    """What is true of one row; ``top`` and ``raw_top`` map ids to logprobs, in order."""

    token: int
    logprob: float
    raw_logprob: float
    top: dict[int, float]
    raw_top: dict[int, float]


def sample_row(logits: torch.Tensor, batch: SamplingBatch, row: int) -> Row:
    """What every backend's ``sample`` must return for a row: the token exactly, logprobs within rounding."""
    z = process(logits, batch, row)
    raw = torch.where(logits.isnan(), NEVER, logits.clamp(max=exact.HIGHEST_LOGIT))
    wanted = max(int(batch["top_n"][row]), 0)
    r, raw_r = z.max() - z, raw.max() - raw
    keep = allowed(r, batch, row)
    raw_keep = raw > NEVER
    if keep.any():
        scores = z
        if not batch["greedy"][row]:
            scores = z + noise(seed_of(batch, row), int(batch["position"][row]), len(z))
        scores = torch.where(keep, scores, NEVER)
        token = int((scores == scores.max()).nonzero()[0])
    else:
        token = 0
    logprobs = torch.where(keep, -r, NEVER).double().log_softmax(0).nan_to_num(NEVER, neginf=NEVER)
    raw_logprobs = torch.where(raw_keep, -raw_r, NEVER).double().log_softmax(0).nan_to_num(NEVER, neginf=NEVER)
    return Row(
        token=token,
        logprob=float(logprobs[token]),
        raw_logprob=float(raw_logprobs[token]),
        top={t: float(logprobs[t]) for t in best(r, keep, wanted)},
        raw_top={t: float(raw_logprobs[t]) for t in best(raw_r, raw_keep, wanted)},
    )
