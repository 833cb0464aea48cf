"""A small tokenizer, an engine peer that speaks the real frames on a real socket, and the real HTTP server on top."""

import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from headwater.api.config import ApiConfig
from headwater.api.engine_client.client import EngineClient
from headwater.api.engine_client.remote_sequence import RemoteSequence, Waker
from headwater.engine.config import encode_config
from headwater.engine.frames import FrameReader, encode_frame
from headwater.engine.messages import (
    Abort,
    AdapterAnswer,
    AdapterList,
    Failed,
    Hello,
    LoadAdapter,
    PromptLogprobs,
    PromptScores,
    SamplingParams,
    Scheduling,
    Started,
    Stats,
    Step,
    Submit,
    ToEngine,
    Tokens,
    UnloadAdapter,
)

# prometheus_client looks for it when it is first imported.
_metrics = tempfile.TemporaryDirectory(prefix="headwater-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics.name

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

DEADLINE_S = 30.0
EOS_TEXT = "<|end|>"
BOS_TEXT = "<|begin|>"


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds, and return its value; fails when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s: {what}"
        time.sleep(0.005)
    return value


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: one token a byte (ids 0 to 255), so that characters span tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(BOS_TEXT, special=True), AddedToken(EOS_TEXT, special=True)])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS_TEXT} $0", special_tokens=[(BOS_TEXT, 256)]),
        ]
    )
    return tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the API reads of a model: byte tokens, BOS 256 in front, EOS 257."""
    path = tmp_path_factory.mktemp("model")
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 257}))
    return path


def submit(
    client: EngineClient, prompt_ids: list[int], sampling: SamplingParams, waker: Waker, *scheduling: Scheduling
) -> RemoteSequence:
    """A new sequence, begun."""
    sequence = client.prepare(prompt_ids, sampling, waker, *scheduling)
    client.submit(sequence)
    return sequence


class EnginePeer:
    """The engine's end of the socket, played by the test: says hello, hands over what workers send, sends steps."""

    hello = Hello(
        "tiny", "cpu", "cpu", "float32", 258, max_total_tokens=64, max_sequences=8, page_size=16, num_pages=99
    )
    stats = Stats(
        7, 1, 2, 98, 300, 40, 0, 5, 0.01, 0.0, drafted_tokens=9, accepted_tokens=6, prompt_steps=3, steps_done=6,
        prompt_steps_done=2, max_tokens=50,
    )  # fmt: skip

    def __init__(self, path: Path, hello: Hello | None = None) -> None:
        self.path = path
        self.hello = hello or self.hello
        self.inbox: queue.Queue[tuple[socket.socket, ToEngine]] = queue.Queue()
        self.connections: list[socket.socket] = []
        self.senders: dict[int, socket.socket] = {}  # of each Submit, by request id (one worker) or the last one
        self.listener: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            with suppress(BrokenPipeError):  # somebody who only looked whether we listen
                connection.sendall(encode_frame(self.hello) + encode_frame(Step(self.stats)))
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        reader: FrameReader[ToEngine] = FrameReader(ToEngine)
        while True:
            try:
                data = connection.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            for message in reader.feed(data):
                self.inbox.put((connection, message))

    def submitted(self) -> Submit:
        """The next message, which must be a Submit; answers go to who sent it."""
        connection, message = self.inbox.get(timeout=DEADLINE_S)
        assert isinstance(message, Submit), message
        self.senders[message.request_id] = connection
        return message

    def asked(self) -> LoadAdapter | UnloadAdapter:
        """The next message, which must be about an adapter."""
        _, message = self.inbox.get(timeout=DEADLINE_S)
        assert isinstance(message, LoadAdapter | UnloadAdapter), message
        return message

    def tell(self, *messages: AdapterList | AdapterAnswer) -> None:
        """The same to every worker."""
        for connection in self.connections:
            with suppress(BrokenPipeError):  # somebody who only looked whether we listen
                connection.sendall(b"".join(map(encode_frame, messages)))

    def aborted(self) -> Abort:
        """The next message, which must be an Abort."""
        _, message = self.inbox.get(timeout=DEADLINE_S)
        assert isinstance(message, Abort), message
        return message

    def send(
        self,
        request_id: int,
        ids: list[int],
        finish: Any = None,
        *,
        logprob: float = -0.5,
        top: list[tuple[int, float]] | None = None,
        prompt_logprobs: list[float] | None = None,
        prompt_top: list[tuple[int, float]] | None = None,
    ) -> None:
        """One step with tokens for one request; ``top`` are the best tokens beside each of them."""
        tokens = Tokens(request_id, ids, [logprob] * len(ids), finish)
        if top is not None:
            tokens.top_ids = [[token_id for token_id, _ in top]] * len(ids)
            tokens.top_logprobs = [[value for _, value in top]] * len(ids)
        step = Step(self.stats, [Started(request_id, 0.25, cached_tokens=1)], [tokens])
        if prompt_logprobs is not None:
            scores = PromptScores(prompt_logprobs)
            if prompt_top is not None:
                scores.top_ids = [[token_id for token_id, _ in prompt_top]] * len(prompt_logprobs)
                scores.top_logprobs = [[value for _, value in prompt_top]] * len(prompt_logprobs)
            step.prompts = [PromptLogprobs(request_id, scores)]
        self.senders[request_id].sendall(encode_frame(step))

    def fail(self, request_id: int, error: str, error_type: Any) -> None:
        self.senders[request_id].sendall(encode_frame(Step(self.stats, failed=[Failed(request_id, error, error_type)])))

    def die(self) -> None:
        """As an engine that is killed: nobody listens, and every connection ends."""
        if self.listener is None:
            return
        self.listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake the thread in accept()
        self.listener.close()
        self.listener = None
        self.path.unlink(missing_ok=True)
        for connection in self.connections:
            with suppress(OSError):  # the worker was faster
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.connections.clear()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[EnginePeer]:
    peer = EnginePeer(tmp_path / "engine.sock")
    yield peer
    peer.die()


class ApiServer:
    """A running ``python -m headwater.api.server`` and the engine peer behind it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, peer: EnginePeer) -> None:
        self.process = process
        self.port = port
        self.peer = peer

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One request on a connection of its own; ``body`` is sent as JSON unless it is bytes."""
        connection = self.connect()
        connection.request(method, path, *_encoded(body, headers))
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response, data

    def begin(self, path: str, body: Any) -> http.client.HTTPConnection:
        """Send a POST and don't wait for its answer."""
        connection = self.connect()
        connection.request("POST", path, *_encoded(body, None))
        return connection

    def metric(self, name: str) -> float:
        """Value of one sample of /metrics, 0 if it is absent."""
        _, data = self.request("GET", "/metrics")
        for line in data.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


def _encoded(body: Any, headers: dict[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, headers or {}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return data, {"content-type": "application/json"} if headers is None else headers


@contextmanager
def run_api_server(directory: Path, model_dir: Path, hello: Hello | None = None, **limits: Any) -> Iterator[ApiServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    peer = EnginePeer(directory / "engine.sock", hello)
    limits = {"graceful_termination_timeout": 5.0, **limits}
    config = ApiConfig(model_dir=model_dir, model_id="tiny", port=port, engine_socket=peer.path, **limits)
    command = [sys.executable, "-P", "-m", "headwater.api.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(encode_config(config))
            process.stdin.flush()
            wait_until(lambda: process.poll() is not None or _answers(port), "the server listens")
            yield ApiServer(process, port, peer)
        finally:
            process.stdin.close()
            process.wait(DEADLINE_S)
            peer.die()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    """One worker, at most 4 requests at a time, one origin allowed."""
    directory = tmp_path_factory.mktemp("api")
    with run_api_server(directory, model_dir, max_concurrent_requests=4, payload_limit=100_000) as server:
        yield server


def byte_ids(text: str | bytes) -> list[int]:
    """Ids of the byte tokenizer."""
    data = text.encode() if isinstance(text, str) else text
    return [_ID_OF_BYTE[byte] for byte in data]


def _ids_of_bytes() -> dict[int, int]:
    # GPT-2's map: printable Latin-1 stands for itself, the other bytes for what follows U+0100.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    order = sorted(characters.values())
    return {byte: order.index(character) for byte, character in characters.items()}


_ID_OF_BYTE = _ids_of_bytes()


def read_event(response: http.client.HTTPResponse) -> bytes:
    """The next event, with its empty line; nothing at the end of the stream."""
    event = response.readline()
    return event + response.readline() if event else b""


def read_events(response: http.client.HTTPResponse) -> list[Any]:
    """All events to the end of the stream, decoded."""
    text = response.read().decode()
    assert text.endswith("\n\n")
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]
