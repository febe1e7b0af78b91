"""Networks that label every pixel or voxel.

`unet2d`, `unet3d`, and `unet-NAME` on the encoder NAME of zoo-timm or zoo-torchvision.
"""

from __future__ import annotations

from functools import partial

import zoo_timm
import zoo_torchvision
from zoo import ModelSpec, hookimpl
from zoo_segmentation.encoders import build_on_encoder, encoder_first
from zoo_segmentation.plain import build_plain
from zoo_segmentation.volumes import build_plain_3d

TASKS = ("segmentation",)
RONNEBERGER = "Ronneberger et al. 2015, MICCAI, arXiv:1505.04597"


CICEK = "Cicek et al. 2016, MICCAI, arXiv:1606.06650"


@hookimpl
def register_models() -> list[ModelSpec]:
    encoders = {spec.name: spec for spec in (*zoo_torchvision.register_models(), *zoo_timm.register_models())}
    return [
        plain_unet(),
        plain_unet_3d(),
        *(on_encoder(spec) for spec in encoders.values() if spec.first_conv and not spec.fixed_size),
    ]


def plain_unet() -> ModelSpec:
    """The U-Net of nnU-Net in 2-D, with batch normalization and half the channels."""
    return ModelSpec(
        name="unet2d",
        build=build_plain,
        title="plain U-Net",
        family="unet",
        tasks=TASKS,
        image_size=256,
        size_multiple=16,
        citation=f"{RONNEBERGER}; Isensee et al. 2021, Nature Methods 18:203",
        license="Apache-2.0",
        version=2,
    )


def plain_unet_3d() -> ModelSpec:
    """The U-Net that nnU-Net uses for volumes, with half the channels."""
    return ModelSpec(
        name="unet3d",
        build=build_plain_3d,
        title="plain 3-D U-Net",
        family="unet",
        tasks=TASKS,
        dims=(3,),
        image_size=128,
        size_multiple=8,
        min_image_size=16,  # instance normalization needs two voxels at the lowest level
        channels=1,
        mean=(0.0,),
        std=(1.0,),
        citation=f"{CICEK}; Isensee et al. 2021, Nature Methods 18:203",
        license="Apache-2.0",
        version=1,
    )


def on_encoder(spec: ModelSpec) -> ModelSpec:
    """A U-Net whose encoder is a classification model, with its weights."""
    return ModelSpec(
        name=f"unet-{spec.name}",
        build=partial(build_on_encoder, spec),
        title=f"U-Net on {spec.title}",
        family="unet",
        tasks=TASKS,
        image_size=spec.image_size,
        size_multiple=32,
        min_image_size=max(64, spec.min_image_size),
        channels=spec.channels,
        mean=spec.mean,
        std=spec.std,
        weights=spec.weights,
        weights_of=spec.weights_of or spec.name,
        weights_part="encoder",
        license=spec.license,
        citation=f"{RONNEBERGER}; {spec.citation}",
        version=2,
        imports=spec.imports,
        first_conv=",".join(f"encoder.{name}" for name in spec.first_conv.split(",")),
        fetch_weights=spec.fetch_weights,
        layer_groups=encoder_first,
        priority=spec.priority,
    )
