"""What a report says about where and how it was made."""

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from ..engine.cores import usable_cores

SECRET_OPTIONS = ("--header", "-H")  # their values may be keys


class Hardware(Struct, frozen=True):
    """The machine that the command ran on; the server's, if that is another, is not known."""

    cpu: str
    cores: int  # that this process may use
    memory_gib: float
    gpus: list[str]
    system: str


class Origin(Struct, frozen=True):
    """How a report came about."""

    headwater: str  # version
    command: str  # without the values of headers
    date: str  # ISO 8601
    python: str
    hardware: Hardware


def origin() -> Origin:
    return Origin(
        version("headwater"),
        command_line(sys.argv),
        datetime.now().astimezone().isoformat(timespec="seconds"),
        platform.python_version(),
        hardware(),
    )


def command_line(arguments: list[str]) -> str:
    """The command as typed, with the values of headers left out."""
    shown = [Path(arguments[0]).name]
    for before, argument in pairwise(arguments):
        name, equals, _ = argument.partition("=")
        if before in SECRET_OPTIONS:
            argument = "..."
        elif equals and name in SECRET_OPTIONS:
            argument = f"{name}=..."
        shown.append(argument)
    return shlex.join(shown)


def hardware() -> Hardware:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = usable_cores()
    return Hardware(cpu, cores, round(memory, 1), gpu_names(), f"{platform.system()} {platform.release()}")


def gpu_names() -> list[str]:
    """As the driver's own tool names them; empty without one."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []
