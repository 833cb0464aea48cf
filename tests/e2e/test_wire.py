"""Bytes of a stream as they arrive on a bare socket, against what the engine says of its steps."""

import json
import socket
import time
from urllib.parse import urlsplit

from .serving import PATIENCE_S, Serving, gauge, wait_until

TOKENS = 100
STEP_SECONDS = 'tgi_batch_inference_duration_sum{method="decode"}'
STEPS = 'tgi_batch_inference_duration_count{method="decode"}'


class WireClient:
    """A stream on a bare socket.

    Attributes:
        arrivals: moment of each read, and how many events were there by then.
    """

    def __init__(self, server: Serving, max_new_tokens: int) -> None:
        address = urlsplit(server.url)
        self._socket = socket.create_connection((address.hostname, address.port), PATIENCE_S)
        parameters = {"max_new_tokens": max_new_tokens, "ignore_eos": True}
        body = json.dumps({"inputs": "Once upon a time", "parameters": parameters}).encode()
        head = (
            b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        self._socket.sendall(head % len(body) + body)
        self.arrivals: list[tuple[float, int]] = []
        self.data = b""

    def read(self) -> bool:
        """What is there now, or next; False after the last chunk."""
        self.data += self._socket.recv(1 << 16)
        self.arrivals.append((time.monotonic(), self.events))
        return not self.data.endswith(b"\r\n0\r\n\r\n")

    @property
    def events(self) -> int:
        """So far."""
        return self.data.count(b"\ndata: ")

    def close(self) -> None:
        self._socket.close()


def test_events_arrive_as_the_engine_makes_them(shared_server: Serving) -> None:
    wait_until(lambda: gauge(shared_server, "tgi_batch_current_size") == 0, "an idle engine")
    seconds, steps = gauge(shared_server, STEP_SECONDS), gauge(shared_server, STEPS)
    client = WireClient(shared_server, TOKENS)
    while client.read():
        pass
    client.close()
    assert client.events == TOKENS
    seconds = gauge(shared_server, STEP_SECONDS) - seconds
    assert gauge(shared_server, STEPS) - steps >= TOKENS - 2  # it was alone: these are its own
    # What is collected and sent at the end would arrive in no time. Both durations stretch alike on a busy machine.
    (first, _), (last, _) = client.arrivals[0], client.arrivals[-1]
    assert last - first > 0.5 * seconds
    # At half of the time about half of the events are there.
    there = max(events for moment, events in client.arrivals if moment <= (first + last) / 2)
    assert 0.2 * TOKENS < there < 0.8 * TOKENS


def test_the_first_event_arrives_long_before_the_last_token_is_made(shared_server: Serving) -> None:
    wait_until(lambda: gauge(shared_server, "tgi_batch_current_size") == 0, "an idle engine")
    made = gauge(shared_server, "headwater_engine_generated_tokens_total")
    client = WireClient(shared_server, 900)
    while not client.events:
        client.read()
    assert 0 < gauge(shared_server, "headwater_engine_generated_tokens_total") - made < 900
    assert gauge(shared_server, "tgi_batch_current_size") == 1
    client.close()
    wait_until(lambda: gauge(shared_server, "tgi_batch_current_size") == 0, "the sequence has left the batch")
    assert gauge(shared_server, "headwater_engine_generated_tokens_total") - made < 900
