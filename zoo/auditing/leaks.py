"""Audit an opened, decoded and split dataset before training.

docs/audit.md lists the checks and their verdicts. A split drawn by zoo keeps patients and copies together, so only
official splits can leak.
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
from zoo.auditing.levels import find_associations
from zoo.auditing.scope import (
    BY_PLACE,
    COLUMN_FOLDS,
    Scope,
    find_scope,
    rows_of_frequent_classes,
    why_no_near_duplicates,
    why_no_predictive_columns,
)
from zoo.data.checks import patient_key
from zoo.data.fingerprints import Fingerprints
from zoo.data.metadata import MAX_TEXT_VALUES
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split, draw_part
from zoo.errors import DataError, dataset_subject
from zoo.sources.decimals import find_ambiguous_comma, to_number
from zoo.sources.listing import one_form
from zoo.specs.dataset import SPLITS
from zoo.system.files import cache_root, hash_file
from zoo.system.memo import FileMemo

Verdict = Literal["ok", "warn", "refuse"]

MAX_ALIKE = 0.005  # share of test images with a near-duplicate outside test; above it the split is refused
PREDICTIVE_AUROC = 0.7
COLUMN_BINS = 10  # for a numeric column
ODD_SIDE = 4.0  # longest side: this many times longer or shorter than the median
RANKS: tuple[Verdict, ...] = ("ok", "warn", "refuse")
SPELLINGS_SHOWN = 3  # pairs per message
LEAK_FIX = (
    "--drop-leaks removes the copies from train and val, `zoo audit --fix OUT.toml` writes a card without them; "
    "--allow-leak REASON continues and marks every result"
)
FIX_CONFLICT = (
    "`zoo audit --fix OUT.toml` leaves both out; to accept the pair, list it under `known_conflicts` in dataset.toml"
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label that is probably wrong, judged by a model fitted to the other images."""

    sample: str
    label: str  # multi-label only: the label in question
    given: str
    suggested: str
    score: float  # 0 to 1: probability that the given label is right


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check: a fault, a warning, or a note on a check that was skipped."""

    check: str
    verdict: Verdict
    splits: tuple[str, ...]  # affected splits
    samples: tuple[str, ...]  # the first MOST_NAMED affected sample ids
    count: int  # affected images
    message: str
    fix: str = ""
    pairs: tuple[tuple[str, str], ...] = ()  # the first MOST_NAMED conflicting pairs
    suspects: tuple[Suspect, ...] = ()  # all, lowest score first


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings for one dataset, or for a training set and an external test set."""

    dataset: str
    findings: tuple[Finding, ...]
    scope: Scope | None = None  # None if the dataset could not be opened, or for a pair of datasets
    is_pair: bool = False

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.findings), key=RANKS.index, default="ok")

    @property
    def failed_checks(self) -> frozenset[str]:
        """The checks with a warning or a refusal."""
        return frozenset(finding.check for finding in self.findings if finding.verdict != "ok")

    def refusal(self) -> DataError | None:
        """Return one error for all refusing findings, or None.

        The message does not name the dataset; the caller adds it.
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
        """Return the audit as plain data for `zoo audit --json`."""
        return {
            "dataset": self.dataset,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "looked_at": self.scope.describe(self.failed_checks) if self.scope else None,
        }

    def with_finding(self, finding: Finding) -> Audit:
        return replace(self, findings=worst_first([*self.findings, finding]))


def run_audit(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Audit:
    """Check for leaks between splits, conflicting labels, and shortcuts that predict the label."""
    split_of = split.folds[0]
    # Images removed by --drop-leaks keep their label, which may conflict with that of their copy.
    official = np.where(split_of == "", source.splits, split_of)
    findings = [
        *find_label_conflicts(source, official, fingerprints),
        *find_identical(source, split_of, fingerprints),
        *find_shared_patients(source, split_of),
        *find_spellings(source, split_of),
        *find_near_duplicates(source, split, fingerprints),
        *find_missing_classes(source, split),
        *find_copied_masks(source, split_of, fingerprints),
        *find_odd_images(source, fingerprints),
        *find_predictive_columns(source, fingerprints),
        *find_levels_by_label(source),
        *find_checksum_mismatches(source),
        *count_empty_masks(source, split_of),
        *list_ambiguities(source),
        *list_skipped_checks(source, fingerprints),
    ]
    scope = find_scope(source, fingerprints, has_official=any(list_checksums(source)))
    return Audit(dataset=source.spec.name, findings=worst_first(findings), scope=scope)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -RANKS.index(finding.verdict)))


def refused_audit(dataset: str, error: DataError) -> Audit:
    """Return the audit of a dataset that could not be opened, decoded or split; the error is its only finding."""
    message = error.message_below(dataset_subject(dataset))
    finding = Finding(
        check=error.code, verdict="refuse", splits=(), samples=(), count=0, message=message, fix=error.fix
    )
    return Audit(dataset=dataset, findings=(finding,))


# --- leaks -----------------------------------------------------------------------------------------------------------
def find_copy_groups(fingerprints: Fingerprints, split_of: Array) -> Iterator[Array]:
    """Yield the rows of each group of identical images; blank images and images without a split are ignored."""
    rows = np.flatnonzero((split_of != "") & ~fingerprints.blank)
    order = rows[np.argsort(fingerprints.pixels[rows], kind="stable")]
    edges = np.flatnonzero(fingerprints.pixels[order][1:] != fingerprints.pixels[order][:-1]) + 1
    return (group for group in np.split(order, edges) if len(group) > 1)


def conflicting_pairs(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with identical pixels but different labels, except `known_conflicts`."""
    accepted = {frozenset(pair) for pair in source.spec.known_conflicts}
    targets = np.asarray(source.samples.targets, dtype=float).reshape(len(split_of), -1)
    for group in find_copy_groups(fingerprints, split_of):
        for a, b in combinations(group.tolist(), 2):
            same = np.array_equal(targets[a], targets[b], equal_nan=True)
            if not same and frozenset((str(source.sample_ids[a]), str(source.sample_ids[b]))) not in accepted:
                yield a, b


def find_label_conflicts(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    pairs_of: dict[Verdict, list[tuple[int, int]]] = {"refuse": [], "warn": []}
    for a, b in conflicting_pairs(source, split_of, fingerprints):
        pairs_of["refuse" if split_of[a] != split_of[b] else "warn"].append((a, b))
    for verdict, pairs in pairs_of.items():
        if pairs:
            (a, b), rows = pairs[0], [row for pair in pairs for row in pair]
            yield Finding(
                check="label-conflict",
                verdict=verdict,
                splits=sorted_splits(split_of[rows]),
                samples=name_samples(source, rows),
                count=len(pairs),
                message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are the same image with "
                f"different labels, {describe_label(source, a)} and {describe_label(source, b)}"
                + and_more(len(pairs) - 1, "pair"),
                fix=FIX_CONFLICT,
                pairs=named_pairs(source, pairs),
            )


def find_identical(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report identical images in two splits and within one split."""
    across: list[Array] = []
    within: list[Array] = []
    for group in find_copy_groups(fingerprints, split_of):
        (across if len(set(split_of[group])) > 1 else within).append(group)
    if across:
        a, b = first_across(split_of, across[0])
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=sorted_splits(split_of[np.concatenate(across)]),
            samples=name_samples(source, np.concatenate(across)),
            count=sum(map(len, across)),
            message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are the same image"
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
            message=f"{name_row(source, split_of, group[0])} and {source.sample_ids[group[1]]} are the same image"
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
    affected = rows[np.isin(inverse, shared)]
    pairs = [first_across(split_of, rows[inverse == patient]) for patient in shared[:MOST_NAMED]]
    a, b = pairs[0]
    word = source.patient_word
    tested = int((in_split[2, shared]).sum())
    yield Finding(
        check="patient",
        verdict="refuse",
        splits=sorted_splits(split_of[affected]),
        samples=name_samples(source, affected),
        count=len(affected),
        message=f"{word} {str(patients[shared[0]])!r} is in two splits ({name_row(source, split_of, a)}, "
        f"{name_row(source, split_of, b)}); in total {len(shared)} of {len(patients)} {word}s, "
        f"with {tested} test images",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs),
    )


def find_spellings(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    """Report patients spelled in several ways: equal numbers count as one patient, similar names as several."""
    if not source.has_patients or source.spec.patient in BY_PLACE:
        return
    written = np.array([one_form(str(patient)) for patient in source.samples.table["patient"]])
    first_rows: dict[str, dict[str, int]] = defaultdict(dict)  # folded name -> spelling -> first row
    for row, patient in enumerate(written.tolist()):
        first_rows[fold_name(patient)].setdefault(patient, row)
    groups = [list(spellings.values()) for spellings in first_rows.values() if len(spellings) > 1]
    merged, distinct = (
        [group for group in groups if (len(set(source.patients[group].tolist())) == 1) == is_merged]
        for is_merged in (True, False)
    )
    word = source.patient_word
    if merged:
        what = f"{word} numbers spelled in several ways, each number read as one {word}"
        yield spelling_finding(source, split_of, written, merged, (what, f"spell each {word} in one way"))
    if distinct:
        what = f"{word} names that differ only in case, blanks or leading zeros, read as different {word}s"
        yield spelling_finding(source, split_of, written, distinct, (what, f"if two are one {word}, spell them alike"))


def fold_name(patient: str) -> str:
    """Remove case, blanks, separators beside a letter, and leading zeros from a patient's name."""
    text = "".join(patient_key(patient).split()).casefold()
    text = re.sub(r"(?<=[^\W\d_])[-_.]+|[-_.]+(?=[^\W\d_])", "", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def spelling_finding(
    source: OpenDataset, split_of: Array, written: Array, groups: list[list[int]], words: tuple[str, str]
) -> Finding:
    """Build the finding for groups of rows, one row per spelling; `words` is the message's start and the fix."""
    affected = np.flatnonzero(np.isin(written, written[[row for group in groups for row in group]]))
    groups.sort(key=lambda group: len(set(split_of[group])) < 2)  # groups that span splits first
    pairs = [(group[0], next((b for b in group if split_of[b] != split_of[group[0]]), group[1])) for group in groups]
    examples = ", ".join(
        " and ".join(f"{str(written[row])!r} of {name_row(source, split_of, row)}" for row in pair)
        for pair in pairs[:SPELLINGS_SHOWN]
    )
    return Finding(
        check="patient-spelling",
        verdict="warn",
        splits=sorted_splits(split_of[affected]),
        samples=name_samples(source, affected),
        count=len(affected),
        message=f"{words[0]}: {examples}" + and_more(len(pairs) - SPELLINGS_SHOWN, "pair"),
        fix=words[1],
        pairs=named_pairs(source, pairs),
    )


def find_near_duplicates(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report near-duplicates across splits (pHash within 8 of 64 bits, then correlation of at least .98).

    A split drawn by zoo has them only if they chain too many images into one group; then they are a warning.
    """
    split_of = split.folds[0]
    if why_no_near_duplicates(source, fingerprints) or not len(fingerprints.alike):
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
        message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are near-duplicates"
        + and_more(len(pairs) - 1, "pair")
        + f"; {share:.1%} of the test images have a near-duplicate in another split",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs.tolist()),
    )


# --- warnings --------------------------------------------------------------------------------------------------------
def find_missing_classes(source: OpenDataset, split: Split) -> Iterator[Finding]:
    """Report each class or label with no positive (multi-label: or no negative) image in a split."""
    classes, num_folds = source.task.classes, len(split.folds)
    flags = source.task.targets.to_flags(np.asarray(source.samples.targets), len(source.spec.labels))
    if flags is None:
        return
    is_mean = len(source.spec.labels) > (2 if classes else 1)
    for label, column in zip(source.spec.labels, flags.T, strict=True):
        no_positive = find_empty_splits(column == 1, split.folds)
        no_negative = find_empty_splits(column == 0, split.folds) - no_positive  # without any known target: one finding
        undefined = {fold for name, fold in no_positive | no_negative if name == "test"}
        # A class without negatives means that every other class is missing, which is reported for those.
        needs_negatives = not classes and not source.task.targets.spatial
        places_of = {"of" if classes else "with": no_positive, "without": no_negative if needs_negatives else set()}
        for word, places in places_of.items():
            if places:
                is_scored = any(name == "train" and fold not in undefined for name, fold in places)
                yield Finding(
                    check="class-absent",
                    verdict="warn",
                    splits=tuple(name for name in SPLITS if name in dict(places)),
                    samples=(),
                    count=int((column == 1).sum()),
                    message=f"no image {word} {label!r} in {name_places(places, num_folds)}: "
                    + describe_consequences({name for name, _ in places}, is_mean=is_mean, is_scored=is_scored),
                )


def find_empty_splits(images: Array, folds: Sequence[Array]) -> set[tuple[str, int]]:
    """Return (split, fold) for each split without any of these images; `images` is bool (N,)."""
    return {
        (name, fold) for fold, split_of in enumerate(folds) for name in SPLITS if not images[split_of == name].any()
    }


def name_places(places: Collection[tuple[str, int]], num_folds: int) -> str:
    """Name splits as `train and val`, or with several folds as `train of 1 of 5 folds, val of 5`."""
    counts = {name: sum(where == name for where, _ in places) for name in SPLITS}
    names = [name for name in SPLITS if counts[name]]
    if num_folds == 1:
        return join_words(names)
    first, *others = names
    folds = f"{first} of {counts[first]} of {num_folds} folds"
    return ", ".join([folds, *(f"{name} of {counts[name]}" for name in others)])


def describe_consequences(splits: Collection[str], *, is_mean: bool, is_scored: bool) -> str:
    """Describe the effect on a label's scores.

    `is_mean`: scores are means over labels; `is_scored`: the label is tested although train lacks it.
    """
    parts = []
    if "train" in splits:
        counted = ", but its score counts in the macro mean" if is_mean else ", but is scored"
        parts.append("it cannot be learned there" + counted * is_scored)
    undefined = [name for name in ("val", "test") if name in splits]
    if undefined:
        left_out = " and left out of the macro mean" if is_mean else ""
        parts.append(f"its AUROC is undefined on {join_words(undefined)}{left_out}")
    return "; ".join(parts)


def find_copied_masks(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report equal masks of different images of different patients; empty masks are equal anyway."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(source.mask_digests):
        if np.any(source.samples.targets[row]) and split_of[row]:
            rows_of[digest].append(row)
    pairs = [
        (rows[0], row)
        for rows in rows_of.values()
        for row in rows[1:]
        if source.patients[row] != source.patients[rows[0]] and fingerprints.pixels[row] != fingerprints.pixels[rows[0]]
    ]
    if pairs:
        (a, b), rows = pairs[0], [row for pair in pairs for row in pair]
        yield Finding(
            check="mask-copied",
            verdict="warn",
            splits=sorted_splits(split_of[rows]),
            samples=name_samples(source, rows),
            count=len(pairs),
            message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} have the same mask, but are "
            "different images" + and_more(len(pairs) - 1, "pair"),
            fix="correct the masks, or leave the images out",
            pairs=named_pairs(source, pairs),
        )


def count_empty_masks(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    """Note how many masks of each split are empty."""
    if not source.mask_digests:
        return
    empty: Array = np.asarray(source.samples.targets).sum(axis=1) == 0
    counts = [(name, int(empty[split_of == name].sum()), int((split_of == name).sum())) for name in SPLITS]
    if empty[split_of != ""].any():
        shares = ", ".join(f"{count} of {total} in {name}" for name, count, total in counts)
        yield note("empty-mask", f"masks without any label: {shares}")


def find_odd_images(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    blank = np.flatnonzero(fingerprints.blank)
    if len(blank):
        yield Finding(
            check="blank",
            verdict="warn",
            splits=(),
            samples=name_samples(source, blank),
            count=len(blank),
            message=f"{source.sample_ids[blank[0]]} is blank: all pixels are equal" + and_more(len(blank) - 1, "image"),
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


def find_predictive_columns(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report metadata that predicts the label without the pixels: scanner, folder, file format."""
    if why_no_predictive_columns(source):
        return
    rows, present = rows_of_frequent_classes(source)
    patients = source.patients[rows]
    classes = np.searchsorted(present, np.asarray(source.samples.targets)[rows])
    folds: list[tuple[Array, Array]] = []
    for what, cells in metadata_columns(source, fingerprints).items():
        values = bin_numbers(cells[rows])
        if not 2 <= len(np.unique(values)) <= MAX_TEXT_VALUES:
            continue
        folds = folds or draw_column_folds(classes, patients)
        area = predict_from_column(values, classes, folds)
        if area > PREDICTIVE_AUROC:
            yield Finding(
                check="metadata",
                verdict="warn",
                splits=(),
                samples=(),
                count=len(rows),
                message=f"{what} alone predicts the label: AUROC {area:.2f} on other patients",
            )


def metadata_columns(source: OpenDataset, fingerprints: Fingerprints) -> Mapping[str, Array]:
    """Return str arrays (N,) by description: metadata columns, the official split, image size, file type and color."""
    table = source.samples.table
    named = {f"column {name!r}": table[name] for name in source.spec.metadata if name in table.columns}
    columns = {what: cells.astype(str).to_numpy().astype(np.str_) for what, cells in named.items()}
    columns["the official split"] = source.splits
    columns["the image's width"], columns["the image's height"] = (
        fingerprints.widths.astype(str),
        fingerprints.heights.astype(str),
    )
    columns["whether a file is stored in color"] = fingerprints.channels.astype(str)
    if len(source.samples.files) == len(table):
        columns["the file's type"] = np.array([path.suffix.lower() for path in source.samples.files])
    return columns


def draw_column_folds(classes: Array, patients: Array) -> list[tuple[Array, Array]]:
    rows = np.arange(len(classes))
    parts = draw_part(np.ones(len(classes), bool), patients, classes, COLUMN_FOLDS)
    return [(np.setdiff1d(rows, part), part) for part in parts]


def predict_from_column(values: Array, classes: Array, folds: Sequence[tuple[Array, Array]]) -> float:
    """AUROC, macro over classes, of a column as the only predictor.

    The prediction for a value is its share of each class among other patients (five folds by patient). A value that
    does not occur among them predicts the prior.
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
    """Cut a numeric column into deciles; blanks, words and text columns stay unchanged."""
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
    """Report groups of files whose levels and labels both differ: brightness alone then predicts the label."""
    for association in find_associations(source):
        yield Finding(
            check="levels",
            verdict="warn",
            splits=(),
            samples=name_samples(source, association.rows),
            count=len(association.rows),
            message=f"levels differ by {association.fact}, which is associated with {association.label} "
            f"(p = {association.p_value:.1g}): {len(association.rows)} of {len(source.sample_ids)} images are "
            f"{association.group!r}",
            fix="convert all files to one scale, or leave one group out",
        )


def find_checksum_mismatches(source: OpenDataset) -> Iterator[Finding]:
    """Report files that differ from the card's checksums."""
    if not source.spec.checksums:
        return
    memo = FileMemo(cache_root(), what="md5", find=partial(hash_file, algorithm="md5"))
    try:
        for path, expected in list_checksums(source):
            if (md5 := memo(path)) != expected:
                yield Finding(
                    check="checksum",
                    verdict="warn",
                    splits=(),
                    samples=(),
                    count=1,
                    message=f"{path.name} is not the official file: its md5 is {md5}, expected {expected} by the card",
                )
    finally:
        memo.close()


def list_checksums(source: OpenDataset) -> Iterator[tuple[Path, str]]:
    """Yield each file for which the card has a checksum, with that checksum."""
    for path in dict.fromkeys((*source.samples.files, *source.samples.tables)) if source.spec.checksums else ():
        if expected := checksum_of(path, source.spec.checksums):
            yield path, expected


def checksum_of(path: Path, checksums: Mapping[str, str]) -> str:
    """Return a file's checksum by its name or its path below the root, or ""."""
    place = path.as_posix()
    return next((md5 for name, md5 in checksums.items() if place.endswith(f"/{name}")), "")


def list_ambiguities(source: OpenDataset) -> Iterator[Finding]:
    """Report ambiguities met while reading the files: images without a patient, unused tables."""
    for ambiguity in source.samples.doubts:
        yield Finding(
            check=ambiguity.check,
            verdict="warn",
            splits=(),
            samples=(),
            count=ambiguity.count,
            message=ambiguity.message,
            fix=ambiguity.fix,
        )


def list_skipped_checks(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Note each skipped check with its reason."""
    if fingerprints.skipped:
        yield note("near-duplicate", f"near-duplicates were not checked: {fingerprints.skipped}")
    if not source.has_patients:
        yield note("patient", "no patient key: patients in two splits cannot be detected")


def note(check: str, message: str) -> Finding:
    return Finding(check=check, verdict="ok", splits=(), samples=(), count=0, message=message)


# --- text ------------------------------------------------------------------------------------------------------------
MOST_NAMED = 20


def name_samples(source: OpenDataset, rows: Sequence[int] | Array) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(source.sample_ids[row]) for row in list(rows)[:MOST_NAMED]))


def named_pairs(source: OpenDataset, pairs: Iterable[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(source.sample_ids[a]), str(source.sample_ids[b])) for a, b in list(pairs)[:MOST_NAMED])


def name_row(source: OpenDataset, split_of: Array, row: int) -> str:
    return f"{source.sample_ids[row]} ({split_of[row]})"


def describe_label(source: OpenDataset, row: int) -> str:
    text = source.task.targets.describe(np.asarray(source.samples.targets)[row], source.spec.labels)
    return repr(text) if source.task.labeled else text


def first_across(split_of: Array, group: Array) -> tuple[int, int]:
    """Return two rows of a group from different splits."""
    other = group[split_of[group] != split_of[group[0]]]
    return int(group[0]), int(other[0])


def sorted_splits(names: Array) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in set(names.tolist()))


def and_more(count: int, what: str) -> str:
    return f" (and {count} {what}{'s' * (count != 1)} more)" if count > 0 else ""


def join_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
