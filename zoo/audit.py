"""From a dataset that is opened, decoded and split to what is wrong with it, before anything is trained.

The checks and their verdicts are those of docs/audit.md. What a split that zoo draws cannot have (it keeps patients and
copies together), an official one can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from zoo.errors import DataError
from zoo.fingerprints import Fingerprints
from zoo.samples import SPLITS, Source
from zoo.splits import Split

Array = np.ndarray[Any, Any]
Verdict = Literal["ok", "warn", "refuse"]

MAX_ALIKE = 0.005  # of the test images that look like one outside: more, and the test set is no other set
MIN_CASES = 30  # of two classes, before a column of metadata is said to predict them
TELLING_AUROC = 0.7
NUM_BINS = 10  # of a numeric column
MAX_VALUES = 50  # of a column of text; more name the image rather than say something of it
ODD_SIDE = 4.0  # times longer or shorter than the median
RANKS: tuple[Verdict, ...] = ("ok", "warn", "refuse")
FIX = "--drop-leaks leaves the copies out of train and val; --allow-leak REASON goes on and stamps every result"
FIX_CONFLICT = "leave one of them out (`drop` in dataset.toml), or name the pair under `known_conflicts`"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that somebody should know."""

    check: str
    verdict: Verdict
    splits: tuple[str, ...]  # where
    samples: tuple[str, ...]  # the first of them, by sample id
    count: int  # images concerned
    message: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that was found of one dataset."""

    dataset: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.findings), key=RANKS.index, default="ok")

    def refusal(self) -> DataError | None:
        """The error that stands for all that refuses the dataset, the first named; None where nothing does."""
        refusing = [finding for finding in self.findings if finding.verdict == "refuse"]
        if not refusing:
            return None
        first = refusing[0]
        others = ", ".join(dict.fromkeys(finding.check for finding in refusing[1:]))
        more = f" (and: {others}; `zoo audit` lists all)" if others else ""
        return DataError(f"dataset {self.dataset!r}: {first.message}{more}", fix=first.fix, code=first.check)

    def describe(self) -> dict[str, Any]:
        """The audit as plain data, as `zoo audit --json` shows it."""
        return {
            "dataset": self.dataset,
            "verdict": self.verdict,
            "findings": [{**asdict(f), "splits": list(f.splits), "samples": list(f.samples)} for f in self.findings],
        }


def audit(source: Source, split: Split, prints: Fingerprints) -> Audit:
    """Look for leaks between splits, conflicts of labels, and what makes a set easier or worse than it seems."""
    assignment = split.folds[0]
    # What --drop-leaks left out has a label all the same, and it is another than its copy's.
    given = np.where(assignment == "", source.splits, assignment)
    findings = [
        *find_conflicts(source, given, prints),
        *find_identical(source, assignment, prints),
        *find_shared_patients(source, assignment),
        *find_alike(source, split, prints),
        *find_missing_classes(source, assignment),
        *find_odd_images(source, prints),
        *find_telling_columns(source),
        *find_unchecked(source, prints),
    ]
    return Audit(dataset=source.spec.name, findings=tuple(sorted(findings, key=lambda f: -RANKS.index(f.verdict))))


def unusable(dataset: str, error: DataError) -> Audit:
    """The audit of a dataset that could not be opened, decoded or split: its one finding is the error."""
    finding = Finding(
        check=error.code, verdict="refuse", splits=(), samples=(), count=0, message=error.message, fix=error.fix
    )
    return Audit(dataset=dataset, findings=(finding,))


# --- leaks -----------------------------------------------------------------------------------------------------------
def copies(prints: Fingerprints, assignment: Array) -> Iterator[Array]:
    """The rows of every group of images with the same pixels; those of no split, and blank ones, are nobody's copy."""
    rows = np.flatnonzero((assignment != "") & ~prints.blank)
    order = rows[np.argsort(prints.pixels[rows], kind="stable")]
    edges = np.flatnonzero(prints.pixels[order][1:] != prints.pixels[order][:-1]) + 1
    return (group for group in np.split(order, edges) if len(group) > 1)


def find_conflicts(source: Source, assignment: Array, prints: Fingerprints) -> Iterator[Finding]:
    """Images of the same pixels with two labels: no model can be right about both."""
    known = {frozenset(pair) for pair in source.spec.known_conflicts}
    targets = np.asarray(source.samples.targets, dtype=float).reshape(len(assignment), -1)
    found: dict[Verdict, list[tuple[int, int]]] = {"refuse": [], "warn": []}
    for group in copies(prints, assignment):
        for a, b in combinations(group.tolist(), 2):
            same = np.array_equal(targets[a], targets[b], equal_nan=True)
            if same or frozenset((str(source.sample_ids[a]), str(source.sample_ids[b]))) in known:
                continue
            found["refuse" if assignment[a] != assignment[b] else "warn"].append((a, b))
    for verdict, pairs in found.items():
        if pairs:
            (a, b), where = pairs[0], sorted_splits(assignment[[row for pair in pairs for row in pair]])
            yield Finding(
                check="label-conflict",
                verdict=verdict,
                splits=where,
                samples=names(source, [row for pair in pairs for row in pair]),
                count=len(pairs),
                message=f"{called(source, assignment, a)} and {called(source, assignment, b)} are one image with two "
                f"labels, {label_of(source, a)} and {label_of(source, b)}" + and_more(len(pairs) - 1, "pair"),
                fix=FIX_CONFLICT,
            )


def find_identical(source: Source, assignment: Array, prints: Fingerprints) -> Iterator[Finding]:
    """Images of the same pixels (or the same file) in two splits, and within one."""
    across: list[Array] = []
    within: list[Array] = []
    for group in copies(prints, assignment):
        (across if len(set(assignment[group])) > 1 else within).append(group)
    if across:
        a, b = first_across(assignment, across[0])
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=sorted_splits(assignment[np.concatenate(across)]),
            samples=names(source, np.concatenate(across)),
            count=sum(map(len, across)),
            message=f"{called(source, assignment, a)} and {called(source, assignment, b)} are the same image"
            + and_more(len(across) - 1, "group"),
            fix=FIX,
        )
    if within:
        group = within[0]
        yield Finding(
            check="identical-within",
            verdict="warn",
            splits=sorted_splits(assignment[np.concatenate(within)]),
            samples=names(source, np.concatenate(within)),
            count=sum(map(len, within)) - len(within),
            message=f"{called(source, assignment, group[0])} and {source.sample_ids[group[1]]} are the same image"
            + and_more(len(within) - 1, "group"),
        )


def find_shared_patients(source: Source, assignment: Array) -> Iterator[Finding]:
    if not source.has_patients:
        return
    rows = np.flatnonzero(assignment != "")
    patients, inverse = np.unique(source.patients[rows], return_inverse=True)
    in_split = np.stack([np.bincount(inverse[assignment[rows] == name], minlength=len(patients)) for name in SPLITS])
    shared = np.flatnonzero((in_split > 0).sum(axis=0) > 1)
    if not len(shared):
        return
    theirs = rows[np.isin(inverse, shared)]
    a, b = first_across(assignment, rows[inverse == shared[0]])
    word = source.spec.patient.partition(":")[0] or "patient"
    tested = int((in_split[2, shared]).sum())
    yield Finding(
        check="patient",
        verdict="refuse",
        splits=sorted_splits(assignment[theirs]),
        samples=names(source, theirs),
        count=len(theirs),
        message=f"{word} {str(patients[shared[0]])!r} is in two splits ({called(source, assignment, a)}, "
        f"{called(source, assignment, b)}): {len(shared)} of {len(patients)} {word}s are, with {tested} test images",
        fix=FIX,
    )


def find_alike(source: Source, split: Split, prints: Fingerprints) -> Iterator[Finding]:
    """Images in two splits that look alike (pHash within 8 of 64 bits, then correlation of at least .98).

    In a split that zoo drew they are there only where they chain too many images into one group: that is no refusal.
    """
    assignment = split.folds[0]
    if source.spec.near_duplicates == "ignore" or not len(prints.alike):
        return
    pairs = prints.alike[(assignment[prints.alike] != "").all(axis=1)]
    pairs = pairs[assignment[pairs[:, 0]] != assignment[pairs[:, 1]]]
    if not len(pairs):
        return
    tested = np.unique(pairs[assignment[pairs] == "test"])
    share = len(tested) / max(1, int((assignment == "test").sum()))
    a, b = pairs[0]
    yield Finding(
        check="near-duplicate",
        verdict="refuse" if share > MAX_ALIKE and split.origin == "official" else "warn",
        splits=sorted_splits(assignment[pairs].ravel()),
        samples=names(source, pairs.ravel()),
        count=len(pairs),
        message=f"{called(source, assignment, a)} and {called(source, assignment, b)} look alike"
        + and_more(len(pairs) - 1, "pair")
        + f"; {share:.1%} of test has such a neighbour outside it",
        fix=FIX,
    )


# --- what a reader should know ---------------------------------------------------------------------------------------
def find_missing_classes(source: Source, assignment: Array) -> Iterator[Finding]:
    if not source.task.classes:
        return
    targets = np.asarray(source.samples.targets)
    for number, label in enumerate(source.spec.labels):
        without = tuple(name for name in SPLITS if not (targets[assignment == name] == number).any())
        if without:
            yield Finding(
                check="class-absent",
                verdict="warn",
                splits=without,
                samples=(),
                count=int((targets == number).sum()),
                message=f"no image of {label!r} in {' and '.join(without)}",
            )


def find_odd_images(source: Source, prints: Fingerprints) -> Iterator[Finding]:
    blank = np.flatnonzero(prints.blank)
    if len(blank):
        yield Finding(
            check="blank",
            verdict="warn",
            splits=(),
            samples=names(source, blank),
            count=len(blank),
            message=f"{source.sample_ids[blank[0]]} is blank: of one level" + and_more(len(blank) - 1, "image"),
        )
    sides = np.maximum(prints.widths, prints.heights)
    middle = float(np.median(sides))
    odd = np.flatnonzero((sides > ODD_SIDE * middle) | (sides * ODD_SIDE < middle))
    if len(odd):
        row = int(odd[0])
        yield Finding(
            check="size",
            verdict="warn",
            splits=(),
            samples=names(source, odd),
            count=len(odd),
            message=f"{source.sample_ids[row]} is {prints.widths[row]} x {prints.heights[row]}, the median of the "
            f"longest side is {middle:.0f}" + and_more(len(odd) - 1, "image"),
        )


def find_telling_columns(source: Source) -> Iterator[Finding]:
    """Columns of metadata that alone predict the label: a scanner or a folder may stand for the disease."""
    targets = np.asarray(source.samples.targets)
    if not source.task.classes:
        return
    for column in source.spec.metadata:
        if column not in source.samples.table.columns:
            continue
        cells = source.samples.table[column].astype(str).to_numpy().astype(np.str_)
        known = cells != ""
        counts = np.bincount(targets[known], minlength=len(source.spec.labels))
        if (counts >= MIN_CASES).sum() < 2:
            continue
        area = predict_from_column(cells[known], targets[known], source.patients[known])
        if area is not None and area > TELLING_AUROC:
            yield Finding(
                check="metadata",
                verdict="warn",
                splits=(),
                samples=(),
                count=int(known.sum()),
                message=f"column {column!r} alone predicts the label: AUROC {area:.2f} on other patients",
            )


def predict_from_column(cells: Array, targets: Array, patients: Array) -> float | None:
    """AUROC, macro over classes, of each value's share of classes among other patients; None for a column of names.

    Numbers are cut into tenths of their order. Five folds by patient; a value that the others lack says the prior.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    values = bin_numbers(cells)
    if len(np.unique(values)) < 2 or len(np.unique(values)) > MAX_VALUES:
        return None
    present = np.flatnonzero(np.bincount(targets) >= MIN_CASES)
    kept = np.isin(targets, present)
    values, patients, classes = values[kept], patients[kept], np.searchsorted(present, targets[kept])
    if len(np.unique(patients)) < 5:
        return None
    _, codes = np.unique(values, return_inverse=True)
    one_hot = np.eye(len(present))[classes]
    predicted = np.zeros_like(one_hot)
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    for fitted, tested in folds.split(codes, classes, patients):
        prior = one_hot[fitted].mean(axis=0)
        sums = np.zeros((codes.max() + 1, len(present)))
        np.add.at(sums, codes[fitted], one_hot[fitted])
        shares = (sums + prior) / (sums.sum(axis=1, keepdims=True) + 1)
        predicted[tested] = shares[codes[tested]]
    areas = [roc_auc_score(one_hot[:, i], predicted[:, i]) for i in range(len(present))]
    return float(np.mean(areas))


def bin_numbers(cells: Array) -> Array:
    try:
        numbers = cells.astype(float)
    except ValueError:
        return cells
    if not np.isfinite(numbers).all() or len(np.unique(numbers)) <= NUM_BINS:
        return cells
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    binned: Array = np.searchsorted(edges, numbers, side="right").astype(np.str_)
    return binned


def find_unchecked(source: Source, prints: Fingerprints) -> Iterator[Finding]:
    """What was not looked at, and why."""
    if prints.skipped:
        yield note("near-duplicate", f"copies that are not identical were not looked for: {prints.skipped}")
    if not source.has_patients:
        yield note("patient", "no patient key: whether a patient is in two splits cannot be known")


def note(check: str, message: str) -> Finding:
    return Finding(check=check, verdict="ok", splits=(), samples=(), count=0, message=message)


# --- words -----------------------------------------------------------------------------------------------------------
MOST_NAMED = 20


def names(source: Source, rows: Sequence[int] | Array) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(source.sample_ids[row]) for row in list(rows)[:MOST_NAMED]))


def called(source: Source, assignment: Array, row: int) -> str:
    return f"{source.sample_ids[row]} ({assignment[row]})"


def label_of(source: Source, row: int) -> str:
    targets = np.asarray(source.samples.targets)
    return repr(source.spec.labels[int(targets[row])]) if source.task.classes else str(targets[row])


def first_across(assignment: Array, group: Array) -> tuple[int, int]:
    """Two rows of a group that lie in different splits."""
    other = group[assignment[group] != assignment[group[0]]]
    return int(group[0]), int(other[0])


def sorted_splits(found: Array) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in set(found.tolist()))


def and_more(count: int, what: str) -> str:
    return f" (and {count} {what}{'s' * (count != 1)} more)" if count > 0 else ""
