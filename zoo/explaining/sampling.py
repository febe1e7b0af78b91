"""Choose the test images of a trained model to explain, by rule, from its dataset opened again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.lookup import find_datasets
from zoo.data.opening import OpenDataset, convert_failures, open_dataset
from zoo.data.volumes import read_volume, spacing_of
from zoo.errors import ResultsError, UsageError
from zoo.evaluation.predictions import Predictions, load_predictions
from zoo.images.formats import split_frame
from zoo.images.placement import Placement
from zoo.registry.lookup import Registry
from zoo.system.progress import Progress
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage
from zoo.trained.volume_inputs import NewVolume, ReadVolume

NUM_SAMPLED = 24


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the dataset of a trained model is looked for: an installed name, or a path."""

    registry: Registry
    cache: Path
    data: str = ""


def open_tested(card: ModelCard, place: Place, progress: Progress | None = None) -> OpenDataset:
    """Open the dataset that a model was tested on, without downloading. Raises UsageError if it is not that one."""
    name = card.dataset["name"]
    requested = place.data or name
    if not place.data and name not in place.registry.datasets and not place.registry.find_family("dataset", name):
        raise UsageError(
            f"no installed dataset is named {name}", fix="name its folder by --data, or name images", code="no-dataset"
        )
    with convert_failures():
        specs = find_datasets(requested, place.registry, place.cache, offline=True)
        opened = [open_dataset(spec, place.cache, offline=True, progress=progress) for spec in specs]
    for dataset in opened:
        if dataset.content_hash == card.dataset["content_hash"]:
            return dataset
    raise UsageError(
        f"{requested} holds other data than {card.name} was tested on (another content hash)",
        fix="name the folder of the same data by --data, or name images",
        code="no-dataset",
    )


def read_tested(folder: Path, card: ModelCard) -> Predictions:
    """The stored predictions of the test split."""
    path = folder / "predictions.npz"
    if not path.exists():
        raise ResultsError(
            f"{card.name}: {folder} does not say which images were tested", fix="name images", code="no-images"
        )
    return load_predictions(path)["test"]


class TestedImages:
    """Some images of a dataset by their sample ids, with their patients and masks."""

    def __init__(self, dataset: OpenDataset, sample_ids: Array) -> None:
        self.dataset, self.sample_ids = dataset, sample_ids
        self.rows = {name: row for row, name in enumerate(dataset.sample_ids.tolist())}
        missing = [name for name in sample_ids.tolist() if name not in self.rows]
        if missing:
            raise ResultsError(
                f"{dataset.spec.name} has no image {missing[0]!r}: the results hold pseudonyms",
                fix="use the results that zoo bench wrote, or name images",
                code="no-images",
            )

    @property
    def has_masks(self) -> bool:
        return self.dataset.samples.findings is not None or self.dataset.samples.masks is not None

    def image_of(self, name: str) -> Any:
        return self.dataset.samples.table["image"].iloc[self.rows[name]]

    def patient_of(self, name: str) -> str:
        return str(self.dataset.patients[self.rows[name]])

    def list_images(self) -> Iterator[NewImage]:
        """Yield the images; they are read as in training."""
        samples = self.dataset.samples
        for name in self.sample_ids.tolist():
            image = self.image_of(name)
            source: tuple[Any, Any] = (samples.read, image)
            if samples.read_by is not None:  # levels measured on train: the card of the model has them
                source = (samples.files[self.rows[name]], split_frame(str(image))[1])
            yield NewImage(name=name, file=name, source=source)

    def list_inputs(self, dims: int) -> Iterator[NewImage] | Iterator[NewVolume]:
        """Yield the images or volumes."""
        if dims == 2:
            return self.list_images()
        names = self.sample_ids.tolist()
        return (NewVolume(name=name, read=partial(self.read_volume, name)) for name in names)

    def read_volume(self, name: str) -> ReadVolume:
        image = self.image_of(name)
        values = read_volume(self.dataset, self.rows[name], image)
        return ReadVolume(values=values, spacing=spacing_of(self.dataset, image), differs=())

    def find_mask(self, name: str, column: int, _: Placement) -> Array | None:
        samples, image = self.dataset.samples, self.image_of(name)
        mask: Array | None = None
        if samples.masks is not None:
            mask = samples.masks(image) == column + 1
        elif samples.findings is not None:
            mask = samples.findings(image)[column]
        return mask


def sample_ids_of(test: Predictions, count: int = NUM_SAMPLED) -> Array:
    """The sample ids of some test images: in the order of their hashes, one of each patient before a second one."""
    order = sorted(range(len(test)), key=lambda row: hashlib.sha256(str(test.sample_ids[row]).encode()).digest())
    turns: dict[str, int] = {}
    ranked = []
    for place, row in enumerate(order):
        patient = str(test.patients[row])
        turns[patient] = turns.get(patient, 0) + 1
        ranked.append((turns[patient], place, row))
    chosen = [row for _, _, row in sorted(ranked)[:count]]
    return np.array([test.sample_ids[row] for row in chosen], dtype=np.str_)
