"""No two functions of the CPU kernels share a name: the linker would take them for one (kernels/cpu/named.py)."""

import importlib
import os
import pkgutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher

from headwater.kernels import cpu
from headwater.kernels.cpu.named import named


def reached(value: Any, seen: set[int]) -> Iterator[Dispatcher]:
    """A compiled function and those that it has from its maker."""
    if not isinstance(value, Dispatcher) or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for cell in value.py_func.__closure__ or ():
        yield from reached(cell.cell_contents, seen)


def test_every_compiled_function_has_a_name_of_its_own() -> None:
    found, seen = defaultdict(list), set[int]()
    for module in pkgutil.iter_modules(cpu.__path__):
        for value in vars(importlib.import_module(f"{cpu.__name__}.{module.name}")).values():
            for function in reached(value, seen):
                found[function.py_func.__module__, function.py_func.__qualname__].append(function)
    assert any("tallest_first" in name for _, name in found)
    # The same maker with the same arguments makes the same function.
    assert not {name for name, functions in found.items() if len(set(map(contents, functions))) > 1}


def contents(function: Dispatcher) -> tuple[Any, ...]:
    """What a function has from its maker, as far as it can tell it from another of its name."""
    cells = (cell.cell_contents for cell in function.py_func.__closure__ or ())
    return tuple(cell.py_func.__qualname__ if isinstance(cell, Dispatcher) else str(cell) for cell in cells)


def test_a_maker_s_kernels_are_told_apart_by_what_they_are_made_for() -> None:
    def make(adds: bool) -> Callable[[], bool]:
        return lambda: adds

    names = {named(make(adds), kind, adds).__qualname__ for adds in (False, True) for kind in ("bf16", "fp32")}
    assert len(names) == 4


def test_a_name_fits_a_file_of_the_cache_however_much_a_kernel_is_made_for() -> None:
    def make(index: int) -> Callable[[], int]:
        return lambda: index

    codes = ", ".join(map(str, range(256)))
    names = [named(make(index), codes, index).__qualname__ for index in range(2)]
    assert names[0] != names[1]
    assert max(map(len, names)) < 150


MADE = """
from headwater.kernels.cpu.compiled import compile_made
from headwater.kernels.cpu.machine import pause

def make(wait, times):
    def function(argument):
        for _ in range(times):
            wait()
    return function

print(*[compile_made(make(pause, times), (times,), 1)._cache_hits for times in (-1, 1)])
"""


def test_the_next_process_finds_what_was_compiled_for_the_same(tmp_path: Path) -> None:
    """Also what closes over an intrinsic, which Numba's own key tells from itself."""
    program = tmp_path / "made.py"
    program.write_text(MADE)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-P", str(program)]
    told = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [each.stdout.split() for each in told] == [["0", "0"], ["1", "1"]]
