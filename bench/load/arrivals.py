"""When the requests of an open loop leave."""

from typing import Literal

import numpy as np

Arrivals = Literal["poisson", "constant"]


def arrival_times_s(count: int, rate: float, arrivals: Arrivals, seed: int) -> list[float]:
    """Seconds after the start for each of ``count`` requests, ascending, the first at 0.

    Poisson gaps are scaled so that all of them together last (count - 1) / rate, as `vllm bench serve` does: the rate
    asked for is the rate offered, and chance has only the order of long and short gaps.

    Args:
        rate: requests per second; inf sends all at once.
        seed: equal seeds give equal times.
    """
    if np.isinf(rate) or count < 2:
        return [0.0] * count
    if arrivals == "constant":
        return [i / rate for i in range(count)]
    gaps = np.random.default_rng(seed).exponential(1 / rate, count - 1)
    gaps *= (count - 1) / rate / gaps.sum()
    return [0.0, *np.cumsum(gaps).tolist()]
