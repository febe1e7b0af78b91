"""The identity of a model for run ids, and the image size it is built for."""

from __future__ import annotations

import json

from zoo.models.weights import InitialWeights
from zoo.registry.lookup import ModelChoice, Registry
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.model import ModelSpec
from zoo.system.files import hash_bytes


def identify_network(choice: ModelChoice, weights: InitialWeights) -> str:
    """The version of a model's spec, else of its plugin, and a hash of the spec's fields.

    The hash covers the fields that affect how the core builds, feeds and trains the model. It does not cover titles,
    licenses and citations, so that correcting them does not repeat a run.
    """
    spec = choice.spec
    mean, std = weights.normalization(spec)
    fields = {
        "channels": spec.channels,
        "mean": mean,
        "std": std,
        "classifier": spec.classifier,
        "first_conv": spec.first_conv,
        "features": spec.features is not None,
        "layer_groups": spec.layer_groups is not None,
    }
    release = f"v{spec.version}" if spec.version else choice.release
    return "-".join(filter(None, (release, hash_bytes(json.dumps(fields, sort_keys=True))[:12])))


def identify_estimator(spec: EstimatorSpec, qualified: str, registry: Registry) -> str:
    """The estimator's name, and the version of its spec, else of its plugin: "zoo-bench:svm@v1"."""
    return f"{qualified}@{f'v{spec.version}' if spec.version else registry.release_of(qualified)}"


def nearest_size(spec: ModelSpec, requested: int, *, small_stem: bool = False) -> int:
    """The image size closest to `requested` that the model accepts.

    A small stem omits two halvings of the resolution, so a quarter of the minimum size is enough.
    """
    if spec.fixed_size:
        return spec.image_size
    smallest = -(-spec.min_image_size // 4) if small_stem else spec.min_image_size
    size = max(requested, smallest)
    step = spec.size_multiple
    rounded = max(step, round(size / step) * step)
    return rounded if rounded >= smallest else rounded + step
