"""Dashboard and alerts in docs/ name only metrics that the server has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import ApiServer

FOLDER = Path(__file__).parents[3] / "docs" / "grafana"
NAME = re.compile(r"\b(?:tgi|headwater)_[a-z_]+\b")
SUFFIXES = {
    "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count"), "counter": ("",), "gauge": ("",)
}  # fmt: skip
# What other panels say better.
LEFT_OUT = {
    "headwater_engine_cached_pages",
    "headwater_engine_free_pages",
    "headwater_engine_kv_events_dropped_total",  # off unless asked for
    "headwater_engine_pages",
    "headwater_engine_step_seconds",
    "headwater_engine_steps_total",
    "tgi_batch_current_max_tokens",
    "tgi_batch_inference_count",
    "tgi_batch_inference_success",
    "tgi_batch_max_total_tokens",
    "tgi_request_skipped_tokens",
}


def strings(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            yield from strings(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, key)


@pytest.fixture(scope="module")
def families(server: ApiServer) -> dict[str, str]:
    """Names and kinds of all metrics, those without a value yet too."""
    _, text = server.request("GET", "/metrics")
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE))


@pytest.fixture(scope="module")
def samples(families: dict[str, str]) -> set[str]:
    return {name + suffix for name, kind in families.items() for suffix in SUFFIXES[kind]}


def test_the_dashboards_metrics_exist_and_none_is_forgotten(families: dict[str, str], samples: set[str]) -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    expressions = [*strings(dashboard, "expr"), *strings(dashboard, "definition")]
    for expression in expressions:
        assert set(NAME.findall(expression)) <= samples, expression
        assert expression.count("(") == expression.count(")")
    shown = {name.removesuffix("_bucket") for text in expressions for name in NAME.findall(text)}
    assert set(families) - shown == LEFT_OUT


def test_the_alerts_metrics_exist(samples: set[str]) -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        names = set(NAME.findall(rule["expr"]))
        assert names <= samples, rule["alert"]
        assert names or "up{" in rule["expr"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
