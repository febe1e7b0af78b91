"""Plan and compute the batches of volumes, and their augmentation: a patch of each with its mask, or the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.cube_pixels import CubePixels
from zoo.data.dataset import DecodedFold
from zoo.data.volumes import DecodedVolumes, VolumePixels
from zoo.specs.choice import Choice
from zoo.specs.protocol import Protocol
from zoo.system.machine import torch_generator
from zoo.training.batches import open_targets
from zoo.training.patches import Foreground, PatchPlan, locate_patches, take_patches
from zoo.training.sampling import BatchSource
from zoo.training.volume_augmentation import NUM_PARAMETERS, augment_volumes, draw_parameters, turn_volumes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPatches:
    """Patches (n, B) that are drawn but not cut."""

    rows: Tensor  # int64, indices into the dataset
    corners: Tensor  # int64 (n, B, 3): the first voxel of each patch
    parameters: Tensor  # float32 (n, B, NUM_PARAMETERS)
    turns: Tensor  # uint8 (n, B, S): 0 to 3 for each symmetry
    transforms: Tensor | None = None  # float32 (n, B, K), the draws of all augmenting transforms

    def tensors(self) -> dict[str, Tensor]:
        parts = {"rows": self.rows, "corners": self.corners, "parameters": self.parameters, "turns": self.turns}
        return parts if self.transforms is None else parts | {"transforms": self.transforms}


class AugmentedSource(BatchSource):
    """Batches of volumes, of which each is changed by its own parameters and symmetries."""

    augments: bool
    symmetries: Sequence[str]

    def draw_changes(self, count: int, lengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The parameters and turns of `count` batches; `lengths` are those of `draw_parameters`."""
        import torch

        parameters = torch.zeros(count, self.size, NUM_PARAMETERS)
        for batch in parameters if self.augments else ():
            batch.copy_(draw_parameters(self.size, lengths, self.generators["draws"]))
        turns = torch.zeros(count, self.size, len(self.symmetries), dtype=torch.uint8)
        for batch in turns if self.symmetries else ():
            batch.copy_(torch.randint(0, 4, batch.shape, generator=self.generators["draws"]))
        return parameters, turns

    def transform_volumes(self, volumes: Tensor, draws: Tensor | None) -> Tensor:
        """Apply the augmenting transforms to standardized volumes (B, C, ...), each with its range mapped to 0..1."""
        if draws is None:
            return volumes
        low, high = volumes.amin(dim=(1, 2, 3, 4), keepdim=True), volumes.amax(dim=(1, 2, 3, 4), keepdim=True)
        spread = (high - low).clamp(min=1e-6)
        return self.transform((volumes - low) / spread, draws) * spread + low


class VolumeBatches(AugmentedSource):
    """An endless sequence of batches of patches; each volume gives one patch per pass over train."""

    pixels: VolumePixels

    def __init__(
        self,
        dataset: DecodedFold,
        pixels: VolumePixels,
        protocol: Protocol,
        seeds: dict[str, int],
        choices: Mapping[str, Sequence[Choice]] = MappingProxyType({}),
    ) -> None:
        import torch

        super().__init__(dataset, protocol, seeds, choices)
        volumes = dataset.decoded
        assert isinstance(volumes, DecodedVolumes)
        shapes, counts = (torch.from_numpy(each) for each in (volumes.shapes, volumes.columns["counts"]))
        ends = counts.flatten().cumsum(0).reshape(counts.shape)
        foreground = Foreground(torch.from_numpy(volumes.columns["places"]), ends - counts, ends)
        self.generators["places"] = torch_generator(seeds["patches"])
        self.pixels = pixels
        self.patches = PatchPlan(pixels.patch, torch.zeros_like(shapes), shapes, foreground)
        self.augments = protocol.augmentation != "none"
        self.symmetries = dataset.symmetries if protocol.symmetries else ()
        self.lengths = np.multiply(pixels.patch, pixels.spacing or 1.0).tolist()

    def plan(self, count: int) -> PlannedPatches:
        """Draw the next `count` batches on the host."""
        import torch

        rows = self.rows[self.choose(count)]
        corners = torch.stack([self.patches.draw(each, self.generators["places"]) for each in rows])
        parameters, turns = self.draw_changes(count, self.lengths)
        drawn = self.draw_transforms(count)
        return PlannedPatches(rows=rows, corners=corners, parameters=parameters, turns=turns, **drawn)

    def unpack(self, parts: Mapping[str, Tensor]) -> PlannedPatches:
        """Reverse `PlannedPatches.tensors`."""
        return PlannedPatches(**parts)

    def gather(self, planned: PlannedPatches) -> list[Tensor]:
        """Cut the patches of one batch: voxels, float16 (B, *patch, channels), and masks, uint8 (B, *patch).

        Voxels outside a volume are 0, which is its mean, and background.
        """
        rows, pixels = planned.rows, self.pixels
        places = locate_patches(planned.corners, pixels.patch, pixels.starts[rows], pixels.shapes[rows])
        return [take_patches(stored, *places) for stored in (pixels.voxels, pixels.masks)]

    def compute(self, planned: PlannedPatches, gathered: list[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Compute the network's input and the masks of one batch, from what `gather` read."""
        voxels, labels = gathered or self.gather(planned)
        volumes, masks = self.pixels.normalize(voxels.movedim(-1, 1), planned.rows), labels[:, None].float()
        volumes, masks = (turn_volumes(each, self.symmetries, planned.turns) for each in (volumes, masks))
        if self.augments:
            volumes, moved = augment_volumes(volumes, masks, planned.parameters)
            assert moved is not None
            masks = moved
        volumes = self.transform_volumes(volumes, planned.transforms)
        return volumes.contiguous(), masks[:, 0].long()


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedCubes:
    """Whole volumes (n, B) that are drawn but not read."""

    rows: Tensor  # int64, indices into the dataset
    targets: Tensor  # int64, indices into train's targets
    parameters: Tensor  # float32 (n, B, NUM_PARAMETERS)
    turns: Tensor  # uint8 (n, B, S): 0 to 3 for each symmetry
    transforms: Tensor | None = None  # float32 (n, B, K), the draws of all augmenting transforms

    def tensors(self) -> dict[str, Tensor]:
        parts = {"rows": self.rows, "targets": self.targets, "parameters": self.parameters, "turns": self.turns}
        return parts if self.transforms is None else parts | {"transforms": self.transforms}


class CubeBatches(AugmentedSource):
    """An endless sequence of batches of whole volumes and encoded targets."""

    pixels: CubePixels

    def __init__(
        self,
        dataset: DecodedFold,
        pixels: CubePixels,
        protocol: Protocol,
        seeds: dict[str, int],
        choices: Mapping[str, Sequence[Choice]] = MappingProxyType({}),
    ) -> None:
        super().__init__(dataset, protocol, seeds, choices)
        self.pixels = pixels
        self.targets = open_targets(dataset, pixels.device)
        self.augments = protocol.augmentation != "none"
        self.symmetries = dataset.symmetries if protocol.symmetries else ()

    def plan(self, count: int) -> PlannedCubes:
        """Draw the next `count` batches on the host."""
        chosen = self.choose(count)
        parameters, turns = self.draw_changes(count, (1.0, 1.0, 1.0))
        drawn = self.draw_transforms(count)
        return PlannedCubes(rows=self.rows[chosen], targets=chosen, parameters=parameters, turns=turns, **drawn)

    def unpack(self, parts: Mapping[str, Tensor]) -> PlannedCubes:
        """Reverse `PlannedCubes.tensors`."""
        return PlannedCubes(**parts)

    def gather(self, planned: PlannedCubes) -> list[Tensor]:
        """Read the voxels of one batch, on the device where they are stored."""
        return [self.pixels.gather(planned.rows)]

    def compute(self, planned: PlannedCubes, gathered: list[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Compute the network's input and the loss's targets of one batch, from what `gather` read."""
        (voxels,) = gathered or self.gather(planned)
        volumes = turn_volumes(self.pixels.to_input(voxels, planned.rows), self.symmetries, planned.turns)
        if self.augments:
            volumes, _ = augment_volumes(volumes, None, planned.parameters)
        volumes = self.transform_volumes(volumes, planned.transforms)
        return volumes.contiguous(), self.targets.index_select(0, planned.targets)
