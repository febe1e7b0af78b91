"""MONAI's segmentation networks, for images and for volumes, and DenseNet-121 for volumes, from random init."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo import BuildRequest, ModelSpec, hookimpl
from zoo_monai.building import build_densenet121, build_dynunet, build_segresnet, build_swinunetr, build_unetr

if TYPE_CHECKING:
    from torch import nn

HATAMIZADEH = "Hatamizadeh et al. 2022, WACV, arXiv:2103.10504"


class Network(NamedTuple):
    """A network in two and three dimensions. `parameters` are in millions, at `image_size`."""

    name: str
    title: str
    build: Callable[[BuildRequest], nn.Module]
    parameters: tuple[str, str]
    size_multiple: int
    min_image_size: int  # twice the multiple where instance normalization needs two voxels at the lowest level
    citation: str


SEGRESNET = partial(Network, size_multiple=8, min_image_size=8, citation="Myronenko 2018, BrainLes, arXiv:1810.11654")
SWINUNETR = partial(
    Network, size_multiple=32, min_image_size=64, citation="Hatamizadeh et al. 2021, BrainLes, arXiv:2201.01266"
)
NETWORKS = (
    SEGRESNET("segresnet{}d", "SegResNet, 32 filters", partial(build_segresnet, 32), ("6.3", "18.8")),
    SEGRESNET("segresnet{}d-16", "SegResNet, 16 filters", partial(build_segresnet, 16), ("1.6", "4.7")),
    Network(
        "dynunet{}d",
        "DynUNet, five levels of nnU-Net's widths",
        build_dynunet,
        ("7.8", "16.5"),
        size_multiple=16,
        min_image_size=32,
        citation="Isensee et al. 2021, Nature Methods 18:203; Futrega et al. 2021, BrainLes, arXiv:2110.03352",
    ),
    Network(
        "unetr{}d",
        "UNETR, ViT-B encoder",
        build_unetr,
        ("87.7", "93.0"),
        size_multiple=16,
        min_image_size=16,
        citation=HATAMIZADEH,
    ),
    SWINUNETR("swinunetr{}d", "Swin UNETR, 48 features", partial(build_swinunetr, 48), ("25.1", "62.2")),
    SWINUNETR("swinunetr{}d-24", "Swin UNETR, 24 features", partial(build_swinunetr, 24), ("6.3", "15.7")),
)
OF_VOLUMES: dict[str, Any] = {"channels": 1, "mean": (0.0,), "std": (1.0,)}
DENSENET121_3D = ModelSpec(
    name="densenet121_3d",
    build=build_densenet121,
    title="DenseNet-121 (3-D, 11.2 M parameters)",
    family="densenet",
    dims=(3,),
    image_size=96,
    min_image_size=32,
    classifier="class_layers.out",
    citation="Huang et al. 2017, CVPR, arXiv:1608.06993",
    license="Apache-2.0",
    version=1,
    imports=("monai.networks.nets",),
    **OF_VOLUMES,
)


@hookimpl
def register_models() -> list[ModelSpec]:
    return [*(describe(network, dims) for network in NETWORKS for dims in (2, 3)), DENSENET121_3D]


def describe(network: Network, dims: int) -> ModelSpec:
    """Make the spec of a network for images or for volumes."""
    return ModelSpec(
        name=network.name.format(dims),
        build=network.build,
        title=f"{network.title} ({dims}-D, {network.parameters[dims - 2]} M parameters)",
        family=network.name.partition("{")[0],
        tasks=("segmentation",),
        dims=(dims,),
        image_size=256 if dims == 2 else 128,
        size_multiple=network.size_multiple,
        min_image_size=network.min_image_size,
        citation=network.citation,
        license="Apache-2.0",
        version=1,
        imports=("monai.networks.nets",),
        **(OF_VOLUMES if dims == 3 else {}),
    )
