"""Make the files that carry a trained model: weights, card, and the features of val."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.decoded import map_images
from zoo.data.pixels import Pixels
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

NUM_IMAGES, NUM_PATCHES = 8, 2  # of val, to compare an exported model with torch; patches of volumes take megabytes

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
        assert isinstance(kept.pixels, Pixels)  # networks of volumes are fine-tuned
        merged = merged_state(kept.module, kept.spec, kept.build, kept.pixels)
    layout = "plain" if method in WHOLE or merged else "joined"
    reference = reference_of(kept)
    card = make_model_card(kept, layout, reference)
    weights = save(merged or state_of(kept.module), {"format": "pt", **file_metadata(card)})
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    files = {WEIGHTS_FILE: weights, CARD_FILE: card_bytes(card)}
    features = {"features": reference.features.astype(np.float16)} if reference else {}
    images = some_patches(kept) if card.volumes else some_images(kept.dataset)
    files[REFERENCE_FILE] = save_arrays({"images": images, **features}, file_metadata(card))
    return files


def some_images(dataset: DecodedFold) -> Array:
    """A few decoded images of val, spread over it."""
    rows = dataset.index("val")
    return np.ascontiguousarray(map_images(dataset.images)[rows[:: -(-len(rows) // NUM_IMAGES)]])


def some_patches(kept: Keepsake) -> Array:
    """Patches from the middle of volumes of val, (n, A, B, C, channels): values, or standardized ones.

    They are float16, or float32 if they have values beyond its range, such as those of PET in Bq/ml.
    """
    dataset, pixels = kept.dataset, kept.pixels
    assert isinstance(pixels, VolumePixels)
    assert isinstance(dataset.decoded, DecodedVolumes)
    columns, rows, patches = dataset.decoded.columns, dataset.index("val"), []
    for row in rows[:: -(-len(rows) // NUM_PATCHES)]:
        stored = pixels.stored(row)
        middle = tuple(
            slice(max(0, (side - length) // 2), max(0, (side - length) // 2) + length)
            for side, length in zip(stored.shape[:3], pixels.patch, strict=True)
        )
        patch = pad_to(stored[middle], pixels.patch).float().cpu().numpy()
        patches.append(patch * columns["std"][row] + columns["mean"][row] if pixels.clipped else patch)
    return as_small_floats(np.stack(patches))


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
        **describe_pixels(dataset, pixels, kept.source["images"]),
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


def describe_pixels(dataset: DecodedFold, pixels: Pixels | VolumePixels, images: Mapping[str, Any]) -> dict[str, Any]:
    """How a network takes its input, as fields of a card."""
    if isinstance(pixels, Pixels):
        return {
            "mean": tuple(pixels.mean.flatten().tolist()),
            "std": tuple(pixels.std.flatten().tolist()),
            "seen": {**images, "dtype": str(map_images(dataset.images).dtype)},
        }
    assert dataset.volumes is not None
    shapes, spacings, rows = dataset.label_maps.shapes, dataset.spacings, dataset.index("train")
    sides = np.array([sides_of(shapes[row], spacings[row] if pixels.spacing else None) for row in rows])
    return {
        # of a window as `intensity`, which these map to -2 and 2
        "mean": (0.5 if pixels.clipped else 0.0,) * dataset.channels,
        "std": (0.25 if pixels.clipped else 1.0,) * dataset.channels,
        "seen": {name: images[name] for name in ("frames", "patient")},
        "volumes": {
            "patch": list(pixels.patch),
            "spacing": pixels.spacing and list(pixels.spacing),
            "window": dataset.volumes.window and list(dataset.volumes.window),
            "sides": [sides.min(axis=0).tolist(), sides.max(axis=0).tolist()],
            "endings": list(images["endings"]),
        },
    }
