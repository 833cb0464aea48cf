"""Compiles the functions that makers return, for callers by address, and finds them again in the next process."""

import hashlib
import logging
import subprocess
import time
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target

from .features import numerics
from .named import named

_PROGRESS_S = 3.0  # between two lines

logger = logging.getLogger(__name__)

# By maker and what it was called with: processes that compile it into the cache (ahead.py).
under_way: dict[tuple[str, tuple[Any, ...]], subprocess.Popen[bytes]] = {}


class _Cache(FunctionCache):
    """Numba's cache, by what a function was made for.

    Numba's own key has what the function closes over, pickled, and intrinsics are pickled with a number that each
    process draws: who closes over one would be compiled at every start.
    """

    def __init__(self, function: Callable[..., None], made_for: str) -> None:
        super().__init__(function)
        self._made_for = made_for

    def _index_key(self, sig, codegen):
        code = hashlib.sha256(self._py_func.__code__.co_code).hexdigest()
        return sig, codegen.magic_tuple(), (code, self._made_for, numerics())

    def has(self, compiled: Any) -> bool:
        """Whether the CFunc was compiled before, by this process or another."""
        key = self._index_key(compiled._sig, cpu_target.target_context.codegen())
        return key in self._cache_file._load_index()


class Compiling:
    """What this process has compiled, and the lines that say so.

    Attributes:
        count: kernels and tiles that were not in the cache when they were needed first.
    """

    def __init__(self) -> None:
        self.count = 0
        self._begin_s = self._told_s = 0.0

    def begins(self) -> None:
        """Of the next one. A line now and then: the first start on a machine is the only slow one."""
        now = time.monotonic()
        if not self.count:
            self._begin_s = self._told_s = now
            logger.info("compiling the kernels: once for this processor and version")
        elif now - self._told_s >= _PROGRESS_S:
            self._told_s = now
            logger.info("compiling the kernels: %d in %.0f s", self.count, now - self._begin_s)
        self.count += 1


compiling = Compiling()


def _make(function: Callable[..., None], made_for: tuple[Any, ...], arguments: int) -> Any:
    signature = tuple([types.intp] * arguments), types.void
    made: Any = CFunc(named(function, *made_for), signature, {}, {"error_model": "numpy"})
    made._cache = _Cache(function, repr(made_for))
    return made


def is_compiled(function: Callable[..., None], made_for: tuple[Any, ...], arguments: int) -> bool:
    """Whether ``compile_made`` would find it."""
    made = _make(function, made_for, arguments)
    return made._cache.has(made)


def compile_made(function: Callable[..., None], made_for: tuple[Any, ...], arguments: int) -> Any:
    """A CFunc of so many integers; ``made_for``: what its maker was called with."""
    maker = function.__qualname__.split(".")[0]
    compiled = _make(function, made_for, arguments)
    if not compiled._cache.has(compiled):
        compiling.begins()
        other = under_way.pop((maker, made_for), None)
        if other is not None:  # if it failed, so will this, and say why
            other.wait()
    compiled.compile()
    assert compiled.address is not None, "compiled, but nowhere"
    return compiled
