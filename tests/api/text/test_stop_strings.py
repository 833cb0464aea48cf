from hypothesis import given
from hypothesis import strategies as st

from headwater.api.text.stop_strings import StopStrings

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(st.text("ab", max_size=5), max_size=8)


def shown(stops: list[str], pieces: list[str], keep: bool) -> tuple[str, bool]:
    """All text that is shown, and whether there was a stop string."""
    finder, text = StopStrings(stops, keep), ""
    for piece in pieces:
        text += finder.feed(piece)
        if finder.found:
            break
    return text + finder.flush(), finder.found


@given(stops=STOPS, pieces=PIECES)
def test_the_cut_does_not_depend_on_how_the_text_was_divided(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert shown(stops, pieces, keep=True) == shown(stops, pieces, keep=False) == (text, False)
        return
    longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
    assert shown(stops, pieces, keep=True) == (text[: ends[0]], True)
    assert shown(stops, pieces, keep=False) == (text[: ends[0] - longest], True)


@given(stops=STOPS, pieces=PIECES)
def test_only_what_may_be_a_stop_string_is_held_back(stops: list[str], pieces: list[str]) -> None:
    finder, text, out = StopStrings(stops, keep=False), "", ""
    for piece in pieces:
        text += piece
        out += finder.feed(piece)
        if finder.found:
            break
        held = text.removeprefix(out)
        assert out + held == text
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_may_end_inside_a_piece() -> None:
    assert shown(["\n\n"], ["one", ".\n", "\ntwo"], keep=True) == ("one.\n\n", True)
    assert shown(["\n\n"], ["one", ".\n", "\ntwo"], keep=False) == ("one.", True)


def test_a_stop_string_may_end_in_a_special_token() -> None:
    for keep, text in ((True, "one\n"), (False, "one")):
        finder = StopStrings(["\n<|user|>"], keep)
        out = finder.feed("one\n") + finder.feed_special("<|user|>") + finder.flush()
        assert (out, finder.found) == (text, True)
        other = StopStrings(["\n<|user|>"], keep)
        out = other.feed("one\n") + other.feed_special("<|tool|>") + other.feed("two") + other.flush()
        assert (out, other.found) == ("one\ntwo", False)
