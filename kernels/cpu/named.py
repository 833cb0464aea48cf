"""Names for functions that a maker returns, one for each that it was asked for.

Numba keeps a kernel's object code with that of all it calls. The linker takes functions of one name for one function,
and their names are the maker's, the types of their arguments and a number that counts from the start of the process:
without more, two that different processes compiled may be one to a third, which then computes the wrong thing.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

from numba import njit

_LONGEST = 60  # the name becomes a file's, beside others


def named(function: Callable[..., Any], *made_for: Any) -> Callable[..., Any]:
    """``function``, under a name of its own; ``made_for``: what its maker was called with."""
    words = "_".join(str(argument) for argument in made_for)
    if len(words) > _LONGEST:
        words = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
    function.__qualname__ = f"{function.__qualname__}_{re.sub(r'[^A-Za-z0-9]+', '_', words)}"
    return function


def njit_of(*made_for: Any) -> Callable[[Callable[..., Any]], Any]:
    """``@njit`` for a function that a maker returns."""
    return lambda function: njit(named(function, *made_for))
