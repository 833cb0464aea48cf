"""What the sampler found out about each row, as clients are told it."""

from dataclasses import dataclass

import numpy as np

from ..kernels import Sampled
from .messages import SamplingParams


@dataclass
class HostSampled:
    """What of Sampled reaches the clients, on the host; all but the first two None if no row wanted more."""

    token_ids: np.ndarray  # int64 [rows]
    logprobs: np.ndarray  # fp32 [rows]
    raw_logprobs: np.ndarray | None = None  # fp32 [rows]
    top_ids: np.ndarray | None = None  # int64 [rows, TOP_WIDTH]
    top_logprobs: np.ndarray | None = None  # fp32 [rows, TOP_WIDTH]
    raw_top_ids: np.ndarray | None = None
    raw_top_logprobs: np.ndarray | None = None

    @classmethod
    def of(cls, sampled: Sampled) -> "HostSampled":
        """Copy to the host (from the CPU backend: share), waiting for it."""
        top, raw_top = sampled.top, sampled.raw_top
        details = () if top is None or raw_top is None else (top.ids, top.logprobs, raw_top.ids, raw_top.logprobs)
        given = (sampled.token_ids, sampled.logprobs, *([sampled.raw_logprobs] if details else []), *details)
        return cls(*(tensor.cpu().numpy() for tensor in given if tensor is not None))

    def details(self, row: int, sampling: SamplingParams) -> tuple[float, list[int], list[float]]:
        """Logprob of a row's token, and ids and logprobs of its best ones (messages.Tokens)."""
        if sampling.raw_logprobs:
            assert self.raw_logprobs is not None
            logprob, ids, logprobs = self.raw_logprobs[row], self.raw_top_ids, self.raw_top_logprobs
        else:
            logprob, ids, logprobs = self.logprobs[row], self.top_ids, self.top_logprobs
        if sampling.top_n == 0:
            return float(logprob), [], []
        assert ids is not None
        assert logprobs is not None
        listed = (ids[row] >= 0) & (logprobs[row] > -np.inf)
        return float(logprob), ids[row][listed].tolist(), logprobs[row][listed].tolist()
