"""A whole server under load: the program as users start it, over an 8B-shaped model with random weights."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .setup import Figure, Results, Setup, Skipped

INPUT_TOKENS, OUTPUT_TOKENS = 512, 128
_MEMORY_DISK = Path("/dev/shm")
_START_S = 180.0  # of a server, kernels compiled in it
_STOP_S = 30.0
_REQUEST_S = 90.0
_LOG_LINES = 30  # of a server that does not start
_TINY: dict[str, object] = {
    "vocab_size": 320, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256,
}  # fmt: skip


class _Case(NamedTuple):
    name: str
    flags: tuple[str, ...]
    clients: tuple[int, ...]


_BF16 = _Case("bfloat16", (), (1, 8, 64, 256))


def figures_of_server(setup: Setup) -> Results:
    """Time for each output token of all clients together, in bfloat16. Raises Skipped."""
    yield from _figures(setup, _BF16._replace(clients=(64,)) if setup.quick else _BF16)


def figures_of_8_bit_server(setup: Setup) -> Results:
    """The same with weights rounded to 8 bits, and with the cache in fp8 beside them. Raises Skipped."""
    if setup.converts_fp8:
        flags = ("--quantize", "fp8", "--kv-cache-dtype", "fp8_e4m3fn")
        yield from _figures(setup, _Case("fp8 weights and cache", flags, (1, 64)))
    else:
        yield from _figures(setup, _Case("int8 weights", ("--quantize", "int8"), (1, 64)))


def _figures(setup: Setup, case: _Case) -> Results:
    try:
        from ..dry_run.models import SHAPES
        from ..made_up import weight_bytes, write_llama
    except ImportError as error:
        raise Skipped(f"a server needs more than torch and triton: {error}") from error

    config = {**SHAPES["llama-3.1-8b"], **(_TINY if setup.tiny else {"max_position_embeddings": 8192})}
    with _directory(weight_bytes(config)) as directory:
        begin = time.monotonic()
        write_llama(directory, config)
        written = time.monotonic()
        yield Figure(f"server, {case.name}: weights made up and written", written - begin)
        with _serving(directory, setup, case.flags) as url:
            yield Figure(f"server, {case.name}: start until ready", time.monotonic() - written, note=_memory(setup))
            tokens_in, tokens_out = (16, 8) if setup.tiny else (INPUT_TOKENS, OUTPUT_TOKENS)
            for clients in (2,) if setup.tiny else case.clients:
                found = _load(directory, url, clients, tokens_in, tokens_out)
                yield Figure(
                    f"server, {case.name}: {clients} clients, {tokens_in} in, {tokens_out} out, for each token out",
                    1 / found["output_throughput"],
                    note=f"{found['output_throughput']:,.0f} tokens/s, TTFT {found['median_ttft_ms']:.0f} ms, "
                    f"ITL {found['median_itl_ms']:.1f} ms",
                )


def _headwater(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", "from headwater.api.cli import main; main()", *arguments]


def _load(directory: Path, url: str, clients: int, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """What ``headwater bench serve`` found in one run. Raises RuntimeError where requests failed."""
    file = directory / "load.json"
    command = _headwater(
        "bench", "serve", url, "--concurrency", str(clients), "--requests", str(max(2 * clients, 4)),
        "--input-tokens", str(tokens_in), "--output-tokens", str(tokens_out), "--no-client-check",
        "--timeout", str(_REQUEST_S), "--json", str(file),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{clients} clients: {_end_of(done.stdout + done.stderr)}")
    (run,) = json.loads(file.read_text())["runs"]
    return dict(run)


def _end_of(log: str) -> str:
    return "\n".join(log.splitlines()[-_LOG_LINES:])


@contextmanager
def _directory(needed_bytes: int) -> Iterator[Path]:
    """In memory where there is room for twice as much, else where temporary files go. Raises Skipped."""
    in_memory = _MEMORY_DISK.is_dir() and shutil.disk_usage(_MEMORY_DISK).free > 2 * needed_bytes
    with tempfile.TemporaryDirectory(dir=_MEMORY_DISK if in_memory else None) as directory:
        if shutil.disk_usage(directory).free < needed_bytes * 1.1:
            raise Skipped(f"{needed_bytes / 1e9:.0f} GB of weights have no room in {directory}")
        yield Path(directory)


@contextmanager
def _serving(directory: Path, setup: Setup, flags: tuple[str, ...]) -> Iterator[str]:
    """The URL of a server that is ready. Raises RuntimeError with the end of its log if it isn't in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = _headwater(
        "serve", str(directory), "--port", str(port), "--device", setup.device.type,
        "--max-concurrent-requests", "512", "--graceful-termination-timeout", "1", *flags,
    )  # fmt: skip
    log_path = directory / "log"
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                end = _end_of(log_path.read_text())
                raise RuntimeError(f"the server is not ready (status {process.poll()}):\n{end}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _memory(setup: Setup) -> str:
    if setup.device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(setup.device)
    return f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB in use"
