"""Names, types and formats of all metrics, as Prometheus reads them."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from ..conftest import ApiServer

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
# What promtool says of TGI's names, which dashboards count on.
NO_TOTAL, RESERVED = "counters should end in _total", "only histograms and summaries may end in _bucket, _sum or _count"
TGIS = {
    ("tgi_batch_inference_count", NO_TOTAL),
    ("tgi_batch_inference_count", RESERVED),
    ("tgi_batch_inference_success", NO_TOTAL),
    ("tgi_request_count", NO_TOTAL),
    ("tgi_request_count", RESERVED),
    ("tgi_request_failure", NO_TOTAL),
    ("tgi_request_success", NO_TOTAL),
}
BASE_UNITS = {"amperes", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "metres", "seconds", "volts"}
OTHER_UNITS = {"minutes", "hours", "days", "weeks", "kelvins", "fahrenheit", "inches", "yards", "miles", "bits"}
PREFIX = re.compile("(pico|nano|micro|milli|centi|deci|deca|hecto|kilo|kibi|mega|mibi|giga|gibi|tera|tebi|peta|pebi)")
ABBREVIATED = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
TYPES = {"counter", "gauge", "histogram", "summary", "gauge_histogram"}


def scrape(server: ApiServer, accept: str | None = None) -> tuple[str | None, str]:
    response, data = server.request("GET", "/metrics", None, {} if accept is None else {"accept": accept})
    assert response.status == 200
    return response.getheader("content-type"), data.decode()


def families(text: str) -> list[tuple[str, str, str]]:
    """Name, type and help of each, in the text format's order."""
    return re.findall(r"^# HELP (\S+) ?(.*)\n# TYPE \1 (\S+)$", text, re.MULTILINE)


def faults(name: str, help_text: str, kind: str) -> Iterator[str]:
    """What ``promtool check metrics`` would say of a family."""
    words = name.split("_")
    if not help_text:
        yield "no help text"
    if kind == "counter" and not name.endswith("_total"):
        yield NO_TOTAL
    if kind != "counter" and name.endswith("_total"):
        yield "only counters should end in _total"
    if kind not in ("histogram", "summary") and name.endswith(("_bucket", "_sum", "_count")):
        yield RESERVED
    if any(word in OTHER_UNITS or PREFIX.sub("", word, count=1) in OTHER_UNITS | BASE_UNITS - {word} for word in words):
        yield "not in base units"
    if ABBREVIATED & set(words[1:]):
        yield "an abbreviated unit"
    if any(f"_{each}_" in f"{name}_" for each in TYPES):
        yield "its type is in its name"
    if not re.fullmatch("[a-z0-9_]+", name):
        yield "other characters than snake case has"


def test_names_are_as_promtool_wants_them_but_for_tgis(server: ApiServer) -> None:
    _, text = scrape(server)
    found = families(text)
    assert len(found) == text.count("# TYPE") == len({name for name, _, _ in found}) > 30
    assert {(name, fault) for name, help_text, kind in found for fault in faults(name, help_text, kind)} == TGIS
    labels = set(re.findall(r"[{,](\w+)=", text))
    assert labels == {"err", "le", "method", "outcome", "place", "replica"}


@pytest.mark.parametrize(
    ("family", "fault"),
    [
        (("x_steps", "h", "counter"), NO_TOTAL),
        (("x_total", "h", "gauge"), "only counters should end in _total"),
        (("x_count", "h", "gauge"), RESERVED),
        (("x_wait_milliseconds", "h", "gauge"), "not in base units"),
        (("x_wait_hours", "h", "gauge"), "not in base units"),
        (("x_wait_ms", "h", "gauge"), "an abbreviated unit"),
        (("x_gauge", "h", "gauge"), "its type is in its name"),
        (("x_wait", "", "gauge"), "no help text"),
        (("x_waitTime", "h", "gauge"), "other characters than snake case has"),
    ],
)
def test_each_rule_finds_its_fault(family: tuple[str, str, str], fault: str) -> None:
    assert list(faults(*family)) == [fault]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_promtool_finds_nothing_else(server: ApiServer) -> None:
    _, text = scrape(server)
    told = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert {line.split()[0] for line in (told.stdout + told.stderr).splitlines()} == {name for name, _ in TGIS}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=1.0.0", TEXT),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("text/plain, application/openmetrics-text;q=0.5", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("Application/OpenMetrics-Text;version=nonsense;q=x", OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(server: ApiServer, accept: str | None, content_type: str) -> None:
    told, text = scrape(server, accept)
    assert told == content_type
    assert text.endswith("# EOF\n") == (content_type == OPENMETRICS)


def samples(text: str) -> list[str]:
    """Names and labels, in their order."""
    return [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]


def test_both_formats_name_the_same_samples(server: ApiServer) -> None:
    text, openmetrics = scrape(server)[1], scrape(server, OPENMETRICS)[1]
    assert samples(text) == samples(openmetrics)
    assert len(list(parse_openmetrics(openmetrics))) == len(families(text))  # which refuses what the standard does
    kinds = {name: kind for name, _, kind in families(openmetrics)}
    assert kinds["tgi_request_count"] == kinds["tgi_request_failure"] == "unknown"
    assert kinds["headwater_engine_steps"] == "counter"
    assert "\nheadwater_engine_steps_total 7.0\n" in openmetrics
    assert "\ntgi_request_count " in openmetrics
