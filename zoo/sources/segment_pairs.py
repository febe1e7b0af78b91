"""Pair DICOM segmentations with the images of the series that they were drawn on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from zoo.errors import DataError
from zoo.images.segmentations import MODALITY, lies_on, open_segmentation, read_plane
from zoo.sources.headers import Headers


def list_segmentations(root: Path, images: Sequence[str]) -> list[str]:
    """List the DICOM segmentations of a folder. An unreadable file is reported when it is read as an image."""
    segmentations = []
    with Headers(root) as headers:
        for image in images:
            with suppress(DataError):
                segmentations += [
                    file for file, header in headers.tagged([image]).items() if is_segmentation(header.tags)
                ]
    return segmentations


def is_segmentation(tags: Mapping[str, str]) -> bool:
    return tags.get("Modality") == MODALITY


def pair_segmentations(headers: Headers, files: Sequence[str], used: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the segmentations of each image of a series that one refers to.

    `files` are all of the folder; only segmentations in `used` count. Raises DataError for one without its images.
    """
    tags = {file: header.tags for file, header in headers.tagged(files).items()}
    segmentations = [file for file in tags if is_segmentation(tags[file]) and file in used]
    images = [file for file in tags if not is_segmentation(tags[file])]
    series_of_uid = {tags[file].get("SOPInstanceUID", ""): tags[file].get("SeriesInstanceUID", "") for file in images}
    by_series: dict[str, list[str]] = defaultdict(list)
    for file in images:
        by_series[tags[file].get("SeriesInstanceUID", "")].append(file)
    pairs: dict[str, list[str]] = defaultdict(list)
    for file in segmentations:
        path = headers.root / file
        segmentation = open_segmentation(path)
        named = segmentation.by_source.keys() - {""}
        series = dict.fromkeys(
            (*segmentation.series, *(series_of_uid[uid] for uid in sorted(named & series_of_uid.keys())))
        )
        own = [image for each in series for image in by_series.get(each, [])]
        if not own:
            raise DataError(
                f"{path}: no image of the series that it refers to ({', '.join(series) or 'none'}) is in this folder",
                fix="add the images, or leave the file out with `exclude` in dataset.toml",
                code="mask",
            )
        missing = len(named - series_of_uid.keys())
        if unnamed := segmentation.by_source.get("", []):
            planes = [read_plane(headers.root / image)[1] for image in own]
            frames = [segmentation.frames[number].plane for number in unnamed]
            missing += sum(not any(lies_on(frame, plane) for plane in planes) for frame in frames)
        if missing:
            raise DataError(
                f"{path}: {missing} of its {len(segmentation.frames)} frames lie on images that are not in this "
                f"folder, which has {len(own)} of the series",
                fix="add the images, or resample the segmentation to them",
                code="geometry",
            )
        for image in own:
            pairs[image].append(file)
    return {image: tuple(own) for image, own in pairs.items()}
