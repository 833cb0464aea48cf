"""The null server speaks all protocols, keeps its pace, and what is made of its measurement."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import uvloop

from headwater.bench.load.answer import Answer
from headwater.bench.load.client import Client, Patience
from headwater.bench.load.client_check import PACE_MS, STREAMS, check_client, judge
from headwater.bench.load.null_server import null_server
from headwater.bench.load.protocols import Message, RequestOptions

MESSAGES = [Message("user", "one two"), Message("assistant", "three"), Message("user", "four five")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with null_server(pace_ms=0) as address:
        yield address


@pytest.mark.parametrize("protocol", ["tgi", "openai", "openai-chat"])
@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_every_protocol_gets_exactly_its_tokens(url, protocol, tokens):
    async def run() -> list[Answer]:
        client = Client(url, protocol, RequestOptions("null"), {}, Patience())
        answers = [await client.stream(MESSAGES, tokens) for _ in range(3)]
        client.close()
        return answers

    for answer in uvloop.run(run()):
        assert answer.ok, answer.message
        assert (len(answer.times), answer.output_tokens, answer.input_tokens) == (tokens, tokens, 5)
        assert answer.counted


def test_a_stream_lasts_as_long_as_its_pace_says():
    async def run(url: str) -> Answer:
        client = Client(url, "tgi", RequestOptions(), {}, Patience())
        answer = await client.stream(MESSAGES, 21)
        client.close()
        return answer

    with null_server(pace_ms=10) as url:
        times = uvloop.run(run(url)).times
    assert times[-1] - times[0] >= 0.19  # 20 ticks of the server's clock; never earlier, however slow the machine


@pytest.mark.parametrize(("path", "body", "status"), [("/", b"{}", 404), ("/generate_stream", b"{", 422)])
def test_what_it_does_not_know_is_refused(url, path, body, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}{path}", body)
    assert refused.value.code == status


def test_the_check_sees_every_stream():
    found = uvloop.run(check_client())
    assert (found.streams, found.pace_ms) == (STREAMS, PACE_MS)
    assert found.measured_mean_ms > 0.5 * PACE_MS
    assert found.events_per_s > 0
    assert found.cpu_us_per_event > 0


@pytest.mark.parametrize(
    ("gap_ms", "events", "passes"), [(20.3, 21_000, True), (20.5, 21_000, False), (20.0, 19_000, False)]
)
def test_the_check_is_strict(gap_ms, events, passes):
    found = judge(np.full(100, gap_ms), events, wall_s=1.0, cpu_s=0.5)
    assert found.pace_error == pytest.approx((gap_ms - 20) / 20)
    assert found.events_per_s == events
    assert found.cpu_us_per_event == pytest.approx(0.5e6 / events)
    assert found.passes is passes
