"""Compute the features of a frozen network once, for every head that is fitted on them."""

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

FEATURES_VERSION = 1  # of the kept features; raised when the code that makes them changes a number


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What a frozen network makes of every image. To a head it is what `Pixels` is to a network."""

    values: Tensor  # float32 (N, D), in the dataset's order
    device: str

    @property
    def input_bytes(self) -> int:
        """What a head reads for one image."""
        return 4 * self.values.shape[1]

    def batch(self, rows: Tensor) -> Tensor:
        return self.values.index_select(0, rows).to(self.device)

    def normalize(self, features: Tensor) -> Tensor:
        return features

    def of(self, rows: Array) -> Array:
        """The features of some rows as float64 (n, D)."""
        return self.values.numpy()[rows].astype(np.float64)


def extract_features(extract: Extract, pixels: Pixels, precision: str) -> Features:
    """Show every image to a frozen network once; no target is looked at. RunError where a feature is not finite."""
    import torch

    device = open_device(pixels.device)
    parts = []
    with torch.inference_mode(), device.autocast(precision):
        for rows in torch.arange(len(pixels.images)).split(device.prediction_batch(pixels.input_bytes)):  # type: ignore[no-untyped-call]
            parts.append(extract(pixels.normalize(pixels.batch(rows))).float().cpu())
    values = torch.cat(parts)
    if not torch.isfinite(values).all():
        raise RunError(
            "the frozen features are not finite",
            fix="say --set precision=fp32, or leave the model out",
            code="diverged",
        )
    return Features(values=values, device=pixels.device)


def kept_features(
    extract: Extract, pixels: Pixels, precision: str, *, cache: Path, identity: tuple[str, ...]
) -> Features:
    """The features from the cache, or extracted now and kept there for other seeds, folds, heads and benches.

    `identity` names all that they depend on beside the code. A damaged file is made again.
    """
    path = cache / "features" / f"{hash_bytes(str(FEATURES_VERSION), precision, *identity)[:32]}.safetensors"
    found = load(path, pixels.device)
    if found:
        return found
    with locked(path.with_name(f".{path.name}.lock")):  # one seed computes them, the others wait
        found = load(path, pixels.device)
        if found is None:
            found = extract_features(extract, pixels, precision)
            save(path, found)
            keep_within(cache, limit_bytes())
    return found


def save(path: Path, features: Features) -> None:
    from safetensors.torch import save_file

    values = features.values.contiguous()
    with written_whole(path) as temporary:
        save_file({"features": values}, temporary, metadata={"sha256": checksum(values)})


def load(path: Path, device: str) -> Features | None:
    """The features of a file, or None where it is not there or not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            values, told = stream.get_tensor("features"), stream.metadata()["sha256"]
    except (OSError, SafetensorError, KeyError, TypeError):
        return None
    if checksum(values) != told:
        return None
    mark_used(path)
    return Features(values=values, device=device)


def checksum(values: Tensor) -> str:
    return hash_bytes(str(tuple(values.shape)), values.numpy().tobytes())


# How a run comes by its features: `extract_features`, or `kept_features` with its cache and identity.
GetFeatures = Callable[[Extract, Pixels, str], Features]


def keep_features(cache: Path, *identity: str) -> GetFeatures:
    """`kept_features` for one frozen network and dataset."""
    return partial(kept_features, cache=cache, identity=identity)
