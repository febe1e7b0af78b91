"""Predict the masks of new volumes with trained models, on the grids of the volumes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.arrays import Array
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


Moments = tuple[Array, Array]  # mean and SD of the values, (channels,)


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
    pixels, moments = standardize_volume(models[0], read)
    del read  # perf: before the network runs
    network = mean_network([network_of(model, moments) for model in models])
    decided = decide_volume(network, pixels, 0, grid, card.precision)
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


def standardize_volume(model: OpenModel, volume: ReadVolume) -> tuple[VolumePixels, Moments]:
    """Resample and standardize a volume as the bench decoded those of training, without a window."""
    import torch

    card = model.card
    assert card.volumes is not None
    target = card.volumes["spacing"]
    shape = resampled_shape(volume.values.shape[:3], volume.spacing, target)
    voxels, mean, std = standardize(volume.values, shape)
    pixels = VolumePixels(
        voxels=torch.from_numpy(voxels.reshape(-1, card.channels)),
        masks=torch.empty(0, dtype=torch.uint8),
        starts=torch.zeros(1, dtype=torch.int64),
        shapes=torch.tensor([shape]),
        gains=torch.ones(1, card.channels, device=model.device),
        offsets=torch.zeros(1, card.channels, device=model.device),
        clipped=False,
        patch=tuple(card.volumes["patch"]),
        sides=Sides(model.spec.size_multiple, model.spec.min_image_size),
        spacing=target and tuple(target),
        device=model.device,
    )
    return pixels, (mean, std)


def network_of(model: OpenModel, moments: Moments) -> Network:
    """The network of a model for standardized voxels. Each fold has its own window, which is measured on its train."""
    import torch

    assert model.card.volumes is not None
    window = model.card.volumes["window"]
    if window is None:
        return model.module
    scales = (torch.from_numpy(each).float().to(model.device) for each in scale_to_window(*moments, window))
    gains, offsets = (each.reshape(1, -1, 1, 1, 1) for each in scales)
    return lambda patch: model.module((patch * gains + offsets).clamp(-2, 2))


def mean_network(networks: Sequence[Network]) -> Network:
    """One network itself; of several, the mean of their probabilities for a patch, whose largest decides."""
    import torch

    if len(networks) == 1:
        return networks[0]
    return lambda patch: torch.stack([network(patch).float().softmax(dim=1) for network in networks]).mean(dim=0)
