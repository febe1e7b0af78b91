"""Draw figures as SVG: lines with bands, dots with intervals, points, a heat map. No library, no script.

Series differ by color and by dash or marker, so that a gray print can be read. Colors are those of `figures.css`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.leaderboard.formatting import number
from zoo.report.charts import Axis, escape_svg, open_svg, shorten_name, tick_text

if TYPE_CHECKING:
    from zoo.arrays import Array

LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 40  # margins
PLOT_WIDTH, SIDE = 288, 288  # of a plot; with its margins it fits a phone
LEGEND_LINE, LETTER = 18, 6.4  # height of a line, mean width of a letter
STRIPE = 22  # greatest height of a bar
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 2")
MAX_POINTS, MAX_LINE_POINTS = 600, 201  # drawn; the data have all
CELL_SIDES = ((3, 84), (20, 46))  # of a heat map up to so many labels


def pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def relative_path(places: Sequence[tuple[float, float]]) -> str:
    """The places as SVG path data: the first one, then the steps between them, in tenths of a pixel.

    Steps take two thirds of the characters of places; rounding does not add up, as each place is rounded first.
    """
    if not places:
        return ""
    tenths = np.rint(np.array(places) * 10).astype(int)
    first = " ".join(f"{part / 10:g}" for part in tenths[0])
    steps = " ".join(f"{part / 10:g}" for part in np.diff(tenths, axis=0).ravel())
    return re.sub(r"\b0\.", ".", f"{first}l{steps}").replace(" -", "-").removesuffix("l")


@dataclass(frozen=True, kw_only=True)
class Area:
    """The area of a plot between its axes."""

    x: Axis
    y: Axis
    labels: tuple[str, str]  # of the axes
    height: float = 216

    @property
    def bottom(self) -> float:
        return TOP + self.height

    @property
    def end(self) -> float:
        """The height of the plot with its horizontal axis."""
        return self.bottom + BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x.place(x, LEFT, LEFT + PLOT_WIDTH), self.y.place(y, self.bottom, TOP)

    def path(self, x: Array, y: Array) -> str:
        """The corners of a line; undefined points are left out."""
        kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(kept) > MAX_LINE_POINTS:
            kept = kept[np.linspace(0, len(kept) - 1, MAX_LINE_POINTS).round().astype(int)]
        return relative_path([self.at(x[i], y[i]) for i in kept])

    def frame(self) -> list[str]:
        """Grid lines, ticks and labels."""
        right, middle = LEFT + PLOT_WIDTH, TOP + self.height / 2
        parts = []
        for tick in self.x.ticks:
            x = pixel(self.x.place(tick, LEFT, right))
            parts.append(f'<path class="grid-line" d="M{x} {TOP}V{pixel(self.bottom)}"/>')
            parts.append(text_at(float(x), self.bottom + 16, tick_text(tick), "tick", "middle"))
        for tick in self.y.ticks:
            y = self.y.place(tick, self.bottom, TOP)
            parts.append(f'<path class="grid-line" d="M{LEFT} {pixel(y)}H{right}"/>')
            parts.append(text_at(LEFT - 6, y + 4, tick_text(tick), "tick", "end"))
        parts.append(text_at(LEFT + PLOT_WIDTH / 2, self.bottom + 33, self.labels[0], anchor="middle"))
        return [*parts, turn_text(12, middle, self.labels[1])]


def text_at(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{pixel(x)}" y="{pixel(y)}"{attributes}>{escape_svg(text)}</text>'


def turn_text(x: float, y: float, text: str) -> str:
    """A text that is read from below, centered."""
    place = f"{pixel(x)} {pixel(y)}"
    return f'<text text-anchor="middle" transform="translate({place}) rotate(-90)">{escape_svg(text)}</text>'


def close_svg(parts: Sequence[str], width: float, height: float, label: str) -> str:
    return open_svg(width, height, label, "fig") + "".join(parts) + "</svg>"


def place_of_shape(style: int) -> int:
    """The place of a style's marker and dashes: with the six colors, 36 styles differ."""
    return (style + style // 6) % 6


def draw_marker(style: int, x: float, y: float, r: float = 4.5) -> str:
    """A filled marker: each style has its own shape and color."""
    shapes = (
        f"M{pixel(x - r)} {pixel(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z",
        f"M{pixel(x - r + 0.5)} {pixel(y - r + 0.5)}h{2 * r - 1}v{2 * r - 1}h{1 - 2 * r}Z",
        f"M{pixel(x)} {pixel(y - r - 0.5)}l{r + 0.5} {2 * r}h{-2 * r - 1}Z",
        f"M{pixel(x)} {pixel(y - r - 1)}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}Z",
        f"M{pixel(x)} {pixel(y + r + 0.5)}l{r + 0.5} {-2 * r}h{-2 * r - 1}Z",
        f"M{pixel(x - r)} {pixel(y - 1.5)}h{2 * r}v3h{-2 * r}Z",
    )
    return f'<path class="mark c{style % 6}" d="{shapes[place_of_shape(style)]}"/>'


# --- lines -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a plot. Lines of one style share a legend entry, the first line's name."""

    name: str
    x: Array
    y: Array
    style: int = 0
    band: tuple[Array, Array] | None = None
    bars: tuple[Array, Array] | None = None  # an interval and a marker at each point
    point: tuple[float, float] | None = None  # a marker on the line
    cross: tuple[tuple[float, float], tuple[float, float]] | None = None  # intervals of the point, in x and in y
    thin: bool = False


@dataclass(frozen=True, kw_only=True)
class GuideLine:
    """A dashed line that is explained on the plot's legend."""

    name: str
    x: Array
    y: Array


def draw_lines(
    area: Area, lines: Sequence[Line], references: Sequence[GuideLine], label: str, stripes: Array | None = None
) -> str:
    """Lines with bands, markers and a legend below; `stripes` (2, K) are counts along the horizontal axis."""
    shown = [line for line in lines if np.isfinite(line.y).any()]
    parts = area.frame()
    for line in shown:
        if line.band is not None:
            low, high = line.band
            there, back = area.path(line.x, high), area.path(line.x[::-1], low[::-1])
            if there and back:
                parts.append(f'<path class="band c{line.style % 6}" d="M{there}L{back}Z"/>')
    parts += draw_references(area, references)
    for line in shown:
        parts += draw_line(area, line)
    if stripes is not None:
        parts += draw_stripes(stripes, area)
    start = area.end if stripes is None else area.end + 2 * STRIPE + 10
    legend, end = draw_legend(shown, references, start)
    return close_svg([*parts, *legend], LEFT + PLOT_WIDTH + RIGHT, end, label)


def draw_line(area: Area, line: Line) -> list[str]:
    kind, dash = f"{'thin' if line.thin else 'line'} c{line.style % 6}", dash_of(line.style)
    parts = [f'<path class="{kind}"{dash} d="M{area.path(line.x, line.y)}"/>']
    known = np.flatnonzero(np.isfinite(line.y))
    if len(known) == 1:  # no line
        parts.append(draw_marker(line.style, *area.at(line.x[known[0]], line.y[known[0]])))
    if line.bars is not None:
        for x, y, low, high in zip(line.x, line.y, *line.bars, strict=True):
            px, py = area.at(x, y)
            if np.isfinite(low) and np.isfinite(high):
                top, bottom = area.at(x, high)[1], area.at(x, low)[1]
                parts.append(f'<path class="cross c{line.style % 6}" d="M{pixel(px)} {pixel(top)}V{pixel(bottom)}"/>')
            parts.append(draw_marker(line.style, px, py))
    if line.point is not None:
        px, py = area.at(*line.point)
        if line.cross is not None:
            (left, right), (low, high) = line.cross
            (x_low, y_low), (x_high, y_high) = area.at(left, low), area.at(right, high)
            bars = f"M{pixel(x_low)} {pixel(py)}H{pixel(x_high)}M{pixel(px)} {pixel(y_low)}V{pixel(y_high)}"
            parts.append(f'<path class="cross c{line.style % 6}" d="{bars}"/>')
        parts.append(draw_marker(line.style, px, py))
    return parts


def draw_references(area: Area, references: Sequence[GuideLine]) -> list[str]:
    return [
        f'<path class="ref r{place % 3}" d="M{area.path(reference.x, reference.y)}"/>'
        for place, reference in enumerate(references)
    ]


def dash_of(style: int) -> str:
    dashes = DASHES[place_of_shape(style)]
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def draw_legend(lines: Sequence[Line], references: Sequence[GuideLine], start: float) -> tuple[list[str], float]:
    """A line per style and reference; also return where the legend ends."""
    named = {line.style: line for line in reversed(lines)}
    parts, y = [], start + 8
    for style, line in sorted(named.items()):
        parts.append(f'<path class="line c{style % 6}"{dash_of(style)} d="M{LEFT} {pixel(y)}h28"/>')
        if line.bars is not None or line.point is not None:
            parts.append(draw_marker(style, LEFT + 14, y))
        parts.append(text_at(LEFT + 36, y + 4, shorten_name(line.name, 38)))
        y += LEGEND_LINE
    for place, reference in enumerate(references):
        parts.append(f'<path class="ref r{place % 3}" d="M{LEFT} {pixel(y)}h28"/>')
        parts.append(text_at(LEFT + 36, y + 4, shorten_name(reference.name, 38)))
        y += LEGEND_LINE
    return parts, y


def draw_stripes(counts: Array, area: Area) -> list[str]:
    """Counts (2, K) in K equal parts of 0 to 1 as bars below a plot: the first down, the second up."""
    edges = [area.x.place(edge, LEFT, LEFT + PLOT_WIDTH) for edge in np.linspace(0, 1, counts.shape[1] + 1)]
    most, middle = max(float(counts.max()), 1e-9), area.end + STRIPE
    parts = [f'<path d="M{LEFT} {pixel(middle)}H{LEFT + PLOT_WIDTH}"/>']
    for sign, kind, row in ((1, "no", counts[0]), (-1, "yes", counts[1])):
        for k in np.flatnonzero(row):
            size = max(float(row[k]) / most * STRIPE, 1.0)
            y, width = middle if sign > 0 else middle - size, edges[k + 1] - edges[k] - 1
            if width > 0:  # else beyond the end of the axis
                place = f'x="{pixel(edges[k] + 0.5)}" y="{pixel(y)}" width="{pixel(width)}" height="{pixel(size)}"'
                parts.append(f'<rect class="{kind}" {place}/>')
    return parts


# --- dots with intervals ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval, of one of the series."""

    series: int
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A line of a dot plot: its name and a short remark above its dots."""

    name: str
    dots: tuple[Dot, ...]
    remark: str = ""


def draw_dots(
    rows: Sequence[DotRow],
    series: Sequence[str],
    axis: tuple[Axis, str],
    references: Sequence[tuple[str, float]],
    label: str,
) -> str:
    """Rows of dots with intervals on one axis; names stand above their dots, so that long ones fit."""
    scale, axis_label = axis
    left, right = 14, LEFT + PLOT_WIDTH
    parts, y = [], 22.0
    body: list[str] = []
    bands: list[tuple[float, float]] = []  # of the dots of each row
    for row in rows:
        body.append(text_at(left - 6, y, shorten_name(row.name, 50 - len(row.remark)), "name"))
        body.append(text_at(right + RIGHT - 2, y, row.remark, "tick", "end") if row.remark else "")
        y += 12
        for dot in row.dots:
            if dot.value is None:
                body.append(
                    text_at(left, y + 4, f"{series[dot.series]}: no value" if len(series) > 1 else "no value", "tick")
                )
            else:
                body += draw_dot(dot, scale, y, (left, right))
            y += 13
        bands.append((y - 13 * len(row.dots), y - 13))
        y += 15
    end = y - 10
    for tick in scale.ticks:
        x = scale.place(tick, left, right)
        parts.append(f'<path class="grid-line" d="M{pixel(x)} 6V{pixel(end)}"/>')
        anchor = "start" if x <= left + 4 else "end" if x >= right - 4 else "middle"
        parts.append(text_at(x, end + 15, tick_text(tick), "tick", anchor))
    for place, (_, value) in enumerate(references):
        across = pixel(scale.place(value, left, right))
        pieces = "".join(f"M{across} {pixel(top - 9)}V{pixel(bottom + 5)}" for top, bottom in bands)
        parts.append(f'<path class="ref r{place % 3}" d="{pieces}"/>')
    parts.append(text_at((left + right) / 2, end + 32, axis_label, anchor="middle"))
    y = end + 50
    for place, name in enumerate(series if len(series) > 1 else ()):
        parts += [draw_marker(place, left + 8, y), text_at(left + 22, y + 4, shorten_name(name, 48))]
        y += LEGEND_LINE
    for place, (name, value) in enumerate(references):
        parts.append(f'<path class="ref r{place % 3}" d="M{left} {pixel(y)}h16"/>')
        parts.append(text_at(left + 22, y + 4, f"{shorten_name(name, 40)} {number(value)}"))
        y += LEGEND_LINE
    return close_svg([*parts, *body], right + RIGHT, y - 6, label)


def draw_dot(dot: Dot, scale: Axis, y: float, ends: tuple[float, float]) -> list[str]:
    assert dot.value is not None
    parts = []
    if dot.low is not None and dot.high is not None:
        low, high = (pixel(scale.place(bound, *ends)) for bound in (dot.low, dot.high))
        parts.append(f'<path class="cross c{dot.series % 6}" d="M{low} {pixel(y)}H{high}"/>')
    return [*parts, draw_marker(dot.series, scale.place(dot.value, *ends), y)]


# --- strips ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class StripRow:
    """A line of a strip plot: a dot per value, a marker at the mean, a bar at the bound of the worst values."""

    name: str
    values: Array
    mean: float
    worst: float
    style: int = 0


def draw_strips(rows: Sequence[StripRow], axis: tuple[Axis, str], label: str) -> str:
    """Rows of dots on one axis, spread in height so that equal values are seen; of many, an even choice is drawn."""
    scale, axis_label = axis
    left, right, height = 14, LEFT + PLOT_WIDTH, 22
    body: list[str] = []
    y = 22.0
    for row in rows:
        values = np.sort(row.values)
        if len(values) > MAX_POINTS:
            values = values[np.linspace(0, len(values) - 1, MAX_POINTS).round().astype(int)]
        body.append(text_at(left - 6, y, shorten_name(row.name, 50), "name"))
        spread = (np.arange(len(values)) * 0.618034 + 0.5) % 1  # even, and unlike between neighbors
        dots = [
            f"M{pixel(scale.place(float(value), left, right))} {pixel(y + 8 + height * float(at))}h0"
            for value, at in zip(values, spread, strict=True)
        ]
        body.append(f'<path class="strip c{row.style % 6}" d="{"".join(dots)}"/>')
        bound = pixel(scale.place(row.worst, left, right))
        body.append(f'<path class="cross bound" d="M{bound} {pixel(y + 5)}v{height + 6}"/>')
        body.append(draw_marker(row.style, scale.place(row.mean, left, right), y + 8 + height / 2))
        y += height + 30
    end = y - 12
    parts = []
    for tick in scale.ticks:
        x = scale.place(tick, left, right)
        parts.append(f'<path class="grid-line" d="M{pixel(x)} 6V{pixel(end)}"/>')
        anchor = "start" if x <= left + 4 else "end" if x >= right - 4 else "middle"
        parts.append(text_at(x, end + 15, tick_text(tick), "tick", anchor))
    parts.append(text_at((left + right) / 2, end + 32, axis_label, anchor="middle"))
    return close_svg([*parts, *body], right + RIGHT, end + 40, label)


# --- points ----------------------------------------------------------------------------------------------------------
def draw_points(area: Area, x: Array, y: Array, references: Sequence[GuideLine], label: str) -> str:
    """Points and dashed lines; of many points, an even choice is drawn."""
    drawn = np.arange(len(x))
    if len(drawn) > MAX_POINTS:
        drawn = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(int))
    parts = area.frame()
    for i in drawn:
        px, py = area.at(x[i], y[i])
        parts.append(f'<circle class="dot" cx="{pixel(px)}" cy="{pixel(py)}" r="3"/>')
    parts += draw_references(area, references)
    legend, end = draw_legend((), references, area.end)
    return close_svg([*parts, *legend], LEFT + PLOT_WIDTH + RIGHT, end, label)


# --- a heat map ------------------------------------------------------------------------------------------------------
def draw_heat(counts: Array, shares: Array, labels: Sequence[str], axes: tuple[str, str], label: str) -> str:
    """A square table of counts (L, L), shaded by shares (L, L); `axes` name the columns and the rows."""
    side = next(side for most, side in CELL_SIDES if len(labels) <= most)
    names = [shorten_name(name, 16) for name in labels]
    longest = max(map(len, names)) * LETTER
    turned = longest > side - 4
    left = max(longest, 24) + 34
    top = 26 + (longest * 0.75 + 10 if turned else 18)
    size = side * len(labels)
    parts = [text_at(left + size / 2, 14, axes[0], anchor="middle")]
    parts.append(turn_text(12, top + size / 2, axes[1]))
    for i, name in enumerate(names):
        x, y = left + (i + 0.5) * side, top + (i + 0.5) * side
        if turned:
            parts.append(
                f'<text transform="translate({pixel(x)} {pixel(top - 8)}) rotate(-45)">{escape_svg(name)}</text>'
            )
        else:
            parts.append(text_at(x, top - 8, name, anchor="middle"))
        parts.append(text_at(left - 8, y + 4, name, anchor="end"))
    for i in range(len(labels)):
        for j in range(len(labels)):
            x, y = left + j * side, top + i * side
            parts.append(
                f'<rect class="cell" x="{pixel(x)}" y="{pixel(y)}" width="{side}" height="{side}" '
                f'fill-opacity="{0.45 * shares[i, j]:.3f}"/>'
            )
            parts.append(
                text_at(x + side / 2, y + side / 2 - 2, f"{counts[i, j]:.1f}".removesuffix(".0"), "name", "middle")
            )
            parts.append(text_at(x + side / 2, y + side / 2 + 13, f"{100 * shares[i, j]:.0f} %", anchor="middle"))
    width = left + size + (longest * 0.75 if turned else 0) + 8
    return close_svg(parts, width, top + size + 10, label)
