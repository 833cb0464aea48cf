"""On the wire: a token leaves before there is a next one; a client that does not read holds back only itself."""

import asyncio
import json
import re
import socket
from pathlib import Path

import msgspec
import pytest

from headwater.api.engine_client.remote_sequence import MAX_UNREAD_TOKENS, EngineError, RemoteSequence, Waker
from headwater.engine.messages import SamplingParams, Tokens

from ..conftest import DEADLINE_S, ApiServer, EnginePeer, byte_ids, run_api_server, wait_until

# More text than all buffers between a server and a client hold: theirs, the socket's, and what counts as unread.
TOKENS_A_STEP = 500
MAX_STEPS = 400
# Generous: the unread tokens of one stream, its HTTP buffer and what the allocator keeps are a few MB.
MAX_GROWTH_BYTES = 64 << 20


def send_request(port: int, **parameters: int) -> socket.socket:
    """Ask for a stream on a bare socket."""
    client = socket.socket()
    client.settimeout(DEADLINE_S)
    client.connect(("127.0.0.1", port))
    body = json.dumps({"inputs": "x", "parameters": parameters}).encode()
    head = b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    client.sendall(head % len(body) + body)
    return client


def receive_until(client: socket.socket, wanted: bytes) -> bytes:
    data = bytearray()
    while data.find(wanted, max(len(data) - (1 << 17), 0)) < 0:
        part = client.recv(1 << 16)
        assert part, data
        data += part
    return bytes(data)


def worker_bytes(server: ApiServer) -> int:
    """Memory of the worker process."""
    parent = server.process.pid
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    (worker,) = (pid for pid in children if b"headwater api 0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_an_error_behind_tokens_is_there_at_once() -> None:
    async def run() -> None:
        waker = Waker()
        generation = RemoteSequence(1, [5], SamplingParams(9, greedy=True, seed=0), waker, drop=lambda _: None)
        generation.extend(Tokens(1, [7, 8], [-0.5, -0.5]))
        generation.fail(EngineError("lost"))
        for expected in (slice(0, 2), None):
            async with asyncio.timeout(DEADLINE_S):
                await waker.wait(10 * DEADLINE_S)
            if expected is not None:
                assert generation.take() == expected
        with pytest.raises(EngineError, match="lost"):
            generation.take()
        waker.close()

    asyncio.run(run())


def test_each_token_leaves_before_the_next_is_there(server: ApiServer) -> None:
    client = send_request(server.port)
    sequence = server.peer.submitted().request_id
    for number, letter in enumerate("abcdefgh", 1):
        server.peer.send(sequence, byte_ids(letter))  # the next one is sent only when this one has arrived
        data = receive_until(client, b"\n\n\r\n")
        size, _, rest = data.partition(b"data: ")
        # One HTTP chunk, whole, and nothing else.
        assert int(size.split(b"\r\n")[-2], 16) == len(b"data: " + rest) - len(b"\r\n")
        assert json.loads(rest)["index"] == number
    server.peer.send(sequence, byte_ids("i"), "length")
    assert b"abcdefghi" in receive_until(client, b"\r\n0\r\n\r\n")
    client.close()


def test_a_client_that_does_not_read(tmp_path: Path, model_dir: Path) -> None:
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=10**7)
    with run_api_server(tmp_path, model_dir, hello) as server:
        peer = server.peer
        # Once with a reader, so that what is measured later is no first use.
        warm = send_request(server.port)
        sequence = peer.submitted().request_id
        peer.send(sequence, byte_ids("a") * TOKENS_A_STEP, "length")
        receive_until(warm, b"\r\n0\r\n\r\n")
        warm.close()

        before = worker_bytes(server)
        slow = send_request(server.port, max_new_tokens=10**6)
        slow_sequence = peer.submitted().request_id
        fast = send_request(server.port, max_new_tokens=10**6)
        fast_sequence = peer.submitted().request_id
        steps, largest = 0, before
        while peer.inbox.empty() and steps < MAX_STEPS:
            steps += 1
            peer.send(slow_sequence, byte_ids("a") * TOKENS_A_STEP)
            peer.send(fast_sequence, byte_ids("b"))
            assert b'"text":"b"' in receive_until(fast, b"\n\n\r\n")  # the other stream goes on, token by token
            largest = max(largest, worker_bytes(server))
        assert peer.aborted().request_id == slow_sequence
        assert largest - before < MAX_GROWTH_BYTES
        assert steps * TOKENS_A_STEP > MAX_UNREAD_TOKENS
        peer.send(fast_sequence, byte_ids("b"), "length")
        receive_until(fast, b"\r\n0\r\n\r\n")

        text = receive_until(slow, b"\r\n0\r\n\r\n")
        error = b'data: {"error":"Request failed during generation: Server error: the client reads too slowly",'
        assert error in text
        # What it got before that is whole: every token up to some number.
        numbers = [int(number) for number in re.findall(rb'"index":(\d+)', text)]
        assert numbers == list(range(1, len(numbers) + 1))
        wait_until(lambda: server.metric("headwater_requests") == 0, "no permit is held")
        for client in (slow, fast):
            client.close()
