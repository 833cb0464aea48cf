"""What is remembered about one request: its sizes and times, for the answer's headers, the metrics and the log."""

import time
from collections.abc import Callable, Sequence

from ..engine_client.remote_sequence import RemoteSequence
from ..text.text_sequence import SequenceOutput, TextSequence


class RequestStats:
    """One request that generates. Times are seconds; the parts add up to the total.

    Attributes:
        prompt_tokens: of all its prompts; generated_tokens: of all its sequences.
        first_token_s: until the first token came; None until then.
        on_gap: told how long, in seconds, each arrival of a sequence's later tokens took.
        outcome: finish reasons or error type, as logged.
        start: by time.monotonic().
        status: HTTP status of the answer, 0 if there was none.
        failed: it was refused or went wrong.
    """

    def __init__(self, request_id: str, route: str, start: float | None = None) -> None:
        """``start``: now, if it isn't given."""
        self.start = time.monotonic() if start is None else start
        self._submitted: float | None = None
        self._end: float | None = None
        self._remotes: list[RemoteSequence] = []  # the first of each prompt
        self._sequences = ""  # their numbers in the engine
        self._last: dict[int, float] = {}  # when a sequence's last token came
        self.request_id = request_id
        self.route = route
        self.input_characters = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.first_token_s: float | None = None
        self.on_gap: Callable[[float], None] = _ignore
        self.outcome = ""
        self.status = 0
        self.failed = False

    def submit(self, remote: RemoteSequence) -> None:
        """The engine has one of its prompts from now on."""
        self._submitted = time.monotonic()
        self._remotes.append(remote)
        self.prompt_tokens += len(remote.prompt_ids)

    def received(self, output: Sequence[SequenceOutput]) -> None:
        """Tokens came."""
        now = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now - self.start
        for one in output:
            index = one.sequence.index
            if (last := self._last.get(index)) is not None:
                self.on_gap(now - last)
            self._last[index] = now

    def finish(self) -> None:
        """The last token is there."""
        self._end = time.monotonic()

    def end(self, sequences: Sequence[TextSequence]) -> None:
        """Nothing more will come."""
        self._end = self._end or time.monotonic()
        self._sequences = ",".join(str(sequence.remote.request_id) for sequence in sequences)
        self.generated_tokens = sum(sequence.generated_tokens for sequence in sequences)
        self.outcome = ",".join(sorted({sequence.finish_reason for sequence in sequences if sequence.finish_reason}))

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache."""
        return sum(remote.cached_tokens for remote in self._remotes)

    @property
    def total_s(self) -> float:
        return (self._end or time.monotonic()) - self.start

    @property
    def validation_s(self) -> float:
        """Until the engine got it."""
        return 0.0 if self._submitted is None else self._submitted - self.start

    @property
    def queue_s(self) -> float:
        """From then until its first step; of several prompts the one that waited longest."""
        return max((remote.queue_s or 0.0 for remote in self._remotes), default=0.0)

    @property
    def inference_s(self) -> float:
        """From then until the end."""
        return max(self.total_s - self.validation_s - self.queue_s, 0.0)

    @property
    def time_per_token_s(self) -> float:
        return self.inference_s / max(self.generated_tokens, 1)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """TGI's headers of an answer that isn't a stream; integers are milliseconds."""
        milliseconds = {
            b"x-total-time": self.total_s,
            b"x-validation-time": self.validation_s,
            b"x-queue-time": self.queue_s,
            b"x-inference-time": self.inference_s,
            b"x-time-per-token": self.time_per_token_s,
        }
        return [
            (b"x-compute-time", b"%.9f" % self.total_s),
            (b"x-compute-characters", b"%d" % self.input_characters),
            *((name, b"%d" % (seconds * 1000)) for name, seconds in milliseconds.items()),
            (b"x-prompt-tokens", b"%d" % self.prompt_tokens),
            (b"x-generated-tokens", b"%d" % self.generated_tokens),
        ]

    def log_fields(self) -> dict[str, str | int | float]:
        """What the request's log line says; never the prompt."""
        fields: dict[str, str | int | float] = {
            "id": self.request_id,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "validation_ms": _ms(self.validation_s),
            "queue_ms": _ms(self.queue_s),
            "inference_ms": _ms(self.inference_s),
            "total_ms": _ms(self.total_s),
        }
        if self.first_token_s is not None:
            fields["first_token_ms"] = _ms(self.first_token_s)
            fields["per_token_ms"] = _ms(self.time_per_token_s)
        if self._sequences:
            fields["sequences"] = self._sequences
        return fields


def _ignore(_seconds: float) -> None: ...


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
