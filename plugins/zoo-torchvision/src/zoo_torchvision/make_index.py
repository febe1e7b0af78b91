"""Write index.json from the installed torchvision: `python -m zoo_torchvision.make_index`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_torchvision import INDEX, LICENSE, URL

if TYPE_CHECKING:
    from torch import nn

ODD_SIZE = 233  # a prime: a model that accepts it accepts any size above its smallest
REFERENCE = re.compile(r"`([^`<]+?)\s*<(https?://[^>]+)>`")
# the file of this tag has no classifier (its values are NaN): it is a backbone for SSD
WITHOUT_CLASSIFIER = {("vgg16", "IMAGENET1K_FEATURES")}
SPECIAL_LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC-BY-NC-4.0"}


def make_index() -> dict[str, Any]:
    """Describe every classification architecture and weights tag of the installed torchvision."""
    import torchvision
    from torchvision import models

    names = models.list_models(module=models)
    return {
        "torchvision": torchvision.__version__.partition("+")[0],
        "models": {name: describe_architecture(name) for name in names},
    }


def describe_architecture(name: str) -> dict[str, Any]:
    """Build one architecture on torch's meta device; describe its parts and the sizes it accepts."""
    from torchvision import models

    builder = models.get_model_builder(name)
    module = build_on_meta(name)
    patch = getattr(module, "patch_size", 0) if name.startswith("vit_") else 0
    enum = models.get_model_weights(name)
    smallest = patch or smallest_size(module, enum.DEFAULT.meta["min_size"][0])
    any_size = bool(patch) or takes(module, ODD_SIZE)
    rows = [
        describe_weights(name, member)
        for member in sorted(enum, key=lambda member: member is not enum.DEFAULT)
        if (name, member.name) not in WITHOUT_CLASSIFIER
    ]
    references = REFERENCE.findall(" ".join((builder.__doc__ or "").split()))
    title, link = min(references, key=lambda reference: "arxiv.org" not in reference[1], default=("", ""))
    entry: dict[str, Any] = {
        "family": builder.__module__.rpartition(".")[2],
        "classifier": find_classifier(module),
        "first_conv": find_first_conv(module),
        "min_image_size": smallest if any_size else 224,
        "citation": f"{title}, {link}".strip(", "),
        "weights": rows,
    }
    if not any_size:
        entry["fixed_size"] = True
    if patch:
        entry["size_multiple"] = patch
    return entry


def build_on_meta(name: str) -> nn.Module:
    """Build the architecture as `build_model` does, its parameters on the meta device."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torchvision import models

    from zoo_torchvision.building import AUXILIARY, drop_auxiliary_heads

    class ParametersOnMeta(TorchFunctionMode):
        """Use `torch.device("meta")` for parameters only: RegNet computes its widths with tensors and reads them."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **({"device": "meta"} if func is torch.empty else {}) | (kwargs or {}))

    with ParametersOnMeta():
        extra = {"aux_logits": True, "init_weights": False} if name in AUXILIARY else {}
        module: nn.Module = models.get_model(name, weights=None, **extra)
    if name in AUXILIARY:
        drop_auxiliary_heads(module, AUXILIARY[name])
    return module.to("meta")


def takes(module: nn.Module, size: int) -> bool:
    """Whether two images of `size` pixels yield two rows of logits, in training and evaluation mode."""
    import torch

    images = torch.zeros(2, 3, size, size, device="meta")
    try:
        with torch.no_grad():
            return all(tuple(module.train(mode)(images).shape) == (2, 1000) for mode in (True, False))
    except (RuntimeError, ValueError, AssertionError):  # raised by torch if a map becomes empty or does not fit
        return False


def smallest_size(module: nn.Module, declared: int) -> int:
    """Smallest accepted size: torchvision's figure if it is right, else by bisection."""
    if takes(module, declared) and (declared == 1 or not takes(module, declared - 1)):
        return declared
    low, high = 0, 224  # `low` fails, `high` works
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(module, middle) else (middle, high)
    return high


def find_classifier(module: nn.Module) -> str:
    """Name of the last linear layer or 1x1 convolution with 1,000 outputs."""
    from torch import nn

    classifier = ""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and part.out_features == 1000:
            classifier = name
        if isinstance(part, nn.Conv2d) and part.out_channels == 1000 and part.kernel_size == (1, 1):
            classifier = name
    return classifier


def find_first_conv(module: nn.Module) -> str:
    """Name of the first convolution over three channels."""
    from torch import nn

    names = (
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == 3 and part.groups == 1
    )
    return next(names, "")


def describe_weights(name: str, member: Any) -> dict[str, Any]:
    """Make one row of the index: what differs from the defaults (224 px, ImageNet's mean and std, BSD-3-Clause)."""
    from zoo import Weights
    from zoo_torchvision.building import AUXILIARY

    preset = member.transforms()
    if not member.url.startswith(URL):
        raise ValueError(f"{name}: {member.url} does not begin with {URL}")
    # GoogLeNet and Inception v3 were converted from TensorFlow: their `transform_input` undoes ImageNet's
    # normalization and applies this one.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in AUXILIARY else (tuple(preset.mean), tuple(preset.std))
    size = preset.crop_size[0]
    notice = member.meta.get("license", "")
    swag = "SWAG" in member.name
    row: dict[str, Any] = {"tag": member.name.lower(), "file": member.url.removeprefix(URL)}
    defaults = {"image_size": 224, "license": LICENSE, "pretraining": ["imagenet-1k"]}
    values = {
        "mean": list(mean),
        "std": list(std),
        "image_size": size,
        "license": SPECIAL_LICENSES[notice] if notice else LICENSE,
        "pretraining": ["instagram-3.6b", "imagenet-1k"] if swag else ["imagenet-1k"],
    }
    defaults |= {"mean": list(Weights.mean), "std": list(Weights.std)}
    return row | {key: value for key, value in values.items() if value != defaults[key]}


def to_text(index: dict[str, Any]) -> str:
    """Format the index with one line per architecture, so that a new torchvision yields a readable diff."""
    models = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in index["models"].items())
    return f'{{\n "torchvision": {json.dumps(index["torchvision"])},\n "models": {{\n{models}\n }}\n}}\n'


def main() -> None:
    index = make_index()
    Path(INDEX).write_text(to_text(index), encoding="utf-8")
    rows = sum(len(entry["weights"]) for entry in index["models"].values())
    print(f"{INDEX.name}: {len(index['models'])} architectures, {rows} weights, torchvision {index['torchvision']}")


if __name__ == "__main__":
    main()
