"""Metrics as text: Prometheus' format, or OpenMetrics for who asks for it.

A sample has the same name in both, so that a dashboard need not know which one Prometheus asked for. TGI's counters
lack the ``_total`` that OpenMetrics wants of a counter: there their type is ``unknown``, which may be called anything.
"""

import re
from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import UnknownMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

_TGI_PREFIX = "tgi_"
_OPENMETRICS = "application/openmetrics-text"
# prometheus_client writes "untyped" for the only type that keeps a name as it is; in this format any type does.
_UNTYPED_TGI = re.compile(rb"^(# TYPE tgi_\w+) untyped$", re.MULTILINE)


def exposition(families: Iterable[Metric], accept: str) -> tuple[bytes, bytes]:
    """Body and content type of the answer to a scrape that has this Accept header, which may be empty."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    asked = _quality(accept, _OPENMETRICS)
    if asked > 0 and asked >= _quality(accept, "text/plain"):
        return generate_openmetrics(registry), CONTENT_TYPE_OPENMETRICS.encode()
    return _UNTYPED_TGI.sub(rb"\1 counter", generate_latest(registry)), CONTENT_TYPE_PLAIN_0_0_4.encode()


class _Families(Collector):
    """What was collected already, as prometheus_client takes it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _as_tgi(family) if family.type == "counter" and family.name.startswith(_TGI_PREFIX) else family


def _as_tgi(counter: Metric) -> Metric:
    named = UnknownMetricFamily(counter.name, counter.documentation)
    named.samples = [sample._replace(name=counter.name) for sample in counter.samples]
    return named


def _quality(accept: str, media_type: str) -> float:
    """The weight of a media type in an Accept header, by its own name; 0: it isn't there, or is refused."""
    weight = 0.0
    for each in accept.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name == media_type:
            stated = next((part for part in parameters if re.fullmatch(r"q=[01](\.\d*)?", part)), "q=1")
            weight = max(weight, float(stated.removeprefix("q=")))
    return weight
