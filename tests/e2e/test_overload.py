"""More clients than the server takes: each gets a whole stream or the overload error, and the server is as before."""

import http.client
import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from .serving import PATIENCE_S, serving, status_of, wait_until

CLIENTS = 200
LIMIT = 8
NEW_TOKENS = 12
OVERLOADED = b'{"error":"Model is overloaded","error_type":"overloaded"}'


def gauge(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split(" ")[1]) for line in lines if line.startswith(f"{name} "))


def test_two_hundred_clients_against_a_limit_of_eight() -> None:
    flags = ("--max-concurrent-requests", str(LIMIT), "--max-batch-size", str(LIMIT), "--max-total-tokens", "256")
    with serving(*flags, "--max-batch-prefill-tokens", "32", "--no-prefix-cache") as server:
        server.wait_ready()
        host = urlsplit(server.url).netloc
        barrier = threading.Barrier(CLIENTS)

        def client(number: int) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
            parameters = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True}
            body = json.dumps({"inputs": f"Count from {number}:", "parameters": parameters})
            barrier.wait(PATIENCE_S)
            connection.request("POST", "/generate_stream", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
            connection.close()
            return answer

        free = gauge(server.url, "headwater_engine_free_pages")
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(client, range(CLIENTS)))
        served = [data for status, _, data in answers if status == 200]
        refused = [(headers, data) for status, headers, data in answers if status == 429]
        assert len(served) + len(refused) == CLIENTS
        assert len(served) >= LIMIT
        assert refused
        for headers, data in refused:
            assert (data, headers["retry-after"], headers["content-type"]) == (OVERLOADED, "1", "application/json")
        for data in served:
            events: list[dict[str, Any]] = [json.loads(line[6:]) for line in data.split(b"\n\n") if line]
            assert [event["index"] for event in events] == list(range(1, NEW_TOKENS + 1))
            text = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
            assert events[-1]["generated_text"] == text

        assert status_of(f"{server.url}/health") == 200
        wait_until(lambda: gauge(server.url, "headwater_requests") == 0, "no permit is held")
        wait_until(lambda: gauge(server.url, "headwater_engine_free_pages") == free, "no page is held")
        assert client_alone(host) == 200


def client_alone(host: str) -> int:
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    connection.request("POST", "/generate", b'{"inputs":"x","parameters":{"max_new_tokens":1}}', _JSON)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


_JSON = {"content-type": "application/json"}
