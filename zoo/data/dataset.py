"""The dataset of a run: decoded images, targets and the split of one fold."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from zoo.arrays import Array
from zoo.data.checks import find_conflict
from zoo.data.coding import MetadataCoding, fit_coding
from zoo.data.decoded import DecodedImages, cache_images, measure_intensity
from zoo.data.inputs import select_inputs
from zoo.data.masks import LabelMaps
from zoo.data.metadata import select_metadata
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.data.volume_cubes import Cube, DecodedCubes, cache_cubes
from zoo.data.volumes import DecodedVolumes, VolumeReading, cache_volumes
from zoo.errors import DataError, dataset_subject
from zoo.images.placement import Spacing
from zoo.specs.choice import Choice
from zoo.specs.dataset import RECORDED_FACTS, SPLITS, DatasetSpec, Unit
from zoo.specs.metric import ScoringContext
from zoo.system.progress import Progress
from zoo.tasks.task import Task

KNOWN_UNIT = "mm"


class BoundaryRule(NamedTuple):
    """The tolerance of distances between boundaries, and their unit: "mm" if the spacing of every image is known."""

    tolerance: float
    unit: str
    origin: Literal["one pixel", "the dataset's card"] = "one pixel"


def find_boundary_rule(
    spacings: Sequence[Spacing | None], axes: int, tolerance_mm: float | None = None
) -> BoundaryRule:
    """The tolerance of the card, or else one pixel or voxel of images of this many axes: the median of the spacings.

    Raises DataError for a tolerance that is not positive, or without the spacing of every image.
    """
    known = [spacing for spacing in spacings if spacing]
    if tolerance_mm is None and len(known) < len(spacings):
        return BoundaryRule(1.0, "px" if axes == 2 else "voxels")
    if tolerance_mm is None:
        return BoundaryRule(float(f"{np.median(known):.6g}"), KNOWN_UNIT)
    if not 0 < tolerance_mm < np.inf:
        raise DataError(f"tolerance_mm: {tolerance_mm:g} is no distance", fix="give millimeters above 0", code="card")
    if len(known) < len(spacings):
        raise DataError(
            f"tolerance_mm: {len(spacings) - len(known)} of {len(spacings)} images have no known pixel size",
            fix="leave tolerance_mm out: distances are in pixels then",
            code="card",
        )
    return BoundaryRule(float(tolerance_mm), KNOWN_UNIT, "the dataset's card")


class Resolution(NamedTuple):
    """How a run's images are decoded: the side of the square or cube, or of a patch, and the spacing of volumes.

    The spacing is in mm along every axis, or along each; () if volumes are not resampled, None for their median.
    `transforms` are the preprocessing steps.
    """

    size: int
    spacing: float | Spacing | None
    transforms: tuple[Choice, ...] = ()


def cache_decoded(source: OpenDataset, resolution: Resolution, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every image or volume of a dataset once, and return the file of pixels or voxels."""
    if source.spec.dims == 3 and source.task.targets.spatial:
        return cache_volumes(source, resolution.spacing, cache, progress)
    if source.spec.dims == 3:
        assert not isinstance(resolution.spacing, tuple)
        return cache_cubes(source, Cube(resolution.size, resolution.spacing), cache, progress)
    return cache_images(source, resolution.size, cache, progress, resolution.transforms)


class ReadsMasks(Protocol):
    """The mask of a row: uint8 (H, W) or (A, B, C)."""

    def __getitem__(self, row: int, /) -> Array: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold(ABC):
    """One fold of a dataset, as plain arrays: what scoring needs."""

    name: str
    task: Task
    labels: tuple[str, ...]
    positive: int | None
    unit: Unit
    has_patients: bool
    sample_ids: Array
    patients: Array
    targets: Array
    split_of: Array  # (N,) str
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    metadata: Mapping[str, Array] = field(default_factory=dict)  # (N,) str, "" where unknown
    tolerance_mm: float | None = None  # of distances between boundaries; None: one pixel

    def index(self, split: str) -> Array:
        """The rows of one split, in the dataset's order."""
        return np.flatnonzero(self.split_of == split)

    @property
    @abstractmethod
    def label_maps(self) -> ReadsMasks:
        """The reference masks at the size of their images."""

    @property
    @abstractmethod
    def spacings(self) -> Sequence[Spacing | None]:
        """mm per pixel of the images."""

    @cached_property
    def boundary_rule(self) -> BoundaryRule:
        """How distances between masks are measured."""
        return find_boundary_rule(self.spacings, self.label_maps[0].ndim, self.tolerance_mm)

    @property
    def card(self) -> ScoringContext:
        """The facts that scoring needs."""
        return ScoringContext(
            task=self.task,
            labels=self.labels,
            positive=self.positive,
            unit=self.unit,
            has_patients=self.has_patients,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFold(Fold):
    """One decoded fold of a dataset, as plain arrays and one file, so that it can be pickled."""

    symmetries: tuple[str, ...]
    intensity: tuple[float, float]
    images: Path
    scale: tuple[float, float] | None = None  # for a regression whose models were trained on another dataset
    volumes: VolumeReading | None = None  # of a dataset of volumes
    inputs: Mapping[str, Array] = field(default_factory=dict)  # columns (N,) str for a second input of models
    coded_as: DecodedFold | None = None  # the dataset of training, whose coding of `inputs` holds, if it is another

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """Center and spread of the training targets, in which the network predicts."""
        return self.scale or self.task.targets.scale(self.targets[self.index("train")])

    @cached_property
    def coding(self) -> MetadataCoding:
        """How `inputs` become numbers, by the images of train."""
        return self.coded_as.coding if self.coded_as else fit_coding(self.inputs, self.split_of == "train")

    @property
    def label_maps(self) -> LabelMaps:
        assert not isinstance(self.decoded, DecodedCubes)
        return self.decoded.label_maps

    @property
    def spacings(self) -> Sequence[Spacing | None]:
        return self.decoded.spacings

    @cached_property
    def decoded(self) -> DecodedImages | DecodedVolumes | DecodedCubes:
        """The files of the cache."""
        return open_volume_files(self.task, self.images) if self.volumes else DecodedImages(self.images)

    def common_masks(self, rows: Array) -> Array:
        """The reference masks of some rows on one grid: uint8 (n, ...)."""
        assert not isinstance(self.decoded, DecodedCubes)
        return self.decoded.common_masks(rows)

    @property
    def channels(self) -> int:
        return self.decoded.channels

    @property
    def masks(self) -> Array:
        """The reference masks at the input's size, uint8 (N, size, size), of images that have masks."""
        assert isinstance(self.decoded, DecodedImages)
        return self.decoded.masks


def open_fold(source: OpenDataset, split: Split, fold: int, images: Path, patch: int = 0) -> DecodedFold:
    """Build the part that all runs on one fold share; `patch` is the longest side of a patch of volumes."""
    spec = source.spec
    split_of = split.folds[fold]
    volumes = read_volumes_by(spec, images, split_of == "train", patch) if spec.dims == 3 else None
    intensity = (volumes.window or STANDARDIZED) if volumes else spec.intensity
    decoded = DecodedFold(
        **fields_of_fold(source, split, fold),
        symmetries=spec.symmetries,
        intensity=intensity or measure_intensity(images, split_of == "train"),
        images=images,
        volumes=volumes,
        inputs=select_inputs(source.spec, source.samples),
    )
    if spec.tolerance_mm is not None:
        decoded.boundary_rule  # noqa: B018  raises an error here, before any run
    return decoded


def fields_of_fold(source: OpenDataset, split: Split, fold: int) -> dict[str, Any]:
    """The fields of a `Fold`."""
    spec = source.spec
    return {
        "name": spec.name,
        "task": spec.task,
        "labels": spec.labels,
        "positive": index_of_positive(spec),
        "unit": unit_of(source),
        "has_patients": source.has_patients,
        "sample_ids": source.sample_ids,
        "patients": source.patients,
        "targets": np.asarray(source.samples.targets),
        "split_of": split.folds[fold],
        "content_hash": source.content_hash,
        "split_hash": split.hash,
        "fold": fold,
        "num_folds": len(split.folds),
        "metadata": select_metadata(source),
        "tolerance_mm": spec.tolerance_mm,
    }


STANDARDIZED = (0.0, 1.0)  # standard deviations from the mean of each volume
WITH_UNIT = re.compile(r"\bct\b|computed tomography|hounsfield", re.IGNORECASE)


def open_volume_files(task: Task, images: Path) -> DecodedVolumes | DecodedCubes:
    """The decoded volumes of a task: with their masks, or each in a cube."""
    return DecodedVolumes(images) if task.targets.spatial else DecodedCubes(images)


def read_volumes_by(spec: DatasetSpec, images: Path, train: Array, patch: int) -> VolumeReading:
    """How a fold reads its volumes. Values of CT have a unit, so that a window of train is the same for all volumes.

    Channels may differ in their unit, as in PET-CT, and then no window fits all.
    """
    window, volumes = None, open_volume_files(spec.task, images)
    if isinstance(spec.intensity, tuple):
        window = spec.intensity
    elif WITH_UNIT.search(spec.modality) and volumes.channels == 1:
        window = volumes.measure_window(train)
    return VolumeReading(patch, window)


def describe_fold(dataset: Fold, source: OpenDataset, split: Split) -> dict[str, Any]:
    """Return what a board reports of a dataset, as plain data: its description and its splits."""
    spec = source.spec
    return {
        "name": spec.name,
        **{name: getattr(spec, name) for name in RECORDED_FACTS},
        "task": spec.task.name,
        "labels": list(spec.labels),
        "positive": dataset.positive,
        "unit": dataset.unit,
        "has_patients": dataset.has_patients,
        "patient": spec.patient,
        "derived_from": list(spec.derived_from),
        "share_targets": spec.share_targets,
        "synthetic": spec.synthetic,
        "content_hash": source.content_hash,
        "split_hash": split.hash,
        "split_origin": split.origin,
        "fold": dataset.fold,
        "num_folds": dataset.num_folds,
        "notes": [*source.samples.notes, *split.notes, *describe_unknown_spacings(dataset)],
        "known_issues": list(spec.known_issues),
        **({"boundaries": dataset.boundary_rule._asdict()} if spec.task.targets.spatial else {}),
        **({"dims": spec.dims} if spec.dims != 2 else {}),
        "splits": {name: count_split(dataset, name) for name in SPLITS},
    }


def describe_unknown_spacings(dataset: Fold) -> list[str]:
    """A note on volumes in cubes whose spacing is unknown, so that their size in the cube is not that of the others."""
    if not isinstance(dataset, DecodedFold) or not isinstance(dataset.decoded, DecodedCubes):
        return []
    count = sum(spacing is None for spacing in dataset.spacings)
    what = f"the size of the voxels of {count} of {len(dataset.spacings)} volumes is unknown"
    return [f"{what}: they are taken as cubes, and the longest side of the volume fills its cube"] if count else []


def count_split(dataset: Fold, name: str) -> dict[str, Any]:
    rows = dataset.index(name)
    return count_images(dataset.task, dataset.labels, dataset.targets[rows], dataset.patients[rows])


def count_images(task: Task, labels: Sequence[str], targets: Array, patients: Array) -> dict[str, Any]:
    """Count the images and patients of one split, and its images per label; for a regression, mean and deviation."""
    return {"images": len(targets), "patients": len(np.unique(patients)), **task.targets.count(targets, labels)}


def index_of_positive(spec: DatasetSpec) -> int | None:
    """Return the index of the positive class of a binary dataset: the card's, else the last; None for other tasks."""
    if not spec.task.targets.has_positive:
        return None
    if spec.positive and spec.positive not in spec.labels:
        raise DataError(
            f"unknown positive class {spec.positive!r}; the labels are {', '.join(spec.labels)}",
            subject=dataset_subject(spec.name),
            fix="set `positive` to one of them",
        )
    return spec.labels.index(spec.positive) if spec.positive else 1


def unit_of(source: OpenDataset) -> Unit:
    """Return what is scored: the card's unit, else the patient if its images share one target or have masks."""
    if source.spec.unit != "auto":
        return source.spec.unit
    if not source.has_patients or len(np.unique(source.patients)) == len(source.patients):
        return "image"
    return "image" if find_conflict(source.task, source.patients, source.samples.targets) else "patient"
