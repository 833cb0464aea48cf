"""What the compiler made of a launch: facts read from the binary (SASS) and from the last tensor IR (TTGIR)."""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .gpus import AUDITED_GPUS, resident_blocks
from .launches import Launch

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
_MMA = re.compile(r"HMMA|HGMMA|QMMA|QGMMA|IMMA|IGMMA|UTC\w*MMA")
_HEIGHT_AND_WIDTH = re.compile(r"\d+x\d+x(?=\d)")
_INSTRUCTION_OF_LAYOUT = re.compile(r"versionMajor = (\d).*warpsPerCTA = \[\d+, (\d+)\], instrShape = \[(.*?)\]")
_PRODUCT = r"(?:tt\.dot|warp_group_dot|tc_gen5_mma) "  # in TTGIR
# Dims of the shared buffers that the compiler's pipeline makes: of K or V (buffers, positions, head dim), of words of
# block-quantised weights (buffers, splits, outputs, words).
_PIPELINED = (3, 4)


class Facts(NamedTuple):
    """Of one compiled launch.

    Counts of instructions are those of the inner loops (loops that hold no other loop), or of the whole kernel where
    there is no loop.
    """

    has_loop: bool
    registers: int
    stack_bytes: int  # spills, as no kernel here indexes a local array
    loop_spills: int  # loads and stores of local memory
    shared_bytes: int
    blocks: int  # resident on a multiprocessor
    loads: dict[int, int]  # bytes a lane -> loads of global memory, copies to shared memory included
    stores: dict[int, int]  # bytes a lane -> stores to global memory, in the whole kernel
    async_copies: int
    mma: int
    buffers: int  # tiles on their way or in use at a time; 0: the kernel has no such loop
    order: tuple[str, ...] = ()  # of products and sums within a row, as far as the kernel's layouts decide it
    products: tuple[str, ...] = ()  # matrix instructions, but for how many rows and columns they have


def compile_and_read(launch: Launch, arch: int) -> Facts:
    """Compile for ``arch``, no GPU needed, and read the result."""
    source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([_TOOL, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers, stack_bytes = (int(re.findall(rf"{what}:(\d+)", usage)[0]) for what in ("REG", "STACK"))
    instructions = [(int(at, 16), name, rest) for at, name, rest in _INSTRUCTION.findall(sass)]
    everywhere = Counter(name for _, name, _ in instructions)
    in_loops = _inner_loop_instructions(instructions)
    where_it_matters = in_loops or everywhere
    shared_bytes, warps = compiled.metadata.shared, compiled.metadata.num_warps
    return Facts(
        has_loop=bool(in_loops),
        registers=registers,
        stack_bytes=stack_bytes,
        loop_spills=sum(count for name, count in where_it_matters.items() if name.startswith(("LDL", "STL"))),
        shared_bytes=shared_bytes,
        blocks=resident_blocks(AUDITED_GPUS[arch], warps, registers, shared_bytes),
        loads=_widths(where_it_matters, ("LDG.", "LDGSTS")),
        stores=_widths(everywhere, ("STG.",)),
        async_copies=sum(count for name, count in where_it_matters.items() if name.startswith(("LDGSTS", "UTMALDG"))),
        mma=sum(count for name, count in where_it_matters.items() if _MMA.match(name)),
        buffers=_buffers(compiled.asm["ttgir"]),
        order=_order(compiled.asm["ttgir"]),
        products=tuple(sorted({_HEIGHT_AND_WIDTH.sub("x", name) for name in where_it_matters if _MMA.match(name)})),
    )


def _inner_loop_instructions(instructions: list[tuple[int, str, str]]) -> Counter[str]:
    """Names of the instructions between a backward branch and its target, where no other such pair is inside."""
    loops = []
    for at, name, rest in instructions:
        target = re.search(r"0x([0-9a-f]+)", rest) if name.startswith("BRA") else None
        if target and int(target[1], 16) < at:
            loops.append((int(target[1], 16), at))
    inner = [
        (start, end)
        for start, end in loops
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in loops)
    ]
    return Counter(name for at, name, _ in instructions if any(start <= at <= end for start, end in inner))


def _widths(instructions: Counter[str], prefixes: tuple[str, ...]) -> dict[int, int]:
    """Bytes a lane -> accesses by instructions of these names."""
    widths: Counter[int] = Counter()
    for name, count in instructions.items():
        if not name.startswith(prefixes):
            continue
        parts = set(name.split("."))
        if "128" in parts:
            width = 16
        elif "64" in parts:
            width = 8
        elif parts & {"U16", "S16"}:
            width = 2
        elif parts & {"U8", "S8"}:
            width = 1
        else:
            width = 4
        widths[width] += count
    return dict(sorted(widths.items()))


def _order(ttgir: str) -> tuple[str, ...]:
    """In which order a row's products are summed: equal for kernels whose rows, in tiles of other heights, are alike.

    For the matrix products: version and shape of the instruction, and among how many warps the columns are divided. For
    sums over a row: where a thread, a warp and a block have the columns.
    """
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    used = {name for line in re.findall(_PRODUCT + ".*", ttgir) for name in re.findall(r"#\w+", line)}
    used |= set(re.findall(r"\(tensor<\d+x\d+xf32, (#\w+)>\) -> tensor<\d+xf32", ttgir))
    found = set()
    for layout in (layouts.get(name, "") for name in used):
        if instruction := re.search(
            r"versionMajor = (\d).*warpsPerCTA = \[\d+, (\d+)\], instrShape = \[(.*?)\]", layout
        ):
            version, warps, shape = instruction.groups()
            found.add(f"mma {version} of {shape}, columns in {warps} warps")
        elif "tensor_memory_encoding" in layout or layout.startswith("#ttg.linear"):
            found.add(layout)
    return tuple(sorted(found))


def _buffers(ttgir: str) -> int:
    """Buffers of the pipelined loop that holds a matrix product, 1 where it waits for every copy at once.

    An allocation of several buffers is not enough: a loop can fill them one at a time. Then its waits let no copy
    remain on its way (num = 0).
    """
    shapes = [shape.split("x")[:-1] for shape in re.findall(r"local_alloc.*?-> !ttg\.memdesc<(\w+)", ttgir)]
    depths = [int(shape[0]) for shape in shapes if len(shape) in _PIPELINED]
    waits = _waits_in_mma_loops(ttgir)
    if not waits:
        return 0
    return min(depths, default=1) if max(waits) > 0 else 1


def _waits_in_mma_loops(ttgir: str) -> list[int]:
    """Copies that may remain on their way, for each wait of an innermost loop with a matrix product."""
    waits: list[int] = []
    open_loops: list[tuple[int, list[int], bool]] = []  # indentation, waits, has a product
    for line in ttgir.splitlines():
        indentation = len(line) - len(line.lstrip())
        if "scf.for" in line:
            open_loops.append((indentation, [], False))
        elif open_loops:
            start, own_waits, has_product = open_loops[-1]
            own_waits += [int(number) for number in re.findall(r"async_wait .*num = (\d+)", line)]
            if re.search(_PRODUCT, line):
                open_loops[-1] = (start, own_waits, True)
            if line.lstrip().startswith("}") and indentation == start:
                open_loops.pop()
                if has_product:
                    waits += own_waits or [0]
                    open_loops = []  # what is around it is no inner loop
    return waits
