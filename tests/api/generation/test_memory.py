"""The HTTP server's memory over many requests. With HEADWATER_SOAK_REQUESTS=20000: the soak of docs/reliability.md."""

import http.client
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater.engine.messages import Submit

from ..conftest import DEADLINE_S, ApiServer, byte_ids, run_api_server, wait_until

SETTLED = 1000  # requests after which nothing grows any more
REQUESTS = int(os.environ.get("HEADWATER_SOAK_REQUESTS", "4000"))
CLIENTS = 4
WORDS = 200  # different ones: the tokenizer remembers the last 10 000, which are 3 MB that say nothing here


@contextmanager
def answering(server: ApiServer) -> Iterator[None]:
    """An engine that gives every sequence three tokens."""
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            try:
                connection, message = server.peer.inbox.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(message, Submit):
                server.peer.senders[message.request_id] = connection
                server.peer.send(message.request_id, byte_ids("ab"))
                server.peer.send(message.request_id, byte_ids("c"), "length")
                del server.peer.senders[message.request_id]

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def worker_of(server: ApiServer) -> int:
    parent = server.process.pid
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return next(pid for pid in children if b"headwater api 0" in Path(f"/proc/{pid}/cmdline").read_bytes())


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def send(server: ApiServer, count: int) -> None:
    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
        for index in range(count // CLIENTS):
            path = ("/generate", "/generate_stream", "/v1/completions")[(index + number) % 3]
            name = b"prompt" if path.startswith("/v1") else b"inputs"
            connection.request(
                "POST", path, b'{"%s":"text %d"}' % (name, index % WORDS), {"content-type": "application/json"}
            )
            response = connection.getresponse()
            assert response.status == 200
            assert b"abc" in response.read() or path == "/generate_stream"
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.timeout(max(600, REQUESTS // 20))
def test_it_stays_where_it_is_after_the_first_thousand_requests(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir) as server, answering(server):
        worker = worker_of(server)
        send(server, SETTLED)
        wait_until(lambda: server.metric("tgi_request_success") == SETTLED, "all are counted")
        settled_kib = resident_kib(worker)
        send(server, REQUESTS)
        wait_until(lambda: server.metric("tgi_request_success") == SETTLED + REQUESTS, "all are counted")
        grown_kib = resident_kib(worker)
        print(f"{settled_kib} KiB after {SETTLED} requests, {grown_kib} after {REQUESTS} more")
        assert grown_kib <= 1.02 * settled_kib
