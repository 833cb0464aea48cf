"""Memory that the processes of one engine share. It has no name, and goes with the last of them."""

import mmap
import os
import tempfile

import torch

# Of addresses: pages come when they are written to first. Partial sums of 8192 rows of 16384 for 8 ranks take 8 GiB.
SIZE = 64 << 30


def create_memory() -> int:
    """A file descriptor of SIZE bytes of zeros, to be inherited and mapped."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("headwater shards")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SIZE)
    return descriptor


def map_memory(descriptor: int) -> torch.Tensor:
    """All of it, uint8 [SIZE]."""
    return torch.frombuffer(mmap.mmap(descriptor, SIZE, flags=mmap.MAP_SHARED), dtype=torch.uint8)


def resident_bytes() -> int:
    """Of this process, what it shares with others included; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
