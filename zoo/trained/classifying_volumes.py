"""Predict the labels or values of new volumes with trained models of whole volumes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.cube_pixels import CubePixels, as_cube_pixels
from zoo.data.volume_cubes import Cube, DecodedCube, to_cube
from zoo.trained.card import ModelCard
from zoo.trained.modules import forward_rows
from zoo.trained.predicting import NO_OUTPUT_FIX, NewAnswer, Rules, answer_outputs
from zoo.trained.volume_inputs import NewVolume, ReadVolume, answer_volumes, read_new_volume

if TYPE_CHECKING:
    from zoo.trained.opening import OpenModel


def classify_volumes(models: Sequence[OpenModel], volumes: Sequence[NewVolume], rules: Rules) -> Iterator[NewAnswer]:
    """Yield the answers in the order of the volumes; one volume is in memory."""
    return answer_volumes(volumes, partial(classify_volume, models, rules=rules), NewAnswer)


def classify_volume(models: Sequence[OpenModel], volume: NewVolume, rules: Rules) -> NewAnswer:
    """Predict one volume. Raises DataError for what training would have refused."""
    read = read_new_volume(volume, models[0].card)
    return answer_cube(models, volume.name, read, fit_into_cube(models[0].card, read), rules)


def answer_cube(
    models: Sequence[OpenModel], name: str, read: ReadVolume, decoded: DecodedCube, rules: Rules
) -> NewAnswer:
    """The answer for a volume in its cube."""
    (answer,) = answer_outputs(models, [forward_cube(model, decoded) for model in models], rules)
    if answer is None:
        return NewAnswer(name=name, refused=f"{name}: the model's output is not finite", fix=NO_OUTPUT_FIX)
    return replace(answer, name=name, differs=read.differs)


def fit_into_cube(card: ModelCard, volume: ReadVolume) -> DecodedCube:
    """Fit a volume into the cube of a model, as the bench decoded those of training."""
    assert card.volumes is not None
    side, spacing = card.volumes["patch"][0], card.volumes["spacing"]
    return to_cube(volume.values, volume.spacing, Cube(side, spacing and spacing[0]))


def forward_cube(model: OpenModel, decoded: DecodedCube) -> tuple[Array, Array | None]:
    """Logits (1, outputs) and features (1, D) of a decoded volume."""
    return forward_rows(model.tap, cube_pixels(model, decoded), np.zeros(1, np.int64), model.card.precision)


def cube_pixels(model: OpenModel, decoded: DecodedCube) -> CubePixels:
    """A decoded volume with its conversion to the network's input."""
    import torch

    assert model.card.volumes is not None
    voxels = torch.from_numpy(decoded.voxels[None])
    moments = (decoded.mean[None], decoded.std[None])
    return as_cube_pixels(voxels, moments, model.card.volumes["window"], model.device)
