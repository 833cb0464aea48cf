"""Frames survive any cut of the byte stream, and garbage is an error, not a hang."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.engine.frames import FrameError, FrameReader, encode_frame
from headwater.engine.messages import (
    Abort,
    Failed,
    FromEngine,
    Hello,
    SamplingParams,
    Started,
    Stats,
    Step,
    Submit,
    ToEngine,
    Tokens,
)

STATS = Stats(1, 2, 3, 4, 5, 6, 7, 8, 0.5, 12.25)
TO_ENGINE = [
    Submit(1, [1, 2], SamplingParams(5, greedy=False, seed=2**64 - 1, stop_token_ids=(2, 0)), [3]),
    Abort(2**63),
]
FROM_ENGINE = [
    Hello("m", "cpu", "cpu", "bfloat16", 10, 20, 30, 16, 40),
    Step(
        STATS,
        [Started(1, 0.25)],
        [Tokens(1, [5], [-0.5], "length"), Tokens(2, [], [])],
        [Failed(3, "ü", "validation")],
    ),
    Step(STATS),
]


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_messages_arrive_whole_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    for union, messages in ((ToEngine, TO_ENGINE), (FromEngine, FROM_ENGINE)):
        data = b"".join(encode_frame(message) for message in messages)
        reader: FrameReader[object] = FrameReader(union)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        received = []
        for start, end in pairwise(edges):
            received += list(reader.feed(data[start:end]))
        assert received == messages


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"abc", struct.pack(">I", 0), encode_frame(FROM_ENGINE[0])],
    ids=["huge length", "no msgpack", "empty", "a message of the other direction"],
)
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    reader: FrameReader[ToEngine] = FrameReader(ToEngine)
    with pytest.raises(FrameError):
        list(reader.feed(data))


@given(st.binary(max_size=300))
def test_garbage_gives_messages_or_the_error_and_nothing_else(data: bytes) -> None:
    reader: FrameReader[ToEngine] = FrameReader(ToEngine)
    try:
        list(reader.feed(data))
    except FrameError:
        return
