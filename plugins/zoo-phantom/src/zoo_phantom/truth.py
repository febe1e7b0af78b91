"""Known truth about a slice of a scene: its lesions, their masks and their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo_phantom.exact import Array
from zoo_phantom.paint import lesion_contrasts, lesion_weights, lesions_of, lung_share
from zoo_phantom.scenes import Scenes


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One lesion: the index of its label, its center and radius in pixels, and the HU it adds at its densest pixel.

    A pixel in column c spans x from c to c + 1. The center of a layer of fluid is a point of its lung, its radius half
    its greatest depth.
    """

    label: int
    x: float
    y: float
    radius: float
    contrast: float


def weigh(scenes: Scenes, image: int) -> tuple[Array, Array, Array]:
    """The lesion records (K,) of a slice, their weights (K, size, size) and contrasts (K,)."""
    slices = np.array([image])
    lesions = lesions_of(scenes, slices)
    weights = lesion_weights(scenes, lesions, lung_share(scenes, slices))
    return lesions, weights, lesion_contrasts(scenes, lesions, weights)


def find_lesions(scenes: Scenes, image: int) -> list[Lesion]:
    """The lesions of slice `image`, in the order of `masks` and `boxes`."""
    scale = scenes.parameters.size / 64.0
    return [
        Lesion(
            label=int(record["label"]),
            x=float((record["x"] + 32.0) * scale),
            y=float((record["y"] + 32.0) * scale),
            radius=float(record["radius"] * scale),
            contrast=float(contrast * weight.max()),
        )
        for record, weight, contrast in zip(*weigh(scenes, image), strict=True)
    ]


def masks(scenes: Scenes, image: int) -> Array:
    """Masks of the lesions of slice `image`, bool (K, size, size): pixels of at least half its greatest density."""
    _, weights, _ = weigh(scenes, image)
    peak = weights.max(axis=(1, 2), initial=0.0, keepdims=True)
    shapes: Array = (weights >= 0.5 * peak) & (weights > 0.0)
    return shapes


def masks_by_label(scenes: Scenes, image: int) -> Array:
    """The pixels of the lesions of each label on slice `image`: bool (L, size, size)."""
    labels, shapes = weigh(scenes, image)[0]["label"], masks(scenes, image)
    return np.stack([shapes[labels == label].any(axis=0) for label in range(len(scenes.parameters.findings))])


def boxes(scenes: Scenes, image: int) -> Array:
    """The boxes of the lesions of slice `image`, float64 (K, 4): x0, y0, x1, y1 in pixels, tight around their masks.

    A pixel in column c spans x from c to c + 1, so that x1 - x0 is a width.
    """
    shapes = masks(scenes, image)
    rows: Array = np.any(shapes, axis=2)
    columns: Array = np.any(shapes, axis=1)
    edges = [
        columns.argmax(axis=1),
        rows.argmax(axis=1),
        shapes.shape[1] - columns[:, ::-1].argmax(axis=1),
        shapes.shape[1] - rows[:, ::-1].argmax(axis=1),
    ]
    return np.stack(edges, axis=1).astype(np.float64)
