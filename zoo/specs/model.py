"""Model specs and their weights.

Everything a list or a report needs is plain data that does not import torch or pandas; the callables import heavy
libraries when they are called. Each callable takes one frozen request, so that requests can gain fields without
breaking plugins. All records are keyword-only and new fields have defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.specs.dataset import FetchRequest
from zoo.tasks.kinds import IMAGE_TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A set of pretrained weights of a model, as plain data."""

    tag: str  # "a1_in1k"
    url: str = ""  # of the file; zoo downloads it if the model has no `fetch_weights`, once its host can be reached
    sha256: str = ""  # of the file, or how it begins; default: the hash in the name of the file, if it has one
    file_names: tuple[str, ...] = ()  # other names of a local file, without folder
    mean: tuple[float, ...] = IMAGENET_MEAN  # not that of the model: declare it if it differs
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224  # the size the weights were trained at
    license: str = ""
    pretraining: tuple[str, ...] = ()  # names of its training datasets, to detect overlap with a benchmark


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build a model for. `weights` is a local file, or None for random init."""

    num_outputs: int
    channels: int
    image_size: int  # of volumes: the longest side of a patch
    weights: Path | None = None
    tag: str = ""
    dims: int = 2  # 3: the module maps volumes (N, channels, A, B, C)
    metadata: int = 0  # numbers per image beside it, for models that take them as a second argument
    labels: tuple[str, ...] = ()  # names of the dataset's labels, for models that answer without training


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model that can be built for any number of outputs and channels.

    `build` returns the architecture with its weights loaded. If `classifier` and `first_conv` name submodules ("fc",
    "conv1"; dotted), the core replaces the head (`num_outputs`) and sums the first convolution's weights (`channels`),
    the same way for every plugin, and `build` may ignore these two fields of the request. If they are empty, `build`
    must return a module of `num_outputs` outputs; without `first_conv`, gray images are repeated to `channels`. The
    module maps images float32 (N, channels, H, W) to logits (N, num_outputs), or (N, num_outputs, H, W) for tasks whose
    head is dense. A model of volumes accepts volumes of unequal sides, and of other sides than `image_size`: multiples
    of `size_multiple`, each at least `min_image_size`.
    """

    name: str
    build: Callable[[BuildRequest], nn.Module]
    title: str = ""
    family: str = ""
    tasks: tuple[str, ...] = IMAGE_TASKS
    dims: tuple[int, ...] = (2,)  # 2: images; 3: volumes
    image_size: int = 224
    fixed_size: bool = False  # True: only `image_size` is accepted
    size_multiple: int = 1
    min_image_size: int = 1
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    weights: tuple[Weights, ...] = ()  # a name without a tag means the first
    weights_of: str = ""  # the model whose files `weights` are, as the encoder of a U-Net; empty: this model
    weights_part: str = ""  # the submodule that a file sets, as the encoder; empty: all but the classifier
    derivation: str = ""  # how `build` derives the network's weights from those of a file, if it changes them
    license: str = ""
    citation: str = ""
    version: int = 0  # of the architecture: raise it when `build` changes; 0: it changes with every plugin release
    imports: tuple[str, ...] = ()  # modules that `build` needs, imported once before workers are forked
    classifier: str = ""
    first_conv: str = ""
    fetch_weights: Callable[[FetchRequest], Path | None] | None = None
    features: Callable[[nn.Module, Tensor], Tensor] | None = None  # (module, images) -> (N, D); default: head removed
    layer_groups: Callable[[nn.Module], list[list[nn.Parameter]]] | None = None  # stem first, head last
    find: Callable[[FetchRequest], ModelSpec] | None = None  # resolves any model called "NAME:..." on request
    priority: int = 0  # of several plugins with a model of this name, the plain name means the highest priority
    code: str = ""  # lines of the library's own that set `model`, with {num_outputs}, {channels} and {image_size}
    fixed: bool = False  # nothing is drawn or loaded: features computed by a formula; no protocol can train it
    zero_shot: bool = False  # `build` returns a module that answers about `labels` without training
    metadata: bool = False  # with `request.metadata`, the module takes (images, metadata (N, metadata)) itself
    prefixes: tuple[str, ...] = ()  # other spellings of "PLUGIN:" in front of the models of this plugin
