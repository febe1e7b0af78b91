"""Whether the masks of a dataset are of thin structures, such as vessels."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.data.masks import read_mask
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split

MAX_MASKS = 8  # of train, evenly spread
ENOUGH_PIXELS = 10_000_000  # perf: distances in a mask of 16 million pixels take 4 s
THIN = 0.06  # a line 17 times as long as wide has .06, a disk .19, an ellipse with axes of 1 to 10 .07


def has_thin_masks(source: OpenDataset, split: Split) -> bool:
    """Whether the masks of train of the first fold have one label, of structures much longer than wide.

    False for volumes, and if all masks that are looked at are empty.
    """
    spec, samples = source.spec, source.samples
    if samples.masks is None or spec.dims != 2 or len(spec.labels) != 1:
        return False
    rows = np.flatnonzero(split.folds[0] == "train")
    images = samples.table["image"].tolist()
    widths, seen = [], 0
    for row in rows[:: max(1, -(-len(rows) // MAX_MASKS))]:
        mask = read_mask(spec, samples, images[row])
        widths.append(measure_width(mask > 0))
        seen += mask.size
        if seen > ENOUGH_PIXELS:
            break
    known = [width for width in widths if width is not None]
    return bool(known) and float(np.median(known)) < THIN


def measure_width(marked: Array) -> float | None:
    """The mean distance to the boundary over the square root of the area, of connected parts weighted by their area.

    It does not depend on the scale; bool (H, W). None for an empty mask.
    """
    from scipy import ndimage

    if not marked.any():
        return None
    parts, count = ndimage.label(marked, np.ones((3, 3)))
    distances = ndimage.distance_transform_edt(np.pad(marked, 1))[1:-1, 1:-1] - 0.5  # between pixels
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    sums = np.bincount(parts.ravel(), distances.ravel(), minlength=count + 1)[1:]
    return float(np.average(sums / areas**1.5, weights=areas))
