"""The same request gives the same tokens and logprobs at any number of shards, to the bit.

On the cpu backend, in processes of one thread each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.engine import Engine
from headwater.engine.messages import Adapter, Grammar, SamplingParams, Submit

from ..adapter_files import write_adapter
from .test_draft import save_tokenizer
from .test_packed_checkpoint import write_gptq
from .tiny import save_tiny_llama, tiny_engine

NEW_TOKENS = 6
PROMPTS = [[1, 2] * 7, [9, 8, 7] * 10, [5, 6, 7] * 5, [4, 5]]  # all but the last grow into another page
SAMPLINGS = [
    SamplingParams(NEW_TOKENS, greedy=True, top_n=3, prompt_logprobs=True),
    SamplingParams(NEW_TOKENS, greedy=False, seed=7, temperature=0.8, top_p=0.9, prompt_logprobs=True, prompt_top_n=2),
    SamplingParams(NEW_TOKENS, greedy=False, seed=8, repetition_penalty=1.3, logit_bias=((5, -1.0),)),
    SamplingParams(NEW_TOKENS, greedy=False, seed=9, grammar=Grammar("regex", "[a-e]{3}[f-k]{40}")),
]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
WIDE = {**SHAPE, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 1}  # whole groups of 32 in a segment
ADAPTED = {
    "self_attn.q_proj": (128, 64), "self_attn.v_proj": (32, 64), "self_attn.o_proj": (64, 128),
    "mlp.gate_proj": (160, 64), "mlp.down_proj": (64, 160),
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

Told = list[tuple[list[object], list[object]]]  # of each request: its tokens, and its prompt's scores


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("divisible")
    save_tiny_llama(directory, **SHAPE)
    save_tokenizer(directory)
    return directory


@contextmanager
def sharded(directory: Path, shards: int, **settings: object) -> Iterator[Engine]:
    engine = tiny_engine(directory, num_shard=shards, shard_invariant=True, threads=1, **settings)
    try:
        yield engine
    finally:
        engine.close()


def answers(engine: Engine, samplings: list[SamplingParams] = SAMPLINGS) -> Told:
    """All that is told of each request."""
    for request_id, (prompt_ids, sampling) in enumerate(zip(PROMPTS, samplings, strict=False)):
        assert engine.submit(0, Submit(request_id, prompt_ids, sampling)) is None
    told: Told = [([], []) for _ in samplings]
    while engine.has_work or engine.compiling:
        for step in engine.step().values():
            assert not step.failed, step.failed
            for prompt in step.prompts:
                scores = prompt.scores
                told[prompt.request_id][1].append((scores.logprobs, scores.top_ids, scores.top_logprobs))
            for new in step.tokens:
                details = (new.top_ids, new.top_logprobs) if new.top_ids else ([None] * len(new.token_ids),) * 2
                told[new.request_id][0].extend(zip(new.token_ids, new.logprobs, *details, strict=True))
    engine.check()
    assert [len(tokens) for tokens, _ in told] == [NEW_TOKENS] * len(samplings)
    return told


def assert_the_same(directory: Path, shards: tuple[int, ...] = (2,), **settings: object) -> None:
    """One shard and several give the same; without grammars, which need a tokenizer."""
    with sharded(directory, 1, **settings) as engine:
        one = answers(engine, SAMPLINGS[:3])
    for count in shards:
        with sharded(directory, count, **settings) as engine:
            assert answers(engine, SAMPLINGS[:3]) == one, f"{count} shards"


@pytest.fixture(scope="module")
def one(directory: Path) -> Told:
    with sharded(directory, 1) as engine:
        return answers(engine)


@pytest.mark.parametrize("shards", [2, 4])
def test_any_number_of_shards_gives_the_bits_of_one(directory: Path, one: Told, shards: int) -> None:
    with sharded(directory, shards) as engine:
        assert answers(engine) == one
        again = answers(engine, SAMPLINGS[2:3] * 2)
        assert again[0][0] != again[1][0], "prompts of their own"
        assert answers(engine) == one, "from the prefix cache"
        assert engine.stats().cached_tokens > 0


def test_preempted_sequences_and_guesses_change_nothing(directory: Path, one: Told) -> None:
    page = 2 * 16 * 2 * 2 * 16 * 4  # bytes: K and V, tokens, layers, KV heads, head dim, fp32
    with sharded(directory, 2, kv_cache_bytes=6 * page, max_total_tokens=64, prefix_cache=False) as engine:
        assert answers(engine) == one
        assert engine.stats().preemptions > 0
    repeating = [SamplingParams(NEW_TOKENS, greedy=True, top_n=2, logit_bias=((5, 100.0),))]
    with sharded(directory, 1) as engine:
        plain = answers(engine, repeating)
    with sharded(directory, 2, speculate=2) as engine:
        assert answers(engine, repeating) == plain
        assert engine.stats().accepted_tokens > 0


def test_a_draft_model_that_rank_0_has_alone_changes_nothing(directory: Path, one: Told) -> None:
    with sharded(directory, 2, speculative_model=directory, speculate=2, speculate_always=True) as engine:
        assert answers(engine) == one
        assert engine.stats().accepted_tokens > 0


def test_in_bf16(directory: Path) -> None:
    assert_the_same(directory, (2, 4), dtype="bfloat16")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_with_weights_that_are_rounded_on_load(tmp_path: Path, quantize: str) -> None:
    save_tiny_llama(tmp_path, **WIDE)
    assert_the_same(tmp_path, quantize=quantize)


def test_with_weights_in_blocks_as_they_are_stored(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "floats", **WIDE)
    write_gptq(tmp_path / "floats", tmp_path / "packed", reordered=False)
    assert_the_same(tmp_path / "packed", (2, 4))
    write_gptq(tmp_path / "floats", tmp_path / "reordered", reordered=True)
    with pytest.raises(ModelError, match="desc_act"), sharded(tmp_path / "reordered", 2):
        pass


def test_with_experts(tmp_path: Path) -> None:
    shape = {**SHAPE, "vocab_size": 320, "num_hidden_layers": 1, "max_position_embeddings": 256}
    MixtralForCausalLM(MixtralConfig(**shape, **EXPERTS, initializer_range=0.3)).save_pretrained(tmp_path)
    assert_the_same(tmp_path)


def test_with_adapters(directory: Path, tmp_path: Path) -> None:
    linears = {f"model.layers.{layer}.{name}": size for layer in (0, 1) for name, size in ADAPTED.items()}
    adapter = Adapter("one", str(write_adapter(tmp_path, linears)))
    samplings = [SamplingParams(NEW_TOKENS, greedy=True, adapter=name) for name in ("one", None, "one")]
    told = []
    for shards in (1, 2):
        with sharded(directory, shards, adapters=(adapter,)) as engine:
            told.append(answers(engine, samplings))
    assert told[0] == told[1]


def test_what_cannot_be_divided_is_refused_with_the_numbers_that_work(directory: Path, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, num_attention_heads=6, num_key_value_heads=2)
    with (
        pytest.raises(ModelError, match=r"--num-shard 4: 6 heads and 2 KV heads .* possible: 1, 2"),
        sharded(tmp_path, 4),
    ):
        pass
    with pytest.raises(ModelError, match=r"--num-shard 3: possible: 1, 2, 4, 8"), sharded(directory, 3):
        pass
