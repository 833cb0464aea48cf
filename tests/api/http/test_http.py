"""The HTTP side of the real server process: methods, bodies that are none, headers, limits."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.api.routes import ROUTES

from ..conftest import ApiServer, run_api_server

JSON = {"content-type": "application/json"}
TEXT = "text/plain; charset=utf-8"
PARSE = "Failed to parse the request body as JSON: "
SHAPE = "Failed to deserialize the JSON body into the target type: "


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({}, b"{}", 415, "Expected request with `Content-Type: application/json`"),
        (
            {"content-type": "application/x-www-form-urlencoded"},
            b"{}",
            415,
            "Expected request with `Content-Type: application/json`",
        ),
        (JSON, b"", 400, PARSE + "EOF while parsing at line 1 column 0"),
        (JSON, b'{"inputs": ', 400, PARSE + "EOF while parsing at line 1 column 11"),
        (
            JSON,
            b'{"inputs":"\\ud83d"}',
            400,
            PARSE + "lone leading surrogate in hex escape, or EOF while parsing at line 1 column 19",
        ),
        (JSON, b"{}", 422, SHAPE + "Object missing required field `inputs`"),
        (JSON, b'{"inputs":"a","parameters":{"seed":-1}}', 422, SHAPE + "parameters.seed: Expected `int` >= 0"),
        (JSON, b'{"inputs":"%s"}' % (b"a" * 100_000), 413, "Failed to buffer the request body: length limit exceeded"),
    ],
)
def test_bodies_that_cannot_be_read(
    server: ApiServer, path: str, headers: dict[str, str], body: bytes, status: int, text: str
) -> None:
    response, data = server.request("POST", path, body, headers)
    assert (response.status, response.getheader("content-type")) == (status, TEXT)
    assert data.decode() == text


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"])
def test_content_types_that_are_json(server: ApiServer, content_type: str) -> None:
    response, _ = server.request("POST", "/generate", b"{}", {"content-type": content_type})
    assert response.status == 422


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.request is not None])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_compressed_body_is_refused_by_the_name_of_its_coding(server: ApiServer, path: str, coding: str) -> None:
    response, data = server.request("POST", path, gzip.compress(b"{}"), JSON | {"content-encoding": coding})
    assert (response.status, response.getheader("accept-encoding")) == (415, "identity")
    assert f"`Content-Encoding: {coding}` cannot be read" in data.decode()
    assert (response.getheader("content-type") == "application/json") == path.startswith("/v1/")


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
def test_a_coding_that_changes_nothing_is_none(server: ApiServer, coding: str) -> None:
    response, data = server.request("POST", "/generate", b"{}", JSON | {"content-encoding": coding})
    assert (response.status, data.decode()) == (422, SHAPE + "Object missing required field `inputs`")


def test_a_body_without_a_length_has_the_same_limit(server: ApiServer) -> None:
    connection = server.connect()
    chunks = (b"a" * 1000 for _ in range(101))
    connection.request("POST", "/generate", chunks, JSON, encode_chunked=True)
    assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "allow"),
    [
        ("GET", "/nothing", 404, "not_found", None),
        ("POST", "/generate/", 404, "not_found", None),
        ("POST", "/v1/nothing", 404, "not_found", None),
        ("GET", "/generate", 405, "method_not_allowed", "POST"),
        ("DELETE", "/", 405, "method_not_allowed", "GET,HEAD,POST"),
        ("POST", "/health", 405, "method_not_allowed", "GET,HEAD"),
        ("GET", "/v1/completions", 405, "method_not_allowed", "POST"),
    ],
)
def test_routes_that_are_none(
    server: ApiServer, method: str, path: str, status: int, kind: str, allow: str | None
) -> None:
    response, data = server.request(method, path)
    assert (response.status, response.getheader("allow")) == (status, allow)
    assert response.getheader("access-control-allow-origin") == "*"
    text = f"Method not allowed: {method} {path}; allowed: {allow}" if allow else f"Not found: {method} {path}"
    if path.startswith("/v1/"):
        error = {"message": text, "type": "invalid_request_error", "param": None, "code": kind}
        assert json.loads(data) == {"error": error}
    else:
        assert json.loads(data) == {"error": text, "error_type": kind}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/v1/score", "/embed"])
def test_routes_of_other_tasks_say_what_this_server_is(server: ApiServer, path: str) -> None:
    response, data = server.request("POST", path, {"input": "x"})
    assert response.status == 404
    assert f"Not found: POST {path}. This server generates text" in data.decode()


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_health(server: ApiServer, path: str) -> None:
    response, data = server.request("GET", path)
    assert (response.status, data) == (200, b"")


def test_head_is_get_without_its_body(server: ApiServer) -> None:
    get, data = server.request("GET", "/info")
    head, nothing = server.request("HEAD", "/info")
    assert (head.status, nothing) == (200, b"")
    assert head.getheader("content-length") == get.getheader("content-length") == str(len(data))


def test_info(server: ApiServer) -> None:
    response, data = server.request("GET", "/info")
    assert response.getheader("content-type") == "application/json"
    info: dict[str, Any] = json.loads(data)
    assert list(info) == [
        "model_id",
        "model_sha",
        "model_pipeline_tag",
        "max_concurrent_requests",
        "max_best_of",
        "max_stop_sequences",
        "max_input_tokens",
        "max_total_tokens",
        "validation_workers",
        "max_client_batch_size",
        "router",
        "version",
        "sha",
        "docker_label",
        "headwater_version",
    ]
    assert (info["router"], info["version"], info["headwater_version"]) == ("text-generation-router", "3.3.7", "0")
    assert (info["model_id"], info["max_concurrent_requests"]) == ("tiny", 4)
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (63, 64)  # the engine's, as nothing else was asked


def test_preflight_on_any_path(server: ApiServer) -> None:
    for path in ("/generate_stream", "/nothing"):
        asked = {
            "origin": "http://a.example",
            "access-control-request-headers": "authorization,content-type,user-agent",
        }
        response, data = server.request("OPTIONS", path, None, asked)
        assert (response.status, data) == (200, b"")
        assert response.getheader("access-control-allow-origin") == "*"
        assert response.getheader("access-control-allow-methods") == "GET,POST,DELETE"
        assert response.getheader("access-control-allow-headers") == asked["access-control-request-headers"]
        assert response.getheader("vary") == "origin, access-control-request-method, access-control-request-headers"


def test_a_request_id_comes_back(server: ApiServer) -> None:
    response, _ = server.request("GET", "/health", None, {"x-request-id": "mine"})
    assert response.getheader("x-request-id") == "mine"
    response, _ = server.request("GET", "//health", None, {"x-amzn-trace-id": "the hub's"})
    assert (response.status, response.getheader("x-request-id")) == (200, "the hub's")
    first, _ = server.request("GET", "/health")
    second, _ = server.request("GET", "/health")
    assert len({first.getheader("x-request-id"), second.getheader("x-request-id")}) == 2


NASTY: list[tuple[bytes, int]] = [
    (b'{"inputs":"a","parameters":{"temperature":NaN}}', 400),
    (b'{"inputs":"a","parameters":{"temperature":Infinity}}', 400),
    (b'{"inputs":"a","parameters":{"temperature":1e400}}', 422),
    (b'{"inputs":"a","parameters":{"temperature":1e308}}', 422),
    (b'{"inputs":"a","parameters":{"top_k":99999999999999999999999}}', 422),
    (b'{"inputs":"a","parameters":{"seed":%s}}' % (b"9" * 5000), 422),
    (b'{"inputs":"a","parameters":{"max_new_tokens":5.5}}', 422),
    (b'{"inputs":"a","parameters":{"do_sample":1}}', 422),
    (b'{"inputs":"a","parameters":[]}', 422),
    (b'{"inputs":["a"]}', 422),
    (b'"a"', 422),
    (b"null", 422),
    (b'{"inputs":"\xff"}', 400),
    (b'{"inputs":"\xed\xa0\xbd"}', 400),  # a surrogate in UTF-8
    (b'{"inputs":"\\ud83d"}', 400),
    (b'{"inputs":"\\udc00"}', 400),
    (b'{"inputs":"a"} trailing', 400),
    (b"\xef\xbb\xbf" + b'{"inputs":"a"}', 400),
    (b'{"inputs":"a","x":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400),
    (b'{"inputs":"a","parameters":{"grammar":{"type":"json","value":' + b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 400),
    (b'{"inputs":"a","parameters":{"logit_bias":{"x":1}}}', 422),
    (b'{"inputs":"a","parameters":{"logit_bias":{"99999999999999999999999":1}}}', 422),
    (b'{"inputs":"a","parameters":{"stop":["a",null]}}', 422),
    (b'{"inputs":"a","parameters":{"grammar":{"type":"json","value":{"a":%s}}}}' % (b"9" * 400), 422),
]


@pytest.mark.parametrize(("body", "status"), NASTY)
def test_nasty_bodies_are_the_clients_fault(server: ApiServer, body: bytes, status: int) -> None:
    parameters_only = b'"top_k":0,'  # so that no body that can be read is generated for
    body = body.replace(b'"parameters":{', b'"parameters":{' + parameters_only)
    response, data = server.request("POST", "/generate", body, JSON)
    assert (response.status, b"Traceback" in data) == (status, False)
    assert server.request("GET", "/health")[0].status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/health", {"x-long": "a" * 500_000}, 431), ("/" + "a" * 70_000, {}, 414)],
    ids=["headers", "url"],
)
def test_heads_that_are_too_long(server: ApiServer, path: str, headers: dict[str, str], status: int) -> None:
    response, _ = server.request("GET", path, None, headers)
    assert response.status == status


# An API key


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    with run_api_server(tmp_path_factory.mktemp("locked"), model_dir, api_key="Sésame") as server:
        yield server


@pytest.mark.parametrize("header", [None, "", "Sésame", "Bearer", "Bearer sésame", "Bearer Sésame ", "Basic Sésame"])
def test_without_the_key_nothing_is_served_but_health(locked_server: ApiServer, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode().decode("latin-1")}
    for method, path in (("POST", "/generate"), ("GET", "/generate"), ("GET", "/info"), ("GET", "/metrics")):
        response, data = locked_server.request(method, path, b"", headers)
        if header == "Bearer Sésame ":  # HTTP takes no space at the end of a value for part of it
            assert response.status != 401
            continue
        assert (response.status, data, response.getheader("www-authenticate")) == (401, b"", "Bearer")
        assert response.getheader("access-control-allow-origin") == "*"
    for path in ("/", "/health", "/ping"):
        assert locked_server.request("GET", path, None, headers)[0].status == 200
    assert locked_server.request("GET", "/nothing", None, headers)[0].status == 404
    assert locked_server.request("OPTIONS", "/generate", None, headers)[0].status == 200


def test_with_the_key_all_is_served(locked_server: ApiServer) -> None:
    headers = {"authorization": "bearer Sésame".encode().decode("latin-1")}
    assert locked_server.request("GET", "/info", None, headers)[0].status == 200
    assert locked_server.request("POST", "/generate", b"{}", headers | JSON)[0].status == 422


# Flags


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    limits = {"max_best_of": 3, "max_stop_sequences": 1, "max_top_n_tokens": 2, "max_input_tokens": 5}
    more = {"max_total_tokens": 9, "max_client_batch_size": 2, "validation_workers": 3}
    origins = ("http://a.example", "http://b.example")
    directory = tmp_path_factory.mktemp("strict")
    with run_api_server(directory, model_dir, cors_allow_origin=origins, **limits, **more) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": "x", "parameters": {"best_of": 4, "do_sample": True}}, "`best_of` must be > 0 and <= 3"),
        ({"inputs": "x", "parameters": {"stop": ["a", "b"]}}, "`stop` supports up to 1 stop sequences"),
        ({"inputs": "x", "parameters": {"top_n_tokens": 3}}, "`top_n_tokens` must be >= 0 and <= 2"),
        ({"inputs": "12345", "parameters": {"max_new_tokens": 1}}, "`inputs` must have less than 5 tokens. Given: 6"),
        ({"inputs": "1", "parameters": {"max_new_tokens": 8}}, "`inputs` tokens + `max_new_tokens` must be <= 9"),
    ],
)
def test_flags_of_limits_are_held(strict_server: ApiServer, body: dict[str, Any], words: str) -> None:
    response, data = strict_server.request("POST", "/generate", body)
    assert response.status == 422
    assert words in json.loads(data)["error"]


def test_info_has_the_limits_of_the_flags(strict_server: ApiServer) -> None:
    info = json.loads(strict_server.request("GET", "/info")[1])
    assert (info["max_best_of"], info["max_stop_sequences"], info["max_client_batch_size"]) == (3, 1, 2)
    assert (info["max_input_tokens"], info["max_total_tokens"], info["validation_workers"]) == (5, 9, 3)


@pytest.mark.parametrize(
    ("origin", "allowed"), [("http://b.example", "http://b.example"), ("http://c.example", None), (None, None)]
)
def test_only_origins_that_were_named_are_allowed(
    strict_server: ApiServer, origin: str | None, allowed: str | None
) -> None:
    headers = {} if origin is None else {"origin": origin}
    for method in ("GET", "OPTIONS"):
        response, _ = strict_server.request(method, "/health", None, headers)
        assert response.getheader("access-control-allow-origin") == allowed
