"""What stepping the engine showed: figures of each batch size and context, held against what memory allows."""

import statistics

import msgspec
import numpy as np
from msgspec import Struct

from ...engine.messages import Hello
from ..chart import COLORS, Axis, Chart
from ..machine import origin
from ..report import Plot, Report, Table, number
from .state import State


class Cell(Struct, frozen=True):
    """Decoding at one batch size and context."""

    batch: int  # sequences
    context: int  # tokens asked for
    mean_context: float  # tokens the sequences had, on average
    step_ms: float  # median
    step_p90_ms: float
    tokens_per_s: float
    read_bytes: int  # weights and KV cache, by one step
    bandwidth: float  # bytes/s
    roof_share: float


class Prefill(Struct, frozen=True):
    """Prompts at one context."""

    context: int  # tokens
    prompts: int
    tokens_per_s: float


class Grid(Struct):
    """What was measured so far; Ctrl-C leaves the rest out."""

    roof: float  # bytes/s
    cells: list[Cell] = []
    prefills: list[Prefill] = []
    notes: list[str] = []

    def set_roof(self, roof: float) -> None:
        """Take another roof for all cells."""
        self.roof = roof
        self.cells = [msgspec.structs.replace(cell, roof_share=cell.bandwidth / roof) for cell in self.cells]


def make_cell(context: int, seconds: list[float], lengths: list[int], state: State, roof: float) -> Cell:
    """The figures of one batch size.

    Args:
        seconds: of each step.
        lengths: of each sequence, tokens.
        roof: bytes/s.
    """
    step_s = statistics.median(seconds)
    read = state.step_bytes(lengths)
    return Cell(
        batch=len(lengths),
        context=context,
        mean_context=statistics.mean(lengths),
        step_ms=step_s * 1e3,
        step_p90_ms=float(np.percentile(seconds, 90)) * 1e3,
        tokens_per_s=len(lengths) / step_s,
        read_bytes=read,
        bandwidth=read / step_s,
        roof_share=read / step_s / roof,
    )


def offline_report(grid: Grid, hello: Hello, state: State) -> Report:
    """Tables and plot of what was measured."""
    cells = sorted(grid.cells, key=lambda cell: (cell.context, cell.batch))
    decode_rows = [
        [
            f"{cell.mean_context:,.0f}",
            str(cell.batch),
            number(cell.step_ms),
            number(cell.step_p90_ms),
            number(cell.tokens_per_s),
            number(cell.read_bytes / 1e6),
            number(cell.bandwidth / 1e9),
            f"{cell.roof_share:.0%}",
        ]
        for cell in cells
    ]
    prefill_rows = [[f"{each.context:,}", str(each.prompts), number(each.tokens_per_s)] for each in grid.prefills]
    return Report(
        kind="offline",
        title=f"headwater bench offline: {hello.model_id}",
        origin=origin(),
        facts=[
            ("Model", f"{hello.model_id}, {hello.dtype}, {hello.backend} kernels on {hello.device}"),
            ("Weights", f"{state.weight_bytes / 1e6:.0f} MB read by every step"),
            ("KV cache", hello.kv_cache_dtype),
            ("Memory", f"{grid.roof / 1e9:.1f} GB/s, measured"),
        ],
        tables=[
            Table(
                "Decoding",
                ["context", "batch", "step ms", "p90 ms", "tokens/s", "MB read", "GB/s", "of the roof"],
                decode_rows,
            ),
            Table("Prompts", ["context", "prompts", "tokens/s"], prefill_rows),
        ],
        plots=[Plot("Step time", "Milliseconds of a decoding step.", steps_chart(steps_of(cells)))],
        notes=grid.notes,
        document={
            "model_id": hello.model_id,
            "engine": msgspec.to_builtins(hello),
            "roof_bytes_per_s": grid.roof,
            "weight_bytes": state.weight_bytes,
            "kv_bytes_per_token": state.layer_token_bytes * len(state.windows),
            "cells": msgspec.to_builtins(cells),
            "prefills": msgspec.to_builtins(grid.prefills),
        },
    )


def steps_of(cells: list[Cell]) -> dict[str, tuple[list[int], list[float]]]:
    """For each context the batch sizes and their step times, ms."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for cell in cells:
        batches, times = found.setdefault(f"context {cell.context}", ([], []))
        batches.append(cell.batch)
        times.append(cell.step_ms)
    return found


def steps_chart(steps: dict[str, tuple[list[int], list[float]]]) -> Chart:
    """Step time over batch size, a line per context, which is named at its end."""
    chart = Chart(Axis("sequences in the step", log=True), Axis("step, ms", low=0))
    for index, (label, (batches, times_ms)) in enumerate(steps.items()):
        color = COLORS[index % len(COLORS)]
        chart.line(batches, times_ms, color)
        chart.dots(batches, times_ms, color)
        chart.text(batches[-1], times_ms[-1], label)
    return chart
