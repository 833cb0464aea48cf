"""What follows from the sampling parameters of a sequence, whatever the step."""

from dataclasses import dataclass

import numpy as np

from .messages import SamplingParams


def needs_sync(sampling: SamplingParams) -> bool:
    """Whether a sequence's last token must be known on the host before its next row is staged."""
    return sampling.grammar is not None


def can_speculate(sampling: SamplingParams) -> bool:
    """Whether a row's processing is the same whatever the tokens before it are. min_new_tokens goes by position."""
    return not needs_sync(sampling) and not wants_counts(sampling)


def wants_output_counts(sampling: SamplingParams) -> bool:
    """Whether a penalty looks at the generated tokens alone."""
    return sampling.output_frequency_penalty != 0.0 or sampling.presence_penalty != 0.0


def wants_counts(sampling: SamplingParams) -> bool:
    """Whether any penalty is on."""
    counted = sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0
    return counted or wants_output_counts(sampling)


@dataclass
class Biases:
    """A sequence's biases, ascending by id: at first those that forbid its stop tokens are among them."""

    early: tuple[np.ndarray, np.ndarray]  # int32 ids, fp32 values
    later: tuple[np.ndarray, np.ndarray]


def biases_of(sampling: SamplingParams, vocab_size: int) -> Biases | None:
    """The bias lists of a sequence, if it has any. Ids outside the vocabulary are nothing to be biased."""
    later = {token_id: bias for token_id, bias in sampling.logit_bias if 0 <= token_id < vocab_size}
    early = later
    if sampling.min_new_tokens > 0:
        stops = [token_id for token_id in sampling.stop_token_ids if 0 <= token_id < vocab_size]
        early = later | dict.fromkeys(stops, -np.inf)
    if not early:
        return None

    def arrays(biases: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array(sorted(biases), np.int32)
        return ids, np.array([biases[token_id] for token_id in ids.tolist()], np.float32)

    return Biases(arrays(early), arrays(later))
