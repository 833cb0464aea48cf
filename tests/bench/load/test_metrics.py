"""Figures of made-up timelines, against numbers worked out by hand."""

import pytest

from headwater.bench.load.answer import Answer
from headwater.bench.load.compare import ratio_rows, ratios_to_first
from headwater.bench.load.metrics import Objectives, parse_objectives, spread_ms, summarize


def answer(start: float, times: list[float], tokens: int, **more) -> Answer:
    return Answer(tokens, start, start, times, [], 10, tokens, True, True, **more)


# TTFT 100, 300 ms; gaps 50, 70 and 20, 20, 40 ms; E2E 220, 380 ms.
TWO = [answer(1.0, [1.10, 1.15, 1.22], 3), answer(2.0, [2.30, 2.32, 2.34, 2.38], 4)]


def test_figures_of_two_requests():
    figures = summarize(TWO, 4.0, Objectives())
    assert (figures.completed, figures.failed, figures.total_input_tokens, figures.total_output_tokens) == (2, 0, 20, 7)
    assert (figures.request_throughput, figures.output_throughput, figures.total_token_throughput) == (0.5, 1.75, 6.75)
    assert figures.ttft.mean == pytest.approx(200)
    assert figures.tpot.mean == pytest.approx((60 + 80 / 3) / 2)
    assert figures.itl.mean == pytest.approx((50 + 70 + 20 + 20 + 40) / 5)  # pooled over requests
    assert figures.itl.median == pytest.approx(40)
    assert figures.e2el.mean == pytest.approx(300)
    assert (figures.request_goodput, figures.other_length, figures.uncounted) == (None, 0, 0)


def test_percentiles_lie_between_samples():
    spread = spread_ms([0.001 * i for i in range(1, 12)])  # 1 .. 11 ms
    assert [spread.mean, spread.p50, spread.p90, spread.p95, spread.p99] == pytest.approx([6, 6, 10, 10.5, 10.9])
    assert spread.std == pytest.approx(10**0.5)
    assert spread.median == spread.p50


def test_several_tokens_in_an_event():
    # 9 tokens in 3 events: TPOT is by token, ITL by event.
    figures = summarize([answer(0.0, [0.1, 0.2, 0.5], 9)], 1.0, Objectives())
    assert figures.tpot.mean == pytest.approx(50)
    assert figures.itl.mean == pytest.approx(200)
    assert (figures.total_output_tokens, figures.total_events) == (9, 3)


def test_a_single_token_has_no_time_between_tokens():
    figures = summarize([answer(0.0, [0.25], 1)], 1.0, Objectives())
    assert figures.ttft.mean == figures.e2el.mean == pytest.approx(250)
    assert figures.tpot is None
    assert figures.itl is None


def test_what_failed_is_counted_by_kind_and_in_no_mean():
    bad = [
        answer(0.0, [9.0], 5, error="cut", message="first"),
        answer(0.0, [9.0], 5, error="cut", message="second"),
        answer(0.0, [], 5, error="overloaded"),
        answer(0.0, [9.0], 5, cancelled=True),
    ]
    figures = summarize([*bad, *TWO], 4.0, Objectives())
    without = summarize(TWO, 4.0, Objectives())
    assert (figures.ttft, figures.itl, figures.output_throughput) == (
        without.ttft,
        without.itl,
        without.output_throughput,
    )
    assert (figures.completed, figures.failed, figures.overloaded, figures.cancelled) == (2, 3, 1, 1)
    assert figures.errors_by_kind == {"cut": 2, "overloaded": 1}
    assert figures.first_messages["cut"] == "first"


def test_nothing_completed():
    figures = summarize([], 0.0, parse_objectives("ttft:1"))
    assert (figures.ttft, figures.output_throughput, figures.good_share) == (None, 0.0, None)


def test_other_lengths_and_counts_by_events_are_told():
    short = answer(0.0, [0.1, 0.2], 2)
    short.wanted_tokens = 5
    short.counted = False
    figures = summarize([short, *TWO], 1.0, Objectives())
    assert (figures.other_length, figures.uncounted) == (1, 1)


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        ("ttft:300.1", 2),
        ("ttft:299", 1),
        ("ttft:99", 0),
        ("tpot:59,ttft:1000", 1),
        ("itl:30", 1),  # on the mean of a request's gaps: 60 and 26.7 ms
        ("e2e:250", 1),
        ("itl:30,e2el:250", 0),
    ],
)
def test_goodput(objectives, good):
    failed = answer(0.0, [], 5, error="stalled")
    figures = summarize([*TWO, failed], 4.0, parse_objectives(objectives))
    assert figures.request_goodput == good / 4
    assert figures.good_share == pytest.approx(good / 3)


@pytest.mark.parametrize("text", ["ttft", "ttft=5", "speed:5", "ttft:fast"])
def test_objectives_that_mean_nothing(text):
    with pytest.raises(ValueError, match=r"objectives are|could not convert"):
        parse_objectives(text)


def test_ratios_are_taken_within_a_round():
    fast = summarize(TWO, 2.0, Objectives())
    slow = summarize(TWO, 4.0, Objectives())
    nothing = summarize([], 1.0, Objectives())
    ratios = ratios_to_first([[slow, fast], [fast, slow], [slow, fast], [nothing, fast]], 1)
    assert ratios["output tokens/s"] == [2.0, 0.5, 2.0]
    assert ratios["median TTFT"] == [1.0, 1.0, 1.0]
    row = ratio_rows("B / A", ratios)[0]
    assert row == ["B / A", "output tokens/s", "2.000", "0.500 - 2.000", "0.866", "2 of 3"]
