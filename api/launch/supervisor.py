"""What `headwater serve` is once the model is found: starts the engine and the HTTP server, and keeps them running.

No torch and no threads here. Life of the processes:

    starting   the engine loads; the HTTP server waits for it. If either ends, all ends.
    ready      GET /health answered 200 once. An engine that dies, or whose loop stands still, is started again; the
               HTTP server is not.
    stopping   SIGTERM or SIGINT came: the HTTP server finishes its running responses, then the engine ends.
               A second signal ends all at once.
"""

import contextlib
import http.client
import logging
import os
import select
import signal
import ssl
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from ...engine.checkpoint.errors import REFUSED
from ...engine.config import EngineConfig
from ..config import ApiConfig
from .addresses import reachable_host
from .banner import banner, describe, read_hello
from .child import Child, describe_exit
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

ENGINE_MODULE = "headwater.engine"
API_MODULE = "headwater.api.server"

# Ends of an engine that say nothing about what it was doing: it was asked to end, or killed.
KILLED = 128 + signal.SIGKILL
FROM_OUTSIDE = (0, 128 + signal.SIGTERM, KILLED, 128 + signal.SIGHUP)

DEATHS_TOLD = 8
VMSTAT = Path("/proc/vmstat")
RESTART_WINDOW_S = 60.0
WATCH_INTERVAL_S = 1.0  # between looks at the engine's flight record
MIN_RESTART_S = 60.0  # how long an engine that follows another may take until it listens, at least,
RESTART_FACTOR = 3.0  # and this times as long as the first one took
HEALTH_INTERVAL_S = 0.1
HEALTH_TIMEOUT_S = 2.0
ENGINE_STOP_S = 10.0  # how long the engine may take to end once nobody needs it
UNREADY_STOP_S = 5.0  # the same for an HTTP server that has answered nothing yet


# Why an engine died: of itself; killed, perhaps by the kernel for its memory; or ended by somebody.
Cause = Literal["crashed", "killed", "ended"]


def memory_kills() -> int | None:
    """Processes that the kernel has ended because memory ran out, on the whole machine; None if it doesn't say."""
    try:
        counters = dict(line.split(" ", 1) for line in VMSTAT.read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


class Supervisor:
    """Runs the children until a signal or a failure."""

    def __init__(self, engine_config: EngineConfig, api_config: ApiConfig, begin: float) -> None:
        """``begin``: when the program was started, time.monotonic()."""
        self._begin = begin
        self._engine_config = engine_config
        self._api_config = api_config
        self._restarts: deque[float] = deque(maxlen=api_config.max_engine_restarts + 1)  # when, time.monotonic()
        self._ready = False
        self._signals = 0  # how many SIGTERM or SIGINT came
        self._next_health_check = 0.0
        self._watchdog = Watchdog(engine_config.socket)
        self._first_start_s = 0.0
        self._engine_started = 0.0  # time.monotonic()

    def run(self) -> int:
        """Start, watch, stop. Returns the exit code of the program."""
        started = time.monotonic()
        with self._wakeup() as wakeup:
            logger.info("loading %s from %s", self._api_config.model_id, self._api_config.model_dir)
            self._start_engine()
            self._api = Child(API_MODULE, self._api_config)
            try:
                code = self._watch(wakeup, started)
                return self._stop(wakeup, code)
            finally:
                self._api.kill()
                self._engine.kill()

    def _watch(self, wakeup: int, started: float) -> int:
        """Until a signal or a failure. Returns the exit code that it means."""
        while not self._signals:
            engine_code, api_code = self._engine.exit_code(), self._api.exit_code()
            if not self._ready and REFUSED in (engine_code, api_code):
                return 1  # the process itself has said why
            if api_code is not None:
                logger.error("the HTTP server ended (%s); stopping", describe_exit(api_code))
                return 1
            if engine_code is not None:
                if not self._ready:
                    logger.error("the engine did not start (%s); stopping", describe_exit(engine_code))
                    return engine_code or 1
                if not self._restart_engine(describe_exit(engine_code), self._cause(engine_code)):
                    return 1
            elif self._ready and (hang := self._hang()) is not None and not self._restart_engine(hang, "crashed"):
                return 1
            if not self._ready and time.monotonic() >= self._next_health_check:
                self._ready = self._healthy()
                self._next_health_check = time.monotonic() + HEALTH_INTERVAL_S
                if self._ready:
                    self._first_start_s = time.monotonic() - started
                    self._announce(time.monotonic() - self._begin)
            self._sleep(wakeup, WATCH_INTERVAL_S if self._ready else HEALTH_INTERVAL_S)
        return 0

    def _start_engine(self) -> None:
        self._engine = Child(ENGINE_MODULE, self._engine_config)
        self._engine_started = time.monotonic()
        self._memory_kills = memory_kills()
        self._watchdog.expect(self._engine.pid)

    def _hang(self) -> str | None:
        """Why the running engine must be taken for dead, None if it need not be."""
        silent_s = self._watchdog.silent_s()
        if silent_s is not None:
            limit_s = self._api_config.heartbeat_timeout
            return f"no sign of life for {silent_s:.1f} s" if silent_s >= limit_s else None
        limit_s = max(MIN_RESTART_S, RESTART_FACTOR * self._first_start_s)
        return "it does not start" if time.monotonic() - self._engine_started >= limit_s else None

    def _cause(self, exit_code: int) -> Cause:
        if exit_code not in FROM_OUTSIDE:
            return "crashed"
        kills = memory_kills()
        return "killed" if exit_code == KILLED and (kills is None or kills != self._memory_kills) else "ended"

    def _restart_engine(self, why: str, cause: Cause) -> bool:
        """Start the engine again unless it dies too often."""
        self._restarts.append(time.monotonic())
        most = self._api_config.max_engine_restarts
        recent = sum(self._restarts[-1] - moment < RESTART_WINDOW_S for moment in self._restarts)
        if recent > most:
            logger.error("the engine died %d times in %.0f s; stopping", recent, RESTART_WINDOW_S)
            return False
        logger.warning("the engine died (%s); starting it again, %d of %d", why, recent, most)
        self._engine.kill()
        config = self._engine_config
        config.socket.unlink(missing_ok=True)
        if cause != "ended":
            # The last few are enough: workers ask about the one that they were connected to.
            pids = (*getattr(config, cause), self._engine.pid)[-DEATHS_TOLD:]
            config = msgspec.structs.replace(config, **{cause: pids})
        self._engine_config = config
        self._start_engine()
        return True

    def _stop(self, wakeup: int, code: int) -> int:
        """Let responses finish, then end the engine. Returns the exit code."""
        graceful = code == 0 and self._ready
        if graceful:
            logger.info("stopping: running responses may finish; a second signal ends them")
        self._api.terminate()
        drained = self._wait(
            wakeup, self._api, self._api_config.graceful_termination_timeout if graceful else UNREADY_STOP_S
        )
        if graceful and not drained:
            logger.warning("stopping: responses were cut off")
            code = 1
        self._engine.terminate()
        self._engine.hang_up()
        self._wait(wakeup, self._engine, ENGINE_STOP_S)
        return code

    def _wait(self, wakeup: int, child: Child, timeout_s: float) -> bool:
        """Whether the child ended before the time was up and before a second signal."""
        deadline = time.monotonic() + timeout_s
        while child.exit_code() is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._signals > 1:
                return False
            self._sleep(wakeup, left)
        return True

    @contextmanager
    def _wakeup(self) -> Iterator[int]:
        """Count the signals that stop us, and make them and a child's end readable on a file descriptor."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)

        def count(_number: int, _frame: object) -> None:
            self._signals += 1

        def ignore(_number: int, _frame: object) -> None:
            pass

        before = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, ignore)
        descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)

    def _sleep(self, wakeup: int, timeout_s: float | None) -> None:
        """Until a signal (a child's end is one) or the timeout."""
        select.select([wakeup], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)

    def _healthy(self) -> bool:
        address, port = reachable_host(self._api_config.host), self._api_config.port
        if self._api_config.tls_cert is None:
            connection = http.client.HTTPConnection(address, port, timeout=HEALTH_TIMEOUT_S)
        else:  # the certificate is for another name than this one, and we know whom we have started
            unverified = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(address, port, timeout=HEALTH_TIMEOUT_S, context=unverified)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _announce(self, seconds: float) -> None:
        config = self._api_config
        host = reachable_host(config.host)
        scheme = "http" if config.tls_cert is None else "https"
        address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}"
        logger.info("%s is ready at %s after %.1f s", config.model_id, address, seconds)
        hello = read_hello(self._engine_config.socket)
        if hello is None:  # it has just died; the next one says the same
            return
        # What one engine has taken must fit into the next one, however much memory is free then.
        self._engine_config = msgspec.structs.replace(self._engine_config, num_pages=hello.num_pages + 1)
        facts = describe(address, self._engine_config, config, hello)
        if config.json_output:
            logger.info("settings", extra=facts)
        else:
            print(banner(facts), flush=True)
