import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.api import engine_client
from headwater.api.engine_client import EngineClient, EngineError, Generation
from headwater.engine.frames import encode_frame
from headwater.engine.messages import SamplingParams, Started, Step, Tokens

from .conftest import DEADLINE_S, EnginePeer

GREEDY = SamplingParams(max_new_tokens=9, greedy=True)


@asynccontextmanager
async def connected(peer: EnginePeer) -> AsyncIterator[EngineClient]:
    client = EngineClient(peer.path)
    client.start()
    try:
        await client.wait_ready(DEADLINE_S)
        yield client
    finally:
        await client.stop()


async def rest(generation: Generation) -> list[int]:
    """All tokens up to the end."""
    ids: list[int] = []
    while True:
        new, logprobs = await generation.next(DEADLINE_S)
        assert len(new) == len(logprobs)
        ids += new
        if generation.finish_reason is not None:
            assert await generation.next(DEADLINE_S) == ([], [])
            return ids


def test_a_generation_is_what_the_engine_sent_for_it(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            first = await client.submit([1, 2], GREEDY)
            second = await client.submit([3], GREEDY)
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


def test_a_waiting_reader_may_be_cancelled_without_loss(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await client.submit([1], GREEDY)
            await asyncio.to_thread(peer.submitted)
            assert await generation.next(0.001) == ([], [])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(generation.next(DEADLINE_S), 0.001)
            peer.send(generation.request_id, [10], "length")
            assert await rest(generation) == [10]

    asyncio.run(run())


def test_abort_is_sent_once_and_only_while_the_sequence_runs(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            ended = await client.submit([1], GREEDY)
            dropped = await client.submit([2], GREEDY)
            for _ in range(2):
                await asyncio.to_thread(peer.submitted)
            peer.send(ended.request_id, [10], "length")
            await rest(ended)
            ended.abort()
            dropped.abort()
            dropped.abort()
            marker = await client.submit([3], GREEDY)
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
            generation = await client.submit([1], GREEDY)
            await asyncio.to_thread(peer.submitted)
            peer.fail(generation.request_id, "too long", "validation")
            with pytest.raises(EngineError, match="too long") as caught:
                await generation.next(DEADLINE_S)
            assert caught.value.error_type == "validation"

    asyncio.run(run())


def test_a_dead_engine_fails_what_runs_and_a_new_one_takes_what_comes(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await client.submit([1], GREEDY)
            await asyncio.to_thread(peer.submitted)
            peer.send(generation.request_id, [10])
            peer.die()
            assert await generation.next(DEADLINE_S) == ([10], [-0.5])
            with pytest.raises(EngineError, match="died"):
                await generation.next(DEADLINE_S)
            assert not client.is_healthy()
            # All that is needed to submit it again.
            assert (generation.prompt_ids, generation.sampling, generation.token_ids) == ([1], GREEDY, [10])

            waiting = asyncio.create_task(client.submit([2], GREEDY))
            peer.listen()
            submit = await asyncio.to_thread(peer.submitted)
            assert submit.prompt_ids == [2]
            peer.send(submit.request_id, [20], "length")
            assert await rest(await waiting) == [20]
            assert client.is_healthy()

    asyncio.run(run())


def test_waiting_for_an_engine_has_an_end(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            peer.die()
            while client.is_healthy():
                await asyncio.sleep(0)
            with pytest.raises(EngineError, match="not available"):
                await client.wait_ready(timeout_s=0.05)

    asyncio.run(run())


def test_an_engine_that_makes_no_progress_is_not_healthy(peer: EnginePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            assert client.is_healthy()
            monkeypatch.setattr(engine_client, "PROGRESS_TIMEOUT_S", 0.0)
            assert not client.is_healthy()

    asyncio.run(run())


def test_a_peer_that_speaks_something_else_is_left(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await client.submit([1], GREEDY)
            await asyncio.to_thread(peer.submitted)
            peer.senders[generation.request_id].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(EngineError, match="died"):
                await generation.next(DEADLINE_S)

    asyncio.run(run())
