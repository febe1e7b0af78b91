"""Make the files that carry a trained model: weights, card, and the features of val."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.cube_pixels import CubePixels
from zoo.data.dataset import DecodedFold
from zoo.data.decoded import map_images
from zoo.data.pixels import Pixels
from zoo.data.volume_cubes import DecodedCubes
from zoo.data.volumes import DecodedVolumes, VolumePixels, sides_of
from zoo.evaluation.predict_volumes import pad_to
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.temperature import find_temperature
from zoo.evaluation.thresholds import choose_cuts, scale_of
from zoo.results.runs import Run
from zoo.results.store import REFERENCE_FILE, WEIGHTS_FILE
from zoo.specs.choice import Choice
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import resolved_fields
from zoo.trained.card import CARD_FILE, ModelCard, card_bytes, file_metadata
from zoo.trained.modules import WHOLE, FeatureTap, forward_rows, merged_state, state_of
from zoo.trained.outside import Reference, make_reference

NUM_IMAGES, NUM_VOLUMES = 8, 2  # of val, to compare an exported model with torch; volumes take megabytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True, kw_only=True, eq=False)
class Keepsake:
    """What the files of a trained model are made from."""

    run: Run
    spec: ModelSpec
    module: nn.Module
    build: Callable[[], nn.Module]  # the architecture with random weights
    dataset: DecodedFold
    dataset_facts: Mapping[str, Any]
    source: Mapping[str, Any]  # `describe_images` and the reading
    pixels: Pixels | VolumePixels
    val: Predictions
    val_score: float | None
    scores: Mapping[str, Any]
    versions: Mapping[str, str]
    weights: Mapping[str, Any]
    transforms: tuple[Choice, ...] = ()  # the preprocessing steps


def model_files(kept: Keepsake) -> dict[str, bytes]:
    """The files by name. The weights have the keys of the architecture where a frozen network's head fits it."""
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save

    method = kept.run.protocol.method
    merged = None
    if method not in WHOLE:
        assert isinstance(kept.pixels, Pixels)  # networks that predict masks of volumes are fine-tuned
        merged = merged_state(kept.module, kept.spec, kept.build, kept.pixels)
    layout = "plain" if method in WHOLE or merged else "joined"
    reference = reference_of(kept)
    card = make_model_card(kept, layout, reference)
    weights = save(merged or state_of(kept.module), {"format": "pt", **file_metadata(card)})
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    files = {WEIGHTS_FILE: weights, CARD_FILE: card_bytes(card)}
    features = {"features": reference.features.astype(np.float16)} if reference else {}
    images = compared_images(kept)
    files[REFERENCE_FILE] = save_arrays({"images": images, **features}, file_metadata(card))
    return files


def compared_images(kept: Keepsake) -> Array:
    """A few decoded images of val, spread over it; of volumes (n, A, B, C, channels).

    The values of volumes are those of the files if the network's input is a window of them, else standardized. They
    are float16, or float32 if they have values beyond its range, such as those of PET in Bq/ml.
    """
    rows, pixels, decoded = kept.dataset.index("val"), kept.pixels, kept.dataset.decoded
    if isinstance(pixels, VolumePixels):
        rows = spread_rows(rows, NUM_VOLUMES)
        return as_values(middle_patches(pixels, rows), kept.dataset, rows)
    if isinstance(decoded, DecodedCubes):
        rows = spread_rows(rows, NUM_VOLUMES)
        return as_values(map_images(decoded.path)[rows], kept.dataset, rows)
    return np.ascontiguousarray(map_images(kept.dataset.images)[spread_rows(rows, NUM_IMAGES)])


def spread_rows(rows: Array, number: int) -> Array:
    """At most `number` of some rows, evenly spread."""
    return rows[:: -(-len(rows) // number)]


def as_values(voxels: Array, dataset: DecodedFold, rows: Array) -> Array:
    """Standardized voxels (n, A, B, C, channels) of some rows as they are, or the values of the files for a window."""
    assert dataset.volumes is not None
    assert isinstance(dataset.decoded, DecodedVolumes | DecodedCubes)
    if dataset.volumes.window is None:
        return voxels.astype(np.float16)
    mean, std = (dataset.decoded.columns[name][rows][:, None, None, None] for name in ("mean", "std"))
    return as_small_floats(voxels.astype(np.float32) * std + mean)


def middle_patches(pixels: VolumePixels, rows: Array) -> Array:
    """The patch in the middle of each volume, standardized: float32 (n, A, B, C, channels)."""
    patches = []
    for row in rows:
        stored = pixels.stored(row)
        middle = tuple(
            slice(max(0, (side - length) // 2), max(0, (side - length) // 2) + length)
            for side, length in zip(stored.shape[:3], pixels.patch, strict=True)
        )
        patches.append(pad_to(stored[middle], pixels.patch).float().cpu().numpy())
    return np.stack(patches)


def as_small_floats(values: Array) -> Array:
    """The values as float16 if its range holds them, else as float32."""
    is_small = np.abs(values).max(initial=0) <= np.finfo(np.float16).max
    small: Array = values.astype(np.float16 if is_small else np.float32)
    return small


def reference_of(kept: Keepsake) -> Reference | None:
    if isinstance(kept.pixels, VolumePixels):
        return None
    tap = FeatureTap(kept.module.eval(), kept.spec, kept.run.protocol.method)
    if not tap.has_features:
        return None
    rows = kept.dataset.index("val")
    features = forward_rows(tap, kept.pixels, rows, kept.run.precision)[1]
    tap.remove()
    assert features is not None
    return make_reference(features, kept.dataset.patients[rows])


def make_model_card(kept: Keepsake, layout: str, reference: Reference | None) -> ModelCard:
    """The card of a trained model; thresholds and temperature are chosen on val."""
    run, dataset, pixels = kept.run, kept.dataset, kept.pixels
    context = dataset.card
    val = kept.val.by_unit(context.unit_of("val"))
    scale = scale_of(val)[0]
    cuts = choose_cuts(val, context, run.protocol.threshold, scale)
    calibrated = dataset.task.presentation.calibrated
    images = replace(context, unit="image", val_unit=None)  # units are rows from here on
    temperature = find_temperature({"val": val}, images) if calibrated else "the task has no probabilities to rescale"
    return ModelCard(
        run=run.id,
        model=run.model,
        shown=run.shown,
        network=run.network,
        protocol=run.protocol.label,
        method=run.protocol.method,
        protocol_fields=resolved_fields(run.protocol),
        seed=run.seed,
        fold=run.fold,
        layout=layout,
        task=dataset.task.name,
        labels=dataset.labels,
        positive=dataset.positive,
        unit=dataset.unit,
        image_size=run.image_size,
        channels=dataset.channels,
        **describe_pixels(dataset, pixels, kept.source["images"], run.protocol.spacing),
        intensity=dataset.intensity,
        target_scale=dataset.target_scale,
        precision=run.precision,
        reading=kept.source["reading"],
        thresholds=None if cuts is None else tuple(scale.to_probability(cuts).tolist()),
        cuts=None if cuts is None else tuple(cuts.tolist()),
        temperature=None if isinstance(temperature, str) else temperature,
        temperature_missing=temperature if isinstance(temperature, str) else None,
        outside={"neighbors": reference.neighbors, "limit": reference.limit} if reference else None,
        dataset=kept.dataset_facts,
        val_score=kept.val_score,
        scores=kept.scores,
        versions=kept.versions,
        weights=kept.weights,
        estimator=run.estimator,
        inputs=tuple(dataset.coding.describe()) if run.protocol.metadata else (),
        transforms=tuple(choice.describe() for choice in kept.transforms),
    )


def describe_pixels(
    dataset: DecodedFold, pixels: Pixels | VolumePixels, images: Mapping[str, Any], spacing: float | None = None
) -> dict[str, Any]:
    """How a network takes its input, as fields of a card; `spacing` is that of the protocol."""
    if isinstance(pixels, Pixels) and not isinstance(pixels, CubePixels):
        return {
            "mean": tuple(pixels.mean.flatten().tolist()),
            "std": tuple(pixels.std.flatten().tolist()),
            "seen": {**images, "dtype": str(map_images(dataset.images).dtype)},
        }
    assert dataset.volumes is not None
    rows, spacings = dataset.index("train"), dataset.spacings
    target: Sequence[float] | None
    if isinstance(pixels, CubePixels):
        assert isinstance(dataset.decoded, DecodedCubes)
        shapes, target = dataset.decoded.columns["shape"], (spacing,) * 3 if spacing else None
        in_mm = all(spacings[row] is not None for row in rows)
    else:
        shapes, target, in_mm = dataset.label_maps.shapes, pixels.spacing, pixels.spacing is not None
    sides = np.array([sides_of(shapes[row], spacings[row] if in_mm else None) for row in rows])
    return {
        # of a window as `intensity`, which these map to -2 and 2
        "mean": (0.5 if pixels.clipped else 0.0,) * dataset.channels,
        "std": (0.25 if pixels.clipped else 1.0,) * dataset.channels,
        "seen": {name: images[name] for name in ("frames", "patient")},
        "volumes": {
            "patch": list(pixels.input_shape[1:] if isinstance(pixels, CubePixels) else pixels.patch),
            "spacing": target and list(target),
            "in_mm": in_mm,
            "window": dataset.volumes.window and list(dataset.volumes.window),
            "sides": [sides.min(axis=0).tolist(), sides.max(axis=0).tolist()],
            "endings": list(images["endings"]),
        },
    }
