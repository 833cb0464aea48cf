"""A server of two shards: what a client gets when one of them is killed or stands still, and that none is left over."""

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from ..engine.test_draft import save_tokenizer
from ..engine.tiny import save_tiny_llama
from .serving import PATIENCE_S, Serving, descendants, post, running, serving, wait_until

SHARD = "headwater engine 0 shard 1"
BODY = {"inputs": "abc", "parameters": {"max_new_tokens": 200, "do_sample": True, "seed": 7, "ignore_eos": True}}
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
HEARTBEAT_S = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("divisible")
    save_tiny_llama(directory, **SHAPE)
    save_tokenizer(directory)
    flags = ("--num-shard", "2", "--threads", "2", "--heartbeat-timeout", str(HEARTBEAT_S), "--dtype", "float32")
    with serving(str(directory), *flags, "--max-batch-prefill-tokens", "32", "--max-batch-size", "4") as server:
        server.wait_ready()
        yield server


def stream(server: Serving, at: int = -1, act: Callable[[], None] = lambda: None) -> list[tuple[int, float]]:
    """Tokens and logprobs; ``act`` is called after ``at`` of them."""
    told = []
    with post(f"{server.url}/generate_stream", BODY) as lines:
        for line in lines:
            if line.startswith(b"data:"):
                token = json.loads(line[5:])["token"]
                told.append((token["id"], token["logprob"]))
                if len(told) == at:
                    act()
    return told


def pid_of(server: Serving, name: str) -> int:
    return next(pid for pid, title in descendants(server.process.pid).items() if title == name)


def test_each_shard_tells_what_it_has_loaded(server: Serving) -> None:
    for rank in (0, 1):
        server.wait_for(rf"shard {rank}: weights \d+ MiB, process \d+ MiB, loaded in")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_shard_that_dies_or_hangs_is_a_pause(server: Serving, number: int) -> None:
    undisturbed = stream(server)
    assert len(undisturbed) == 200
    shard, engine = pid_of(server, SHARD), pid_of(server, "headwater engine 0")
    assert stream(server, 20, lambda: os.kill(shard, number)) == undisturbed
    assert not running(engine)
    wait_until(lambda: not running(shard), f"shard {shard} ends with its engine, within {PATIENCE_S} s")


def test_shards_end_with_the_server(server: Serving) -> None:
    left = descendants(server.process.pid)
    assert SHARD in left.values()
    assert server.stop() == 0
    wait_until(lambda: not any(map(running, left)), "nothing is left over")
