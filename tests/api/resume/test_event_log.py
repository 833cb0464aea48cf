"""A stream's log: readers take turns, nothing is missing or comes twice, memory is bounded."""

import asyncio

import pytest

from headwater.api.http.errors import ReaderReplaced, StreamNotFoundError
from headwater.api.resume import event_log
from headwater.api.resume.event_log import EventLog

GRACE_S = 30.0


def event(number: int) -> bytes:
    return b"id: %d\ndata: %d\n\n" % (number, number)


def part(*numbers: int) -> bytes:
    return b"".join(b"data: %d\n\n" % number for number in numbers)


class Reader:
    """Collects what a log writes; reads only while it may."""

    def __init__(self, log: EventLog) -> None:
        self.got: list[tuple[bytes, bool]] = []
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.ensure_future(log.read(self.write))

    async def write(self, chunk: bytes, last: bool) -> None:
        await self.may_read.wait()
        self.got.append((chunk, last))

    @property
    def text(self) -> bytes:
        return b"".join(chunk for chunk, _ in self.got)


def new_log(grace_s: float = GRACE_S) -> tuple[EventLog, asyncio.Event]:
    expired = asyncio.Event()
    return EventLog("x", grace_s, lambda _: expired.set()), expired


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_readers_take_turns_and_nothing_is_lost_or_repeated() -> None:
    async def run() -> None:
        log, expired = new_log()
        first = Reader(log)
        await settle()
        await log.append(part(1, 2), ended=False)
        await settle()
        await log.append(b":\n\n" + part(3), ended=False)
        await settle()
        assert first.got == [(event(1) + event(2), False), (event(3), False)]  # comments have no number
        first.task.cancel()
        await log.append(part(4), ended=False)
        await log.rewind(2)  # the third was sent, and never arrived
        second = Reader(log)
        await settle()
        assert second.text == event(3) + event(4)
        await log.rewind(0)
        third = Reader(log)
        await log.append(part(5), ended=True)
        await third.task
        assert third.got[-1][1]
        assert third.text == b"".join(map(event, range(1, 6)))
        with pytest.raises(ReaderReplaced):
            await second.task
        assert not expired.is_set()
        log.close()

    asyncio.run(run())


@pytest.mark.parametrize("after", [4, 99])
def test_what_never_was_cannot_be_read(after: int) -> None:
    async def run() -> None:
        log, _ = new_log()
        await log.append(part(1, 2, 3), ended=True)
        with pytest.raises(StreamNotFoundError, match=f"follows event {after}"):
            await log.rewind(after)
        await log.rewind(3)  # it has everything, but does not know that
        reader = Reader(log)
        await reader.task
        assert reader.got == [(b"", True)]

    asyncio.run(run())


def test_memory_is_bounded_and_what_nobody_got_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 10 * len(event(1)))

    async def run() -> None:
        log, _ = new_log()
        reader = Reader(log)
        await settle()
        for number in range(1, 31):
            await log.append(part(number), ended=False)
            await settle()
        assert log.size <= 10 * len(event(10))
        with pytest.raises(StreamNotFoundError):
            await log.rewind(5)
        reader.may_read.clear()
        behind = 31
        adding = asyncio.ensure_future(log.append(part(behind), ended=False))
        await settle()
        while adding.done():
            behind += 1
            adding = asyncio.ensure_future(log.append(part(behind), ended=False))
            await settle()
        assert log.size <= 11 * len(event(10))
        reader.may_read.set()
        await adding  # there is room again
        await settle()
        assert reader.text == b"".join(map(event, range(1, behind + 1)))
        log.close()
        with pytest.raises(ReaderReplaced):
            await reader.task

    asyncio.run(run())


def test_grace_runs_while_nobody_reads() -> None:
    async def run() -> None:
        log, expired = new_log(grace_s=0.05)
        reader = Reader(log)
        await asyncio.sleep(0.1)
        assert not expired.is_set()
        reader.task.cancel()
        await expired.wait()

    asyncio.run(run())


def test_in_the_background_nobody_need_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest events go; only somebody who reads slowly is waited for, as long as he is there."""
    monkeypatch.setattr(event_log, "MAX_BACKGROUND_BYTES", 4 * len(event(1)))

    async def run() -> None:
        log = EventLog("x", GRACE_S, lambda _: None, background=True)
        await log.append(part(1, 2, 3, 4, 5, 6), ended=False)
        with pytest.raises(StreamNotFoundError):
            await log.rewind(1)
        await log.rewind(2)
        reader = Reader(log)
        reader.may_read.clear()
        await settle()
        append = asyncio.ensure_future(log.append(part(7), ended=False))
        await settle()
        assert not append.done()
        reader.task.cancel()
        await append
        await log.append(part(8), ended=True)
        await log.rewind(4)
        last = Reader(log)
        await last.task
        assert last.text == b"".join(map(event, range(5, 9)))
        log.close()

    asyncio.run(run())
