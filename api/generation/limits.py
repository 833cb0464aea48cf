"""What a request may ask for, and what every protocol resolves alike: sizes, stop strings, biases, seeds."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ..http.errors import ValidationError
from .request_context import random_source

# TGI generates in legs of this many tokens and checks only the first against the total: a client may ask for "as many
# as there is room for" with a huge max_new_tokens.
_LEG_TOKENS = 1024

FLOAT32_MAX = 3.4028234663852886e38
MAX_SEED = 2**64 - 1
# Seeds drawn here are shown in details; above 2^53 JavaScript clients could not send them back unchanged.
SHOWN_SEED_BITS = 53
# Closer to 0 than this, temperature and penalty would overflow 32-bit logits; no distribution differs visibly.
_MIN_FACTOR = 1e-6
_MAX_FACTOR = 1e6


class Limits(Struct, frozen=True, kw_only=True):
    """What this server allows."""

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int  # prompt + generated tokens of one sequence
    max_logit_bias: int = 1024  # entries
    vocab_size: int = 2**31 - 1
    grammar_support: bool = True
    adapters: tuple[str, ...] = ()  # that are loaded


def check_stops(stops: Sequence[str], limits: Limits) -> None:
    """Raises ValidationError."""
    if len(stops) > limits.max_stop_sequences:
        raise ValidationError(f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stops)}")
    if "" in stops:
        raise ValidationError("`stop` sequences cannot be empty")


def resolve_logit_bias(given: Mapping[int, float] | None, limits: Limits) -> tuple[tuple[int, float], ...]:
    """What to add to the logits of which tokens, as the engine takes it. Raises ValidationError."""
    if not given:
        return ()
    if len(given) > limits.max_logit_bias:
        raise ValidationError(f"`logit_bias` supports up to {limits.max_logit_bias} tokens. Given: {len(given)}")
    for token_id, bias in given.items():
        if not 0 <= token_id < limits.vocab_size:
            raise ValidationError(f"`logit_bias` token ids must be >= 0 and < {limits.vocab_size}. Given: {token_id}")
        if not -100 <= bias <= 100:
            raise ValidationError("`logit_bias` values must be >= -100.0 and <= 100.0")
    return tuple(sorted((token_id, bias) for token_id, bias in given.items() if bias))


def granted_tokens(input_tokens: int, max_new_tokens: int | None, limits: Limits) -> int:
    """How many tokens a prompt of that length may get. Raises ValidationError if prompt and answer do not fit."""
    room = max(limits.max_total_tokens - input_tokens, 0)
    asked = room if max_new_tokens is None else max_new_tokens
    leg = min(asked, _LEG_TOKENS)
    if input_tokens + leg > limits.max_total_tokens:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {leg} `max_new_tokens`"
        )
    if input_tokens > limits.max_input_tokens:
        raise ValidationError(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}")
    return min(asked, room)


def draw_seed() -> int:
    """For a request that brings none."""
    return random_source().getrandbits(SHOWN_SEED_BITS)


def derived_seed(seed: int, index: int) -> int:
    """The seed of a request's ``index``-th sequence: SplitMix64 (Steele, Lea & Flood 2014), shortened."""
    z = (seed + index * 0x9E3779B97F4A7C15) & MAX_SEED
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MAX_SEED
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MAX_SEED
    return (z ^ (z >> 31)) >> (64 - SHOWN_SEED_BITS)


def clip_factor(factor: float) -> float:
    """A temperature or repetition penalty that 32-bit logits survive."""
    return min(max(factor, _MIN_FACTOR), _MAX_FACTOR)
