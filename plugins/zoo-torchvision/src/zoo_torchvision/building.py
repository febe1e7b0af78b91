"""Build a torchvision module with its original head, and load its weights strictly."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from zoo import BuildRequest, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

AUXILIARY = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
# DenseNet files are from a time when module names could contain dots: denselayer1.norm.1 is now denselayer1.norm1
DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def build_model(name: str, request: BuildRequest) -> nn.Module:
    """Build the original architecture; the core then replaces its head and first convolution."""
    from torchvision import models

    arguments: dict[str, object] = {}
    if name in AUXILIARY:
        # The auxiliary heads are built so that the file loads strictly. `transform_input` would turn images normalized
        # with ImageNet's mean and std into (x - .5) / .5; the spec already declares .5 and .5.
        arguments = {"aux_logits": True, "transform_input": False, "init_weights": request.weights is None}
    if name.startswith("vit_"):
        arguments = {"image_size": request.image_size}
    module: nn.Module = models.get_model(name, weights=None, **arguments)
    if request.weights is not None:
        load_weights(module, request.weights, convert=partial(convert_state, name, module))
    if name in AUXILIARY:
        drop_auxiliary_heads(module, AUXILIARY[name])
    return module


def drop_auxiliary_heads(module: nn.Module, heads: tuple[str, ...]) -> None:
    """Make `forward` return one tensor in training too: the auxiliary losses belong to another recipe."""
    module.aux_logits = False
    for head in heads:
        setattr(module, head, None)


def convert_state(name: str, module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of an older torchvision, or of another image size, to current names and shapes."""
    import torch

    converted = OrderedDict((DENSE_LAYER.sub(r"\1\2", key), value) for key, value in state.items())
    # files older than torch 0.4.1 have no batch counters; torch's own loader also sets them to zero
    for key in module.state_dict():
        if key.endswith(".num_batches_tracked") and key.replace("num_batches_tracked", "running_mean") in converted:
            converted.setdefault(key, torch.tensor(0))
    if name.startswith("vit_") and "encoder.pos_embedding" in converted:
        resize_position_embedding(module, converted)
    if name.startswith("mnasnet"):
        # MNASNet requires the version of its state dict, which safetensors files do not store
        converted._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    return converted


def resize_position_embedding(module: nn.Module, state: OrderedDict[str, Tensor]) -> None:
    """Interpolate the position embedding to the module's grid, as torchvision's references do (bicubic)."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    saved = state["encoder.pos_embedding"]
    own = module.state_dict()["encoder.pos_embedding"]
    tokens = saved.shape[1] - 1 if saved.ndim == 3 else 0
    if saved.shape[0] == 1 and tokens == int(tokens**0.5) ** 2 > 0 and saved.shape[2:] == own.shape[2:]:
        interpolate_embeddings(module.image_size, module.patch_size, state)  # type: ignore[arg-type]


def layer_groups(module: nn.Module) -> list[list[nn.Parameter]]:
    """Group the parameters from stem to head, one group per block; containers are opened."""
    seen: set[int] = set()
    groups = []
    for group in open_containers(module, depth=3):
        fresh = [parameter for parameter in group if parameter.requires_grad and id(parameter) not in seen]
        seen.update(id(parameter) for parameter in fresh)
        if fresh:
            groups.append(fresh)
    return groups


def open_containers(module: nn.Module, depth: int) -> list[list[nn.Parameter]]:
    """List the parameters of each child; recurse into Sequential, ModuleList and a transformer's encoder."""
    from torch import nn

    groups = [list(module.parameters(recurse=False))]  # class token, position embedding
    for name, child in module.named_children():
        if depth > 1 and (isinstance(child, nn.Sequential | nn.ModuleList) or name == "encoder"):
            groups += open_containers(child, depth - 1)
        else:
            groups.append(list(child.parameters()))
    return groups
