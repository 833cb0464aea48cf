"""What `headwater serve` is once the model is found: starts the engines and the HTTP server, and keeps them running.

No torch and no threads here. Life of the processes:

    starting   the engine loads; the HTTP server waits for it. If either ends, all ends.
    ready      GET /health answered 200 once. An engine that dies, or whose loop stands still, is started again; the
               HTTP server is not. SIGUSR1: all engines are replaced, one after another.
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

import msgspec

from ...engine.checkpoint.errors import REFUSED
from ...engine.config import EngineConfig
from ..config import ApiConfig
from .addresses import reachable_host
from .banner import banner, describe
from .child import Child, describe_exit
from .engine_process import EngineProcess, devices_of

logger = logging.getLogger(__name__)

API_MODULE = "headwater.api.server"

WATCH_INTERVAL_S = 1.0  # between looks at the engine's flight record
HEALTH_INTERVAL_S = 0.1
HEALTH_TIMEOUT_S = 2.0
ENGINE_STOP_S = 10.0  # how long the engine may take to end once nobody needs it
UNREADY_STOP_S = 5.0  # the same for an HTTP server that has answered nothing yet


class Supervisor:
    """Runs the children until a signal or a failure."""

    def __init__(self, engine_config: EngineConfig, api_config: ApiConfig, begin: float) -> None:
        """``engine_config``: of the first engine; ``begin``: when the program was started, time.monotonic()."""
        self._begin = begin
        self._engine_config = engine_config
        self._api_config = api_config
        self._engines: list[EngineProcess] = []
        self._ready = False
        self._signals = 0  # how many SIGTERM or SIGINT came
        self._to_replace: deque[EngineProcess] = deque()  # SIGUSR1 came: one after another
        self._next_health_check = 0.0
        self._first_start_s = 0.0

    def run(self) -> int:
        """Start, watch, stop. Returns the exit code of the program. Raises StartError if there are too few GPUs."""
        started = time.monotonic()
        with self._wakeup() as wakeup:
            logger.info("loading %s from %s", self._api_config.model_id, self._api_config.model_dir)
            try:
                self._start_engines()
                self._api = Child(API_MODULE, self._api_config)
                try:
                    code = self._watch(wakeup, started)
                    return self._stop(wakeup, code)
                finally:
                    self._api.kill()
            finally:
                for engine in self._engines:
                    engine.kill()

    def _start_engines(self) -> None:
        replicas = self._api_config.replicas
        for index, socket in enumerate(self._api_config.engine_sockets):
            config = msgspec.structs.replace(self._engine_config, socket=socket, index=index)
            devices = devices_of(index, replicas, config.num_shard)
            self._engines.append(EngineProcess(config, self._api_config.max_engine_restarts, devices))

    def _watch(self, wakeup: int, started: float) -> int:
        """Until a signal or a failure. Returns the exit code that it means."""
        while not self._signals:
            api_code = self._api.exit_code()
            if not self._ready and REFUSED in (api_code, *(engine.exit_code() for engine in self._engines)):
                return 1  # the process itself has said why
            if api_code is not None:
                logger.error("the HTTP server ended (%s); stopping", describe_exit(api_code))
                return 1
            for engine in self._engines:
                if (code := self._look_after(engine)) is not None:
                    return code
            self._replace_next()
            if not self._ready and time.monotonic() >= self._next_health_check:
                self._ready = self._healthy()
                self._next_health_check = time.monotonic() + HEALTH_INTERVAL_S
                if self._ready:
                    self._first_start_s = time.monotonic() - started
                    self._announce(time.monotonic() - self._begin)
            self._sleep(wakeup, WATCH_INTERVAL_S if self._ready else HEALTH_INTERVAL_S)
        return 0

    def _look_after(self, engine: EngineProcess) -> int | None:
        """Start it again if it is dead. Returns the exit code of the program if that can't be."""
        code = engine.exit_code()
        if code is not None:
            if not self._ready:
                logger.error("the engine did not start (%s); stopping", describe_exit(code))
                return code or 1
            return None if engine.restart(describe_exit(code)) else 1
        if not self._ready:
            return None
        hang = engine.hang(self._api_config.heartbeat_timeout, self._first_start_s)
        return None if hang is None or engine.restart(hang, "crashed") else 1

    def _replace_next(self) -> None:
        """Engines take turns: one is asked to end when all others, and the last one's successor, listen."""
        if self._to_replace and all(engine.listens() and not engine.is_replaced for engine in self._engines):
            self._to_replace.popleft().replace()

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
        for engine in self._engines:
            engine.end()
        for engine in self._engines:
            self._wait(wakeup, engine, ENGINE_STOP_S)
        return code

    def _wait(self, wakeup: int, child: Child | EngineProcess, timeout_s: float) -> bool:
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

        def replace(_number: int, _frame: object) -> None:
            if self._ready and not self._to_replace:
                self._to_replace.extend(self._engines)

        before = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, replace)
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
        hellos = [engine.keep_size() for engine in self._engines]
        if hellos[0] is None:
            return
        hello = hellos[0]
        facts = describe(address, self._engine_config, config, hello)
        if config.json_output:
            logger.info("settings", extra=facts)
        else:
            print(banner(facts), flush=True)
