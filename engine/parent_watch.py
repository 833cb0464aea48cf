"""Ends a process whose parent is gone, however the parent went: `kill -9` included.

All processes of a server use it. No torch here: the API imports this module.
"""

import os
import select
import threading
import time
from collections.abc import Callable

_CHECK_S = 1.0


def watch_parent(parent_pid: int, on_orphaned: Callable[[], None], lifeline: int | None = None) -> None:
    """From a thread, call ``on_orphaned`` once this process has another parent.

    Args:
        lifeline: a file descriptor that the parent holds the other end of; its end of file says the same at once.
    """

    def watch() -> None:
        while os.getppid() == parent_pid and not _has_ended(lifeline):
            pass
        on_orphaned()

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _has_ended(lifeline: int | None) -> bool:
    """Waits up to a check's interval."""
    if lifeline is None:
        time.sleep(_CHECK_S)
        return False
    # os.read, not sys.stdin: the lock of a buffered reader would be held while workers are forked.
    readable, _, _ = select.select([lifeline], [], [], _CHECK_S)
    return bool(readable) and not os.read(lifeline, 4096)
