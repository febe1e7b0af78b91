"""What identifies a network, and the image size it is built for."""

from __future__ import annotations

import json

from zoo.models.weights import InitialWeights
from zoo.registry.lookup import ModelChoice
from zoo.specs.model import ModelSpec
from zoo.system.files import hash_bytes


def identify_network(choice: ModelChoice, weights: InitialWeights) -> str:
    """What a plugin decides of a network: the version of its spec, else of the plugin, and a hash of the spec's fields.

    The hash covers the fields that the core builds, feeds and trains the network by. Titles, licenses and citations
    are not among them, so that correcting one repeats no run.
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


def nearest_size(spec: ModelSpec, asked: int, *, small_stem: bool = False) -> int:
    """The size closest to `asked` that the model takes. A small stem leaves out two halvings: a quarter is enough."""
    if spec.fixed_size:
        return spec.image_size
    smallest = -(-spec.min_image_size // 4) if small_stem else spec.min_image_size
    size = max(asked, smallest)
    step = spec.size_multiple
    rounded = max(step, round(size / step) * step)
    return rounded if rounded >= smallest else rounded + step
