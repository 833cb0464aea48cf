"""The engine's socket: API workers connect, submit and abort; after each step every worker gets one frame.

One thread does both. Sockets are looked at between steps, without waiting while there is work, so reading costs no
context switch and the scheduler needs no lock. Sends never block: what a worker doesn't take at once is kept for it.
"""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from .adapter_records import write_records
from .adapter_set import Requester
from .chunk import Chunk
from .engine import Engine
from .faults import Faults
from .flight_recorder import FlightRecorder, flight_path
from .frames import FrameError, FrameReader, encode_frame
from .messages import (
    Abort,
    Adapter,
    AdapterAnswer,
    AdapterList,
    Hello,
    LoadAdapter,
    Step,
    Submit,
    ToEngine,
    UnloadAdapter,
)
from .quarantine import Quarantine
from .sequence import SequenceKey

HEARTBEAT_S = 1.0  # the longest silence towards a worker, unless a step takes longer
_RECEIVE_BYTES = 1 << 18
# Frames that a worker may leave unread before it is taken for dead; a step of 256 sequences is about 8 KiB.
_MAX_UNSENT_BYTES = 64 << 20


class _Worker:
    """One connected API worker."""

    def __init__(self, connection: int, sock: socket.socket) -> None:
        self.connection = connection
        self.sock = sock
        self.reader: FrameReader[ToEngine] = FrameReader(ToEngine)
        self.unsent = bytearray()
        self.last_frame = 0.0  # time.monotonic() of the last one sent


class EngineServer:
    """Serves one engine on a Unix socket until its lifeline ends."""

    def __init__(self, engine: Engine, hello: Hello, path: Path, lifeline: int, faults: Faults | None = None) -> None:
        """Binds ``path`` (mode 0600); ``lifeline`` is a file descriptor whose end of file means: stop."""
        self._engine = engine
        self._hello = hello
        self._faults = faults
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        self._next_connection = 0
        self._stopped = False
        self._was_idle = False
        self._quarantine = Quarantine()
        # Before anybody can connect: who does reads it.
        self._flight = FlightRecorder(flight_path(path))
        engine.before_step = self._before_step
        engine.after_step = self._flight.end_step
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        mask = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(mask)
        self._listener.listen(64)
        self._watch(self._listener, selectors.EVENT_READ, self._accept)
        self._watch(lifeline, selectors.EVENT_READ, lambda _: self.stop())
        # Other threads of the engine (grammars) end a wait by a byte.
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._watch(self._woken, selectors.EVENT_READ, lambda _: self._drain())
        engine.wake = self._wake
        self._path = path
        if engine.adapters is not None:
            engine.adapters.wake = self._wake

    def stop(self) -> None:
        """End ``serve`` after the step in progress."""
        self._stopped = True

    def serve(self) -> None:
        """Run until the lifeline ends or ``stop`` is called."""
        while not self._stopped:
            self._flight.beat()
            busy = self._engine.has_work
            if not busy and not self._was_idle:
                self._engine.check()
            self._was_idle = not busy
            for key, events in self._selector.select(0 if busy else HEARTBEAT_S):
                key.data(events)
            self._run_quarantine()
            self._change_adapters()
            self._flight.compile(self._engine.compiling)
            if self._engine.has_work:
                self._step()
            self._send_heartbeats()
        self._listener.close()
        self._engine.close()

    def _step(self) -> None:
        for connection, step in self._engine.step().items():
            self._quarantine.observe(connection, step)
            self._send(self._workers[connection], encode_frame(step))
        self._flight.quarantine(self._quarantine.current)

    def _before_step(self, chunks: list[Chunk]) -> None:
        self._flight.begin_step(chunk.sequence.key for chunk in chunks)
        if self._faults is not None:
            self._faults.strike(chunks)

    def _watch(self, target: socket.socket | int, events: int, handler: Callable[[int], None]) -> None:
        self._selector.register(target, events, handler)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of bytes that nobody has read: awake enough
            self._waker.send(b"\0")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again, or no descriptor is left for it
            return
        sock.setblocking(False)
        worker = _Worker(self._next_connection, sock)
        self._next_connection += 1
        self._workers[worker.connection] = worker
        self._watch(sock, selectors.EVENT_READ, lambda events: self._ready(worker, events))
        hello = msgspec.structs.replace(self._hello, connection=worker.connection)
        self._send(worker, b"".join(map(encode_frame, (hello, self._adapter_list(), Step(self._engine.stats())))))

    def _ready(self, worker: _Worker, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(worker)
        if events & selectors.EVENT_READ and worker.connection in self._workers:
            self._receive(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            data = worker.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(worker)
            return
        try:
            for message in worker.reader.feed(data):
                self._handle(worker, message)
        except FrameError:
            self._close(worker)

    def _handle(self, worker: _Worker, message: ToEngine) -> None:
        key = SequenceKey(worker.connection, message.request_id)
        match message:
            case Submit(suspect=True):
                self._quarantine.add(key, message)
            case Submit() if self._quarantine.active:
                self._quarantine.hold(key, message)
            case Submit():
                self._admit(key, message)
            case Abort():
                self._quarantine.drop(key)
                self._engine.abort(*key)
            case LoadAdapter():
                self._answer(key, self._load(Requester(*key), Adapter(message.name, message.path)))
            case UnloadAdapter():
                self._unload(Requester(*key), message.name)

    def _load(self, requester: Requester, adapter: Adapter) -> AdapterAnswer | None:
        if self._engine.adapters is None:
            return AdapterAnswer(requester.request_id, "this server was started without --max-loras", "invalid")
        return self._engine.adapters.load(requester, adapter)

    def _unload(self, requester: Requester, name: str) -> None:
        if self._engine.adapters is None:
            self._answer(requester, AdapterAnswer(requester.request_id, f"adapter '{name}' is not loaded", "unknown"))
            return
        answer = self._engine.adapters.unload(requester, name)
        if answer.error is None:
            self._tell_adapters()
        self._answer(requester, answer)

    def _change_adapters(self) -> None:
        """Let in what was loaded meanwhile, and let go what nobody uses any more."""
        adapters = self._engine.adapters
        if adapters is None:
            return
        for requester, answer in adapters.finish():
            if answer.error is None:
                self._tell_adapters()
            self._answer(requester, answer)
        # In quarantine wait sequences that the engine doesn't know.
        if not self._quarantine.active and self._engine.free_adapters():
            write_records(self._path, adapters.records)

    def _adapter_list(self) -> AdapterList:
        adapters = self._engine.adapters
        return AdapterList((), 0) if adapters is None else adapters.listed

    def _tell_adapters(self) -> None:
        """Everybody, and whoever comes after this engine."""
        assert self._engine.adapters is not None
        write_records(self._path, self._engine.adapters.records)
        for worker in list(self._workers.values()):
            self._send(worker, encode_frame(self._adapter_list()))

    def _answer(self, requester: tuple[int, int], answer: AdapterAnswer | None) -> None:
        worker = self._workers.get(requester[0])
        if worker is not None and answer is not None:
            self._send(worker, encode_frame(answer))

    def _run_quarantine(self) -> None:
        """While there are suspects, run one of them alone; then everybody."""
        quarantine = self._quarantine
        while quarantine.active and quarantine.current is None:
            for key, submit in self._engine.withdraw_all():
                quarantine.hold(key, submit)
            while self._engine.has_work:  # rows of those are still under way
                self._step()
            if quarantine.active:  # a worker may have gone meanwhile
                self._admit(*quarantine.begin())
        if not quarantine.active:
            for key, submit in quarantine.release():
                self._admit(key, submit)

    def _admit(self, key: SequenceKey, submit: Submit) -> None:
        self._flight.quarantine(self._quarantine.current)
        self._flight.admit(key)
        failed = self._engine.submit(key.connection, submit)
        self._flight.admit(None)
        worker = self._workers.get(key.connection)
        if failed is not None and worker is not None:
            step = Step(self._engine.stats(), failed=[failed])
            self._quarantine.observe(key.connection, step)
            self._send(worker, encode_frame(step))

    def _send_heartbeats(self) -> None:
        """Tell each worker that has heard nothing for a while how the engine is: idle, or busy with others."""
        due = time.monotonic() - HEARTBEAT_S
        for worker in [worker for worker in self._workers.values() if worker.last_frame <= due]:
            self._send(worker, encode_frame(Step(self._engine.stats())))

    def _send(self, worker: _Worker, frame: bytes) -> None:
        worker.unsent += frame
        worker.last_frame = time.monotonic()
        if len(worker.unsent) > _MAX_UNSENT_BYTES:
            self._close(worker)
        else:
            self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        try:
            sent = worker.sock.send(worker.unsent)
            del worker.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._close(worker)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
        if self._selector.get_key(worker.sock).events != events:
            self._selector.modify(worker.sock, events, self._selector.get_key(worker.sock).data)

    def _close(self, worker: _Worker) -> None:
        """Forget a worker that has gone; its sequences leave the batch."""
        if self._workers.pop(worker.connection, None) is None:
            return
        self._selector.unregister(worker.sock)
        worker.sock.close()
        self._quarantine.drop_all(worker.connection)
        self._engine.abort_all(worker.connection)
