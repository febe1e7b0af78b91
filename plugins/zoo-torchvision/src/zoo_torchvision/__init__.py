"""torchvision's classification models from a packaged index; torchvision is imported only to build one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from zoo import ModelSpec, Weights, hookimpl
from zoo_torchvision.building import build_model, layer_groups
from zoo_torchvision.fetching import fetch_weights
from zoo_torchvision.inflating import INFLATED, inflate_spec

INDEX = Path(__file__).with_name("index.json")
URL = "https://download.pytorch.org/models/"
LICENSE = "BSD-3-Clause"


@hookimpl
def register_models() -> list[ModelSpec]:
    specs = {name: describe_model(name, entry) for name, entry in read_index()["models"].items()}
    return [*specs.values(), *(inflate_spec(specs[name]) for name in INFLATED)]


def read_index() -> dict[str, Any]:
    """Read the index that `python -m zoo_torchvision.make_index` wrote."""
    index: dict[str, Any] = json.loads(INDEX.read_text(encoding="utf-8"))
    return index


def describe_model(name: str, entry: dict[str, Any]) -> ModelSpec:
    """Make the spec of one entry of the index."""
    weights = tuple(describe_weights(row) for row in entry["weights"])
    default = weights[0]
    return ModelSpec(
        name=name,
        build=partial(build_model, name),
        title=f"{name} (torchvision)",
        family=entry["family"],
        image_size=default.image_size,
        fixed_size=entry.get("fixed_size", False),
        size_multiple=entry.get("size_multiple", 1),
        min_image_size=entry["min_image_size"],
        mean=default.mean,
        std=default.std,
        weights=weights,
        license=default.license,
        citation=entry["citation"],
        version=1,
        imports=("torchvision",),
        classifier=entry["classifier"],
        first_conv=entry["first_conv"],
        fetch_weights=partial(fetch_weights, {weight.tag: weight.url for weight in weights}),
        layer_groups=layer_groups,
        code=f"from torchvision.models import get_model\n\nmodel = get_model({name!r}, weights=None)",
        priority=1,  # below zoo-timm's 2
    )


def describe_weights(row: dict[str, Any]) -> Weights:
    """Make the `Weights` record of one row of the index, which holds only what differs from the defaults."""
    return Weights(
        tag=row["tag"],
        url=URL + row["file"],
        file_names=(row["file"],),
        mean=tuple(row.get("mean", Weights.mean)),
        std=tuple(row.get("std", Weights.std)),
        image_size=row.get("image_size", 224),
        license=row.get("license", LICENSE),
        pretraining=tuple(row.get("pretraining", ("imagenet-1k",))),
    )
