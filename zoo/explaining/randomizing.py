"""The model-randomization test (Adebayo et al. 2018, NeurIPS): do maps change when the network forgets what it learned?

Layers are randomized one after the other from the head down. The values of each weight tensor are shuffled, so that
their distribution stays and no rule per kind of layer is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.trained.modules import FeatureTap

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOMIZED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the layers that are randomized; at least the head
WINDOW = 1.5  # standard deviation in pixels of the window of SSIM (Wang et al. 2004, IEEE TIP 13:600)
SSIM_CONSTANTS = (0.01**2, 0.03**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """How alike the maps of the trained and of a partly randomized network are."""

    layers: int  # randomized, from the head down
    last: str  # the name of the last one
    spearman: Array  # (N,) rank correlation of each map
    ssim: Array  # (N,) structural similarity of each map


def compare_randomized(
    tap: FeatureTap, example: Tensor, trained: Array, explain: Callable[[], Array]
) -> tuple[int, list[Similarity]]:
    """The number of layers with weights, and the similarities to the maps `trained` (N, size, size), by stage.

    `explain` makes the maps with the network as it is then; `example`, a normalized image, shows the order of layers.
    """
    layers = order_layers(tap, example)[::-1]
    counts = sorted({max(1, round(share * len(layers))) for share in RANDOMIZED_SHARES}) if layers else []
    found = []
    for count in counts:
        with shuffled([layer for _, layer in layers[:count]]):
            random = explain()
        found.append(
            Similarity(
                layers=count,
                last=layers[count - 1][0],
                spearman=np.array([rank_correlation(*pair) for pair in zip(trained, random, strict=True)]),
                ssim=np.array([structural_similarity(*pair) for pair in zip(trained, random, strict=True)]),
            )
        )
    return len(layers), found


def order_layers(tap: FeatureTap, example: Tensor) -> list[tuple[str, nn.Module]]:
    """The modules with weights of their own, in the order in which a forward pass enters them first."""
    import torch

    entered: dict[str, nn.Module] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, _: Any) -> None:
            entered.setdefault(name, part)

        return hook

    hooks = [
        part.register_forward_pre_hook(note(name))
        for name, part in tap.module.named_modules()
        if any(True for _ in part.parameters(recurse=False))
    ]
    try:
        with torch.inference_mode():
            tap(example)
    finally:
        for hook in hooks:
            hook.remove()
    return list(entered.items())


@contextmanager
def shuffled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Shuffle the values of each weight tensor of some layers for the block, equally each time."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                order = torch.randperm(values.numel(), generator=generator).to(values.device)
                weight.copy_(values.flatten()[order].reshape(values.shape))
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's correlation of two maps; 0 if one has a single value."""
    from scipy.stats import rankdata

    ranks = [rankdata(values.ravel()) for values in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def structural_similarity(first: Array, second: Array) -> float:
    """Mean SSIM of two maps, each as shares of its maximum."""
    from scipy.ndimage import gaussian_filter

    def mean(values: Array) -> Array:
        averaged: Array = gaussian_filter(values, WINDOW)
        return averaged

    a, b = (values.astype(np.float64) / max(float(values.max()), 1e-30) for values in (first, second))
    of_a, of_b = mean(a), mean(b)
    variance = mean(a * a) + mean(b * b) - of_a**2 - of_b**2
    covariance = mean(a * b) - of_a * of_b
    light, contrast = SSIM_CONSTANTS
    terms = (2 * of_a * of_b + light) * (2 * covariance + contrast)
    return float((terms / ((of_a**2 + of_b**2 + light) * (variance + contrast))).mean())
