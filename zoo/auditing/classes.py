"""Find classes that a split lacks, and count empty masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import Finding, join_words, note
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.specs.dataset import SPLITS


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


def count_empty_masks(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    """Note how many masks of each split are empty."""
    if not source.mask_digests:
        return
    empty: Array = np.asarray(source.samples.targets).sum(axis=1) == 0
    counts = [(name, int(empty[split_of == name].sum()), int((split_of == name).sum())) for name in SPLITS]
    if empty[split_of != ""].any():
        shares = ", ".join(f"{count} of {total} in {name}" for name, count, total in counts)
        yield note("empty-mask", f"masks without any label: {shares}")
