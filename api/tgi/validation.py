"""What a request may ask for: TGI's rules, in TGI's order and words. The first failure wins.

A field whose meaning this server does not implement is refused when it is set to something that would change the
result; it is never ignored.
"""

from ...engine.messages import Grammar, SamplingParams
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
from ..http.errors import ValidationError
from .schema import GenerateParameters, GenerateRequest


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
    if parameters.watermark:
        raise ValidationError("`watermark` is not supported by this server: no detector would find it")
    if parameters.adapter_id and parameters.adapter_id not in limits.adapters:
        loaded = f"loaded are {', '.join(limits.adapters)}" if limits.adapters else "no adapter is loaded"
        raise ValidationError(f"`adapter_id` must be the name of an adapter that is loaded: {loaded}")


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
        if value is not None and value > FLOAT32_MAX:
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
    if parameters.seed is not None and parameters.seed > MAX_SEED:
        raise ValidationError(f"`seed` must be <= {MAX_SEED}. Given: {parameters.seed}")


def _check_beyond_tgi(parameters: GenerateParameters, limits: Limits) -> None:
    if parameters.min_p is not None and not 0 <= parameters.min_p <= 1:
        raise ValidationError("`min_p` must be >= 0.0 and <= 1.0")
    if parameters.presence_penalty is not None and not -2 <= parameters.presence_penalty <= 2:
        raise ValidationError("`presence_penalty` must be >= -2.0 and <= 2.0")
    least, most = parameters.min_new_tokens or 0, parameters.max_new_tokens
    if most is not None and least > most:
        raise ValidationError(f"`min_new_tokens` must be <= `max_new_tokens`. Given: {least} and {most}")
    resolve_logit_bias(parameters.logit_bias, limits)


def resolve(
    parameters: GenerateParameters | None,
    input_tokens: int,
    limits: Limits,
    eos_ids: tuple[int, ...],
    grammar: Grammar | None = None,
) -> SamplingParams:
    """The parameters with every default filled in, once the length of the prompt is known.

    Args:
        parameters: those of the request; None means that there were none, and that tokens are sampled.
        input_tokens: of the prompt, after truncation.
        grammar: of the answer, which ``parameters`` has as the client wrote it.

    Raises:
        ValidationError: prompt and answer do not fit.
    """
    sample = parameters is None
    parameters = parameters or GenerateParameters()
    max_new_tokens = granted_tokens(input_tokens, parameters.max_new_tokens, limits)
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
        grammar=grammar,
        top_n=parameters.top_n_tokens or 0,
        prompt_logprobs=bool(parameters.decoder_input_details),
        adapter=parameters.adapter_id or None,
    )
