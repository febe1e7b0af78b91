"""Charts as inline SVG: an interval on an axis, a scatter plot. No library, no script.

Every chart has a sentence as alternative text, and its colors are those of the page's style sheet (page.css).
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zoo.errors import clean

CELL_WIDTH, CELL_HEIGHT, CELL_PAD = 240, 22, 8
LABEL_HEIGHT, CHARACTER_WIDTH = 14, 6.5
SCATTER_WIDTH, SCATTER_HEIGHT = 840, 300
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 24, 18, 40


@dataclass(frozen=True)
class Axis:
    """A range of values with its ticks, linear or logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """The coordinate of a value between `start` (at `low`) and `end` (at `high`); clipped to them."""
        at = (
            (np.log10(value) - np.log10(self.low)) / (np.log10(self.high) - np.log10(self.low))
            if self.log
            else ((value - self.low) / (self.high - self.low))
        )
        return round(start + float(np.clip(at, 0.0, 1.0)) * (end - start), 1)


def fit_axis(values: Iterable[float], log: bool = False) -> Axis:
    """An axis that holds all values, with three to six round ticks."""
    known = [float(value) for value in values if value is not None and np.isfinite(value) and (value > 0 or not log)]
    if not known:
        return Axis(0.0, 1.0, (0.0, 0.5, 1.0))
    if log:
        low, high = np.floor(np.log10(min(known))), np.ceil(np.log10(max(known)))
        high = max(high, low + 1)
        return Axis(10.0**low, 10.0**high, tuple(10.0**power for power in np.arange(low, high + 1)), log=True)
    low, high = min(known), max(known)
    greatest = max(abs(low), abs(high))
    if high - low < max(1e-9, 1e-12 * greatest):
        margin = max(0.05, 1e-6 * greatest)
        low, high = low - margin, high + margin
    step = 10.0 ** np.floor(np.log10(high - low))
    step = next(step * part for part in (0.2, 0.25, 0.5, 1.0, 2.0) if (high - low) / (step * part) <= 5)
    first, last = np.floor(low / step + 1e-9) * step, np.ceil(high / step - 1e-9) * step
    ticks = np.arange(first, last + step / 2, step)
    return Axis(float(first), float(last), tuple(float(round(tick, 10)) for tick in ticks))


def tick_text(value: float) -> str:
    """A tick as short as it can be: `.85`, `1.2 M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g} {unit}"
    text = f"{value:.4g}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def escape_svg(text: str) -> str:
    return html.escape(clean(text), quote=True)


def open_svg(width: float, height: float, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape_svg(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}">'
    )


def draw_interval(
    value: float | None, bounds: tuple[float | None, float | None], axis: Axis, label: str, references: str = ""
) -> str:
    """A dot and its interval on the axis of a column. `references`: the id of the lines that `draw_axis` defined.

    perf: as short as it can be, because a page may have 1,800 of them.
    """
    start, end, middle = CELL_PAD, CELL_WIDTH - CELL_PAD, CELL_HEIGHT // 2
    parts = [
        f'<svg class="interval" role="img" aria-label="{escape_svg(label)}" viewBox="0 0 {CELL_WIDTH} {CELL_HEIGHT}">'
    ]
    if references:
        parts.append(f'<use href="#{references}"/>')
    low, high = bounds
    if low is not None and high is not None:
        parts.append(f'<path d="M{axis.place(low, start, end):g} {middle}H{axis.place(high, start, end):g}"/>')
    if value is not None:
        parts.append(f'<circle cx="{axis.place(value, start, end):g}" cy="{middle}" r="4"/>')
    return "".join(parts) + "</svg>"


def draw_axis(axis: Axis, label: str, references: Sequence[tuple[str, float]] = (), lines_id: str = "") -> str:
    """The axis above a column of intervals, and the names of the reference lines.

    The lines are defined as `lines_id` for the cells below.
    """
    start, end = CELL_PAD, CELL_WIDTH - CELL_PAD
    places = [(axis.place(value, start, end), shorten_name(name, 18)) for name, value in references]
    lines = stack_labels(places)
    top = LABEL_HEIGHT * len(lines)
    named = f"{label}; " + "; ".join(f"{name} at {tick_text(value)}" for name, value in references)
    parts = [open_svg(CELL_WIDTH, top + CELL_HEIGHT, named.removesuffix("; "), "axis")]
    if references:
        drawn = "".join(f"M{x} 0V{CELL_HEIGHT}" for x, _ in places)
        parts.append(f'<defs><path id="{lines_id}" class="ref" d="{drawn}"/></defs>')
    for number, line in enumerate(lines):
        y = LABEL_HEIGHT * number + 10
        for x, name in line:
            anchor, shift = ("start", 3) if x < CELL_WIDTH / 2 else ("end", -3)
            parts.append(f'<path class="ref" d="M{x} {y - 8}V{top + CELL_HEIGHT}"/>')
            parts.append(f'<text x="{x + shift:g}" y="{y}" text-anchor="{anchor}">{escape_svg(name)}</text>')
    parts.append(f'<path d="M{start} {top + 20}H{end}"/>')
    for tick in axis.ticks:
        x = axis.place(tick, start, end)
        anchor = "start" if x <= start + 4 else "end" if x >= end - 4 else "middle"
        parts.append(f'<path d="M{x} {top + 20}v-4"/>')
        parts.append(f'<text x="{x}" y="{top + 13}" text-anchor="{anchor}">{tick_text(tick)}</text>')
    return "".join(parts) + "</svg>"


def stack_labels(places: Sequence[tuple[float, str]]) -> list[list[tuple[float, str]]]:
    """Put labels at x positions on as few lines as keep them apart."""
    lines: list[list[tuple[float, str]]] = []
    ends: list[list[tuple[float, float]]] = []
    for x, name in sorted(places):
        width = CHARACTER_WIDTH * len(name) + 6
        low, high = (x, x + width) if x < CELL_WIDTH / 2 else (x - width, x)
        free = (i for i, taken in enumerate(ends) if all(high < a or low > b for a, b in taken))
        line = next(free, len(lines))
        if line == len(lines):
            lines.append([])
            ends.append([])
        lines[line].append((x, name))
        ends[line].append((low, high))
    return lines


def frame(x_axis: Axis, y_axis: Axis, labels: tuple[str, str]) -> list[str]:
    """The axes of a plot, their ticks, grid lines and labels."""
    left, right, top, bottom = MARGIN_LEFT, MARGIN_LEFT + SCATTER_WIDTH, MARGIN_TOP, MARGIN_TOP + SCATTER_HEIGHT
    parts = []
    for tick in x_axis.ticks:
        x = x_axis.place(tick, left, right)
        parts.append(f'<path class="grid-line" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tick_text(tick)}</text>')
    for tick in y_axis.ticks:
        y = y_axis.place(tick, bottom, top)
        parts.append(f'<path class="grid-line" d="M{left} {y}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick_text(tick)}</text>')
    parts.append(
        f'<text class="axis-label" x="{(left + right) / 2}" y="{bottom + 34}" text-anchor="middle">'
        f"{escape_svg(labels[0])}</text>"
    )
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="axis-label" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape_svg(labels[1])}</text>"
    )
    return parts


def shorten_name(name: str, most: int = 36) -> str:
    """A name that fits a legend: its middle is left out where it is long."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


@dataclass(frozen=True)
class Mark:
    """A point of a scatter plot."""

    name: str
    x: float
    y: float
    best: bool = False  # no other point is better in both
    bounds: tuple[float | None, float | None] = (None, None)  # of y


MAX_TITLED_MARKS = 60  # perf: 300 models x 5 plots with a title each would take 0.5 MB a dataset
Box = tuple[float, float, float, float]  # left, right, top, bottom


def draw_scatter(marks: Sequence[Mark], labels: tuple[str, str], label: str, *, log_x: bool) -> str:
    """Points; those on the Pareto front are filled, joined, named, and have the intervals of y.

    A name stands where it covers no other name, point or interval; if there is no such place, only its title has it.
    """
    front = sorted((mark for mark in marks if mark.best), key=lambda mark: mark.x)
    others = [mark for mark in marks if not mark.best]
    x_axis = fit_axis([mark.x for mark in marks], log=log_x)
    y_axis = fit_axis([y for mark in marks for y in (mark.y, *(mark.bounds if mark.best else ())) if y is not None])
    left, right, top, bottom = MARGIN_LEFT, MARGIN_LEFT + SCATTER_WIDTH, MARGIN_TOP, MARGIN_TOP + SCATTER_HEIGHT
    parts = [
        open_svg(right + MARGIN_RIGHT, bottom + MARGIN_BOTTOM, label, "plot"),
        *frame(x_axis, y_axis, labels),
    ]

    def at(mark: Mark) -> tuple[float, float]:
        return x_axis.place(mark.x, left, right), y_axis.place(mark.y, bottom, top)

    def circle(mark: Mark, radius: int, kind: str = "") -> str:
        x, y = at(mark)
        title = escape_svg(f"{mark.name}: {labels[1]} {tick_text(mark.y)}, {labels[0]} {tick_text(mark.x)}")
        return f'<circle{kind} cx="{x}" cy="{y}" r="{radius}"><title>{title}</title></circle>'

    if len(front) > 1:
        parts.append('<path class="front" d="M' + "L".join("{} {}".format(*at(mark)) for mark in front) + '"/>')
    if len(others) > MAX_TITLED_MARKS:
        parts.append(f'<path class="dots" d="{"".join("M{:.0f} {:.0f}h0".format(*at(mark)) for mark in others)}"/>')
    else:
        parts += [circle(mark, 4, ' class="other"') for mark in others]
    boxes: list[Box] = [(x - 5, x + 5, y - 5, y + 5) for x, y in map(at, marks)]
    for (x_1, y_1), (x_2, y_2) in pairwise(map(at, front)):
        steps = np.linspace(0, 1, max(2, int(x_2 - x_1) // 6))
        boxes += [
            (x, x, y - 1, y + 1) for x, y in zip(x_1 + steps * (x_2 - x_1), y_1 + steps * (y_2 - y_1), strict=True)
        ]
    ends: list[tuple[float, float]] = []  # of each interval on the front, as y coordinates
    for mark in front:
        (x, y), (low, high) = at(mark), mark.bounds
        ends.append((y, y))
        if low is not None and high is not None:
            ends[-1] = (y_axis.place(high, bottom, top), y_axis.place(low, bottom, top))
            parts.append(f'<path class="bar" d="M{x} {ends[-1][0]}V{ends[-1][1]}"/>')
            boxes.append((x - 2, x + 2, *ends[-1]))
        parts.append(circle(mark, 5))
    for mark, (highest, lowest) in zip(front, ends, strict=True):
        name = shorten_name(mark.name)
        place = place_name(at(mark), (highest, lowest), CHARACTER_WIDTH * len(name), boxes)
        if place:
            box, (x_text, y_text, anchor) = place
            boxes.append(box)
            parts.append(f'<text x="{x_text:g}" y="{y_text:g}" text-anchor="{anchor}">{escape_svg(name)}</text>')
    return "".join(parts) + "</svg>"


def place_name(
    point: tuple[float, float], ends: tuple[float, float], width: float, taken: Sequence[Box]
) -> tuple[Box, tuple[float, float, str]] | None:
    """A place for the name of a point inside the plot: its box, and its coordinates and anchor; None if all are taken.

    Beside the point, else above or below its interval.
    """
    (x, y), (highest, lowest) = point, ends
    outside = [highest - 6, lowest + 14, highest - 20, lowest + 28]
    places = [(x + 8, y - 7, "start"), (x - 8, y - 7, "end"), *((x, at, "middle") for at in outside[:2])]
    places += [(x + 8, y + 15, "start"), (x - 8, y + 15, "end")]
    places += [(x + 4 * side, at, "end" if side > 0 else "start") for at in outside for side in (1, -1)]
    for x_text, y_text, anchor in places:
        low = x_text - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        box = (low, low + width, y_text - 10, y_text + 3)
        inside = box[0] >= MARGIN_LEFT and box[1] <= MARGIN_LEFT + SCATTER_WIDTH and box[2] >= 0
        if inside and box[3] <= MARGIN_TOP + SCATTER_HEIGHT and not any(overlap(box, other) for other in taken):
            return box, (x_text, y_text, anchor)
    return None


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
