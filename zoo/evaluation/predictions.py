"""The predictions of one split, and their file format."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.masks import LabelMaps, join_maps
from zoo.data.metadata import read_numbers
from zoo.errors import ResultsError
from zoo.images.formats import clips_of
from zoo.specs.dataset import Unit
from zoo.statistics.means import mean_by_group, mean_of_known
from zoo.system.npz import ArchivedArrays
from zoo.tasks.logits import round_log_odds, sigmoid


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """A model's predictions for the images of one split: the record from which every reported number is computed.

    `targets` and `probabilities` have the shapes of `zoo.Task`. Without a patient key, `patients` equals `sample_ids`.
    `targets` is empty in a bundle of a dataset whose license does not permit sharing them.
    """

    sample_ids: Array  # (N,) str
    patients: Array  # (N,) str
    targets: Array  # (N,) or (N, L)
    probabilities: Array  # (N, C) float64
    # (N, C) log p/(1 - p), which separates probabilities that round to 1; None for regression and in older results
    log_odds: Array | None = None
    metadata: Mapping[str, Array] = field(default_factory=dict)  # by column: (N,) str, "" where unknown
    # predicted masks at the size of their images; `probabilities` has their statistics. None for other tasks
    label_maps: LabelMaps | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: Array) -> Predictions:
        """Select rows by a mask or by their indices."""
        return replace(
            self,
            sample_ids=self.sample_ids[rows],
            patients=self.patients[rows],
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
            metadata={name: values[rows] for name, values in self.metadata.items()},
            label_maps=self.label_maps and self.label_maps.take(rows),
        )

    def by_unit(self, unit: Unit) -> Predictions:
        """Average the probabilities of each patient's or clip's images: one row per unit.

        The images of a unit share a target, or each has its own mask: then the defined statistics are averaged.
        The sample ids of a clip's images are `clip#0`, `clip#8`, ... Metadata that differ between the images of a unit
        are averaged if they are numbers, else replaced by `SEVERAL`.
        """
        if unit == "image":
            return self
        owners = owners_of(self.sample_ids, self.patients, unit)
        units, first, inverse = np.unique(owners, return_index=True, return_inverse=True)
        own_masks = self.label_maps is not None
        targets = mean_by_group(self.targets, inverse, len(units)) if own_masks else self.targets[first]
        return replace(
            self,
            sample_ids=units,
            patients=self.patients[first],
            targets=targets,
            probabilities=mean_of_known(self.probabilities, inverse, len(units)),
            log_odds=None if self.log_odds is None else mean_log_odds(self.log_odds, inverse, len(units)),
            metadata={name: merge_values(values, first, inverse) for name, values in self.metadata.items()},
            label_maps=None,
        )


def join_parts(parts: Sequence[Predictions]) -> Predictions:
    """Join the predictions of several folds, without their metadata."""

    def stack(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    logs = None if any(part.log_odds is None for part in parts) else stack("log_odds")
    return Predictions(
        sample_ids=stack("sample_ids"),
        patients=stack("patients"),
        targets=stack("targets"),
        probabilities=stack("probabilities"),
        log_odds=logs,
    )


def concatenate(parts: Sequence[Predictions], whole: Predictions) -> Predictions:
    """The predictions of `whole`, whose rows are those of some parts in order, predicted again."""
    logs = [part.log_odds for part in parts if part.log_odds is not None]
    maps = [part.label_maps for part in parts if part.label_maps is not None]
    return replace(
        whole,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        log_odds=np.concatenate(logs) if logs else None,
        label_maps=join_maps(maps) if maps else None,
    )


def prediction_difference(first: Predictions, second: Predictions) -> float:
    """The largest difference of two predictions of the same images; of masks, the share of an image's pixels."""
    if first.label_maps is not None and second.label_maps is not None:
        pairs = ((first.label_maps[row], second.label_maps[row]) for row in range(len(first)))
        return max(float((one != other).mean()) for one, other in pairs)
    return float(np.abs(first.probabilities - second.probabilities).max())


SplitPredictions = Mapping[str, Predictions]  # by split: val, test


class LazyRun(Mapping[str, Predictions]):
    """The predictions of a run by split, read or computed by `load` when they are first needed."""

    def __init__(self, load: Callable[[], SplitPredictions]) -> None:
        self.load = load

    @cached_property
    def parts(self) -> SplitPredictions:
        return self.load()

    def __getitem__(self, split: str) -> Predictions:
        return self.parts[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def owners_of(sample_ids: Array, patients: Array, unit: Unit) -> Array:
    """The unit of each image, str (N,): its patient, its clip, or its own id."""
    return patients if unit == "patient" else clips_of(sample_ids) if unit == "clip" else sample_ids


def mean_log_odds(log_odds: Array, owner: Array, num_groups: int) -> Array:
    """Log odds (G, C) of the mean probability of each group, from log odds (N, C)."""

    def log_mean(logs: Array) -> Array:
        largest = np.full((num_groups, logs.shape[1]), -np.inf)
        np.maximum.at(largest, owner, logs)
        with np.errstate(over="ignore"):
            return largest + np.log(mean_by_group(np.exp(logs - largest[owner]), owner, num_groups))

    return round_log_odds(log_mean(-np.logaddexp(0, -log_odds)) - log_mean(-np.logaddexp(0, log_odds)))


def predictions_from_logits(dataset: DecodedFold, rows: Array, logits: Array) -> Predictions:
    """Convert logits, float64 (N, outputs), of the given rows of a dataset to predictions."""
    answers = dataset.task.answers
    return Predictions(
        sample_ids=dataset.sample_ids[rows],
        patients=dataset.patients[rows],
        targets=dataset.targets[rows],
        probabilities=answers.from_logits(logits, dataset.target_scale),
        log_odds=answers.to_log_odds(logits),
        metadata={name: values[rows] for name, values in dataset.metadata.items()},
    )


SEVERAL = "several"


def merge_values(values: Array, first: Array, inverse: Array) -> Array:
    """Merge a metadata column (N,) by unit (U,): the shared text, the mean of the numbers, or `SEVERAL`."""
    shared = values[first].astype(object)
    for unit in np.unique(inverse[values != shared[inverse]]):
        entries = [value for value in values[inverse == unit] if value]
        numbers = read_numbers(np.array(entries))
        if len(set(entries)) == 1:
            shared[unit] = entries[0]
        else:
            shared[unit] = SEVERAL if numbers is None else f"{numbers.mean():.6g}"
    return shared.astype(np.str_)


STORED_SPLITS = ("val", "test")
FIELDS = ("sample_ids", "patients", "targets", "probabilities")


def from_log_odds(part: Predictions) -> Predictions:
    """Compute the probabilities from the log odds, if there are any; they change by rounding errors only."""
    return part if part.log_odds is None else replace(part, probabilities=sigmoid(part.log_odds))


def save_predictions(path: Path, predictions: dict[str, Predictions], compact: bool = False) -> None:
    """Write the predictions of val and test to an `.npz` file that loads with `allow_pickle=False`.

    A compact file has no probabilities where there are log odds: a probability takes 8 bytes, and cannot be compressed.
    """
    arrays = {
        f"{split}_{name}": getattr(part, name)
        if name in {"targets", "probabilities"}
        else getattr(part, name).astype(np.str_)
        for split, part in predictions.items()
        for name in FIELDS
        if name != "probabilities" or not compact or part.log_odds is None
    }
    for split, part in predictions.items():
        if part.log_odds is not None:
            arrays[f"{split}_log_odds"] = part.log_odds
        if part.label_maps is not None:
            arrays |= {f"{split}_masks_{name}": values for name, values in vars(part.label_maps).items()}
    for split, part in predictions.items():  # by number, because a column may have any name
        if part.metadata:
            arrays[f"{split}_columns"] = np.array(list(part.metadata), dtype=np.str_)
        for number, values in enumerate(part.metadata.values()):
            arrays[f"{split}_column_{number}"] = values.astype(np.str_)
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_probabilities(arrays: Mapping[str, Array], split: str) -> Array:
    """The probabilities of a split, computed from the log odds if the file is compact."""
    if f"{split}_probabilities" in arrays:
        return arrays[f"{split}_probabilities"]
    log_odds = arrays[f"{split}_log_odds"]
    if log_odds.dtype.kind != "f":
        raise ValueError(f"{split}: {log_odds.dtype} log odds")
    return sigmoid(log_odds)


def read_split(arrays: Mapping[str, Array], split: str) -> Predictions:
    columns = arrays[f"{split}_columns"].tolist() if f"{split}_columns" in arrays else []
    metadata = {name: arrays[f"{split}_column_{number}"] for number, name in enumerate(columns)}
    log_odds = arrays.get(f"{split}_log_odds")
    stored = {name: arrays[f"{split}_{name}"] for name in FIELDS if name != "probabilities"}
    stored["probabilities"] = read_probabilities(arrays, split)
    part = Predictions(**stored, log_odds=log_odds, metadata=metadata, label_maps=read_label_maps(arrays, split))
    if any(values.shape != part.sample_ids.shape or values.dtype.kind != "U" for values in metadata.values()):
        raise ValueError(f"{split}: the metadata do not match the samples")
    for values in (*stored.values(), *metadata.values(), *([] if log_odds is None else [log_odds])):
        values.flags.writeable = False  # every section and figure of a board reads the same arrays
    return part


def read_label_maps(arrays: Mapping[str, Array], split: str) -> LabelMaps | None:
    if f"{split}_masks_ends" not in arrays:
        return None
    return LabelMaps(**{part.name: arrays[f"{split}_masks_{part.name}"] for part in fields(LabelMaps)})


def load_predictions(path: Path) -> dict[str, Predictions]:
    """Read a file of `save_predictions`. Raises ResultsError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = ArchivedArrays(archive)
            return {split: read_split(arrays, split) for split in STORED_SPLITS if f"{split}_sample_ids" in arrays}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}", fix="delete its folder and run again") from error
