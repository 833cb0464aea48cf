"""What is shown while a run goes on: a live line on a terminal, a plain line now and then when piped. On stderr."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .client import Client
from .run import LiveRun

LIVE_INTERVAL_S = 0.25
PLAIN_INTERVAL_S = 5.0


class Progress:
    """Context manager over all runs of a command."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars: Bars | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Bars(*columns, TextColumn("{task.fields[figures]}"), console=console)
        self._task: TaskID | None = None
        self.interval_s = LIVE_INTERVAL_S if self._bars else PLAIN_INTERVAL_S

    def __enter__(self) -> "Progress":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, message: str) -> None:
        """One line that stays."""
        if self._bars:
            self._bars.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def begin(self, label: str, requests: int) -> None:
        """A run begins."""
        self._label, self._requests, self._begin = label, requests, time.perf_counter()
        self._events, self._seen = 0, self._begin
        if self._bars:
            self._task = self._bars.add_task(label, total=requests, figures="")

    def show(self, run: LiveRun, client: Client) -> None:
        """How far it is."""
        now = time.perf_counter()
        done, failed = len(run.answers), sum(answer.error is not None for answer in run.answers)
        events = client.events
        rate = (events - self._events) / max(now - self._seen, 1e-9)
        self._events, self._seen = events, now
        figures = f"{client.running} running, {rate:.0f} events/s" + (f", {failed} failed" if failed else "")
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=done, figures=figures)
        else:
            print(
                f"{self._label}: {done}/{self._requests} requests after {now - self._begin:.0f} s, {figures}",
                file=sys.stderr,
                flush=True,
            )
