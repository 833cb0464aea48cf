"""What a client saw of one request: the record that every figure is computed from."""

from typing import Literal

from msgspec import Struct, field

ErrorKind = Literal[
    "refused",  # no connection, or closed before the first byte of an answer
    "overloaded",  # HTTP 429
    "http",  # any other status that isn't 200
    "server_error",  # an error event in the stream
    "stalled",  # no event for --stall seconds
    "timeout",  # not finished within --timeout seconds
    "cut",  # the connection or the stream ended before its last event
    "bad_event",  # not HTTP, not JSON, or not an event of the protocol
    "wrong_count",  # the server says that it sent another number of tokens than it did
]


class Answer(Struct):
    """One request. Times are time.perf_counter() seconds, taken once per read of the socket."""

    wanted_tokens: int  # output tokens asked for
    due: float  # when it should have left
    start: float = 0.0  # when it left, before a new connection is made
    times: list[float] = field(default_factory=list)  # one per event that carries output
    text: list[str] = field(default_factory=list)  # one per event
    input_tokens: int | None = None  # the server's count; else the workload's estimate, at the end
    output_tokens: int | None = None  # the server's count; else the number of events, at the end
    counted: bool = False  # whether output_tokens is the server's
    ended: bool = False  # the last event of the protocol came
    error: ErrorKind | None = None
    message: str = ""  # of the error
    cancelled: bool = False  # by Ctrl-C: neither a result nor an error

    @property
    def ok(self) -> bool:
        return self.error is None and not self.cancelled

    def fail(self, error: ErrorKind, message: str) -> None:
        """The first error stays."""
        if self.error is None:
            self.error = error
            self.message = message[:200]
