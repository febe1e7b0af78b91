"""ROC, precision-recall and decision curves of one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.errors import plural_of
from zoo.evaluation.values import Score
from zoo.leaderboard.curves import Curve, RowCurves
from zoo.leaderboard.formatting import number
from zoo.report.charts import Axis, fit_axis
from zoo.report.figures.figure import Figure, figure_name, table_rows
from zoo.report.figures.plots import SIDE, Area, GuideLine, Line, draw_lines
from zoo.report.text import join_names
from zoo.specs.section import Section

BOTH_ENDS = np.array([0.0, 1.0])
UNIT_AXIS = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
MAX_BANDS = 2  # more of them hide each other
AT = {"roc": 0.1, "precision-recall": 0.8, "decision-curve": 0.21}  # where the text reads the curves


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Sensitivity and specificity on test at the thresholds chosen on val."""

    threshold: float | None
    sensitivity: Score
    specificity: Score


def find_operating_points(sections: Sequence[Section]) -> dict[tuple[str, str], OperatingPoint]:
    """The points of the section `operating`, by row and label."""
    found = {}
    for section in sections:
        if section.name == "operating":
            for cells, point in zip(section.rows, section.details["points"], strict=True):
                by_column = dict(zip(section.columns, cells, strict=True))
                sensitivity, specificity = by_column["sensitivity"], by_column["specificity"]
                if isinstance(sensitivity, Score) and isinstance(specificity, Score):
                    found[point["model"], point["label"]] = OperatingPoint(
                        threshold=by_column["threshold"],  # type: ignore[arg-type]  # a number in this column
                        sensitivity=sensitivity,
                        specificity=specificity,
                    )
    return found


def draw_roc(
    curves: Sequence[RowCurves], points: Mapping[tuple[str, str], OperatingPoint], group: str, case: str
) -> Figure:
    label = curves[0].label
    own = {c.row: points[c.row, label] for c in curves if (c.row, label) in points}
    lines, rows = [], []
    for place, c in enumerate(curves):
        lines.append(to_line(c.row, c.roc, place, own.get(c.row)))
        rows += curve_rows(c.row, "curve", c.roc)
        if point := own.get(c.row):
            rows.append(point_row(c.row, point))
    text = f"ROC curves for {label}. At a specificity of .9 the sensitivity is {read(curves, 'roc')}."
    marked = "Markers: the threshold chosen on val, with 95 % intervals of sensitivity and specificity. " if own else ""
    return Figure(
        name=figure_name("roc", label),
        title="ROC curve",
        text=text,
        columns=(
            "model",
            "part",
            "1 - specificity",
            "sensitivity",
            *LIMITS,
            "1 - specificity low",
            "1 - specificity high",
            "threshold",
        ),
        rows=tuple(rows),
        svg=draw_lines(
            Area(x=UNIT_AXIS, y=UNIT_AXIS, labels=("1 - specificity", "sensitivity"), height=SIDE),
            lines,
            [GuideLine(name="chance", x=BOTH_ENDS, y=BOTH_ENDS)],
            text,
        ),
        note=marked + describe_bands(case),
        group=group,
    )


LIMITS = ("low", "high")


def to_line(name: str, curve: Curve, place: int, point: OperatingPoint | None = None) -> Line:
    at = cross = None
    if point and point.sensitivity.value is not None and point.specificity.value is not None:
        at = 1 - point.specificity.value, point.sensitivity.value
        ends = point.specificity.high, point.specificity.low, point.sensitivity.low, point.sensitivity.high
        if None not in ends:
            right, left, low, high = (float(end or 0) for end in ends)
            cross = (1 - right, 1 - left), (low, high)
    band = (curve.low, curve.high) if place < MAX_BANDS else None
    return Line(name=name, x=curve.x, y=curve.y, style=place, band=band, point=at, cross=cross)


def point_row(model: str, point: OperatingPoint) -> tuple[object, ...]:
    sensitivity, specificity = point.sensitivity, point.specificity
    x, left, right = (
        None if value is None else 1 - value for value in (specificity.value, specificity.high, specificity.low)
    )
    y = sensitivity.value, sensitivity.low, sensitivity.high
    return (model, "operating point", x, *y, left, right, point.threshold)


def curve_rows(model: str, part: str, curve: Curve) -> list[tuple[object, ...]]:
    return [(model, part, *cells, None, None, None) for cells in table_rows(curve.x, curve.y, curve.low, curve.high)]


def describe_bands(case: str) -> str:
    return f"Bands of the first {MAX_BANDS} models: 95 % of resampled {plural_of(case)}. Lines: mean over seeds."


def draw_precision_recall(curves: Sequence[RowCurves], group: str, case: str) -> Figure:
    label, prevalence = curves[0].label, curves[0].prevalence
    text = (
        f"Precision-recall curves for {label}. At a recall of .8 the precision is {read(curves, 'precision-recall')}; "
        f"the prevalence is {number(prevalence)}."
    )
    lines = [to_line(c.row, c.precision_recall, place) for place, c in enumerate(curves)]
    return Figure(
        name=figure_name("precision-recall", label),
        title="Precision-recall curve",
        text=text,
        columns=("model", "recall", "precision", *LIMITS),
        rows=tuple((c.row, *cells) for c in curves for cells in cells_of(c.precision_recall)),
        svg=draw_lines(
            Area(x=UNIT_AXIS, y=UNIT_AXIS, labels=("recall", "precision"), height=SIDE),
            lines,
            [GuideLine(name=f"chance: prevalence {number(prevalence)}", x=BOTH_ENDS, y=np.full(2, prevalence))],
            text,
        ),
        note=describe_bands(case),
        group=group,
    )


def cells_of(curve: Curve) -> list[tuple[object, ...]]:
    return table_rows(curve.x, curve.y, curve.low, curve.high)


def draw_decision_curve(curves: Sequence[RowCurves], group: str) -> Figure:
    label, prevalence, thresholds = curves[0].label, curves[0].prevalence, curves[0].net_benefit.x
    everyone = prevalence - (1 - prevalence) * thresholds / (1 - thresholds)
    text = (
        f"Decision curves for {label}. At a threshold probability of {number(AT['decision-curve'], 2)} the net benefit "
        f"is {read(curves, 'decision-curve')}, {number(value_at(thresholds, everyone, AT['decision-curve']))} for "
        "treating everyone and 0 for treating no one."
    )
    positive = fit_axis((0, max(prevalence, 0.05)))
    axis = Axis(-0.25 * positive.high, positive.high, positive.ticks)
    lines = [Line(name=c.row, x=thresholds, y=c.net_benefit.y, style=place) for place, c in enumerate(curves)]
    visible = np.where(everyone >= axis.low, everyone, np.nan)
    return Figure(
        name=figure_name("decision-curve", label),
        title="Decision curve",
        text=text,
        columns=("model", "threshold probability", "net benefit", *LIMITS),
        rows=tuple(
            [(c.row, *cells) for c in curves for cells in cells_of(c.net_benefit)]
            + [("treat everyone", *cells, None, None) for cells in table_rows(thresholds, everyone)]
        ),
        svg=draw_lines(
            Area(x=UNIT_AXIS, y=axis, labels=("threshold probability", "net benefit"), height=SIDE),
            [replace_hidden(line, axis.low) for line in lines],
            [
                GuideLine(name="treat everyone", x=thresholds, y=visible),
                GuideLine(name="treat no one", x=BOTH_ENDS, y=np.zeros(2)),
            ],
            text,
        ),
        note="Higher is better; a model helps where it is above both dashed lines.",
        group=group,
    )


def replace_hidden(line: Line, least: float) -> Line:
    """The line without the points below the plot, which would lie on its edge."""
    return Line(name=line.name, x=line.x, y=np.where(line.y >= least, line.y, np.nan), style=line.style)


def read(curves: Sequence[RowCurves], kind: str) -> str:
    """The values of the curves at a place of the horizontal axis, in words."""
    found = [(c.row, {"roc": c.roc, "precision-recall": c.precision_recall}.get(kind, c.net_benefit)) for c in curves]
    return join_names([f"{number(value_at(curve.x, curve.y, AT[kind]))} for {row}" for row, curve in found])


def value_at(x: Array, y: Array, place: float) -> float | None:
    value = float(y[np.abs(x - place).argmin()])
    return value if np.isfinite(value) else None
