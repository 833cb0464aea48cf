"""The same request gives the same tokens and logprobs at any number of shards, to the bit: cpu backend, processes of one
thread each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater.engine.engine import Engine
from headwater.engine.messages import SamplingParams, Submit

from .tiny import save_tiny_llama, tiny_engine

NEW_TOKENS = 6
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7] * 12, [5, 6] * 9]
SAMPLINGS = [
    SamplingParams(NEW_TOKENS, greedy=True, top_n=3, prompt_logprobs=True),
    SamplingParams(NEW_TOKENS, greedy=False, seed=7, temperature=0.8, top_p=0.9, prompt_logprobs=True, prompt_top_n=2),
    SamplingParams(NEW_TOKENS, greedy=False, seed=8, repetition_penalty=1.3, logit_bias=((5, -1.0),)),
]
REQUESTS = list(zip(PROMPTS, SAMPLINGS, strict=True))
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("divisible")
    save_tiny_llama(directory, **SHAPE)
    return directory


@contextmanager
def sharded(directory: Path, shards: int, **settings: object) -> Iterator[Engine]:
    engine = tiny_engine(directory, num_shard=shards, shard_invariant=True, threads=1, **settings)
    try:
        yield engine
    finally:
        engine.close()


def answers(engine: Engine, requests: list[tuple[list[int], SamplingParams]] = REQUESTS) -> list[list[object]]:
    """All that is told of each request."""
    for request_id, (prompt_ids, sampling) in enumerate(requests):
        assert engine.submit(0, Submit(request_id, prompt_ids, sampling)) is None
    told: list[list[object]] = [[] for _ in requests]
    while engine.has_work:
        for step in engine.step().values():
            assert not step.failed, step.failed
            for prompt in step.prompts:
                scores = prompt.scores
                told[prompt.request_id].append((scores.logprobs, scores.top_ids, scores.top_logprobs))
            for new in step.tokens:
                rows = zip(new.token_ids, new.logprobs, strict=True)
                told[new.request_id] += [*rows, new.top_ids, new.top_logprobs]
    engine.check()
    return told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_number_of_shards_gives_the_bits_of_one(directory: Path, dtype: str) -> None:
    with sharded(directory, 1, dtype=dtype) as engine:
        one = answers(engine)
    for shards in (2, 4):
        with sharded(directory, shards, dtype=dtype) as engine:
            assert answers(engine) == one, f"{shards} shards"
