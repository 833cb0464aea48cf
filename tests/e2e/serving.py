"""A server as a user starts it, and what the system says of its processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HEADWATER = (str(Path(sys.executable).with_name("headwater")), "serve")
# A small KV cache and short steps: ready in a few seconds.
SMALL = ("--max-batch-prefill-tokens", "32", "--max-batch-size", "4", "--max-total-tokens", "1024")
READY = r"is ready at (http://\S+) after"
PATIENCE_S = 120.0  # for what takes a second: a loaded machine must not fail a test


class Serving:
    """A running server process and all that it wrote so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = ""
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until the server wrote something that matches; fails if it ends without."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or re.search(pattern, "".join(self._lines)), PATIENCE_S)
            output = "".join(self._lines)
        found = re.search(pattern, output)
        assert found, output
        return found

    def wait_ready(self) -> None:
        self.url = self.wait_for(READY).group(1)

    def wait_end(self) -> int:
        """The exit code, once all output is there."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait. Returns the exit code."""
        self.process.send_signal(number)
        return self.wait_end()

    def close(self) -> None:
        """Leave nothing running, whatever the test did."""
        if self.process.poll() is None:
            left = [self.process.pid, *descendants(self.process.pid)]
            for number in (signal.SIGTERM, signal.SIGINT):  # the second one: at once
                self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_S / 4)
            for pid in filter(running, left):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.wait_end()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def serving(
    *arguments: str, command: tuple[str, ...] = HEADWATER, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Start a server on a free port; it need not be ready yet."""
    process = subprocess.Popen(
        [*command, "--port", "0", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | (environment or {}),
    )
    server = Serving(process)
    try:
        yield server
    finally:
        server.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.02)


def status_of(url: str) -> int:
    """HTTP status of a GET, 0 if nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def post(url: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Any:
    """Send JSON; returns the open response, whose lines can be read as they come."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=PATIENCE_S)


def descendants(pid: int) -> dict[int, str]:
    """All running processes below one, with the names they gave themselves."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: dict[int, str] = {}
    waiting = list(children.get(pid, ()))
    while waiting:
        child = waiting.pop()
        found[child] = title(child)
        waiting += children.get(child, ())
    return found


def title(pid: int) -> str:
    """The name that a process shows in ps, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip().decode()
    except OSError:
        return ""


def running(pid: int) -> bool:
    """Whether a process is there and not just waiting for its parent to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gauge(server: Serving, name: str) -> float:
    """Value of one sample of /metrics, 0 if it is absent."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
    return 0.0
