"""Events of the prefix cache, as a subscriber in another process gets them: read by rules of vLLM's form alone."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from headwater.api import cli
from headwater.api.launch.kv_events import parse_kv_events
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.config import KVEventsConfig
from headwater.engine.engine import Engine
from headwater.engine.install_hints import install_extra
from headwater.engine.kv_events import AllBlocksCleared, BlockRemoved, KVEvents, block_hash
from headwater.engine.kv_publisher import ZmqPublisher
from headwater.engine.messages import Adapter, SamplingParams, Scheduling, Submit
from headwater.engine.prefix_cache import page_key

from .adapters import save_adapter
from .tiny import generate, tiny_engine

Tiny = tuple[Path, LlamaForCausalLM]
PAGE = 16
GREEDY = SamplingParams(9, greedy=True)
Batch = tuple[float, list[list[Any]], int]


class Subscriber:
    """Holds what the events say: for each block its own tokens and its parent."""

    def __init__(self, events: str, replay: str, topic: str = "") -> None:
        self._context = zmq.Context()
        self._sub = self._context.socket(zmq.SUB)
        self._sub.setsockopt_string(zmq.SUBSCRIBE, topic)
        self._sub.connect(events)
        self._replay = self._context.socket(zmq.DEALER)  # a REQ takes one answer only
        self._replay.connect(replay)
        self.topic = topic.encode()
        self.blocks: dict[int, tuple[int | None, list[int], str | None]] = {}
        self.next = 0

    def live(self, timeout_ms: int) -> bool:
        """Take one message, and what was missed before it. False: none came."""
        if not self._sub.poll(timeout_ms):
            return False
        topic, number, payload = self._sub.recv_multipart()
        assert topic == self.topic
        if (missed := int.from_bytes(number, "big") - self.next) > 0:
            self.replay(missed)
        self._apply(int.from_bytes(number, "big"), payload)
        return True

    def replay(self, most: int = sys.maxsize) -> None:
        """Ask for what follows, and take so many batches of it."""
        self._replay.send_multipart([b"", self.next.to_bytes(8, "big")])
        while True:
            _, number, payload = self._replay.recv_multipart()
            if number == b"\xff" * 8:
                assert payload == b""
                break
            if most > 0:
                self._apply(int.from_bytes(number, "big"), payload)
                most -= 1

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _apply(self, number: int, payload: bytes) -> None:
        assert number == self.next
        self.next += 1
        _, events, rank = msgspec.msgpack.decode(payload, type=Batch)
        assert rank == 0
        for name, *fields in events:
            if name == "BlockStored":
                hashes, parent, tokens, size, lora_id, medium, lora_name = fields
                assert (size, medium, len(tokens)) == (PAGE, "GPU", PAGE * len(hashes))
                assert (lora_id is None) == (lora_name is None)
                for index, block in enumerate(hashes):
                    assert block not in self.blocks, "stored twice"
                    self.blocks[block] = (parent, tokens[index * PAGE : (index + 1) * PAGE], lora_name)
                    parent = block
            elif name == "BlockRemoved":
                for block in fields[0]:
                    del self.blocks[block]
            else:
                assert (name, fields) == ("AllBlocksCleared", [])
                self.blocks.clear()


@pytest.fixture
def publisher() -> Iterator[ZmqPublisher]:
    publisher = ZmqPublisher(KVEventsConfig(endpoint="tcp://*:0", replay_endpoint="tcp://127.0.0.1:0", topic="kv@a"))
    yield publisher
    publisher.close()


def table(engine: Engine) -> set[int]:
    return {block_hash(key) for _, key in engine._scheduler.pool.known()}


def test_blocks_rebuilt_from_events_are_the_prefix_caches(
    tiny_llama: Tiny, publisher: ZmqPublisher, tmp_path: Path
) -> None:
    adapters = (Adapter("one", str(save_adapter(tiny_llama[1], tmp_path / "one", seed=1))),)
    engine = tiny_engine(tiny_llama[0], num_pages=16, adapters=adapters, prefix_cache_dir=tmp_path / "pages")
    engine.publish(KVEvents(publisher, PAGE))
    events = Subscriber(publisher.endpoint.replace("0.0.0.0", "127.0.0.1"), publisher.replay_endpoint, "kv@a")
    beginnings = 0
    while not events.live(50):  # a subscription takes effect some time after it is made
        generate(engine, [([beginnings] * 17, GREEDY)])
        beginnings += 1
    shared = list(range(100, 140))
    other = SamplingParams(9, greedy=True, adapter=adapters[0].name)
    for _ in range(2):  # more than there are pages: the second time they come back from disk
        generate(engine, [([*shared, 1, 2], GREEDY), ([*shared, 3] * 2, GREEDY), (shared, other)])
        generate(engine, [(list(range(90)), GREEDY), ([*shared, 3] * 2, GREEDY), ([*shared, 3] * 2, GREEDY)])
        for owner in range(200, 203):
            generate(engine, [([owner] * 99, GREEDY)])
    assert engine.stats().disk.loaded
    while events.next < publisher.published:
        assert events.live(10_000)
    assert set(events.blocks) == table(engine)
    assert {name for *_, name in events.blocks.values()} <= {None, adapters[0].name}
    assert publisher.dropped == 0
    for block, (_, _, lora) in events.blocks.items():
        if lora is None and (key := key_of(events, block)) is not None:
            assert block_hash(key) == block, "a block isn't that of its tokens and parents"
    events.close()
    engine.close()


def key_of(events: Subscriber, block: int) -> bytes | None:
    """Of a block whose ancestors are all there, from the tokens that were told; None: one of them isn't."""
    if block not in events.blocks:
        return None
    parent, tokens, _ = events.blocks[block]
    before = b"" if parent is None else key_of(events, parent)
    return None if before is None else page_key(before, tokens)


def test_pages_behind_a_salt_are_not_told_of(tiny_llama: Tiny, publisher: ZmqPublisher) -> None:
    engine = tiny_engine(tiny_llama[0], num_pages=8)
    engine.publish(KVEvents(publisher, PAGE))
    for salt in ("mine", "", "mine"):
        submit = Submit(0, [7] * 80, GREEDY, scheduling=Scheduling(cache_salt=salt))
        assert engine.submit(0, submit) is None
        while engine.has_work:
            engine.step()
    events = Subscriber("tcp://127.0.0.1:1", publisher.replay_endpoint)
    while events.next < publisher.published:
        events.replay()
    told = set(events.blocks)
    assert told < table(engine)
    assert len(told) < 5, "the salted run took some of the plain one's pages"
    events.close()


def test_a_subscriber_sees_by_the_numbers_what_was_dropped(tmp_path: Path) -> None:
    replay = f"ipc://{tmp_path}/replay"
    config = KVEventsConfig(
        endpoint=f"ipc://{tmp_path}/events", replay_endpoint=replay, max_queue_size=1, event_format="map"
    )
    publisher = ZmqPublisher(config)
    while not publisher.dropped:  # the queue has room for one: soon its thread is behind
        publisher.publish([BlockRemoved([1, 2], "GPU"), AllBlocksCleared()])
    context = zmq.Context()
    asks = context.socket(zmq.DEALER)
    asks.connect(replay)
    numbers: list[int] = []
    while len(numbers) < publisher.published - publisher.dropped:  # until the last one was sent
        asks.send_multipart([b"", (numbers[-1] + 1 if numbers else 0).to_bytes(8, "big")])
        while (message := asks.recv_multipart())[1] != b"\xff" * 8:
            numbers.append(int.from_bytes(message[1], "big"))
            told = msgspec.msgpack.decode(message[2])
            assert told[1] == [
                {"type": "BlockRemoved", "block_hashes": [1, 2], "medium": "GPU"}, {"type": "AllBlocksCleared"}
            ]  # fmt: skip
    assert numbers == sorted(set(numbers))
    assert publisher.published - 1 not in numbers, "the last one was dropped, and took its number"
    context.destroy(linger=0)
    publisher.close()


def test_the_flag_is_vllms_and_the_table_is_told_from_the_start(tiny_llama: Tiny, tmp_path: Path) -> None:
    assert not parse_kv_events("{}").publishes
    assert not parse_kv_events('{"enable_kv_cache_events": true, "publisher": "null"}').publishes
    endpoint, replay = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    config = parse_kv_events(
        f'{{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "{endpoint}", '
        f'"replay_endpoint": "{replay}", "buffer_steps": 100, "hwm": 10, "max_queue_size": 50, "topic": ""}}'
    )
    engine = tiny_engine(tiny_llama[0], kv_events_config=config)
    generate(engine, [([1] * 40, GREEDY)])
    events = Subscriber(endpoint, replay)
    while len(events.blocks) < 3:
        events.replay()
    assert set(events.blocks) == table(engine), "those of the warm-up are in neither"
    events.close()
    engine.close()


@pytest.mark.parametrize("value", ["{", '{"enable": true}', '{"publisher": "kafka"}', '{"hwm": 0}', "1"])
def test_what_is_none_of_its_values_is_refused(value: str) -> None:
    ended = CliRunner().invoke(cli.app, ["serve", "--kv-events-config", value])
    assert ended.exit_code == 2
    assert "kv-events-config" in ended.output


def test_an_endpoint_that_is_taken_is_told(publisher: ZmqPublisher) -> None:
    with pytest.raises(ModelError, match=r"--kv-events-config.*in use"):
        ZmqPublisher(KVEventsConfig(endpoint="tcp://*:0", replay_endpoint=publisher.replay_endpoint))
    with pytest.raises(ModelError, match="--kv-events-config"):
        ZmqPublisher(KVEventsConfig(endpoint="udp://nonsense"))


def test_without_the_package_the_flag_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    ended = CliRunner().invoke(cli.app, ["serve", "--kv-events-config", '{"enable_kv_cache_events": true}'])
    assert ended.exit_code == 2
    assert install_extra("kv-events") in ended.output
