"""The definitions that a comparison of masks depends on; they are part of its record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Connectivity = Literal["full", "faces"]


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """How masks are compared. Raises ValueError for an invalid field."""

    tolerance: float  # of NSD: in mm, or in pixels where the spacing is unknown
    connectivity: Connectivity = "full"  # of a lesion: 26 neighbors in 3-D and 8 in 2-D; faces: 6 and 4
    lesion_iou: float = 0.0  # a reference and a predicted lesion match if their IoU exceeds it; 0: any overlap
    skeletons: bool = False  # whether clDice's parts are computed

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance {self.tolerance}, expected a number of at least 0")
        if self.connectivity not in get_args(Connectivity):
            raise ValueError(f"connectivity {self.connectivity!r}, expected one of {get_args(Connectivity)}")
        if not 0 <= self.lesion_iou < 1:
            raise ValueError(f"lesion_iou {self.lesion_iou}, expected a number from 0 to below 1")
