"""One engine as the supervisor sees it: its process, its life, why it died, and how it is started again."""

import logging
import os
import signal
import time
from collections import deque
from pathlib import Path

import msgspec

from ...engine.config import EngineConfig
from ...engine.messages import Hello
from .addresses import StartError
from .banner import read_hello
from .child import Child
from .exits import Cause, tell_exit
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

ENGINE_MODULE = "headwater.engine"

# Ends of an engine that say nothing about what it was doing: it was asked to end, or killed.
KILLED = 128 + signal.SIGKILL
FROM_OUTSIDE = (0, 128 + signal.SIGTERM, KILLED, 128 + signal.SIGHUP)

DEATHS_TOLD = 8
VMSTAT = Path("/proc/vmstat")
RESTART_WINDOW_S = 60.0
MIN_RESTART_S = 60.0  # how long an engine that follows another may take until it listens, at least,
RESTART_FACTOR = 3.0  # and this times as long as the first one took


def memory_kills() -> int | None:
    """Processes that the kernel has ended because memory ran out, on the whole machine; None if it doesn't say."""
    try:
        counters = dict(line.split(" ", 1) for line in VMSTAT.read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


class EngineProcess:
    """The engine that listens on one socket, and its successors.

    Attributes:
        is_replaced: it was asked to end, for a successor (``replace``).
    """

    def __init__(self, config: EngineConfig, max_restarts: int, environment: dict[str, str] | None = None) -> None:
        """Start it. ``max_restarts``: in RESTART_WINDOW_S; ``environment``: variables that it has of its own."""
        self._config, self._environment = config, environment
        self._restarts: deque[float] = deque(maxlen=max_restarts + 1)  # when, time.monotonic()
        self._max_restarts = max_restarts
        self._watchdog = Watchdog(config.socket)
        self.is_replaced = False
        self._start()

    @property
    def config(self) -> EngineConfig:
        """Of the one that runs, or is started next."""
        return self._config

    def exit_code(self) -> int | None:
        """See Child."""
        return self._child.exit_code()

    def listens(self) -> bool:
        """Whether its loop goes round."""
        return self.exit_code() is None and self._watchdog.silent_s() is not None

    def hang(self, heartbeat_timeout_s: float, first_start_s: float) -> str | None:
        """Why it must be taken for dead although it runs, None if it need not be.

        ``first_start_s``: what the first start of all took.
        """
        silent_s = self._watchdog.silent_s()
        if silent_s is not None:
            return f"no sign of life for {silent_s:.1f} s" if silent_s >= heartbeat_timeout_s else None
        limit_s = max(MIN_RESTART_S, RESTART_FACTOR * first_start_s)
        return "it does not start" if time.monotonic() - self._started >= limit_s else None

    def restart(self, why: str, cause: Cause | None = None) -> bool:
        """Start it again. Returns False if it dies too often.

        ``cause``: None: what its exit code says.
        """
        exit_code = self.exit_code()
        if cause is None:
            assert exit_code is not None
            cause = self._cause(exit_code)
        if self.is_replaced:
            logger.info("engine %d has ended as it was asked to: its successor starts", self._config.index)
            self.is_replaced = False
        elif not self._may_restart(why):
            return False
        tell_exit(self._config.socket, self._child.pid, cause)
        self._child.kill()
        config = self._config
        config.socket.unlink(missing_ok=True)
        if cause != "ended":
            # The last few are enough: workers ask about the one that they were connected to.
            pids = (*getattr(config, cause), self._child.pid)[-DEATHS_TOLD:]
            config = msgspec.structs.replace(config, **{cause: pids})
        self._config = config
        self._start()
        return True

    def replace(self) -> None:
        """Ask it to end after its step; ``restart`` then starts a successor. What it was doing goes on elsewhere."""
        self.is_replaced = True
        self._child.terminate()

    def keep_size(self) -> Hello | None:
        """What it has taken must fit into its successors, however much memory is free then. Returns its Hello."""
        hello = read_hello(self._config.socket)
        if hello is not None:  # else it has just died; the next one says the same
            self._config = msgspec.structs.replace(self._config, num_pages=hello.num_pages + 1)
        return hello

    def end(self) -> None:
        """Ask it to end, in every way."""
        self._child.terminate()
        self._child.hang_up()

    def kill(self) -> None:
        """See Child."""
        self._child.kill()

    def _start(self) -> None:
        self._child = Child(ENGINE_MODULE, self._config, self._environment)
        self._started = time.monotonic()
        self._memory_kills = memory_kills()
        self._watchdog.expect(self._child.pid)

    def _cause(self, exit_code: int) -> Cause:
        if exit_code not in FROM_OUTSIDE:
            return "crashed"
        kills = memory_kills()
        return "killed" if exit_code == KILLED and (kills is None or kills != self._memory_kills) else "ended"

    def _may_restart(self, why: str) -> bool:
        self._restarts.append(time.monotonic())
        recent = sum(self._restarts[-1] - moment < RESTART_WINDOW_S for moment in self._restarts)
        if recent > self._max_restarts:
            logger.error("the engine died %d times in %.0f s; stopping", recent, RESTART_WINDOW_S)
            return False
        logger.warning("the engine died (%s); starting it again, %d of %d", why, recent, self._max_restarts)
        return True


def devices_of(replica: int, replicas: int, each: int) -> dict[str, str] | None:
    """Variables that give one of several engines so many GPUs of its own; None where there are no GPUs.

    Raises StartError if there are too few.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name for name in visible.split(",") if name.strip()]
    else:
        devices = [str(i) for i, _ in enumerate(_gpus())]
    if replicas == 1 or not devices:
        return None
    if len(devices) < replicas * each:
        raise StartError(f"{replicas} engines with {each} GPUs each: only {len(devices)} GPUs are here")
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[replica * each : (replica + 1) * each])}


def _gpus() -> list[Path]:
    try:
        return sorted(Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return []
