"""The triton backend divided: two processes in the interpreter, connected by Gloo, give the bits of one."""

from pathlib import Path

from headwater.engine.messages import SamplingParams

from .test_shards import SHAPE, sharded
from .tiny import generate, save_tiny_llama

REQUESTS = [
    ([1, 2, 3, 4, 5], SamplingParams(3, greedy=True, top_n=2)),
    ([9, 8, 7], SamplingParams(3, greedy=False, seed=7, top_p=0.9)),
]


def test_two_ranks_give_the_tokens_of_one(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, **SHAPE, num_hidden_layers=1)
    told = []
    for shards in (1, 2):
        with sharded(tmp_path, shards, backend="triton", dtype="float16", max_batch_size=2) as engine:
            told.append(generate(engine, REQUESTS))
    assert told[0] == told[1]
