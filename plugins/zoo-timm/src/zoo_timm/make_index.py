"""Write index.json from the installed timm: `python -m zoo_timm.make_index` (about ten minutes, little memory).

Names, tags, normalization and licenses come from timm's registry. The rest is tested on torch's meta device, which has
shapes but no data: whether the head and the first convolution are where the registry says, and which image sizes an
architecture accepts. Architectures with the same kinds of layers accept the same sizes, so only the smallest of each
kind is tested.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo_timm import INDEX
from zoo_timm.pretraining import pretraining_of

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

ODD_SIZES = (233, 331)  # primes: a model that accepts them accepts every size above its smallest
MULTIPLES = (2, 4, 8, 12, 14, 16, 24, 28, 32, 48, 56, 60, 64, 96, 112, 128)
SMALL_SIZES = (32, 48, 64, 96, 112, 128, 160, 192, 224, 256)
LAYER_FACTS = ("kernel_size", "stride", "padding", "dilation", "window_size", "patch_size")
PAPER = re.compile(r"`([^`]+)`[^`]{0,40}?(https?://arxiv\.org/\w+/\d+\.\d+)", re.DOTALL)
TIMM = "Wightman: PyTorch Image Models, https://doi.org/10.5281/zenodo.4414861"
LICENSES = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "unknown": "",
}


class Table:
    """Rows that many entries share, each stored once and referenced by its position."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, row: object) -> int:
        return self.places.setdefault(json.dumps(row), len(self.places))

    def rows(self) -> list[Any]:
        return [json.loads(text) for text in self.places]


def make_index(names: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe the architectures `names` (default: all that can be classifiers) of the installed timm."""
    import timm

    warnings.simplefilter("ignore")
    logging.getLogger("timm").setLevel(logging.ERROR)
    facts = {}
    for name in names or timm.list_models():
        module = build_on_meta(name)
        if has_head(module):
            facts[name] = describe_module(name, module)
        else:
            print(f"left out: {name} cannot have a classification head", file=sys.stderr)
    smallest: dict[object, str] = {}
    for name, fact in sorted(facts.items(), key=lambda pair: pair[1]["num_parts"]):
        smallest.setdefault(fact["kind"], name)
    print(f"{len(facts)} architectures of {len(smallest)} kinds", file=sys.stderr)
    sizes_by_kind = {}
    for kind, name in smallest.items():
        sizes_by_kind[kind] = try_sizes(name, build_on_meta(name))
        print(f"{len(sizes_by_kind)}/{len(smallest)} {name} {sizes_by_kind[kind]}", file=sys.stderr)

    families, layouts, sizes, settings = Table(), Table(), Table(), Table()
    models = {}
    for name, fact in facts.items():
        sizing = sizes_by_kind[fact["kind"]]
        family = family_of(name)
        models[name] = [
            families.place([family, citation_of(family)]),
            layouts.place([fact["classifier"], fact["first_conv"]]),
            sizes.place([fact["native"], *sizing] if sizing else [fact["native"], 1, fact["native"], 1, 0]),
            int(fact["features"]),
            [describe_weights(settings, name, tag, config) for tag, config in pretrained_tags(name)],
        ]
    return {
        "timm": timm.__version__,
        "families": families.rows(),
        "layouts": layouts.rows(),
        "sizes": sizes.rows(),
        "settings": settings.rows(),
        "models": models,
    }


# --- from the registry -----------------------------------------------------------------------------------------------
def family_of(name: str) -> str:
    from timm.models import model_entrypoint

    return str(model_entrypoint(name).__module__.rpartition(".")[2])


def citation_of(family: str) -> str:
    """First paper that the module of the family cites, else timm itself."""
    paper = PAPER.search(sys.modules[f"timm.models.{family}"].__doc__ or "")
    return f"{' '.join(paper[1].split())}, {paper[2]}" if paper else TIMM


def pretrained_tags(name: str) -> list[tuple[str, PretrainedCfg]]:
    """The tags of an architecture that have weights, the default first."""
    from timm.models import get_arch_pretrained_cfgs

    tags = []
    for full, config in get_arch_pretrained_cfgs(name).items():
        if config.has_weights:
            tags.append((full.partition(".")[2], config))
    return tags


def describe_weights(settings: Table, name: str, tag: str, config: PretrainedCfg) -> list[Any]:
    """Make one row of the index: tag, position of its settings, and its source unless that is timm/<name>.<tag>."""
    license_ = config.license or ""
    setting = [
        config.input_size[-1],
        list(config.mean),
        list(config.std),
        LICENSES.get(license_, license_),
        list(pretraining_of(tag)),
    ]
    source = config.hf_hub_id or config.url or ""
    usual = f"timm/{name}.{tag}" if tag else f"timm/{name}"
    return [tag, settings.place(setting), *([] if source == usual else [source])]


# --- from test runs --------------------------------------------------------------------------------------------------
def build_on_meta(name: str, **arguments: Any) -> nn.Module:
    """Build an architecture as pretrained, on the meta device; with 5 outputs if its weights have no head."""
    import timm
    import torch

    with torch.device("meta"):
        module: nn.Module = timm.create_model(name, **arguments)
        if getattr(module, "num_classes", None) == 0 and hasattr(module, "reset_classifier"):
            module.reset_classifier(5)
    return module.eval()


def has_head(module: nn.Module) -> bool:
    """Whether the architecture can classify; encoders of language models cannot."""
    return hasattr(module, "reset_classifier") and getattr(module, "num_classes", 0) > 0


def describe_module(name: str, module: nn.Module) -> dict[str, Any]:
    """Collect the facts that do not depend on the image size."""
    return {
        "kind": kind_of(name, module),
        "num_parts": sum(1 for _ in module.modules()),
        "classifier": find_classifier(module),
        "first_conv": find_first_conv(module),
        "native": native_size(module),
        "features": gives_features(module),
    }


def native_size(module: nn.Module) -> int:
    return int(module.pretrained_cfg["input_size"][-1])  # type: ignore[index]


def is_resizable(module: nn.Module) -> bool:
    """Whether the constructor fixes the image size and accepts it as an argument."""
    declared = bool(module.pretrained_cfg.get("fixed_input_size"))  # type: ignore[operator]
    return declared and any(
        "img_size" in inspect.signature(level.__init__).parameters for level in type(module).__mro__[:-1]
    )


def kind_of(name: str, module: nn.Module) -> tuple[object, ...]:
    """Key of modules that accept the same sizes: their layers without width, and the number of strides."""
    facts = set()
    strides: Counter[object] = Counter()
    for part in module.modules():
        values = [getattr(part, fact, None) for fact in LAYER_FACTS]
        fact = (type(part).__name__, *(str(value) for value in values if isinstance(value, int | tuple)))
        facts.add(fact)
        if getattr(part, "stride", 1) not in (1, (1, 1)):
            strides[fact] += 1
    return (family_of(name), is_resizable(module), frozenset(facts), frozenset(strides.items()))


def try_sizes(name: str, module: nn.Module) -> list[int]:
    """Return [size_multiple, min_image_size, fixed_size, resizable]; empty if only the native size is accepted."""
    native, resizable = native_size(module), is_resizable(module)
    if not takes(module, native):
        raise ValueError(f"{name} returns no logits at {native} px")
    patch = patch_size(module) if resizable else 1
    candidates = [number for number in sorted({1, *MULTIPLES, patch}) if number % patch == 0]
    multiple = next((number for number in candidates if fits_multiple(name, module, native, number, resizable)), 0)
    if not multiple:
        return []
    small = sorted({-(-size // multiple) * multiple for size in SMALL_SIZES if size < native})
    smallest = next((size for size in small if accepts(name, module, size, resizable)), native)
    return [multiple, smallest, 0, int(resizable)]


def fits_multiple(name: str, module: nn.Module, native: int, multiple: int, resizable: bool) -> bool:
    """Whether multiples of `multiple` are accepted, odd and even, near the native size and well above it."""
    if multiple == 1:
        sizes = list(ODD_SIZES)
    else:
        times = native // multiple | 1  # odd, so that no larger power of two divides the size
        sizes = [multiple * (times + step) for step in (2, -2 if times > 3 else 6, 3, 4)]
    return all(accepts(name, module, size, resizable) for size in sizes)


def patch_size(module: nn.Module) -> int:
    """Side of a transformer's patches; other multiples are accepted, but the last rows of the image are ignored."""
    from torch import nn

    first = submodule(module, find_first_conv(module).partition(",")[0])
    whole = isinstance(first, nn.Conv2d) and first.kernel_size == first.stride and first.padding == (0, 0)
    return first.kernel_size[0] if whole else 1


def accepts(name: str, module: nn.Module, size: int, resizable: bool) -> bool:
    """Whether the architecture returns logits at `size` and, built for that size, also loads the native weights."""
    if not resizable:
        return takes(module, size)
    import timm
    import torch

    # architectures without weights are skipped; some hybrids would download those of their backbone
    pretrained = timm.models.is_model_pretrained(name)
    overlay = {"state_dict": dict(module.state_dict()), "source": None, "num_classes": module.num_classes}
    arguments = {"num_classes": module.num_classes, "pretrained_cfg_overlay": overlay}
    try:
        with torch.device("meta"):
            resized = timm.create_model(name, pretrained=pretrained, img_size=size, **arguments).eval()
    except (RuntimeError, ValueError, AssertionError, IndexError, KeyError, TypeError, ZeroDivisionError):
        return False
    return takes(resized, size)


def takes(module: nn.Module, size: int) -> bool:
    """Whether two images of `size` pixels yield two rows of logits."""
    import torch

    images = torch.zeros(2, 3, size, size, device="meta")
    try:
        with torch.no_grad():
            outputs = module(images)
    # raised by torch and timm if a map becomes empty or cannot be divided into windows
    except (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError):
        return False
    return isinstance(outputs, torch.Tensor) and tuple(outputs.shape) == (2, module.num_classes)


def gives_features(module: nn.Module) -> bool:
    """Whether the module has timm's `forward_head` with `pre_logits`."""
    forward_head = getattr(module, "forward_head", None)
    return forward_head is not None and "pre_logits" in inspect.signature(forward_head).parameters


def find_classifier(module: nn.Module) -> str:
    """Classifiers in the registry, comma-separated (distilled models have two), if zoo can replace them."""
    from torch import nn

    names = as_names(module.pretrained_cfg.get("classifier"))  # type: ignore[operator]
    # distilled LeViTs of stride 8 have a second head that is not in the registry
    names += [name for name in distillation_heads(module) if name not in names]
    parts = [submodule(module, name) for name in names]
    plain = all(
        isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)) for part in parts
    )
    return ",".join(names) if plain else ""


def distillation_heads(module: nn.Module) -> list[str]:
    from torch import nn

    return [
        name
        for name, part in module.named_modules()
        if "head_dist" in name and isinstance(part, nn.Linear) and part.out_features == module.num_classes
    ]


def find_first_conv(module: nn.Module) -> str:
    """First convolutions in the registry, comma-separated (some stems have two), if their input is the image."""
    from torch import nn

    names = as_names(module.pretrained_cfg.get("first_conv"))  # type: ignore[operator]
    parts = [submodule(module, name) for name in names]
    plain = all(isinstance(part, nn.Conv2d) and part.in_channels == 3 and part.groups == 1 for part in parts)
    return ",".join(names) if plain else ""


def as_names(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


# --- the file --------------------------------------------------------------------------------------------------------
def to_text(index: dict[str, Any]) -> str:
    """Format the index with one line per architecture, so that a new timm yields a readable diff."""
    compact = {"separators": (",", ":")}
    tables = [f"{json.dumps(key)}:{json.dumps(index[key], **compact)}" for key in index if key != "models"]
    models = ",\n".join(f"{json.dumps(name)}:{json.dumps(row, **compact)}" for name, row in index["models"].items())
    return "{" + ",\n".join([*tables, f'"models":{{\n{models}\n}}']) + "}\n"


def main() -> None:
    index = make_index()
    INDEX.write_text(to_text(index), encoding="utf-8")
    num_weights = sum(len(row[4]) for row in index["models"].values())
    print(f"{INDEX.name}: {len(index['models'])} architectures, {num_weights} weights, timm {index['timm']}")


if __name__ == "__main__":
    main()
