"""Guesses run where they give more tokens per second, by times that are made up."""

import logging

import pytest

from headwater.engine.speculation.payoff import MOST_PATIENCE, RUN, TRY, Payoff

PLAIN_S = 0.010  # of a step without guesses


def steps(payoff: Payoff, count: int, guessed_s: float, tokens: int, sequences: int = 1) -> list[bool]:
    """Steps of ``guessed_s`` and ``tokens`` where there are guesses, of PLAIN_S and one token else. Returns where."""
    choices = []
    for _ in range(count):
        choices.append(payoff.wants(sequences))
        payoff.note(*((tokens, guessed_s) if choices[-1] else (1, PLAIN_S)))
    return choices


def test_guesses_that_pay_stay_on_but_for_tries() -> None:
    choices = steps(Payoff(), 20_000, 0.020, tokens=3)
    assert choices[:RUN] == [True] * RUN
    assert choices[RUN + 1 : RUN + TRY] == [False] * (TRY - 1)
    assert 0.98 < sum(choices) / len(choices) < 1, "and those get rare"


def test_guesses_that_do_not_pay_go_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    payoff = Payoff()
    choices = steps(payoff, 20_000, 0.020, tokens=1)
    assert sum(choices) < 0.03 * len(choices)
    assert any(choices[-2 * MOST_PATIENCE * RUN :]), "they are tried again for ever"
    (line,) = caplog.messages
    assert line == "guesses of the draft model are off with up to 1 sequences: 50 tokens/s with them, 100 without"
    later = steps(payoff, 20_000, 0.020, tokens=3)
    assert all(later[-RUN:]), "and go on again when they are right more often"


def test_a_step_that_begins_with_nobody_is_one_of_a_single_sequence() -> None:
    payoff = Payoff()
    steps(payoff, 10 * RUN, 0.020, tokens=1)
    assert [payoff.wants(0), payoff.wants(1)] == [False, False]


def test_each_number_of_sequences_is_measured_by_itself() -> None:
    payoff = Payoff()
    for _ in range(100):
        alone = steps(payoff, RUN, 0.010, tokens=3)
        many = steps(payoff, RUN, 0.090, tokens=3, sequences=9)
    assert all(alone[1:])
    assert not any(many[1:])


def test_the_first_step_after_a_change_does_not_count() -> None:
    payoff = Payoff()
    steps(payoff, RUN, 0.020, tokens=3)
    assert not payoff.wants(1)
    payoff.note(0, 100.0)  # it reads nothing yet, or what another kind of step has computed
    choices = steps(payoff, 200, 0.020, tokens=3)
    assert sum(choices) > 150
