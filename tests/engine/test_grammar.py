"""Grammars over the default model's tokenizer: whatever is drawn among the allowed tokens, the text fits."""

import json
import random
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
import torch
from llguidance import LLExecutor

from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.grammar import GrammarError, Matcher, allow_all
from headwater.engine.grammar_compiler import MAX_TEXT_BYTES, GrammarCompiler
from headwater.engine.messages import Grammar, SamplingParams
from headwater.engine.sampling_buffers import SamplingBuffers
from headwater.engine.sampling_rules import can_speculate, needs_sync
from headwater.engine.sequence import Sequence, SequenceKey
from headwater.kernels.cpu import sample

TOKENS = 49152  # of the tokenizer
VOCAB = TOKENS + 100  # of a model that has more rows than its tokenizer has tokens
EOS = 2
ENDS = [0, 2]  # <|endoftext|>, <|im_end|>
DIRECTORY = resolve_model(None).directory
# Some seconds of work unless it is stopped by its limits.
SLOW = Grammar("regex", "(a|b*)" * 2700)
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "name": {"type": "string", "maxLength": 12},
    },
    "required": ["kind", "legs", "tags", "name"],
    "additionalProperties": False,
}
REGEXES = [r"\d{3}-\d{4}", r"(foo|ba[rz]){1,4}", r"[A-Z][a-z]{1,8}( [a-z]{2,6}){0,3}\.", r"é?(日本|語)+x"]


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(DIRECTORY, VOCAB)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))


def allowed(matcher: Matcher) -> list[int]:
    bits = np.full(-(-VOCAB // 32), 0x5555, np.int32)  # what was there before must not matter
    matcher.allow(bits)
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


def generate(matcher: Matcher, seed: int, most: int = 300) -> list[int]:
    """Tokens drawn among the allowed ones until the end, which is not among them."""
    draw = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < most:
        token = draw.choice(allowed(matcher))
        assert token < TOKENS
        if token == EOS:
            return tokens
        tokens.append(token)
        matcher.advance(token)
        assert matcher.error is None
    raise AssertionError(f"no end after {most} tokens")


def compiled_matcher(compiler: GrammarCompiler, grammar: Grammar, emitted: list[int] | None = None) -> Matcher:
    return compiler.submit(grammar).result(timeout=60).matcher((EOS,), emitted or [])


@pytest.mark.parametrize("seed", range(5))
def test_a_json_schema(compiler, tokenizer, seed):
    text = tokenizer.decode(generate(compiled_matcher(compiler, Grammar("json_schema", json.dumps(SCHEMA))), seed))
    value = json.loads(text)
    assert list(value) == list(SCHEMA["properties"])
    assert value["kind"] in ("cat", "dog")
    assert 0 <= value["legs"] <= 8
    assert all(isinstance(tag, bool) for tag in value["tags"])
    assert len(value["tags"]) <= 3
    assert len(value["name"]) <= 12


@pytest.mark.parametrize("regex", REGEXES)
def test_a_regex(compiler, tokenizer, regex):
    for seed in range(3):
        text = tokenizer.decode(generate(compiled_matcher(compiler, Grammar("regex", regex)), seed))
        assert re.fullmatch(regex, text), text


def test_a_lark_grammar(compiler, tokenizer):
    grammar = Grammar("lark", 'start: "(" start ")" | /[0-9]/')
    for seed in range(3):
        text = tokenizer.decode(generate(compiled_matcher(compiler, grammar), seed))
        assert re.fullmatch(r"\(*\d\)*", text)
        assert text.count("(") == text.count(")")


def test_white_space_is_bounded(compiler, tokenizer):
    """Between the parts of a JSON text one space at most: a small model would go on forever."""
    matcher = compiled_matcher(compiler, Grammar("json_schema", json.dumps(SCHEMA)))
    for token in tokenizer.encode('{ "kind": "cat", "legs":4').ids:
        assert token in allowed(matcher)
        matcher.advance(token)
    assert {tokenizer.decode([token])[:2] for token in allowed(matcher)} <= {",", " ", " ,", ', "', ',"', ", "}


def test_the_end_comes_only_with_the_grammars(compiler, tokenizer):
    matcher = compiled_matcher(compiler, Grammar("regex", "ab?"))
    assert EOS not in allowed(matcher)
    matcher.advance(tokenizer.token_to_id("a"))
    assert EOS in allowed(matcher)
    assert not matcher.is_done
    matcher.advance(tokenizer.token_to_id("b"))
    assert allowed(matcher) == [EOS]
    assert matcher.is_done


def test_the_end_is_the_sequences_own(compiler, tokenizer):
    compiled = compiler.submit(Grammar("regex", "ab?")).result(timeout=60)
    a, b = tokenizer.token_to_id("a"), tokenizer.token_to_id("b")
    own = compiled.matcher((18, 17))
    own.advance(a)
    assert set(allowed(own)) - {b} == {18, 17}
    ignoring = compiled.matcher(())
    ignoring.advance(a)
    assert EOS not in allowed(ignoring)  # it goes on as long as it can
    ignoring.advance(b)
    for _ in range(3):
        assert allowed(ignoring) == ENDS
        ignoring.advance(EOS)
    assert ignoring.error is None


def test_a_grammar_that_ends_without_noticing(compiler, tokenizer):
    """Nothing can follow the "a", which only the mask shows."""
    compiled = compiler.submit(Grammar("lark", 'start: "a" X?\nX: /b/ & /c/')).result(timeout=60)
    matcher = compiled.matcher(())
    matcher.advance(tokenizer.token_to_id("a"))
    assert allowed(matcher) == ENDS
    assert matcher.is_done


def test_ids_without_a_token_are_never_allowed(compiler):
    named = compiled_matcher(compiler, Grammar("lark", f'start: <[{TOKENS - 5}-{VOCAB - 1}]> | "a"'))
    ids = allowed(named)
    assert max(ids) == TOKENS - 1
    assert set(range(TOKENS - 5, TOKENS)) < set(ids)
    with pytest.raises(GrammarError, match="no tokens"):
        compiled_matcher(compiler, Grammar("lark", f"start: <[{TOKENS + 50}]>"))


def test_emitted_tokens_are_replayed(compiler):
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    matcher = compiled_matcher(compiler, grammar)
    tokens = generate(matcher, seed=3)
    for count in (0, 1, len(tokens) // 2, len(tokens)):
        whole = compiled_matcher(compiler, grammar)
        for token in tokens[:count]:
            whole.advance(token)
        assert allowed(compiled_matcher(compiler, grammar, tokens[:count])) == allowed(whole)


def test_a_forbidden_token_is_an_error_of_its_sequence(compiler, tokenizer):
    grammar = Grammar("regex", "ab?")
    broken, other = compiled_matcher(compiler, grammar), compiled_matcher(compiler, grammar)
    broken.advance(tokenizer.token_to_id("x"))
    assert broken.error is not None
    assert allowed(broken) == [EOS]
    assert EOS not in allowed(other)


@pytest.mark.parametrize("executor", [None, LLExecutor(2)], ids=["serial", "parallel"])
def test_masks_of_several(compiler, tokenizer, executor):
    grammars = [Grammar("regex", regex) for regex in REGEXES]
    matchers = [compiled_matcher(compiler, grammar) for grammar in grammars]
    done = compiled_matcher(compiler, Grammar("regex", "a"))
    done.advance(tokenizer.token_to_id("a"))
    bits = np.full((8, -(-VOCAB // 32)), -1, np.int32)
    allow_all([*matchers[:2], done, *matchers[2:]], bits, executor)
    got = [np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist() for row in bits]
    alone = [allowed(compiled_matcher(compiler, grammar)) for grammar in grammars]
    assert got[:5] == [*alone[:2], [EOS], *alone[2:]]


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (Grammar("json_schema", '{"type": "strin"}'), "strin"),
        (Grammar("json_schema", "{"), "EOF"),
        (Grammar("json_schema", '{"not": {"type": "string"}}'), "not"),
        (Grammar("json_schema", '{"$ref": "#/nowhere"}'), "nowhere"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-ahead"),
        (Grammar("lark", "start: nothing"), "nothing"),
        (Grammar("regex", "a" * (MAX_TEXT_BYTES["regex"] + 1)), "is the most"),
        (Grammar("json_schema", '{"properties": {"a": ' * 5000 + "{}" + "}}" * 5000), "recursion"),
        (Grammar("lark", "start: " + '"a"?' * 5000), "Too many items"),
        (SLOW, "limit"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else value.kind,
)
def test_what_cannot_be_used_is_refused(compiler, grammar, why):
    with pytest.raises(GrammarError, match=why) as raised:
        compiler.submit(grammar).result(timeout=60)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_long_chains_of_references(compiler):
    """They recurse in llguidance: without a large stack they would end the process."""
    links = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(3600)}
    schema = json.dumps({"$ref": "#/$defs/a0", "$defs": {**links, "a3600": {"const": 7}}})
    assert len(schema) < MAX_TEXT_BYTES["json_schema"]
    matcher = compiled_matcher(compiler, Grammar("json_schema", schema))
    assert not matcher.is_done
    rules = "\n".join(f"r{i}: r{i + 1}" for i in range(2200))
    assert len(rules) < MAX_TEXT_BYTES["lark"]
    compiled_matcher(compiler, Grammar("lark", f'start: r0\n{rules}\nr2200: "a"'))


def test_a_slow_compile_fails_alone():
    compiler = GrammarCompiler(DIRECTORY, VOCAB, compile_limit_s=0.02)
    compiler.submit(Grammar("regex", "a")).exception(timeout=60)  # the tokenizer is read
    done = threading.Semaphore(0)
    slow = compiler.submit(SLOW, done.release)
    quick = compiler.submit(Grammar("lark", 'start: "a"'), done.release)
    assert done.acquire(timeout=60)
    assert done.acquire(timeout=60)
    assert not quick.exception()
    with pytest.raises(GrammarError, match="took longer than"):
        slow.result()
    compiler.close()


def test_the_same_grammar_is_compiled_once(compiler):
    grammar = Grammar("json_schema", json.dumps({"enum": list(range(100))}))
    assert compiler.submit(grammar) is compiler.submit(grammar)
    compiler.submit(grammar).result(timeout=60)
    woken = []
    assert compiler.submit(grammar, lambda: woken.append(1)).done()
    assert woken == [1]


def test_a_model_without_a_tokenizer_refuses_grammars(tmp_path):
    compiler = GrammarCompiler(tmp_path, 320)
    with pytest.raises(GrammarError, match="no tokenizer"):
        compiler.submit(Grammar("regex", "a")).result(timeout=60)
    compiler.close()


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({"generation_config.json": {"eos_token_id": [2, 0]}, "config.json": {"eos_token_id": 5}}, [0, 2, 5]),
        (
            {"tokenizer_config.json": {"eos_token": {"content": "<|im_end|>"}}, "config.json": {"eos_token_id": 5}},
            [2, 5],
        ),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 5}}, [5]),
    ],
)
def test_where_the_end_of_a_text_is_said(tmp_path, files, eos, tokenizer):
    (tmp_path / "tokenizer.json").write_bytes((DIRECTORY / "tokenizer.json").read_bytes())
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    compiler = GrammarCompiler(tmp_path, VOCAB)
    matcher = compiler.submit(Grammar("regex", "a")).result(timeout=60).matcher(())
    matcher.advance(tokenizer.token_to_id("a"))
    assert allowed(matcher) == eos
    compiler.close()


def test_grammars_in_the_sampler(compiler, tokenizer):
    """Rows with different ones beside a row without; the minimum of tokens ends with the grammar."""
    regexes = ["[0-9]{4}", None, "[a-z]{5}"]
    sequences, matchers = [], []
    buffers = SamplingBuffers(4, 4, VOCAB, torch.device("cpu"), always_full=True)
    for slot, regex in enumerate(regexes):
        grammar = regex and Grammar("regex", regex)
        sampling = SamplingParams(50, False, seed=5, grammar=grammar, stop_token_ids=(EOS,), min_new_tokens=9)
        assert (needs_sync(sampling), can_speculate(sampling)) == (regex is not None, regex is None)
        sequence = Sequence(SequenceKey(0, slot), [5, 6, 7], 3, sampling, arrival=0.0)
        sequence.slot = slot
        matchers.append(grammar and compiled_matcher(compiler, grammar))
        buffers.start(sequence, matchers[-1])
        sequences.append(sequence)
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    while running := [sequence for sequence in sequences if sequence.finish_reason is None and sequence.total < 12]:
        buffers.stage([(sequence, sequence.total) for sequence in running])
        drawn = sample(logits[: len(running)].clone(), buffers.upload())
        for sequence, token in zip(running, drawn.token_ids.tolist(), strict=True):
            sequence.append(token)
            if matchers[sequence.slot]:
                matchers[sequence.slot].advance(token)
    for sequence, regex in zip(sequences, regexes, strict=True):
        if regex is None:
            assert EOS not in sequence.tokens
        else:
            assert sequence.finish_reason == "eos_token"
            assert re.fullmatch(regex, tokenizer.decode(sequence.tokens[3:-1]))
