"""Compiles the functions that makers return, for callers by address, and finds them again in the next process."""

import hashlib
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from .features import numerics
from .named import named


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


def compile_made(function: Callable[..., None], made_for: tuple[Any, ...], arguments: int) -> Any:
    """A CFunc of so many integers; ``made_for``: what its maker was called with."""
    signature = tuple([types.intp] * arguments), types.void
    compiled: Any = CFunc(named(function, *made_for), signature, {}, {"error_model": "numpy"})
    compiled._cache = _Cache(function, repr(made_for))
    compiled.compile()
    assert compiled.address is not None, "compiled, but nowhere"
    return compiled
