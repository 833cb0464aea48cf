"""The supervisor's look at its engine: whether its loop goes round."""

import time
from pathlib import Path

from ...engine.flight_recorder import FlightRecord, flight_path

# A supervisor that was itself stopped for longer knows nothing: the engine may have been, too, and gets its turn first.
_STALE_S = 3.0


class Watchdog:
    """Reads the flight record of one engine at a time."""

    def __init__(self, socket: Path) -> None:
        self._path = flight_path(socket)
        self._record: FlightRecord | None = None
        self._pid = 0
        self._last_look = 0.0  # time.monotonic()

    def expect(self, pid: int) -> None:
        """From now on it is this engine."""
        self._pid, self._record = pid, None

    def silent_s(self) -> float | None:
        """Seconds since its loop went round; None while it doesn't listen yet."""
        now, last = time.monotonic(), self._last_look
        self._last_look = now
        if self._record is None:
            try:
                record = FlightRecord(self._path)
            except (OSError, ValueError):
                return None
            if record.pid != self._pid:
                return None
            self._record = record
        return 0.0 if now - last > _STALE_S else self._record.loop_age_s
