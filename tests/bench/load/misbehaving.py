"""Servers that do exactly what a test tells them to, right or wrong."""

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
END = b"0\r\n\r\n"
Respond = Callable[[socket.socket], None]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def tgi_event(index: int, last: int | None = None, claimed: int | None = None) -> bytes:
    """One event of /generate_stream; the ``last`` one has details that claim ``claimed`` tokens (``index`` if None)."""
    end = b'null,"details":null'
    if index == last:
        end = b'"text","details":{"finish_reason":"length","generated_tokens":%d,"seed":null,"input_length":7}' % (
            claimed or index
        )
    return b'data: {"index":%d,"token":{"id":1,"text":" a","logprob":0,"special":false},"generated_text":%b}\n\n' % (
        index,
        end,
    )


def tgi_stream(tokens: int) -> bytes:
    """The body of a right answer."""
    return b"".join(tgi_event(i, last=tokens) for i in range(1, tokens + 1))


def send(*parts: bytes) -> Respond:
    """Send these bytes and close."""
    return lambda connection: connection.sendall(b"".join(parts))


def read_request(connection: socket.socket) -> bytes:
    """One request, empty at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int((re.search(rb"content-length: (\d+)", head, re.IGNORECASE) or [0, 0])[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def server(respond: Respond, keep_alive: bool = False) -> Iterator[str]:
    """A server on a free port; ``respond`` is called once per POST, GET is unknown to it. Gives its URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                while request := read_request(self.request):
                    if request.startswith(b"GET "):
                        self.request.sendall(NOT_FOUND)
                        continue
                    respond(self.request)
                    if not keep_alive:
                        return
            except OSError:
                pass  # the client has gone, as it should

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take the port
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
