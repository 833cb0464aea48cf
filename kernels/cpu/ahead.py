"""The kernels that take longest to compile, compiled by processes of their own while the model is loaded.

Numba compiles one function at a time in a process. What they compile goes into its cache, where the engine finds it;
it waits for a process only if it comes to that kernel first. The sampler takes a third of a first start's processor
time, attention a sixth. On one core nothing is won, and nothing is started.
"""

import subprocess
import sys

import torch

from .attention import _attend
from .compiled import under_way
from .op_graph import ByAddress
from .sample import _sample

# The longest first: with few cores the others are left to the engine itself.
_KERNELS: dict[str, ByAddress] = {"sample": _sample, "attend": _attend}


def compile_ahead(rows: torch.dtype, pages: torch.dtype, processes: int) -> int:
    """Start up to so many processes for what the cache lacks of a model with these dtypes. Returns how many."""
    jobs = {"sample": (), "attend": (rows, pages)}
    missing = [(name, kinds) for name, kinds in jobs.items() if not _KERNELS[name].is_compiled(*kinds)]
    for name, kinds in missing[:processes]:
        command = [sys.executable, "-P", "-m", __name__, name, *(str(kind).removeprefix("torch.") for kind in kinds)]
        nowhere = subprocess.DEVNULL
        under_way[_KERNELS[name].name, kinds] = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    return min(len(missing), processes)


if __name__ == "__main__":
    # By its own name: where it is run as __main__, its kernels would be others than the engine's.
    _KERNELS[sys.argv[1]](*(getattr(torch, name) for name in sys.argv[2:]))
