"""The text of labels, as a card reads it, to a task, label names and targets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from zoo.errors import DataError, nearest
from zoo.sources.cards import Card
from zoo.sources.joining import Joined
from zoo.sources.listing import natural_key
from zoo.tasks import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION, Task, find_task

Array = np.ndarray[Any, Any]

MANY_VALUES = 20  # more distinct whole numbers than this are hardly grades
# One of two classes whose name holds such a word is the negative one: the other is called positive.
NEGATIVE_WORDS = frozenset(
    "no none not non normal negative neg benign healthy control controls absent false nv naevus nevus "  # noqa: SIM905
    "uninfected".split()
)


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted."""

    task: Task
    labels: tuple[str, ...]
    targets: Array  # int64 (N,), float (N,) or float (N, L) with NaN
    positive: str = ""
    notes: tuple[str, ...] = ()


def understand_targets(card: Card, joined: Joined) -> Targets:
    """Targets of every image. A task that the card does not name follows from the text of the labels."""
    task = find_task(card.task) if card.task else None
    if card.label.columns:
        return from_columns(card, joined, task)
    texts = label_texts(card, joined)
    if card.label.separator:
        return from_lists(card, joined, texts)
    if card.label.bins:
        return from_bins(card, joined, texts)
    if task == REGRESSION or (task is None and not card.labels and is_regression(card, texts)):
        return Targets(REGRESSION, (card.label.column or "value",), numbers(joined, texts))
    if task == MULTILABEL:
        raise DataError("task = 'multilabel' needs label.columns or label.separator in dataset.toml")
    return from_classes(card, joined, texts, task)


def label_texts(card: Card, joined: Joined) -> list[str]:
    if card.label.column:
        texts = list(joined.cells[card.label.column])
    elif joined.captures and "label" in joined.captures[0]:
        texts = [captures["label"] for captures in joined.captures]
    else:
        raise DataError("nothing says the label", fix="in dataset.toml: label = {column = ...}, or {label} in `images`")
    blank = [row for row, text in enumerate(texts) if not text]
    if blank:
        more = f" (and {len(blank) - 1} more)" if len(blank) > 1 else ""
        raise DataError(
            f"{joined.place(blank[0])}: no {card.label.column or 'label'}{more}", fix="fill it or drop the row"
        )
    return texts


def to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def numbers(joined: Joined, texts: list[str]) -> Array:
    values = [to_number(text) for text in texts]
    for row, value in enumerate(values):
        if value is None or not np.isfinite(value):
            raise DataError(f"{joined.place(row)}: {texts[row]!r} is not a number")
    return np.array(values, dtype=float)


def is_regression(card: Card, texts: list[str]) -> bool:
    """Whether the labels are quantities: numbers with fractions, of many values. Many whole numbers could be either."""
    distinct = {text: to_number(text) for text in set(texts)}
    if None in distinct.values():
        return False
    values = [value for value in distinct.values() if value is not None and np.isfinite(value)]
    if len(values) <= MANY_VALUES:
        return False
    if all(value == int(value) for value in values):
        raise DataError(
            f"column {card.label.column!r} has {len(values)} different whole numbers: classes or quantities?",
            fix='say task = "regression" or "multiclass" in dataset.toml',
        )
    return True


def check_numbers(joined: Joined, texts: list[str]) -> None:
    """Refuse a `NaN` among numbers: it is no class. Among words it is one: nobody can tell it from an abbreviation."""
    values = [to_number(text) for text in texts]
    missing = [row for row, value in enumerate(values) if value is not None and not np.isfinite(value)]
    if missing and None not in values and len(set(values)) > 1:
        raise DataError(
            f"{joined.place(missing[0])}: label {texts[missing[0]]!r} among numbers",
            fix="fill it, drop the row, or list it under `labels` in dataset.toml",
        )


def from_classes(card: Card, joined: Joined, texts: list[str], task: Task | None) -> Targets:
    names = dict(card.labels) if isinstance(card.labels, dict) else {label: label for label in card.labels}
    if not names:
        names = {text: text for text in sorted(set(texts), key=natural_key)}
        check_case(names)
        check_numbers(joined, texts)
    labels = tuple(dict.fromkeys(names.values()))
    number = {text: labels.index(label) for text, label in names.items()}
    for row, text in enumerate(texts):
        if text not in number:
            hint = nearest(text, number) or f"labels are {', '.join(list(number)[:10])}"
            raise DataError(f"{joined.place(row)}: unknown label {text!r}. {hint}")
    task = task or (BINARY if len(labels) == 2 else MULTICLASS)
    if len(labels) < task.min_labels or (task.max_labels and len(labels) > task.max_labels):
        expected = f"at least {task.min_labels}" if len(labels) < task.min_labels else f"at most {task.max_labels}"
        raise DataError(f"expected {expected} labels for {task}, got {len(labels)}: {', '.join(labels[:10])}")
    targets = np.array([number[text] for text in texts], dtype=np.int64)
    if task != BINARY:
        grades = not card.task and all(text.lstrip("-").isdecimal() for text in names)
        advice = 'whole numbers are read as classes; of ordered grades say task = "ordinal" in dataset.toml'
        return Targets(task, labels, targets, notes=(advice,) if grades else ())
    positive, note = choose_positive(card, names, labels)
    return Targets(task, labels, targets, positive, note)


def check_case(names: dict[str, str]) -> None:
    by_lower: dict[str, str] = {}
    for name in names:
        other = by_lower.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"labels {other!r} and {name!r} differ only in case",
                fix=f'rename one, or in dataset.toml: labels = {{"{other}" = "{other}", "{name}" = "{other}", ...}}',
            )


def choose_positive(card: Card, names: dict[str, str], labels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The positive label of two, as said, or the one that is not called normal, and a note that says so."""
    said = card.label.positive
    if said:
        if said not in names and said not in labels:
            raise DataError(f"label.positive: no label {said!r}; there are {', '.join(labels)}")
        return names.get(said, said), ()
    negative = [label for label in labels if NEGATIVE_WORDS & set(re.split(r"[^a-z]+", label.lower()))]
    if labels == ("0", "1"):
        negative = ["0"]
    positive = labels[1] if len(negative) != 1 else next(label for label in labels if label not in negative)
    return positive, (f"positive label: {positive} (guessed)",)


def from_lists(card: Card, joined: Joined, texts: list[str]) -> Targets:
    lists = [
        [] if text == card.label.none else [part.strip() for part in text.split(card.label.separator) if part.strip()]
        for text in texts
    ]
    mapping = card.labels if isinstance(card.labels, dict) else {label: label for label in card.labels}
    if not mapping:
        mapping = {label: label for label in sorted({label for each in lists for label in each}, key=natural_key)}
        check_case(mapping)
    labels = tuple(dict.fromkeys(mapping.values()))
    targets = np.zeros((len(texts), len(labels)))
    for row, each in enumerate(lists):
        for label in each:
            if label not in mapping:
                raise DataError(f"{joined.place(row)}: unknown label {label!r}. {nearest(label, mapping)}".rstrip())
            targets[row, labels.index(mapping[label])] = 1.0
    return Targets(MULTILABEL, labels, targets)


def from_bins(card: Card, joined: Joined, texts: list[str]) -> Targets:
    values, edges = numbers(joined, texts), np.array(card.label.bins)
    outside = np.flatnonzero((values < edges[0]) | (values > edges[-1]))
    if len(outside):
        row = int(outside[0])
        raise DataError(f"{joined.place(row)}: {texts[row]} lies outside the bins {edges[0]:g} to {edges[-1]:g}")
    names = card.label.names or tuple(f"{low:g} to {high:g}" for low, high in pairwise(card.label.bins))
    return Targets(
        find_task(card.task) if card.task else ORDINAL, names, np.digitize(values, edges[1:-1]).astype(np.int64)
    )


def from_columns(card: Card, joined: Joined, task: Task | None) -> Targets:
    """0/1 columns: one class an image where every row has exactly one 1, else multi-label with blank for unknown."""
    labels = card.label.columns
    cells = joined.cells[list(labels)].to_numpy()
    values = np.full(cells.shape, np.nan)
    for text in np.unique(cells.astype(str)):
        value = to_number(text) if text else np.nan
        if value not in (0.0, 1.0) and text:
            row, column = map(int, np.argwhere(cells == text)[0])
            raise DataError(f"{joined.place(row)}: {labels[column]} is {text!r}, expected 0, 1 or blank for unknown")
        values[cells == text] = value
    not_one = np.flatnonzero(values.sum(axis=1) != 1)  # also where a cell is blank: NaN != 1
    one_each = len(not_one) == 0
    if task is None:
        task = MULTILABEL if not one_each or len(labels) == 1 else BINARY if len(labels) == 2 else MULTICLASS
    if not task.classes:
        return Targets(task, labels, values)
    if not one_each:
        raise DataError(f"{joined.place(int(not_one[0]))}: expected exactly one 1 in {', '.join(labels)}")
    positive, notes = choose_positive(card, {label: label for label in labels}, labels) if task == BINARY else ("", ())
    return Targets(task, labels, values.argmax(axis=1).astype(np.int64), positive, notes)
