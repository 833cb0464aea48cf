"""What a GPU needs beside torch, looked for before anything is loaded; and its errors, as what to do about them."""

import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .checkpoint.errors import ModelError

_DEVICE_FILES = Path("/dev")


def unseen_gpu() -> str | None:
    """Why torch has no use for the GPU that is in the machine; None if it has, or if there is none."""
    if not (found := sorted(_DEVICE_FILES.glob("nvidia[0-9]*"))):
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is a build without CUDA"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None  # somebody hid it
    else:
        said = "; ".join(str(each.message).strip() for each in told)
        why = f"torch {torch.__version__} needs a driver for CUDA {torch.version.cuda}" + (f" ({said})" if said else "")
    return f"there is a GPU ({found[0]}), but {why}: the model runs on the CPU, much slower"


def check_compiler() -> None:
    """Triton builds a helper in C when it first launches a kernel. Raises ModelError where it couldn't."""
    if os.environ.get("CC") is None and not (shutil.which("gcc") or shutil.which("clang")):
        raise ModelError(
            "kernels for a GPU need a C compiler, and there is none: install gcc (Debian: apt install gcc), or name "
            "one in the variable CC"
        )
    scheme = sysconfig.get_default_scheme()
    include = Path(sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (include / "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ModelError(
            f"kernels for a GPU need Python's headers, and {include}/Python.h is missing: install them (Debian: apt "
            f"install python{version}-dev)"
        )


def advice(error: BaseException) -> str | None:
    """What to do about an error of the device, in place of a traceback; None for other errors."""
    if isinstance(error, torch.OutOfMemoryError):
        said = str(error).split(". ")
        return (
            f"the GPU's memory is full ({'. '.join(said[:2])}). Take less: --quantize fp8 (or int8, int4), "
            "--kv-cache-dtype fp8_e4m3fn, a smaller --max-batch-size or --max-batch-prefill-tokens; a smaller "
            "--cuda-memory-fraction if other programs use the card"
        )
    if type(error).__name__ == "OutOfResources":  # triton's, from several modules over its versions
        return (
            f"a kernel asks for more than one multiprocessor of this GPU has ({error}). Please report the card and the "
            "model; another --dtype may fit, bfloat16 needs the least"
        )
    return None


@contextmanager
def errors_as_advice(name: str) -> Iterator[None]:
    """Errors of the device become a ModelError about the model of that name."""
    try:
        yield
    except Exception as error:
        told = advice(error)
        if told is None:
            raise
        raise ModelError(f"{name}: {told}") from error
