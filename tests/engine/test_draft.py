"""Guesses of a draft model change no token and no logprob: of one that is always right, and of one that seldom is."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.engine import Engine
from headwater.engine.messages import Grammar, PromptScores, SamplingParams, Submit, Tokens
from headwater.engine.speculation.draft import Draft

from .tiny import save_tiny_llama, tiny_engine

GREEDY = SamplingParams(24, greedy=True, top_n=3)
SEEDED = SamplingParams(24, greedy=False, seed=2**64 - 1)
SAMPLINGS = [
    GREEDY,
    SEEDED,
    msgspec.structs.replace(SEEDED, seed=5, temperature=0.7, top_k=20, top_p=0.9, raw_logprobs=True),
    msgspec.structs.replace(SEEDED, seed=6, repetition_penalty=1.3, presence_penalty=0.5),
    msgspec.structs.replace(SEEDED, seed=7, grammar=Grammar("regex", "[a-e]{9}[f-k]{40}")),
    msgspec.structs.replace(SEEDED, seed=8, stop_token_ids=tuple(range(0, 320, 9)), min_new_tokens=4),
    msgspec.structs.replace(GREEDY, prompt_logprobs=True, prompt_top_n=2, logit_bias=((9, 4.0), (11, -3.0))),
    msgspec.structs.replace(SEEDED, seed=9, max_new_tokens=3),
]
PROMPTS = [
    [7], list(range(3, 19)), list(range(40, 57)), [5, 9] * 20, [300, 1], list(range(40, 93)), [5, 9] * 9, [8] * 33,
]  # fmt: skip
REQUESTS = [Submit(index, *each) for index, each in enumerate(zip(PROMPTS, SAMPLINGS, strict=True))]
# Of a layer's page: K and V, tokens, KV heads, head dim, bytes of bf16.
LAYER_PAGE_BYTES = 2 * 16 * 2 * 64 * 2


@dataclass
class Models:
    """Directories of the model, and of a draft that has little in common with it."""

    model: Path
    other: Path


def save_tokenizer(directory: Path, size: int = 320) -> None:
    """Bytes, and names for the rest."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(f"<{i}>" for i in range(size - 256))])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Models:
    found = Models(tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("other"))
    save_tiny_llama(found.model)
    save_tiny_llama(found.other, num_hidden_layers=1)
    for directory in (found.model, found.other):
        save_tokenizer(directory)
    return found


def start(saved: Models, **settings: Any) -> Engine:
    defaults = {"dtype": "bfloat16", "speculate_always": True, "max_batch_prefill_tokens": 32}
    return tiny_engine(saved.model, **{**defaults, **settings})


def draft_of(engine: Engine) -> Draft:
    draft = engine._guesser
    assert isinstance(draft, Draft)
    return draft


def run(engine: Engine, submits: list[Submit]) -> dict[int, tuple[Tokens, PromptScores | None]]:
    """All that is told of each, joined."""
    for submit in submits:
        assert engine.submit(0, submit) is None
    told = {submit.request_id: Tokens(submit.request_id, [], []) for submit in submits}
    scores: dict[int, PromptScores] = {}
    while engine.has_work:
        for step in engine.step().values():
            assert not step.failed, step.failed
            scores |= {prompt.request_id: prompt.scores for prompt in step.prompts}
            for new in step.tokens:
                old = told[new.request_id]
                old.token_ids += new.token_ids
                old.logprobs += new.logprobs
                old.top_ids = old.top_ids + new.top_ids
                old.top_logprobs = old.top_logprobs + new.top_logprobs
                old.finish_reason = new.finish_reason
    engine.check()
    return {name: (each, scores.get(name)) for name, each in told.items()}


@pytest.fixture(scope="module")
def plain(saved: Models) -> dict[int, tuple[Tokens, PromptScores | None]]:
    return run(start(saved), REQUESTS)


@pytest.mark.parametrize(("name", "layers"), [("model", 4), ("other", 3)])  # of both models
def test_a_draft_changes_nothing_but_the_number_of_steps(
    saved: Models, plain: dict[int, tuple[Tokens, PromptScores | None]], name: str, layers: int
) -> None:
    draft = getattr(saved, name)
    assert plain[5][0].finish_reason == "eos_token"

    engine = start(saved, speculative_model=draft, speculate=3)
    assert run(engine, REQUESTS) == plain, "prompts in chunks, four sequences at a time"
    stats = engine.stats()
    if name == "model":
        assert stats.drafted_tokens > 40
        assert stats.drafted_tokens - stats.accepted_tokens <= 3, "but behind a stop token all are right"
    else:
        assert stats.accepted_tokens < stats.drafted_tokens / 2
    assert run(engine, REQUESTS[::-1]) == plain, "from the cache, in another order"
    assert engine.stats().cached_tokens > 100

    pages = 9 * layers * LAYER_PAGE_BYTES
    cramped = start(saved, speculative_model=draft, kv_cache_bytes=pages, max_total_tokens=80)
    assert run(cramped, REQUESTS) == plain, "preempted and computed again"
    assert cramped.stats().preemptions > 0

    resumed = [msgspec.structs.replace(each, emitted_ids=plain[each.request_id][0].token_ids[:2]) for each in REQUESTS]
    for request_id, (told, _) in run(engine, resumed).items():
        assert told.token_ids == plain[request_id][0].token_ids[2:], "resubmitted after two tokens"
        assert told.logprobs == plain[request_id][0].logprobs[2:]


def test_a_draft_that_is_always_right_saves_steps(saved: Models) -> None:
    engine = start(saved, speculative_model=saved.model, speculate=4)
    run(engine, [Submit(0, PROMPTS[1], SamplingParams(21, greedy=True))])
    stats = engine.stats()
    # The prompt's step gives one token, each of the others four guesses and the one after them.
    assert (stats.steps, stats.drafted_tokens, stats.accepted_tokens) == (5, 16, 16)


def test_without_a_number_there_are_three_guesses(saved: Models) -> None:
    engine = start(saved, speculative_model=saved.model)
    run(engine, [Submit(0, PROMPTS[1], SamplingParams(21, greedy=True))])
    assert (engine.stats().steps, engine.stats().accepted_tokens) == (6, 15)


def test_no_guesses_are_none_beside_a_draft_too(saved: Models) -> None:
    engine = start(saved, speculative_model=saved.model, speculate=0)
    run(engine, [Submit(0, PROMPTS[1], SamplingParams(5, greedy=True))])
    assert not isinstance(engine._guesser, Draft)
    assert (engine.stats().steps, engine.stats().drafted_tokens) == (5, 0)


@pytest.mark.parametrize("rows", [300, 352])
def test_a_drafts_matrices_may_have_more_or_fewer_rows_than_those_of_the_model(tmp_path: Path, rows: int) -> None:
    """As of Qwen2.5: 151936 of the small ones, 152064 of the big ones, 151665 tokens. Here 290."""
    names = [tmp_path / "model", tmp_path / "draft"]
    for name, vocab_size in zip(names, (320, rows), strict=True):
        name.mkdir()
        save_tiny_llama(name, vocab_size=vocab_size)
        save_tokenizer(name, 290)
    sampling = SamplingParams(9, greedy=False, seed=3, logit_bias=((319, -9.0),))
    models, submit = Models(*names), Submit(0, [7, 9], sampling)
    tensors = load_file(names[0] / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(32, tensors[name].shape[1])])[:rows]
    save_file(tensors, names[1] / "model.safetensors", {"format": "pt"})
    engine = start(models, speculative_model=names[1], speculate=2)
    assert run(engine, [submit]) == run(start(models), [submit])
    assert engine.stats().accepted_tokens > 0


def test_the_draft_computes_what_is_known_once(saved: Models) -> None:
    engine = start(saved, speculative_model=saved.model, speculate=3)
    draft, rows = draft_of(engine), []
    launch = draft._runner.launch
    draft._runner.launch = lambda chunks: rows.append(sum(chunk.count for chunk in chunks)) or launch(chunks)  # type: ignore[method-assign]
    copies = [Submit(index, list(range(50)), SamplingParams(9, greedy=False, seed=index)) for index in range(2)]
    run(engine, copies[:1])
    # Chunks of 32 and 18 rows; three of a guess for each four tokens, the first with what the last guesses left out.
    assert rows == [32, 18, 1, 1, 1, 2, 1, 1]
    rows.clear()
    run(engine, copies[1:])
    assert rows[0] == 2, "48 tokens were found"


class AnyStep:
    """Guesses in some steps and not in others."""

    def __init__(self) -> None:
        self._chance = random.Random(0)

    def wants(self, sequences: int) -> bool:  # noqa: ARG002
        return self._chance.random() < 0.5

    def note(self, tokens: int, seconds: float) -> None: ...


@pytest.mark.parametrize("name", ["model", "other"])
def test_guesses_may_go_off_and_on(
    saved: Models, plain: dict[int, tuple[Tokens, PromptScores | None]], name: str
) -> None:
    engine = start(saved, speculative_model=getattr(saved, name), speculate=3)
    draft_of(engine)._payoff = AnyStep()  # type: ignore[assignment]
    for requests in (REQUESTS, REQUESTS[::-1]):
        assert run(engine, requests) == plain
    stats = engine.stats()
    assert stats.drafted_tokens > 40
    if name == "model":
        assert stats.drafted_tokens - stats.accepted_tokens <= 6, "it caught up with all that it had missed"


def test_no_guesses_beyond_what_the_draft_can_read(saved: Models, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, max_position_embeddings=40)
    save_tokenizer(tmp_path)
    engine = start(saved, speculative_model=tmp_path, speculate=3)
    submit = Submit(0, PROMPTS[1], SamplingParams(64, greedy=True))
    assert run(engine, [submit]) == run(start(saved), [submit])
    assert engine.stats().drafted_tokens in range(12, 24)  # of 16 prompt tokens and the next 24


@pytest.mark.parametrize(
    ("vocab_size", "tokens", "words"),
    [
        (319, 320, "its vocabulary has 319 tokens, that of the model 320"),
        (320, 319, r"another tokenizer: token 319 is None, for the model '<63>' \(1 tokens differ\)"),
    ],
)
def test_a_draft_of_another_vocabulary_is_refused(
    saved: Models, tmp_path: Path, vocab_size: int, tokens: int, words: str
) -> None:
    save_tiny_llama(tmp_path, vocab_size=vocab_size)
    save_tokenizer(tmp_path, tokens)
    with pytest.raises(ModelError, match=words):
        start(saved, speculative_model=tmp_path)


def test_the_triton_backend_guesses_the_same(tmp_path: Path) -> None:
    # In the interpreter every row takes a while, those of the warm-up too.
    save_tiny_llama(tmp_path, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, vocab_size=64)
    saved = Models(tmp_path, tmp_path)
    submit = Submit(0, [4], SamplingParams(3, greedy=False, seed=3))
    settings = {"dtype": "float32", "max_batch_size": 1, "max_total_tokens": 4}
    engine = start(saved, speculative_model=tmp_path, speculate=1, backend="triton", **settings)
    assert run(engine, [submit])[0][0].token_ids == run(start(saved, **settings), [submit])[0][0].token_ids
    assert (engine.stats().steps, engine.stats().accepted_tokens) == (2, 1)
