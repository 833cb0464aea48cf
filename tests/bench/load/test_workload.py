"""Texts, lengths and arrival times: equal for equal seeds, and as long as asked for."""

import json
import statistics

import numpy as np
import pytest

from headwater.bench.load.arrivals import arrival_times_s
from headwater.bench.load.lengths import Lengths, parse_lengths
from headwater.bench.load.prompts import TokenizedWords, Words, calibrated_words
from headwater.bench.load.workload import Workload
from headwater.engine.checkpoint.resolve import resolve_model


@pytest.fixture(scope="module")
def tokenized() -> TokenizedWords:
    return TokenizedWords(resolve_model(None).directory)


@pytest.mark.parametrize("tokens", [1, 2, 17, 128, 1500])
def test_texts_have_exactly_the_length_wanted(tokenized, tokens):
    random = np.random.default_rng(5)
    texts = [tokenized.text(random, tokens) for _ in range(20)]
    assert [tokenized.count(text) for text in texts] == [tokens] * 20
    assert len(set(texts)) == 20


def test_common_words_are_a_token_each_for_the_default_model(tokenized):
    random = np.random.default_rng(5)
    assert {tokenized.count(Words().text(random, 100)) for _ in range(20)} == {100}


def test_words_are_calibrated_by_a_server_s_counts():
    import asyncio

    async def count(text: str) -> int | None:
        return 3 * len(text.split()) + 11  # three tokens a word and a template

    words = asyncio.run(calibrated_words(count))
    text = words.text(np.random.default_rng(0), 131)
    assert len(text.split()) == 40
    assert words.count(text) == 131

    async def silent(_text: str) -> int | None:
        return None

    assert asyncio.run(calibrated_words(silent)) is None


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("128", Lengths(128, 128)),
        ("64-256", Lengths(64, 256)),
        ("100:20", Lengths(1, 199, 20.0)),
        ("9:0", Lengths(9, 9)),
    ],
)
def test_lengths(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "0", "-3", "5-4", "a", "1-2-3", "1.5"])
def test_lengths_that_mean_nothing(text):
    with pytest.raises(ValueError, match="length"):
        parse_lengths(text)


def test_lengths_are_drawn_as_asked():
    random = np.random.default_rng(0)
    uniform = [Lengths(3, 5).draw(random) for _ in range(300)]
    assert set(uniform) == {3, 4, 5}
    normal = [parse_lengths("100:20").draw(random) for _ in range(3000)]
    assert statistics.mean(normal) == pytest.approx(100, abs=2)
    assert statistics.stdev(normal) == pytest.approx(20, abs=2)
    assert min(parse_lengths("2:50").draw(random) for _ in range(300)) == 1


def sessions(requests: int = 8, seed: tuple[int, ...] = (0, 1), **workload):
    return Workload(**workload).sessions(Words(), requests, seed)


@pytest.mark.parametrize("name", ["random", "shared-prefix", "chat"])
def test_equal_seeds_give_equal_sessions(name):
    assert sessions(name=name) == sessions(name=name)
    texts = {session.turns[0].text for seed in ((0, 1), (0, 2), (1, 1)) for session in sessions(name=name, seed=seed)}
    assert len(texts) == (3 * 8 if name != "chat" else 3 * 2)


def test_shared_prefixes():
    found = sessions(name="shared-prefix", prefix_tokens=50, prefixes=2, input_tokens=Lengths(10, 10))
    starts = [" ".join(session.turns[0].text.split()[:50]) for session in found]
    assert len(set(starts)) == 2
    assert starts[::2] == starts[:1] * 4
    assert {session.turns[0].input_tokens for session in found} == {60}
    assert len({session.turns[0].text for session in found}) == 8


def test_chats_have_turns():
    found = sessions(requests=9, name="chat", turns=3, output_tokens=Lengths(5, 5))
    assert [len(session.turns) for session in found] == [3, 3, 3]
    assert {turn.output_tokens for session in found for turn in session.turns} == {5}


def conversation(*values: str) -> dict:
    return {"id": "x", "conversations": [{"from": "human", "value": value} for value in values]}


def test_sharegpt_takes_the_first_two_turns_of_usable_length(tmp_path):
    file = tmp_path / "sharegpt.json"
    usable = [conversation(f"question {i} of many words", "an answer of some words", "third turn") for i in range(3)]
    refused = [
        conversation("only one turn of words"),
        conversation("too short", "an answer of some words"),
        conversation("a question of many words", "short answer"),
        conversation("word " * 1025, "an answer of some words"),
        conversation("word " * 1000, "word " * 1049),
    ]
    file.write_text(json.dumps(refused + usable))
    found = sessions(requests=6, name="sharegpt", file=file)
    questions = [session.turns[0].text for session in found]
    assert sorted(questions[:3]) == sorted(questions[3:]) == [f"question {i} of many words" for i in range(3)]
    assert {session.turns[0].output_tokens for session in found} == {5}
    given = sessions(requests=6, name="sharegpt", file=file, output_tokens=Lengths(9, 9))
    assert {session.turns[0].output_tokens for session in given} == {9}


def test_prompts_of_a_file_come_in_order_and_again(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("first prompt\n\nsecond\n")
    found = sessions(requests=3, name="file", file=file)
    assert [session.turns[0].text for session in found] == ["first prompt", "second", "first prompt"]


@pytest.mark.parametrize(("name", "content"), [("sharegpt", '{"a": 1}'), ("sharegpt", "[]"), ("file", "\n\n")])
def test_files_without_prompts(tmp_path, name, content):
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(ValueError, match=str(file)):
        sessions(name=name, file=file)
    with pytest.raises(ValueError, match="nowhere"):
        sessions(name=name, file=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="needs --file"):
        sessions(name=name)


def test_arrivals():
    assert arrival_times_s(3, float("inf"), "poisson", 0) == [0, 0, 0]
    assert arrival_times_s(4, 2.0, "constant", 0) == [0, 0.5, 1.0, 1.5]
    poisson = arrival_times_s(1001, 4.0, "poisson", 7)
    assert poisson == arrival_times_s(1001, 4.0, "poisson", 7)
    assert poisson != arrival_times_s(1001, 4.0, "poisson", 8)
    assert poisson == sorted(poisson)
    assert poisson[-1] == pytest.approx(250)  # exactly the rate that was asked for
    gaps = np.diff(poisson)
    assert gaps.std() == pytest.approx(0.25, rel=0.15)  # exponential: as wide as its mean
    assert np.median(gaps) == pytest.approx(0.25 * np.log(2), rel=0.15)
