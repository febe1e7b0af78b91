"""Convert the text of labels to a task, label names and targets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, nearest
from zoo.sources.cards import DatasetCard
from zoo.sources.decimals import find_ambiguous_comma, to_number
from zoo.sources.ignored_labels import find_ignored, ignored_note, names_in_card
from zoo.sources.joining import Joined
from zoo.sources.listing import natural_key, one_form
from zoo.sources.mask_targets import MaskReader, find_mask_labels
from zoo.sources.names import is_negative
from zoo.sources.segment_targets import understand_segments
from zoo.sources.tables import LIST, split_labels, to_flag
from zoo.tasks.kinds import default_task, find_task
from zoo.tasks.task import Task

# Whole numbers 0 to k in a column of this name are ordered grades
GRADE_COLUMNS = frozenset({"level", "grade", "severity", "diagnosis"})
MANY_VALUES = 20  # more distinct whole numbers are unlikely to be classes


@dataclass(frozen=True, eq=False)
class ReadTargets:
    """Task, label names and targets of a dataset."""

    task: Task
    labels: tuple[str, ...]
    targets: Array  # int64 (N,), float (N,) or float (N, L) with NaN
    positive: str = ""
    notes: tuple[str, ...] = ()
    masks: MaskReader | None = None  # then `targets` is empty
    second_masks: MaskReader | None = None


def understand_targets(card: DatasetCard, joined: Joined, root: Path) -> ReadTargets:
    """Return the targets of every image; the task follows from the labels if the card does not set it."""
    read = read_targets(card, joined, root)
    of_segments = card.masks is not None and bool(card.masks.modality)
    if card.ignore and read.task.targets.form != "flags" and not of_segments:
        raise DataError(
            f"ignore: labels can be left out of a multilabel task only; this one is {read.task}",
            fix="remove `ignore`; leave images out by `exclude` or `drop`",
        )
    return read


def read_targets(card: DatasetCard, joined: Joined, root: Path) -> ReadTargets:
    task = find_task(card.task) if card.task else None
    if task and task.targets.spatial:
        if card.masks and card.masks.modality:
            read = understand_segments(card, joined, root)
            return ReadTargets(task, read.labels, np.empty(0), notes=read.notes, masks=read.reader)
        labels, values = find_mask_labels(card, joined, root)
        second = MaskReader(root, joined.second_masks, values) if joined.second_masks else None
        return ReadTargets(task, labels, np.empty(0), masks=MaskReader(root, joined.masks, values), second_masks=second)
    if card.label.columns:
        return from_columns(card, joined, task)
    texts = label_texts(card, joined)
    if card.label.separator:
        return from_lists(card, joined, texts, task)
    if card.label.bins:
        return from_bins(card, joined, texts)
    form = task.targets.form if task else ""
    if form == "number" or (task is None and not card.labels and is_regression(card, joined, texts)):
        return ReadTargets(task or default_task("number"), (card.label.column or "value",), numbers(joined, texts))
    if form == "flags":
        raise DataError(
            f"task = {str(task)!r} needs label.columns or label.separator in dataset.toml",
            fix='label = {columns = [...]}, or {column = ..., separator = "|"}',
        )
    return from_classes(card, joined, texts, task)


def label_texts(card: DatasetCard, joined: Joined) -> list[str]:
    if card.label.column:
        texts = list(joined.cells[card.label.column])
    elif joined.captures and "label" in joined.captures[0]:
        texts = [captures["label"] for captures in joined.captures]
    else:
        raise DataError(
            "no label is defined", fix="in dataset.toml, set label = {column = ...}, or write {label} in `images`"
        )
    blank = [row for row, text in enumerate(texts) if not text]
    if blank:
        more = f" (and {len(blank) - 1} more)" if len(blank) > 1 else ""
        raise DataError(
            f"{joined.place(blank[0])}: {card.label.column or 'label'} is blank{more}", fix="fill it, or drop the row"
        )
    return [one_form(text) for text in texts]


def numbers(joined: Joined, texts: list[str]) -> Array:
    check_commas(joined, texts)
    values = [to_number(text) for text in texts]
    for row, value in enumerate(values):
        if value is None or not np.isfinite(value):
            raise DataError(f"{joined.place(row)}: {texts[row]!r} is not a number", fix="correct it, or drop the row")
    return np.array(values, dtype=float)


def check_commas(joined: Joined, texts: list[str]) -> None:
    """Refuse numbers such as 1,234 whose comma may separate decimals or thousands."""
    if text := find_ambiguous_comma(texts):
        raise DataError(
            f"{joined.place(texts.index(text))}: {text!r} is ambiguous: decimal comma or thousands separator",
            fix=f"write {text.replace(',', '.')} or {text.replace(',', '')} in the table, and the others likewise",
            code="decimal-comma",
        )


def is_regression(card: DatasetCard, joined: Joined, texts: list[str]) -> bool:
    """Whether the labels are quantities: many different numbers, some with fractions.

    Many different whole numbers could also be classes: raise DataError.
    """
    distinct = {text: to_number(text) for text in set(texts)}
    if None in distinct.values():
        return False
    check_commas(joined, texts)
    values = [value for value in distinct.values() if value is not None and np.isfinite(value)]
    if len(values) <= MANY_VALUES:
        return False
    if all(value == int(value) for value in values):
        raise DataError(
            f"column {card.label.column!r} has {len(values)} different whole numbers: classes or quantities",
            fix=f'set task = "{default_task("number")}" or "{default_task("class", len(values))}" in dataset.toml',
        )
    return True


def check_numbers(card: DatasetCard, joined: Joined, texts: list[str]) -> None:
    """Refuse labels that are unlikely to be classes in a column of numbers: a word, `NaN`, -1, 1.5, 1 beside 1.0.

    In a column of words everything is a class: `NaN` may be an abbreviation. `4A` beside 4 is a grade.
    """
    values = {text: to_number(text) for text in dict.fromkeys(texts)}
    finite = {text: value for text, value in values.items() if value is not None and np.isfinite(value)}
    if len(finite) < 2 and None in values.values():
        return
    by_value = {value: text for text, value in reversed(finite.items())}  # the first spelling of each value
    wrong = {text: "is not a finite number" for text in values if text not in finite and not text[0].isdecimal()}
    wrong |= {text: "is negative" for text, value in finite.items() if value < 0}
    if not card.task:
        wrong |= {text: "is not a whole number" for text, value in finite.items() if value % 1}
    wrong |= {
        text: f"and {by_value[value]!r} are the same number"
        for text, value in finite.items()
        if by_value[value] != text
    }
    for text, what in wrong.items():
        raise DataError(
            f"{joined.place(texts.index(text))}: label {text!r} {what}",
            fix="correct it, drop the row, or set `task`, or all `labels`, in dataset.toml",
        )


def from_classes(card: DatasetCard, joined: Joined, texts: list[str], task: Task | None) -> ReadTargets:
    names = names_in_card(card)
    if not names:
        names = {text: text for text in sorted(set(texts), key=natural_key)}
        if card.label.column:
            check_numbers(card, joined, texts)
    check_apart(names.values())
    labels = tuple(dict.fromkeys(names.values()))
    number = {text: labels.index(label) for text, label in names.items()}
    for row, text in enumerate(texts):
        if text not in number:
            hint = nearest(text, number) or f"use one of {', '.join(list(number)[:10])}"
            raise DataError(f"{joined.place(row)}: unknown label {text!r}", fix=hint)
    targets = np.array([number[text] for text in texts], dtype=np.int64)
    return as_classes(card, names, labels, targets, task)


def as_classes(
    card: DatasetCard, names: dict[str, str], labels: tuple[str, ...], targets: Array, task: Task | None
) -> ReadTargets:
    """Return targets of classes, with the task if the card does not set it, and notes on guesses and missing labels."""
    notes = []
    grades = is_grade(card.label.column) and 3 <= len(labels) <= 10 and labels == tuple(map(str, range(len(labels))))
    if task is None and grades:
        task = default_task("class", len(labels), ordered=True)
        notes.append(
            f"column {card.label.column!r} holds 0 to {len(labels) - 1}: read as ordered grades (guessed; "
            f'else set task = "{default_task("class", len(labels))}" in dataset.toml)'
        )
    task = task or default_task("class", len(labels))
    kind = task.targets
    if len(labels) < kind.min_labels or (kind.max_labels and len(labels) > kind.max_labels):
        expected = f"at least {kind.min_labels}" if len(labels) < kind.min_labels else f"at most {kind.max_labels}"
        raise DataError(
            f"expected {expected} labels for task {str(task)!r}, got {len(labels)}: {', '.join(labels[:10])}",
            fix="correct `task` or `labels` in dataset.toml, or add images of other labels",
        )
    if card.label.positive and not kind.has_positive:
        raise DataError(f"label.positive needs two labels, but there are {len(labels)}", fix="remove label.positive")
    if missing := [label for index, label in enumerate(labels) if index not in set(targets.tolist())]:
        notes.append(f"no image is labeled {', '.join(missing)}")
    if not kind.has_positive:
        if not card.task and not kind.ordered and all(text.lstrip("-").isdecimal() for text in names):
            grades_task = default_task("class", len(labels), ordered=True)
            notes.append(
                f'whole numbers are read as classes; for ordered grades set task = "{grades_task}" in dataset.toml'
            )
        return ReadTargets(task, labels, targets, notes=tuple(notes))
    positive, guessed = choose_positive(card, names, labels)
    return ReadTargets(task, labels, targets, positive, (*notes, *guessed))


def is_grade(column: str) -> bool:
    return re.sub(r"[^a-z]+", "_", column.lower()).strip("_") in GRADE_COLUMNS


def check_apart(names: Iterable[str]) -> None:
    """Raise DataError if two labels differ only in case or blanks, or if one is blank."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise DataError(f"a label is blank: {name!r}", fix="name it in `labels` in dataset.toml")
        other = seen.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            raise DataError(
                f"labels {other!r} and {name!r} differ only in case or blanks",
                fix=f'rename one, or in dataset.toml: labels = {{"{other}" = "{other}", "{name}" = "{other}", ...}}',
            )


def choose_positive(card: DatasetCard, names: dict[str, str], labels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the positive label: the card's, or a guess from the names with a note."""
    declared = one_form(card.label.positive)
    if declared:
        if declared not in names and declared not in labels:
            raise DataError(
                f"label.positive: unknown label {declared!r}; the labels are {', '.join(labels)}",
                fix="name one of these",
            )
        return names.get(declared, declared), ()
    positive = guess_positive(labels)
    return positive, (guessed_positive(positive),)


def guess_positive(labels: tuple[str, ...]) -> str:
    """Return the label whose name is not normal, benign or similar, else the last of the two."""
    negative = [label for label in labels if is_negative(label)]
    if labels == ("0", "1"):
        negative = ["0"]
    return labels[1] if len(negative) != 1 else next(label for label in labels if label not in negative)


def guessed_positive(positive: str) -> str:
    return f"positive label: {positive} (guessed)"


def from_lists(card: DatasetCard, joined: Joined, texts: list[str], task: Task | None) -> ReadTargets:
    """Read several labels per cell; lists of exactly one label each are classes, unless the card sets `task`."""
    lists = [labels_in(card, joined, row, text) for row, text in enumerate(texts)]
    one_each = all(len(each) == 1 for each in lists)
    if one_each and (task.classes if task else card.label.separator == LIST):
        return from_classes(card, joined, [label for (label,) in lists], task)
    several = default_task("flags")
    if task and task.targets.form != "flags":
        row = next(row for row, each in enumerate(lists) if len(each) != 1)
        raise DataError(
            f"{joined.place(row)}: {texts[row]!r} has {len(lists[row])} labels; task = {str(task)!r} needs one",
            fix=f'set task = "{several}", or correct the cell',
        )
    present = sorted({label for each in lists for label in each}, key=natural_key)
    mapping, ignored = names_in_card(card), find_ignored(card, present)
    if not mapping:
        mapping = {label: label for label in present if label not in ignored}
        check_apart(mapping)
    labels = tuple(dict.fromkeys(mapping.values()))
    targets = np.zeros((len(texts), len(labels)))
    for row, each in enumerate(lists):
        for label in each:
            if label in ignored:
                continue
            if label not in mapping:
                hint = nearest(label, mapping) or f"use one of {', '.join(list(mapping)[:10])}"
                raise DataError(f"{joined.place(row)}: unknown label {label!r}", fix=hint)
            targets[row, labels.index(mapping[label])] = 1.0
    notes = (*never_positive(labels, targets), *ignored_note(ignored))
    return ReadTargets(task or several, labels, targets, notes=notes)


def labels_in(card: DatasetCard, joined: Joined, row: int, text: str) -> list[str]:
    """Return the labels in a cell, without the one that means no label."""
    none = one_form(card.label.none)
    if text == none:
        return []
    try:
        return [label for label in split_labels(text, card.label.separator) if label != none]
    except ValueError as error:
        raise DataError(
            f"{joined.place(row)}: {text!r} is not a list of labels: {error}", fix="correct the cell"
        ) from error


def never_positive(labels: tuple[str, ...], targets: Array) -> tuple[str, ...]:
    missing = [label for label, count in zip(labels, np.nansum(targets, axis=0), strict=True) if not count]
    return (f"no image is labeled {', '.join(missing)}",) if missing else ()


def from_bins(card: DatasetCard, joined: Joined, texts: list[str]) -> ReadTargets:
    values, edges = numbers(joined, texts), np.array(card.label.bins)
    outside = np.flatnonzero((values < edges[0]) | (values > edges[-1]))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"{joined.place(row)}: {texts[row]} is outside the bins {edges[0]:g} to {edges[-1]:g}",
            fix="widen the bins, or drop the row",
        )
    names = card.label.names or tuple(f"{low:g} to {high:g}" for low, high in pairwise(card.label.bins))
    grades = np.digitize(values, edges[1:-1]).astype(np.int64)
    task = find_task(card.task) if card.task else default_task("class", len(names), ordered=True)
    return as_classes(card, {name: name for name in names}, names, grades, task)


def from_columns(card: DatasetCard, joined: Joined, task: Task | None) -> ReadTargets:
    """Read 0/1 columns: classes if every row has exactly one 1, else multi-label with blank for unknown."""
    columns, names = card.label.columns, names_in_card(card)
    of_name = {one_form(column): column for column in columns}
    ignored = find_ignored(card, list(of_name))
    of_name = {name: column for name, column in of_name.items() if name not in ignored}
    if names and set(names) != set(of_name):
        odd = next((name for name in names if name not in of_name), "") or min(set(of_name) - set(names))
        raise DataError(
            f"labels: {odd!r} is not in both labels and label.columns", fix="name every column of label.columns once"
        )
    columns = tuple(of_name[name] for name in names or of_name)  # in the order of `labels`
    cells = joined.cells[list(columns)].to_numpy()
    values = np.full(cells.shape, np.nan)
    for text in np.unique(cells.astype(str)):
        value = to_flag(text)
        if value is None:
            row, column = map(int, np.argwhere(cells == text)[0])
            raise DataError(
                f"{joined.place(row)}: {columns[column]} is {str(text)!r}, expected 0, 1 or blank for unknown",
                fix="correct the cell",
            )
        values[cells == text] = value
    notes = (*settle_uncertain(card, joined, columns, values), *ignored_note(ignored))
    not_one = np.flatnonzero(values.sum(axis=1) != 1)  # also where a cell is blank: NaN != 1
    one_each = len(not_one) == 0
    if task is None:
        task = default_task("class" if one_each and len(columns) > 1 else "flags", len(columns))
    labels = tuple(names.get(one_form(column), one_form(column)) for column in columns)
    if len(set(labels)) < len(labels):
        raise DataError("labels: two 0/1 columns have the same name", fix="rename one")
    check_apart(labels)
    if not task.classes:
        return ReadTargets(task, labels, values, notes=(*notes, *never_positive(labels, values)))
    if not one_each:
        raise DataError(
            f"{joined.place(int(not_one[0]))}: expected exactly one 1 in {', '.join(columns)}",
            fix=f'correct the row, or set task = "{default_task("flags")}"',
        )
    return as_classes(
        card, names or {label: label for label in labels}, labels, values.argmax(axis=1).astype(np.int64), task
    )


def settle_uncertain(card: DatasetCard, joined: Joined, columns: Sequence[str], values: Array) -> tuple[str, ...]:
    """Replace each -1 in 0/1 columns (N, L), in place, by its meaning in the card, NaN by default."""
    places = np.argwhere(values == -1)
    if not len(places):
        return ()
    policy = card.label.uncertain
    if not policy and not (values == 0).any():
        row, column = map(int, places[0])
        raise DataError(
            f"{joined.place(row)}: {columns[column]} is -1, and no cell is 0: -1 may mean no or uncertain",
            fix='set in dataset.toml label = {uncertain = "zeros"}, "ones" or "ignore"',
        )
    values[values == -1] = {"": np.nan, "ignore": np.nan, "zeros": 0.0, "ones": 1.0}[policy]
    names = ", ".join(columns[column] for column in np.unique(places[:, 1]))
    meaning = {"zeros": "no", "ones": "yes"}.get(policy, "unknown")
    guessed = "" if policy else ' (guessed; in dataset.toml: label = {uncertain = "zeros"} or "ones")'
    return (f"{len(places)} cells of {names} are -1, uncertain: taken as {meaning}{guessed}",)
