"""What a request may ask for: TGI's rules, in TGI's order and words (contract.md section 2). The first failure wins.

A field whose meaning this server does not implement is refused when it is set to something that would change the
result; it is never ignored.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ...engine.messages import SamplingParams
from ..generation import request_context as draws
from ..http.errors import ValidationError
from ..text.grammar import engine_grammar
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
    max_logit_bias: int = 1024  # entries
    vocab_size: int = 2**31 - 1
    grammar_support: bool = True


def check(request: GenerateRequest, limits: Limits, stream: bool) -> None:
    """Everything that can be refused before the prompt is tokenised. Raises ValidationError."""
    parameters = request.parameters or GenerateParameters()
    _check_best_of(parameters, limits, stream)
    _check_ranges(parameters)
    check_stops(parameters.stops, limits)
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
    _check_beyond_tgi(parameters, limits)
    if parameters.adapter_id:
        raise ValidationError("`adapter_id` is not supported by this server: no adapter is loaded")


def check_stops(stops: Sequence[str], limits: Limits) -> None:
    """Raises ValidationError."""
    if len(stops) > limits.max_stop_sequences:
        raise ValidationError(f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stops)}")
    if "" in stops:
        raise ValidationError("`stop` sequences cannot be empty")


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


def _check_beyond_tgi(parameters: GenerateParameters, limits: Limits) -> None:
    if parameters.min_p is not None and not 0 <= parameters.min_p <= 1:
        raise ValidationError("`min_p` must be >= 0.0 and <= 1.0")
    if parameters.presence_penalty is not None and not -2 <= parameters.presence_penalty <= 2:
        raise ValidationError("`presence_penalty` must be >= -2.0 and <= 2.0")
    least, most = parameters.min_new_tokens or 0, parameters.max_new_tokens
    if most is not None and least > most:
        raise ValidationError(f"`min_new_tokens` must be <= `max_new_tokens`. Given: {least} and {most}")
    resolve_logit_bias(parameters.logit_bias, limits)


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
    return draws.source().getrandbits(_DRAWN_SEED_BITS)


def resolve(
    parameters: GenerateParameters | None, input_tokens: int, limits: Limits, eos_ids: tuple[int, ...]
) -> SamplingParams:
    """The parameters with every default filled in, once the length of the prompt is known.

    Args:
        parameters: those of the request; None means that there were none, and that tokens are sampled.
        input_tokens: of the prompt, after truncation.

    Raises:
        ValidationError: prompt and answer do not fit, or the grammar is none.
    """
    sample = parameters is None
    parameters = parameters or GenerateParameters()
    max_new_tokens = granted_tokens(input_tokens, parameters.max_new_tokens, limits)
    grammar = engine_grammar(parameters.grammar)
    if grammar is not None and not limits.grammar_support:
        raise ValidationError("grammar is not supported")
    temperature = 1.0 if parameters.temperature is None else parameters.temperature
    top_k = parameters.top_k or 0
    top_p = parameters.top_p or 1.0
    typical_p = parameters.typical_p or 1.0
    min_p = parameters.min_p or 0.0
    # A parameter that shapes the distribution turns sampling on even if do_sample is false.
    shaped = temperature != 1.0 or top_k != 0 or top_p < 1.0 or typical_p < 1.0 or min_p > 0.0
    penalty = 1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        greedy=not (sample or parameters.do_sample or shaped),
        temperature=clip_factor(temperature),
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=clip_factor(penalty),
        seed=draw_seed() if parameters.seed is None else parameters.seed,
        stop_token_ids=() if parameters.ignore_eos else eos_ids,
        min_p=min_p,
        typical_p=typical_p,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        presence_penalty=parameters.presence_penalty or 0.0,
        logit_bias=resolve_logit_bias(parameters.logit_bias, limits),
        min_new_tokens=min(parameters.min_new_tokens or 0, max_new_tokens),
        watermark=bool(parameters.watermark),
        grammar=grammar,
        top_n=parameters.top_n_tokens or 0,
        prompt_logprobs=bool(parameters.decoder_input_details),
    )


def clip_factor(factor: float) -> float:
    """A temperature or repetition penalty that 32-bit logits survive."""
    return min(max(factor, _MIN_FACTOR), _MAX_FACTOR)
