"""Several engines with the same model, as one: what EngineClient is to one engine.

A sequence goes where router.py says. What an engine leaves behind when it dies, or ends for a successor, goes to the
others with the tokens that came, as it would go to the next engine (client.py): tokens depend on nothing else.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from ...engine.messages import (
    USUAL,
    Adapter,
    AdapterAnswer,
    AdapterList,
    DiskStats,
    Hello,
    SamplingParams,
    Scheduling,
    Stats,
)
from ..config import ApiConfig
from .client import ENGINE_WAIT_S, EngineClient
from .health import EngineHealth
from .remote_sequence import EngineError, RemoteSequence, Waker
from .router import PrefixRecord, ReplicaState, choose, page_keys

# Counts of one engine; what isn't a whole number is no sum.
_SUMMED = tuple(field.name for field in msgspec.structs.fields(Stats) if field.type is int)
_DISK = DiskStats.__struct_fields__


class Replicas:
    """Connections of this worker to all engines; see EngineClient for its methods.

    Attributes:
        hello: what the engines are together: the least that a sequence may have, the sum of what they hold.
        stats: sums over the engines; of the one that was heard last where there is no sum.
        adapters: those that all of them have, and how to change them.
        on_step: called for each frame, with ``hello`` and ``stats``.
    """

    def __init__(self, sockets: Sequence[Path], heartbeat_timeout_s: float) -> None:
        request_ids = itertools.count(1)
        self._clients = [EngineClient(socket, heartbeat_timeout_s, request_ids) for socket in sockets]
        self._request_ids = request_ids
        self._records = [PrefixRecord(0) for _ in sockets]
        self._stats: list[Stats | None] = [None for _ in sockets]  # None: it has made no step yet
        self._random = random.Random()
        self.hello: Hello | None = None
        self.stats: Stats | None = None
        self.on_step: Callable[[Hello, Stats], None] | None = None
        self.adapters = ReplicaAdapters(self._clients)
        for index, client in enumerate(self._clients):
            client.on_up = partial(self._on_up, index)
            client.on_orphans = self._share_out
            client.on_step = partial(self._on_step, index)

    @property
    def live(self) -> int:
        """Generations that are not over."""
        return sum(client.live for client in self._clients)

    @property
    def up(self) -> list[bool]:
        """Whether each engine is there, by their numbers."""
        return [client.is_up for client in self._clients]

    def start(self) -> None:
        """Begin to connect, and keep connecting."""
        for client in self._clients:
            client.start()

    async def stop(self) -> None:
        """Close the connections for good."""
        await asyncio.gather(*(client.stop() for client in self._clients))

    async def wait_ready(self, timeout_s: float = ENGINE_WAIT_S) -> Hello:
        """Wait until all engines are there. Raises EngineError if they aren't in time."""
        await asyncio.gather(*(client.wait_ready(timeout_s) for client in self._clients))
        assert self.hello is not None
        return self.hello

    def prepare(
        self, prompt_ids: list[int], sampling: SamplingParams, waker: Waker, scheduling: Scheduling = USUAL
    ) -> RemoteSequence:
        """A sequence that no engine knows yet; ``waker`` is woken whenever something came for it."""
        return RemoteSequence(next(self._request_ids), prompt_ids, sampling, waker, self._abort, scheduling)

    def submit(self, remote: RemoteSequence) -> None:
        """Let an engine generate what follows the tokens that the sequence has; it fails if none is there for long."""
        self._route(remote).submit(remote)

    def unhealthy_reason(self) -> str | None:
        """What is wrong with all engines, None if one of them is well."""
        reasons = [client.unhealthy_reason() for client in self._clients]
        return None if None in reasons else reasons[0]

    def facts(self) -> EngineHealth:
        """Of the first engine that is well; of the first one, if none is."""
        well = (client for client in self._clients if client.unhealthy_reason() is None)
        return next(well, self._clients[0]).facts()

    def _route(self, remote: RemoteSequence) -> EngineClient:
        states = [self._state(index) for index in range(len(self._clients))]
        if not any(state.is_up for state in states):
            return self._clients[0]  # it waits there until one is: _on_up
        assert self.hello is not None
        adapter = self.adapters.find(remote.sampling.adapter)
        salt = f"{adapter.path if adapter else ''}\0{remote.scheduling.cache_salt or ''}".encode()
        keys = page_keys(remote.prompt_ids, self.hello.page_size, salt)
        index = choose(states, [record.found(keys) for record in self._records], self._random)
        self._records[index].add(keys)
        return self._clients[index]

    def _state(self, index: int) -> ReplicaState:
        client, stats = self._clients[index], self._stats[index]
        # Other workers' sequences are known as of the last step, this one's at once.
        told = stats.running + stats.waiting if stats is not None else 0
        return ReplicaState(max(client.live, told), client.hello.max_sequences if client.hello else 1, client.is_up)

    def _abort(self, remote: RemoteSequence) -> None:
        for client in self._clients:  # it is with one of them
            client.abort(remote)

    def _share_out(self) -> None:
        """What engines that are away have left goes to those that are there."""
        if not any(client.is_up for client in self._clients):
            return
        for client in self._clients:
            for remote in client.release():
                self._route(remote).take_over(remote)

    def _on_up(self, index: int) -> None:
        hello = self._clients[index].hello
        assert hello is not None
        self._records[index], self._stats[index] = PrefixRecord(hello.num_pages), None
        hellos = [client.hello for client in self._clients if client.hello is not None]
        self.hello = msgspec.structs.replace(
            hello,
            max_total_tokens=min(each.max_total_tokens for each in hellos),
            max_sequences=sum(each.max_sequences for each in hellos),
            num_pages=sum(each.num_pages for each in hellos),
        )
        self._share_out()

    def _on_step(self, index: int, _hello: Hello, stats: Stats) -> None:
        self._stats[index] = stats
        known = list(itertools.starmap(_now, zip(self._clients, self._stats, strict=True)))
        sums = {name: sum(getattr(each, name) for each in known) for name in _SUMMED}
        disk = DiskStats(*(sum(getattr(each.disk, name) for each in known) for name in _DISK))
        self.stats = msgspec.structs.replace(stats, **sums, disk=disk)
        if self.on_step is not None and self.hello is not None:
            self.on_step(self.hello, self.stats)


def _now(client: EngineClient, stats: Stats | None) -> Stats:
    """An engine that is away, or has done nothing yet, holds nothing."""
    if stats is not None and client.is_up:
        return stats
    num_pages = client.hello.num_pages if client.hello is not None else 0
    return Stats(0, 0, 0, num_pages, 0, 0, 0, 0, 0.0, 0.0)


class ReplicaAdapters:
    """The adapters of all engines: see AdapterChanges."""

    def __init__(self, clients: Sequence[EngineClient]) -> None:
        self._clients = clients

    @property
    def listed(self) -> AdapterList:
        """What the first engine said last: they are changed together."""
        return self._clients[0].adapters.listed

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of that name, if there is one."""
        return self._clients[0].adapters.find(name)

    async def load(self, name: str, path: str) -> AdapterAnswer:
        """Have all engines load a directory: all or none. Raises EngineError if one went away or isn't there."""
        self._check_all_there()
        loads = (client.adapters.load(name, path) for client in self._clients)
        answers = await asyncio.gather(*loads, return_exceptions=True)
        result = next((each for each in answers if isinstance(each, BaseException) or each.error is not None), None)
        if result is None:
            result = answers[0]
        else:
            for client, answer in zip(self._clients, answers, strict=True):
                if isinstance(answer, AdapterAnswer) and answer.error is None and client.is_up:
                    await client.adapters.unload(name)
        if isinstance(result, BaseException):
            raise result
        return result

    async def unload(self, name: str) -> AdapterAnswer:
        """Have all engines forget an adapter once no sequence has it. Raises EngineError."""
        self._check_all_there()
        answers = await asyncio.gather(*(client.adapters.unload(name) for client in self._clients))
        return next((answer for answer in answers if answer.error is not None), answers[0])

    def _check_all_there(self) -> None:
        if not all(client.is_up for client in self._clients):
            raise EngineError("an engine is starting again: adapters can be changed once all are there")


Engine = EngineClient | Replicas


def connect(config: ApiConfig) -> Engine:
    """To the engine or the engines; ``start`` begins it."""
    sockets = config.engine_sockets
    if len(sockets) == 1:
        return EngineClient(sockets[0], config.heartbeat_timeout)
    return Replicas(sockets, config.heartbeat_timeout)
