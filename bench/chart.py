"""Charts as SVG: lines, dots and labels on linear or logarithmic axes. What the reports draw, and no more."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 760, 360  # px, of one chart
TOP, BOTTOM, RIGHT = 14, 44, 20  # px around what is drawn
CHARACTER = 6.4  # px, roughly, of a label's letter
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
BLUE, GREEN, RED, PALE = COLORS[0], COLORS[2], COLORS[3], "#ccc"


@dataclass
class Axis:
    """One scale.

    Attributes:
        label: what it counts, and in what.
        names: texts at places, instead of numbers; the first place is at the top.
        low, high: where it begins and ends, if not at the data; the lower may be the higher number.
    """

    label: str = ""
    log: bool = False
    names: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    color: str = "#444"
    values: list[float] = field(default_factory=list)

    def span(self) -> tuple[float, float]:
        """Where it begins and ends, with some room."""
        if self.names is not None:
            return len(self.names) - 0.5, -0.5
        known = [value for value in self.values if math.isfinite(value) and (value > 0 or not self.log)] or [1.0]
        low, high = min(known), max(known)
        if self.log:
            return low / 1.15, high * 1.15
        low, high = low if self.low is None else self.low, high if self.high is None else self.high
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - (self.low is None) * room, high + (self.high is None) * room
        return low, high if high != low else low + 1.0

    def scale(self) -> Callable[[float], float]:
        """Where a value lies between begin and end, 0 to 1."""
        low, high = self.span()
        if self.log:
            begin, width = math.log(low), math.log(high) - math.log(low)
            return lambda value: (math.log(max(value, low)) - begin) / width
        return lambda value: (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and their labels."""
        if self.names is not None:
            return list(enumerate(self.names))
        low, high = self.span()
        if self.log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            factors = (1, 2, 5) if high / low < 1e4 else (1,)
            places = [factor * 10.0**decade for decade in decades for factor in factors]
        else:
            step = _step(abs(high - low))
            low, high = min(low, high), max(low, high)
            places = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [(place, f"{place:,.6g}") for place in places if low <= place <= high]


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, of which 4 to 10 fit into the span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= span / 4)


class Chart:
    """What is drawn on two axes, or on a third one at the right."""

    def __init__(self, x: Axis, y: Axis, right: Axis | None = None) -> None:
        self.x, self.y, self.right = x, y, right
        self._marks: list[tuple[str, Axis, Sequence[float], Sequence[float], str, float]] = []
        self._texts: list[tuple[float, float, str]] = []

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, *, dashed: bool = False) -> None:
        """Points joined by a line."""
        self._add("dashed" if dashed else "line", self.y, xs, ys, color, 1.0)

    def line_right(self, xs: Sequence[float], ys: Sequence[float], color: str) -> None:
        """Points joined by a dashed line, on the axis at the right."""
        assert self.right is not None
        self._add("dashed", self.right, xs, ys, color, 1.0)

    def dots(self, xs: Sequence[float], ys: Sequence[float], color: str, opacity: float = 1.0) -> None:
        """Discs."""
        self._add("dots", self.y, xs, ys, color, opacity)

    def dots_right(self, xs: Sequence[float], ys: Sequence[float], color: str) -> None:
        """Discs on the axis at the right."""
        assert self.right is not None
        self._add("dots", self.right, xs, ys, color, 1.0)

    def bars(self, xs: Sequence[float], ys: Sequence[float], color: str) -> None:
        """Short upright strokes; those that fall onto one pixel are one."""
        self._add("bars", self.y, xs, ys, color, 1.0)

    def crosses(self, xs: Sequence[float], ys: Sequence[float], color: str) -> None:
        """Diagonal crosses."""
        self._add("crosses", self.y, xs, ys, color, 1.0)

    def text(self, x: float, y: float, text: str) -> None:
        """A label right above a point."""
        self._texts.append((x, y, text))

    def _add(self, kind: str, axis: Axis, xs: Sequence[float], ys: Sequence[float], color: str, opacity: float) -> None:
        known = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        xs, ys = [x for x, _ in known], [y for _, y in known]
        self.x.values += xs
        axis.values += ys
        self._marks.append((kind, axis, xs, ys, color, opacity))

    def svg(self, top: float = 0.0) -> str:
        """An element of its own, ``top`` px below where it is put."""
        labels = [label for _, label in self.y.ticks()]
        left = 34 + CHARACTER * max(map(len, labels), default=0)
        width = WIDTH - left - (64 if self.right else RIGHT)
        height = HEIGHT - TOP - BOTTOM

        scales = {id(axis): axis.scale() for axis in (self.x, self.y, self.right) if axis is not None}

        def across(value: float) -> float:
            return left + width * scales[id(self.x)](value)

        def up(axis: Axis, value: float) -> float:
            return TOP + height * (1 - scales[id(axis)](value))

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="11" fill="#444">',
            f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{height}" fill="none" stroke="#bbb"/>',
        ]
        for place, label in self.x.ticks():
            x = across(place)
            parts.append(f'<path d="M{x:.1f} {TOP}v{height}" stroke="#eee"/>')
            parts.append(_text(x, TOP + height + 15, label, "middle"))
        parts.append(_text(left + width / 2, HEIGHT - 10, self.x.label, "middle"))
        for axis, at, anchor in ((self.y, left - 6, "end"), (self.right, left + width + 6, "start")):
            if axis is None:
                continue
            parts += [_text(at, up(axis, place) + 4, label, anchor, axis.color) for place, label in axis.ticks()]
            turned = 12 if axis is self.y else WIDTH - 8
            middle = TOP + height / 2
            parts.append(
                f'<g transform="rotate(-90 {turned} {middle:.1f})">'
                f"{_text(turned, middle, axis.label, 'middle', axis.color)}</g>"
            )
        for kind, axis, xs, ys, color, opacity in self._marks:
            points = [(across(x), up(axis, y)) for x, y in zip(xs, ys, strict=True)]
            parts.append(_mark(kind, points, color, opacity))
        parts += [_text(across(x) + 5, up(self.y, y) - 6, text, "start") for x, y, text in self._texts]
        return "\n".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str, color: str = "#444") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'


def _mark(kind: str, points: list[tuple[float, float]], color: str, opacity: float) -> str:
    match kind:
        case "line" | "dashed":
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            dashes = ' stroke-dasharray="5 4"' if kind == "dashed" else ""
            return f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>' if path else ""
        case "dots":
            dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
            return f'<g fill="{color}" fill-opacity="{opacity:.2f}">{dots}</g>'
        case "bars":
            places = dict.fromkeys((round(x), round(y, 1)) for x, y in points)
            return f'<path d="{"".join(f"M{x} {y - 2:.1f}v4" for x, y in places)}" stroke="{color}"/>'
        case _:
            crosses = "".join(f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6" for x, y in points)
            return f'<path d="{crosses}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def stacked(titled: Sequence[tuple[str, Chart]]) -> str:
    """One image of all charts below each other."""
    row = HEIGHT + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{row * len(titled)}" '
        f'viewBox="0 0 {WIDTH} {row * len(titled)}" font-family="system-ui, sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    )
    parts = [
        f"{_text(WIDTH / 2, index * row + 18, title, 'middle')}{chart.svg(index * row + 24)}"
        for index, (title, chart) in enumerate(titled)
    ]
    return "\n".join([head, *parts, "</svg>\n"])
