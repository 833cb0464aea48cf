"""CPU that the HTTP server takes for each streamed token, with an engine stand-in that takes next to none.

    python -m headwater.bench.load.api_cost --streams 64

The real server process with the default model's tokenizer; an engine that sends one token to every sequence each
step, at a steady pace (each token is an event and a send of its own) and as fast as it can (tokens that are there
together share a send). CPU is what the system accounts to the server's processes, user and kernel, between the first
and the last token.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ...api.config import ApiConfig
from ...engine.checkpoint.resolve import resolve_model
from ...engine.config import encode_config
from ...engine.frames import FrameReader, encode_frame
from ...engine.messages import Hello, Started, Stats, Step, Submit, ToEngine, Tokens

_TICKS = os.sysconf("SC_CLK_TCK")
_LOGPROB = -0.12345679104328156  # a 32-bit float's value, as the engine sends them
_TEXT = "The river ran down from the hills, past the old mill, and the people of the valley told a story about it. "


class EngineStandIn:
    """Says hello, waits for its sequences, then gives all of them one token a step."""

    def __init__(self, path: Path, token_ids: list[int]) -> None:
        self._token_ids = token_ids
        self._submits: list[Submit] = []
        self._arrived = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        self._connection = self._accept()
        reader: FrameReader[ToEngine] = FrameReader(ToEngine)
        while data := self._connection.recv(1 << 16):
            for message in reader.feed(data):
                if isinstance(message, Submit):
                    with self._arrived:
                        self._submits.append(message)
                        self._arrived.notify_all()

    def _accept(self) -> socket.socket:
        hello = Hello("stand-in", "cpu", "cpu", "float32", 2**17, 1 << 17, 256, 16, 1 << 16)
        while True:
            connection, _ = self._listener.accept()
            try:
                connection.sendall(encode_frame(hello) + encode_frame(Step(_stats(0))))
                if connection.recv(1, socket.MSG_PEEK):  # who only looks whether somebody listens sends nothing
                    return connection
            except OSError:
                continue

    def play(self, streams: int, tokens: int, pace_s: float) -> None:
        """Serve the next ``streams`` sequences, ``pace_s`` from step to step."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._submits) >= streams)
            submits, self._submits = self._submits[:streams], self._submits[streams:]
        due = time.perf_counter()
        for step in range(tokens):
            token_id = self._token_ids[step % len(self._token_ids)]
            last = step == tokens - 1
            frame = Step(
                _stats(step),
                [Started(submit.request_id, 0.001) for submit in submits] if step == 0 else [],
                [Tokens(s.request_id, [token_id], [_LOGPROB], "length" if last else None) for s in submits],
            )
            self._connection.sendall(encode_frame(frame))
            due += pace_s
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)


def _stats(steps: int) -> Stats:
    return Stats(steps, 64, 0, 1000, 0, 0, 0, 0, 0.01, time.monotonic())


async def _read_stream(port: int, tokens: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"inputs":"Tell me a story.","parameters":{"max_new_tokens":%d}}' % tokens
    head = b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    tail = b""
    while b'"generated_text":"' not in tail:
        data = await reader.read(1 << 16)
        assert data, "the stream was cut"
        tail = (tail + data)[-(1 << 17) :]
    writer.close()


def _cpu_s(pids: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def _workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def measure(port: int, pid: int, engine: EngineStandIn, streams: int, tokens: int, pace_s: float) -> float:
    """CPU seconds of the server's processes per token."""

    async def clients() -> None:
        await asyncio.gather(*(_read_stream(port, tokens) for _ in range(streams)))

    player = threading.Thread(target=engine.play, args=(streams, tokens, pace_s))
    player.start()
    before = _cpu_s(_workers(pid))
    asyncio.run(clients())
    player.join()
    return (_cpu_s(_workers(pid)) - before) / (streams * tokens)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=300, help="of each stream")
    parser.add_argument("--pace-ms", type=float, default=10.0, help="from step to step of the steady run")
    options = parser.parse_args()
    model_dir = resolve_model(None).directory
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        import tokenizers

        token_ids = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json")).encode(_TEXT).ids
        engine = EngineStandIn(Path(directory, "engine.sock"), token_ids)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = ApiConfig(
            model_dir=model_dir,
            model_id="stand-in",
            port=port,
            engine_socket=Path(directory, "engine.sock"),
            max_concurrent_requests=1024,
            graceful_termination_timeout=1,
        )
        command = [sys.executable, "-P", "-m", "headwater.api.server"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            process.stdin.write(encode_config(config))
            process.stdin.flush()
            while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
                time.sleep(0.05)
            measure(port, process.pid, engine, options.streams, 50, 0.0)  # warm
            for name, pace_s in (("steady", options.pace_ms / 1000), ("as fast as it can", 0.0)):
                cost_s = measure(port, process.pid, engine, options.streams, options.tokens, pace_s)
                print(f"{options.streams} streams, {name}: {cost_s * 1e6:.1f} us of CPU per token")
            process.stdin.close()


if __name__ == "__main__":
    main()
