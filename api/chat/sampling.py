"""OpenAI's sampling fields, and what other servers add to them, as the engine takes them."""

import msgspec
from msgspec import Struct

from ...engine.messages import MAX_TOP_N, Grammar, SamplingParams
from ..generation.limits import (
    FLOAT32_MAX,
    MAX_SEED,
    Limits,
    check_stops,
    clip_factor,
    draw_seed,
    granted_tokens,
    resolve_logit_bias,
)
from .errors import InvalidRequestError
from .request import SamplingFields

MAX_CHOICES = 128  # as OpenAI

# Least, most (both allowed) of what has a range.
_RANGES = {
    "temperature": (0.0, FLOAT32_MAX),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, FLOAT32_MAX),
}


class Checked(Struct, frozen=True):
    """What the fields of a request ask for, as far as it can be said before its prompt is tokenised."""

    choices: int
    stops: tuple[str, ...]
    max_tokens: int | None  # None: as many as there is room for
    sampling: SamplingParams  # but for its max_new_tokens

    def for_prompt(self, prompt_tokens: int, limits: Limits) -> SamplingParams:
        """The parameters for a prompt of that length. Raises ValidationError if prompt and answer do not fit."""
        granted = granted_tokens(prompt_tokens, self.max_tokens, limits)
        least = min(self.sampling.min_new_tokens, granted)
        return msgspec.structs.replace(self.sampling, max_new_tokens=granted, min_new_tokens=least)


def check(
    request: SamplingFields, limits: Limits, eos_ids: tuple[int, ...], grammar: Grammar | None, top_logprobs: int
) -> Checked:
    """Check and resolve. Raises InvalidRequestError, ValidationError.

    Args:
        grammar: of the answer, whether it came from ``response_format`` or from the tools.
        top_logprobs: best tokens wanted beside each one.
    """
    for name, (least, most) in _RANGES.items():
        value = getattr(request, name)
        if value is not None and not least <= value <= most:
            raise InvalidRequestError(f"`{name}` must be >= {least} and <= {most:g}. Given: {value:g}", name)
    for name in ("typical_p", "repetition_penalty"):
        if getattr(request, name) == 0:
            raise InvalidRequestError(f"`{name}` must be strictly positive", name)
    if request.top_k is not None and request.top_k < -1:
        raise InvalidRequestError("`top_k` must be positive, or 0 or -1 for no limit", "top_k")
    choices = 1 if request.n is None else request.n
    if not 1 <= choices <= MAX_CHOICES:
        raise InvalidRequestError(f"`n` must be >= 1 and <= {MAX_CHOICES}. Given: {choices}", "n")
    if top_logprobs > MAX_TOP_N:
        raise InvalidRequestError(f"at most {MAX_TOP_N} top logprobs can be had. Given: {top_logprobs}")
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    check_stops(stops, limits)
    if isinstance(request.logit_bias, list) and request.logit_bias:
        raise InvalidRequestError("`logit_bias` must be an object: token id to bias", "logit_bias")
    bias = request.logit_bias if isinstance(request.logit_bias, dict) else None
    sampling = SamplingParams(
        max_new_tokens=1,
        # Only the best token is within an empty nucleus.
        greedy=request.temperature == 0 or request.top_p == 0,
        temperature=clip_factor(1.0 if request.temperature is None else request.temperature),
        top_k=max(request.top_k or 0, 0),
        top_p=request.top_p or 1.0,
        repetition_penalty=clip_factor(1.0 if request.repetition_penalty is None else request.repetition_penalty),
        seed=draw_seed() if request.seed is None else request.seed & MAX_SEED,
        stop_token_ids=(*(() if request.ignore_eos else eos_ids), *_stop_token_ids(request, limits)),
        min_p=request.min_p or 0.0,
        typical_p=request.typical_p or 1.0,
        output_frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=resolve_logit_bias(bias, limits),
        min_new_tokens=_least_tokens(request),
        grammar=grammar,
        top_n=top_logprobs,
        raw_logprobs=True,
        adapter=request.model if request.model in limits.adapters else None,
    )
    return Checked(choices, stops, _most_tokens(request), sampling)


def _stop_token_ids(request: SamplingFields, limits: Limits) -> list[int]:
    given = request.stop_token_ids or []
    if given and max(given) >= limits.vocab_size:
        raise InvalidRequestError(
            f"`stop_token_ids` must be < {limits.vocab_size}. Given: {max(given)}", "stop_token_ids"
        )
    return given


def _most_tokens(request: SamplingFields) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError("`max_tokens` and `max_completion_tokens` differ: send one of them", "max_tokens")
    most = old if new is None else new
    if most == 0:
        name = "max_tokens" if old == 0 else "max_completion_tokens"
        raise InvalidRequestError(f"`{name}` must be strictly positive", name)
    return most


def _least_tokens(request: SamplingFields) -> int:
    least = max(request.min_tokens or 0, request.min_new_tokens or 0)
    most = _most_tokens(request)
    if most is not None and least > most:
        raise InvalidRequestError(f"`min_tokens` must be <= `max_tokens`. Given: {least} and {most}", "min_tokens")
    return least
