"""The dataset of a run: decoded images, targets and the split of one fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.data.checks import find_conflict
from zoo.data.decoded import (
    LABEL_MAPS_FILE,
    MASKS_FILE,
    map_images,
    measure_intensity,
    read_placements,
    reading_cache,
)
from zoo.data.masks import LabelMaps, load_maps
from zoo.data.metadata import select_metadata
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError, dataset_subject
from zoo.images.placement import Placement
from zoo.specs.dataset import RECORDED_FACTS, SPLITS, DatasetSpec, Unit
from zoo.specs.metric import ScoringContext
from zoo.tasks.task import Task

PIXELS = "px"


class BoundaryRule(NamedTuple):
    """The tolerance of distances between boundaries, and their unit: "mm" if the spacing of every image is known."""

    tolerance: float
    unit: str


def find_boundary_rule(placements: Sequence[Placement]) -> BoundaryRule:
    """A tolerance of one pixel: the median of the spacings."""
    spacings = [placement.spacing for placement in placements if placement.spacing]
    if len(spacings) < len(placements):
        return BoundaryRule(1.0, PIXELS)
    return BoundaryRule(float(f"{np.median(spacings):.6g}"), "mm")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFold:
    """One decoded fold of a dataset, as plain arrays and one file, so that it can be pickled."""

    name: str
    task: Task
    labels: tuple[str, ...]
    positive: int | None
    unit: Unit
    has_patients: bool
    symmetries: tuple[str, ...]
    intensity: tuple[float, float]
    sample_ids: Array
    patients: Array
    targets: Array
    split_of: Array  # (N,) str
    images: Path
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    scale: tuple[float, float] | None = None  # for a regression whose models were trained on another dataset
    metadata: Mapping[str, Array] = field(default_factory=dict)  # (N,) str, "" where unknown

    def index(self, split: str) -> Array:
        """The rows of one split, in the dataset's order."""
        return np.flatnonzero(self.split_of == split)

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """Center and spread of the training targets, in which the network predicts."""
        return self.scale or self.task.targets.scale(self.targets[self.index("train")])

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

    @property
    def channels(self) -> int:
        return int(map_images(self.images).shape[3])

    @property
    def image_size(self) -> int:
        return int(map_images(self.images).shape[1])

    @property
    def masks(self) -> Array:
        """The reference masks at the input's size, uint8 (N, size, size), of a dataset that has masks."""
        return map_images(self.images.with_name(MASKS_FILE), "c")  # torch warns about read-only arrays

    @cached_property
    def boundary_rule(self) -> BoundaryRule:
        """How distances between masks are measured."""
        return find_boundary_rule(read_placements(self.images))

    @cached_property
    def label_maps(self) -> LabelMaps:
        """The reference masks at the size of their images."""
        with reading_cache():
            return load_maps(self.images.with_name(LABEL_MAPS_FILE))


def open_fold(source: OpenDataset, split: Split, fold: int, images: Path) -> DecodedFold:
    """Build the part that all runs on one fold share."""
    spec = source.spec
    split_of = split.folds[fold]
    return DecodedFold(
        name=spec.name,
        task=spec.task,
        labels=spec.labels,
        positive=index_of_positive(spec),
        unit=unit_of(source),
        has_patients=source.has_patients,
        symmetries=spec.symmetries,
        intensity=spec.intensity or measure_intensity(images, split_of == "train"),
        sample_ids=source.sample_ids,
        patients=source.patients,
        targets=np.asarray(source.samples.targets),
        split_of=split_of,
        images=images,
        content_hash=source.content_hash,
        split_hash=split.hash,
        fold=fold,
        num_folds=len(split.folds),
        metadata=select_metadata(source),
    )


def describe_fold(dataset: DecodedFold, source: OpenDataset, split: Split) -> dict[str, Any]:
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
        "notes": [*source.samples.notes, *split.notes],
        "known_issues": list(spec.known_issues),
        **({"boundaries": dataset.boundary_rule._asdict()} if spec.task.targets.spatial else {}),
        "splits": {name: count_split(dataset, name) for name in SPLITS},
    }


def count_split(dataset: DecodedFold, name: str) -> dict[str, Any]:
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
