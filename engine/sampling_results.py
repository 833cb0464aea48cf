"""What the sampler found out about each row, as clients are told it."""

from dataclasses import dataclass

import numpy as np

from ..kernels.sampling_batch import PROCESSED, RAW, Sampled
from .messages import SamplingParams


@dataclass
class HostSampled:
    """Sampled on the host; see there for shapes and for what is written."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray

    @classmethod
    def of(cls, sampled: Sampled) -> "HostSampled":
        """Copy to the host (from the CPU backend: share), waiting for it."""
        return cls(*(tensor.cpu().numpy() for tensor in vars(sampled).values()))

    def details(self, row: int, sampling: SamplingParams) -> tuple[float, list[int], list[float]]:
        """Logprob of a row's token, and ids and logprobs of its best ones (messages.Tokens)."""
        kind = RAW if sampling.raw_logprobs else PROCESSED
        logprob = float(self.logprobs[row, kind])
        if sampling.top_n == 0:
            return logprob, [], []
        ids, logprobs = self.top_ids[row, kind], self.top_logprobs[row, kind]
        listed = (ids >= 0) & (logprobs > -np.inf)
        return logprob, ids[listed].tolist(), logprobs[listed].tolist()
