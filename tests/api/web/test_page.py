"""GET /: a page for browsers, health for the others."""

import gzip
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from headwater.api.routes import ROUTES
from headwater.api.web.static_files import ASSETS as FILES

from ..conftest import ApiServer, run_api_server

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ASSETS = [route.path for route in ROUTES if route.path.startswith("/page/")]
SVG = "http://www.w3.org/2000/svg"  # the name of a language, nothing that is fetched


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_who_does_not_ask_for_html_gets_health(server: ApiServer, accept: str | None) -> None:
    response, data = server.request("GET", "/", headers={} if accept is None else {"accept": accept})
    assert (response.status, data, response.getheader("content-type")) == (200, b"", None)


@pytest.mark.parametrize("path", ["/", "/docs/"])
def test_a_browser_gets_a_page_that_names_nothing_outside(server: ApiServer, path: str) -> None:
    response, data = server.request("GET", path, headers=BROWSER)
    assert (response.status, response.getheader("content-type")) == (200, "text/html; charset=utf-8")
    policy = response.getheader("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", data.decode().replace(SVG, ""))


def test_the_page_at_the_root_is_for_those_who_accept_it(server: ApiServer) -> None:
    response, _ = server.request("GET", "/", headers=BROWSER)
    assert "accept" in (response.headers.get_all("vary") or [])


def test_all_links_are_relative_and_all_that_is_needed_is_there(server: ApiServer) -> None:
    """So that pages work under whatever path a proxy puts them."""
    needed = set()
    for path in ("/", "/docs/"):
        page = server.request("GET", path, headers=BROWSER)[1].decode()
        links = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert not [link for link in links if link.startswith("/")]
        needed |= {urljoin(path, link) for link in links if "page/" in link}
    for asset in list(needed):
        text = server.request("GET", asset)[1].decode()
        needed |= {f"/page/{name}" for name in re.findall(r' from "\./([^"]*)"', text)}
    assert needed == set(ASSETS)


@pytest.mark.parametrize("name", FILES)
def test_files_have_their_type_and_are_compressed_for_those_who_take_it(server: ApiServer, name: str) -> None:
    plain, data = server.request("GET", f"/page/{name}")
    assert plain.getheader("content-type") == f"text/{'css' if name.endswith('.css') else 'javascript'}; charset=utf-8"
    assert plain.getheader("content-encoding") is None
    compressed, packed = server.request("GET", f"/page/{name}", headers={"accept-encoding": "br, gzip;q=0.5"})
    assert compressed.getheader("content-encoding") == "gzip"
    assert gzip.decompress(packed) == data
    assert len(packed) < len(data)
    assert "accept-encoding" in (compressed.headers.get_all("vary") or [])
    refused, _ = server.request("GET", f"/page/{name}", headers={"accept-encoding": "gzip;q=0, br"})
    assert refused.getheader("content-encoding") is None


@pytest.mark.parametrize("path", ["/", "/docs/", *ASSETS])
def test_what_a_browser_has_is_not_sent_again(server: ApiServer, path: str) -> None:
    response, _ = server.request("GET", path, headers=BROWSER)
    etag = response.getheader("etag") or ""
    assert etag
    again, data = server.request("GET", path, headers=BROWSER | {"if-none-match": f'"other", {etag}'})
    assert (again.status, data, again.getheader("etag")) == (304, b"", etag)
    assert again.getheader("content-security-policy") == response.getheader("content-security-policy")
    assert server.request("GET", path, headers=BROWSER | {"if-none-match": 'W/"other"'})[0].status == 200


def test_the_page_needs_no_key(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, api_key="k") as locked:
        for path in ("/", "/docs/", *ASSETS):
            assert locked.request("GET", path, headers=BROWSER)[0].status == 200
        assert locked.request("GET", "/info", headers=BROWSER)[0].status == 401
