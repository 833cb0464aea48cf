import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from headwater.api.engine_client import client as engine_client
from headwater.api.engine_client import remote_sequence
from headwater.api.engine_client.client import EngineClient
from headwater.api.engine_client.remote_sequence import EngineError, RemoteSequence, Waker
from headwater.engine.flight_recorder import FlightRecorder, flight_path
from headwater.engine.frames import encode_frame
from headwater.engine.messages import SamplingParams, Scheduling, Started, Step, Tokens

from ..conftest import DEADLINE_S, EnginePeer, submit

GREEDY = SamplingParams(max_new_tokens=9, greedy=True)


@asynccontextmanager
async def connected(peer: EnginePeer) -> AsyncIterator[EngineClient]:
    client = EngineClient(peer.path, heartbeat_timeout_s=30.0)
    client.start()
    try:
        await client.wait_ready(DEADLINE_S)
        yield client
    finally:
        await client.stop()


async def start(client: EngineClient, prompt_ids: list[int]) -> RemoteSequence:
    return submit(client, prompt_ids, GREEDY, Waker())


async def taken(generation: RemoteSequence) -> list[int]:
    """What comes next."""
    while (part := generation.take()).start == part.stop and generation.finish_reason is None:
        await generation._waker.wait(DEADLINE_S)
    return generation.token_ids[part]


async def rest(generation: RemoteSequence) -> list[int]:
    """All tokens up to the end."""
    ids: list[int] = []
    while generation.finish_reason is None:
        ids += await taken(generation)
    ids += await taken(generation)
    assert len(generation.logprobs) == len(generation.token_ids)
    return ids


def test_a_generation_is_what_the_engine_sent_for_it(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            first = await start(client, [1, 2])
            second = await start(client, [3])
            submits = [await asyncio.to_thread(peer.submitted) for _ in range(2)]
            assert [(s.prompt_ids, s.sampling) for s in submits] == [([1, 2], GREEDY), ([3], GREEDY)]
            peer.send(second.request_id, [30])
            peer.send(first.request_id, [10, 11])
            peer.send(first.request_id, [12], "eos_token")
            peer.send(second.request_id, [31], "length")
            assert await rest(first) == [10, 11, 12]
            assert await rest(second) == [30, 31]
            assert (first.finish_reason, second.finish_reason) == ("eos_token", "length")
            assert (first.queue_s, first.logprobs) == (0.25, [-0.5] * 3)
            assert client.live == 0

    asyncio.run(run())


def test_one_reader_waits_for_several_generations(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            waker = Waker()
            generations = [submit(client, [1], GREEDY, waker) for _ in range(2)]
            for _ in generations:
                await asyncio.to_thread(peer.submitted)
            await waker.wait(0.001)  # the time is over
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waker.wait(DEADLINE_S), 0.001)
            for generation in reversed(generations):
                peer.send(generation.request_id, [10], "length")
                await waker.wait(DEADLINE_S)
                assert generation.finish_reason == "length"
                assert await rest(generation) == [10]

    asyncio.run(run())


def test_a_sequence_that_nobody_reads_is_given_up(peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_sequence, "MAX_UNREAD_TOKENS", 3)

    async def run() -> None:
        async with connected(peer) as client:
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.send(generation.request_id, [10, 11, 12])
            assert await taken(generation) == [10, 11, 12]
            for token_id in range(20, 24):
                peer.send(generation.request_id, [token_id])
            assert (await asyncio.to_thread(peer.aborted)).request_id == generation.request_id
            assert await taken(generation) == [20, 21, 22, 23]
            with pytest.raises(EngineError, match="reads too slowly"):
                generation.take()

    asyncio.run(run())


def test_abort_is_sent_once_and_only_while_the_sequence_runs(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            ended = await start(client, [1])
            dropped = await start(client, [2])
            for _ in range(2):
                await asyncio.to_thread(peer.submitted)
            peer.send(ended.request_id, [10], "length")
            await rest(ended)
            ended.abort()
            dropped.abort()
            dropped.abort()
            marker = await start(client, [3])
            assert (await asyncio.to_thread(peer.aborted)).request_id == dropped.request_id
            assert (await asyncio.to_thread(peer.submitted)).request_id == marker.request_id
            # What was on its way for it is nobody's.
            peer.senders[dropped.request_id].sendall(
                encode_frame(
                    Step(peer.stats, [Started(dropped.request_id, 0.0)], [Tokens(dropped.request_id, [1], [0.0])])
                )
            )
            peer.send(marker.request_id, [30], "length")
            assert await rest(marker) == [30]
            assert dropped.token_ids == []

    asyncio.run(run())


def test_a_refused_sequence_says_why(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.fail(generation.request_id, "too long", "validation")
            with pytest.raises(EngineError, match="too long") as caught:
                await taken(generation)
            assert caught.value.error_type == "validation"

    asyncio.run(run())


def test_what_runs_goes_on_in_the_next_engine_in_the_order_of_arrival(peer: EnginePeer) -> None:
    wants_all = SamplingParams(max_new_tokens=9, greedy=False, seed=7, prompt_logprobs=True)
    scheduling = Scheduling(-3, "tenant", arrival=5.0, deadline=500.0)

    async def run() -> None:
        async with connected(peer) as client:
            first = submit(client, [1, 2], wants_all, Waker(), scheduling)
            second = await start(client, [3])
            for _ in range(2):
                await asyncio.to_thread(peer.submitted)
            peer.send(first.request_id, [10, 11], prompt_logprobs=[-1.0])
            assert await taken(first) == [10, 11]
            peer.die()
            while client.unhealthy_reason() is None:
                await asyncio.sleep(0)
            late = await start(client, [4])
            gone = await start(client, [5])
            gone.abort()

            peer.listen()
            again = [await asyncio.to_thread(peer.submitted) for _ in range(3)]
            assert [s.request_id for s in again] == [first.request_id, second.request_id, late.request_id]
            assert [(s.prompt_ids, s.emitted_ids) for s in again] == [([1, 2], [10, 11]), ([3], []), ([4], [])]
            assert all(s.replayed and not s.suspect for s in again)
            # Prompt logprobs came already; all else is as it was.
            assert again[0].sampling == msgspec.structs.replace(wants_all, prompt_logprobs=False)
            assert (again[0].scheduling, again[1].scheduling) == (scheduling, Scheduling())

            for message in again:
                peer.send(message.request_id, [20], "length")
            assert await rest(first) == [20]
            assert (first.token_ids, first.prompt_scores.logprobs) == ([10, 11, 20], [-1.0])
            assert await rest(second) == await rest(late) == [20]
            assert client.unhealthy_reason() is None
            assert client.live == 0

    asyncio.run(run())


def test_waiting_again_counts_in_no_queue_time(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.send(generation.request_id, [10])
            await taken(generation)
            generation.queue_s = 0.5
            peer.die()
            peer.listen()
            await asyncio.to_thread(peer.submitted)
            peer.send(generation.request_id, [11], "length")  # says 0.25 s
            assert await rest(generation) == [11]
            assert generation.queue_s == 0.5

    asyncio.run(run())


def test_who_waits_too_long_for_an_engine_is_told(peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "ENGINE_WAIT_S", 0.05)
    monkeypatch.setattr(engine_client, "_AWAY_CHECK_S", 0.01)

    async def run() -> None:
        async with connected(peer) as client:
            running = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.send(running.request_id, [10])
            peer.die()
            assert await taken(running) == [10]
            with pytest.raises(EngineError, match="not available") as caught:
                await taken(running)
            assert caught.value.error_type == "generation"
            late = await start(client, [2])
            with pytest.raises(EngineError, match="not available"):
                await taken(late)
            assert client.live == 0

    asyncio.run(run())


def test_waiting_for_an_engine_has_an_end(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            peer.die()
            while client.unhealthy_reason() is None:
                await asyncio.sleep(0)
            with pytest.raises(EngineError, match="not available"):
                await client.wait_ready(timeout_s=0.05)

    asyncio.run(run())


def test_process_loop_and_device_are_separate_facts(peer: EnginePeer) -> None:
    async def run() -> None:
        flight = FlightRecorder(flight_path(peer.path))
        peer.hello = msgspec.structs.replace(peer.hello, pid=os.getpid())
        async with connected(peer) as client:
            assert client.unhealthy_reason() is None
            assert client.facts().device.step_s is None
            flight.begin_step([(0, 1)])
            facts = client.facts()
            assert (facts.process.connected, facts.process.pid, facts.device.steps) == (True, os.getpid(), 1)
            assert facts.device.step_s is not None
            peer.die()
            while client.unhealthy_reason() is None:
                await asyncio.sleep(0)
            assert client.unhealthy_reason() == "the engine is away: it is starting again"

    asyncio.run(run())


@pytest.mark.parametrize("record", [False, True])
def test_an_engine_that_makes_no_progress_is_not_healthy(peer: EnginePeer, record: bool) -> None:
    """With its flight record, and by its silence alone if that can't be read."""

    async def run() -> None:
        if record:
            FlightRecorder(flight_path(peer.path))
            peer.hello = msgspec.structs.replace(peer.hello, pid=os.getpid())
        client = EngineClient(peer.path, heartbeat_timeout_s=0.0)
        client.start()
        await client.wait_ready(DEADLINE_S)
        assert (client._flight is not None) == record
        assert "makes no progress: no sign of life for 0 s" in (client.unhealthy_reason() or "")
        await client.stop()

    asyncio.run(run())


def test_a_peer_that_speaks_something_else_is_left_for_another_connection(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.senders[generation.request_id].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            again = await asyncio.to_thread(peer.submitted)
            assert (again.request_id, again.suspect) == (generation.request_id, False)

    asyncio.run(run())
