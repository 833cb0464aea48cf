"""Entry of the engine process: ``python -m headwater.engine``.

The first line of standard input is the EngineConfig as JSON. The rest of it is a lifeline: when it ends, so does the
process, whatever became of the supervisor.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import setproctitle

from .adapter_records import remove_records
from .checkpoint.errors import REFUSED, ModelError
from .config import EngineConfig, decode_config
from .flight_recorder import remove_engine_files
from .log import adopt_loggers, configure_logging, log_refusal
from .parent_watch import watch_parent

_ORPHAN_STOP_S = 3.0  # for the step in progress
_CRASHED = 70  # exit code, EX_SOFTWARE

logger = logging.getLogger("headwater.engine")  # this module is __main__


def main() -> int:
    """Returns the exit code: 0 after a stop, 2 if the model can't be served."""
    # The terminal's Ctrl-C goes to the supervisor, which ends the engine after the last response.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor = os.getppid()
    config = decode_config(_read_line(), EngineConfig)
    configure_logging(config.json_output)
    # Threads of torch's OpenMP, where it starts any, must not spin while they wait: kernels and API want the cores.
    # Read by libgomp when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    setproctitle.setproctitle(f"headwater engine {config.index}")
    watch_parent(supervisor, lambda: _leave(config.socket))

    from .cuda import advice
    from .faults import Faults
    from .server import EngineServer
    from .start import start_engine  # torch is imported here: after the name is set, before anything else is waited for

    adopt_loggers()  # torch's
    try:
        engine, hello = start_engine(config)
    except ModelError as error:
        log_refusal(error, config.json_output)
        return REFUSED
    faults = Faults(config.faults) if config.faults else None
    server = EngineServer(engine, hello, config.socket, sys.stdin.fileno(), faults)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    try:
        server.serve()
    except BaseException as error:
        told = advice(error)
        logger.critical("the engine failed%s", f": {told}" if told else "", exc_info=True)
        # At once: a step may be under way that never ends, and threads with it that an orderly exit would wait for.
        os._exit(_CRASHED)
    if os.getppid() != supervisor:
        remove_records(config.socket)  # else an engine may follow this one, which somebody ended
    remove_engine_files(config.socket)
    return 0


def _leave(socket: Path) -> None:
    """End this process if the supervisor is gone and the loop doesn't notice: it warms up, or a step hangs."""
    time.sleep(_ORPHAN_STOP_S)
    remove_records(socket)
    remove_engine_files(socket)
    os._exit(_CRASHED)


def _read_line() -> bytes:
    """The first line of standard input, byte by byte: a buffered read would swallow what the lifeline shows next."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit("engine: no config on standard input")
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
