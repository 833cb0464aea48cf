"""20 000 short requests with random aborts over a tiny model: all pages come back, and memory stays where it is."""

import random
from pathlib import Path

import pytest

from headwater.engine.messages import SamplingParams, Submit

from .tiny import save_tiny_llama, tiny_engine

REQUESTS = 20_000
SETTLED = 1_000  # requests after which nothing grows any more: caches of the interpreter, of pages, of batches are full
LIVE = 96  # sequences in the engine at a time, of which 32 run


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_nothing_is_lost_in_20_000_requests(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    engine = tiny_engine(tmp_path, max_batch_size=32, max_batch_prefill_tokens=128, kv_cache_bytes=1 << 20)
    free = engine.stats().free_pages
    chance = random.Random(0)
    live: set[int] = set()
    submitted = finished = dropped = 0
    settled_kib = 0
    while live or submitted < REQUESTS:
        while submitted < REQUESTS and len(live) < LIVE:
            assert engine.submit(0, random_submit(chance, submitted)) is None
            live.add(submitted)
            submitted += 1
            if submitted == SETTLED:
                settled_kib = resident_kib()
        if chance.random() < 0.3:
            request_id = chance.choice(sorted(live))
            engine.abort(0, request_id)
            live.remove(request_id)
            dropped += 1
        for step in engine.step().values():
            assert not step.failed
            for new in step.tokens:
                if new.finish_reason is not None:
                    live.remove(new.request_id)
                    finished += 1
    while engine.has_work:
        engine.step()
    engine.check()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.free_pages) == (0, 0, free)
    assert finished + dropped == REQUESTS
    assert stats.aborted == dropped
    assert stats.cached_tokens > 0
    assert stats.preemptions > 0
    assert resident_kib() < 1.02 * settled_kib


def random_submit(chance: random.Random, request_id: int) -> Submit:
    prompt_ids = [chance.randrange(4)] * chance.randint(1, 60) + [chance.randrange(320) for _ in range(3)]
    sampling = SamplingParams(
        max_new_tokens=chance.choice([1, 2, 3, 5, 20]),
        greedy=chance.random() < 0.5,
        seed=request_id,
        top_p=chance.choice([1.0, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.0, 1.2]),
        stop_token_ids=(7, 11),
        logit_bias=((9, 1.0),) if chance.random() < 0.1 else (),
        top_n=chance.choice([0, 0, 0, 2]),
    )
    return Submit(request_id, prompt_ids, sampling)
