import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.api import engine_client
from headwater.api import generation as generation_module
from headwater.api.engine_client import EngineClient
from headwater.api.generation import EngineError, Generation, Waker
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


async def start(client: EngineClient, prompt_ids: list[int]) -> Generation:
    return await client.submit(prompt_ids, GREEDY, Waker())


async def taken(generation: Generation) -> list[int]:
    """What comes next."""
    while (part := generation.take()).start == part.stop and generation.finish_reason is None:
        await generation._waker.wait(DEADLINE_S)
    return generation.token_ids[part]


async def rest(generation: Generation) -> list[int]:
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
            generations = [await client.submit([1], GREEDY, waker) for _ in range(2)]
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
    monkeypatch.setattr(generation_module, "MAX_UNREAD_TOKENS", 3)

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


def test_a_dead_engine_fails_what_runs_and_a_new_one_takes_what_comes(peer: EnginePeer) -> None:
    async def run() -> None:
        async with connected(peer) as client:
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.send(generation.request_id, [10])
            peer.die()
            assert await taken(generation) == [10]
            with pytest.raises(EngineError, match="died"):
                await taken(generation)
            assert not client.is_healthy()
            # All that is needed to submit it again.
            assert (generation.prompt_ids, generation.sampling, generation.token_ids) == ([1], GREEDY, [10])

            waiting = asyncio.create_task(start(client, [2]))
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
            generation = await start(client, [1])
            await asyncio.to_thread(peer.submitted)
            peer.senders[generation.request_id].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(EngineError, match="died"):
                await taken(generation)

    asyncio.run(run())
