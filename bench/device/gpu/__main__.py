"""Checks and measures the Triton kernels on a GPU: ``python -m headwater.bench.device.gpu [--quick] [--json FILE]``.

Every op against its formula in float64, then times, as shares of what a copy and a matmul reach in the same run. Needs
torch, triton and numpy and no network; a part that needs more says so. Without a GPU it says so and does the rest: with
TRITON_INTERPRET=1 the checks run in Triton's interpreter, at small sizes.

The JSON file is written anew after each part. Ends with status 1 if a check fails or a part ends with an error.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import triton

from .figures import COPY, MATMUL
from .parts import PARTS, Outcome, Part, run_parts
from .setup import Figure, Setup

VERSION = 1  # of the JSON's schema
LIMIT_S = 285.0


def environment() -> dict[str, object]:
    """Versions, and the device if there is one."""
    found: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device": None,
        "interpreter": os.environ.get("TRITON_INTERPRET") == "1",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "interpreter": False,
        }
    return found


def choose(has_gpu: bool, interpreted: bool, only: list[str]) -> tuple[list[Part], list[Outcome]]:
    """Parts to run, and those that cannot run here."""
    run: list[Part] = []
    skipped: list[Outcome] = []
    for part in PARTS:
        if only and part.name not in only:
            continue
        if has_gpu or (interpreted and not part.needs_gpu):
            run.append(part)
        elif part.needs_gpu:
            skipped.append(Outcome(part.name, "skipped", reason="no GPU"))
        else:
            skipped.append(
                Outcome(part.name, "skipped", reason="no GPU; TRITON_INTERPRET=1 runs it in the interpreter")
            )
    return run, skipped


class Report:
    """All outcomes so far, on the terminal and in the file."""

    def __init__(self, path: Path | None, settings: dict[str, object]) -> None:
        self._path = path
        self._settings = settings
        self._outcomes: list[Outcome] = []
        self._roofs: dict[str, float] = {}  # bytes or FLOPs a second

    def add(self, outcome: Outcome) -> None:
        """Print an outcome and write everything to the file."""
        self._outcomes.append(outcome)
        for figure in outcome.figures:
            if figure.name in (COPY, MATMUL):
                self._roofs[figure.name] = (figure.traffic_bytes or figure.flops) / figure.seconds
        for line in self._lines(outcome):
            print(line, flush=True)
        self.write()

    def write(self) -> None:
        """The file, if one is wanted: complete at any time, since the old one is replaced in one go."""
        if self._path is None:
            return
        parts = [self._part(outcome) for outcome in self._outcomes]
        text = json.dumps({"version": VERSION, **self._settings, "roofs": self._roofs, "parts": parts}, indent=1)
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(text)
        partial.replace(self._path)

    @property
    def is_sound(self) -> bool:
        return all(outcome.status in ("ok", "skipped") for outcome in self._outcomes)

    def _part(self, outcome: Outcome) -> dict[str, object]:
        return {
            "name": outcome.name,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "reason": outcome.reason,
            "comparisons": [
                {
                    **asdict(each),
                    "error": each.error if math.isfinite(each.error) else None,  # JSON has no NaN
                    "holds": each.holds,
                }
                for each in outcome.comparisons
            ],
            "figures": [{**asdict(each), **self._rates(each)} for each in outcome.figures],
        }

    def _rates(self, figure: Figure) -> dict[str, float]:
        """GB/s and TFLOP/s, and the share of each roof."""
        rates = {}
        for name, unit, roof, amount in (
            ("gb_s", 1e9, COPY, figure.traffic_bytes),
            ("tflop_s", 1e12, MATMUL, figure.flops),
        ):
            if amount:
                rate = amount / figure.seconds
                rates[name] = rate / unit
                if roof in self._roofs:
                    rates[f"of_{roof}"] = rate / self._roofs[roof]
        return rates

    def _lines(self, outcome: Outcome) -> list[str]:
        lines = [f"{outcome.name}: {outcome.status}, {outcome.seconds:.1f} s"]
        if outcome.reason:
            lines += [f"    {line}" for line in outcome.reason.rstrip().splitlines()]
        if outcome.comparisons:
            holding = sum(each.holds for each in outcome.comparisons)
            lines.append(f"    {holding} of {len(outcome.comparisons)} comparisons hold")
        for each in outcome.comparisons:
            if not each.holds:
                lines.append(f"    WRONG {each.name}: error {each.error:.3g}, {each.tolerance:.3g} is allowed")
        for figure in outcome.figures:
            rates = self._rates(figure)
            line = f"    {figure.name:<64}{figure.seconds * 1e6:>11.1f} us"
            for name, unit, roof in (("gb_s", "GB/s", COPY), ("tflop_s", "TFLOP/s", MATMUL)):
                line += f"{rates[name]:>9.1f} {unit}" if name in rates else ""
                line += f" {rates[f'of_{roof}']:>5.0%} of {roof}" if f"of_{roof}" in rates else ""
            lines.append(line)
        return lines


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m headwater.bench.device.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all results")
    parser.add_argument("--only", nargs="+", default=[], choices=[part.name for part in PARTS], metavar="PART")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="begin nothing after so many seconds")
    wanted = parser.parse_args(arguments)
    deadline = time.monotonic() + wanted.limit_s
    where = environment()
    has_gpu, interpreted = where["device"] is not None, bool(where["interpreter"])
    if has_gpu:
        os.environ.pop("TRITON_INTERPRET", None)  # for the process that runs the parts
        setup = Setup(torch.device("cuda", 0), torch.bfloat16, quick=wanted.quick)
    else:
        # The interpreter's bf16 is wrong, and it is slow.
        setup = Setup(torch.device("cpu"), torch.float32, tiny=True, quick=True)
        print("No GPU: nothing can be measured." + (" Checks run in Triton's interpreter." if interpreted else ""))
    print(", ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    report = Report(wanted.json, {"environment": where, "quick": wanted.quick})
    report.write()
    parts, skipped = choose(has_gpu, interpreted, wanted.only)
    for outcome in skipped:
        report.add(outcome)
    for outcome in run_parts(parts, setup, deadline):
        report.add(outcome)
    return 0 if report.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
