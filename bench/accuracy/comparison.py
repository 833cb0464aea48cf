"""Two distributions at each token of a text, in figures.

KL divergence = sum over tokens i of p_i * (log p_i - log q_i)        p: the baseline's, q: what is measured
perplexity = exp(-mean log-probability of the text's own tokens)
"""

import math

import torch
from msgspec import Struct


class Comparison(Struct):
    """Figures of each token that was evaluated, natural logs."""

    divergences: list[float] = []
    baseline_logprobs: list[float] = []  # of the text's own tokens
    logprobs: list[float] = []
    same_best: int = 0

    def add(
        self, baseline: torch.Tensor, measured: torch.Tensor, token_ids: list[int], least: float = -math.inf
    ) -> None:
        """Some tokens more.

        Args:
            baseline: log-probabilities, fp64 [tokens, vocab].
            measured: the same.
            token_ids: what the text has in these places.
            least: what the baseline has of tokens that are no more likely is left out of divergences.
        """
        own = torch.tensor(token_ids, device=measured.device)[:, None]
        baseline = baseline.to(measured.device)
        likely = baseline > least  # 0 * log 0 is 0
        terms = torch.where(likely, baseline.exp() * (baseline - measured), 0.0)
        self.divergences += terms.sum(-1).tolist()
        self.baseline_logprobs += baseline.gather(1, own)[:, 0].tolist()
        self.logprobs += measured.gather(1, own)[:, 0].tolist()
        self.same_best += int((baseline.argmax(-1) == measured.argmax(-1)).sum())


class Figures(Struct, frozen=True):
    """Of all tokens that were evaluated."""

    tokens: int
    mean_divergence: float
    divergence_error: float  # standard error of the mean
    p99_divergence: float
    max_divergence: float
    baseline_perplexity: float
    perplexity: float
    mean_logprob_difference: float  # absolute, of the text's own tokens
    same_best_share: float


def figures_of(comparison: Comparison) -> Figures:
    """Sum a comparison up."""
    divergences = torch.tensor(comparison.divergences, dtype=torch.float64)
    baseline = torch.tensor(comparison.baseline_logprobs, dtype=torch.float64)
    measured = torch.tensor(comparison.logprobs, dtype=torch.float64)
    count = len(divergences)
    return Figures(
        tokens=count,
        mean_divergence=divergences.mean().item(),
        divergence_error=divergences.std(correction=0).item() / math.sqrt(count),
        p99_divergence=divergences.quantile(0.99).item(),
        max_divergence=divergences.max().item(),
        baseline_perplexity=math.exp(-baseline.mean().item()),
        perplexity=math.exp(-measured.mean().item()),
        mean_logprob_difference=(measured - baseline).abs().mean().item(),
        same_best_share=comparison.same_best / count,
    )
