"""GET routes: health, what the server is, metrics."""

import asyncio

import msgspec

from ..engine_client.health import Liveness
from ..generation.service import Service
from ..http.connection import Connection
from ..http.errors import UnhealthyError
from ..telemetry.exposition import exposition
from .schema import Info

# Whose routes and fields these are, and what clients compare: below 2.0.1 llama-index calls no functions.
TGI_VERSION = "3.3.7"


async def health(service: Service, connection: Connection) -> None:
    """GET /, /health and /ping: readiness. 200 without a body, or 503; does not depend on how busy the server is."""
    reason = service.engine.unhealthy_reason()
    if reason is not None:
        connection.logged = True  # probes come all the time, and the log has the reason once
        raise UnhealthyError(reason)
    await connection.respond(200)


async def live(service: Service, connection: Connection) -> None:
    """GET /health/live: 200 as long as this process answers, and how the engine is, readiness included.

    An engine that is away or hangs is no reason to restart everything: the supervisor does that for the engine.
    """
    reason = service.engine.unhealthy_reason()
    answer = Liveness(ready=reason is None, reason=reason, engine=service.engine.facts())
    await connection.respond(200, msgspec.json.encode(answer), b"application/json")


async def info(service: Service, connection: Connection) -> None:
    """GET /info."""
    config, limits = service.config, service.limits()
    answer = Info(
        model_id=config.model_id,
        model_sha=config.model_sha,
        model_pipeline_tag=None,
        max_concurrent_requests=config.max_concurrent_requests,
        max_best_of=limits.max_best_of,
        max_stop_sequences=limits.max_stop_sequences,
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        validation_workers=config.validation_workers,
        max_client_batch_size=config.max_client_batch_size or config.max_concurrent_requests,
        router="text-generation-router",
        version=TGI_VERSION,
        sha=None,
        docker_label=None,
        headwater_version=config.version,
    )
    await connection.respond(200, msgspec.json.encode(answer), b"application/json")


async def metrics(service: Service, connection: Connection) -> None:
    """GET /metrics: of all workers, and of the engine."""
    assert service.metrics is not None
    metrics, engine, used = service.metrics, service.engine, service.permits.used
    hello, stats, up = engine.hello, engine.stats, engine.up
    accept = connection.headers.get(b"accept", b"").decode("latin-1")
    # 10 ms of work: in a thread, so that streams go on meanwhile.
    answer = await asyncio.to_thread(lambda: exposition(metrics.collect(hello, stats, used, up), accept))
    await connection.respond(200, *answer, [(b"vary", b"accept")])
