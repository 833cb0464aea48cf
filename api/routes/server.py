"""Health, metrics, streams, and what browsers get."""

from typing import Any

from ..engine_client.health import Liveness
from ..http.routing import Parameter, Route
from ..resume.reconnect import resume
from ..tgi.info import health, info, live, metrics
from ..tgi.schema import Info
from ..web.docs import docs, openapi, to_docs
from ..web.page import asset, root
from ..web.static_files import ASSETS

_TAG = "Server"
SERVER_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/info",
        handler=info,
        response=Info,
        tag=_TAG,
        summary="What is served, and its limits",
    ),
    *(
        Route(
            method="GET",
            path=path,
            handler=handler,
            protected=False,
            errors=(503,),
            tag=_TAG,
            summary="Whether requests can be served",
        )
        for path, handler in (("/", root), ("/health", health), ("/ping", health))
    ),
    Route(
        method="GET",
        path="/health/live",
        handler=live,
        protected=False,
        response=Liveness,
        tag=_TAG,
        summary="Whether the server lives, and how its engine is",
        description="200 while the engine is away, too: it is started again.",
    ),
    Route(
        method="GET",
        path="/streams/{id}",
        handler=resume,
        event=dict[str, Any],
        errors=(404, 422, 429),
        parameters=(
            Parameter(name="id", place="path", description="`X-Stream-Id` of the answer that the stream began with."),
            Parameter(
                name="Last-Event-ID",
                place="header",
                pattern=r"^[0-9]{1,18}$",
                description="Number in the last `id:` line that came.",
            ),
        ),
        tag=_TAG,
        summary="Go on with a stream whose connection was lost",
        description="What follows the event in `Last-Event-ID`, all that is kept without it; "
        "an id is forgotten when nobody has read for some time. Who reads before is cut off. "
        "429: the process that had the stream died, and there is no room to go on now; come back.",
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        media_types=("text/plain", "application/openmetrics-text"),
        tag=_TAG,
        summary="Prometheus metrics",
        description="In OpenMetrics where `Accept` asks for that.",
    ),
)

# A page is where a key is typed in, and has no secrets: open to all, like whether the server lives.
WEB_ROUTES: tuple[Route, ...] = (
    *(Route(method="GET", path=f"/page/{name}", handler=asset, protected=False) for name in ASSETS),
    Route(method="GET", path="/docs", handler=to_docs, protected=False),
    Route(method="GET", path="/docs/", handler=docs, protected=False),
    Route(method="GET", path="/openapi.json", handler=openapi),
    Route(method="GET", path="/api-doc/openapi.json", handler=openapi),
)
