"""N-gram look-up against the obvious search, however the text grew."""

from hypothesis import given
from hypothesis import strategies as st

from headwater.engine.speculation.ngram import LENGTHS, NgramIndex

TEXT = st.lists(st.integers(0, 3), max_size=60)


def search(tokens: list[int], most: int) -> list[int]:
    """The same by trying every position, from the last on."""
    total = len(tokens)
    for length in LENGTHS:
        for end in range(total - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[total - length :]:
                text = list(tokens)
                for position in range(end, end + most):
                    text.append(text[position])
                return text[total:]
    return []


@given(text=TEXT, most=st.integers(1, 8), growth=st.lists(st.integers(1, 5)))
def test_the_latest_occurrence_goes_on(text: list[int], most: int, growth: list[int]) -> None:
    index, known = NgramIndex(), 0
    for step in [*growth, len(text)]:
        known = min(known + step, len(text))
        assert index.guess(text[:known], most) == search(text[:known], most)


def test_a_new_ending_has_no_continuation() -> None:
    assert NgramIndex().guess([1, 2, 3, 4, 1], 4) == []
    assert NgramIndex().guess([], 4) == []


def test_the_longer_match_wins_over_the_later() -> None:
    text = [1, 2, 3, 7, 7, 2, 3, 9, 9, 1, 2, 3]
    assert NgramIndex().guess(text, 2) == [7, 7]


def test_a_period_goes_on_beyond_the_end() -> None:
    assert NgramIndex().guess([5, 1, 2, 1, 2, 1], 5) == [2, 1, 2, 1, 2]
    assert NgramIndex().guess([8, 8, 8, 8], 3) == [8, 8, 8]


def test_no_more_than_asked_for() -> None:
    assert NgramIndex().guess([1, 2, 3, 4, 1, 2], 0) == []
    assert NgramIndex().guess([1, 2, 3, 4, 1, 2], 1) == [3]
