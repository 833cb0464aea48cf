from hypothesis import given
from hypothesis import strategies as st

from headwater.api.stop import StopStrings


def until_stop(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Text up to and with the stop string, and whether there was one."""
    finder, text = StopStrings(stops), ""
    for piece in pieces:
        end = finder.feed(piece)
        if end is not None:
            return text + piece[:end], True
        text += piece
    return text, False


@given(stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), pieces=st.lists(st.text("ab", max_size=5)))
def test_the_cut_does_not_depend_on_how_the_text_was_divided(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert until_stop(stops, pieces) == ((text[: ends[0]], True) if ends else (text, False))


def test_a_stop_string_may_end_inside_a_piece_and_stays_in_the_text() -> None:
    assert until_stop(["\n\n"], ["one", ".\n", "\ntwo"]) == ("one.\n\n", True)
