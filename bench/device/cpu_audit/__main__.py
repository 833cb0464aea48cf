"""Compiles the CPU kernels' tiles for every instruction set: ``python -m headwater.bench.device.cpu_audit``.

No processor of that kind is needed. Of each tile's inner loop: instructions, multiply-adds, loads by their width,
traffic with the stack. Ends with status 1 if a rule of ``problems`` is broken.

``--snapshot`` prints the lines that the tests compare: send them to tests/bench/device/cpu_audit_snapshot.txt after a
change and the diff shows what the change did. ``--run`` runs aarch64's under qemu-user (run.py).
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ....kernels.instruction_sets import TABLE, InstructionSet, compile_for
from .assembly import Facts, read

_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
_BYTE_DOTS = {"vpdpbusd_512": "vpdpbusd", "vpdpbusd_256": "vpdpbusd"}
# Addresses of rows that had no register; a loop has dozens of instructions.
_FEW_SPILLS = 2
_NARROW_ROW = 32  # bits: one value of a row, for all lanes


def problems(row: InstructionSet, tile: str, facts: Facts) -> list[str]:
    """The rules that a tile breaks."""
    found = []
    if facts.calls:
        found.append("calls a function")
    kind, blocks = tile.split()[0], tile.startswith("Q")
    meant = {"vfmaddps", "fmla"}
    if "int8 " in tile and blocks:
        meant |= {_BYTE_DOTS.get(row.byte_dot or "", row.byte_dot or "")}
        if not any(name in facts.products for name in meant - {"vfmaddps", "fmla"}):
            found.append(f"no {row.byte_dot}")
    elif row.dots_blocks and blocks:
        meant |= {row.bf16_dot or ""}  # beside multiply-adds of scales
        if "widen" not in tile.split() and row.bf16_dot not in facts.products:
            found.append(f"no {row.bf16_dot}")
    elif row.bf16_dot and (kind == "bf16" or tile.startswith(("scores", "values"))):
        meant = {row.bf16_dot}
    if (wrong := set(facts.products) - meant - {"smull2"}) or (not facts.products and "widen" not in tile.split()):
        found.append(f"multiplies with {', '.join(sorted(wrong)) or 'nothing'}")
    is_whole = "fp8" not in tile and "int8" not in tile
    widths = set(facts.loads) - {_NARROW_ROW}
    if min(widths, default=0) < (row.width if is_whole else row.width // 2):
        found.append(f"loads {min(widths, default=0)} bits of {row.width} at a time")
    is_tall = not blocks and is_whole and not tile.split()[-1].startswith("1x")
    if is_tall and facts.spills > _FEW_SPILLS:
        found.append(f"{facts.spills} loads or stores of spilled registers")
    return found


def audit(row: InstructionSet, processors: tuple[str, ...], objects: Path | None) -> Iterator[tuple[str, str, Facts]]:
    """Processor, tile and facts; ``objects``: where their machine code is put, too. ``compile_for`` came before."""
    from .tiles import Machine, tiles, write

    features = ",".join(f"+{name}" for name in row.needs)
    for processor in processors:
        machine = Machine(_TRIPLES[row.machine], processor, features)
        for tile in tiles():
            if objects is not None:
                (objects / f"{tile.name.replace(' ', '_')}.o").write_bytes(machine.object(write(tile)))
                continue
            yield processor, tile.name, read(machine.assembly(write(tile)), row.machine)


def in_snapshot(tile: str) -> bool:
    """The tiles that do most of the work with many rows."""
    shape = next(word for word in (*tile.split(), "") if word[1:2] == "x" or not word)
    return shape not in ("", "1x1", "1x2", "1x3", "1x4", "1x6", "2x6") and not tile.startswith("Q6")


def one_set(name: str, snapshot: bool, objects: Path | None) -> int:
    """In this process, which can be made for one set only."""
    row, failed = compile_for(name), False
    processors = row.proof[:1] if snapshot or objects else row.proof
    for processor, tile, facts in audit(row, processors, objects):
        if not snapshot or in_snapshot(tile):
            print(f"{name:<12} {processor:<15} {tile:<24} {facts}".rstrip())
        for problem in [] if snapshot else problems(row, tile, facts):
            failed = True
            print(f"PROBLEM {name} {processor} {tile}: {problem}")
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in TABLE if row.proof]
    parser.add_argument("--set", action="append", choices=names, help="only these")
    parser.add_argument("--snapshot", action="store_true", help="what the tests compare")
    parser.add_argument("--objects", type=Path, help="write machine code of one --set here, and no report")
    parser.add_argument("--run", action="store_true", help="run aarch64's tiles under qemu-user; --snapshot: fewer")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.run:
        from .run import run_all

        return run_all(wanted.set, in_snapshot if wanted.snapshot else bool)
    if wanted.alone or wanted.objects:
        return one_set(wanted.set[0], wanted.snapshot, wanted.objects)
    options = ["--snapshot"] * wanted.snapshot + ["--alone", "--set"]
    command = [sys.executable, "-P", "-m", "headwater.bench.device.cpu_audit", *options]
    failed = 0
    for name in wanted.set or names:
        failed |= subprocess.run([*command, name], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
