import sys
from typing import Any

import msgspec
import pytest

from headwater.api.http.errors import ValidationError
from headwater.api.tgi.schema import GenerateParameters, GenerateRequest
from headwater.api.tgi.validation import Limits, check, resolve
from headwater.engine.messages import Grammar, SamplingParams

LIMITS = Limits(
    max_best_of=2,
    max_stop_sequences=4,
    max_top_n_tokens=5,
    max_input_tokens=100,
    max_total_tokens=128,
    max_logit_bias=2,
    vocab_size=258,
)
WIDE = Limits(max_best_of=2, max_stop_sequences=4, max_top_n_tokens=5, max_input_tokens=4000, max_total_tokens=4096)


def request(inputs: str = "a", **parameters: Any) -> GenerateRequest:
    return msgspec.json.decode(msgspec.json.encode({"inputs": inputs, "parameters": parameters}), type=GenerateRequest)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1}, "`temperature` must be strictly positive"),
    ({"temperature": 1e39}, "`temperature` must fit in a 32-bit float"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"stop": [""]}, "`stop` sequences cannot be empty"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"seed": 2**64}, "`seed` must be <= 18446744073709551615. Given: 18446744073709551616"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 100. Given: 0"),
    ({"truncate": 101}, "`truncate` must be strictly positive and less than 100. Given: 101"),
    ({"watermark": True}, "`watermark` is not supported by this server: no detector would find it"),
    ({"adapter_id": "x"}, "`adapter_id` must be the name of an adapter that is loaded: no adapter is loaded"),
    ({"stop": ""}, "`stop` sequences cannot be empty"),
    ({"min_p": 1.1}, "`min_p` must be >= 0.0 and <= 1.0"),
    ({"presence_penalty": -2.1}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ({"min_new_tokens": 3, "max_new_tokens": 2}, "`min_new_tokens` must be <= `max_new_tokens`. Given: 3 and 2"),
    ({"logit_bias": {"258": 1}}, "`logit_bias` token ids must be >= 0 and < 258. Given: 258"),
    ({"logit_bias": {"-1": 1}}, "`logit_bias` token ids must be >= 0 and < 258. Given: -1"),
    ({"logit_bias": {"1": 101}}, "`logit_bias` values must be >= -100.0 and <= 100.0"),
    ({"logit_bias": {"1": 1, "2": 1, "3": 1}}, "`logit_bias` supports up to 2 tokens. Given: 3"),
    # The first failure in TGI's order wins.
    ({"best_of": 2, "max_new_tokens": 0}, "you must use sampling when `best_of` is > 1"),
    ({"top_k": 0, "top_p": 2, "temperature": 0}, "`temperature` must be strictly positive"),
    ({"inputs": "", "truncate": 0, "stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_refusals(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check(request(**fields), LIMITS, stream=False)
    assert caught.value.error == f"Input validation error: {reason}"
    assert (caught.value.status, caught.value.error_type) == (422, "validation")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
    ],
)
def test_refusals_of_streams(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check(request(**fields), LIMITS, stream=True)
    assert caught.value.error == f"Input validation error: {reason}"


ALL_FIELDS = [field.name for field in msgspec.structs.fields(GenerateParameters)]


@pytest.mark.parametrize("stream", [False, True])
def test_null_is_like_absent_for_every_field(stream: bool) -> None:
    nulls = request(**dict.fromkeys(ALL_FIELDS))
    check(nulls, LIMITS, stream)
    assert resolve(nulls.parameters, 3, LIMITS, ()).greedy
    assert nulls.parameters == GenerateParameters()


def test_values_that_change_nothing_are_taken() -> None:
    neutral = {
        "best_of": 1,
        "frequency_penalty": 0.0,
        "watermark": False,
        "decoder_input_details": False,
        "top_n_tokens": 0,
        "stop": [],
        "temperature": 1.0,
        "repetition_penalty": 1.0,
        "truncate": 100,
        "seed": 2**64 - 1,
    }
    check(request(**neutral), LIMITS, stream=True)


@pytest.mark.parametrize(
    ("parameters", "greedy"),
    [
        (None, False),  # no parameters at all
        ({}, True),
        ({"do_sample": True}, False),
        ({"temperature": 1.0}, True),
        ({"temperature": 0.5}, False),
        ({"top_k": 5, "do_sample": False}, False),
        ({"top_p": 0.9}, False),
        ({"typical_p": 0.95}, False),
        ({"min_p": 0.1}, False),
        ({"min_p": 0.0}, True),
        ({"repetition_penalty": 1.2, "seed": 5}, True),
    ],
)
def test_what_turns_sampling_on(parameters: dict[str, Any] | None, greedy: bool) -> None:
    given = None if parameters is None else request(**parameters).parameters
    assert resolve(given, 3, LIMITS, ()).greedy is greedy


def test_every_field_reaches_the_engine() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.25,
        "typical_p": 0.75,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "frequency_penalty": -1.5,
        "presence_penalty": 0.5,
        "logit_bias": {"9": -100, "3": 1.5, "4": 0},
        "seed": 9,
        "max_new_tokens": 4,
        "min_new_tokens": 2,
        "top_n_tokens": 5,
        "decoder_input_details": True,
    }
    limits = msgspec.structs.replace(LIMITS, max_logit_bias=3)
    check(request(**fields), limits, stream=False)
    grammar = Grammar("regex", "a+")
    assert resolve(request(**fields).parameters, 3, limits, (257,), grammar) == SamplingParams(
        max_new_tokens=4,
        greedy=False,
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        repetition_penalty=1.5,
        seed=9,
        stop_token_ids=(257,),
        min_p=0.125,
        typical_p=0.75,
        frequency_penalty=-1.5,
        presence_penalty=0.5,
        logit_bias=((3, 1.5), (9, -100.0)),
        min_new_tokens=2,
        grammar=grammar,
        top_n=5,
        prompt_logprobs=True,
    )
    assert resolve(request(ignore_eos=True).parameters, 3, LIMITS, (257,)).stop_token_ids == ()


def test_a_drawn_seed_is_new_and_survives_javascript() -> None:
    seeds = {resolve(None, 3, LIMITS, ()).seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(seed < 2**53 for seed in seeds)


@pytest.mark.parametrize("factor", [1e-300, sys.float_info.min, 3e38])
def test_factors_stay_where_32_bit_logits_survive_them(factor: float) -> None:
    given = request(temperature=factor, repetition_penalty=factor)
    check(given, LIMITS, stream=False)
    sampling = resolve(given.parameters, 3, LIMITS, ())
    assert 1e-6 <= sampling.temperature == sampling.repetition_penalty <= 1e6


TOTAL = "`inputs` tokens + `max_new_tokens` must be <= {}. Given: {} `inputs` tokens and {} `max_new_tokens`"


@pytest.mark.parametrize(
    ("limits", "input_tokens", "max_new_tokens", "reason"),
    [
        (LIMITS, 100, 29, TOTAL.format(128, 100, 29)),
        (LIMITS, 10, 5000, TOTAL.format(128, 10, 1024)),
        (LIMITS, 130, None, TOTAL.format(128, 130, 0)),
        (LIMITS, 101, 1, "`inputs` must have less than 100 tokens. Given: 101"),
    ],
)
def test_lengths_that_do_not_fit(limits: Limits, input_tokens: int, max_new_tokens: int | None, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        resolve(request(max_new_tokens=max_new_tokens).parameters, input_tokens, limits, ())
    assert caught.value.error == f"Input validation error: {reason}"


@pytest.mark.parametrize(
    ("limits", "input_tokens", "asked", "granted"),
    [
        (LIMITS, 100, 28, 28),
        (LIMITS, 100, None, 28),
        (WIDE, 3000, 100_000, 1096),  # as much as there is room for, as TGI does after its first leg
        (WIDE, 3000, 1050, 1050),
    ],
)
def test_how_many_tokens_are_granted(limits: Limits, input_tokens: int, asked: int | None, granted: int) -> None:
    assert resolve(request(max_new_tokens=asked).parameters, input_tokens, limits, ()).max_new_tokens == granted
