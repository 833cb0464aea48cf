"""GET /: a page for browsers, health for the others."""

import re
from pathlib import Path

import pytest

from headwater.api.routes import ROUTES

from ..conftest import ApiServer, run_api_server

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ASSETS = [route.path for route in ROUTES if route.path.startswith("/page/")]
SVG = "http://www.w3.org/2000/svg"  # the name of a language, nothing that is fetched


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_who_does_not_ask_for_html_gets_health(server: ApiServer, accept: str | None) -> None:
    response, data = server.request("GET", "/", headers={} if accept is None else {"accept": accept})
    assert (response.status, data, response.getheader("content-type")) == (200, b"", None)


def test_a_browser_gets_a_page_that_is_all_there(server: ApiServer) -> None:
    response, data = server.request("GET", "/", headers=BROWSER)
    assert (response.status, response.getheader("content-type")) == (200, "text/html; charset=utf-8")
    assert "accept" in (response.headers.get_all("vary") or [])
    assert "default-src 'none'" in (response.getheader("content-security-policy") or "")
    page = data.decode().replace(SVG, "")
    needed = set(re.findall(r'(?:src|href)="(/page/[^"]*)"', page))
    for asset in list(needed):
        text = server.request("GET", asset)[1].decode()
        needed |= {f"/page/{name}" for name in re.findall(r' from "\./([^"]*)"', text)}
    assert needed == set(ASSETS)
    for asset in needed:
        response, data = server.request("GET", asset)
        assert response.status == 200
        assert not re.search(r"https?://", data.decode())
    assert not re.search(r"https?://", page)


def test_the_page_needs_no_key(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, api_key="k") as locked:
        for path in ("/", "/docs/", *ASSETS):
            assert locked.request("GET", path, headers=BROWSER)[0].status == 200
        assert locked.request("GET", "/info", headers=BROWSER)[0].status == 401
