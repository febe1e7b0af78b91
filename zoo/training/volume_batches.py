"""Plan and compute the batches of volumes: a patch of each, with its mask, and their augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.data.dataset import DecodedFold
from zoo.data.volumes import DecodedVolumes, VolumePixels
from zoo.specs.protocol import Protocol
from zoo.training.batches import Order
from zoo.training.patches import Foreground, PatchPlan, locate, take_patches
from zoo.training.volume_augmentation import NUM_PARAMETERS, augment_volumes, draw_parameters

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPatches:
    """Patches (n, B) that are drawn but not cut."""

    rows: Tensor  # int64, indices into the dataset
    corners: Tensor  # int64 (n, B, 3): the first voxel of each patch
    parameters: Tensor  # float32 (n, B, NUM_PARAMETERS)

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "corners": self.corners, "parameters": self.parameters}


class VolumeBatches(Order):
    """An endless sequence of batches of patches; each volume gives one patch per pass over train."""

    def __init__(self, dataset: DecodedFold, pixels: VolumePixels, protocol: Protocol, seeds: dict[str, int]) -> None:
        import torch

        super().__init__(dataset, protocol, seeds)
        volumes = dataset.decoded
        assert isinstance(volumes, DecodedVolumes)
        shapes, counts = (torch.from_numpy(each) for each in (volumes.shapes, volumes.columns["counts"]))
        ends = counts.flatten().cumsum(0).reshape(counts.shape)
        foreground = Foreground(torch.from_numpy(volumes.columns["places"]), ends - counts, ends)
        self.pixels = pixels
        self.patches = PatchPlan(pixels.patch, torch.zeros_like(shapes), shapes, foreground)
        self.augments = protocol.augmentation != "none"

    def plan(self, count: int) -> PlannedPatches:
        """Draw the next `count` batches on the host."""
        import torch

        rows = self.rows[self.choose(count)]
        corners = torch.stack([self.patches.draw(each, self.draws) for each in rows])
        if self.augments:
            parameters = torch.stack([draw_parameters(self.size, self.draws) for _ in rows])
        else:
            parameters = torch.zeros(count, self.size, NUM_PARAMETERS)
        return PlannedPatches(rows=rows, corners=corners, parameters=parameters)

    def gather(self, planned: Mapping[str, Tensor]) -> Tensor:
        """The patches of one batch, float16 (B, *patch, channels + 1), on the device that holds the volumes.

        The last channel is the mask. Voxels outside a volume are 0, which is its mean, and background.
        """
        import torch

        rows, pixels = planned["rows"], self.pixels
        indices, inside = locate(planned["corners"], pixels.patch, pixels.starts[rows], pixels.shapes[rows])
        voxels, masks = (take_patches(stored, indices, inside) for stored in (pixels.voxels, pixels.masks))
        return torch.cat([voxels, masks[..., None].to(voxels.dtype)], dim=-1)

    def compute(self, parts: Mapping[str, Tensor], levels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the network's input and the masks of one batch; `levels` if its patches were cut."""
        patches = (self.gather(parts) if levels is None else levels).movedim(-1, 1)
        volumes = self.pixels.normalize(patches[:, :-1], parts["rows"])
        masks = patches[:, -1:].float()
        if self.augments:
            volumes, masks = augment_volumes(volumes, masks, parts["parameters"])
        return volumes.contiguous(), masks[:, 0].long()
