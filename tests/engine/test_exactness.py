"""Tokens and logprobs of a request depend on the request alone: bit by bit, on the default model, in fp32, in bf16 and
over fp8 pages.

The mechanism on the cpu backend is the same in all: each sum has one accumulator and runs in a fixed order, whatever
else is in the step (kernels/cpu/tile.py), and noise is keyed by the request's seed and the token's position.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.config import ActivationDtype, EngineConfig, KvCacheDtype
from headwater.engine.engine import Engine
from headwater.engine.messages import SamplingParams, Stats, Submit
from headwater.engine.start import start_engine

TEXTS = [
    "The river rises in the mountains and",
    "1 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8 1 2 3 4",
    "Once upon a time there was a river that flowed through the valley. " * 8,
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n",
]
NEW_TOKENS = 24  # more than one page
SAMPLINGS = [
    SamplingParams(NEW_TOKENS, greedy=True, top_n=3),
    SamplingParams(NEW_TOKENS, greedy=False, seed=2**64 - 1, temperature=0.7, top_p=0.9),
    SamplingParams(NEW_TOKENS, greedy=False, seed=5, top_k=40, typical_p=0.95, repetition_penalty=1.2),
    SamplingParams(NEW_TOKENS, greedy=False, seed=6, min_p=0.05, presence_penalty=0.5, logit_bias=((198, -1.0),)),
]


@dataclass
class Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_ids: list[list[int]] = field(default_factory=list)
    cached_tokens: int = 0


@pytest.fixture(scope="module")
def directory() -> Path:
    return resolve_model(None).directory


@pytest.fixture(scope="module")
def requests(directory: Path) -> list[tuple[list[int], SamplingParams]]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return list(zip([tokenizer.encode(text).ids for text in TEXTS], SAMPLINGS, strict=True))


def start_default(directory: Path, dtype: str, **settings: object) -> Engine:
    config = {"model_dir": directory, "model_id": "default", "socket": directory / "unused", "device": "cpu"}
    return start_engine(EngineConfig(**{**config, "dtype": dtype, "kv_cache_bytes": 64 << 20, **settings}))[0]


def run(engine: Engine, requests: list[tuple[list[int], SamplingParams]]) -> list[Answer]:
    for request_id, (prompt_ids, sampling) in enumerate(requests):
        assert engine.submit(0, Submit(request_id, prompt_ids, sampling)) is None
    answers = [Answer() for _ in requests]
    while engine.has_work:
        for step in engine.step().values():
            for started in step.started:
                answers[started.request_id].cached_tokens = started.cached_tokens
            for new in step.tokens:
                answer = answers[new.request_id]
                answer.token_ids += new.token_ids
                answer.logprobs += new.logprobs
                answer.top_ids += new.top_ids
    engine.check()
    return answers


def strip(answers: list[Answer]) -> list[tuple]:
    return [(answer.token_ids, answer.logprobs, answer.top_ids) for answer in answers]


@pytest.mark.parametrize(
    ("dtype", "kv_cache_dtype", "itemsize"),
    [("float32", "auto", 4), ("bfloat16", "auto", 2), ("bfloat16", "fp8_e4m3fn", 1)],
)
def test_answers_are_the_same_in_any_company(
    directory: Path,
    requests: list[tuple[list[int], SamplingParams]],
    dtype: str,
    kv_cache_dtype: KvCacheDtype,
    itemsize: int,
) -> None:
    start = partial(start_default, directory, dtype, kv_cache_dtype=kv_cache_dtype)
    engine = start(prefix_cache=False)
    alone = [run(engine, [request])[0] for request in requests]
    assert [len(answer.token_ids) for answer in alone] == [NEW_TOKENS] * 4

    others = [
        (prompt_ids[: 1 + i % len(prompt_ids)], msgspec.structs.replace(sampling, max_new_tokens=2 + i, seed=i))
        for i in range(9) for prompt_ids, sampling in requests
    ]  # fmt: skip
    assert strip(run(engine, [*requests, *others])[:4]) == strip(alone), "among 36 others"

    chunked = start(max_batch_prefill_tokens=16, max_batch_size=4)
    assert strip(run(chunked, requests)) == strip(alone), "prompts in chunks of at most 16 rows"
    again = run(chunked, requests)
    assert strip(again) == strip(alone), "with prompts from the cache"
    assert again[2].cached_tokens > 64

    # 12 pages of 16 tokens: the third prompt and its answer alone take 9.
    token_bytes = 2 * 30 * 3 * 64 * itemsize
    cramped = start(kv_cache_bytes=13 * 16 * token_bytes, max_total_tokens=190, max_batch_size=4)
    assert strip(run(cramped, requests)) == strip(alone), "preempted and computed again"
    assert cramped.stats().preemptions > 0

    guessing = start(speculate=4)
    assert strip(run(guessing, [*requests, *others])[:4]) == strip(alone), "with guesses"
    stats: Stats = guessing.stats()
    assert 0 < stats.accepted_tokens < stats.drafted_tokens


@pytest.mark.parametrize("activation_dtype", [None, "int8"])
def test_weights_rounded_to_four_bits_do_not_depend_on_the_company(
    directory: Path, requests: list[tuple[list[int], SamplingParams]], activation_dtype: ActivationDtype | None
) -> None:
    engine = start_default(
        directory, "bfloat16", prefix_cache=False, quantize="int4", activation_dtype=activation_dtype
    )
    short = [(ids[:24], msgspec.structs.replace(sampling, max_new_tokens=12)) for ids, sampling in requests]
    alone = [run(engine, [request])[0] for request in short]
    assert strip(run(engine, short * 5)[:4]) == strip(alone)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8_e4m3fn"])
def test_a_resubmitted_request_continues_bit_by_bit(
    directory: Path, requests: list[tuple[list[int], SamplingParams]], kv_cache_dtype: KvCacheDtype
) -> None:
    start = partial(start_default, directory, "bfloat16", kv_cache_dtype=kv_cache_dtype)
    engine = start()
    for prompt_ids, sampling in requests:
        whole = run(engine, [(prompt_ids, sampling)])[0]
        restarted = start(prefix_cache=False) if sampling.greedy else engine
        assert restarted.submit(0, Submit(0, prompt_ids, sampling, emitted_ids=whole.token_ids[:17])) is None
        rest = Answer()
        while restarted.has_work:
            for step in restarted.step().values():
                for new in step.tokens:
                    rest.token_ids += new.token_ids
                    rest.logprobs += new.logprobs
        assert rest.token_ids == whole.token_ids[17:]
        assert rest.logprobs == whole.logprobs[17:]
