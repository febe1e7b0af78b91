"""Where a mask is unsure: the entropy of its pixels' probabilities, and the disagreement of the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor

ENTROPY, DISAGREEMENT = "entropy", "disagreement"


def measure_uncertainty(outputs: Sequence[Tensor]) -> dict[str, Array]:
    """Maps float32 (H, W), 0 to 1, from the logits (O, H, W) of each seed.

    `entropy` is that of the mean probabilities, over the entropy of equal ones. With several seeds, `disagreement` is
    twice the standard deviation of a label's probability over the seeds, of the label for which it is largest: 1 where
    one half of the seeds is sure of the label, and the other half that it is another one.
    """
    import torch

    shares = torch.stack([logits.float().softmax(dim=0) for logits in outputs])  # (S, O, H, W)
    maps = {ENTROPY: torch.special.entr(shares.mean(dim=0)).sum(dim=0) / math.log(shares.shape[1])}
    if len(outputs) > 1:
        maps[DISAGREEMENT] = 2 * shares.std(dim=0, correction=0).amax(dim=0)
    return {name: values.clamp(0, 1).cpu().numpy() for name, values in maps.items()}
