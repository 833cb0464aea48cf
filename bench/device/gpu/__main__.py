"""Checks and measures the Triton kernels on a GPU: ``python -m headwater.bench.device.gpu [--quick] [--json FILE]``.

Every op against its formula in float64, then times, as shares of what a copy and a matmul reach in the same run. Needs
torch, triton and numpy and no network; a part that needs more says so. Without a GPU it says so and does the rest: with
TRITON_INTERPRET=1 the checks run in Triton's interpreter, at small sizes.

The JSON file is complete after each result, and all figures are a Markdown table at the end. Ends with status 1 if a
check fails or a part ends with an error, 3 if there was no time for all parts, 2 if nothing was found out at all.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import triton

from .figures import COPY, MATMUL
from .parts import PARTS, Outcome, Part, run_parts
from .setup import Figure, Result, Setup

VERSION = 1  # of the JSON's schema
_STATUS = {1: "a part ended with an error, or a check fails", 2: "nothing was found out", 3: "no time for all parts"}
LIMIT_S, QUICK_LIMIT_S = 530.0, 170.0  # nine minutes, three
_CARD = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu",
    "memory.used",
)  # fmt: skip


def card() -> dict[str, str]:
    """What the driver says of the first card at this moment; nothing where it has no tool for it."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(_CARD)}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_CARD, (value.strip() for value in done.stdout.split(",")), strict=False))


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
            "card": card(),
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
    """All results so far, on the terminal and in the file."""

    def __init__(self, path: Path | None, settings: dict[str, object]) -> None:
        self._path = path
        self._settings = settings
        self._outcomes: list[Outcome] = []
        self._cards: list[dict[str, str]] = []  # at the end of each part
        self._running: list[Result] = []  # of the part that has no outcome yet
        self._roofs: dict[str, float] = {}  # bytes or FLOPs a second

    def add_result(self, result: Result) -> None:
        """One result of the part that runs: printed and written at once, whatever becomes of the part."""
        self._running.append(result)
        if isinstance(result, Figure):
            if result.name in (COPY, MATMUL):
                self._roofs[result.name] = (result.traffic_bytes or result.flops) / result.seconds
            print(self._line(result), flush=True)
        self.write()

    def add(self, outcome: Outcome) -> None:
        """A part is over: its results were added before."""
        self._outcomes.append(outcome)
        self._cards.append(card() if outcome.figures else {})
        self._running.clear()
        for line in self._lines(outcome):
            print(line, flush=True)
        self.write()

    def write(self) -> None:
        """The file, if one is wanted: complete at any time, since the old one is replaced in one go."""
        if self._path is None:
            return
        parts = [self._part(outcome, at) for outcome, at in zip(self._outcomes, self._cards, strict=True)]
        running = [asdict(result) for result in self._running]
        document = {"version": VERSION, **self._settings, "roofs": self._roofs, "parts": parts, "running": running}
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps(document, indent=1, default=str))
        partial.replace(self._path)

    @property
    def status(self) -> int:
        """Of the program."""
        statuses = {outcome.status for outcome in self._outcomes}
        if statuses & {"failed", "error"}:
            return 1
        if not any(outcome.figures or outcome.comparisons for outcome in self._outcomes):
            return 2
        return 3 if "late" in statuses else 0

    def markdown(self, title: str) -> str:
        """All figures as one table, and what of the rest is to be known."""
        rows = [
            f"| {figure.name} | {_time(figure.seconds)} | {self._rate_text(figure)} | {figure.note} |"
            for outcome in self._outcomes for figure in outcome.figures
        ]  # fmt: skip
        table = ["| | time | rate | |", "|---|---:|---|---|", *rows] if rows else []
        odd = [
            f"- {outcome.name}: {outcome.status}, {(outcome.reason.strip() or 'a comparison').splitlines()[-1]}"
            for outcome in self._outcomes if outcome.status != "ok"
        ]  # fmt: skip
        compared = [each for outcome in self._outcomes for each in outcome.comparisons]
        holding = f"{sum(each.holds for each in compared)} of {len(compared)} comparisons hold."
        return "\n".join([f"## {title}", "", holding, "", *table, "", *odd]).rstrip()

    def _part(self, outcome: Outcome, card_then: dict[str, str]) -> dict[str, object]:
        return {
            "name": outcome.name,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "reason": outcome.reason,
            "peak_bytes": outcome.peak_bytes,
            "card": card_then,
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

    def _rate_text(self, figure: Figure) -> str:
        rates = self._rates(figure)
        parts = []
        for name, unit, roof in (("gb_s", "GB/s", COPY), ("tflop_s", "TFLOP/s", MATMUL)):
            if name in rates:
                share = f" {rates[f'of_{roof}']:.0%} of {roof}" if f"of_{roof}" in rates else ""
                parts.append(f"{rates[name]:.1f} {unit}{share}")
        return ", ".join(parts)

    def _line(self, figure: Figure) -> str:
        return f"    {figure.name:<64} {_time(figure.seconds):>10}  {self._rate_text(figure)}  {figure.note}".rstrip()

    def _lines(self, outcome: Outcome) -> list[str]:
        peak = f", {outcome.peak_bytes / 2**30:.2f} GiB at most" if outcome.peak_bytes else ""
        lines = [f"{outcome.name}: {outcome.status}, {outcome.seconds:.1f} s{peak}"]
        if outcome.reason:
            lines += [f"    {line}" for line in outcome.reason.rstrip().splitlines()]
        if outcome.comparisons:
            holding = sum(each.holds for each in outcome.comparisons)
            lines.append(f"    {holding} of {len(outcome.comparisons)} comparisons hold")
        for each in outcome.comparisons:
            if not each.holds:
                lines.append(f"    WRONG {each.name}: error {each.error:.3g}, {each.tolerance:.3g} is allowed")
        return lines


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.1f} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.2f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m headwater.bench.device.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all results")
    parser.add_argument("--only", nargs="+", default=[], choices=[part.name for part in PARTS], metavar="PART")
    parser.add_argument("--limit-s", type=float, help=f"end after so many seconds: {LIMIT_S:.0f}, {QUICK_LIMIT_S:.0f}")
    wanted = parser.parse_args(arguments)
    deadline = time.monotonic() + (wanted.limit_s or (QUICK_LIMIT_S if wanted.quick else LIMIT_S))
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
    for found in run_parts(parts, setup, deadline):
        if isinstance(found, Outcome):
            report.add(found)
        else:
            report.add_result(found)
    name = where["device"] or "no GPU"
    print("\n" + report.markdown(f"{name}, torch {torch.__version__}, triton {triton.__version__}"))
    if report.status:
        print(f"\nstatus {report.status}: " + _STATUS[report.status])
    return report.status


if __name__ == "__main__":
    sys.exit(main())
