"""Model checking of a request's life between API worker, supervisor and engine: no order of messages and deaths leaves
one waiting for ever, loses or repeats a token, or lets it pay for another.

Worker, frames, flight record and quarantine are the real ones; the engine is a pure function of prompt and position
behind a transport of ours, which cuts its bytes anywhere and dies at any of them.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headwater.api.engine_client import client as engine_client
from headwater.api.engine_client import remote_sequence
from headwater.api.engine_client.client import ENGINE_WAIT_S, EngineClient, _Connection
from headwater.api.engine_client.remote_sequence import EngineError, RemoteSequence, Waker
from headwater.engine.flight_recorder import FlightRecorder, flight_path
from headwater.engine.frames import FrameReader, encode_frame
from headwater.engine.messages import Abort, Hello, SamplingParams, Stats, Step, Submit, ToEngine, Tokens
from headwater.engine.quarantine import Quarantine
from headwater.engine.sequence import SequenceKey

from ..conftest import submit

T = TypeVar("T")

STATS = Stats(*[0] * 8, 0.0, 0.0)
CONNECTION = 4
POISON = 99  # prompt token


def token_at(prompt: int, position: int) -> int:
    return (prompt * 31 + position * 7) % 1000


class Engine:
    """Runs every sequence it has in each step, two steps under way at a time. A poisonous one kills it at ``seed``."""

    def __init__(self, socket: Path, pid: int, crashed: tuple[int, ...], killed: tuple[int, ...]) -> None:
        self.pid = pid
        self.dead = False
        self.crashed = False
        self.killed = False  # perhaps for its memory
        self.sequences: dict[SequenceKey, tuple[Submit, list[int]]] = {}
        self._reader: FrameReader[Submit | Abort] = FrameReader(ToEngine)
        self._quarantine = Quarantine()
        path = flight_path(socket)
        self._flight = FlightRecorder(path)
        record = bytearray(path.read_bytes())
        record[:8] = pid.to_bytes(8, "little")
        path.write_bytes(record)
        self._under_way: list[list[SequenceKey]] = []
        hello = Hello(
            "m", "cpu", "cpu", "f", 1000, 64, 8, 16, 99, pid=pid, connection=CONNECTION, crashed=crashed, killed=killed
        )
        self.outbox = bytearray(encode_frame(hello))  # what is on its way to the worker

    # What a transport has to have.

    def write(self, data: bytes) -> None:
        if self.dead:
            return
        for message in self._reader.feed(data):
            key = SequenceKey(CONNECTION, message.request_id)
            if isinstance(message, Abort):
                self._quarantine.drop(key)
                self.sequences.pop(key, None)
            elif message.suspect:
                self._quarantine.add(key, message)
            elif self._quarantine.active:
                self._quarantine.hold(key, message)
            else:
                self._start(key, message)

    def abort(self) -> None:
        raise AssertionError("the worker took offence at a frame")

    def knows(self, request_id: int) -> bool:
        key = SequenceKey(CONNECTION, request_id)
        return key in self.sequences or key in self._quarantine

    def step(self) -> None:
        if self._quarantine.active and self._quarantine.current is None:
            for key, (submit, tokens) in self.sequences.items():
                self._quarantine.hold(key, msgspec.structs.replace(submit, emitted_ids=tokens))
            self.sequences.clear()
            while self._under_way:
                self._read()
            self._start(*self._quarantine.begin())
        if not self._quarantine.active:
            for held in self._quarantine.release():
                self._start(*held)
        self._flight.quarantine(self._quarantine.current)
        if self.sequences:
            self._flight.begin_step(self.sequences)
            self._under_way.append(list(self.sequences))
            for submit, tokens in self.sequences.values():
                if submit.prompt_ids == [POISON] and len(tokens) + len(self._under_way) > submit.sampling.seed:
                    self.dead = self.crashed = True
                    return
        if len(self._under_way) > 1 or (self._under_way and not self.sequences):
            self._read()

    def _start(self, key: SequenceKey, submit: Submit) -> None:
        assert key not in self.sequences, "submitted twice"
        self.sequences[key] = submit, list(submit.emitted_ids)

    def _read(self) -> None:
        step = Step(STATS)
        for key in self._under_way.pop(0):
            if key not in self.sequences:
                continue
            submit, tokens = self.sequences[key]
            tokens.append(token_at(submit.prompt_ids[0], len(tokens)))
            done = len(tokens) == submit.sampling.max_new_tokens
            step.tokens.append(Tokens(key.request_id, tokens[-1:], [0.0], "length" if done else None))
            if done:
                del self.sequences[key]
        self._flight.end_step()
        self._quarantine.observe(CONNECTION, step)
        self._flight.quarantine(self._quarantine.current)
        self.outbox += encode_frame(step)


class Asked:
    """A generation and what is known of it beside it."""

    def __init__(self, handle: RemoteSequence, prompt: int, count: int) -> None:
        self.handle = handle
        self.expected = [token_at(prompt, position) for position in range(count)]
        self.poisonous = prompt == POISON
        self.aborted = False
        self.taken: list[int] = []
        self.error: EngineError | None = None

    def take(self) -> None:
        try:
            self.taken += self.handle.token_ids[self.handle.take()]
        except EngineError as error:
            self.error = error

    @property
    def over(self) -> bool:
        return self.error is not None or self.aborted or self.handle.finish_reason is not None


class RequestLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.socket = Path(self.directory.name) / "engine.sock"
        self.now = 1000.0
        self.patch = pytest.MonkeyPatch()
        for module in (engine_client, remote_sequence):
            self.patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.client = EngineClient(self.socket, heartbeat_timeout_s=30.0)
        self.engine: Engine | None = None
        self.connection: _Connection | None = None
        self.asked: list[Asked] = []
        self.pid = 100
        self.crashed: tuple[int, ...] = ()
        self.killed: tuple[int, ...] = ()
        self.kills = 0
        self.memory_kills = 0

    def teardown(self) -> None:
        try:
            self._everything_ends()
        finally:
            self.patch.undo()
            self.runner.close()
            self.directory.cleanup()

    @initialize()
    def first_engine(self) -> None:
        self.start_engine()

    @rule(
        prompt=strategies.sampled_from([1, 2, 3, 4, 5, POISON]),
        count=strategies.integers(1, 6),
        at=strategies.integers(0, 3),
    )
    def submit(self, prompt: int, count: int, at: int) -> None:
        sampling = SamplingParams(count + 4 * (prompt == POISON), greedy=False, seed=at)
        self.asked.append(Asked(self._run(self._submit(prompt, sampling)), prompt, sampling.max_new_tokens))

    @precondition(lambda self: self.asked)
    @rule(which=strategies.integers(0, 1000))
    def abort(self, which: int) -> None:
        asked = self.asked[which % len(self.asked)]
        if not asked.over:
            asked.aborted = True
            asked.handle.abort()

    @precondition(lambda self: self.engine is not None)
    @rule()
    def step(self) -> None:
        assert self.engine is not None
        self.engine.step()

    @precondition(lambda self: self.engine is not None)
    @rule(share=strategies.sampled_from([0.3, 0.9, 1.0]))
    def deliver(self, share: float) -> None:
        """Some of the bytes that are on their way arrive."""
        assert self.engine is not None
        assert self.connection is not None
        count = int(len(self.engine.outbox) * share)
        data = bytes(self.engine.outbox[:count])
        del self.engine.outbox[:count]
        self._run(self._receive(data))

    @precondition(lambda self: self.engine is not None and not self.engine.dead and self.kills < 12)
    @rule(for_memory=strategies.booleans())
    def kill_engine(self, for_memory: bool) -> None:
        assert self.engine is not None
        self.kills += 1
        self.memory_kills += for_memory
        self.engine.dead, self.engine.killed = True, for_memory

    @precondition(lambda self: self.engine is not None and self.engine.dead)
    @rule(all_arrives=strategies.booleans())
    def notice_death(self, all_arrives: bool) -> None:
        assert self.engine is not None
        if all_arrives:
            self.deliver(1.0)
        if self.engine.crashed:
            self.crashed = (*self.crashed, self.engine.pid)[-8:]
        elif self.engine.killed:
            self.killed = (*self.killed, self.engine.pid)[-8:]
        self.engine = None
        self._run(self._lose())

    @precondition(lambda self: self.engine is None)
    @rule()
    def start_engine(self) -> None:
        self.pid += 1
        self.engine = Engine(self.socket, self.pid, self.crashed, self.killed)
        self._run(self._connect())

    @rule(seconds=strategies.sampled_from([1.0, ENGINE_WAIT_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._run(self._look())

    @invariant()
    def what_came_is_right(self) -> None:
        for asked in self.asked:
            asked.take()
            assert asked.taken == asked.expected[: len(asked.taken)]
            if asked.error is not None and "died of this request" in str(asked.error):
                # A crash in quarantine, or ends for want of memory until no other explanation is likely.
                assert asked.poisonous or self.memory_kills >= 2

    @invariant()
    def who_is_not_over_is_somewhere(self) -> None:
        for asked in self.asked:
            live = asked.handle.request_id in self.client._live
            assert live == (not asked.over), "over, or in the worker's hands"
            connected = self.client._transport is not None and self.engine is not None and not self.engine.dead
            if live and connected:
                assert self.engine is not None
                assert self.engine.knows(asked.handle.request_id) or self.engine.outbox, "lost by the engine"

    def _everything_ends(self) -> None:
        """Without more kills, all that is not over ends well, but for the poisonous ones, in few restarts."""
        deaths = 0
        for _ in range(2000):
            if self.engine is not None and self.engine.dead:
                deaths += self.engine.crashed
                self.notice_death(True)
            if self.engine is None:
                self.start_engine()
            self.step()
            self.deliver(1.0)
            self.what_came_is_right()
            if all(asked.over for asked in self.asked):
                break
        poisonous = sum(asked.poisonous for asked in self.asked)
        assert deaths <= 2 * poisonous + 1
        for asked in self.asked:
            assert asked.over, "it waits for ever"
            if not asked.aborted and asked.error is None:
                assert asked.taken == asked.expected
        assert self.client.live == 0

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    async def _submit(self, prompt: int, sampling: SamplingParams) -> RemoteSequence:
        return submit(self.client, [prompt], sampling, Waker())

    async def _receive(self, data: bytes) -> None:
        assert self.connection is not None
        self.connection.data_received(data)

    async def _connect(self) -> None:
        self.connection = _Connection(self.client)
        self.connection.connection_made(self.engine)  # type: ignore[arg-type]

    async def _lose(self) -> None:
        assert self.connection is not None
        self.connection.connection_lost(None)

    async def _look(self) -> None:
        self.client._watch_absence()


TestRequestLife = RequestLife.TestCase
TestRequestLife.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_poisonous_request_among_others() -> None:
    """The usual story, told out."""
    life = RequestLife()
    life.first_engine()
    life.deliver(1.0)
    for prompt in (1, POISON, 2):
        life.submit(prompt, 6, 2)
    life._everything_ends()
    assert [asked.error is not None for asked in life.asked] == [False, True, False]
    assert len(life.crashed) == 2
    life.teardown()
