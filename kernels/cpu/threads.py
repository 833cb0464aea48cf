"""The threads of the CPU kernels: oneTBB's, which give way to other processes.

A step is a few hundred short parallel loops, so it is the waiting at their ends that counts. Measured on 2 cores, one
sequence of the default model, median ms a step on an idle machine / beside another busy process:

    OpenMP, spinning          12 / 72 and more: a spinning thread keeps the one it waits for from running
    OpenMP, sleeping at once  20 to 29 / 24
    oneTBB                    17 / 17
"""

import ctypes
from importlib import metadata

import numba


def use_tbb() -> bool:
    """Make Numba run its loops on oneTBB. False where its library isn't there: then Numba chooses what is.

    To be called before the first parallel kernel runs.
    """
    # pip puts the library beside the interpreter, where the dynamic loader doesn't look: load it by its path, and
    # Numba's extension finds it by its name.
    try:
        files = metadata.files("tbb") or []
        library = next(file for file in files if file.name == "libtbb.so.12")
        ctypes.CDLL(str(library.locate()), ctypes.RTLD_GLOBAL)
    except (metadata.PackageNotFoundError, StopIteration, OSError):
        return False
    numba.config.THREADING_LAYER = "tbb"  # type: ignore[attr-defined] # its attributes are made when it is imported
    return True
