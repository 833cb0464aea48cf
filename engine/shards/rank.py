"""The process of a rank that is not rank 0: ``python -m headwater.engine.shards.rank``.

It loads its part of the model, records the same programs as rank 0, and launches them when it is told to. Its standard
input is what it is told, and a lifeline: when it ends, so does the process.
"""

import logging
import os
import signal
import sys
import time

import setproctitle

from ..checkpoint.errors import REFUSED, ModelError
from ..config import decode_config
from ..frames import FrameReader, encode_frame
from ..log import adopt_loggers, configure_logging
from ..parent_watch import watch_parent
from .messages import Begin, ClearAdapter, Launch, PutAdapter, ShardConfig, ShardReady, ShardRefused, ToRank

logger = logging.getLogger("headwater.engine.shards.rank")  # this module is __main__


def main() -> int:
    """Returns the exit code: 0 once rank 0 is gone, 2 if this part can't be loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 finishes its step first, and needs this one for it
    begin, parent = time.monotonic(), os.getppid()
    reader: FrameReader[ToRank] = FrameReader(ToRank)
    line, _, rest = _read_until(b"\n").partition(b"\n")
    config = decode_config(line, ShardConfig)
    configure_logging(config.engine.json_output)
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    setproctitle.setproctitle(f"headwater engine {config.engine.index} shard {config.rank}")
    # The pool's threads may wait for a rank that is gone, and this one for the pool.
    watch_parent(parent, lambda: os._exit(0))

    from .follower import Follower  # torch is imported here, as in the engine

    adopt_loggers()
    try:
        follower = Follower(config)
        _reply(config.reply_fd, follower.loaded(begin))
        data = rest
        while True:
            for message in reader.feed(data):
                match message:
                    case Launch():
                        follower.launch(message)
                    case Begin():
                        follower.begin(message.limits)
                        _reply(config.reply_fd, ShardReady())
                    case PutAdapter():
                        follower.put_adapter(message)
                    case ClearAdapter():
                        follower.clear_adapter(message.slot)
            if not (data := os.read(sys.stdin.fileno(), 1 << 16)):
                os._exit(0)  # whatever is under way: nobody waits for it
    except ModelError as error:
        _reply(config.reply_fd, ShardRefused(str(error)))
        return REFUSED


def _read_until(end: bytes) -> bytes:
    data = b""
    while end not in data:
        if not (more := os.read(sys.stdin.fileno(), 1 << 16)):
            raise SystemExit("shard: no config on standard input")
        data += more
    return data


def _reply(descriptor: int, message: object) -> None:
    os.write(descriptor, encode_frame(message))


if __name__ == "__main__":
    sys.exit(main())
