"""Which outputs of an answer are explained: the decided labels, a requested one, or the value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.errors import RunError, UsageError, nearest
from zoo.trained.card import ModelCard
from zoo.trained.predicting import NewAnswer


@dataclass(frozen=True, kw_only=True)
class ExplainedOutput:
    """A column of the answer for one image."""

    column: int
    label: str
    value: float  # the probability, or the predicted value
    decided: bool | None  # whether the label is the decision; None if the task decides nothing


def check_explainable(card: ModelCard, label: str) -> None:
    """Raise a ZooError if the task has no output to explain, or not the requested label."""
    if card.task_kind.head.dense:
        raise RunError(f"{card.name} predicts masks, which need no maps", fix="look at its masks", code="no-map")
    if card.volumes:
        raise RunError(
            f"{card.name} reads whole volumes, and maps are drawn on images only",
            fix="explain a model of images; with dims = 2 in dataset.toml, it is trained on slices",
            code="no-map",
        )
    if card.inputs:
        raise RunError(
            f"{card.name} takes metadata beside the image, which maps do not show",
            fix="explain a model of images only",
            code="no-map",
        )
    if label and (card.task_kind.decisions is None or label not in card.labels):
        raise UsageError(
            f"--label {label}: {card.name} has no such label",
            fix=f"{nearest(label, card.labels)} its labels are {', '.join(card.labels)}".strip(),
            code="unknown-label",
        )


def outputs_to_explain(card: ModelCard, answer: NewAnswer, label: str = "") -> list[ExplainedOutput]:
    """The outputs of an answer: the requested label; else every decided one, and the most probable one if none is."""
    values = answer.probabilities
    assert values is not None
    if card.task_kind.decisions is None:
        return [ExplainedOutput(column=0, label=card.labels[0], value=float(values[0]), decided=None)]
    decision = np.asarray(answer.decision)
    decided = np.flatnonzero(decision).tolist() if decision.ndim else [int(decision)]
    columns = [card.labels.index(label)] if label else decided or [int(values.argmax())]
    return [
        ExplainedOutput(column=each, label=card.labels[each], value=float(values[each]), decided=each in decided)
        for each in columns
    ]
