"""Write `load.py`: a few lines of the architecture's own library that load exported weights without zoo."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.results.store import WEIGHTS_FILE
from zoo.specs.model import ModelSpec
from zoo.trained.card import NOTICE, ModelCard

if TYPE_CHECKING:
    from torch import Tensor, nn

LOADER_FILE = "load.py"
TEMPLATE = '''"""{name}: {notice}. The input is levels float32 (B, {channels}, {size}, {size}); see parity.json."""

from pathlib import Path

import torch
from safetensors.torch import load_file

{code}
{changes}model.load_state_dict(load_file(Path(__file__).with_name("{weights}")))
model.eval()


def logits(levels):
    mean, std = (torch.tensor(x).reshape(1, -1, 1, 1) for x in ({mean}, {std}))
    return model(((levels - {low}) / {width} - mean) / std)
'''


def write_loader(card: ModelCard, spec: ModelSpec, folder: Path) -> Callable[[Tensor], Tensor] | None:
    """Write the loader beside the weights and return its `logits`; None if the library's code does not fit them.

    `ModelSpec.code` builds the architecture. A layer that zoo replaced is replaced by one of the stored shape.
    """
    from safetensors.torch import load_file

    if not spec.code:
        return None
    code = spec.code.format(
        num_outputs=card.task_kind.head.num_outputs(len(card.labels)),
        channels=card.channels,
        image_size=card.image_size,
    )
    state = load_file(folder / WEIGHTS_FILE)
    scope: dict[str, Any] = {}
    exec(code, scope)
    low, high = card.intensity
    text = TEMPLATE.format(
        name=re.sub(r"[^\w./ -]", "_", card.name),  # of a foreign card: it must not end the docstring
        notice=NOTICE,
        channels=card.channels,
        size=card.image_size,
        code=code,
        changes="".join(f"{line}\n" for line in changed_layers(scope["model"], spec, state)),
        weights=WEIGHTS_FILE,
        mean=list(card.mean),
        std=list(card.std),
        low=low,
        width=high - low,
    )
    path = folder / LOADER_FILE
    path.write_text(text, encoding="utf-8")
    try:
        logits: Callable[[Tensor], Tensor] = runpy.run_path(str(path))["logits"]
    except (RuntimeError, ValueError):  # the keys, shapes or versions differ: a module that only zoo builds
        path.unlink()
        return None
    return logits


def changed_layers(module: nn.Module, spec: ModelSpec, state: dict[str, Tensor]) -> Iterator[str]:
    """The lines that replace the layers whose weight has another shape than the stored one."""
    from torch import nn

    for name in filter(None, (*spec.classifier.split(","), *spec.first_conv.split(","))):
        layer, weight = module.get_submodule(name), state.get(f"{name}.weight")
        old = getattr(layer, "weight", None)
        if weight is None or (old is not None and old.shape == weight.shape):
            continue
        parent, _, attribute = name.rpartition(".")
        bias = f"{name}.bias" in state
        shape = tuple(weight.shape)
        if len(shape) == 2:
            new = f"torch.nn.Linear({shape[1]}, {shape[0]}, bias={bias})"
        else:
            assert isinstance(layer, nn.Conv2d)
            new = (
                f"torch.nn.Conv2d({shape[1]}, {shape[0]}, {shape[2:]}, stride={layer.stride}, "
                f"padding={layer.padding!r}, bias={bias})"
            )
        yield f"setattr(model.get_submodule({parent!r}), {attribute!r}, {new})"
