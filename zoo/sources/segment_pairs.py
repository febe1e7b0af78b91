"""Pair DICOM segmentations and structure sets with the images of the series that they were drawn on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from zoo.errors import DataError
from zoo.images.segmentations import MODALITY, Plane, Segmentation, open_segmentation, read_plane
from zoo.images.structures import STRUCTURES, StructureSet, open_structures
from zoo.sources.headers import Headers

OPENERS: Mapping[str, Callable[[Path], Segmentation | StructureSet]] = {
    MODALITY: open_segmentation,
    STRUCTURES: open_structures,
}


def open_drawing(modality: str, path: Path) -> Segmentation | StructureSet:
    """Open a file of segments or contours."""
    return OPENERS[modality](path)


def list_segmentations(root: Path, images: Sequence[str]) -> dict[str, str]:
    """Map each file of segments or contours to its modality. An unreadable file is reported when it is read."""
    segmentations: dict[str, str] = {}
    with Headers(root) as headers:
        for image in images:
            with suppress(DataError):
                found = {file: header.tags.get("Modality", "") for file, header in headers.tagged([image]).items()}
                segmentations |= {file: modality for file, modality in found.items() if modality in OPENERS}
    return segmentations


def pair_segmentations(
    headers: Headers, files: Sequence[str], used: Collection[str], modality: str
) -> dict[str, tuple[str, ...]]:
    """Return the segmentations of each image of a series that one of a modality refers to.

    `files` are all of the folder; only segmentations in `used` count. Raises DataError for one without its images.
    """
    tags = {file: header.tags for file, header in headers.tagged(files).items()}
    segmentations = [file for file in tags if tags[file].get("Modality") == modality and file in used]
    images = [file for file in tags if tags[file].get("Modality") not in OPENERS]
    series_of_uid = {tags[file].get("SOPInstanceUID", ""): tags[file].get("SeriesInstanceUID", "") for file in images}
    by_series: dict[str, list[str]] = defaultdict(list)
    for file in images:
        by_series[tags[file].get("SeriesInstanceUID", "")].append(file)
    pairs: dict[str, list[str]] = defaultdict(list)
    for file in segmentations:
        path = headers.root / file
        segmentation = open_drawing(modality, path)
        named = sorted(segmentation.sources & series_of_uid.keys())
        series = dict.fromkeys((*segmentation.series, *(series_of_uid[uid] for uid in named)))
        own = [image for each in series for image in by_series.get(each, [])]
        if not own:
            raise DataError(
                f"{path}: no image of the series that it refers to ({', '.join(series) or 'none'}) is in this folder",
                fix="add the images, or leave the file out with `exclude` in dataset.toml",
                code="mask",
            )
        planes = partial(read_image_planes, headers.root, own)
        if missing := segmentation.count_missing(series_of_uid, planes):
            raise DataError(
                f"{path}: {missing} of its frames or contours lie on images that are not in this folder, which has "
                f"{len(own)} of the series",
                fix="add the images, or resample the segmentation to them",
                code="geometry",
            )
        for image in own:
            pairs[image].append(file)
    return {image: tuple(own) for image, own in pairs.items()}


def read_image_planes(root: Path, images: Sequence[str]) -> list[Plane]:
    return [read_plane(root / image)[1] for image in images]
