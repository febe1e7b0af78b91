"""Build MONAI's networks. All return one map of logits: deep supervision is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo import BuildRequest

if TYPE_CHECKING:
    from torch import Tensor, nn


def interface(request: BuildRequest) -> dict[str, Any]:
    """The arguments that all networks share."""
    return {
        "spatial_dims": request.dims,
        "in_channels": request.channels,
        "out_channels": request.num_outputs,
    }


def build_densenet121(request: BuildRequest) -> nn.Module:
    from monai.networks.nets import DenseNet121

    module: nn.Module = DenseNet121(**interface(request))
    return module


def build_segresnet(filters: int, request: BuildRequest) -> nn.Module:
    from monai.networks.nets import SegResNet

    module: nn.Module = SegResNet(**interface(request), init_filters=filters)
    return module


def build_dynunet(request: BuildRequest) -> nn.Module:
    """Five levels: nnU-Net doubles 32 channels up to 512 for images, and up to 320 for volumes."""
    from monai.networks.nets import DynUNet

    widths = (32, 64, 128, 256, 512 if request.dims == 2 else 320)
    below = [2] * (len(widths) - 1)
    module: nn.Module = DynUNet(
        **interface(request),
        kernel_size=[3] * len(widths),
        strides=[1, *below],
        upsample_kernel_size=below,
        filters=widths,
    )
    return module


def build_swinunetr(features: int, request: BuildRequest) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    module: nn.Module = SwinUNETR(**interface(request), feature_size=features)
    return module


def build_unetr(request: BuildRequest) -> nn.Module:
    """UNETR for any sides that are multiples of 16; MONAI's accepts one size only.

    The position embeddings belong to a square or cube of the side `image_size`. They are resized, as is usual for
    vision transformers, to patches of another shape and to whole volumes.
    """
    import torch
    from monai.networks.nets import UNETR
    from torch import nn

    class AnySizeUNETR(UNETR):  # type: ignore[misc]
        def forward(self, images: Tensor) -> Tensor:
            embedding = self.vit.patch_embedding
            embedded = embedding.patch_embeddings(images)
            grid = embedded.shape[2:]
            tokens = as_tokens(embedded + self.positions(grid))
            levels = []
            for block in self.vit.blocks:
                tokens = block(tokens)
                levels.append(as_map(tokens, grid))
            joined = as_map(self.vit.norm(tokens), grid)
            joined = self.decoder5(joined, self.encoder4(levels[9]))
            joined = self.decoder4(joined, self.encoder3(levels[6]))
            joined = self.decoder3(joined, self.encoder2(levels[3]))
            logits: Tensor = self.out(self.decoder2(joined, self.encoder1(images)))
            return logits

        def positions(self, grid: torch.Size) -> Tensor:
            """The position embeddings as a map (1, features, *grid)."""
            own = as_map(self.vit.patch_embedding.position_embeddings, self.feat_size)
            if own.shape[2:] == grid:
                return own
            mode = "bilinear" if len(grid) == 2 else "trilinear"
            return nn.functional.interpolate(own, grid, mode=mode, align_corners=False)

    return AnySizeUNETR(**interface(request), img_size=request.image_size)


def as_tokens(features: Tensor) -> Tensor:
    """Convert a map (N, features, *grid) to tokens (N, positions, features)."""
    return features.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Convert tokens (N, positions, features) to a map (N, features, *grid)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()
