"""Scores by label, and the confusion matrix of the best model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score
from zoo.leaderboard.curves import count_confusion
from zoo.leaderboard.formatting import with_interval
from zoo.leaderboard.operating_points import list_label_questions
from zoo.leaderboard.tables import ScoredRow, SectionRequest

LABEL_METRICS = {spec.name: spec for spec in METRICS if spec.name in ("auroc", "average_precision")}


def describe_labels(request: SectionRequest, models: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """AUROC and average precision of every label of several, with the positives they rest on."""
    if not request.card.task.labeled or len(request.card.labels) < 3 or not models:
        return None
    rows = []
    for question in list_label_questions(replace(request, rows=models)):
        scores = score(question.runs, LABEL_METRICS, question.card, threshold="half")
        positives = sum(int((run["test"].targets == 1).sum()) for run in question.runs[0])
        cells = [with_interval(scores[name]) for name in LABEL_METRICS]
        rows.append([question.label, question.row.label, str(positives), *cells])
    rows.sort(key=lambda cells: request.card.labels.index(cells[0]))
    return {
        "name": "labels",
        "title": "Scores by label",
        "columns": ["label", "model", "positives", *(spec.title for spec in LABEL_METRICS.values())],
        "rows": rows,
        "notes": ["each label against all others; an interval needs 10 positives and 10 negatives"],
    }


def describe_confusion(request: SectionRequest, models: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """The confusion matrix of the best model, as counts and as shares of each true class."""
    if not models or (counts := count_confusion(models[0], request)) is None:
        return None
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    rows = [
        {
            "label": label,
            "cells": [
                {
                    "count": f"{counts[i, j]:.4g}",
                    "share": f"{100 * shares[i, j]:.0f} %",
                    "level": int(10 * shares[i, j]),
                }
                for j in range(len(counts))
            ],
        }
        for i, label in enumerate(request.card.labels)
    ]
    return {"model": models[0].label, "labels": list(request.card.labels), "rows": rows}
