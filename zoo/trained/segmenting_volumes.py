"""Predict the masks of new volumes with trained models, on the grids of the volumes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.volumes import Sides, VolumePixels, resampled_shape, scale_to_window, standardize
from zoo.evaluation.forward import Network
from zoo.evaluation.predict_volumes import decide_volume
from zoo.images.nifti_masks import from_upright
from zoo.images.placement import Spacing
from zoo.trained.predicting import NO_OUTPUT_FIX, NewAnswer
from zoo.trained.segmenting import NewMask
from zoo.trained.volume_inputs import NewVolume, ReadVolume, answer_volumes, read_new_volume

if TYPE_CHECKING:
    from zoo.trained.opening import OpenModel


@dataclass(frozen=True, kw_only=True, eq=False)
class NewVolumeMask(NewMask):
    """The mask of a volume, uint8 (A, B, C) in RAS+ order, or the reason why there is none."""

    volume: Path | None = None  # whose grid it has
    spacing: Spacing | None = None  # mm per voxel


def segment_volumes(models: Sequence[OpenModel], volumes: Sequence[NewVolume]) -> Iterator[NewVolumeMask]:
    """Yield the masks in the order of the volumes; one volume is in memory."""
    return answer_volumes(volumes, partial(segment_volume, models), NewVolumeMask)


def segment_volume(models: Sequence[OpenModel], volume: NewVolume) -> NewVolumeMask:
    """Predict the mask of a volume. Raises DataError for what training would have refused."""
    card = models[0].card
    read = read_new_volume(volume, card)
    grid, spacing, differs = read.values.shape[:3], read.spacing, read.differs
    pixels = standardize_volume(models[0], read)
    del read  # perf: before the network runs
    decided = decide_volume(mean_network(models), pixels, 0, grid, card.precision)
    if decided is None:
        fix = NO_OUTPUT_FIX if len(models) == 1 else "name another seed by its run's id"
        return NewVolumeMask(name=volume.name, refused=f"{volume.name}: the model's output is not finite", fix=fix)
    return NewVolumeMask(name=volume.name, mask=decided, volume=volume.files[0], spacing=spacing, differs=differs)


def along_file(answer: NewAnswer) -> NewMask:
    """The mask of an image as it is, and that of a NIfTI volume along the axes of its file."""
    assert isinstance(answer, NewMask)
    if not isinstance(answer, NewVolumeMask) or answer.mask is None or answer.volume is None:
        return answer
    return replace(answer, mask=from_upright(answer.mask, answer.volume))


def standardize_volume(model: OpenModel, volume: ReadVolume) -> VolumePixels:
    """Resample and standardize a volume as the bench decoded those of training."""
    import torch

    card = model.card
    assert card.volumes is not None
    target = card.volumes["spacing"]
    shape = resampled_shape(volume.values.shape[:3], volume.spacing, target)
    voxels, mean, std = standardize(volume.values, shape)
    gains, offsets = scale_to_window(mean[None], std[None], card.volumes["window"])
    return VolumePixels(
        voxels=torch.from_numpy(voxels.reshape(-1, card.channels)),
        masks=torch.empty(0, dtype=torch.uint8),
        starts=torch.zeros(1, dtype=torch.int64),
        shapes=torch.tensor([shape]),
        gains=torch.from_numpy(gains).float().to(model.device),
        offsets=torch.from_numpy(offsets).float().to(model.device),
        clipped=card.volumes["window"] is not None,
        patch=tuple(card.volumes["patch"]),
        sides=Sides(model.spec.size_multiple, model.spec.min_image_size),
        spacing=target and tuple(target),
        device=model.device,
    )


def mean_network(models: Sequence[OpenModel]) -> Network:
    """The network of one model; of several, the mean of their probabilities for a patch, whose largest decides."""
    import torch

    if len(models) == 1:
        return models[0].module
    return lambda patch: torch.stack([model.module(patch).float().softmax(dim=1) for model in models]).mean(dim=0)
