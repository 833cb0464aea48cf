"""A thousand connections that ask for nothing, trickle, or never read: who behaves is served as before."""

import http.client
import json
import resource
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..chaos.clients import Flood
from .serving import PATIENCE_S, Serving, descendants, serving, status_of, wait_until

CONNECTIONS = 1000
STALLED = 20  # readers that ask for a long answer and take nothing of it
FLAGS = ("--max-batch-prefill-tokens", "32", "--max-batch-size", "8", "--max-total-tokens", "512")


@pytest.fixture
def server() -> Iterator[Serving]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + 512
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{hard} descriptors are the most here")
    # The server starts with what a shell gives, and has to raise it itself.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        with serving(*FLAGS) as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            server.wait_ready()
            yield server
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stalled_reader(url: str) -> socket.socket:
    host, _, port = urlsplit(url).netloc.partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect((host, int(port)))
    body = b'{"inputs":"x","parameters":{"max_new_tokens":60,"ignore_eos":true,"details":true,"top_n_tokens":5}}'
    head = b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    client.sendall(head % len(body) + body)
    return client


def value(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def generate(url: str, number: int) -> str:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    body = json.dumps({"inputs": f"Number {number}:", "parameters": {"max_new_tokens": 8, "ignore_eos": True}})
    connection.request("POST", "/generate", body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return str(answer["generated_text"])


def open_files(server: Serving) -> int:
    (worker,) = (pid for pid, name in descendants(server.process.pid).items() if name == "headwater api 0")
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))


def test_who_behaves_is_served_in_a_flood(server: Serving) -> None:
    undisturbed = [generate(server.url, number) for number in range(4)]
    files = open_files(server)
    readers = [stalled_reader(server.url) for _ in range(STALLED)]
    flood = Flood(server.url, CONNECTIONS)
    try:
        assert flood.size == CONNECTIONS
        wait_until(lambda: open_files(server) > files + CONNECTIONS, "the server has all connections")
        trickling, ended = threading.Event(), threading.Event()

        def trickle() -> None:
            while not ended.is_set():
                flood.trickle()
                trickling.set()

        helper = threading.Thread(target=trickle)
        helper.start()
        trickling.wait(PATIENCE_S)
        try:
            assert [generate(server.url, number) for number in range(4)] == undisturbed
            assert status_of(f"{server.url}/health") == 200
            assert value(server.url, "tgi_request_count") >= 8
        finally:
            ended.set()
            helper.join()
    finally:
        flood.end()
        for reader in readers:
            reader.close()
    wait_until(lambda: value(server.url, "headwater_requests") == 0, "no permit is held")
    wait_until(lambda: value(server.url, "headwater_engine_page_usage") == 0, "no page is held")
    wait_until(lambda: open_files(server) <= files, "no connection is left")
