"""``python -m headwater.bench.load.routing``: what api/engine_client/router.py finds of prompts, in a simulation.

The router is the server's own; engines are simulated: a cache of pages, least recently used first out, and sequences
that take so long a computed and a generated token whatever runs beside them. Beside it, engines at random and in turn.
"""

import argparse
import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

from ...api.engine_client.router import PrefixRecord, ReplicaState, choose, page_keys
from ..options import WorkloadName
from .lengths import Lengths
from .prompts import Words
from .workload import Session, Workload

PAGE = 16  # tokens
PROMPT_S, TOKEN_S, THINK_S = 0.0005, 0.02, 1.0  # a token of a prompt, one of an answer, the time between two turns
STEP = 32  # sequences of a step

Policy = Callable[[Sequence[ReplicaState], Sequence[int], random.Random], int]


class Result(NamedTuple):
    """Of one run."""

    hits: float  # share of the prompts' full pages that were there
    fullest: float  # sequences of the fullest engine, as a multiple of the mean's, at arrivals
    choice_us: float  # processor time of a choice, keys included


def simulate(policy: Policy, sessions: Sequence[Session], engines: int, pages: int, rate: float, seed: int) -> Result:
    """Sessions that begin ``rate`` times a second at ``engines`` engines with caches of ``pages`` pages."""
    draw = random.Random(seed)
    numbers: dict[str, int] = {}
    caches = [PrefixRecord(pages) for _ in range(engines)]
    running, order = [0] * engines, itertools.count()
    # (when, tie, engine that is done with a turn or None, session, its turn, tokens so far)
    events: list[tuple[float, int, int | None, int, int, list[int]]] = []
    begin = 0.0
    for number in range(len(sessions)):
        begin += draw.expovariate(rate)
        heapq.heappush(events, (begin, next(order), None, number, 0, []))
    found_pages = all_pages = 0
    spread, spent = [], 0.0
    while events:
        now, _, done, number, turn, tokens = heapq.heappop(events)
        if done is not None:
            running[done] -= 1
            if turn < len(sessions[number].turns):
                heapq.heappush(events, (now + THINK_S, next(order), None, number, turn, tokens))
            continue
        asked = sessions[number].turns[turn]
        tokens = tokens + [numbers.setdefault(word, len(numbers)) for word in asked.text.split()]
        clock = time.process_time()
        keys = page_keys(tokens, PAGE, b"")
        found = [cache.found(keys) for cache in caches]
        engine = policy([ReplicaState(count, STEP, is_up=True) for count in running], found, draw)
        spent += time.process_time() - clock
        all_pages, found_pages = all_pages + len(keys), found_pages + found[engine]
        running[engine] += 1
        spread.append(max(running) / mean(running))
        answer = [draw.randrange(1 << 20) for _ in range(asked.output_tokens)]
        caches[engine].add(page_keys(tokens + answer, PAGE, b""))
        took = (len(tokens) - found[engine] * PAGE) * PROMPT_S + asked.output_tokens * TOKEN_S
        heapq.heappush(events, (now + took, next(order), engine, number, turn + 1, tokens + answer))
    return Result(found_pages / max(1, all_pages), mean(spread), spent / len(spread) * 1e6)


def policies() -> dict[str, Policy]:
    """By name."""
    turns = itertools.count()
    return {
        "router": choose,
        "random": lambda states, _, draw: draw.randrange(len(states)),
        "in turn": lambda states, *_: next(turns) % len(states),
    }


def sessions_of(name: WorkloadName, requests: int, prefixes: int) -> list[Session]:
    """Prompts of 128 tokens; shared prefixes of 512, chats of 4 turns."""
    workload = Workload(name=name, input_tokens=Lengths(128, 128), output_tokens=Lengths(64, 64), prefixes=prefixes)
    made = workload.sessions(Words(), requests, (0,))
    random.Random(0).shuffle(made)  # else prefixes come in turn, as engines do
    return made


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="2,4,8", help="numbers of them")
    parser.add_argument("--streams", type=float, default=16.0, help="that run at an engine at a time, about")
    parser.add_argument("--requests", type=int, default=400, help="for each engine")
    parser.add_argument("--pages", type=int, default=1024, help="of an engine's cache")
    parser.add_argument("--prefixes", type=int, default=16, help="shared ones, for each engine")
    given = parser.parse_args()
    print("| engines | workload | way | pages found | fullest / mean | us a choice |\n|---|---|---|---|---|---|")
    for engines in map(int, given.engines.split(",")):
        for name in ("shared-prefix", "chat"):
            sessions = sessions_of(name, given.requests * engines, given.prefixes * engines)
            turns = len(sessions[0].turns)
            rate = given.streams * engines / (turns * (64 * TOKEN_S + THINK_S * (turns - 1) / turns))
            for way, policy in policies().items():
                result = simulate(policy, sessions, engines, given.pages, rate, seed=1)
                print(f"| {engines} | {name} | {way} | {result.hits:.0%} | {result.fullest:.2f} | "
                      f"{result.choice_us:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
