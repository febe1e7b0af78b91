"""The plain U-Net of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import BuildRequest

if TYPE_CHECKING:
    from torch import nn

WIDTHS_3D = (16, 32, 64, 128)


def build_plain_3d(request: BuildRequest) -> nn.Module:
    """Four levels of 16 to 128 channels, as nnU-Net builds them: strided convolutions, instance normalization."""
    import torch
    from torch import Tensor, nn

    def block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01, inplace=True))

    class UNet3d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            entering = (request.channels, *WIDTHS_3D[:-1])
            self.encoder = nn.ModuleList(
                nn.Sequential(block(channels, width, stride=1 if level == 0 else 2), block(width, width))
                for level, (channels, width) in enumerate(zip(entering, WIDTHS_3D, strict=True))
            )
            steps = list(zip(WIDTHS_3D[:0:-1], WIDTHS_3D[-2::-1], strict=True))
            self.enlarge = nn.ModuleList(nn.ConvTranspose3d(below, width, 2, stride=2) for below, width in steps)
            self.decoder = nn.ModuleList(
                nn.Sequential(block(2 * width, width), block(width, width)) for _, width in steps
            )
            self.head = nn.Conv3d(WIDTHS_3D[0], request.num_outputs, 1)

        def forward(self, volumes: Tensor) -> Tensor:
            maps = []
            for step in self.encoder:
                volumes = step(volumes)
                maps.append(volumes)
            joined = maps.pop()
            for enlarge, step in zip(self.enlarge, self.decoder, strict=True):
                joined = step(torch.cat([enlarge(joined), maps.pop()], dim=1))
            logits: Tensor = self.head(joined)
            return logits

    return UNet3d()
