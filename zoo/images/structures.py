"""Read a DICOM structure set (RTSTRUCT): contours in the coordinates of the patient, as areas of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.elements import open_dicom
from zoo.images.recent import Recent
from zoo.images.segmentations import Plane

STRUCTURES: Literal["RTSTRUCT"] = "RTSTRUCT"
STRUCTURE_TAGS = ("StructureSetROISequence", "ROIContourSequence", "ReferencedFrameOfReferenceSequence")
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
MAX_OFF_PLANE = 0.1  # mm between a contour and its image: files round coordinates and directions
RECENT_STRUCTURES_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed contour of a region."""

    region: int
    source: str  # SOPInstanceUID of its image, or "" if it does not name one
    points: Array  # float64 (K, 3): mm


@dataclass(frozen=True, eq=False)
class StructureSet:
    """The regions of a structure set that have closed contours, and the contours."""

    path: Path
    names: Mapping[int, str]  # of the regions, by number
    series: tuple[str, ...]  # SeriesInstanceUIDs of its images
    contours: tuple[Contour, ...]
    kind: str = STRUCTURES

    @property
    def sources(self) -> frozenset[str]:
        """The SOPInstanceUIDs of the images that contours name."""
        return frozenset(contour.source for contour in self.contours) - {""}

    def count_missing(self, uids: Collection[str], planes: Callable[[], list[Plane]]) -> int:
        """Count the contours that lie on none of the images."""
        missing = sum(bool(contour.source) and contour.source not in uids for contour in self.contours)
        if unnamed := [contour for contour in self.contours if not contour.source]:
            of_images = planes()
            missing += sum(not any(is_on(contour, plane) for plane in of_images) for contour in unnamed)
        return missing

    def areas_on(self, uid: str, plane: Plane, image: Path) -> Iterator[tuple[str, Array]]:
        """The name of each region on an image, and its pixels, bool (H, W): those in an odd number of its contours."""
        areas: dict[int, Array] = {}
        for contour in self.contours:
            if contour.source != uid and (contour.source or not is_on(contour, plane)):
                continue
            rows, columns, distance = to_pixels(contour.points, plane, image)
            if distance > MAX_OFF_PLANE:
                raise DataError(
                    f"{self.path}: a contour of {self.names[contour.region]!r} is {distance:.3g} mm off {image}",
                    fix="export the contours on the images of their series",
                    code="geometry",
                )
            area = fill_polygon(rows, columns, (int(plane.size[0]), int(plane.size[1])))
            areas[contour.region] = areas[contour.region] ^ area if contour.region in areas else area
        yield from ((self.names[region], area) for region, area in areas.items())


def is_on(contour: Contour, plane: Plane) -> bool:
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        return False
    return to_pixels(contour.points, plane, Path())[2] <= MAX_OFF_PLANE


def to_pixels(points: Array, plane: Plane, image: Path) -> tuple[Array, Array, float]:
    """Convert points in mm to rows and columns of an image; also return the largest distance from its plane in mm."""
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        raise DataError(
            f"{image}: it declares no position, orientation or spacing, in which contours are given",
            fix="leave it out",
            code="geometry",
        )
    along_row, along_column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    offsets = points - np.array(plane.position)
    distance = float(np.abs(offsets @ np.cross(along_row, along_column)).max())
    return offsets @ along_column / plane.spacing[0], offsets @ along_row / plane.spacing[1], distance


def fill_polygon(rows: Array, columns: Array, shape: tuple[int, int]) -> Array:
    """The pixels whose center is inside a polygon by the even-odd rule, bool (H, W)."""
    area = np.zeros(shape, bool)
    next_rows, next_columns = np.roll(rows, -1), np.roll(columns, -1)
    for row in range(max(0, math.ceil(rows.min())), min(shape[0] - 1, math.floor(rows.max())) + 1):
        crosses = (rows <= row) != (next_rows <= row)
        steps = (row - rows[crosses]) / (next_rows - rows)[crosses]
        crossings = np.sort(columns[crosses] + steps * (next_columns - columns)[crosses])
        area[row] = np.searchsorted(crossings, np.arange(shape[1]), side="right") % 2 == 1
    return area


def open_structures(path: Path) -> StructureSet:
    """A structure set. Recent ones are cached, because their contours are read image by image."""
    return RECENT_STRUCTURES(path)


def read_structures(path: Path) -> tuple[StructureSet, int]:
    """Read a structure set, and return its size in memory, in bytes."""
    with open_dicom(path, STRUCTURE_TAGS) as file:
        dataset = file.dataset
        labels = {
            int(item.ROINumber): str(item.ROIName).strip() for item in dataset.get("StructureSetROISequence") or []
        }
        contours = []
        for region in dataset.get("ROIContourSequence") or []:
            for item in region.get("ContourSequence") or []:
                if item.ContourGeometricType not in CLOSED:
                    continue  # points and lines, which mark places
                points = np.array(item.ContourData, np.float64).reshape(-1, 3)
                images = [str(each.ReferencedSOPInstanceUID) for each in item.get("ContourImageSequence") or []]
                source = images[0] if len(images) == 1 else ""
                contours.append(Contour(int(region.ReferencedROINumber), source, points))
        drawn = {contour.region for contour in contours}
        are_named = all(labels.get(region) for region in drawn)
        if not drawn or not are_named or not all(np.isfinite(each.points).all() for each in contours):
            raise DataError(
                f"{path}: no structure set with closed contours of named regions",
                fix="export it again, or leave it out",
                code="mask",
            )
        series = tuple(
            str(each.SeriesInstanceUID)
            for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
            for study in frame.get("RTReferencedStudySequence") or []
            for each in study.get("RTReferencedSeriesSequence") or []
        )
    names = {number: name for number, name in labels.items() if number in drawn}
    return StructureSet(path, names, series, tuple(contours)), sum(each.points.nbytes for each in contours)


RECENT_STRUCTURES: Recent[StructureSet] = Recent(read_structures, RECENT_STRUCTURES_BYTES)
