"""What all routes of one worker share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..config import ApiConfig
from ..engine_client.replicas import Engine, connect
from ..http.connection import Connection
from ..http.errors import ApiError, ReaderStalled
from ..telemetry.log import log_request
from ..telemetry.metrics import Metrics
from ..telemetry.request_stats import RequestStats
from ..text.chat_template_files import load_chat_templates
from ..text.tokenizer import Tokenizer
from .limits import Limits
from .permits import Permits

if TYPE_CHECKING:
    from ..telemetry.tracing import Tracer


_LOGGED_PATH_CHARACTERS = 200


class Service:
    """State of an API worker."""

    def __init__(self, config: ApiConfig, permits: Permits) -> None:
        self.config = config
        self.permits = permits
        self.tokenizer = Tokenizer(config.model_dir, config.validation_workers)
        self.chat_templates = load_chat_templates(config.model_dir)
        self.engine: Engine = connect(config)
        self._tracer: Tracer | None = None
        self.metrics: Metrics | None = None  # its buckets depend on the engine's limits

    async def start(self) -> None:
        """Connect to the engine. Raises EngineError if it isn't there in time."""
        self.engine.start()
        await self.engine.wait_ready()
        if self.config.otlp_endpoint is not None:
            self._tracer = self._new_tracer(self.config.otlp_endpoint)
        limits = self.limits()
        first_worker = self.permits.index == 0
        self.metrics = Metrics(limits.max_input_tokens, limits.max_total_tokens, observes_engine=first_worker)
        self.engine.on_step = self.metrics.step

    async def stop(self) -> None:
        """Leave the engine."""
        if self._tracer is not None:
            await self._tracer.close()
        await self.engine.stop()

    def _new_tracer(self, endpoint: str) -> "Tracer":
        from ..telemetry.tracing import Tracer  # what it needs is optional

        return Tracer(endpoint, self.config.otlp_service_name, self.config.version, self.config.model_id)

    def limits(self) -> Limits:
        """What a request may ask for: the engine's limits, and the stricter ones of the configuration."""
        hello, config = self.engine.hello, self.config
        assert hello is not None, "a worker serves only after its engine said hello"
        max_total_tokens = min(hello.max_total_tokens, config.max_total_tokens or hello.max_total_tokens)
        max_input_tokens = min(max_total_tokens - 1, config.max_input_tokens or max_total_tokens)
        return Limits(
            max_best_of=config.max_best_of,
            max_stop_sequences=config.max_stop_sequences,
            max_top_n_tokens=config.max_top_n_tokens,
            max_input_tokens=max_input_tokens,
            max_total_tokens=max_total_tokens,
            max_logit_bias=hello.max_logit_bias,
            vocab_size=hello.vocab_size,
            grammar_support=not config.disable_grammar_support,
            adapters=tuple(adapter.name for adapter in self.engine.adapters.listed.adapters),
        )

    @property
    def compute_type(self) -> bytes:
        """Value of x-compute-type: number and kind of devices, as TGI names them (``1-nvidia-h100``, ``1-cpu``)."""
        assert self.engine.hello is not None
        device = self.engine.hello.device.removeprefix("cuda:").strip()
        return f"{self.config.replicas}-{device.lower().replace(' ', '-')}".encode("ascii", "replace")

    @contextmanager
    def record(self, connection: Connection) -> Iterator[RequestStats]:
        """Count, time and log one request that generates, however it ends."""
        assert self.metrics is not None
        stats = RequestStats(connection.request_id, connection.route)
        self.metrics.begin()
        try:
            yield stats
        except ApiError as error:
            stats.outcome = error.error_type
            stats.failed = True
            stats.status = 200 if connection.started else error.status
            self.metrics.failure(error.failure)
            raise
        except (asyncio.CancelledError, ReaderStalled):
            stats.outcome = "dropped"
            self.metrics.failure("dropped")
            raise
        except Exception:  # a fault of ours, which the application answers
            stats.outcome = ApiError.error_type
            stats.failed = True
            stats.status = 200 if connection.started else ApiError.status
            self.metrics.failure(ApiError.failure)
            raise
        else:
            stats.status = 200
            self.metrics.success(stats)
        finally:
            log_request(stats.log_fields())
            connection.logged = True
            if self._tracer is not None:
                self._tracer.trace(stats, connection.headers)

    def log_refusal(self, connection: Connection, status: int, error_type: str) -> None:
        """Log one request that is answered with an error, unless ``record`` has."""
        if connection.logged:
            return
        # Where there is no route, its path: quoted, so that it is one word of one line.
        route = connection.route or quote(connection.path)[:_LOGGED_PATH_CHARACTERS]
        stats = RequestStats(connection.request_id, route, connection.arrival)
        stats.outcome, stats.status = error_type, status
        log_request(stats.log_fields())
        connection.logged = True
