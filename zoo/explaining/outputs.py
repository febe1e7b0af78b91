"""Which outputs of an answer are explained: the decided labels, a requested one, the labels of a mask, or the value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.arrays import Array
from zoo.errors import RunError, UsageError, nearest
from zoo.explaining.explainer import GRAD_CAM
from zoo.trained.card import ModelCard, read_model_card
from zoo.trained.opening import best_of
from zoo.trained.predicting import NewAnswer


@dataclass(frozen=True, kw_only=True)
class ExplainedOutput:
    """A column of the answer for one image."""

    column: int
    label: str
    value: float  # in this measure
    measure: Literal["probability", "value", "pixels"]
    decided: bool | None  # whether the label is the decision; None if the task decides nothing


def check_explainable(card: ModelCard, label: str, method: str) -> None:
    """Raise a ZooError if the method cannot explain a model, or the task does not have the requested label."""
    if card.dims == 3 and card.task_kind.targets.spatial:
        raise RunError(
            f"{card.name} predicts the masks of volumes, which are not explained",
            fix="look at its masks: `zoo predict MODEL VOLUMES -o FOLDER`",
            code="no-map",
        )
    if card.dims == 3 and method != GRAD_CAM:
        raise UsageError(
            f"--method {method} explains images, but {card.name} reads whole volumes",
            fix=f"use --method {GRAD_CAM}",
            code="no-map",
        )
    if card.inputs:
        raise RunError(
            f"{card.name} takes metadata beside the image, which maps do not show",
            fix="explain a model of images only",
            code="no-map",
        )
    task = card.task_kind
    if label and ((task.decisions is None and not task.targets.by_label) or label not in card.labels):
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
        return [ExplainedOutput(column=0, label=card.labels[0], value=float(values[0]), measure="value", decided=None)]
    decision = np.asarray(answer.decision)
    decided = np.flatnonzero(decision).tolist() if decision.ndim else [int(decision)]
    columns = [card.labels.index(label)] if label else decided or [int(values.argmax())]
    return [
        ExplainedOutput(
            column=each,
            label=card.labels[each],
            value=float(values[each]),
            measure="probability",
            decided=each in decided,
        )
        for each in columns
    ]


def labels_to_explain(card: ModelCard, mask: Array, label: str = "") -> list[ExplainedOutput]:
    """The labels that a mask has, or of them the requested one, with their pixels."""
    pixels = np.bincount(mask.ravel(), minlength=len(card.labels) + 1)[1:].tolist()
    return [
        ExplainedOutput(column=column, label=name, value=pixels[column], measure="pixels", decided=True)
        for column, name in enumerate(card.labels)
        if pixels[column] and label in ("", name)
    ]


def choose_seeds(folders: Sequence[Path]) -> list[Path]:
    """The folders of the models that explain an answer: the best one, and for masks the other seeds of its fold."""
    best = best_of(folders)
    card = read_model_card(best)
    others = folders if card.task_kind.targets.spatial else ()
    return [best, *(each for each in others if each != best and read_model_card(each).fold == card.fold)]
