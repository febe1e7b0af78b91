"""Masks of another tool for the images of a dataset: which file belongs to which image, and how it is read."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, UsageError
from zoo.images.formats import without_suffix
from zoo.images.label_maps import LabelMap, check_same_grid, describe_fact, is_near, read_grid, read_label_map
from zoo.images.placement import Spacing
from zoo.images.reading import suffix_of
from zoo.images.volumes import WITH_GRID
from zoo.sources.label_map_pairs import LabelMapFiles, example_case


@dataclass(frozen=True)
class ImportedFiles:
    """The predicted mask of each image that has one, and the files that have the name of no image."""

    by_image: Mapping[str, Path]
    unmatched: tuple[Path, ...]


def match_images(files: LabelMapFiles, names: Mapping[str, Sequence[str]]) -> ImportedFiles:
    """Match files to images by name. `names` has the paths that stand for each image: its own, then its mask's.

    A file has the path of an image below its folder, without suffixes, or else its name alone. Raises UsageError for a
    name of several images, for two files of one image, and if no file has the name of an image.
    """
    levels = name_levels(names)
    by_image: dict[str, Path] = {}
    unmatched = []
    for case, path in files.by_case.items():
        owners = next((level[case] for level in levels if case in level), [])
        if len(owners) > 1:
            raise UsageError(
                f"{path}: {case!r} is the name of {len(owners)} images: {owners[0]}, {owners[1]}",
                fix="put the masks in the folders of their images",
                code="masks",
            )
        if not owners:
            unmatched.append(path)
        elif by_image.setdefault(owners[0], path) != path:
            raise UsageError(
                f"{path}: {owners[0]} also has {by_image[owners[0]]}",
                fix="name the masks by a path with one *: 'masks/*.nii.gz'",
                code="masks",
            )
    if not by_image:
        raise UsageError(
            f"no mask has the name of an image: {files.place} has {example_case(files)}, an image is "
            f"{next(iter(names))}",
            fix="name the masks by a path with one * where the name of the image stands: 'masks/*_seg.png'",
            code="masks",
        )
    return ImportedFiles(by_image, tuple(unmatched))


def name_levels(names: Mapping[str, Sequence[str]]) -> list[dict[str, list[str]]]:
    """The images of each name: of whole paths first, then of file names; images before their masks."""
    levels: list[dict[str, list[str]]] = []
    for position in range(max(map(len, names.values()))):
        paths, bases = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for image, known in names.items():
            for path in known[position : position + 1]:
                paths[without_suffix(path)].append(image)
                bases[posixpath.basename(without_suffix(path))].append(image)
        levels += [dict(paths), dict(bases)]
    return levels


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What the mask of an image must have."""

    shape: tuple[int, ...]
    spacing: Spacing | None  # of the image, None if unknown
    reference: Path | None  # the file of its reference mask, if it is a file


def read_imported(path: Path, values: Sequence[int], expected: Expected) -> Array:
    """The label map of a file: uint8, 0 for background, k + 1 for the label whose value is `values[k]`.

    Raises DataError for another grid, and for values that are no labels.
    """
    read = read_label_map(path)
    require_same_grid(read, expected)
    if read.is_white and len(values) > 1:
        raise DataError(
            f"{path}: it has 0 and 255 only, but the dataset has {len(values)} labels: 255 may be white or a label",
            fix="save the numbers of the labels",
            code="mask",
        )
    numbers = (1,) if read.is_white else tuple(values)
    unknown = [value for value in read.values if value not in numbers]
    if unknown:
        raise DataError(
            f"{path}: value {unknown[0]} is no label; labels are {', '.join(map(str, values))}",
            fix="name the values of the labels: --labels liver=1,tumor=2",
            code="mask",
        )
    table = np.zeros(max(numbers) + 1, np.uint8)
    table[list(numbers)] = np.arange(1, len(numbers) + 1)
    return table[read.labels]


def require_same_grid(read: LabelMap, expected: Expected) -> None:
    """Raise DataError unless a mask has the grid of its image, as far as both are known."""
    reference = expected.reference
    if reference is not None and suffix_of(reference.name) in WITH_GRID and len(expected.shape) == 3:
        grid = read_grid(reference)
        if grid.affine is not None:
            empty = np.broadcast_to(np.uint8(0), grid.shape)
            check_same_grid(LabelMap(reference, empty, (), False, grid.spacing, grid.affine), read)
            return
    facts: list[tuple[str, Sequence[float], Sequence[float]]] = [("shape", read.labels.shape, expected.shape)]
    if read.spacing is not None and expected.spacing is not None:
        facts.append(("spacing", read.spacing, expected.spacing))
    for name, own, needed in facts:
        if not is_near(own, needed):
            raise DataError(
                f"{read.path}: its {name} is {describe_fact(own)}, that of its image is {describe_fact(needed)}",
                fix="write the mask on the grid of its image",
                code="geometry",
            )
