"""Entry of the engine process: ``python -m headwater.engine``.

The first line of standard input is the EngineConfig as JSON. The rest of it is a lifeline: when it ends, so does the
process, whatever became of the supervisor.
"""

import os
import signal
import sys

import setproctitle

from .checkpoint.errors import ModelError
from .config import EngineConfig, decode_config


def main() -> int:
    """Returns the exit code: 0 after a stop, 2 if the model can't be served."""
    # The terminal's Ctrl-C goes to the supervisor, which ends the engine after the last response.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = decode_config(_read_line(), EngineConfig)
    # Where the CPU kernels have to run on OpenMP (kernels/cpu/threads.py), its threads must not spin while they wait:
    # the API wants the same cores. Read by libgomp when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    setproctitle.setproctitle(f"headwater engine {config.index}")

    from .server import EngineServer
    from .start import start_engine  # torch is imported here: after the name is set, before anything else is waited for

    try:
        engine, hello = start_engine(config)
    except ModelError as error:
        print(f"engine: {error}", file=sys.stderr, flush=True)
        return 2
    server = EngineServer(engine, hello, config.socket, sys.stdin.fileno())
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.serve()
    return 0


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
