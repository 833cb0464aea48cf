"""Hundreds of requests against a server whose processes are killed, paused, flooded and poisoned: nothing is lost.

Longer runs, as docs/reliability.md tells of: HEADWATER_CHAOS_REQUESTS, _KILLS and _SEED in the environment.
HEADWATER_CHAOS_FLAGS has more flags, such as --replicas 2, or a model and --num-shard 2: shards are killed, too.
"""

import itertools
import json
import os
import random
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ..e2e.serving import PATIENCE_S, Serving, descendants, running, serving, wait_until
from .catalogue import Request, catalogue
from .clients import Outcome, Resumed, send
from .disturber import FAULTS, Disturber

REQUESTS = int(os.environ.get("HEADWATER_CHAOS_REQUESTS", "120"))  # at least: clients go on until the last kill
KILLS = int(os.environ.get("HEADWATER_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("HEADWATER_CHAOS_SEED", "1"))
KINDS = 20 if REQUESTS < 1000 else 112  # different requests
CLIENTS = 8
FLOOD = 120 if REQUESTS < 1000 else 1000

FLAGS = (
    "--max-batch-size", "8", "--max-batch-prefill-tokens", "64", "--max-total-tokens", "640", "--api-workers", "2",
    "--kv-cache-bytes", str(80 << 20), "--heartbeat-timeout", "3", "--max-engine-restarts", "1000", "--json-output",
    *os.environ.get("HEADWATER_CHAOS_FLAGS", "").split(),
    *(word for fault in FAULTS for word in ("--inject-faults", fault)),
)  # fmt: skip


@contextmanager
def chaotic_server(tmp_path: Path) -> Iterator[Serving]:
    with serving(*FLAGS, environment={"TMPDIR": str(tmp_path)}) as server:
        server.wait_ready()
        try:
            yield server
        except BaseException:
            print(server.output)  # what went wrong is there
            raise


def metrics(server: Serving) -> dict[str, float]:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as response:
        lines = [line.rsplit(" ", 1) for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by what it is."""
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found[re.sub(r"\d+", "N", str(link.readlink()))] += 1
    return found


def processes(server: Serving) -> dict[str, Counter[str]]:
    """What each process has open, by its name."""
    return {name: descriptors(pid) for pid, name in descendants(server.process.pid).items()}


def quiet(server: Serving) -> bool:
    """No sequence, no permit, no page is in use."""
    values = metrics(server)
    wanted = ("headwater_requests", "tgi_batch_current_size", "tgi_queue_size")
    return not any(values[name] for name in wanted) and values["headwater_engine_page_usage"] == 0


@pytest.mark.timeout(max(600, REQUESTS))
def test_nothing_is_lost(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    requests = catalogue(chance, KINDS)
    with chaotic_server(tmp_path) as server:
        with ThreadPoolExecutor(4) as pool:
            undisturbed = list(pool.map(lambda request: send(server.url, request), requests))
        assert {outcome.status for outcome in undisturbed} == {200}
        wait_until(lambda: quiet(server), "an idle server")
        before, counted = processes(server), metrics(server)

        seeds = itertools.count(SEED * 1_000_000)
        lock, done = threading.Lock(), 0
        disturber = Disturber(server, SEED, KILLS, FLOOD, lambda: done / REQUESTS)
        disturber.thread.start()
        outcomes: list[tuple[Request, Outcome, Outcome]] = []

        def client() -> None:
            nonlocal done
            while True:
                with lock:
                    if done >= REQUESTS and not disturber.thread.is_alive():
                        return
                    done += 1
                    mine = random.Random(next(seeds))
                index = mine.randrange(len(requests))
                leaves = mine.random() < 0.15
                lines = mine.choice([0, 1, 5, 20]) if leaves else None
                if requests[index].streams and mine.random() < 0.4:
                    outcome = Resumed(server.url, requests[index]).read(mine.choice([1, 5, 20]))
                else:
                    outcome = send(server.url, requests[index], lines=lines, slowly=mine.random() < 0.1)
                with lock:
                    outcomes.append((requests[index], outcome, undisturbed[index]))

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in [*threads, disturber.thread]:
            thread.join()
        assert not disturber.failures, disturber.failures

        check_outcomes(outcomes, disturber)
        wait_until(lambda: quiet(server), "an idle server")
        check_counters(server, counted, [outcome for _, outcome, _ in outcomes] + disturber.poisoned)
        # The server is as it was: the same processes, no descriptor more.
        wait_until(lambda: set(processes(server)) == set(before), "all processes and no others")
        wait_until(lambda: no_more(processes(server), before), f"no descriptor more than {before}")
        assert [send(server.url, request).data for request in requests if request.exact] == [
            outcome.data for request, outcome in zip(requests, undisturbed, strict=True) if request.exact
        ]
        pids = descendants(server.process.pid)
        assert server.stop() == 0
        wait_until(lambda: not any(map(running, pids)), f"the end of {pids}")
    assert list(tmp_path.iterdir()) == []
    assert all(json.loads(line)["target"] for line in server.output.splitlines())  # deaths are told as JSON, too
    report(server, outcomes, disturber)


def no_more(now: dict[str, Counter[str]], before: dict[str, Counter[str]]) -> bool:
    """Pipes apart: a worker that is forked later inherits those of its siblings."""
    return all(not {kind for kind in now[name] - before[name] if not kind.startswith("pipe:")} for name in before)


def check_outcomes(outcomes: list[tuple[Request, Outcome, Outcome]], disturber: Disturber) -> None:
    """Each answer is the undisturbed one, and whatever else came is what had to be expected."""
    for request, outcome, undisturbed in outcomes:
        match outcome.kind:
            case "answer":
                if request.exact:
                    assert outcome.data == undisturbed.data, request
                else:
                    assert json.loads(outcome.data)["details"]["generated_tokens"] > 0
            case "cut":  # its worker was killed
                assert lost_its_worker(outcome, disturber), (request, outcome, disturber.worker_kills)
            case "refused":
                pytest.fail(f"{request}: {outcome}")
            case "left":
                pass
    for outcome in disturber.poisoned:
        if outcome.kind == "cut":
            assert lost_its_worker(outcome, disturber)
        else:
            assert (outcome.kind, outcome.status, outcome.error_type) == ("refused", 424, "generation"), outcome
            assert b"died of this request" in outcome.data


def lost_its_worker(outcome: Outcome, disturber: Disturber) -> bool:
    """A worker was killed meanwhile, or just before: until it is torn down, the system takes connections for it."""
    return any(outcome.began - 1.0 <= moment <= outcome.ended for moment in disturber.worker_kills)


def check_counters(server: Serving, before: dict[str, float], outcomes: list[Outcome]) -> None:
    """Requests in = answers + errors + aborts, but for what was in the hands of a worker that was killed."""
    after = metrics(server)
    failures = {name for name in after if name.startswith("tgi_request_failure{")}

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    came, answered, failed = grown("tgi_request_count"), grown("tgi_request_success"), sum(map(grown, failures))
    kinds = Counter(outcome.kind for outcome in outcomes)
    returns = sum(outcome.returns for outcome in outcomes)  # a stream that outlived its worker came twice
    assert came <= len(outcomes) + returns
    assert answered >= kinds["answer"]
    assert grown('tgi_request_failure{err="generation"}') == kinds["refused"]
    assert 0 <= came - answered - failed <= kinds["cut"] + kinds["left"] + returns


def report(server: Serving, outcomes: list[tuple[Request, Outcome, Outcome]], disturber: Disturber) -> None:
    """Printed with -s: what docs/reliability.md has of a long run."""
    kinds = Counter(outcome.kind for _, outcome, _ in outcomes)
    deaths = re.findall(r"the engine died \(([^)]*)\)", server.output)
    returns = sum(outcome.returns for _, outcome, _ in outcomes)
    waits = sorted(outcome.ended - outcome.began for _, outcome, _ in outcomes)
    print(f"\n{len(outcomes)} requests: {dict(kinds)}, {returns} returns to a stream")
    print(f"longest {waits[-1]:.1f} s, median {waits[len(waits) // 2]:.2f} s")
    died = dict(Counter(re.sub(r"[0-9.]+ s", "N s", death) for death in deaths))
    print(f"killed: {disturber.engine_kills} engines, {len(disturber.worker_kills)} workers; deaths of engines: {died}")
