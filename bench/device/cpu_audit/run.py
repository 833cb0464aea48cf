"""Runs aarch64's tiles under qemu-user and this processor's beside them, on the same memory.

What has no dot product of bf16 must come out the same to the last bit: products in fp32 in order, and whole numbers.
``bfdot`` rounds differently: it must be near, and a row's must not depend on the rows beside it. Needs
``qemu-aarch64`` and ``aarch64-linux-gnu-gcc`` (Debian: qemu-user, gcc-aarch64-linux-gnu).
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # importing it chooses an instruction set
    from ....kernels.cpu.block_form import BlockForm

EMULATOR, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"
# A set, and the processor that qemu is to be. "max" has bf16; neoverse-n1 doesn't.
RUNS = (("neon", "cortex-a72"), ("neon-dot", "neoverse-n1"), ("neon-bf16", "max"))
_ROWS, _K, _RECORDS = 4, 64, 2


@dataclass
class Memory:
    """What a tile works on: bytes, arguments as (is an offset, value), and places that hold offsets."""

    random: np.random.Generator
    size: int = 0
    parts: list[tuple[int, np.ndarray]] = field(default_factory=list)
    arguments: list[tuple[bool, int]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def put(self, values: np.ndarray) -> int:
        """Its offset, a multiple of 64."""
        at, self.size = self.size, self.size + -(-values.nbytes // 64) * 64
        self.parts.append((at, values))
        return at

    def point(self, values: np.ndarray) -> None:
        self.arguments.append((True, self.put(values)))

    def number(self, *values: int) -> None:
        self.arguments += [(False, value) for value in values]

    def bytes(self) -> np.ndarray:
        memory = np.zeros(self.size, np.uint8)
        for at, values in self.parts:
            memory[at : at + values.nbytes] = np.ascontiguousarray(values).view(np.uint8).ravel()
        return memory


def _values(random: np.random.Generator, kind: str, count: int) -> np.ndarray:
    if kind == "int8":
        return random.integers(-127, 128, count).astype(np.int8)
    if kind == "fp8":
        return (random.integers(0, 0x7F, count) | random.integers(0, 2, count) << 7).astype(np.uint8)
    values = random.standard_normal(count).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "bf16" else values


def memory_of(name: str, rows: int) -> Memory:
    """Random memory for the tile of that name."""
    from .tiles import Q4_K, Q6_K

    memory = Memory(np.random.default_rng(sum(name.encode())))
    words = name.split()
    panels = int(next(word for word in (*words, "1x1") if word[1:2] == "x")[2:])
    if words[0] in ("scores", "values"):
        _attention(memory, words[0], rows, panels)
    elif words[0] in ("Q4_K", "Q6_K"):
        _blocks(memory, words, Q4_K if words[0] == "Q4_K" else Q6_K, rows, panels)
    else:
        x_kind, w_kind = words[0], words[2]
        x, per_step = _values(memory.random, x_kind, rows * _K), 1 if w_kind == "fp32" else 2
        w = _values(memory.random, w_kind, panels * _K * 16)
        memory.point(x)
        memory.number(x.nbytes // rows)
        memory.point(w)
        memory.number(w.nbytes // panels)
        memory.point(np.zeros(rows * panels * 16, np.float32))
        memory.number(panels * 64, _K // per_step)
    return memory


def _attention(memory: Memory, kind: str, rows: int, panels: int) -> None:
    """bf16: scores over _K dims, or values of two pages of _K positions."""
    pages = 1 if kind == "scores" else 2
    q = _values(memory.random, "bf16", rows * _K * pages)
    boxes = np.array([memory.put(_values(memory.random, "bf16", _K * 16 * panels)) for _ in range(max(panels, pages))])
    memory.point(q)
    memory.number(q.nbytes // rows)
    for _ in range(2):  # what is read, and what will be
        listed = memory.put(boxes)
        memory.places += [listed + 8 * i for i in range(len(boxes))]
        memory.arguments.append((True, listed))
    if kind == "values":
        memory.number(0, _K * 16 * 2)
    memory.point(np.zeros(rows * panels * 16, np.float32))
    memory.number(panels * 64, *([pages] if kind == "values" else []), _K // 2)


def _records(random: np.random.Generator, form: "BlockForm", count: int) -> np.ndarray:
    """Random codes; scales that are numbers."""
    records = random.integers(0, 256, (count, form.record_bytes)).astype(np.uint8)
    for at in (form.head.scale, *([form.head.minimum] if form.minima else [])):
        scales = (random.random((count, 16)) / 100).astype(np.float16)
        records[:, at : at + 32] = scales.view(np.uint8).reshape(count, 32)
    return records


def _blocks(memory: Memory, words: list[str], form: "BlockForm", rows: int, panels: int) -> None:
    random, is_widened, is_int8 = memory.random, "widened" in words, "int8" in words
    if "widen" in words:
        memory.point(_records(random, form, 1))
        memory.point(np.zeros(form.widened_bytes, np.uint8))
        return
    inner = _RECORDS * 256
    if is_int8:
        lines = random.integers(-127, 128, (rows, inner // 32, 64)).astype(np.int8)
        lines[:, :, 32:44] = random.random((rows, inner // 32, 3)).astype(np.float32).view(np.int8)
        lines[:, :, 44:52] = random.integers(-999, 999, (rows, inner // 32, 2)).astype(np.int32).view(np.int8)
        memory.point(lines)
        memory.number(lines.nbytes // rows)
    else:
        x = _values(random, "fp32", rows * inner)
        memory.point(x)
        memory.number(x.nbytes // rows)
        memory.point(_values(random, "fp32", rows * inner // form.unit))
        memory.number(inner // form.unit * 4)
    if is_widened:
        w = random.integers(0, 127, (panels, form.widened_bytes)).astype(np.uint8)
        codes = form.widened_scales
        if not is_int8:
            w[:, :codes] = _values(random, "bf16", panels * codes // 2).view(np.uint8).reshape(panels, codes)
        scales = random.random((panels, (form.widened_bytes - codes) // 4)).astype(np.float32)
        w[:, codes:] = scales.view(np.uint8).reshape(panels, -1)
    else:
        w = np.stack([_records(random, form, _RECORDS).ravel() for _ in range(panels)])
    memory.point(w)
    memory.number(w.nbytes // panels)
    memory.point(np.zeros(rows * panels * 16, np.float32))
    memory.number(panels * 64, 1 if is_widened else _RECORDS)
    next_w = w.nbytes // panels
    memory.arguments.append((True, memory.put(np.zeros(next_w, np.uint8))))


def run_here(machine_code: int, memory: Memory) -> np.ndarray:
    """What a function at that address leaves in the memory."""
    got = np.zeros(memory.size + 64, np.uint8)
    got = got[-got.ctypes.data % 64 :][: memory.size]
    got[:] = memory.bytes()
    base = got.ctypes.data
    for place in memory.places:
        got[place : place + 8].view(np.int64)[0] += base
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 10)(machine_code)
    arguments = [value + (base if is_offset else 0) for is_offset, value in memory.arguments]
    function(*arguments, *[0] * (10 - len(arguments)))
    for place in memory.places:
        got[place : place + 8].view(np.int64)[0] -= base
    return got


def run_emulated(processor: str, program: Path, memory: Memory) -> np.ndarray:
    """The same of a program that harness.c made."""
    header = [memory.size, len(memory.arguments)]
    header += [number for argument in memory.arguments for number in argument]
    header += [len(memory.places), *memory.places]
    given = program.with_suffix(".memory")
    given.write_bytes(np.array(header, np.int64).tobytes() + memory.bytes().tobytes())
    command = [EMULATOR, "-cpu", processor, str(program), str(given)]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


def link(object_file: Path) -> Path:
    program = object_file.with_suffix("")
    harness = Path(__file__).with_name("harness.c")
    subprocess.run([COMPILER, "-O1", "-static", "-o", program, harness, object_file], check=True)
    return program


def near(name: str, rows: int, got: np.ndarray, want: np.ndarray) -> bool:
    """Sums of products of bf16, in fp32, at the end of the memory."""
    panels = int(name.split()[-1][2:])
    ours, theirs = (part[-rows * panels * 64 :].view(np.float32) for part in (got, want))
    return bool(np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max())


def compare(name: str, processor: str, directory: Path, chosen: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """A tile of the set, and what there is to say: "same bits", "near", or what is wrong."""
    from llvmlite import binding

    from .tiles import Machine, tiles, write

    ours = {tile.name: tile for tile in tiles()}
    features = binding.get_host_cpu_features().flatten()
    host = Machine(binding.get_process_triple(), binding.get_host_cpu_name(), features)
    for object_file in sorted(directory.glob("*.o")):
        title = object_file.stem.replace("_", " ").replace("Q4 K", "Q4_K").replace("Q6 K", "Q6_K")
        dots = name == "neon-bf16" and title.startswith(("bf16", "scores", "values"))
        tile = ours.get(title.replace("bf16 x", "fp32 x", 1) if dots and title.startswith("bf16") else title)
        if tile is None or not chosen(title):
            continue
        shape = next((word for word in title.split() if word[1:2] == "x"), "1x1")
        rows = int(shape[0])
        memory = memory_of(title, rows)
        got = run_emulated(processor, link(object_file), memory)
        alone = object_file.with_name(object_file.name.replace("4x1", "1x1"))
        if alone != object_file and alone.exists():  # the same memory, and its first row
            at = memory.arguments[4][1]
            by_itself = run_emulated(processor, link(alone), memory)[at : at + 64]
            if not np.array_equal(by_itself, got[at : at + 64]):
                yield title, "WRONG: a row by itself differs"
        if dots and title.startswith("bf16"):  # here the rows are widened first
            x = next(part for at, part in memory.parts if at == memory.arguments[0][1])
            wide = (x.astype(np.uint32) << 16).view(np.float32)
            memory.arguments[0] = (True, memory.put(wide))
            memory.arguments[1] = (False, wide.nbytes // rows)
        want = run_here(host.address(write(tile)), memory)[: got.size]
        if np.array_equal(got, want):
            yield title, "same bits"
        else:
            yield title, "near" if dots and near(title, rows, got, want) else "WRONG"


def run_all(sets: Sequence[str] | None, chosen: Callable[[str], bool]) -> int:
    """The tiles that are chosen, of these sets or of every one.

    Returns 1 if one computes something else, 3 if there is no emulator.
    """
    if not (shutil.which(EMULATOR) and shutil.which(COMPILER)):
        print(f"needs {EMULATOR} and {COMPILER}")
        return 3
    if os.environ.get("HEADWATER_CPU_FEATURES") != "avx2":  # whose tiles have the shapes of NEON's
        environment = os.environ | {"HEADWATER_CPU_FEATURES": "avx2"}
        command = [sys.executable, "-P", "-m", "headwater.bench.device.cpu_audit"]
        return subprocess.run(command + sys.argv[1:], env=environment, check=False).returncode
    failed = False
    for name, processor in RUNS:
        if sets and name not in sets:
            continue
        with tempfile.TemporaryDirectory() as directory:
            make = [
                sys.executable,
                "-P",
                "-m",
                "headwater.bench.device.cpu_audit",
                "--set",
                name,
                "--objects",
                directory,
            ]
            subprocess.run(make, check=True)
            for title, found in compare(name, processor, Path(directory), chosen):
                print(f"{name:<10} {processor:<12} {title:<24} {found}")
                failed |= found.startswith("WRONG")
    return int(failed)
