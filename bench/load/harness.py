"""What the load commands have in common: targets, prompts, Ctrl-C, progress, and runs one after the other."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Self

import uvloop
from msgspec import Struct

from ..options import LoadOptions
from . import settings
from .client_check import ClientCheck, check_client
from .metrics import Figures, summarize
from .progress import Progress
from .prompts import TokenizedWords, Words, calibrated_words
from .run import LiveRun, Load, Outcome, watch
from .target import Address, Target, parse_address
from .workload import Session

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class Run(Struct):
    """One load on one target, and what it showed."""

    target: Target
    load: Load
    outcome: Outcome
    figures: Figures


class Harness:
    """An asynchronous context; everything that was measured when Ctrl-C came is kept."""

    def __init__(self, urls: list[str], options: LoadOptions, progress: Progress) -> None:
        """Raises ValueError for anything that can't be meant."""
        self.options = options
        self.workload = settings.workload(options)
        self.objectives = settings.objectives(options)
        self.progress = progress
        self.client_check: ClientCheck | None = None
        self.words_assumed = False  # neither the server nor a tokenizer tells how many tokens a text has
        self.runs: list[Run] = []
        self._addresses: list[Address] = [parse_address(url, options.protocol) for url in urls]
        self._request_options, self._headers = settings.request_options(options), settings.headers(options)
        self._patience = settings.patience(options)
        self._words: Words | None = TokenizedWords(options.tokenizer) if options.tokenizer else None

    @property
    def interrupted(self) -> bool:
        return self._stop.is_set()

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return INTERRUPTED
        failed = any(run.figures.failed for run in self.runs) or not any(run.figures.completed for run in self.runs)
        return 1 if failed and not self.options.allow_errors else 0

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self.targets = [Target(each, self._request_options, self._headers, self._patience) for each in self._addresses]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number)
        return self

    async def __aexit__(self, *_: object) -> None:
        for target in self.targets:
            target.client.close()

    async def prepare(self) -> None:
        """Everything that happens before a clock runs."""
        if self.options.client_check:
            self.progress.say("measuring this client against a server that computes nothing")
            self.client_check = await check_client()
            self.progress.say(str(self.client_check))
        for target in self.targets:
            await target.introduce()
        if self._words is None:
            self._words = await calibrated_words(self.targets[0].input_tokens_of)
        if self._words is None:
            self._words = Words()
            self.words_assumed = True
        if self.options.warmup and not self.interrupted:
            sessions = self.sessions(self.options.warmup, 0)
            for target in self.targets:
                await LiveRun(target.client, self._stop).run(sessions, Load(self.options.warmup), 0, None)

    def sessions(self, requests: int, number: int) -> list[Session]:
        """The sessions of run ``number``; equal for equal numbers. Raises ValueError."""
        assert self._words is not None
        return self.workload.sessions(self._words, requests, (self.options.seed, number))

    async def run(self, target: Target, load: Load, number: int, label: str) -> Run:
        """One run, kept in ``runs``."""
        sessions = self.sessions(settings.num_requests(self.options, load.concurrency), number)
        self.progress.begin(label, sum(len(session.turns) for session in sessions))
        live = LiveRun(target.client, self._stop)
        outcome = await watch(
            live.run(sessions, load, self.options.seed + number, self.options.duration),
            lambda: self.progress.show(live, target.client),
            self.progress.interval_s,
        )
        run = Run(target, load, outcome, summarize(outcome.answers, outcome.duration_s, self.objectives))
        self.runs.append(run)
        return run

    def _interrupt(self, number: int) -> None:
        self.progress.say("stopping; what was measured so far follows")
        self._stop.set()
        for target in self.targets:
            target.client.cancel()
        asyncio.get_running_loop().remove_signal_handler(number)  # a second one ends the process


def run_harness(urls: list[str], options: LoadOptions, measure: Callable[[Harness], Awaitable[None]]) -> Harness:
    """Set up, measure, close. Raises ValueError."""

    async def main(progress: Progress) -> Harness:
        async with Harness(urls, options, progress) as harness:
            await harness.prepare()
            if not harness.interrupted:
                await measure(harness)
            return harness

    with Progress() as progress:
        return uvloop.run(main(progress))
