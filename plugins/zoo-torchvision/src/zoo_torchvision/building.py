"""From a build request to a torchvision module with its own head, its weights loaded strictly."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from zoo import BuildRequest, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

AUXILIARY = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
# The densenet files were saved when module names could hold dots: denselayer1.norm.1 is denselayer1.norm1 today.
DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def build_model(name: str, request: BuildRequest) -> nn.Module:
    """Build the pristine architecture; the core replaces its head and first convolution afterwards."""
    from torchvision import models

    arguments: dict[str, object] = {}
    if name in AUXILIARY:
        # The auxiliary heads are built so that the file loads strictly. `transform_input` would turn images normalised
        # with ImageNet's mean and std into (x - .5) / .5; the spec asks for .5 and .5 in the first place.
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
    """Bring a state dict saved by an older torchvision, or for another image size, to the names and shapes of today."""
    import torch

    converted = OrderedDict((DENSE_LAYER.sub(r"\1\2", key), value) for key, value in state.items())
    # Files older than torch 0.4.1 do not count batches; torch's own loader starts such counts at zero, too.
    for key in module.state_dict():
        if key.endswith(".num_batches_tracked") and key.replace("num_batches_tracked", "running_mean") in converted:
            converted.setdefault(key, torch.tensor(0))
    if name.startswith("vit_") and "encoder.pos_embedding" in converted:
        resize_position_embedding(module, converted)
    if name.startswith("mnasnet"):
        # MNASNet refuses a state dict without its version, and safetensors files do not keep it.
        converted._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    return converted


def resize_position_embedding(module: nn.Module, state: OrderedDict[str, Tensor]) -> None:
    """Interpolate the position embedding to the module's grid, as torchvision's references do (bicubic)."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    found = state["encoder.pos_embedding"]
    own = module.state_dict()["encoder.pos_embedding"]
    tokens = found.shape[1] - 1 if found.ndim == 3 else 0
    if found.shape[0] == 1 and tokens == int(tokens**0.5) ** 2 > 0 and found.shape[2:] == own.shape[2:]:
        interpolate_embeddings(module.image_size, module.patch_size, state)  # type: ignore[arg-type]


def layer_groups(module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters from stem to head, a group a block: children in order, containers opened."""
    groups = open_containers(module, depth=3)
    seen: set[int] = set()
    found = []
    for group in groups:
        fresh = [parameter for parameter in group if parameter.requires_grad and id(parameter) not in seen]
        seen.update(id(parameter) for parameter in fresh)
        if fresh:
            found.append(fresh)
    return found


def open_containers(module: nn.Module, depth: int) -> list[list[nn.Parameter]]:
    """List the parameters of each child; a Sequential, a ModuleList or a transformer's encoder is opened further."""
    from torch import nn

    groups = [list(module.parameters(recurse=False))]  # class token, position embedding
    for name, child in module.named_children():
        if depth > 1 and (isinstance(child, nn.Sequential | nn.ModuleList) or name == "encoder"):
            groups += open_containers(child, depth - 1)
        else:
            groups.append(list(child.parameters()))
    return groups
