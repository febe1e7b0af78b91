"""Fit the top-hat filter, the baseline of masks of thin structures: no weights are trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels

if TYPE_CHECKING:
    from torch import nn

SQUARE_SIDES = (5, 9, 15, 21, 31)  # of the filter's square, in pixels
FIRST_SIDE = 15  # the side with which the channel and the sign are chosen
SIGNS = (1.0, -1.0)
MAX_IMAGES = 8  # of train, evenly spread
NUM_THRESHOLDS = 100
MAX_RESPONSES = 200_000  # pixels per image


def fit_top_hat(module: nn.Module, dataset: DecodedFold, pixels: Pixels) -> dict[str, Any]:
    """Choose channel, sign, side and threshold by the Dice over a few images of train; return what was chosen."""
    import torch

    rows = dataset.index("train")
    rows = rows[:: -(-len(rows) // MAX_IMAGES)]
    marked = dataset.common_masks(rows) > 0
    channels = range(pixels.input_shape[0])
    settings = module.get_buffer("settings")
    tried: dict[tuple[float, float, float], tuple[float, float]] = {}

    def try_all(choices: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
        for choice in choices:
            if choice not in tried:
                settings[:3] = torch.tensor(choice)
                tried[choice] = choose_response(measure_responses(module, pixels, rows), marked)
        return max(tried, key=lambda choice: tried[choice][0])

    channel, sign, _ = try_all((channel, sign, FIRST_SIDE) for channel in channels for sign in SIGNS)
    best = try_all((channel, sign, side) for side in SQUARE_SIDES)
    dice, threshold = tried[best]
    settings[:] = torch.tensor([*best, threshold])
    return {
        "channel": int(best[0]),
        "lines": "dark" if best[1] > 0 else "bright",
        "side": int(best[2]),
        "train_dice": round(dice, 4),
    }


def measure_responses(module: nn.Module, pixels: Pixels, rows: Array) -> Array:
    """The response of each pixel of some images, (n, H, W); one image at a time."""
    import torch

    responses = []
    with torch.inference_mode():
        for row in rows.tolist():
            image = pixels.normalize(pixels.batch(torch.tensor([row])))
            responses.append(module.respond(image)[0].cpu().numpy())  # type: ignore[operator]
    return np.stack(responses)


def choose_response(responses: Array, marked: Array) -> tuple[float, float]:
    """The best Dice over all pixels, and its threshold: a pixel is predicted if its response is above it.

    Without a marked pixel the threshold is the largest response, so that none is predicted.
    """
    step = -(-responses[0].size // MAX_RESPONSES)
    inside, outside = (np.sort(responses[part]) for part in (marked, ~marked))
    thresholds = np.quantile(responses.reshape(len(responses), -1)[:, ::step], np.linspace(0.5, 1, NUM_THRESHOLDS))
    hits = len(inside) - np.searchsorted(inside, thresholds, side="right")
    false = len(outside) - np.searchsorted(outside, thresholds, side="right")
    dices = 2 * hits / np.maximum(1, hits + false + len(inside))
    best = int(np.argmax(dices)) if len(inside) else -1
    return float(dices[best]), float(thresholds[best])
