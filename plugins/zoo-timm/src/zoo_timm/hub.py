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
    raise ZooError(f"hf-hub alone is no model of {request.num_outputs} outputs", fix="say hf-hub:owner/name")


def find_hub_model(request: FetchRequest) -> ModelSpec:
    """Read the repository's config.json (from the hub's cache, or downloaded) and describe the model it holds."""
    import zoo_timm

    name = request.name
    repository = name.removeprefix(PREFIX)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ZooError(f"{name}: is no name of a model", fix=f"say {PREFIX}owner/name", code="unknown-model")
    path = fetch_from_hub(repository, ("config.json",), request)
    if path is None:
        raise WeightsError(f"{name}: config.json is not in the hub's cache", fix="run once without --offline")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    architecture = document.get("architecture", "")
    known = {spec.name: spec for spec in zoo_timm.register_models()}
    if architecture not in known:
        raise ZooError(
            f"{name}: its architecture {architecture!r} is not one of timm's",
            fix="pip install --upgrade timm, or write a plugin for it",
            code="unknown-model",
        )
    return describe_hub_model(name, repository, document, known[architecture])


def describe_hub_model(name: str, repository: str, document: dict[str, Any], known: ModelSpec) -> ModelSpec:
    """The spec of the checkpoint's architecture, with the checkpoint's own normalisation, size and weights."""
    config: dict[str, Any] = dict(document.get("pretrained_cfg") or document)
    if "num_classes" in document:
        config["num_classes"] = document["num_classes"]
    options: dict[str, Any] = dict(document.get("model_args") or {})
    size = int((config.get("input_size") or (3, known.image_size))[-1])
    weights = Weights(
        tag="hub",
        url=f"https://huggingface.co/{repository}/resolve/main/model.safetensors",
        mean=tuple(config.get("mean") or known.mean),
        std=tuple(config.get("std") or known.std),
        image_size=size,
        license=config.get("license") or "",
    )
    resizable = known.build.args[1] if isinstance(known.build, partial) else False
    return replace(
        known,
        name=name,
        title=f"{known.name} ({repository})",
        build=partial(build_hub_model, known.name, resizable, config, options),
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
    """Build the checkpoint's architecture with its own configuration, else as `zoo_timm.building.build_model`."""
    import dataclasses

    from timm.models import PretrainedCfg

    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    config = {key: value for key, value in config.items() if key in known and key not in {"source", "hf_hub_id", "url"}}
    size = {"img_size": request.image_size} if resizable else {}
    options = {key: value for key, value in options.items() if key not in size}
    module = create_module(architecture, request.weights, size, config=config, options=options)
    if module.num_classes == 0:
        module.reset_classifier(request.num_outputs)  # type: ignore[operator]
    return module
