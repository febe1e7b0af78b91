"""Skeletons of tubular structures, for clDice; they need scikit-image."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError


def require_skimage() -> None:
    try:
        import skimage.morphology  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "clDice needs scikit-image", fix='pip install "zoo-bench[skeletons]"', code="skimage-missing"
        ) from error


def topology_precision(skeleton_of: Array, other: Array) -> float:
    """The share of a mask's skeleton that lies in the other mask; NaN without a skeleton.

    Of the prediction in the reference it is Tprec, of the reference in the prediction Tsens (Shit et al. 2021, CVPR).
    """
    from skimage.morphology import skeletonize

    skeleton = skeletonize(np.pad(skeleton_of, 1))[(slice(1, -1),) * skeleton_of.ndim]
    length = int(np.count_nonzero(skeleton))
    return float(np.count_nonzero(skeleton & other)) / length if length else float("nan")
