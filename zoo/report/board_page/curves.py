"""Curves by label: ROC, precision-recall and decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.leaderboard.curves import RowCurves
from zoo.leaderboard.formatting import number
from zoo.report.charts import Axis, Line, draw_lines

MAX_CURVE_LABELS = 6
UNIT = np.array([0.0, 1.0])
UNIT_AXIS = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def draw_label_curves(curves: Sequence[RowCurves]) -> list[dict[str, Any]]:
    """ROC, precision-recall and decision curves by label."""
    figures = []
    for label in list(dict.fromkeys(c.label for c in curves))[:MAX_CURVE_LABELS]:
        own = [c for c in curves if c.label == label]
        prevalence = own[0].prevalence
        diagonal = Line("chance", UNIT, UNIT, kind="ref")
        flat = Line("prevalence", UNIT, np.full(2, prevalence), kind="ref")
        roc = [Line(c.row, c.roc.x, c.roc.y, c.roc.low, c.roc.high) for c in own]
        pr = [
            Line(c.row, c.precision_recall.x, c.precision_recall.y, c.precision_recall.low, c.precision_recall.high)
            for c in own
        ]
        benefit = [Line(c.row, c.net_benefit.x, c.net_benefit.y) for c in own]
        odds = own[0].net_benefit.x / (1 - own[0].net_benefit.x)
        everyone = Line("treat all", own[0].net_benefit.x, prevalence - (1 - prevalence) * odds, kind="ref")
        least = Axis(-0.05, max(prevalence, 0.05) * 1.05, tuple(round(prevalence * part, 3) for part in (0, 0.5, 1)))
        names = ", ".join(c.row for c in own)
        figures.append(
            {
                "label": label,
                "charts": [
                    draw_lines(
                        [*roc, diagonal],
                        ("1 - specificity", "sensitivity"),
                        f"ROC curves of {names} for {label}",
                        (UNIT_AXIS, UNIT_AXIS),
                    ),
                    draw_lines(
                        [*pr, flat],
                        ("recall", "precision"),
                        f"precision-recall curves of {names} for {label}; prevalence {number(prevalence)}",
                        (UNIT_AXIS, UNIT_AXIS),
                    ),
                    draw_lines(
                        [*benefit, everyone],
                        ("threshold probability", "net benefit"),
                        f"decision curves of {names} for {label}",
                        (UNIT_AXIS, least),
                    ),
                ],
            }
        )
    return figures
