"""Several engines as one, with engines' ends of the sockets played by the test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from headwater.api.engine_client.remote_sequence import EngineError
from headwater.api.engine_client.replicas import Replicas
from headwater.engine.messages import Adapter, AdapterAnswer, AdapterList, LoadAdapter, Stats, UnloadAdapter

from ..conftest import DEADLINE_S, EnginePeer


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[list[EnginePeer]]:
    peers = [EnginePeer(tmp_path / f"engine-{index}.sock") for index in range(2)]
    yield peers
    for peer in peers:
        peer.die()


@asynccontextmanager
async def connected(peers: list[EnginePeer]) -> AsyncIterator[Replicas]:
    replicas = Replicas([peer.path for peer in peers], heartbeat_timeout_s=30.0)
    replicas.start()
    try:
        await replicas.wait_ready(DEADLINE_S)
        while replicas.stats is None or replicas.stats.running < 2:
            await asyncio.sleep(0.01)
        yield replicas
    finally:
        await replicas.stop()


def test_counts_are_sums(peers: list[EnginePeer]) -> None:
    async def run() -> None:
        async with connected(peers) as replicas:
            assert replicas.hello is not None
            assert (replicas.hello.num_pages, replicas.hello.max_sequences, replicas.hello.max_total_tokens) == (
                198, 16, 64,
            )  # fmt: skip
            one, both = (msgspec.structs.asdict(stats) for stats in (EnginePeer.stats, replicas.stats))
            single = {"step_s", "time", "disk"}
            assert {name: both[name] for name in both if name not in single} == {
                name: 2 * value for name, value in one.items() if name not in single
            }
            assert set(one) == set(Stats.__struct_fields__)

    asyncio.run(run())


def test_an_adapter_that_one_engine_refuses_is_in_none(peers: list[EnginePeer]) -> None:
    async def run() -> None:
        async with connected(peers) as replicas:
            load = asyncio.create_task(replicas.adapters.load("x", "/x"))
            asked = [await asyncio.to_thread(peer.asked) for peer in peers]
            assert all(isinstance(each, LoadAdapter) for each in asked)
            peers[0].tell(AdapterList((Adapter("x", "/x"),), 1), AdapterAnswer(asked[0].request_id))
            peers[1].tell(AdapterAnswer(asked[1].request_id, "no room", "invalid"))
            undo = await asyncio.to_thread(peers[0].asked)
            assert isinstance(undo, UnloadAdapter)
            peers[0].tell(AdapterAnswer(undo.request_id))
            assert (await load).error == "no room"

    asyncio.run(run())


def test_adapters_are_changed_while_all_engines_are_there(peers: list[EnginePeer]) -> None:
    async def run() -> None:
        async with connected(peers) as replicas:
            peers[1].die()
            while all(replicas.up):
                await asyncio.sleep(0.01)
            with pytest.raises(EngineError, match="once all are there"):
                await replicas.adapters.load("x", "/x")

    asyncio.run(run())
