"""Segments and contours of DICOM files as targets: the label of each segment, and the mask of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.segmentations import read_plane
from zoo.sources.cards import DatasetCard
from zoo.sources.ignored_labels import find_ignored, ignored_note, names_in_card
from zoo.sources.joining import Joined
from zoo.sources.listing import one_form
from zoo.sources.mask_targets import MAX_MASK_LABELS, MaskReader
from zoo.sources.segment_pairs import open_drawing

NAMING_SEGMENTS = 'name the segments in dataset.toml: labels = {"Liver" = "liver", "Mass" = "tumor"}'


@dataclass(frozen=True, eq=False)
class SegmentReader(MaskReader):
    """Read the mask of an image from the frames that lie on it; without one it is empty. It can be pickled."""

    segments: Mapping[str, int]  # name of a segment -> number of its label
    modality: str

    @property
    def identity(self) -> str:
        """What the masks depend on besides their files."""
        return str(sorted(self.segments.items()))

    def paths(self, image: str) -> list[Path]:
        """The files that a mask depends on: the image, which is its own, and the segmentations of its series."""
        return [self.root / image, *super().paths(image)]

    def __call__(self, image: str) -> Array:
        """The label map of an image: uint8 (H, W). Raises DataError for frames elsewhere and overlapping labels."""
        uid, plane = read_plane(self.root / image)
        mask = np.zeros((int(plane.size[0]), int(plane.size[1])), np.uint8)
        for name in self.files[image]:
            path = self.root / name
            for segment, area in open_drawing(self.modality, path).areas_on(uid, plane, self.root / image):
                if label := self.segments.get(one_form(segment), 0):
                    self.add(mask, label, area, path, image)
        return mask

    def add(self, mask: Array, label: int, area: Array, path: Path, image: str) -> None:
        """Add the pixels of a label to a label map. Raises DataError where it has another one."""
        others = np.setdiff1d(mask[area], (0, label))
        if len(others):
            first, second = (
                next(name for name, number in self.segments.items() if number == each) for each in (others[0], label)
            )
            raise DataError(
                f"{path}: segments {first!r} and {second!r} overlap on {image}; zoo reads one label per pixel",
                fix=f'leave one out in dataset.toml: ignore = ["{second}"]',
                code="mask",
            )
        mask[area] = label


@dataclass(frozen=True, eq=False)
class ReadSegments:
    """The labels of a dataset with DICOM segmentations, the reader of its masks, and notes."""

    labels: tuple[str, ...]
    reader: SegmentReader
    notes: tuple[str, ...]


def understand_segments(card: DatasetCard, joined: Joined, root: Path) -> ReadSegments:
    """Return the label of each segment, by its name. Raises DataError where two files have the same segments."""
    without = [image for image in joined.images if image not in joined.masks]
    if without:
        raise DataError(
            f"{root / without[0]}: a frame of a file; segmentations are read of files with one image each",
            fix="save each image as its own file",
            code="mask",
        )
    sets = dict.fromkeys(joined.masks[image] for image in joined.images)
    modality = card.masks.modality if card.masks else ""
    opened = {name: open_drawing(modality, root / name) for own in sets for name in own}
    names = {file: tuple(dict.fromkeys(map(one_form, each.names.values()))) for file, each in opened.items()}
    ignored = find_ignored(card, list(dict.fromkeys(name for own in names.values() for name in own)))
    names = {file: tuple(name for name in own if name not in ignored) for file, own in names.items()}
    for own in sets:
        check_one_reader(root, own, names)
    segments = number_segments(card, root, names)
    labels = tuple(dict.fromkeys(map(one_form, (card.labels.values() if isinstance(card.labels, dict) else segments))))
    notes = [*ignored_note(ignored)]
    if fractional := sum(each.kind == "FRACTIONAL" for each in opened.values()):
        notes.append(
            f"{fractional} of {len(opened)} segmentations are FRACTIONAL: a pixel has a label from half of the maximum "
            "on"
        )
    if partial := sum(len({segments[name] for name in own}) < len(labels) for own in names.values()):
        notes.append(f"{partial} of {len(opened)} segmentations lack some labels, which are taken as empty there")
    reader = SegmentReader(root, joined.masks, tuple(range(1, len(labels) + 1)), segments, modality)
    return ReadSegments(labels, reader, tuple(notes))


def check_one_reader(root: Path, files: Sequence[str], names: Mapping[str, Sequence[str]]) -> None:
    """Refuse several segmentations of one series that have a segment in common."""
    owners: dict[str, str] = {}
    for file in files:
        for name in names[file]:
            if (other := owners.setdefault(name, file)) != file:
                raise DataError(
                    f"{root}: {other} and {file} have the segment {name!r} of the same images",
                    fix=f'choose one in dataset.toml: exclude = ["{file}"]',
                    code="several-masks",
                )


def number_segments(card: DatasetCard, root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the number of the label of each segment, 1 for the first; from the card or in the order of the files."""
    segments = list(dict.fromkeys(name for own in names.values() for name in own))
    label_of = names_in_card(card) or {name: name for name in segments}
    if unknown := [name for name in segments if name not in label_of]:
        file = next(file for file, own in names.items() if unknown[0] in own)
        raise DataError(
            f"{root / file}: segment {unknown[0]!r} is no label; labels are {', '.join(label_of)}",
            fix=NAMING_SEGMENTS,
            code="mask",
        )
    order = list(dict.fromkeys(label_of.values()))
    if len(order) > MAX_MASK_LABELS:
        raise DataError(
            f"{root}: the segmentations have {len(order)} labels, expected at most {MAX_MASK_LABELS}",
            fix=NAMING_SEGMENTS,
            code="mask",
        )
    return {name: order.index(label) + 1 for name, label in label_of.items()}
