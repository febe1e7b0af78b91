"""timm's classification models from a packaged index; timm is imported only to build one.

The index stores shared values once, in tables; a row of `models` holds positions in these tables.
    families     [[name, citation]]
    layouts      [[classifier, first_conv]]
    sizes        [[image_size, size_multiple, min_image_size, fixed_size, resizable]]
    settings     [[image_size, mean, std, license, pretraining]]
    models       {name: [family, layout, size, features, [[tag, setting, source?], ...]]}
`source` is a hub repository other than timm/<name>.<tag>, or a URL.
"""

from __future__ import annotations

import json
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

from zoo import ModelSpec, Suite, Weights, hookimpl
from zoo_timm.building import build_model, features, layer_groups
from zoo_timm.fetching import fetch_weights
from zoo_timm.hub import build_nothing, find_hub_model

INDEX = Path(__file__).with_name("index.json")
CODE_LICENSE = "Apache-2.0"  # of timm, for an architecture without weights


CODE = 'import timm\n\nmodel = timm.create_model("{name}", num_classes={{num_outputs}}, in_chans={{channels}}{size})'
PRIORITY = 2  # `resnet18` means this plugin's, whichever others are installed
STARTER = Suite(
    name="starter",
    title="seven models of seven families",
    models=(
        "resnet18",
        "resnet50",
        "densenet121",
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "convnext_tiny",
        "vit_small_patch14_dinov2",
    ),
)


@hookimpl
def register_models() -> list[ModelSpec]:
    return [*describe_models((os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"))]


@cache  # perf: zoo-segmentation asks a second time, which would take 30 ms in every command
def describe_models(endpoint: str) -> tuple[ModelSpec, ...]:
    index = read_index()
    hub = ModelSpec(
        name="hf-hub",
        title="any timm checkpoint on the hub: hf-hub:owner/name",
        family="hub",
        build=build_nothing,
        find=find_hub_model,
        prefixes=("timm/",),
    )
    return (*(describe_model(index, endpoint, name) for name in index["models"]), hub)


@hookimpl
def register_suites() -> list[Suite]:
    return [STARTER]


def read_index() -> dict[str, Any]:
    """Read the index that `python -m zoo_timm.make_index` wrote."""
    index: dict[str, Any] = json.loads(INDEX.read_text(encoding="utf-8"))
    return index


def describe_model(index: dict[str, Any], endpoint: str, name: str) -> ModelSpec:
    """Make the spec of one row of the index."""
    family_at, layout_at, size_at, has_features, rows = index["models"][name]
    family, citation = index["families"][family_at]
    classifier, first_conv = index["layouts"][layout_at]
    image_size, size_multiple, min_image_size, fixed_size, resizable = index["sizes"][size_at]
    weights = tuple(describe_weights(index["settings"], endpoint, name, *row) for row in rows)
    default = weights[0] if weights else Weights(tag="", license=CODE_LICENSE)
    return ModelSpec(
        name=name,
        build=partial(build_model, name, bool(resizable)),
        title=f"{name} (timm)",
        family=family,
        image_size=image_size,
        fixed_size=bool(fixed_size),
        size_multiple=size_multiple,
        min_image_size=min_image_size,
        mean=default.mean,
        std=default.std,
        weights=weights,
        license=default.license,
        citation=citation,
        version=1,
        imports=("timm",),
        classifier=classifier,
        first_conv=first_conv,
        fetch_weights=partial(fetch_weights, weights),
        features=features if has_features else None,
        layer_groups=layer_groups,
        priority=PRIORITY,
        code=CODE.format(name=name, size=", img_size={image_size}" if resizable else ""),
    )


def describe_weights(settings: list[Any], endpoint: str, name: str, tag: str, at: int, source: str = "") -> Weights:
    """Make the `Weights` record of one weights row of the index."""
    image_size, mean, std, license_, pretraining = settings[at]
    is_url = source.startswith("http")
    return Weights(
        tag=tag,
        url=source if is_url else f"{endpoint}/{source or f'timm/{name}.{tag}'}/resolve/main/model.safetensors",
        file_names=(source.rpartition("/")[2],) if is_url else (),
        mean=tuple(mean),
        std=tuple(std),
        image_size=image_size,
        license=license_,
        pretraining=tuple(pretraining),
    )
