"""Audit a dataset that is opened, decoded and split, before anything is trained.

The checks and their verdicts are those of docs/audit.md. What a split that zoo draws cannot have (it keeps patients and
copies together), an official one can.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.audit.levels import find_associations
from zoo.audit.scope import (
    BY_PLACE,
    COLUMN_FOLDS,
    Scope,
    find_scope,
    rows_of_frequent_classes,
    why_none_alike,
    why_none_telling,
)
from zoo.data.checks import composed, patient_key
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.sources.decimals import find_ambiguous_comma, to_number
from zoo.specs.dataset import SPLITS
from zoo.system.files import cache_root, hash_file
from zoo.system.memo import FileMemo
from zoo.tasks.kinds import REGRESSION

Verdict = Literal["ok", "warn", "refuse"]

MAX_ALIKE = 0.005  # of the test images that look like one outside: more, and the test set is no other set
TELLING_AUROC = 0.7
COLUMN_BINS = 10  # of a numeric column
MAX_COLUMN_VALUES = 50  # of a column of text; more name the image rather than say something of it
ODD_SIDE = 4.0  # times longer or shorter than the median
RANKS: tuple[Verdict, ...] = ("ok", "warn", "refuse")
SPELLINGS_SHOWN = 3  # pairs in a message
LEAK_FIX = (
    "--drop-leaks leaves the copies out of train and val, `zoo audit --fix OUT.toml` writes a card that does; "
    "--allow-leak REASON goes on and stamps every result"
)
FIX_CONFLICT = (
    "`zoo audit --fix OUT.toml` leaves both out; or name the pair under `known_conflicts` in dataset.toml to accept it"
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label that does not fit its image, by what the other images teach."""

    sample: str
    label: str  # of several labels an image may have: the one in doubt
    given: str
    suggested: str
    score: float  # 0 to 1: how well the label given fits


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
    pairs: tuple[tuple[str, str], ...] = ()  # the first of those that are wrong together
    suspects: tuple[Suspect, ...] = ()  # all of them, the least fitting first


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that was found of one dataset."""

    dataset: str
    findings: tuple[Finding, ...]
    scope: Scope | None = None  # None: it could not be opened, or two datasets were compared
    is_pair: bool = False  # of a dataset trained on and another tested on

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.findings), key=RANKS.index, default="ok")

    @property
    def found(self) -> frozenset[str]:
        """The checks that found something."""
        return frozenset(finding.check for finding in self.findings if finding.verdict != "ok")

    def refusal(self) -> DataError | None:
        """The error that stands for all that refuses the dataset; None where nothing does.

        It does not name the dataset: who says it knows which one was asked about.
        """
        refusing = [finding for finding in self.findings if finding.verdict == "refuse"]
        if not refusing:
            return None
        first = refusing[0]
        others = ", ".join(dict.fromkeys(finding.check for finding in refusing[1:]))
        where = "" if self.is_pair else "; `zoo audit` lists all"
        more = f" (and: {others}{where})" if others else ""
        return DataError(f"{first.message}{more}", fix=first.fix, code=first.check)

    def describe(self) -> dict[str, Any]:
        """The audit as plain data, as `zoo audit --json` shows it."""
        return {
            "dataset": self.dataset,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "looked_at": self.scope.describe(self.found) if self.scope else None,
        }

    def with_finding(self, finding: Finding) -> Audit:
        return replace(self, findings=worst_first([*self.findings, finding]))


def audit(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Audit:
    """Look for leaks between splits, conflicts of labels, and what makes a set easier or worse than it seems."""
    split_of = split.folds[0]
    # What --drop-leaks left out has a label all the same, and it is another than its copy's.
    given = np.where(split_of == "", source.splits, split_of)
    findings = [
        *find_label_conflicts(source, given, fingerprints),
        *find_identical(source, split_of, fingerprints),
        *find_shared_patients(source, split_of),
        *find_spellings(source, split_of),
        *find_look_alikes(source, split, fingerprints),
        *find_missing_classes(source, split),
        *find_odd_images(source, fingerprints),
        *find_telling_columns(source, fingerprints),
        *find_levels_by_label(source),
        *find_unofficial(source),
        *find_doubts(source),
        *find_unchecked(source, fingerprints),
    ]
    scope = find_scope(source, fingerprints, has_official=any(checksummed(source)))
    return Audit(dataset=source.spec.name, findings=worst_first(findings), scope=scope)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -RANKS.index(finding.verdict)))


def refused_audit(dataset: str, error: DataError) -> Audit:
    """The audit of a dataset that could not be opened, decoded or split: its one finding is the error."""
    finding = Finding(
        check=error.code, verdict="refuse", splits=(), samples=(), count=0, message=error.message, fix=error.fix
    )
    return Audit(dataset=dataset, findings=(finding,))


# --- leaks -----------------------------------------------------------------------------------------------------------
def copies(fingerprints: Fingerprints, split_of: Array) -> Iterator[Array]:
    """The rows of every group of images with the same pixels; those of no split, and blank ones, are nobody's copy."""
    rows = np.flatnonzero((split_of != "") & ~fingerprints.blank)
    order = rows[np.argsort(fingerprints.pixels[rows], kind="stable")]
    edges = np.flatnonzero(fingerprints.pixels[order][1:] != fingerprints.pixels[order][:-1]) + 1
    return (group for group in np.split(order, edges) if len(group) > 1)


def conflicting_pairs(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[tuple[int, int]]:
    """Images of the same pixels with two labels: no model can be right about both. Known ones are accepted."""
    known = {frozenset(pair) for pair in source.spec.known_conflicts}
    targets = np.asarray(source.samples.targets, dtype=float).reshape(len(split_of), -1)
    for group in copies(fingerprints, split_of):
        for a, b in combinations(group.tolist(), 2):
            same = np.array_equal(targets[a], targets[b], equal_nan=True)
            if not same and frozenset((str(source.sample_ids[a]), str(source.sample_ids[b]))) not in known:
                yield a, b


def find_label_conflicts(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    found: dict[Verdict, list[tuple[int, int]]] = {"refuse": [], "warn": []}
    for a, b in conflicting_pairs(source, split_of, fingerprints):
        found["refuse" if split_of[a] != split_of[b] else "warn"].append((a, b))
    for verdict, pairs in found.items():
        if pairs:
            (a, b), where = pairs[0], sorted_splits(split_of[[row for pair in pairs for row in pair]])
            yield Finding(
                check="label-conflict",
                verdict=verdict,
                splits=where,
                samples=name_samples(source, [row for pair in pairs for row in pair]),
                count=len(pairs),
                message=f"{called(source, split_of, a)} and {called(source, split_of, b)} are one image with two "
                f"labels, {describe_label(source, a)} and {describe_label(source, b)}"
                + and_more(len(pairs) - 1, "pair"),
                fix=FIX_CONFLICT,
                pairs=named_pairs(source, pairs),
            )


def find_identical(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Images of the same pixels (or the same file) in two splits, and within one."""
    across: list[Array] = []
    within: list[Array] = []
    for group in copies(fingerprints, split_of):
        (across if len(set(split_of[group])) > 1 else within).append(group)
    if across:
        a, b = first_across(split_of, across[0])
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=sorted_splits(split_of[np.concatenate(across)]),
            samples=name_samples(source, np.concatenate(across)),
            count=sum(map(len, across)),
            message=f"{called(source, split_of, a)} and {called(source, split_of, b)} are the same image"
            + and_more(len(across) - 1, "group"),
            fix=LEAK_FIX,
            pairs=named_pairs(source, [first_across(split_of, group) for group in across]),
        )
    if within:
        group = within[0]
        yield Finding(
            check="identical-within",
            verdict="warn",
            splits=sorted_splits(split_of[np.concatenate(within)]),
            samples=name_samples(source, np.concatenate(within)),
            count=sum(map(len, within)) - len(within),
            message=f"{called(source, split_of, group[0])} and {source.sample_ids[group[1]]} are the same image"
            + and_more(len(within) - 1, "group"),
            pairs=named_pairs(source, [(int(group[0]), int(group[1])) for group in within]),
        )


def find_shared_patients(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    if not source.has_patients:
        return
    rows = np.flatnonzero(split_of != "")
    patients, inverse = np.unique(source.patients[rows], return_inverse=True)
    in_split = np.stack([np.bincount(inverse[split_of[rows] == name], minlength=len(patients)) for name in SPLITS])
    shared = np.flatnonzero((in_split > 0).sum(axis=0) > 1)
    if not len(shared):
        return
    theirs = rows[np.isin(inverse, shared)]
    pairs = [first_across(split_of, rows[inverse == patient]) for patient in shared[:MOST_NAMED]]
    a, b = pairs[0]
    word = source.patient_word
    tested = int((in_split[2, shared]).sum())
    yield Finding(
        check="patient",
        verdict="refuse",
        splits=sorted_splits(split_of[theirs]),
        samples=name_samples(source, theirs),
        count=len(theirs),
        message=f"{word} {str(patients[shared[0]])!r} is in two splits ({called(source, split_of, a)}, "
        f"{called(source, split_of, b)}): {len(shared)} of {len(patients)} {word}s are, with {tested} test images",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs),
    )


def find_spellings(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    """Patients written in two ways: numbers are taken as one person, other names as two who may be one."""
    if not source.has_patients or source.spec.patient in BY_PLACE:
        return
    written = np.array([composed(patient) for patient in source.samples.table["patient"]])
    rows_of: dict[str, dict[str, int]] = defaultdict(dict)  # folded name -> each spelling and its first row
    for row, patient in enumerate(written.tolist()):
        rows_of[fold_name(patient)].setdefault(patient, row)
    groups = [list(spellings.values()) for spellings in rows_of.values() if len(spellings) > 1]
    one, two = (
        [group for group in groups if (len(set(source.patients[group].tolist())) == 1) == is_one]
        for is_one in (True, False)
    )
    word = source.patient_word
    if one:
        what = f"numbers of {word}s spelled in two ways, each of which is taken as one {word}"
        yield spelling_finding(source, split_of, written, one, (what, f"write each {word} in one way"))
    if two:
        what = f"names of {word}s that differ only in case, blanks or leading zeros, and are taken as different {word}s"
        yield spelling_finding(source, split_of, written, two, (what, f"where two are one {word}, write both alike"))


def fold_name(patient: str) -> str:
    """Return what spellings of one name share: no case, no blanks, no separator beside a letter, no leading zeros."""
    text = "".join(patient_key(patient).split()).casefold()
    text = re.sub(r"(?<=[^\W\d_])[-_.]+|[-_.]+(?=[^\W\d_])", "", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def spelling_finding(
    source: OpenDataset, split_of: Array, written: Array, groups: list[list[int]], words: tuple[str, str]
) -> Finding:
    """The finding of groups of first rows, one a spelling; `words` are what they are and the fix."""
    theirs = np.flatnonzero(np.isin(written, written[[row for group in groups for row in group]]))
    groups.sort(key=lambda group: len(set(split_of[group])) < 2)  # those in several splits first
    pairs = [(group[0], next((b for b in group if split_of[b] != split_of[group[0]]), group[1])) for group in groups]
    shown = ", ".join(
        f"{str(written[a])!r} of {called(source, split_of, a)} and {str(written[b])!r} of {called(source, split_of, b)}"
        for a, b in pairs[:SPELLINGS_SHOWN]
    )
    return Finding(
        check="patient-spelling",
        verdict="warn",
        splits=sorted_splits(split_of[theirs]),
        samples=name_samples(source, theirs),
        count=len(theirs),
        message=f"{words[0]}: {shown}" + and_more(len(pairs) - SPELLINGS_SHOWN, "pair"),
        fix=words[1],
        pairs=named_pairs(source, pairs),
    )


def find_look_alikes(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Images in two splits that look alike (pHash within 8 of 64 bits, then correlation of at least .98).

    In a split that zoo drew they are there only where they chain too many images into one group: that is no refusal.
    """
    split_of = split.folds[0]
    if why_none_alike(source, fingerprints) or not len(fingerprints.alike):
        return
    pairs = fingerprints.alike[(split_of[fingerprints.alike] != "").all(axis=1)]
    pairs = pairs[split_of[pairs[:, 0]] != split_of[pairs[:, 1]]]
    if not len(pairs):
        return
    tested = np.unique(pairs[split_of[pairs] == "test"])
    share = len(tested) / max(1, int((split_of == "test").sum()))
    a, b = pairs[0]
    yield Finding(
        check="near-duplicate",
        verdict="refuse" if share > MAX_ALIKE and split.origin == "official" else "warn",
        splits=sorted_splits(split_of[pairs].ravel()),
        samples=name_samples(source, pairs.ravel()),
        count=len(pairs),
        message=f"{called(source, split_of, a)} and {called(source, split_of, b)} look alike"
        + and_more(len(pairs) - 1, "pair")
        + f"; {share:.1%} of test has such a neighbour outside it",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs.tolist()),
    )


# --- what a reader should know ---------------------------------------------------------------------------------------
def find_missing_classes(source: OpenDataset, split: Split) -> Iterator[Finding]:
    """Each class or label of which a split has no image, or that each of its images has, as far as is known."""
    if source.task == REGRESSION:
        return
    targets, classes, num_folds = np.asarray(source.samples.targets), source.task.classes, len(split.folds)
    cells = np.eye(len(source.spec.labels))[targets] if classes else targets  # (N, L): NaN where unknown
    is_mean = len(source.spec.labels) > (2 if classes else 1)
    for label, column in zip(source.spec.labels, cells.T, strict=True):
        lacking = find_lacking(column == 1, split.folds)
        others = find_lacking(column == 0, split.folds) - lacking  # where neither is known, the first says it all
        undefined = {fold for name, fold in lacking | others if name == "test"}
        # Of classes, an image without this one is of another, which is then said to be lacking.
        found = {"of" if classes else "with": lacking, "without": set() if classes else others}
        for word, places in found.items():
            if places:
                is_scored = any(name == "train" and fold not in undefined for name, fold in places)
                yield Finding(
                    check="class-absent",
                    verdict="warn",
                    splits=tuple(name for name in SPLITS if name in dict(places)),
                    samples=(),
                    count=int((column == 1).sum()),
                    message=f"no image {word} {label!r} in {name_places(places, num_folds)}: "
                    + say_consequences({name for name, _ in places}, is_mean=is_mean, is_scored=is_scored),
                )


def find_lacking(images: Array, folds: Sequence[Array]) -> set[tuple[str, int]]:
    """The splits, each with its fold, that hold none of these images (N,)."""
    return {
        (name, fold) for fold, split_of in enumerate(folds) for name in SPLITS if not images[split_of == name].any()
    }


def name_places(places: Collection[tuple[str, int]], num_folds: int) -> str:
    """`train and val`; of several folds, `train of 1 of 5 folds, val of 5`."""
    counts = {name: sum(where == name for where, _ in places) for name in SPLITS}
    names = [name for name in SPLITS if counts[name]]
    if num_folds == 1:
        return listed(names)
    first, *others = names
    folds = f"{first} of {counts[first]} of {num_folds} folds"
    return ", ".join([folds, *(f"{name} of {counts[name]}" for name in others)])


def say_consequences(splits: Collection[str], *, is_mean: bool, is_scored: bool) -> str:
    """What follows for a label. `is_mean`: scores are means over labels; `is_scored`: one not learned is tested."""
    told = []
    if "train" in splits:
        counted = ", and its score is counted in the macro mean all the same" if is_mean else ", and is scored"
        told.append("it cannot be learned there" + counted * is_scored)
    undefined = [name for name in ("val", "test") if name in splits]
    if undefined:
        left_out = ", and left out of the macro mean there" if is_mean else ""
        told.append(f"its AUROC is undefined on {listed(undefined)}{left_out}")
    return "; ".join(told)


def find_odd_images(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    blank = np.flatnonzero(fingerprints.blank)
    if len(blank):
        yield Finding(
            check="blank",
            verdict="warn",
            splits=(),
            samples=name_samples(source, blank),
            count=len(blank),
            message=f"{source.sample_ids[blank[0]]} is blank: of one level" + and_more(len(blank) - 1, "image"),
        )
    sides = np.maximum(fingerprints.widths, fingerprints.heights)
    middle = float(np.median(sides))
    odd = np.flatnonzero((sides > ODD_SIDE * middle) | (sides * ODD_SIDE < middle))
    if len(odd):
        row = int(odd[0])
        yield Finding(
            check="size",
            verdict="warn",
            splits=(),
            samples=name_samples(source, odd),
            count=len(odd),
            message=f"{source.sample_ids[row]} is {fingerprints.widths[row]} x {fingerprints.heights[row]}, "
            f"the median of the longest side is {middle:.0f}" + and_more(len(odd) - 1, "image"),
        )


def find_telling_columns(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """What alone predicts the label beside the pixels: a scanner, a folder or a format may stand for the disease."""
    if why_none_telling(source):
        return
    rows, present = rows_of_frequent_classes(source)
    patients = source.patients[rows]
    classes = np.searchsorted(present, np.asarray(source.samples.targets)[rows])
    folds: list[tuple[Array, Array]] = []
    for what, cells in columns_beside_pixels(source, fingerprints).items():
        values = bin_numbers(cells[rows])
        if not 2 <= len(np.unique(values)) <= MAX_COLUMN_VALUES:
            continue
        folds = folds or draw_column_folds(classes, patients)
        area = predict_from_column(values, classes, folds)
        if area > TELLING_AUROC:
            yield Finding(
                check="metadata",
                verdict="warn",
                splits=(),
                samples=(),
                count=len(rows),
                message=f"{what} alone predicts the label: AUROC {area:.2f} on other patients",
            )


def columns_beside_pixels(source: OpenDataset, fingerprints: Fingerprints) -> Mapping[str, Array]:
    """Texts (N,) by what they are: the columns of metadata, the official split, and how the image was stored."""
    table = source.samples.table
    named = {f"column {name!r}": table[name] for name in source.spec.metadata if name in table.columns}
    columns = {what: cells.astype(str).to_numpy().astype(np.str_) for what, cells in named.items()}
    columns["the official split"] = source.splits
    columns["the image's width"], columns["the image's height"] = (
        fingerprints.widths.astype(str),
        fingerprints.heights.astype(str),
    )
    columns["whether a file is stored in colour"] = fingerprints.channels.astype(str)
    if len(source.samples.files) == len(table):
        columns["the file's type"] = np.array([path.suffix.lower() for path in source.samples.files])
    return columns


def draw_column_folds(classes: Array, patients: Array) -> list[tuple[Array, Array]]:
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    drawer = StratifiedGroupKFold(n_splits=COLUMN_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with few patients: its fold may lack it
        return list(drawer.split(classes, classes, patients))


def predict_from_column(values: Array, classes: Array, folds: Sequence[tuple[Array, Array]]) -> float:
    """AUROC, macro over classes, of each value's share of classes among other patients.

    Five folds by patient; a value that the others lack says the prior.
    """
    from sklearn.metrics import roc_auc_score

    _, codes = np.unique(values, return_inverse=True)
    one_hot = np.eye(int(classes.max()) + 1)[classes]
    predicted = np.zeros_like(one_hot)
    for fitted, tested in folds:
        prior = one_hot[fitted].mean(axis=0)
        sums = np.zeros((codes.max() + 1, one_hot.shape[1]))
        np.add.at(sums, codes[fitted], one_hot[fitted])
        shares = (sums + prior) / (sums.sum(axis=1, keepdims=True) + 1)
        predicted[tested] = shares[codes[tested]]
    areas = [roc_auc_score(one_hot[:, i], predicted[:, i]) for i in range(one_hot.shape[1])]
    return float(np.mean(areas))


def bin_numbers(cells: Array) -> Array:
    """A column of numbers cut into tenths of their order; its blanks and words stay what they are, as all texts do."""
    texts = cells.tolist()
    if find_ambiguous_comma(texts):
        return cells
    numbers = np.array([to_number(text) for text in texts], dtype=float)  # None becomes NaN
    known = np.isfinite(numbers)
    if 2 * known.sum() < len(cells) or len(np.unique(numbers[known])) <= COLUMN_BINS:
        return cells
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, COLUMN_BINS + 1)[1:-1]))
    return np.where(known, np.searchsorted(edges, numbers, side="right").astype(np.str_), cells)


def find_levels_by_label(source: OpenDataset) -> Iterator[Finding]:
    """Groups of files whose levels differ, and the labels with them: brightness alone then predicts the label."""
    for found in find_associations(source):
        yield Finding(
            check="levels",
            verdict="warn",
            splits=(),
            samples=name_samples(source, found.rows),
            count=len(found.rows),
            message=f"levels differ by {found.fact}, and {found.label} goes with it (p = {found.p_value:.1g}): "
            f"{len(found.rows)} of {len(source.sample_ids)} images are {found.group!r}",
            fix="bring all files to one scale, or leave one group out",
        )


def find_unofficial(source: OpenDataset) -> Iterator[Finding]:
    """Files that are not those the card's checksums are of."""
    if not source.spec.checksums:
        return
    memo = FileMemo(cache_root(), what="md5", find=partial(hash_file, algorithm="md5"))
    try:
        for path, expected in checksummed(source):
            if (found := memo(path)) != expected:
                yield Finding(
                    check="checksum",
                    verdict="warn",
                    splits=(),
                    samples=(),
                    count=1,
                    message=f"{path.name} is not the official file: its md5 is {found}, the card says {expected}",
                )
    finally:
        memo.close()


def checksummed(source: OpenDataset) -> Iterator[tuple[Path, str]]:
    """The files that the card has a checksum of, with it."""
    for path in dict.fromkeys((*source.samples.files, *source.samples.tables)) if source.spec.checksums else ():
        if expected := checksum_of(path, source.spec.checksums):
            yield path, expected


def checksum_of(path: Path, checksums: Mapping[str, str]) -> str:
    """What a card says of a file, by its name or by its path below the root; "" where it says nothing."""
    place = path.as_posix()
    return next((md5 for name, md5 in checksums.items() if place.endswith(f"/{name}")), "")


def find_doubts(source: OpenDataset) -> Iterator[Finding]:
    """What reading the files showed: patients that are not known, tables that were not used."""
    for doubt in source.samples.doubts:
        yield Finding(
            check=doubt.check,
            verdict="warn",
            splits=(),
            samples=(),
            count=doubt.count,
            message=doubt.message,
            fix=doubt.fix,
        )


def find_unchecked(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """What was not looked at, and why."""
    if fingerprints.skipped:
        yield note("near-duplicate", f"copies that are not identical were not looked for: {fingerprints.skipped}")
    if not source.has_patients:
        yield note("patient", "no patient key: whether a patient is in two splits cannot be known")


def note(check: str, message: str) -> Finding:
    return Finding(check=check, verdict="ok", splits=(), samples=(), count=0, message=message)


# --- words -----------------------------------------------------------------------------------------------------------
MOST_NAMED = 20


def name_samples(source: OpenDataset, rows: Sequence[int] | Array) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(source.sample_ids[row]) for row in list(rows)[:MOST_NAMED]))


def named_pairs(source: OpenDataset, pairs: Iterable[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(source.sample_ids[a]), str(source.sample_ids[b])) for a, b in list(pairs)[:MOST_NAMED])


def called(source: OpenDataset, split_of: Array, row: int) -> str:
    return f"{source.sample_ids[row]} ({split_of[row]})"


def describe_label(source: OpenDataset, row: int) -> str:
    targets = np.asarray(source.samples.targets)
    return repr(source.spec.labels[int(targets[row])]) if source.task.classes else str(targets[row])


def first_across(split_of: Array, group: Array) -> tuple[int, int]:
    """Two rows of a group that lie in different splits."""
    other = group[split_of[group] != split_of[group[0]]]
    return int(group[0]), int(other[0])


def sorted_splits(found: Array) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in set(found.tolist()))


def and_more(count: int, what: str) -> str:
    return f" (and {count} {what}{'s' * (count != 1)} more)" if count > 0 else ""


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
