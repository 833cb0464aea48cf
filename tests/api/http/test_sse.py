import json
import math
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from headwater.api.http.sse import encode_event, shortest_float32
from headwater.api.tgi.schema import StreamDetails, StreamResponse, Token


def test_an_event_is_one_line_of_json_in_tgis_order() -> None:
    event = encode_event(StreamResponse(1, Token(5, "a\n", -0.5, False)))
    assert event == (
        b'data: {"index":1,"token":{"id":5,"text":"a\\n","logprob":-0.5,"special":false},'
        b'"generated_text":null,"details":null}\n\n'
    )


def test_the_last_event_has_text_and_details() -> None:
    details = StreamDetails("eos_token", 2, None, 7)
    event = encode_event(StreamResponse(2, Token(0, "</s>", float("nan"), True), generated_text="a", details=details))
    assert event == (
        b'data: {"index":2,"token":{"id":0,"text":"</s>","logprob":null,"special":true},"generated_text":"a",'
        b'"details":{"finish_reason":"eos_token","generated_tokens":2,"seed":null,"input_length":7}}\n\n'
    )


@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2028\u2029\u0085\x0b\x0c\x1c\r\n")))
def test_no_client_finds_a_line_end_inside_an_event(text: str) -> None:
    event = encode_event(StreamResponse(1, Token(1, text, 0.0, False))).decode()
    assert event.splitlines() == [event[:-2], ""]
    assert json.loads(event.removeprefix("data: "))["token"]["text"] == text


def float32(value: Any) -> float:
    return float(np.float32(value))


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_floats_are_as_short_as_numpy_writes_them(value: float) -> None:
    mantissa, _ = math.frexp(value)
    assume(abs(mantissa) != 0.5)  # a power of two: see below
    assert shortest_float32(value) == float(str(np.float32(value)))


def test_powers_of_two_name_the_same_float() -> None:
    powers = np.ldexp(np.float32(1), np.arange(-149, 128))
    assert np.array_equal(np.float32([shortest_float32(float(power)) for power in powers]), powers)


def test_floats_look_like_tgis() -> None:
    logprobs = [-0.34, -1.1920929e-7, 0.0, -0.0, -12.25]
    events = [encode_event(StreamResponse(1, Token(1, "", shortest_float32(float32(x)), False))) for x in logprobs]
    shown = [event.split(b'"logprob":')[1].split(b",")[0] for event in events]
    assert shown == [b"-0.34", b"-1.1920929e-7", b"0.0", b"-0.0", b"-12.25"]
