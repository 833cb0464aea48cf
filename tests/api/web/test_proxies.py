"""The proxies' files in docs/proxies.md, with the proxies; they are skipped where there are none."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest

from ..conftest import DEADLINE_S, ApiServer, byte_ids, read_event, run_api_server, wait_until

DOCUMENT = (Path(__file__).parents[3] / "docs" / "proxies.md").read_text()
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/log; worker_processes 1; user root;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:8000; {documented} }}
}}
"""


def documented(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, re.S)
    return str(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def proxy(kind: str, server: ApiServer, folder: Path) -> Iterator[ApiServer]:
    """The server as it is seen through a proxy."""
    # Debian keeps them where a user's PATH does not reach.
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{kind} is not installed")
    text, port = documented(kind), free_port()
    if kind == "nginx":
        text = NGINX.format(folder=folder, documented=text)
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    file = folder / "proxy.conf"
    file.write_text(text)
    command = [program, "-c", str(file), "-e", str(folder / "log")] if kind == "nginx" else [program, "-f", str(file)]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port), f"{kind} listens")
            yield ApiServer(server.process, port, server.peer)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> object:
    folder = tmp_path_factory.mktemp("api")
    with (
        run_api_server(folder, model_dir, root_path="/llm") as server,
        proxy(request.param, server, tmp_path_factory.mktemp("proxy")) as proxied,
    ):
        yield proxied


def test_an_event_passes_before_the_next_token_is_made(proxied: ApiServer) -> None:
    connection = proxied.begin("/llm/generate_stream", {"inputs": "x"})
    submitted = proxied.peer.submitted()
    proxied.peer.send(submitted.request_id, byte_ids("a"))
    response = connection.getresponse()
    for text in "bcd":
        assert read_event(response).startswith(b"data:")
        proxied.peer.send(submitted.request_id, byte_ids(text), "length" if text == "d" else None)
    assert json.loads(read_event(response).removeprefix(b"data:"))["generated_text"] == "abcd"
    assert response.read() == b""


def test_a_client_that_leaves_its_stream_is_noticed(proxied: ApiServer) -> None:
    connection = proxied.begin("/llm/generate_stream", {"inputs": "x"})
    submitted = proxied.peer.submitted()
    proxied.peer.send(submitted.request_id, byte_ids("a"))
    response = connection.getresponse()
    read_event(response)
    response.close()
    connection.close()

    def noticed() -> bool:  # HAProxy does when it cannot send
        proxied.peer.send(submitted.request_id, byte_ids("b"))
        return not proxied.peer.inbox.empty()

    wait_until(noticed, "the sequence is dropped")
    assert proxied.peer.aborted().request_id == submitted.request_id


def test_a_client_that_does_not_wait_for_its_answer_is_noticed(
    proxied: ApiServer, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["proxied"] == "haproxy":
        pytest.skip("HAProxy does not notice every time, as docs/proxies.md says")
    connection = proxied.begin("/llm/generate", {"inputs": "x"})
    submitted = proxied.peer.submitted()
    connection.close()
    assert proxied.peer.aborted().request_id == submitted.request_id


def test_pages_and_what_they_link_to_are_there(proxied: ApiServer) -> None:
    html = {"accept": "text/html"}
    response, _ = proxied.request("GET", "/llm", headers=html)
    assert response.status in (301, 303)
    response, _ = proxied.request("GET", "/llm/docs")
    assert urljoin("/llm/docs", response.getheader("location")) == "/llm/docs/"
    for path in ("/llm/", "/llm/docs/"):
        response, page = proxied.request("GET", path, headers=html)
        assert response.status == 200
        for link in re.findall(r'(?:src|href)="([^":]*)"', page.decode()):
            assert proxied.request("GET", urljoin(path, link), headers=html)[0].status == 200, link
