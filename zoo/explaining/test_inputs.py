"""The test images or volumes of a trained model before they are normalized, where a corruption changes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import KNOWN_UNIT, BoundaryRule
from zoo.data.masks import pack_map, read_mask
from zoo.data.opening import OpenDataset
from zoo.data.volumes import spacing_of
from zoo.errors import DataError, ResultsError
from zoo.evaluation.mask_statistics import compare_masks, compare_pixels
from zoo.evaluation.predict_masks import decide_mask
from zoo.evaluation.predict_volumes import decide_volume
from zoo.evaluation.predictions import Predictions
from zoo.explaining.sampling import TestedImages
from zoo.images.placement import Placement, Spacing
from zoo.specs.choice import Choice
from zoo.trained.classifying_volumes import fit_into_cube, forward_cube
from zoo.trained.inputs import ReadImage
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import forward_squares, read_batches
from zoo.trained.segmenting import LARGE_AT_ONCE, predict_output
from zoo.trained.segmenting_volumes import network_of, standardize_volume
from zoo.trained.volume_inputs import ReadVolume


@dataclass(frozen=True, kw_only=True, eq=False)
class TestInput(ABC):
    """Some rows of the test split; `test` are their stored predictions."""

    model: OpenModel
    test: Predictions

    @abstractmethod
    def corrupted(self, choice: Choice, draws: Array) -> TestInput:
        """The same rows changed by a corruption with draws (n, K); references stay as they are."""

    @abstractmethod
    def answer(self, *, counts_only: bool) -> Predictions:
        """Predict the rows; with `counts_only`, masks are compared by `compare_pixels`.

        Raises ResultsError if an output is not finite.
        """

    def answer_logits(self, logits: Array) -> Predictions:
        """The predictions of logits (n, outputs)."""
        self.require_finite(np.asarray(np.isfinite(logits).all(axis=1)))
        card = self.model.card
        answers = card.task_kind.answers
        return replace(
            self.test,
            probabilities=answers.from_logits(logits, card.target_scale),
            log_odds=answers.to_log_odds(logits),
        )

    def require_finite(self, finite: Array) -> None:
        """Raise ResultsError that names the first row that is not finite, by `finite` (n,)."""
        if not finite.all():
            raise ResultsError(
                f"{self.model.card.name}: its output for {self.test.sample_ids[finite.argmin()]} is not finite",
                fix="use another corruption",
            )


Ends = float | Array  # of all channels, or of each


def corrupt(stored: Array, draws: Array, choice: Choice, ends: tuple[Ends, Ends]) -> Array:
    """Apply a corruption to stored values (N, ..., channels), of which `ends` become 0 and 1.

    Whole numbers are rounded, as a file holds them.
    """
    import torch

    low, high = (torch.as_tensor(end, dtype=torch.float32) for end in ends)
    images = ((torch.from_numpy(stored.astype(np.float32)) - low) / (high - low)).movedim(-1, 1)
    changed = choice.spec.augment(images, torch.from_numpy(draws), **choice.options)
    values = (changed.movedim(1, -1) * (high - low) + low).numpy()
    if stored.dtype.kind in "iu":
        kind = np.iinfo(stored.dtype)
        values = np.clip(values.round().astype(np.float64), kind.min, kind.max)  # float32 has no 2^31 - 1
    return np.ascontiguousarray(values.astype(stored.dtype))


def corrupt_volume(volume: ReadVolume, draws: Array, choice: Choice, window: Sequence[float] | None) -> ReadVolume:
    """Apply a corruption to the values of a file; the window, else the range of each channel, becomes 0 to 1."""
    values = volume.values if volume.values.ndim == 4 else volume.values[..., None]
    low, high = (values.min(axis=(0, 1, 2)), values.max(axis=(0, 1, 2))) if window is None else window
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)  # low + 1 does not fit into each integer type
    ends = low, np.where(low == high, low + 1, high)
    changed = corrupt(values[None], draws, choice, ends)[0]
    return replace(volume, values=changed.reshape(volume.values.shape))


# --- labels ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledImages(TestInput):
    """A batch of images with labels."""

    squares: Array  # (n, size, size, channels)

    def corrupted(self, choice: Choice, draws: Array) -> LabeledImages:
        return replace(self, squares=corrupt(self.squares, draws, choice, self.model.card.intensity))

    def answer(self, *, counts_only: bool) -> Predictions:  # noqa: ARG002
        return self.answer_logits(forward_squares(self.model, self.squares, ())[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledVolume(TestInput):
    volume: ReadVolume

    def corrupted(self, choice: Choice, draws: Array) -> LabeledVolume:
        return replace(self, volume=corrupt_volume(self.volume, draws, choice, window_of(self.model)))

    def answer(self, *, counts_only: bool) -> Predictions:  # noqa: ARG002
        return self.answer_logits(forward_cube(self.model, fit_into_cube(self.model.card, self.volume))[0])


# --- masks -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedInput(TestInput):
    """An image or volume with its reference, a label map on its grid."""

    reference: Array
    spacing: Spacing | None

    @abstractmethod
    def decide(self) -> Array | None:
        """The predicted label map; None if an output is not finite."""

    def answer(self, *, counts_only: bool) -> Predictions:
        decided, card = self.decide(), self.model.card
        self.require_finite(np.array([decided is not None]))
        assert decided is not None
        if counts_only:
            statistics = compare_pixels(self.reference, decided, len(card.labels))
        else:
            rule = BoundaryRule(**card.dataset["boundaries"])
            spacing = self.spacing if rule.unit == KNOWN_UNIT else None
            statistics = compare_masks(self.reference, decided, len(card.labels), spacing, rule.tolerance)
        return replace(self.test, probabilities=statistics[None], label_maps=pack_map(decided))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedImage(MaskedInput):
    read: ReadImage
    placement: Placement

    def corrupted(self, choice: Choice, draws: Array) -> MaskedImage:
        assert self.read.pixels is not None
        (pixels,) = corrupt(self.read.pixels[None], draws, choice, self.model.card.intensity)
        return replace(self, read=replace(self.read, pixels=pixels))

    def decide(self) -> Array | None:
        logits = predict_output(self.model, self.read, self.placement)
        return decide_mask(logits, self.placement) if bool(logits.isfinite().all()) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedVolume(MaskedInput):
    volume: ReadVolume

    def corrupted(self, choice: Choice, draws: Array) -> MaskedVolume:
        return replace(self, volume=corrupt_volume(self.volume, draws, choice, window_of(self.model)))

    def decide(self) -> Array | None:
        pixels, moments = standardize_volume(self.model, self.volume)
        network = network_of(self.model, moments)
        return decide_volume(network, pixels, 0, self.reference.shape, self.model.card.precision)


# --- reading ---------------------------------------------------------------------------------------------------------
def read_test_inputs(model: OpenModel, dataset: OpenDataset, test: Predictions) -> Iterator[TestInput]:
    """Read the test split of a model again, one part after the other. Raises DataError for what cannot be read."""
    tested, has_masks = TestedImages(dataset, test.sample_ids), model.card.task_kind.targets.spatial
    if model.card.volumes is not None:
        return (read_masked_volumes if has_masks else read_labeled_volumes)(model, tested, test)
    return (read_masked_images if has_masks else read_labeled_images)(model, tested, test)


def read_labeled_images(model: OpenModel, tested: TestedImages, test: Predictions) -> Iterator[TestInput]:
    start = 0
    for batch in read_batches(model, tested.list_images()):
        rows = np.arange(start, start + len(batch))
        start += len(batch)
        yield LabeledImages(
            model=model, test=test.take(rows), squares=np.stack([require_pixels(each) for each in batch])
        )


def read_masked_images(model: OpenModel, tested: TestedImages, test: Predictions) -> Iterator[TestInput]:
    images = (each for batch in read_batches(model, tested.list_images(), LARGE_AT_ONCE) for each in batch)
    for row, each in enumerate(images):
        require_pixels(each)
        assert each.placement is not None
        yield MaskedImage(
            model=model,
            test=test.take(np.array([row])),
            **read_reference(tested, each.image.name),
            read=each,
            placement=each.placement,
        )


def read_labeled_volumes(model: OpenModel, tested: TestedImages, test: Predictions) -> Iterator[TestInput]:
    for row, name in enumerate(test.sample_ids.tolist()):
        yield LabeledVolume(model=model, test=test.take(np.array([row])), volume=tested.read_volume(name))


def read_masked_volumes(model: OpenModel, tested: TestedImages, test: Predictions) -> Iterator[TestInput]:
    for row, name in enumerate(test.sample_ids.tolist()):
        yield MaskedVolume(
            model=model,
            test=test.take(np.array([row])),
            **read_reference(tested, name),
            volume=tested.read_volume(name),
        )


def window_of(model: OpenModel) -> Sequence[float] | None:
    """The values of files that a model of volumes clips to; None if each volume is standardized by itself."""
    assert model.card.volumes is not None
    window: Sequence[float] | None = model.card.volumes["window"]
    return window


def require_pixels(read: ReadImage) -> Array:
    if read.pixels is None:
        raise DataError(read.refused, fix=read.fix)
    return read.pixels


def read_reference(tested: TestedImages, name: str) -> dict[str, Any]:
    """The fields of a `MaskedInput` that come from the dataset."""
    source, image = tested.dataset, tested.image_of(name)
    return {"reference": read_mask(source.spec, source.samples, image), "spacing": spacing_of(source, image)}
