"""Read a DICOM segmentation (SEG): its segments, and the slice that each of its frames lies on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.dicom import check_codestream, check_layout
from zoo.images.elements import OpenDicom, open_dicom, tag_text
from zoo.images.label_maps import GRID_TOLERANCE
from zoo.images.recent import Recent
from zoo.images.volumes import MAX_VOLUME_BYTES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MODALITY: Literal["SEG"] = "SEG"
PLANE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SEGMENT_TAGS = ("SegmentationType", "MaximumFractionalValue", "SegmentSequence", "ReferencedSeriesSequence")
TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
BACKGROUND = 0  # a LABELMAP may describe it like a segment
RECENT_SEGMENTATIONS_BYTES = 1 << 26
RECENT_AREAS_BYTES = 1 << 28
FRAME_BYTES = 1 << 10  # of a parsed frame in memory


@dataclass(frozen=True)
class Plane:
    """Where the pixels of a slice are; None if the file does not declare it."""

    size: tuple[float, ...]  # rows, columns
    position: tuple[float, ...] | None  # of the first pixel, in mm
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None  # in mm

    def find_difference(self, other: Plane) -> str:
        """The first fact in which two planes differ, of those that both declare, or ""."""
        for each in fields(self):
            a, b = getattr(self, each.name), getattr(other, each.name)
            if a is not None and b is not None and not is_close(a, b):
                return each.name
        return ""


@dataclass(frozen=True, eq=False)
class SegmentFrame:
    """A frame: its segment, the image that it was drawn on, and its plane."""

    segment: int | None  # None: its pixels are numbers of segments
    source: str  # SOPInstanceUID, or "" if the frame does not name one image
    plane: Plane


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The header of a DICOM segmentation."""

    path: Path
    names: Mapping[int, str]  # of the segments, by number
    kind: str  # BINARY, FRACTIONAL or LABELMAP
    highest: int  # the value that stands for 1 in a FRACTIONAL segmentation
    series: tuple[str, ...]  # SeriesInstanceUIDs of its images
    frames: tuple[SegmentFrame, ...]

    @cached_property
    def by_source(self) -> Mapping[str, list[int]]:
        """The frames that name an image, by its SOPInstanceUID; those that do not are under ""."""
        by_source: dict[str, list[int]] = defaultdict(list)
        for number, frame in enumerate(self.frames):
            by_source[frame.source].append(number)
        return dict(by_source)

    @property
    def sources(self) -> frozenset[str]:
        """The SOPInstanceUIDs of the images that frames name."""
        return frozenset(self.by_source) - {""}

    def count_missing(self, uids: Collection[str], planes: Callable[[], list[Plane]]) -> int:
        """Count the frames that lie on none of the images."""
        missing = sum(len(frames) for source, frames in self.by_source.items() if source and source not in uids)
        if unnamed := self.by_source.get("", []):
            of_images = planes()
            missing += sum(
                not any(lies_on(self.frames[number].plane, plane) for plane in of_images) for number in unnamed
            )
        return missing

    def areas_on(self, uid: str, plane: Plane, image: Path) -> Iterator[tuple[str, Array]]:
        """The name of each segment on an image, and its pixels, bool (H, W). Raises DataError for another grid."""
        unnamed = [number for number in self.by_source.get("", []) if lies_on(self.frames[number].plane, plane)]
        areas = read_areas(self.path)
        for number in (*self.by_source.get(uid, []), *unnamed):
            own = self.frames[number].plane
            if fact := plane.find_difference(own):
                raise DataError(
                    f"{self.path}: the {fact} of frame {number} is {getattr(own, fact)}, that of {image} is "
                    f"{getattr(plane, fact)}",
                    fix="export the segmentation on the grid of its series",
                    code="geometry",
                )
            yield from ((self.names[area.segment], area.unpack()) for area in areas[number])


def lies_on(frame: Plane, image: Plane) -> bool:
    return frame.position is not None and image.position is not None and is_close(frame.position, image.position)


def is_close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and bool(np.allclose(a, b, rtol=0, atol=GRID_TOLERANCE))


def read_plane(path: Path) -> tuple[str, Plane]:
    """The SOPInstanceUID of a DICOM image, and its plane."""
    with open_dicom(path, PLANE_TAGS) as file:
        if file.frames > 1:
            raise DataError(
                f"{path}: {file.frames} frames; segmentations are read of files with one image",
                fix="save each image as its own file",
                code="mask",
            )
        return tag_text(file.dataset, "SOPInstanceUID"), plane_of(file.dataset, [file.dataset])


def open_segmentation(path: Path) -> Segmentation:
    """The header of a DICOM segmentation. Recent ones are cached, because their frames are read one by one."""
    return RECENT_SEGMENTATIONS(path)


def read_segmentation(path: Path) -> tuple[Segmentation, int]:
    """Read a header, and return its size in memory, in bytes. Raises DataError before any frame is decoded."""
    with open_dicom(path, SEGMENT_TAGS) as file:
        dataset = file.dataset
        kind = tag_text(dataset, "SegmentationType")
        items = dataset.get("SegmentSequence") or []
        names = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "").strip() for item in items}
        names.pop(BACKGROUND, None)
        each = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if kind not in TYPES or not all(names.values()) or not names or len(each) != file.frames:
            raise DataError(
                f"{path}: no segmentation: SegmentationType {kind!r}, {len(names)} named segments, {len(each)} places "
                f"for {file.frames} frames",
                fix="export it again, or leave it out",
                code="mask",
            )
        check_layout(file)
        shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
        frames = tuple(read_segment_frame(file, [item, *shared]) for item in each)
        if unknown := {frame.segment for frame in frames} - {None, *names}:
            raise DataError(
                f"{path}: frames of segment {min(map(str, unknown))}, which is not in SegmentSequence",
                fix="export it again, or leave it out",
                code="mask",
            )
        series = tuple(str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or [])
        highest = int(dataset.get("MaximumFractionalValue") or 255)
        return Segmentation(path, names, kind, highest, series, frames), FRAME_BYTES * len(frames)


RECENT_SEGMENTATIONS: Recent[Segmentation] = Recent(read_segmentation, RECENT_SEGMENTATIONS_BYTES)


def read_segment_frame(file: OpenDicom, groups: Sequence[Dataset]) -> SegmentFrame:
    """Read what the functional groups of a frame say, its own before those that all frames share."""
    identification = find_group(groups, "SegmentIdentificationSequence")
    sources = [
        str(image.ReferencedSOPInstanceUID)
        for group in groups
        for derivation in group.get("DerivationImageSequence") or []
        for image in derivation.get("SourceImageSequence") or []
    ]
    return SegmentFrame(
        segment=None if identification is None else int(identification.ReferencedSegmentNumber),
        source=sources[0] if len(sources) == 1 else "",
        plane=plane_of(
            file.dataset,
            [
                group
                for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
                if (group := find_group(groups, keyword)) is not None
            ],
        ),
    )


def find_group(groups: Sequence[Dataset], keyword: str) -> Dataset | None:
    return next((item for group in groups for item in (group.get(keyword) or [])[:1]), None)


def plane_of(dataset: Dataset, places: Sequence[Dataset]) -> Plane:
    """The plane of a slice whose size is in `dataset` and whose place is in `places`."""

    def numbers(keyword: str, count: int) -> tuple[float, ...] | None:
        values: Any = next((place.get(keyword) for place in places if place.get(keyword)), None)
        return None if values is None or len(values) != count else tuple(float(value) for value in values)

    return Plane(
        size=(int(dataset.Rows), int(dataset.Columns)),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=numbers("PixelSpacing", 2),
    )


@dataclass(frozen=True, eq=False)
class SegmentArea:
    """The pixels of a segment in a frame, packed: a segmentation has a frame per slice and segment."""

    segment: int
    packed: Array  # uint8, a bit per pixel
    shape: tuple[int, int]

    def unpack(self) -> Array:
        """The pixels, bool (H, W)."""
        count = self.shape[0] * self.shape[1]
        return np.unpackbits(self.packed, count=count).reshape(self.shape).astype(bool)


def read_areas(path: Path) -> list[list[SegmentArea]]:
    """The areas of each frame. A FRACTIONAL segment has the pixels of at least half its maximum."""
    return RECENT_AREAS(path)


def decode_areas(path: Path) -> tuple[list[list[SegmentArea]], int]:
    """Decode all frames, and return their size in memory, in bytes."""
    segmentation = open_segmentation(path)
    # perf: all at once, because pydicom parses the header of all frames to decode one
    with open_dicom(path) as file:
        check_layout(file)
        num_bytes = math.ceil(file.dataset.Rows * file.dataset.Columns / 8) * file.frames
        if num_bytes > MAX_VOLUME_BYTES:
            raise DataError(
                f"{path}: {file.frames} frames of {file.dataset.Columns} x {file.dataset.Rows} pixels, more than "
                f"{MAX_VOLUME_BYTES >> 20} MB",
                fix="leave it out",
                code="mask",
            )
        frames = zip(segmentation.frames, decode_frames(file), strict=True)
        areas = [list(find_areas(segmentation, frame.segment, values)) for frame, values in frames]
    return areas, num_bytes


def decode_frames(file: OpenDicom) -> Iterator[Array]:
    """The pixels of each frame, (H, W)."""
    from pydicom.pixels import iter_pixels

    if file.dataset.file_meta.TransferSyntaxUID.is_compressed:
        for number in range(file.frames):
            check_codestream(file, number)
    elif file.dataset.BitsAllocated == 1:
        yield from unpack_frames(file)
        return
    file.stream.seek(0)
    yield from iter_pixels(file.stream)


def unpack_frames(file: OpenDicom) -> Iterator[Array]:
    """The frames of a bit per pixel, of which a byte may hold the end of one and the start of the next.

    pydicom 3.0 reads such frames only if each is a whole number of bytes.
    """
    shape = int(file.dataset.Rows), int(file.dataset.Columns)
    size = shape[0] * shape[1]
    file.stream.seek(file.start)
    packed = np.frombuffer(file.stream.read(math.ceil(size * file.frames / 8)), np.uint8)
    for number in range(file.frames):
        first, skipped = divmod(number * size, 8)
        part = packed[first : math.ceil((number + 1) * size / 8)]
        yield np.unpackbits(part, bitorder="little")[skipped : skipped + size].reshape(shape)


RECENT_AREAS: Recent[list[list[SegmentArea]]] = Recent(decode_areas, RECENT_AREAS_BYTES)


def find_areas(segmentation: Segmentation, segment: int | None, values: Array) -> Iterator[SegmentArea]:
    """The areas in the pixels of a frame; without a segment, each value is the number of one."""
    if segmentation.kind == "FRACTIONAL":
        values = 2 * values.astype(np.int64) >= segmentation.highest
    if segment is not None:
        yield SegmentArea(segment, np.packbits(values > 0), values.shape)
        return
    for number in np.unique(values[values > 0]).tolist():
        if number in segmentation.names:
            yield SegmentArea(number, np.packbits(values == number), values.shape)
