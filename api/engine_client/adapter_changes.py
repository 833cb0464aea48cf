"""The adapters that the engine has, and requests to load or unload one: the engine decides, and tells every worker."""

import asyncio
from collections.abc import Callable, Iterator

from ...engine.messages import Adapter, AdapterAnswer, AdapterList, LoadAdapter, ToEngine, UnloadAdapter
from .remote_sequence import EngineError


class AdapterChanges:
    """A worker's view of them.

    Attributes:
        listed: what the engine said last; kept while it is away: the next one loads the same.
    """

    def __init__(self, request_ids: Iterator[int], send: Callable[[ToEngine], None]) -> None:
        """``send`` raises EngineError while there is no engine."""
        self._request_ids = request_ids
        self._send = send
        self._asked: dict[int, asyncio.Future[AdapterAnswer]] = {}
        self.listed = AdapterList((), 0)

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of that name, if there is one."""
        return next((adapter for adapter in self.listed.adapters if adapter.name == name), None)

    async def load(self, name: str, path: str) -> AdapterAnswer:
        """Have the engine load a directory. Raises EngineError if it went away meanwhile."""
        return await self._ask(LoadAdapter(next(self._request_ids), name, path))

    async def unload(self, name: str) -> AdapterAnswer:
        """Have the engine forget an adapter once no sequence has it. Raises EngineError."""
        return await self._ask(UnloadAdapter(next(self._request_ids), name))

    def on_answer(self, answer: AdapterAnswer) -> None:
        """The engine answered."""
        future = self._asked.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(answer)

    def on_lost(self) -> None:
        """The engine has gone, and with it what it was asked."""
        for future in self._asked.values():
            if not future.done():
                future.set_exception(EngineError("the engine went away: see whether it was done"))

    async def _ask(self, message: LoadAdapter | UnloadAdapter) -> AdapterAnswer:
        self._send(message)
        future = self._asked[message.request_id] = asyncio.get_running_loop().create_future()
        try:
            return await future
        finally:
            del self._asked[message.request_id]
