"""The reference masks of a fold, read from the files of its dataset: no image is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoo.arrays import Array
from zoo.data.dataset import Fold, fields_of_fold
from zoo.data.masks import read_mask
from zoo.data.opening import OpenDataset, SameMasks
from zoo.data.splits import Split
from zoo.data.volumes import spacing_of
from zoo.images.formats import readers_of
from zoo.images.placement import Spacing
from zoo.sources.mask_targets import MaskReader


@dataclass(frozen=True, eq=False)
class SourceMasks:
    """The masks of a dataset by row."""

    source: OpenDataset

    def __getitem__(self, row: int) -> Array:
        samples = self.source.samples
        return read_mask(self.source.spec, samples, samples.table["image"].iloc[row])


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceFold(Fold):
    """One fold of a dataset with its masks as they are stored."""

    source: OpenDataset
    split: Split

    @property
    def label_maps(self) -> SourceMasks:
        return SourceMasks(self.source)

    @cached_property
    def spacings(self) -> Sequence[Spacing | None]:
        return [spacing_of(self.source, image) for image in self.source.samples.table["image"]]


def open_references(source: OpenDataset, split: Split, fold: int) -> ReferenceFold:
    return ReferenceFold(**fields_of_fold(source, split, fold), source=source, split=split)


def find_mask_reader(source: OpenDataset) -> MaskReader | None:
    """The reader of the masks of a dataset if they are files."""
    return as_file_reader(source.samples.masks)


def as_file_reader(masks: Callable[[Any], Array] | None) -> MaskReader | None:
    read = masks.read if isinstance(masks, SameMasks) else masks
    return read if isinstance(read, MaskReader) else None


def list_readers(source: OpenDataset) -> list[str]:
    """The identities of the plugins' readers of the images and the masks of a dataset."""
    samples = source.samples
    masks = [reader for own in (samples.masks, samples.second_masks) if (reader := as_file_reader(own))]
    files = (name for reader in masks for own in reader.files.values() for name in own)
    return [*samples.reading.get("readers", ()), *readers_of(files)]


def name_images(source: OpenDataset) -> dict[str, tuple[str, ...]]:
    """The paths that stand for each image by its id: its own, and that of its mask."""
    reader, ids = find_mask_reader(source), source.sample_ids.tolist()
    images = source.samples.table["image"].tolist()
    if reader is None:
        return {name: (name,) for name in ids}
    return {name: (str(image), reader.files[image][0]) for name, image in zip(ids, images, strict=True)}
