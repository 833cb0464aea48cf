"""The engine proper: sequences in, tokens out, one step at a time. Knows neither sockets nor time-outs."""

import time
from collections import defaultdict

from .limits import Limits
from .messages import Failed, Started, Stats, Step, Submit, Tokens
from .pages import PagePool
from .runner import Runner
from .scheduler import Chunk, Scheduled, Scheduler
from .sequence import Sequence, SequenceKey


class Engine:
    """Scheduler and runner, and the counters that tell how they do."""

    def __init__(self, runner: Runner, limits: Limits, max_waiting: int) -> None:
        self._runner = runner
        self._limits = limits
        self._max_waiting = max_waiting
        self._scheduler = Scheduler(PagePool(limits.num_pages), limits.page_size, limits.max_sequences, limits.max_rows)
        self._step_s = 0.0
        self._step_end = time.monotonic()
        self.reset_counters()

    def reset_counters(self) -> None:
        """Start counting at zero: the warm-up is nobody's traffic."""
        self._steps = self._prompt_tokens = self._generated_tokens = self._aborted = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def submit(self, connection: int, submit: Submit) -> Failed | None:
        """Queue a sequence, or say why not."""
        error = self._refuse(connection, submit)
        if error is not None:
            return Failed(submit.request_id, error, "validation")
        self._scheduler.add(Sequence.of(connection, submit, time.monotonic()))
        return None

    def abort(self, connection: int, request_id: int) -> None:
        """Drop a sequence; unknown ones (it may have ended meanwhile) are ignored."""
        self._drop(SequenceKey(connection, request_id))

    def abort_all(self, connection: int) -> None:
        """Drop every sequence of a worker that has gone."""
        for key in self._scheduler.keys_of(connection):
            self._drop(key)

    def step(self) -> dict[int, Step]:
        """Run one step. Returns what each connection that takes part in it is to be told."""
        begin = time.monotonic()
        scheduled = self._scheduler.schedule()
        steps: defaultdict[int, Step] = defaultdict(lambda: Step(self.stats()))
        self._enter_and_leave(scheduled, steps, begin)
        tokens, logprobs = self._runner.run(scheduled.chunks)
        results = iter(zip(tokens, logprobs, strict=True))
        for chunk in scheduled.chunks:
            self._account(chunk)
            if chunk.samples:
                token, logprob = next(results)
                self._emit(chunk.sequence, token, logprob, steps)
            chunk.sequence.computed += chunk.count
        self._finish(scheduled.chunks)
        self._steps += 1
        self._step_end = time.monotonic()
        self._step_s = self._step_end - begin
        for step in steps.values():
            step.stats = self.stats()
        return steps

    def check(self) -> None:
        """Assert the bookkeeping's invariants; called when idle."""
        self._scheduler.check()

    def stats(self) -> Stats:
        """Counters and gauges as they are now."""
        return Stats(
            steps=self._steps,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            free_pages=self._scheduler.pool.num_free,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._scheduler.preemptions,
            aborted=self._aborted,
            step_s=self._step_s,
            time=self._step_end,
        )

    def _refuse(self, connection: int, submit: Submit) -> str | None:
        """Why a sequence can't be taken, if so. The API has checked all but the last; it may be wrong."""
        total = len(submit.prompt_ids) + submit.sampling.max_new_tokens
        if SequenceKey(connection, submit.request_id) in self._scheduler:
            return f"request id {submit.request_id} is in use"
        if not submit.prompt_ids or submit.sampling.max_new_tokens < 1:
            return "a sequence needs at least one prompt token and one new token"
        if total > self._limits.max_total_tokens:
            return f"{total} tokens asked for, {self._limits.max_total_tokens} is the most"
        if len(submit.emitted_ids) >= submit.sampling.max_new_tokens:
            return "all tokens were emitted already"
        vocab_size = self._runner.vocab_size
        if not all(0 <= token < vocab_size for ids in (submit.prompt_ids, submit.emitted_ids) for token in ids):
            return f"token ids must be in [0, {vocab_size})"
        if len(self._scheduler.waiting) >= self._max_waiting:
            return f"{self._max_waiting} sequences are waiting already"
        return None

    def _drop(self, key: SequenceKey) -> None:
        sequence = self._scheduler.remove(key)
        if sequence is not None:
            self._runner.stop(sequence)
            self._aborted += 1

    def _enter_and_leave(self, scheduled: Scheduled, steps: dict[int, Step], now: float) -> None:
        for sequence in scheduled.preempted:
            self._runner.stop(sequence)
        for sequence in scheduled.admitted:
            self._runner.start(sequence)
            if not sequence.was_started:
                sequence.was_started = True
                steps[sequence.key.connection].started.append(Started(sequence.key.request_id, now - sequence.arrival))

    def _account(self, chunk: Chunk) -> None:
        end = chunk.start + chunk.count
        self._prompt_tokens += max(0, min(end, chunk.sequence.prompt_tokens) - chunk.start)

    def _emit(self, sequence: Sequence, token: int, logprob: float, steps: dict[int, Step]) -> None:
        sequence.append(token)
        self._generated_tokens += 1
        steps[sequence.key.connection].tokens.append(
            Tokens(sequence.key.request_id, [token], [logprob], sequence.finish_reason)
        )

    def _finish(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            if chunk.sequence.finish_reason is not None:
                self._scheduler.remove(chunk.sequence.key)
                self._runner.stop(chunk.sequence)
