"""Insertion and deletion (Petsiuk et al. 2018, BMVC): how the probability follows the pixels that a map ranks first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.explaining.explainer import Explainer
from zoo.explaining.inputs import INPUTS_AT_ONCE, blur_inputs, normalize_squares

CURVE_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """The areas under the two curves of a map, from 0 to 1: insertion should be high, deletion low."""

    insertion: float
    deletion: float


def follow_pixels(explainer: Explainer, square: Array, column: int, maps: list[Array]) -> list[Faithfulness]:
    """The areas of some maps (size, size) of one output for a square (size, size, channels).

    Insertion puts the pixels back into the blurred image, deletion blurs them, the highest first, in equal steps.
    """
    image = normalize_squares(explainer.model, square[None])[0].cpu().numpy()
    blurred = blur_inputs(image)
    mixed = [image, blurred]
    for values in maps:
        position = rank_pixels(values)
        for step in range(1, CURVE_STEPS):
            first = position < step / CURVE_STEPS * position.size
            mixed += [np.where(first, image, blurred), np.where(first, blurred, image)]
    probabilities = predict_inputs(explainer, np.stack(mixed))[:, column]
    whole, nothing, steps = probabilities[0], probabilities[1], probabilities[2:].reshape(len(maps), CURVE_STEPS - 1, 2)
    return [
        Faithfulness(
            insertion=float(np.trapezoid([nothing, *curves[:, 0], whole], dx=1 / CURVE_STEPS)),
            deletion=float(np.trapezoid([whole, *curves[:, 1], nothing], dx=1 / CURVE_STEPS)),
        )
        for curves in steps
    ]


def rank_pixels(values: Array) -> Array:
    """The rank (size, size) of each pixel, the highest first; equal ones are in an order drawn once for all images."""
    order = np.lexsort((np.random.default_rng(0).random(values.size), -values.ravel()))
    position = np.empty(values.size, np.int64)
    position[order] = np.arange(values.size)
    ranks: Array = position.reshape(values.shape)
    return ranks


def predict_inputs(explainer: Explainer, images: Array) -> Array:
    """Probabilities (N, C) of normalized images (N, channels, size, size)."""
    import torch

    card, model = explainer.card, explainer.model
    with torch.inference_mode():
        logits = [
            model.tap(part.to(model.device, memory_format=torch.channels_last))[0].cpu()
            for part in torch.from_numpy(images).split(INPUTS_AT_ONCE)  # type: ignore[no-untyped-call]
        ]
    return card.task_kind.answers.from_logits(torch.cat(logits).double().numpy(), card.target_scale)
