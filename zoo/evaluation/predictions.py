"""The predictions of one split, and how they are stored."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.metadata import read_numbers
from zoo.errors import ResultsError
from zoo.images.formats import clips_of
from zoo.specs.dataset import Unit
from zoo.statistics.means import mean_by_group
from zoo.tasks.kinds import round_log_odds

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What a model answered for the images of one split: the record that every published number is computed from.

    `targets` and `probabilities` have the shapes of `zoo.Task`; `patients` repeats the sample id where the
    dataset has no patient key. `targets` is empty in a bundle of a dataset whose licence keeps them.
    """

    sample_ids: Array  # (N,) str
    patients: Array  # (N,) str
    targets: Array  # (N,) or (N, L)
    probabilities: Array  # (N, C) float64
    # (N, C) log p/(1 - p), which tells apart what rounds to 1; None in results of before it was stored, and of numbers
    log_odds: Array | None = None
    metadata: Mapping[str, Array] = field(default_factory=dict)  # by column (N,) str, "" where unknown

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: Array) -> Predictions:
        """These rows, given by a mask or in the order of their numbers."""
        return replace(
            self,
            sample_ids=self.sample_ids[rows],
            patients=self.patients[rows],
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
            metadata={name: values[rows] for name, values in self.metadata.items()},
        )

    def by_unit(self, unit: Unit) -> Predictions:
        """One row a patient or clip: the mean probability of its images, which all share a target; images as they are.

        The images of a clip are called `clip#0`, `clip#8`, ... Of metadata that differ between images numbers are
        averaged, and a text becomes `SEVERAL`.
        """
        if unit == "image":
            return self
        owners = owners_of(self.sample_ids, self.patients, unit)
        units, first, inverse = np.unique(owners, return_index=True, return_inverse=True)
        return replace(
            self,
            sample_ids=units,
            patients=self.patients[first],
            targets=self.targets[first],
            probabilities=mean_by_group(self.probabilities, inverse, len(units)),
            log_odds=None if self.log_odds is None else mean_log_odds(self.log_odds, inverse, len(units)),
            metadata={name: merge_values(values, first, inverse) for name, values in self.metadata.items()},
        )


SplitPredictions = Mapping[str, Predictions]  # by split: val, test


def owners_of(sample_ids: Array, patients: Array, unit: Unit) -> Array:
    """The unit that each image belongs to, str (N,): its patient, its clip, or itself."""
    return patients if unit == "patient" else clips_of(sample_ids) if unit == "clip" else sample_ids


def mean_log_odds(log_odds: Array, owner: Array, num_groups: int) -> Array:
    """The log odds (G, C) of the mean probability of each group's rows (N, C)."""

    def log_mean(logs: Array) -> Array:
        largest = np.full((num_groups, logs.shape[1]), -np.inf)
        np.maximum.at(largest, owner, logs)
        with np.errstate(over="ignore"):
            return largest + np.log(mean_by_group(np.exp(logs - largest[owner]), owner, num_groups))

    return round_log_odds(log_mean(-np.logaddexp(0, -log_odds)) - log_mean(-np.logaddexp(0, log_odds)))


def of_logits(dataset: DecodedFold, rows: Array, logits: Array) -> Predictions:
    """The predictions of some rows of a dataset from a model's outputs (N, outputs) float64."""
    mean, std = dataset.target_scale
    to_log_odds = dataset.task.to_log_odds
    return Predictions(
        sample_ids=dataset.sample_ids[rows],
        patients=dataset.patients[rows],
        targets=dataset.targets[rows],
        probabilities=dataset.task.to_probabilities(logits) * std + mean,
        log_odds=to_log_odds(logits) if to_log_odds else None,
        metadata={name: values[rows] for name, values in dataset.metadata.items()},
    )


SEVERAL = "several"


def merge_values(values: Array, first: Array, inverse: Array) -> Array:
    """What the images of each unit have in common (U,): their text, the mean of their numbers, or `SEVERAL`."""
    shared = values[first].astype(object)
    for unit in np.unique(inverse[values != shared[inverse]]):
        known = [value for value in values[inverse == unit] if value]
        numbers = read_numbers(np.array(known))
        if len(set(known)) == 1:
            shared[unit] = known[0]
        else:
            shared[unit] = SEVERAL if numbers is None else f"{numbers.mean():.6g}"
    return shared.astype(np.str_)


STORED_SPLITS = ("val", "test")
FIELDS = ("sample_ids", "patients", "targets", "probabilities")


def save_predictions(path: Path, predictions: dict[str, Predictions]) -> None:
    """Write the predictions of val and test to one `.npz` that loads with `allow_pickle=False`."""
    arrays = {
        f"{split}_{name}": getattr(part, name)
        if name in {"targets", "probabilities"}
        else getattr(part, name).astype(np.str_)
        for split, part in predictions.items()
        for name in FIELDS
    }
    for split, part in predictions.items():
        if part.log_odds is not None:
            arrays[f"{split}_log_odds"] = part.log_odds
    for split, part in predictions.items():  # by number: a column may be called anything
        if part.metadata:
            arrays[f"{split}_columns"] = np.array(list(part.metadata), dtype=np.str_)
        for number, values in enumerate(part.metadata.values()):
            arrays[f"{split}_column_{number}"] = values.astype(np.str_)
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_split(arrays: Mapping[str, Array], split: str) -> Predictions:
    columns = arrays[f"{split}_columns"].tolist() if f"{split}_columns" in arrays else []
    metadata = {name: arrays[f"{split}_column_{number}"] for number, name in enumerate(columns)}
    log_odds = arrays.get(f"{split}_log_odds")
    part = Predictions(**{name: arrays[f"{split}_{name}"] for name in FIELDS}, log_odds=log_odds, metadata=metadata)
    if any(values.shape != part.sample_ids.shape or values.dtype.kind != "U" for values in metadata.values()):
        raise ValueError(f"{split}: metadata that do not fit its samples")
    return part


def load_predictions(path: Path) -> dict[str, Predictions]:
    """Read what `save_predictions` wrote; a damaged file is a ResultsError that names it."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {split: read_split(arrays, split) for split in STORED_SPLITS if f"{split}_sample_ids" in arrays}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}", fix="delete its folder and run again") from error
