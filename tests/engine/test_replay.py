"""A sequence that goes on in another engine is the same to the last bit: tokens, logprobs, the best tokens beside them.

The second engine computes as a prompt what the first one decoded, in other company and other chunks: the default model
in bf16, where the smallest difference in a sum would show.
"""

from pathlib import Path

import msgspec
import pytest

from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.config import EngineConfig
from headwater.engine.engine import Engine
from headwater.engine.messages import Grammar, SamplingParams, Submit, Tokens
from headwater.engine.start import start_engine

NEW_TOKENS = 14
CUTS = (1, 6, NEW_TOKENS - 1)
SEEDED = SamplingParams(NEW_TOKENS, greedy=False, seed=2**63 + 11, top_n=3)
GREEDY = SamplingParams(NEW_TOKENS, greedy=True, top_n=5)
SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": SEEDED,
    "warped": msgspec.structs.replace(SEEDED, temperature=1.3, top_k=40, top_p=0.9, typical_p=0.95, min_p=0.01),
    "TGI's penalties": msgspec.structs.replace(SEEDED, repetition_penalty=1.4, frequency_penalty=0.7),
    "OpenAI's penalties": msgspec.structs.replace(SEEDED, output_frequency_penalty=0.9, presence_penalty=1.1),
    "raw logprobs": msgspec.structs.replace(SEEDED, raw_logprobs=True, temperature=0.7),
    "bias, late end": msgspec.structs.replace(
        GREEDY, logit_bias=((5, 2.0), (900, -3.0)), min_new_tokens=8, stop_token_ids=(2, 28)
    ),
    "regex": msgspec.structs.replace(SEEDED, grammar=Grammar("regex", "([a-z]{2,7} ){30}")),
    "JSON": msgspec.structs.replace(
        GREEDY,
        grammar=Grammar("json_schema", '{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}'),
    ),
}
PROMPT = [504, 3575, 282, 4649, 314, *range(1000, 1040)]


@pytest.fixture(scope="module")
def model_dir() -> Path:
    return resolve_model(None).directory


def engine_of(model_dir: Path, **settings: object) -> Engine:
    sizes = {"max_batch_size": 12, "max_batch_prefill_tokens": 64, "max_total_tokens": 128}
    config = {"model_dir": model_dir, "model_id": "m", "socket": model_dir / "unused", "device": "cpu"}
    engine, _ = start_engine(EngineConfig(**{**config, **sizes, **settings}))
    return engine


def run(engine: Engine, submits: list[Submit]) -> dict[int, Tokens]:
    """Everything that comes for each, joined."""
    for submit in submits:
        assert engine.submit(0, submit) is None
    told = {submit.request_id: Tokens(submit.request_id, [], []) for submit in submits}
    while engine.has_work:
        for step in engine.step().values():
            assert not step.failed, step.failed
            for new in step.tokens:
                old = told[new.request_id]
                old.token_ids += new.token_ids
                old.logprobs += new.logprobs
                old.top_ids = old.top_ids + new.top_ids
                old.top_logprobs = old.top_logprobs + new.top_logprobs
                old.finish_reason = new.finish_reason
    engine.check()
    return told


def rest_of(whole: Tokens, cut: int) -> Tokens:
    return Tokens(
        whole.request_id, whole.token_ids[cut:], whole.logprobs[cut:], whole.finish_reason, whole.top_ids[cut:],
        whole.top_logprobs[cut:],
    )  # fmt: skip


def test_a_resubmitted_sequence_is_the_same_to_the_last_bit(model_dir: Path) -> None:
    submits = [Submit(index, PROMPT[index:], sampling) for index, sampling in enumerate(SAMPLINGS.values())]
    undisturbed = run(engine_of(model_dir), submits)
    assert len({tuple(told.token_ids) for told in undisturbed.values()}) == len(submits)
    for cut in CUTS:
        # Another engine for each: nothing of its cache is known. Other chunks, another order.
        engine = engine_of(model_dir, max_batch_prefill_tokens=16 + cut)
        resumed = [
            msgspec.structs.replace(submit, emitted_ids=undisturbed[submit.request_id].token_ids[:cut], replayed=True)
            for submit in reversed(submits)
            if len(undisturbed[submit.request_id].token_ids) > cut
        ]
        for request_id, told in run(engine, resumed).items():
            name = list(SAMPLINGS)[request_id]
            assert told == rest_of(undisturbed[request_id], cut), f"{name}, after {cut} tokens"


def test_prompt_logprobs_are_told_once(model_dir: Path) -> None:
    engine = engine_of(model_dir)
    wanted = msgspec.structs.replace(GREEDY, prompt_logprobs=True)
    told = []
    for emitted in ([], [5, 6]):
        assert engine.submit(0, Submit(1, PROMPT, wanted, emitted)) is None
        while engine.has_work:
            told += [len(prompt.scores.logprobs) for step in engine.step().values() for prompt in step.prompts]
    assert told == [len(PROMPT) - 1]


def test_what_an_earlier_engine_took_is_not_refused_because_others_wait(model_dir: Path) -> None:
    engine = engine_of(model_dir, max_waiting=2)
    for request_id in (0, 1):
        assert engine.submit(0, Submit(request_id, PROMPT, GREEDY)) is None
    refused = engine.submit(0, Submit(2, PROMPT, GREEDY))
    assert refused is not None
    assert refused.error_type == "overloaded"
    assert engine.submit(0, Submit(3, PROMPT, GREEDY, replayed=True)) is None
