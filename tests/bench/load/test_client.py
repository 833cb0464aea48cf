"""What a client makes of servers that are right, and of servers that are wrong in every way that was thought of."""

import threading
from collections.abc import Callable

import pytest
import uvloop

from headwater.bench.load.answer import Answer, ErrorKind
from headwater.bench.load.client import Client, Patience
from headwater.bench.load.protocols import Message, ProtocolName, RequestOptions

from .misbehaving import END, STREAM, Respond, chunk, nobody, read_request, send, server, tgi_event, tgi_stream

PATIENT = Patience(stall_s=60, timeout_s=60)
HURRIED = Patience(stall_s=0.1, timeout_s=60)


def ask(
    url: str, protocol: ProtocolName = "tgi", tokens: int = 3, patience: Patience = PATIENT, times: int = 1
) -> list[Answer]:
    """Answers to requests one after the other."""

    async def run() -> list[Answer]:
        client = Client(url, protocol, RequestOptions("m"), {}, patience)
        answers = [await client.stream([Message("user", "Hi")], tokens) for _ in range(times)]
        assert client.running == 0
        assert client.events == sum(len(answer.times) for answer in answers)
        client.close()
        return answers

    return uvloop.run(run())


def ask_one(respond: Respond, **how) -> Answer:
    with server(respond) as url:
        return ask(url, **how)[0]


def check_right(answer: Answer, tokens: int = 3) -> None:
    assert (answer.error, answer.message) == (None, "")
    assert answer.text == [" a"] * tokens
    assert (answer.input_tokens, answer.output_tokens, answer.counted) == (7, tokens, True)
    assert answer.start <= answer.times[0]
    assert answer.times == sorted(answer.times)


def one_byte_at_a_time(data: bytes) -> bytes:
    return b"".join(chunk(data[i : i + 1]) for i in range(len(data)))


@pytest.mark.parametrize(
    "body",
    [
        chunk(tgi_stream(3)) + END,
        one_byte_at_a_time(tgi_stream(3)) + END,
        chunk(b":\n\n") + chunk(tgi_stream(3).replace(b"data: ", b"data:").replace(b"\n", b"\r\n")) + END,
        chunk(tgi_stream(3).rstrip(b"\n")) + END,  # no line end after the last event
        chunk(tgi_stream(3)),  # everything came, only the end of the message is missing
    ],
    ids=["one chunk", "single bytes", "comment, no space, CRLF", "unfinished line", "no last chunk"],
)
def test_a_right_stream_is_read(body):
    check_right(ask_one(send(STREAM, body)))


def test_a_stream_that_ends_with_the_connection_is_read():
    check_right(ask_one(send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", tgi_stream(3))))


OPENAI = (
    b'data: {"choices":[{"index":0,"text":" a"}],"usage":null}\n\n'
    b'data: {"choices":[{"index":0,"text":" a","finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"text":" a","finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
)


def test_openai_tokens_are_those_of_usage_and_events_those_with_choices():
    answer = ask_one(send(STREAM, chunk(OPENAI + b"data: [DONE]\n\n"), END), protocol="openai")
    assert answer.ok
    assert (answer.input_tokens, answer.output_tokens, answer.counted, len(answer.times)) == (7, 5, True, 3)


def test_openai_chat_without_usage_or_done_counts_events():
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'  # no token
    chat = role + OPENAI.replace(b'"text":" a"', b'"delta":{"content":" a"}').rpartition(b'data: {"choices":[]')[0]
    answer = ask_one(send(STREAM, chunk(chat), END), protocol="openai-chat")
    assert answer.ok
    assert answer.text == [" a"] * 3
    assert (answer.input_tokens, answer.output_tokens, answer.counted) == (None, 3, False)


def status(line: str, body: str) -> Respond:
    return send(f"HTTP/1.1 {line}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())


EVENTS = tgi_event(1) + tgi_event(2)
WRONG: list[tuple[ErrorKind, Respond, str]] = [
    ("refused", send(), "closed before an answer"),
    ("overloaded", status("429 Too Many Requests", "Model is overloaded"), "Model is overloaded"),
    ("http", status("422 Unprocessable Entity", "top_p"), "422 top_p"),
    ("http", status("500 Internal Server Error", ""), "500"),
    (
        "server_error",
        send(STREAM, chunk(EVENTS + b'data: {"error":"boom","error_type":"generation"}\n\n'), END),
        "boom",
    ),
    ("cut", send(STREAM, chunk(EVENTS)), "after 2 events"),  # the connection ends
    ("cut", send(STREAM, chunk(EVENTS), END), "after 2 events"),  # the stream ends without its last event
    ("cut", send(STREAM, chunk(EVENTS)[:-20]), "after 1 events"),
    ("bad_event", send(STREAM, chunk(EVENTS + b"data: {nonsense\n\n"), END), "nonsense"),
    ("bad_event", send(STREAM, chunk(EVENTS + b'data: {"token":7}\n\n'), END), "token"),
    ("bad_event", send(STREAM, chunk(b'data: {"something":"else"}\n\n'), END), "without token"),
    ("bad_event", send(b"SSH-2.0-OpenSSH_9.6\r\n"), "not HTTP"),
    ("bad_event", send(STREAM, b"this is no chunk\r\n"), "not HTTP"),
    ("wrong_count", send(STREAM, chunk(EVENTS + tgi_event(3, last=3, claimed=9)), END), "9 tokens claimed, 3 sent"),
]


@pytest.mark.parametrize(("kind", "respond", "message"), WRONG, ids=[f"{kind}: {text}" for kind, _, text in WRONG])
def test_a_wrong_answer_is_an_error_of_its_kind(kind, respond, message):
    answer = ask_one(respond)
    assert answer.error == kind
    assert message in answer.message
    assert not answer.ok


def test_an_openai_error_event_is_an_error():
    event = b'data: {"error":{"message":"boom","http_status_code":422}}\n\ndata: [DONE]\n\n'
    answer = ask_one(send(STREAM, chunk(event), END), protocol="openai-chat")
    assert (answer.error, "boom" in answer.message) == ("server_error", True)


def test_nobody_listens():
    with nobody() as url:
        assert ask(url)[0].error == "refused"


def wait_for(released: threading.Event, *first: bytes) -> Respond:
    """Send something, then nothing more until the client has gone."""

    def respond(connection) -> None:
        connection.sendall(b"".join(first))
        read_request(connection)
        released.set()

    return respond


@pytest.mark.parametrize("first", [(), (STREAM,), (STREAM, chunk(EVENTS))], ids=["at once", "after head", "after 2"])
def test_a_stall_is_noticed_and_the_connection_closed(first):
    released = threading.Event()
    with server(wait_for(released, *first)) as url:
        answer = ask(url, patience=HURRIED)[0]
        assert released.wait(60)
    assert answer.error == "stalled"
    assert len(answer.times) == (2 if len(first) == 2 else 0)


def test_a_stream_that_never_ends_runs_into_the_timeout():
    def drip(connection) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(chunk(tgi_event(1)))

    answer = ask_one(drip, patience=Patience(stall_s=60, timeout_s=0.2))
    assert answer.error == "timeout"
    assert answer.times


def counting(respond: Callable[[int], Respond]) -> tuple[list[int], Respond]:
    """A server that answers its n-th request with respond(n)."""
    seen: list[int] = []

    def one(connection) -> None:
        seen.append(connection.fileno())
        respond(len(seen))(connection)

    return seen, one


def test_a_connection_is_used_again():
    seen, respond = counting(lambda _: send(STREAM, chunk(tgi_stream(3)), END))
    with server(respond, keep_alive=True) as url:
        for answer in ask(url, times=4):
            check_right(answer)
    assert len(seen) == 4
    assert len(set(seen)) == 1


def test_an_idle_connection_that_the_server_closes_is_no_error():
    def once_then_close(number: int) -> Respond:
        def respond(connection) -> None:
            if number == 2:
                connection.close()  # read, then thrown away: as if it had been closed while it was idle
            else:
                send(STREAM, chunk(tgi_stream(3)), END)(connection)

        return respond

    seen, respond = counting(once_then_close)
    with server(respond, keep_alive=True) as url:
        for answer in ask(url, times=2):
            check_right(answer)
    assert len(seen) == 3
