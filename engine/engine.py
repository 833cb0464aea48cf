"""The engine proper: sequences in, tokens out, one step at a time. Knows neither sockets nor time-outs.

One step of overlap: the next step is scheduled and launched before the tokens of the last are read, so that the host's
work is done while the device computes. A sequence that turns out to have ended cost one row. Where a step needs to know
the tokens before it (a grammar's next mask, a guess to verify), it is read at once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass

from ..kernels.sampling_batch import PROCESSED
from .adapter_set import AdapterSet
from .chunk import Chunk, Scheduled
from .grammar import GrammarError, Matcher
from .grammar_compiler import Compiled, GrammarCompiler
from .kv_events import KVEvents
from .limits import Limits
from .messages import NO_DISK, ErrorType, Failed, PromptLogprobs, SamplingParams, Started, Stats, Step, Submit, Tokens
from .page_store import PageStore
from .pages import PagePool
from .prefix_cache import root_key
from .runner import Launched, Runner
from .sampling_results import HostSampled
from .sampling_rules import can_speculate, needs_sync
from .scheduler import Scheduler
from .sequence import Sequence, SequenceKey
from .shards.ranks import Ranks
from .speculation.guesser import Guesser
from .validation import refuse

_SAVE_S = 6.0  # of the supervisor's 10 for the end of an engine

Steps = dict[int, Step]  # what each connection is to be told


@dataclass
class _Counters:
    """Since the engine's start; fields of Stats."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    aborted: int = 0
    expired_waiting: int = 0
    expired_running: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_steps: int = 0
    steps_done: int = 0
    prompt_steps_done: int = 0


class Engine:
    """Scheduler and runner, grammars, and the counters that tell how they do."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        max_waiting: int,
        *,
        compiler: GrammarCompiler | None = None,
        prefix_cache: bool = True,
        adapters: AdapterSet | None = None,
        guesser: Guesser | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """
        Args:
            max_waiting: sequences that may wait; more are refused.
            compiler: without one, grammars are refused.
            adapters: without them, sequences that name one are refused.
            guesser: of tokens to come; without one, each is waited for.
            ranks: that compute the rest of each step, and end with the engine.
        """
        self._runner = runner
        self._limits = limits
        self._max_waiting = max_waiting
        self._compiler = compiler
        self.adapters = adapters
        self._ranks = ranks
        self._guesser = guesser or Guesser()
        self._scheduler = Scheduler(
            PagePool(limits.num_pages), limits.page_size, limits.max_sequences, limits.max_rows,
            prefix_cache=prefix_cache, propose=guesser.propose if guesser else None,
        )  # fmt: skip
        self._compiling: dict[SequenceKey, tuple[Sequence, Future[Compiled]]] = {}
        self._grammars: dict[SequenceKey, Compiled] = {}
        self._matchers: dict[SequenceKey, Matcher] = {}
        self._launched: Launched | None = None
        self._step_s = 0.0
        self._step_end = time.monotonic()
        self.wake: Callable[[], None] = lambda: None  # called by another thread when a grammar is compiled
        self.before_step: Callable[[list[Chunk]], None] = lambda _: None  # at most one other step is under way
        self.after_step: Callable[[], None] = lambda: None  # the tokens of the older step under way were handed out
        self._store: PageStore | None = None
        self._events: KVEvents | None = None
        self.reset_counters()

    def keep(self, store: PageStore) -> None:
        """From now on, pages of the prefix cache that leave memory go there, and come back."""
        self._store = store
        self._scheduler.keep(store)

    def publish(self, events: KVEvents) -> None:
        """From now on, tell of pages of the prefix cache that come and go. Before the first sequence."""
        self._events = events
        self._scheduler.publish(events)
        events.flush()

    def close(self) -> None:
        """The last step was launched: what the prefix cache holds is kept for the next engine."""
        if self._events is not None:
            self._events.close()
        if self._store is not None:
            self._store.close(self._scheduler.pool.known(), _SAVE_S)
        if self._ranks is not None:
            self._ranks.close()

    def reset_counters(self) -> None:
        """Start counting at zero: the warm-up is nobody's traffic."""
        self._counters = _Counters()
        self._scheduler.cached_tokens = self._scheduler.preemptions = 0
        self._guesser.reset()

    @property
    def runner(self) -> Runner:
        """What runs the steps: for measurements."""
        return self._runner

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do."""
        return self._scheduler.has_work or self._launched is not None or self._is_compiled

    @property
    def compiling(self) -> Collection[SequenceKey]:
        """Those that wait for their grammar."""
        return self._compiling.keys()

    @property
    def _is_compiled(self) -> bool:
        return bool(self._compiling) and any(future.done() for _, future in self._compiling.values())

    def submit(self, connection: int, submit: Submit) -> Failed | None:
        """Queue a sequence, or say why not."""
        key = SequenceKey(connection, submit.request_id)
        grammar = submit.sampling.grammar
        if key in self._scheduler or key in self._compiling:
            return Failed(submit.request_id, f"request id {submit.request_id} is in use", "validation")
        error = refuse(submit, self._limits, self._runner.vocab_size)
        if error is None and grammar is not None and self._compiler is None:
            error = "this engine has no grammars"
        if error is not None:
            return Failed(submit.request_id, error, "validation")
        if not submit.replayed and len(self._scheduler.waiting) + len(self._compiling) >= self._max_waiting:
            return Failed(submit.request_id, f"{self._max_waiting} sequences are waiting already", "overloaded")
        sequence = Sequence.of(connection, submit, time.monotonic())
        if (name := submit.sampling.adapter) is not None:
            found = None if self.adapters is None else self.adapters.find(name, replayed=submit.replayed)
            if found is None:
                return Failed(submit.request_id, f"adapter '{name}' is not loaded", "validation")
            sequence.adapter, sequence.root_key = found
        sequence.root_key = root_key(sequence.root_key, submit.scheduling.cache_salt)
        if grammar is None:
            self._scheduler.add(sequence)
        else:
            assert self._compiler is not None
            # Beside the steps: it enters the queue when its grammar is ready, and keeps nobody else waiting.
            self._compiling[key] = (sequence, self._compiler.submit(grammar, lambda: self.wake()))
        return None

    def abort(self, connection: int, request_id: int) -> None:
        """Drop a sequence; unknown ones (it may have ended meanwhile) are ignored."""
        self._drop(SequenceKey(connection, request_id))

    def abort_all(self, connection: int) -> None:
        """Drop every sequence of a worker that has gone."""
        for key in self._scheduler.keys_of(connection):
            self._drop(key)
        for key in [key for key in self._compiling if key.connection == connection]:
            self._drop(key)

    def withdraw_all(self) -> list[tuple[SequenceKey, Submit]]:
        """Take every sequence out, in order of arrival, each as what goes on with it later."""
        waiting = [sequence for sequence, _ in self._compiling.values()]
        sequences = [*self._scheduler.running, *self._scheduler.waiting, *waiting]
        for sequence in sequences:
            if self._compiling.pop(sequence.key, None) is None:
                self._scheduler.remove(sequence.key)
            self._forget(sequence.key)
        return [(s.key, s.resume()) for s in sorted(sequences, key=lambda sequence: sequence.arrival)]

    def free_adapters(self) -> bool:
        """Forget the unloaded adapters that no sequence has any more. Returns whether there were any."""
        if self.adapters is None or not (slots := self.adapters.retired_slots):
            return False
        waiting = [sequence for sequence, _ in self._compiling.values()]
        used = {s.adapter for s in (*self._scheduler.running, *self._scheduler.waiting, *waiting)}
        unused = [slot for slot in slots if slot not in used]  # rows under way are waited for
        for slot in unused:
            self.adapters.free(slot)
        return bool(unused)

    def step(self) -> Steps:
        """Launch a step, and read the one before. Returns what each connection is to be told."""
        begin = time.monotonic()
        steps: defaultdict[int, Step] = defaultdict(lambda: Step(self.stats()))
        self._queue_compiled(steps)
        self._expire(begin, steps)
        last, self._launched = self._launched, None
        generated = self._counters.generated_tokens
        self._guesser.begin(len(self._scheduler.running))
        scheduled = self._scheduler.schedule()
        if scheduled.chunks:
            self.before_step(scheduled.chunks)
        self._enter(scheduled, steps, begin)
        if scheduled.chunks:
            self._guesser.fill(scheduled.chunks)
            self._launched = self._launch(scheduled.chunks)
        if last is not None:
            self._collect(last, steps)
        if self._launched is not None and self._must_know(self._launched.chunks):
            self._collect(self._launched, steps)
            self._launched = None
        if self._store is not None:
            self._store.step_read()
        if self._events is not None:
            self._events.flush()
        self._step_end = time.monotonic()
        self._step_s = self._step_end - begin
        self._guesser.end(self._counters.generated_tokens - generated, self._step_s)
        for step in steps.values():
            step.stats = self.stats()
        return steps

    def check(self) -> None:
        """Assert the bookkeeping's invariants; called when idle."""
        self._scheduler.check()
        assert len(self._grammars) == len(self._matchers), "a grammar is left over"

    def stats(self) -> Stats:
        """Counters and gauges as they are now."""
        scheduler = self._scheduler
        return Stats(
            **vars(self._counters),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._compiling),
            free_pages=scheduler.pool.num_free,
            preemptions=scheduler.preemptions,
            step_s=self._step_s,
            time=self._step_end,
            cached_pages=scheduler.pool.num_cached,
            cached_tokens=scheduler.cached_tokens,
            max_tokens=scheduler.running_max_tokens,
            disk=NO_DISK if self._store is None else self._store.stats,
            kv_events_dropped=0 if self._events is None else self._events.dropped,
        )

    def _drop(self, key: SequenceKey) -> None:
        known = self._compiling.pop(key, None) or self._scheduler.remove(key)
        if known is not None:
            self._forget(key)
            self._counters.aborted += 1

    def _forget(self, key: SequenceKey) -> None:
        self._grammars.pop(key, None)
        self._matchers.pop(key, None)

    def _queue_compiled(self, steps: Steps) -> None:
        """Let those in whose grammar is ready, or tell them what is wrong with it."""
        if not self._compiling:
            return
        for key, (sequence, future) in list(self._compiling.items()):
            if not future.done():
                continue
            del self._compiling[key]
            error = future.exception()
            if error is None:
                self._grammars[key] = future.result()
                self._scheduler.add(sequence)
            else:
                kind: ErrorType = "validation" if isinstance(error, GrammarError) else "generation"
                steps[key.connection].failed.append(Failed(key.request_id, str(error), kind))

    def _expire(self, now: float, steps: Steps) -> None:
        compiling = [sequence for sequence, _ in self._compiling.values() if sequence.deadline <= now]
        for sequence in (*compiling, *self._scheduler.expire(now)):
            self._counters.expired_running += sequence.was_started
            self._counters.expired_waiting += not sequence.was_started
            self._fail(sequence, "not finished by its deadline", "timeout", steps)

    def _fail(self, sequence: Sequence, error: str, kind: ErrorType, steps: Steps) -> None:
        key = sequence.key
        if self._compiling.pop(key, None) is None:
            self._scheduler.remove(key)
        self._forget(key)
        self._counters.aborted += 1
        steps[key.connection].failed.append(Failed(key.request_id, error, kind))

    def _enter(self, scheduled: Scheduled, steps: Steps, now: float) -> None:
        for sequence in scheduled.admitted:
            key, matcher = sequence.key, None
            grammar = self._grammars.get(key)
            if grammar is not None:
                generated = sequence.tokens[sequence.prompt_tokens :]
                matcher = self._matchers[key] = grammar.matcher(sequence.sampling.stop_token_ids, generated)
            self._runner.start(sequence, matcher)
            self._guesser.start(sequence)
            if not sequence.was_started:
                sequence.was_started = True
                steps[key.connection].started.append(Started(key.request_id, now - sequence.arrival, sequence.cached))

    def _launch(self, chunks: list[Chunk]) -> Launched:
        launched = self._runner.launch(chunks)
        counters = self._counters
        counters.steps += 1
        counters.prompt_steps += _computes_prompt(chunks)
        for chunk in chunks:
            sequence = chunk.sequence
            # Of guesses, it is known only later how many were right and are computed.
            sequence.computed += chunk.count - len(chunk.drafts)
            sequence.in_flight += chunk.samples
            counters.prompt_tokens += max(0, min(sequence.computed, sequence.prompt_tokens) - chunk.start)
            counters.drafted_tokens += len(chunk.drafts)
        return launched

    def _must_know(self, chunks: list[Chunk]) -> bool:
        guesses = self._guesser.is_on
        samplings = (chunk.sequence.sampling for chunk in chunks if chunk.samples)
        return any(needs_sync(sampling) or (guesses and can_speculate(sampling)) for sampling in samplings)

    def _collect(self, launched: Launched, steps: Steps) -> None:
        """Read the tokens of a step and hand them out."""
        results = self._runner.collect(launched)
        token_ids, logprobs = (
            results.token_ids[: launched.samples].tolist(),
            results.logprobs[: launched.samples, PROCESSED].tolist(),
        )
        row = 0
        for chunk in launched.chunks:
            if not chunk.samples:
                continue
            sequence, rows = chunk.sequence, 1 + len(chunk.drafts)
            sequence.in_flight -= 1
            if self._scheduler.holds(sequence):  # else it ended or was dropped meanwhile
                taken = self._accept(chunk, token_ids[row : row + rows])
                told = Tokens(sequence.key.request_id, token_ids[row : row + taken], logprobs[row : row + taken])
                if sequence.sampling.top_n or sequence.sampling.raw_logprobs:
                    _add_details(told, results, row, sequence.sampling)
                self._tell(sequence, told, steps)
                matcher = self._matchers.get(sequence.key)
                if matcher is not None and matcher.error is not None and sequence.finish_reason is None:
                    self._fail(sequence, matcher.error, "generation", steps)
                elif sequence.finish_reason is not None:
                    self._scheduler.remove(sequence.key)
                    self._forget(sequence.key)
            row += rows
        self._counters.steps_done += 1
        self._counters.prompt_steps_done += _computes_prompt(launched.chunks)
        self.after_step()

    def _accept(self, chunk: Chunk, token_ids: list[int]) -> int:
        """Append what was sampled, as long as the guesses before it were right. Returns the number of tokens."""
        sequence, drafts = chunk.sequence, chunk.drafts
        matcher = self._matchers.get(sequence.key)
        taken = 0
        for token in token_ids:
            sequence.append(token)
            taken += 1
            if matcher is not None:
                matcher.advance(token)
            if sequence.finish_reason is not None or taken > len(drafts) or token != drafts[taken - 1]:
                break
        sequence.computed += taken - 1
        self._counters.generated_tokens += taken
        self._counters.accepted_tokens += taken - 1
        return taken

    def _tell(self, sequence: Sequence, told: Tokens, steps: Steps) -> None:
        key = sequence.key
        step = steps[key.connection]
        if sequence.sampling.prompt_logprobs and sequence.generated == len(told.token_ids):
            step.prompts.append(PromptLogprobs(key.request_id, sequence.prompt_scores))
        told.finish_reason = sequence.finish_reason
        step.tokens.append(told)


def _computes_prompt(chunks: list[Chunk]) -> bool:
    return any(chunk.start < chunk.sequence.prompt_tokens for chunk in chunks)


def _add_details(told: Tokens, results: HostSampled, row: int, sampling: SamplingParams) -> None:
    details = [results.details(row + index, sampling) for index in range(len(told.token_ids))]
    told.logprobs = [logprob for logprob, _, _ in details]
    if sampling.top_n:
        told.top_ids = [ids for _, ids, _ in details]
        told.top_logprobs = [logprobs for _, _, logprobs in details]
