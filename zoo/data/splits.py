"""Split a dataset into train, val and test by patient, identically for every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from zoo.arrays import Array
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.errors import DataError, dataset_subject, plural_of
from zoo.specs.dataset import SPLITS
from zoo.system.files import hash_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The split of every image in each fold, the same for every model and seed."""

    folds: tuple[Array, ...]  # each (N,) str: train, val, test or ""
    hash: str
    origin: str  # "official", "hold-out", "5-fold"
    notes: tuple[str, ...] = ()


class TooSmall(Exception):  # noqa: N818 - `draw_split` converts it to a DataError
    """A dataset, or part of it, is too small for the requested split; the message may contain {unit}."""


SPLIT_SEED = 0
MIN_VAL_IMAGES, MIN_VAL_CLASS = 50, 5
MIN_TEST_PATIENTS, MIN_TEST_CLASS = 100, 30
SPLIT_SHARE = 5  # one fifth is held out, for test and for val
MAX_NAMED = 4  # classes in a message
MAX_CHAIN = 0.5  # of all images: look-alikes that join more images than this into one group are not copies


def draw_split(
    source: OpenDataset, folds: int | None = None, fingerprints: Fingerprints | None = None, *, drop_leaks: bool = False
) -> Split:
    """Split a dataset by patient, from a fixed seed.

    An official test split is never redrawn. An official val is kept if it has at least 50 images, 5 of each class and
    no patient of train; otherwise val is drawn from train. Without an official test split, one fifth is held out; if
    that is under 100 patients or 30 images of a class, 5 folds by patient test each patient once. The card may set the
    number of folds.

    Drawn splits never separate the images of one patient, identical files and, with `fingerprints`, images that have
    equal pixels or look alike. With `drop_leaks`, copies of val and test images are left out of an official train
    split, and copies of test images out of val.
    """
    groups, chain = connected_groups(source, fingerprints)
    strata = stratify(source)
    notes = [*([chain] if chain else []), *name_rare_classes(source, groups)]
    if source.spec.folds and (source.splits == "test").any():
        notes.append(f"the {source.spec.folds} folds of the card are not drawn: there is an official test split")
    if (source.splits == "test").any():
        if folds and folds > 1:
            raise DataError(
                "it has an official test split, which is never redrawn",
                subject=dataset_subject(source.spec.name),
                fix="omit --folds, or discard the official split with --resplit",
                code="official-test",
            )
        rest = source.splits != "test"
        if not (rest & (source.splits != "")).any():
            raise DataError(
                "it has a test split but no train split",
                subject=dataset_subject(source.spec.name),
                fix="add a split named train, or discard the official split with --resplit",
                code="no-train",
            )
        splits = source.splits.copy()
        if drop_leaks:
            splits = drop_copies(splits, groups, look_alikes(source, fingerprints), notes)
        try:
            return make_split(source, [draw_val(source, splits, groups, strata, notes)], "official", notes)
        except TooSmall as fault:
            raise refuse_small(source, splits != "test", groups, None, fault) from fault
    num_folds = folds or source.spec.folds or default_folds(source, strata)
    try:
        assignments = draw_folds(source, groups, strata, num_folds)
    except TooSmall as fault:
        raise refuse_small(source, np.ones(len(strata), bool), groups, num_folds, fault) from fault
    origin = "hold-out" if num_folds == 1 else f"{num_folds}-fold"
    notes.append(f"no official test split: {origin} by {unit_word(source)}")
    return make_split(source, assignments, origin, notes)


def draw_folds(source: OpenDataset, groups: Array, strata: Array, num_folds: int) -> list[Array]:
    """Draw the split of each fold; with one fold, a fifth is held out for test."""
    parts = draw_part(np.ones(len(strata), bool), groups, strata, SPLIT_SHARE if num_folds == 1 else num_folds)
    assignments = []
    for part in parts[:num_folds]:
        split_of = np.full(len(strata), "train", dtype="<U5")
        split_of[part] = "test"
        split_of = draw_val(source, split_of, groups, strata, [])
        if source.task.classes and len(np.unique(strata[split_of == "train"])) < 2:
            raise TooSmall("train would contain only one class")
        assignments.append(split_of)
    return assignments


def name_rare_classes(source: OpenDataset, groups: Array) -> list[str]:
    """Return one note per class that is too rare for train, val and test."""
    if not source.task.classes:
        return []
    targets, notes = np.asarray(source.samples.targets), []
    for number, label in enumerate(source.spec.labels):
        count = len(np.unique(groups[targets == number]))
        if 0 < count < len(SPLITS):
            counted = f"{count} {unit_word(source)}{'s' * (count != 1)}"
            notes.append(f"class {label!r} has {counted}, too few to be in train, val and test")
    return notes


def unit_word(source: OpenDataset) -> str:
    """Return the unit that splits keep together: "patient", "lesion", or "image" without a patient key."""
    return source.patient_word if source.has_patients else "image"


def val_share(source: OpenDataset) -> Fraction:
    return Fraction(source.spec.val_share or 1 / SPLIT_SHARE).limit_denominator(20)  # 0.15: 3 of 20 parts


def refuse_small(source: OpenDataset, rows: Array, groups: Array, folds: int | None, fault: TooSmall) -> DataError:
    """Return the error with the sizes that exist, those that suffice, and what to add.

    `rows` are those to be split; `folds` is None if only val is drawn.
    """
    unit, enough = unit_word(source), enough_units(folds, val_share(source).denominator)
    num_units = len(np.unique(groups[rows]))
    present = f"{rows.sum()} images" + (
        f" of {num_units} {unit}{'s' * (num_units != 1)}" if source.has_patients else ""
    )
    if num_units < len(np.unique(source.patients[rows])):
        present += ", copies counted as one"
    what = "a val split drawn from train" if folds is None else "train, val and test"
    what += f" in {folds} folds" if folds and folds > 1 else ""
    fix = f"add {plural_of(unit)}"
    if source.task.classes:
        targets = np.asarray(source.samples.targets)
        counts = [(len(np.unique(groups[rows & (targets == k)])), label) for k, label in enumerate(source.spec.labels)]
        rare = sorted((count, label) for count, label in counts if count < enough)
        present += f" ({', '.join(f'{label}: {count}' for count, label in counts[:MAX_NAMED])}"
        present += ", ...)" if len(counts) > MAX_NAMED else ")"
        wanted = f"{enough} {plural_of(unit)} of each of two classes"
        fix += f" of {' and '.join(label for _, label in rare[:2])}" if 0 < len(rare) <= 2 else " of each class"
        if len(counts) > MAX_NAMED and len(rare) == len(counts):
            fix += "; if these are not the classes, set `label` in a dataset.toml"
    else:
        wanted = f"{enough * len(np.unique(stratify(source)))} {plural_of(unit)}"
    if folds and folds > SPLIT_SHARE:
        fix += f", or draw fewer folds with --folds {SPLIT_SHARE}"
    return DataError(
        f"too small for {what}: {str(fault).format(unit=unit)}; there are {present}, and {wanted} are enough",
        subject=dataset_subject(source.spec.name),
        fix=fix,
        code="too-small",
    )


def enough_units(folds: int | None, val_parts: int) -> int:
    """Return how many units of a class suffice: without those in test, one per part that val is drawn from."""
    tested = SPLIT_SHARE if folds == 1 else folds
    enough = max(val_parts, tested or 0)
    while tested and enough - -(-enough // tested) < val_parts:
        enough += 1
    return enough


def look_alikes(source: OpenDataset, fingerprints: Fingerprints | None) -> Array:
    """Return pairs of rows (M, 2) that look alike; empty without fingerprints, or if the card ignores look-alikes."""
    return (
        np.empty((0, 2), int) if fingerprints is None or source.spec.near_duplicates == "ignore" else fingerprints.alike
    )


def drop_copies(splits: Array, groups: Array, alike: Array, notes: list[str]) -> Array:
    """Remove images of train and val whose group is in test, then images of train whose group is in val.

    Look-alikes are removed too, as long chains of them are in no group.
    """
    kept = splits.copy()
    for later, earlier in (("test", ("train", "val")), ("val", ("train",))):
        is_copy = np.isin(groups, groups[kept == later])
        is_copy[alike[(kept[alike] == later).any(axis=1)]] = True
        is_copy &= np.isin(kept, earlier)
        counts = {name: int((is_copy & (kept == name)).sum()) for name in earlier}
        texts = [f"{count} image{'s' * (count > 1)} of {name}" for name, count in counts.items() if count]
        if texts:
            notes.append(f"left out as copies of {later} (same patient, same pixels or alike): {' and '.join(texts)}")
        kept[is_copy] = ""
    return kept


def make_split(source: OpenDataset, assignments: Sequence[Array], origin: str, notes: Sequence[str]) -> Split:
    for split_of in assignments:
        for name in SPLITS:
            if not (split_of == name).any():
                raise DataError(
                    f"the {name} split is empty",
                    subject=dataset_subject(source.spec.name),
                    fix="add images to it, or draw new splits with --resplit",
                    code="empty-split",
                )
        if source.task.classes and len(np.unique(np.asarray(source.samples.targets)[split_of == "train"])) < 2:
            raise DataError(
                "train contains only one class",
                subject=dataset_subject(source.spec.name),
                fix="add train images of other classes, or draw new splits with --resplit",
                code="single-class",
            )
    lines = [
        f"{i}\t{g}\t{a}" for a in assignments for i, g, a in zip(source.sample_ids, source.patients, a, strict=True)
    ]
    return Split(folds=tuple(assignments), hash=hash_bytes(*lines), origin=origin, notes=tuple(notes))


def draw_val(source: OpenDataset, split_of: Array, groups: Array, strata: Array, notes: list[str]) -> Array:
    """Keep val if it can select a model, else draw it from train by patient: a fifth, or the card's share."""
    train, val = split_of == "train", split_of == "val"
    if val.any():
        reason = val_fault(source, train, val)
        if not reason:
            return split_of
        notes.append(f"official val ({val.sum()} images) {reason}: val is redrawn from train and val")
    elif (source.splits == "test").any():
        notes.append("no official val: it is drawn from train")
    pool = train | val
    share = val_share(source)
    drawn = draw_part(pool, groups, strata, share.denominator)[: share.numerator]
    split_of = np.where(pool, "train", split_of)
    split_of[np.concatenate(drawn)] = "val"
    return split_of


def val_fault(source: OpenDataset, train: Array, val: Array) -> str:
    if val.sum() < MIN_VAL_IMAGES:
        return f"has under {MIN_VAL_IMAGES} images"
    targets = np.asarray(source.samples.targets)
    if source.task.classes:
        present = np.unique(targets[train | val])
        counts = [(targets[val] == label).sum() for label in present]
        if min(counts) < MIN_VAL_CLASS:
            return f"has under {MIN_VAL_CLASS} images of {source.spec.labels[int(present[np.argmin(counts)])]!r}"
    shared = np.intersect1d(source.patients[train], source.patients[val])
    if source.has_patients and len(shared):
        return f"shares {len(shared)} patients with train"
    return ""


def connected_groups(source: OpenDataset, fingerprints: Fingerprints | None) -> tuple[Array, str]:
    """Number the images so that those of one patient, and copies of each other, share a number; also return a note.

    Blank images do not count as copies: they would join all patients that have one.
    """
    count = len(source.sample_ids)
    links = [join_equal(source.patients)]
    if fingerprints is None:
        return number_groups(count, [*links, join_equal(source.digests)]), ""
    seen = np.flatnonzero(~fingerprints.blank)
    links += [seen[join_equal(keys[seen])] for keys in (source.digests, fingerprints.pixels)]
    copies = number_groups(count, links)
    alike = look_alikes(source, fingerprints)
    if not len(alike):
        return copies, ""
    groups = number_groups(count, [*links, alike])
    chained = int(np.bincount(groups).max())
    if chained > MAX_CHAIN * count and np.bincount(copies).max() < chained:
        return (
            copies,
            f"images that look alike would join {chained} of {count} images into one group: not kept together",
        )
    return groups, ""


def join_equal(keys: Array) -> Array:
    """Return pairs of rows (M, 2) that link each row to the first one with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rows = np.arange(len(keys))
    pairs: Array = np.column_stack([first[inverse], rows])[first[inverse] != rows]
    return pairs


def number_groups(count: int, links: Sequence[Array]) -> Array:
    """Number the connected components of linked rows, in the order of their first row."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate(links)
    graph = coo_matrix((np.ones(len(pairs), np.int32), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def stratify(source: OpenDataset) -> Array:
    """Return the stratum of each image, to balance splits: its class, its rarest label, or its quintile."""
    return source.task.targets.strata(np.asarray(source.samples.targets))


def default_folds(source: OpenDataset, strata: Array) -> int:
    """Return 1 (hold-out) if a fifth has at least 100 patients and 30 images of each class, else 5."""
    patients = len(np.unique(source.patients))
    if patients / SPLIT_SHARE < MIN_TEST_PATIENTS:
        return 5
    smallest = np.bincount(strata)[np.unique(strata)].min()
    return 5 if source.task.classes and smallest / SPLIT_SHARE < MIN_TEST_CLASS else 1


def draw_part(pool: Array, groups: Array, strata: Array, parts: int) -> list[Array]:
    """Cut the pool into parts of similar size and class balance, with each group in one part; return index arrays.

    Equals `StratifiedGroupKFold(parts, shuffle=True, random_state=SPLIT_SEED)` of scikit-learn in 15 % of its time.
    """
    index = np.flatnonzero(pool)
    _, groups = np.unique(groups[index], return_inverse=True)
    _, strata, totals = np.unique(strata[index], return_inverse=True, return_counts=True)
    num_groups, most = int(groups.max(initial=-1)) + 1, totals.max(initial=0)
    if num_groups < parts:
        raise TooSmall(f"{num_groups} {{unit}}{'s' * (num_groups != 1)} cannot be cut into {parts} parts")
    if most < parts:
        raise TooSmall(f"{parts} parts need {parts} images of a class, and no class has more than {most} images left")
    cells = np.bincount(groups * len(totals) + strata, minlength=num_groups * len(totals))
    counts = cells.reshape(num_groups, len(totals)).astype(float)
    shuffled = np.arange(num_groups)
    np.random.RandomState(SPLIT_SEED).shuffle(shuffled)
    order = shuffled[np.argsort(-np.std(counts[shuffled], axis=1), kind="stable")]
    part_of = np.empty(num_groups, int)
    part_of[order] = assign_groups(counts[order], totals, parts)
    return [index[part_of[groups] == part] for part in range(parts)]


def assign_groups(counts: Array, totals: Array, parts: int) -> Array:
    """Assign each group to the part that leaves the classes most evenly spread over all parts; return numbers (G,).

    `counts` (G, C) are the images of each class in a group, `totals` (C,) those in all groups.
    """
    assigned = np.empty(len(counts), int)
    sizes = [0.0] * parts
    # proposals[p] holds the counts (parts, C) of all parts. The group is added to part p of it, and taken out again.
    proposals = np.zeros((parts, parts, len(totals)))
    shares = np.empty_like(proposals)
    own = np.arange(parts)
    for number, group in enumerate(counts):
        proposals[own, own] += group
        np.divide(proposals, totals, out=shares)
        proposals[own, own] -= group
        shares -= np.add.reduce(shares, axis=1, keepdims=True) / parts
        np.multiply(shares, shares, out=shares)
        spreads = np.add.reduce(np.sqrt(np.add.reduce(shares, axis=1) / parts), axis=1) / len(totals)
        best = choose_part(spreads.tolist(), sizes)
        proposals[:, best] += group
        sizes[best] += float(group.sum())
        assigned[number] = best
    return assigned


def choose_part(spreads: list[float], sizes: list[float]) -> int:
    """Choose the part with the least spread; of those nearly as good as the best one so far, the smallest."""
    best = 0
    for part in range(1, len(spreads)):
        is_close = abs(spreads[part] - spreads[best]) <= 1e-8 + 1e-5 * spreads[best]  # as np.isclose
        if spreads[part] < spreads[best] or (is_close and sizes[part] < sizes[best]):
            best = part
    return best
