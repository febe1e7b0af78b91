"""Metadata that alone predict the label of the stored images: a shortcut that a model may have learned."""

from __future__ import annotations

from itertools import chain

import numpy as np

from zoo.auditing.columns import PREDICTIVE_AUROC, bin_numbers, draw_column_folds, predict_from_column
from zoo.data.metadata import MAX_TEXT_VALUES
from zoo.leaderboard.boards import Board

MIN_PER_CLASS = 20  # images; with fewer, an area of .7 is within chance


def find_shortcuts(board: Board) -> list[tuple[str, float]]:
    """The metadata columns that predict the label of other patients' images, with their AUROC, macro over classes.

    The audit's test, on the images of val and test, whose metadata are stored with the predictions.
    """
    stored = next((row.stored for row in board.rows if row.stored), ())
    if not stored or not board.card.task.classes or board.facts["num_folds"] > 1:
        return []
    parts = list(chain.from_iterable(run.values() for run in stored[0]))
    targets = np.concatenate([part.targets for part in parts])
    counts = np.bincount(targets, minlength=len(board.card.labels))
    rows = counts[targets] >= MIN_PER_CLASS
    names = [name for name in parts[0].metadata if all(name in part.metadata for part in parts)]
    if not names or (counts >= MIN_PER_CLASS).sum() < 2:
        return []
    classes = np.searchsorted(np.flatnonzero(counts >= MIN_PER_CLASS), targets[rows])
    folds = draw_column_folds(classes, np.concatenate([part.patients for part in parts])[rows])
    shortcuts = []
    for name in names:
        values = bin_numbers(np.concatenate([part.metadata[name] for part in parts])[rows])
        if 2 <= len(np.unique(values)) <= MAX_TEXT_VALUES:
            area = predict_from_column(values, classes, folds)
            if area > PREDICTIVE_AUROC:
                shortcuts.append((name, area))
    return shortcuts
