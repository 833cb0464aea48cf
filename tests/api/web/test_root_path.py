"""Behind a proxy that puts a path before every route, whether it takes that away again or not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import ApiServer, byte_ids, run_api_server

HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    with run_api_server(tmp_path_factory.mktemp("api"), model_dir, root_path="/llm") as server:
        yield server


@pytest.mark.parametrize("prefix", ["", "/llm"])
@pytest.mark.parametrize(
    "path", ["/", "/health", "/info", "/docs/", "/page/app.js", "/v1/models/tiny", "/openapi.json"]
)
def test_a_route_is_found_with_the_path_and_without(llm: ApiServer, prefix: str, path: str) -> None:
    assert llm.request("GET", prefix + path, headers=HTML)[0].status == 200


@pytest.mark.parametrize("path", ["/llm/nothing", "/llmhealth", "/other/health", "/llm/llm/health", "/health/llm"])
def test_nothing_else_is(llm: ApiServer, path: str) -> None:
    assert llm.request("GET", path)[0].status == 404


def test_the_path_alone_is_the_root_and_leads_browsers_to_where_links_work(llm: ApiServer) -> None:
    response, _ = llm.request("GET", "/llm", headers=HTML)
    assert (response.status, response.getheader("location")) == (303, "llm/")
    assert llm.request("GET", "/llm")[0].status == 200
    connection = llm.begin("/llm", {"inputs": "x"})
    llm.peer.send(llm.peer.submitted().request_id, byte_ids("a"), "length")
    assert json.load(connection.getresponse())[0]["generated_text"] == "a"


def test_errors_are_those_of_the_route(llm: ApiServer) -> None:
    _, data = llm.request("POST", "/llm/v1/chat/completions", {})
    assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}


def test_the_description_says_where_the_routes_are(llm: ApiServer, server: ApiServer) -> None:
    assert json.loads(llm.request("GET", "/openapi.json")[1])["servers"] == [{"url": "/llm"}]
    assert "servers" not in json.loads(server.request("GET", "/openapi.json")[1])


def test_a_path_that_begins_like_a_route_hides_none(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, root_path="/v1") as server:
        for path in ("/v1/models", "/v1/v1/models", "/v1/info", "/info"):
            assert server.request("GET", path)[0].status == 200
