"""Model specs for timm checkpoints on the Hugging Face hub, `hf-hub:owner/name`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import BuildRequest, FetchRequest, ModelSpec, Weights, WeightsError, ZooError
from zoo_timm.building import create_module
from zoo_timm.fetching import HUB_FILES, fetch_from_hub

if TYPE_CHECKING:
    from torch import nn

PREFIX = "hf-hub:"


def build_nothing(request: BuildRequest) -> nn.Module:
    raise ZooError(f"model 'hf-hub' with {request.num_outputs} outputs needs a repository", fix="hf-hub:owner/name")


def find_hub_model(request: FetchRequest) -> ModelSpec:
    """Read the repository's config.json, from the hub's cache or downloaded, and describe its model."""
    import zoo_timm

    name = request.name
    repository = name.removeprefix(PREFIX)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ZooError(f"{name} is not a valid model name", fix=f"{PREFIX}owner/name", code="unknown-model")
    path = fetch_from_hub(repository, ("config.json",), request)
    if path is None:
        raise WeightsError(f"{name}: config.json is not in the hub's cache", fix="run once without --offline")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    architecture = document.get("architecture", "")
    specs = {spec.name: spec for spec in zoo_timm.register_models()}
    if architecture not in specs:
        raise ZooError(
            f"{name}: timm has no architecture {architecture!r}",
            fix="pip install --upgrade timm, or write a plugin for it",
            code="unknown-model",
        )
    return describe_hub_model(name, repository, document, specs[architecture])


def describe_hub_model(name: str, repository: str, document: dict[str, Any], base: ModelSpec) -> ModelSpec:
    """Make the spec of a checkpoint: its architecture with its own normalization, size and weights."""
    config: dict[str, Any] = dict(document.get("pretrained_cfg") or document)
    if "num_classes" in document:
        config["num_classes"] = document["num_classes"]
    options: dict[str, Any] = dict(document.get("model_args") or {})
    size = int((config.get("input_size") or (3, base.image_size))[-1])
    weights = Weights(
        tag="hub",
        url=f"https://huggingface.co/{repository}/resolve/main/model.safetensors",
        mean=tuple(config.get("mean") or base.mean),
        std=tuple(config.get("std") or base.std),
        image_size=size,
        license=config.get("license") or "",
    )
    resizable = base.build.args[1] if isinstance(base.build, partial) else False
    return replace(
        base,
        name=name,
        title=f"{base.name} ({repository})",
        build=partial(build_hub_model, base.name, resizable, config, options),
        image_size=size,
        mean=weights.mean,
        std=weights.std,
        weights=(weights,),
        license=weights.license,
        fetch_weights=partial(fetch_hub_weights, repository),
    )


def fetch_hub_weights(repository: str, request: FetchRequest) -> Path | None:
    return fetch_from_hub(repository, HUB_FILES, request)


def build_hub_model(
    architecture: str, resizable: bool, config: dict[str, Any], options: dict[str, Any], request: BuildRequest
) -> nn.Module:
    """Build a checkpoint like `zoo_timm.building.build_model`, with its own configuration."""
    import dataclasses

    from timm.models import PretrainedCfg

    fields = {field.name for field in dataclasses.fields(PretrainedCfg)}
    config = {
        key: value for key, value in config.items() if key in fields and key not in {"source", "hf_hub_id", "url"}
    }
    size = {"img_size": request.image_size} if resizable else {}
    options = {key: value for key, value in options.items() if key not in size}
    module = create_module(architecture, request.weights, size, config=config, options=options)
    if module.num_classes == 0:
        module.reset_classifier(request.num_outputs)  # type: ignore[operator]
    return module
