"""Masks as targets: the mask of each image, and the label of each of its values."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.formats import reader_key, without_suffix
from zoo.images.label_maps import HIGHEST_LABEL, WHITE, read_label_map
from zoo.images.text_headers import stored_files
from zoo.sources.cards import DatasetCard, Masks
from zoo.sources.joining import Joined
from zoo.sources.listing import one_form
from zoo.sources.selection import split_of, stem_of
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

VALUES_VERSION = 1  # of the stored values of masks; raise it when reading changes
MAX_MASK_LABELS = 255  # of a label map of uint8
MOST = 0.9  # a pattern is chosen only if so many of the images have a mask of it
FURTHER_PART = re.compile(r"[-_ .(]*\d+\)?")  # the ending of a further part of a mask
NUM_PAIRS_COMPARED = 8  # pairs of masks that are compared to tell parts of one from two readers
SAME_AREA = 0.5  # Dice of two masks: two readers agree more, parts of one mask less
NUM_IN_MESSAGE = 5  # files or values in a message
NAMING = 'name the values in dataset.toml: labels = {1 = "liver", 2 = "tumor"}'


@dataclass(frozen=True, eq=False)
class MaskReader:
    """Read the mask of an image: its files, joined, with values as label numbers. It can be pickled."""

    root: Path
    files: Mapping[str, tuple[str, ...]]  # by image
    values: tuple[int, ...]  # of label 0, label 1, ...

    @property
    def identity(self) -> str:
        """What the masks depend on besides their files."""
        return f"{self.values}{reader_key(name for own in self.files.values() for name in own)}"

    def paths(self, image: str) -> list[Path]:
        """The files of the mask of an image, also those of the arrays of detached headers."""
        return [file for name in self.files[image] for file in stored_files(self.root / name)]

    def __call__(self, image: str) -> Array:
        """The label map of an image: uint8 (H, W), 0 for background, k + 1 for label k."""
        joined: Array | None = None
        if image not in self.files:
            raise DataError(f"{image} has no mask of this reader", fix="add it, or leave the reader out", code="mask")
        for name in self.files[image]:
            own = self.read_one(name)
            if joined is not None and joined.shape != own.shape:
                raise DataError(
                    f"{self.root / name}: the mask has shape {own.shape}, another mask of {image} has {joined.shape}",
                    fix="export the masks of an image at its size",
                    code="mask",
                )
            joined = own if joined is None else np.where(joined > 0, joined, own)
        assert joined is not None
        return joined

    def read_one(self, name: str) -> Array:
        """The label map of one file."""
        read = read_label_map(self.root / name)
        if read.is_white and len(self.values) > 1:
            raise DataError(
                f"{self.root / name}: it has 0 and 255 only, but the masks have {len(self.values)} labels: 255 may be "
                "white or a label",
                fix="save all masks in the same way, with label numbers below 255",
                code="mask",
            )
        unknown = [value for value in read.values if value not in self.values]
        if unknown:
            raise DataError(
                f"{self.root / name}: value {unknown[0]} is no label; labels are {', '.join(map(str, self.values))}",
                fix="correct the mask, or add the value to `labels` in dataset.toml",
                code="mask",
            )
        if self.values == tuple(range(1, len(self.values) + 1)) and read.labels.dtype == np.uint8:
            return read.labels
        table = np.zeros(max(self.values) + 1, np.uint8)
        table[list(self.values)] = np.arange(1, len(self.values) + 1)
        return table[read.labels]


def find_mask_labels(card: DatasetCard, joined: Joined, root: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the labels of masks and the value of each, from the card or from all masks."""
    check_masks(card, joined)
    if isinstance(card.labels, dict):
        return read_named_values(card.labels)
    files = [name for image in joined.images for name in joined.masks[image]]
    what = f"mask values:{VALUES_VERSION}{reader_key(files)}"
    with closing(FileMemo(cache_root(), what, list_values, stored_files)) as memo:
        values_of = {name: memo(root / name) for name in dict.fromkeys(files)}
    values = sorted(set().union(*values_of.values()))
    names = tuple(map(one_form, card.labels)) or tuple(map(str, values))
    if not values:
        raise DataError(f"all {len(files)} masks are empty", fix="check `masks.path` in dataset.toml", code="mask")
    if len(values) > MAX_MASK_LABELS or len(names) != len(values):
        first = ", ".join(map(str, values[:NUM_IN_MESSAGE])) + ", ..." * (len(values) > NUM_IN_MESSAGE)
        expected = f"{len(names)} labels" if card.labels else f"at most {MAX_MASK_LABELS} labels"
        most = max(values_of, key=lambda name: len(values_of[name]))
        raise DataError(
            f"the masks have {len(values)} values ({first}), {root / most} has {len(values_of[most])}; "
            f"expected {expected}",
            fix=NAMING,
            code="mask",
        )
    return (("foreground",) if not card.labels and len(values) == 1 else names), tuple(values)


def list_values(path: Path) -> list[int]:
    return list(read_label_map(path).values)


def read_named_values(labels: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the labels of a card and the value of each; 0 is the background, and 255 alone is read as 1."""
    wrong = [value for value in labels if not value.strip().isdecimal() or int(value) > HIGHEST_LABEL]
    values = {int(value): one_form(name) for value, name in labels.items() if value not in wrong and int(value)}
    if wrong or not 0 < len(values) <= MAX_MASK_LABELS:
        problem = f"{wrong[0]!r} is no value of a mask" if wrong else f"{len(values)} values are named"
        raise DataError(f"labels: {problem}, expected 1 to {MAX_MASK_LABELS} whole numbers", fix=NAMING, code="mask")
    return tuple(values.values()), (1,) if list(values) == [WHITE] else tuple(values)


def check_masks(card: DatasetCard, joined: Joined) -> None:
    """Refuse images without a mask, and several masks of one image that are ambiguous or that the card forbids."""
    without = [image for image in joined.images if image not in joined.masks]
    if without:
        raise DataError(
            f"{len(without)} of {len(joined.images)} images have no mask, first {without[0]}",
            fix="add empty masks for images without findings, or leave the others out with `exclude`",
            code="mask",
        )
    owners: dict[tuple[str, ...], str] = {}
    for image in joined.images:
        own = joined.masks[image]
        if len(own) > 1 and (other := owners.setdefault(own, image)) != image:
            raise DataError(
                f"{other} and {image} have the same {len(own)} masks: {', '.join(own[:NUM_IN_MESSAGE])}",
                fix='tell them apart by their folders: images = "{split}/images/*" and masks.path = '
                '"{split}/masks/{stem}.*"',
                code="mask",
            )
    several = next((image for image in joined.images if len(joined.masks[image]) > 1), "")
    if several and card.masks and card.masks.merge == "none":
        raise DataError(
            f"{several} has {len(joined.masks[several])} masks: {', '.join(joined.masks[several][:NUM_IN_MESSAGE])}",
            fix='choose one by masks.path, or join them: masks = {..., merge = "union"}',
            code="mask",
        )


MaskKind = tuple[str, str, str]  # of masks: their folder, and what stands before and after the image's name in theirs


def guess_masks(root: Path, images: Sequence[str], masks: Sequence[str]) -> Masks:
    """Guess from names which mask belongs to which image. Raises DataError if an image has masks of several readers."""
    stems = {stem_of(image) for image in images}
    owners: dict[MaskKind, dict[tuple[str, str], str]] = defaultdict(dict)  # folder and image's name -> mask
    unpaired = []
    for mask in masks:
        folder = posixpath.dirname(mask)
        if parts := split_name(stem_of(mask), stems):
            start, stem, ending = parts
            owners[mask_folder(folder), start, ending][folder, stem] = mask
        else:
            unpaired.append(mask)
    if len(unpaired) > (1 - MOST) * len(images):
        raise DataError(
            f"{root}: {len(unpaired)} of {len(masks)} masks have the name of no image, first {unpaired[0]}",
            fix='in dataset.toml, set masks = {path = "masks/{stem}_mask.png"}',
            code="mask",
        )
    whole = sorted(
        (kind for kind, own in owners.items() if len(own) >= MOST * len(images)), key=lambda kind: kind[::-1]
    )
    if not whole:
        raise DataError(
            f"{root}: {len(masks)} masks beside {len(images)} images, but their names do not say which belong together",
            fix='in dataset.toml, set masks = {path = "masks/{stem}_mask.png"}',
            code="mask",
        )
    first = whole[0]
    others = {kind: both for kind, own in owners.items() if kind != first and (both := shared(owners[first], own))}
    parts_of_it = {
        kind for kind, both in others.items() if kind not in whole and are_parts_of_mask(root, first, kind, both)
    }
    if readers := [kind for kind in others if kind not in parts_of_it]:
        paths = [f"{kind[1]}{{stem}}{kind[2]}.*" for kind in (first, *sorted(readers, key=lambda kind: kind[::-1]))]
        most = len(images) if set(readers) <= set(whole) else max(len(others[kind]) for kind in readers)
        what = "each image has" if most == len(images) else f"{most} of {len(images)} images have"
        raise DataError(
            f"{root}: {what} {len(paths)} masks: {' and '.join(paths)}",
            fix=f'choose one in dataset.toml: masks = {{path = "**/{paths[0]}"}}'
            + (f', or score the other against it: masks = {{path = "**/{paths[0]}", second = "**/{paths[1]}"}}')
            * (len(paths) == 2),
            code="several-masks",
        )
    folder, start, ending = first
    tops = {image.split("/")[0] for image in images}
    in_splits = all(split_of(top) for top in tops) and all(mask.split("/")[0] in tops for mask in masks)
    place = ("{split}/" if in_splits else "") + (f"**/{folder}/**/" if folder else "**/")
    suffixes = {mask[len(without_suffix(mask)) :] for mask in masks}
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    return Masks(
        path=f"{place}{start}{{stem}}{ending}{'*' * bool(parts_of_it)}{suffix}",
        merge="union" if parts_of_it else "none",
    )


def mask_folder(folder: str) -> str:
    """The last folder of a path that is no split: "masks" of "masks/train"."""
    return next((name for name in reversed(folder.split("/")) if not split_of(name)), "")


def shared(first: Mapping[tuple[str, str], str], second: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """The masks of both kinds of each image that has both."""
    by_stem = {stem: mask for (_, stem), mask in first.items()}
    return [
        (first.get((folder, stem)) or by_stem[stem], mask) for (folder, stem), mask in second.items() if stem in by_stem
    ]


def are_parts_of_mask(root: Path, first: MaskKind, second: MaskKind, pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether masks of two kinds are parts of one: `x_mask` and `x_mask_1`, of areas that differ."""
    if first[:2] != second[:2] or not second[2].startswith(first[2]):
        return False
    if not FURTHER_PART.fullmatch(second[2].removeprefix(first[2])):
        return False
    sample = pairs[:: max(1, len(pairs) // NUM_PAIRS_COMPARED)][:NUM_PAIRS_COMPARED]
    dices = [dice for pair in sample if (dice := compare_areas(*(root / name for name in pair))) is not None]
    return not dices or float(np.median(dices)) < SAME_AREA


def compare_areas(first: Path, second: Path) -> float | None:
    """The Dice of the areas of two masks; None if they cannot be compared."""
    try:
        areas = [read_label_map(path).labels > 0 for path in (first, second)]
    except DataError:
        return None  # reported when the dataset is read
    total = areas[0].sum() + areas[1].sum()
    if areas[0].shape != areas[1].shape or not total:
        return None
    return float(2 * (areas[0] & areas[1]).sum() / total)


def split_name(name: str, stems: Collection[str]) -> tuple[str, str, str] | None:
    """Split a mask's name into what stands before its image's name, that name, and what follows it."""
    for length in range(len(name), 0, -1):
        if name[:length] in stems:
            return "", name[:length], name[length:]
        if name[-length:] in stems:
            return name[:-length], name[-length:], ""
    return None
