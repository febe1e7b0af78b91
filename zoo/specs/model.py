"""Specs of models and their weights.

Everything a list or a report needs is plain data, importable without torch or pandas; the callables import what is
heavy when they are called. Every callable takes one frozen request, so that requests can grow without breaking plugins.
All records are keyword-only and new fields have defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

from zoo.specs.dataset import FetchRequest
from zoo.specs.metric import CLASSIFICATION

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of pretrained weights of a model, as plain data."""

    tag: str  # "a1_in1k"
    url: str = ""  # where `fetch_weights` would download from; its host is what the reachability probe asks
    file_names: tuple[str, ...] = ()  # other names a local file may have, without folder
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224  # the size the weights were trained at
    license: str = ""
    pretraining: tuple[str, ...] = ()  # dataset names, so that overlap with a benchmark can be matched


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a model is built for. `weights` is a local file, or None for random init."""

    num_outputs: int
    channels: int
    image_size: int
    weights: Path | None = None
    tag: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model that can be built for any number of outputs and channels.

    `build` returns the architecture with its weights loaded. Where `classifier` and `first_conv` name submodules
    ("fc", "conv1"; dotted), the core replaces the head (`num_outputs`) and sums the first convolution's weights
    (`channels`), the same way for every plugin, and `build` may ignore those two fields of the request. Where they are
    empty, `build` itself must return a module of `num_outputs` outputs; without `first_conv` gray images are repeated
    to `channels`. The module maps images float32 (N, channels, H, W) to logits (N, num_outputs).
    """

    name: str
    build: Callable[[BuildRequest], nn.Module]
    title: str = ""
    family: str = ""
    tasks: tuple[str, ...] = CLASSIFICATION
    image_size: int = 224
    fixed_size: bool = False  # True: `image_size` is the only one taken
    size_multiple: int = 1
    min_image_size: int = 1
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    weights: tuple[Weights, ...] = ()  # the first is what the bare name means
    license: str = ""
    citation: str = ""
    version: int = 0  # of the network: raise it when `build` makes another one; 0: every release of the plugin does
    imports: tuple[str, ...] = ()  # modules `build` needs, imported once before workers are forked
    classifier: str = ""
    first_conv: str = ""
    fetch_weights: Callable[[FetchRequest], Path | None] | None = None
    features: Callable[[nn.Module, Tensor], Tensor] | None = None  # (module, images) -> (N, D); default: head removed
    layer_groups: Callable[[nn.Module], list[list[nn.Parameter]]] | None = None  # stem first, head last
    find: Callable[[FetchRequest], ModelSpec] | None = None  # stands for all models called "NAME:...", found when asked
