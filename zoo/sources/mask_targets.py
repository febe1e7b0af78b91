"""Masks as targets: the mask of each image, and the label of each of its values."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.formats import without_suffix
from zoo.images.label_maps import HIGHEST_LABEL, WHITE, read_label_map
from zoo.sources.cards import DatasetCard, Masks
from zoo.sources.joining import Joined
from zoo.sources.listing import one_form
from zoo.sources.selection import stem_of
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

VALUES_VERSION = 1  # of the stored values of masks; raise it when reading changes
MAX_MASK_LABELS = 255  # of a label map of uint8
MOST = 0.9  # a pattern is chosen only if so many of the images have a mask of it
NUM_IN_MESSAGE = 5  # files or values in a message
NAMING = 'name the values in dataset.toml: labels = {1 = "liver", 2 = "tumor"}'


@dataclass(frozen=True, eq=False)
class MaskReader:
    """Read the mask of an image: its files, joined, with values as label numbers. It can be pickled."""

    root: Path
    files: Mapping[str, tuple[str, ...]]  # by image
    values: tuple[int, ...]  # of label 0, label 1, ...

    def paths(self, image: str) -> list[Path]:
        """The files of the mask of an image."""
        return [self.root / name for name in self.files[image]]

    def __call__(self, image: str) -> Array:
        """The label map of an image: uint8 (H, W), 0 for background, k + 1 for label k."""
        joined: Array | None = None
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
    with closing(FileMemo(cache_root(), what=f"mask values:{VALUES_VERSION}", find=list_values)) as memo:
        values = sorted({value for name in dict.fromkeys(files) for value in memo(root / name)})
    names = tuple(map(one_form, card.labels)) or tuple(map(str, values))
    if not values:
        raise DataError(f"all {len(files)} masks are empty", fix="check `masks.path` in dataset.toml", code="mask")
    if len(values) > MAX_MASK_LABELS or len(names) != len(values):
        first = ", ".join(map(str, values[:NUM_IN_MESSAGE])) + ", ..." * (len(values) > NUM_IN_MESSAGE)
        expected = f"{len(names)} labels" if card.labels else f"at most {MAX_MASK_LABELS} labels"
        raise DataError(f"the masks have {len(values)} values ({first}), expected {expected}", fix=NAMING, code="mask")
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


def guess_masks(root: Path, images: Sequence[str], masks: Sequence[str]) -> Masks:
    """Guess from names which mask belongs to which image. Raises DataError if each image has masks of several kinds."""
    stems = {stem_of(image) for image in images}
    owners: dict[tuple[str, str, str], set[str]] = defaultdict(set)  # folder, start and ending of names -> their stems
    for mask in masks:
        if parts := split_name(stem_of(mask), stems):
            start, stem, ending = parts
            owners[posixpath.basename(posixpath.dirname(mask)), start, ending].add(stem)
    unpaired = [mask for mask in masks if split_name(stem_of(mask), stems) is None]
    if len(unpaired) > (1 - MOST) * len(stems):
        raise DataError(
            f"{root}: {len(unpaired)} of {len(masks)} masks have the name of no image, first {unpaired[0]}",
            fix='in dataset.toml, set masks = {path = "masks/{stem}_mask.png"}',
            code="mask",
        )
    whole = sorted((kind for kind, own in owners.items() if len(own) >= MOST * len(stems)), key=lambda kind: kind[::-1])
    if not whole:
        raise DataError(
            f"{root}: {len(masks)} masks beside {len(images)} images, but their names do not say which belong together",
            fix='in dataset.toml, set masks = {path = "masks/{stem}_mask.png"}',
            code="mask",
        )
    (folder, start, ending), *others = whole
    if others:
        paths = [f"{kind[1]}{{stem}}{kind[2]}.*" for kind in whole]
        raise DataError(
            f"{root}: each image has {len(whole)} masks: {' and '.join(paths)}",
            fix=f'choose one in dataset.toml: masks = {{path = "**/{paths[0]}"}}',
            code="several-masks",
        )
    # x_mask and x_mask_1 are parts of one mask
    several = any(kind != whole[0] and kind[2].startswith(ending) and kind[:2] == (folder, start) for kind in owners)
    place = f"**/{folder}/" if folder else "**/"
    # {stem} matches as little as it can: before ".*" it would match "scan" of "scan.2.png".
    suffixes = {mask[len(without_suffix(mask)) :] for mask in masks}
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    return Masks(path=f"{place}{start}{{stem}}{ending}{'*' * several}{suffix}", merge="union" if several else "none")


def split_name(name: str, stems: Collection[str]) -> tuple[str, str, str] | None:
    """Split a mask's name into what stands before its image's name, that name, and what follows it."""
    for length in range(len(name), 0, -1):
        if name[:length] in stems:
            return "", name[:length], name[length:]
        if name[-length:] in stems:
            return name[:-length], name[-length:], ""
    return None
