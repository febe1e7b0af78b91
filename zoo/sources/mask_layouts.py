"""Recognize the layouts of masks in a folder: volumes with masks, DICOM segmentations, and annotations not read."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.images.segmentations import MODALITY
from zoo.images.structures import STRUCTURES
from zoo.sources.cards import DatasetCard, Masks
from zoo.sources.listing import Listing, mask_key
from zoo.sources.mask_targets import guess_masks
from zoo.sources.masks import box_columns, count_masks, find_annotations, other_task, outline_columns
from zoo.sources.selection import stem_of
from zoo.tasks.kinds import mask_task


@dataclass(frozen=True, eq=False)
class MaskLayout:
    """The keys of a card that a layout of masks gives, and the images that it is about."""

    images: tuple[str, ...]
    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def lay_out_volumes(
    whole: Listing, images: Sequence[str], card: DatasetCard, described: Mapping[str, object]
) -> MaskLayout:
    """The layout of volumes with a mask each; folders in which no volume has one are left out.

    `described` are the fields from a description in the folder.
    """
    stems = {mask_key(stem_of(mask)) for mask in whole.masks}
    by_folder: dict[str, list[str]] = {}
    for image in images:
        by_folder.setdefault(posixpath.dirname(image), []).append(image)
    unlabeled = [folder for folder, own in by_folder.items() if not stems & {mask_key(stem_of(each)) for each in own}]
    if len(unlabeled) == len(by_folder):
        unlabeled = []  # the masks have other names than the images
    kept = tuple(image for image in images if posixpath.dirname(image) not in unlabeled)
    # A pattern without a folder matches the name in every folder.
    exclude = [name for folder in unlabeled for name in ([f"{folder}/*"] if folder else by_folder[folder])]
    fields = {
        "task": str(mask_task()),
        "dims": 3,
        "masks": card.masks or guess_masks(whole.root, kept, whole.masks),
        "exclude": tuple(exclude),
        **described,
    }
    notes = tuple(
        f"{len(by_folder[folder])} volumes in {folder or 'the folder itself'} are left out: none has a mask"
        for folder in unlabeled
    )
    return MaskLayout(kept, fields, notes)


def lay_out_segmentations(modalities: Iterable[str]) -> dict[str, Any]:
    """The keys of a card for DICOM files with masks, of the modalities of all files; {} without such files."""
    present = set(modalities)
    modality = next((each for each in (MODALITY, STRUCTURES) if each in present), None)
    return {"task": str(mask_task()), "masks": Masks(modality=modality)} if modality else {}


def check_annotations(
    outer: Listing, with_masks: Listing, images: Sequence[str], columns_of_tables: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a dataset with annotations that are not read, in which no table labels the images.

    `with_masks` contains the images and their masks; `outer` is the folder that the user named.
    """
    path = outer.root
    if masks := count_masks(with_masks, images):
        raise other_task(path, "volume-masks", masks)
    boxes = ((box_columns(columns), table) for table, columns in columns_of_tables.items())
    if evidence := next((f"{', '.join(names)} in {table}" for names, table in boxes if names), ""):
        raise other_task(path, "boxes", evidence)
    for table, columns in columns_of_tables.items():
        if outlines := outline_columns(columns):
            raise other_task(path, "outlines", f"{outlines[0]} in {table}")
    kind, file = find_annotations(outer)
    if kind:
        raise other_task(path, kind, file)
