"""What happens to a server while clients use it: kills, pauses, poison, floods and garbage, in a seeded order."""

import json
import os
import random
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from ..e2e.serving import PATIENCE_S, Serving, descendants, status_of, wait_until
from .catalogue import Request
from .clients import Flood, Outcome, send, send_garbage

CRASH, RAISE, HANG = 2_000_001, 2_000_002, 2_000_003  # seeds of requests that the engine dies of
FAULTS = (f"{CRASH}:abort:2", f"{RAISE}:raise:4", f"{HANG}:hang:1")
# Granian takes two ends of one worker within 5.5 s for a fault that a third try would not mend, and ends.
WORKER_KILLS_APART_S = 8.0
PAUSE_S = 10.0  # where kills are ahead of the requests


class Disturber:
    """Does one thing after another, until it has killed the engine often enough.

    Attributes:
        engine_kills: from outside, so far; poisoned: outcomes of requests that the engine dies of.
        worker_kills: when, time.monotonic().
    """

    def __init__(self, server: Serving, seed: int, kills: int, flood: int, progress: Callable[[], float]) -> None:
        """``progress``: share of the requests that are done; kills of engines keep pace with it."""
        self._server = server
        self._progress = progress
        self._chance = random.Random(seed)
        self._wanted_kills = kills
        self._flood = flood
        self._stopped = threading.Event()
        self.engine_kills = 0
        self.worker_kills: list[float] = []
        self.poisoned: list[Outcome] = []
        self.failures: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, name="disturber")

    def _run(self) -> None:
        acts: list[Callable[[], None]] = [
            self._kill_worker, self._poison, self._pause_engine, self._pause_worker, self._flood_it, self._garbage,
        ]  # fmt: skip
        try:
            turn: list[Callable[[], None]] = []
            while self.engine_kills < self._wanted_kills:
                if self.engine_kills <= self._wanted_kills * self._progress():
                    self._kill_engine()
                else:
                    self._stopped.wait(PAUSE_S)
                for _ in range(2):
                    turn = turn or self._chance.sample(acts, len(acts))
                    turn.pop()()
        except BaseException as error:  # reported by the test's own thread
            self.failures.append(error)

    def _kill_engine(self) -> None:
        """At any time of its life, its warm-up included."""
        if self._chance.random() < 0.7:
            self._wait_healthy()
        self._stopped.wait(self._chance.random() * 2.0)
        pids = [pid for pid, title in self._titles().items() if title.startswith("headwater engine")]  # shards, too
        if pids and self._kill(self._chance.choice(pids)):
            self.engine_kills += 1

    def _kill_worker(self) -> None:
        if self.worker_kills and time.monotonic() - self.worker_kills[-1] < WORKER_KILLS_APART_S:
            return
        pid = self._find(f"headwater api {self._chance.randrange(2)}")
        if pid is not None:
            self.worker_kills.append(time.monotonic())
            self._kill(pid)

    def _poison(self) -> None:
        """Beside the others; nobody waits for the answer here."""
        seed = self._chance.choice([CRASH, RAISE, HANG])
        body = {"inputs": "Poison:", "parameters": {"max_new_tokens": 20, "do_sample": True, "seed": seed}}
        self._wait_healthy()
        self.poisoned.append(send(self._server.url, Request("/generate", body)))

    def _pause_engine(self) -> None:
        engines = [pid for pid, title in self._titles().items() if re.fullmatch(r"headwater engine \d", title)]
        self._pause(self._chance.choice(engines) if engines else None, 0.5)

    def _pause_worker(self) -> None:
        self._pause(self._find(f"headwater api {self._chance.randrange(2)}"), 0.5)

    def _flood_it(self) -> None:
        flood = Flood(self._server.url, self._flood)
        try:
            flood.trickle()
            with urllib.request.urlopen(f"{self._server.url}/health/live", timeout=PATIENCE_S) as response:
                assert json.load(response)["engine"]
        finally:
            flood.end()

    def _garbage(self) -> None:
        for _ in range(10):
            send_garbage(self._server.url, self._chance)

    def _pause(self, pid: int | None, seconds: float) -> None:
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped.wait(seconds)
            os.kill(pid, signal.SIGCONT)

    def _kill(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def _titles(self) -> dict[int, str]:
        return descendants(self._server.process.pid)

    def _find(self, name: str) -> int | None:
        return next((pid for pid, title in self._titles().items() if title == name), None)

    def _wait_healthy(self) -> None:
        wait_until(lambda: status_of(f"{self._server.url}/health") == 200, "a healthy engine")
