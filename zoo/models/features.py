"""Compute and cache the features of a frozen model, on which heads are fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.system.caches import keep_within, limit_bytes, mark_used
from zoo.system.devices import open_device
from zoo.system.files import hash_bytes, written_whole
from zoo.system.locks import locked

if TYPE_CHECKING:
    from torch import Tensor

Extract = Callable[["Tensor"], "Tensor"]  # images (B, C, H, W) -> features (B, D)

FEATURES_VERSION = 1  # of the cached features; raise it when the code that computes them changes a number


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of all images. Heads use it as models use `Pixels`."""

    values: Tensor  # float32 (N, D), in the dataset's order
    device: str

    @property
    def input_bytes(self) -> int:
        """The size of one image's features in bytes."""
        return 4 * self.values.shape[1]

    def batch(self, rows: Tensor) -> Tensor:
        return self.values.index_select(0, rows).to(self.device)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the head's input for some rows."""
        return self.batch(rows)

    def of(self, rows: Array) -> Array:
        """The features of some rows as float64 (n, D)."""
        return self.values.numpy()[rows].astype(np.float64)


def extract_features(extract: Extract, pixels: Pixels, precision: str) -> Features:
    """Compute the features of every image, without its target. Raises RunError if a feature is not finite."""
    import torch

    device = open_device(pixels.device)
    parts = []
    with torch.inference_mode(), device.autocast(precision):
        for rows in torch.arange(len(pixels.images)).split(device.prediction_batch(pixels.input_bytes)):  # type: ignore[no-untyped-call]
            parts.append(extract(pixels.inputs(rows)).float().cpu())
    values = torch.cat(parts)
    if not torch.isfinite(values).all():
        raise RunError(
            "the frozen features are not finite",
            fix="use --set precision=fp32, or leave the model out",
            code="diverged",
        )
    return Features(values=values, device=pixels.device)


def cached_features(
    extract: Extract, pixels: Pixels, precision: str, *, cache: Path, identity: tuple[str, ...]
) -> Features:
    """Load features from the cache, or extract and cache them for other seeds, folds, heads and benches.

    `identity` names everything that they depend on besides the code. A damaged file is replaced.
    """
    path = cache / "features" / f"{hash_bytes(str(FEATURES_VERSION), precision, *identity)[:32]}.safetensors"
    features = load(path, pixels.device)
    if features:
        return features
    with locked(path.with_name(f".{path.name}.lock")):  # one run computes them while the others wait
        features = load(path, pixels.device)
        if features is None:
            features = extract_features(extract, pixels, precision)
            save(path, features)
            keep_within(cache, limit_bytes())
    return features


def save(path: Path, features: Features) -> None:
    from safetensors.torch import save_file

    values = features.values.contiguous()
    with written_whole(path) as temporary:
        save_file({"features": values}, temporary, metadata={"sha256": checksum(values)})


def load(path: Path, device: str) -> Features | None:
    """The features in a file, or None if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            values, expected = stream.get_tensor("features"), stream.metadata()["sha256"]
    except (OSError, SafetensorError, KeyError, TypeError):
        return None
    if checksum(values) != expected:
        return None
    mark_used(path)
    return Features(values=values, device=device)


def checksum(values: Tensor) -> str:
    return hash_bytes(str(tuple(values.shape)), values.numpy().tobytes())


# How a run gets its features: `extract_features`, or `cached_features` with a cache and an identity.
GetFeatures = Callable[[Extract, Pixels, str], Features]


def keep_features(cache: Path, *identity: str) -> GetFeatures:
    """`cached_features` for one frozen model and dataset."""
    return partial(cached_features, cache=cache, identity=identity)
