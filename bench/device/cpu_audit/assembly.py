"""Facts of a tile, read from its assembly: what its inner loop multiplies with, loads, and keeps on the stack."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_LABEL = re.compile(r"^\.?LBB0_(\d+):")
_OF_LOOP = re.compile(r"in Loop: Header=BB0_(\d+)")
_MEMORY = {"x86_64": re.compile(r"\(%r"), "aarch64": re.compile(r"\[x")}
_STACK = {"x86_64": re.compile(r"\(%r[sb]p"), "aarch64": re.compile(r"\[(sp|x29)")}
_REGISTERS = {"zmm": 512, "ymm": 256, "xmm": 128}
# Instructions that multiply and add values of rows and weights.
_PRODUCTS = re.compile(
    r"^(vfmadd\w+ps|vdpbf16ps|vpdpbusd|vpmaddubsw|fmla|bfdot|sdot|smull2?|mulps|bfmmla|smmla|tdpbf16ps|fmadd|vfmadd\w+ss)$"
)


class Facts(NamedTuple):
    """Of the innermost loop with the most products; of the whole tile where there is no loop.

    Attributes:
        instructions: in the loop.
        products: multiply-adds, by instruction.
        loads: of vectors, by their width in bits; 32: one number for all lanes.
        spills: stores to and loads from the stack there.
        calls: of functions, anywhere.
    """

    instructions: int
    products: dict[str, int]
    loads: dict[int, int]
    spills: int
    calls: int

    def __str__(self) -> str:
        products = " ".join(f"{name}:{count}" for name, count in sorted(self.products.items()))
        loads = " ".join(f"{width}b:{count}" for width, count in sorted(self.loads.items()))
        return (
            f"instructions {self.instructions:<5} products {products or '-':<28} loads {loads:<28} spills {self.spills}"
        )


def read(text: str, machine: str) -> Facts:
    """``text``: LLVM's, with its comments (they say which block belongs to which loop)."""
    loops: dict[str, list[tuple[str, str]]] = {}
    everything: list[tuple[str, str]] = []
    header = ""
    for line in text.splitlines():
        if (label := _LABEL.match(line)) or line.startswith(("# %bb", "// %bb", "; %bb")):
            inside = _OF_LOOP.search(line)
            header = inside[1] if inside else ""
            number = label[1] if label else ""
        if "Inner Loop Header" in line:
            header = number
        elif "Loop Header" in line:
            header = ""  # of a loop around another
        elif (inside := _OF_LOOP.search(line)) is not None:
            header = inside[1]
        found = re.match(r"^\t(?:\{vex\}\s+)?([a-z][\w.]*)\s*(.*)$", line)
        if found and not found[1].startswith("."):
            instruction = found[1], re.split(r"\s+(?:#|//)", found[2])[0]
            everything.append(instruction)
            if header:
                loops.setdefault(header, []).append(instruction)
    inner = max(loops.values(), key=lambda body: (_count_products(body).total(), len(body)), default=everything)
    return Facts(
        len(inner),
        dict(_count_products(inner)),
        dict(Counter(_widths(inner, machine))),
        sum(1 for _, operands in inner if _STACK[machine].search(operands)),
        sum(1 for name, _ in everything if name in ("call", "callq", "bl", "blr")),
    )


def _count_products(body: list[tuple[str, str]]) -> Counter[str]:
    return Counter(re.sub(r"^(vfmadd)\d+", r"\1", name) for name, _ in body if _PRODUCTS.match(name))


def _widths(body: list[tuple[str, str]], machine: str) -> Iterator[int]:
    """Of each load of a vector that is not the stack's."""
    for name, operands in body:
        if not _MEMORY[machine].search(operands) or name.startswith(("prefetch", "prfm", "st", "lea")):
            continue
        if machine == "aarch64":
            if name.startswith("ld1r"):
                yield 32
            elif (register := re.match(r"\{?\s*([qvds])\d", operands)) is not None:
                for _ in range(2 if name == "ldp" else 1):
                    yield {"q": 128, "v": 128, "d": 64, "s": 32}[register[1]]
        elif "broadcast" in name or "{1to" in operands:
            yield 32
        elif (register := re.search(r"%([xyz]mm)\d+$", operands)) is not None and "), " in operands:
            yield _REGISTERS[register[1]]
