"""What is remembered about one request: its sizes and times, for the answer's headers, the metrics and the log."""

import time

from .engine_client import Generation


class Record:
    """One request that generates. Times are seconds; the parts add up to the total.

    Attributes:
        outcome: finish reason or error type, as logged.
        status: HTTP status of the answer, 0 if there was none.
    """

    def __init__(self, request_id: str, route: str) -> None:
        self._start = time.monotonic()
        self._submitted: float | None = None
        self._end: float | None = None
        self._generation: Generation | None = None
        self.request_id = request_id
        self.route = route
        self.input_characters = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.outcome = ""
        self.status = 0

    def submit(self, generation: Generation) -> None:
        """The engine has it from now on."""
        self._submitted = time.monotonic()
        self._generation = generation
        self.prompt_tokens = len(generation.prompt_ids)

    def finish(self, generated_tokens: int, outcome: str) -> None:
        """The last token is there."""
        self._end = time.monotonic()
        self.generated_tokens = generated_tokens
        self.outcome = outcome

    @property
    def total_s(self) -> float:
        return (self._end or time.monotonic()) - self._start

    @property
    def validation_s(self) -> float:
        """Until the engine got it."""
        return 0.0 if self._submitted is None else self._submitted - self._start

    @property
    def queue_s(self) -> float:
        """From then until its first step."""
        return 0.0 if self._generation is None else self._generation.queue_s or 0.0

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
        return {
            "id": self.request_id,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "validation_ms": round(self.validation_s * 1000, 1),
            "queue_ms": round(self.queue_s * 1000, 1),
            "inference_ms": round(self.inference_s * 1000, 1),
            "total_ms": round(self.total_s * 1000, 1),
        }
