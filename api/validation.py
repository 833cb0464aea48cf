"""What a request may ask for: TGI's rules, in TGI's order and words (contract.md section 2). The first failure wins.

A field whose meaning this server does not implement is refused when it is set to something that would change the
result; it is never ignored.
"""

import secrets

from msgspec import Struct

from ..engine.messages import SamplingParams
from .errors import ValidationError
from .schema import GenerateParameters, GenerateRequest

# TGI generates in legs of this many tokens and checks only the first against the total: a client may ask for "as many
# as there is room for" with a huge max_new_tokens.
_LEG_TOKENS = 1024

_FLOAT32_MAX = 3.4028234663852886e38
_MAX_SEED = 2**64 - 1
# A seed drawn here is shown in details; above 2^53 JavaScript clients could not send it back unchanged.
_DRAWN_SEED_BITS = 53
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


def check(request: GenerateRequest, limits: Limits, stream: bool) -> None:
    """Everything that can be refused before the prompt is tokenised. Raises ValidationError."""
    parameters = request.parameters or GenerateParameters()
    _check_best_of(parameters, limits, stream)
    _check_ranges(parameters)
    stop = parameters.stop or []
    if len(stop) > limits.max_stop_sequences:
        raise ValidationError(f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stop)}")
    if "" in stop:
        raise ValidationError("`stop` sequences cannot be empty")
    if parameters.seed is not None and (parameters.best_of or 1) > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    top_n = parameters.top_n_tokens or 0
    if top_n > limits.max_top_n_tokens:
        raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n}")
    if not request.inputs:
        raise ValidationError("`inputs` cannot be empty")
    truncate = parameters.truncate
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {truncate}"
        )
    _check_supported(parameters)


def _check_best_of(parameters: GenerateParameters, limits: Limits, stream: bool) -> None:
    best_of = 1 if parameters.best_of is None else parameters.best_of
    if stream and best_of != 1:
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if stream and parameters.decoder_input_details:
        raise ValidationError("`decoder_input_details` == true is not supported when streaming tokens")
    if best_of <= 1:
        return
    if limits.max_best_of == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of > limits.max_best_of:
        raise ValidationError(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")
    warpers = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    if not parameters.do_sample and all(warper is None for warper in warpers):
        raise ValidationError("you must use sampling when `best_of` is > 1")


def _check_ranges(parameters: GenerateParameters) -> None:
    for name in ("temperature", "repetition_penalty"):
        value = getattr(parameters, name)
        if value is not None and value <= 0:
            raise ValidationError(f"`{name}` must be strictly positive")
        if value is not None and value > _FLOAT32_MAX:
            raise ValidationError(f"`{name}` must fit in a 32-bit float")
    frequency_penalty = parameters.frequency_penalty
    if frequency_penalty is not None and not -2 <= frequency_penalty <= 2:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = getattr(parameters, name)
        if value is not None and not 0 < value < 1:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")
    if parameters.seed is not None and parameters.seed > _MAX_SEED:
        raise ValidationError(f"`seed` must be <= {_MAX_SEED}. Given: {parameters.seed}")


def _check_supported(parameters: GenerateParameters) -> None:
    if parameters.grammar is not None:
        raise ValidationError("grammar is not supported")
    asked_for = {
        "best_of": (parameters.best_of or 1) > 1,
        "frequency_penalty": bool(parameters.frequency_penalty),
        "typical_p": parameters.typical_p is not None,
        "watermark": bool(parameters.watermark),
        "decoder_input_details": bool(parameters.decoder_input_details),
        "top_n_tokens": bool(parameters.top_n_tokens),
        "adapter_id": parameters.adapter_id is not None,
    }
    for name, asked in asked_for.items():
        if asked:
            raise ValidationError(f"`{name}` is not supported by this server")


def resolve(
    parameters: GenerateParameters | None, input_tokens: int, limits: Limits, eos_ids: tuple[int, ...]
) -> SamplingParams:
    """The parameters with every default filled in, once the length of the prompt is known.

    Args:
        parameters: those of the request; None means that there were none, and that tokens are sampled.
        input_tokens: of the prompt, after truncation.

    Raises:
        ValidationError: prompt and answer do not fit.
    """
    sample = parameters is None
    parameters = parameters or GenerateParameters()
    room = max(limits.max_total_tokens - input_tokens, 0)
    max_new_tokens = room if parameters.max_new_tokens is None else parameters.max_new_tokens
    leg = min(max_new_tokens, _LEG_TOKENS)
    if input_tokens + leg > limits.max_total_tokens:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {leg} `max_new_tokens`"
        )
    if input_tokens > limits.max_input_tokens:
        raise ValidationError(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}")
    temperature = 1.0 if parameters.temperature is None else parameters.temperature
    top_k = parameters.top_k or 0
    top_p = parameters.top_p or 1.0
    # A parameter that shapes the distribution turns sampling on even if do_sample is false.
    sample = sample or bool(parameters.do_sample) or temperature != 1.0 or top_k != 0 or top_p < 1.0
    penalty = 1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty
    return SamplingParams(
        max_new_tokens=min(max_new_tokens, room),
        greedy=not sample,
        temperature=_clip(temperature),
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=_clip(penalty),
        seed=secrets.randbits(_DRAWN_SEED_BITS) if parameters.seed is None else parameters.seed,
        stop_token_ids=eos_ids,
    )


def _clip(factor: float) -> float:
    return min(max(factor, _MIN_FACTOR), _MAX_FACTOR)
