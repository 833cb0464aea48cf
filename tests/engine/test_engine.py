"""The whole engine over a tiny random model: against transformers, and against itself in other company."""

import re
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.messages import SamplingParams, Scheduling, Submit
from headwater.kernels.triton.linear import VendorLinear

from .tiny import generate, save_tiny_llama, tiny_engine

PROMPTS = [[7], list(range(3, 19)), list(range(40, 57)), [5, 9] * 30, [300]]
GREEDY = SamplingParams(max_new_tokens=12, greedy=True)
MIXED = [
    GREEDY,
    SamplingParams(max_new_tokens=12, greedy=False, seed=11),
    SamplingParams(max_new_tokens=9, greedy=False, seed=2**63 + 5, temperature=0.7, top_k=20, repetition_penalty=1.3),
    SamplingParams(max_new_tokens=12, greedy=False, seed=3, top_p=0.8, repetition_penalty=0.9),
    SamplingParams(max_new_tokens=5, greedy=True, repetition_penalty=1.5),
]
REQUESTS = list(zip(PROMPTS, MIXED, strict=True))
Tiny = tuple[Path, LlamaForCausalLM]


def greedy_oracle(model: LlamaForCausalLM, prompt_ids: list[int], count: int) -> list[int]:
    tokens = list(prompt_ids)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt_ids) :]


def test_greedy_tokens_are_those_of_transformers(tiny_llama: Tiny) -> None:
    directory, model = tiny_llama
    answers = generate(tiny_engine(directory), [(prompt, GREEDY) for prompt in PROMPTS])
    assert answers == [greedy_oracle(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("cached", [False, True])
def test_prompts_are_scored_as_transformers_scores_them(tiny_llama: Tiny, cached: bool) -> None:
    directory, model = tiny_llama
    engine = tiny_engine(directory)
    if cached:
        generate(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    for index, prompt in enumerate(PROMPTS):
        engine.submit(0, Submit(index, prompt, SamplingParams(1, greedy=True, prompt_logprobs=True, prompt_top_n=3)))
    scores = {}
    while engine.has_work:
        for step in engine.step().values():
            scores |= {prompt.request_id: prompt.scores for prompt in step.prompts}
    for index, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
        told = scores[index]
        own = logprobs.gather(1, torch.tensor(prompt[1:], dtype=torch.long)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(told.logprobs), own, rtol=1e-4, atol=1e-4)
        best = logprobs.topk(3)
        assert told.top_ids == best.indices.tolist()
        torch.testing.assert_close(torch.tensor(told.top_logprobs).reshape(-1, 3), best.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 80},
    ],
    ids=["linear rope", "llama3 rope", "tied, biases", "no groups, head dim 80"],
)
def test_variants_of_the_family_too(tmp_path: Path, overrides: dict[str, object]) -> None:
    model = save_tiny_llama(tmp_path, **overrides)
    prompts = PROMPTS[1:4]
    answers = generate(tiny_engine(tmp_path), [(prompt, GREEDY) for prompt in prompts])
    assert answers == [greedy_oracle(model, prompt, 12) for prompt in prompts]


def test_tokens_depend_on_the_request_alone(tiny_llama: Tiny) -> None:
    directory, _ = tiny_llama
    alone_engine = tiny_engine(directory, max_batch_prefill_tokens=256)
    alone = [generate(alone_engine, [request])[0] for request in REQUESTS]
    assert generate(tiny_engine(directory), REQUESTS) == alone, "together, prompts in chunks of 16 rows"
    # 9 pages of 16 tokens: not room for all, so sequences are preempted and computed again.
    page_bytes = 2 * 2 * 2 * 16 * 64 * 4  # K and V, layers, KV heads, tokens, head dim, fp32
    cramped = tiny_engine(directory, kv_cache_bytes=9 * page_bytes, max_total_tokens=80, max_batch_prefill_tokens=128)
    assert generate(cramped, REQUESTS) == alone, "in a cache too small for all"
    assert cramped.stats().preemptions > 0


def test_a_resubmitted_request_continues_as_if_nothing_had_happened(tiny_llama: Tiny) -> None:
    engine = tiny_engine(tiny_llama[0])
    for prompt_ids, sampling in REQUESTS:
        (whole,) = generate(engine, [(prompt_ids, sampling)])
        assert engine.submit(0, Submit(0, prompt_ids, sampling, emitted_ids=whole[:3])) is None
        rest: list[int] = []
        while engine.has_work:
            for step in engine.step().values():
                rest += [token for new in step.tokens for token in new.token_ids]
        assert whole[:3] + rest == whole


def test_the_sequence_ends_after_a_stop_token_or_at_its_length(tiny_llama: Tiny) -> None:
    engine = tiny_engine(tiny_llama[0])
    (whole,) = generate(engine, [(PROMPTS[1], GREEDY)])
    stop = msgspec.structs.replace(GREEDY, stop_token_ids=(whole[4],))
    assert engine.submit(0, Submit(0, PROMPTS[1], stop)) is None
    assert engine.submit(0, Submit(1, PROMPTS[1], msgspec.structs.replace(stop, max_new_tokens=5))) is None
    reasons = {}
    tokens: dict[int, list[int]] = {0: [], 1: []}
    while engine.has_work:
        for step in engine.step().values():
            for new in step.tokens:
                tokens[new.request_id] += new.token_ids
                reasons[new.request_id] = new.finish_reason
    assert tokens[0] == tokens[1] == whole[: whole.index(whole[4]) + 1]
    assert reasons == {0: "eos_token", 1: "length" if whole.index(whole[4]) == 4 else "eos_token"}


def test_steps_are_counted_by_what_they_compute(tiny_llama: Tiny) -> None:
    engine = tiny_engine(tiny_llama[0])  # 16 rows a step
    engine.submit(0, Submit(0, list(range(40)), GREEDY))
    largest, behind = 0, 0
    while engine.has_work:
        engine.step()
        largest = max(largest, engine.stats().max_tokens)
        behind = max(behind, engine.stats().steps - engine.stats().steps_done)
    stats = engine.stats()
    assert (stats.prompt_steps, stats.steps - stats.prompt_steps) == (3, 11)  # the last of the prompt gives a token
    assert (stats.prompt_steps_done, stats.steps_done) == (3, 14)
    assert behind == 1  # the one that is under way
    assert (largest, stats.max_tokens) == (52, 0)


def test_a_prompt_is_found_by_those_of_its_salt_alone(tiny_llama: Tiny) -> None:
    engine = tiny_engine(tiny_llama[0])
    found = []
    for request_id, salt in enumerate(["", "a", "a", "b", ""]):
        engine.submit(0, Submit(request_id, list(range(40)), GREEDY, scheduling=Scheduling(cache_salt=salt)))
        while engine.has_work:
            found += [started.cached_tokens for step in engine.step().values() for started in step.started]
    assert found == [0, 0, 32, 0, 32]


def test_an_aborted_sequence_leaves_nothing_behind(tiny_llama: Tiny) -> None:
    engine = tiny_engine(tiny_llama[0])
    free = engine.stats().free_pages
    for request_id, (prompt_ids, sampling) in enumerate(REQUESTS):
        engine.submit(request_id % 2, Submit(request_id, prompt_ids, sampling))
    engine.step()
    engine.abort(0, 0)
    engine.abort(0, 0)  # gone already
    engine.abort_all(1)
    engine.check()
    while engine.has_work:
        assert set(engine.step()) <= {0}
    assert engine.stats().free_pages == free
    assert engine.stats().aborted == 3


@pytest.mark.parametrize(
    ("submit", "words"),
    [
        (Submit(0, [], GREEDY), "at least one prompt token"),
        (Submit(0, [1], SamplingParams(0, greedy=True)), "at least one"),
        (Submit(0, [1], SamplingParams(256, greedy=True)), "257 tokens asked for, 256 is the most"),
        (Submit(0, [320], GREEDY), r"token ids must be in \[0, 320\)"),
        (Submit(0, [1], GREEDY, emitted_ids=[2] * 12), "emitted already"),
    ],
)
def test_what_cannot_run_is_refused_with_a_reason(tiny_llama: Tiny, submit: Submit, words: str) -> None:
    engine = tiny_engine(tiny_llama[0])
    failed = engine.submit(0, submit)
    assert failed is not None
    assert failed.error_type == "validation"
    assert re.search(words, failed.error)
    assert not engine.has_work


def test_a_model_that_a_backend_has_no_kernel_for_is_refused_at_load(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, hidden_size=128, num_attention_heads=128, num_key_value_heads=1)
    with pytest.raises(ModelError, match="128 query heads share a KV head"):
        tiny_engine(tmp_path, backend="triton")


def test_the_triton_backend_gives_the_cpu_backends_tokens(tiny_llama: Tiny) -> None:
    # The interpreter takes a while for each row: short prompts, few tokens, but chunks, splits and every parameter.
    short = [
        (prompt_ids[:20], msgspec.structs.replace(sampling, max_new_tokens=4)) for prompt_ids, sampling in REQUESTS
    ]
    cpu, triton = (tiny_engine(tiny_llama[0], backend=backend) for backend in ("cpu", "triton"))
    assert generate(triton, short) == generate(cpu, short)


def test_without_exactness_an_engine_of_the_triton_backend_has_the_vendors_linears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, no linear in 16 bits is the vendor's. What either draws first is the same: logits are far apart."""
    size = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 64}
    save_tiny_llama(tmp_path, vocab_size=64, intermediate_size=64, **size)
    calls: list[int] = []
    vendors = VendorLinear.__call__

    def counted(linear: VendorLinear, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return vendors(linear, x)

    monkeypatch.setattr(VendorLinear, "__call__", counted)
    found = []
    for exact in (True, False):
        settings = {"dtype": "float16", "exact": exact, "max_batch_size": 1, "max_batch_prefill_tokens": 4}
        engine = tiny_engine(tmp_path, backend="triton", **settings)
        (tokens,) = generate(engine, [([5, 6, 7], SamplingParams(2, greedy=True))])
        found.append((tokens[0], len(tokens), bool(calls)))
    (token, count, has_vendors), other = found
    assert (count, has_vendors) == (2, False)
    assert other == (token, 2, True)
