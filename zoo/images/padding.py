"""Pixel padding of a DICOM file: stored values outside the field of view or the detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.images.elements import OpenDicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


# PS3.3 C.7.5.1.1.2: one value, or all values between value and limit, in either order.
KEYWORDS = {
    "PixelData": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "FloatPixelData": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "DoubleFloatPixelData": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


def darken_padding(file: OpenDicom, view: Dataset, raw: Array, show: Callable[[Array], Array]) -> Array:
    """Set padding to the dark end of the stored range, or of the tissue if the range is signed or floating point.

    `show` maps stored values to displayed ones, which defines the dark end: MONOCHROME1, a negative slope and a lookup
    table may reverse it. The dark end of a signed range is far from all tissue (-32768 for CT), and an edge of this
    height would dominate the image. Padding that is darker than three quarters of the tissue (-2000 in CT) is kept.
    """
    if not file.is_gray or not (bounds := padding_bounds(file, view)):
        return raw
    is_padding = np.isnan(raw) if np.isnan(bounds[0]) else (raw >= bounds[0]) & (raw <= bounds[1])
    if not is_padding.any():
        return raw
    if raw.dtype.kind == "u":
        stored = file.bits_stored
        ends = np.array([[0, 2**stored - 1]], raw.dtype)
        first, last = show(ends)[0]
        return np.where(is_padding, ends[0, 0] if first <= last else ends[0, 1], raw)
    if is_padding.all():
        return raw
    low, quarter, three_quarters, high = np.quantile(raw[~is_padding], [0.01, 0.25, 0.75, 0.99], method="nearest")
    first, last = show(np.array([[low, high]], raw.dtype))[0]
    if first <= last:
        return np.where(is_padding & ~(raw <= quarter), low, raw)  # `~`, because NaN <= quarter is False
    return np.where(is_padding & ~(raw >= three_quarters), high, raw)


def padding_bounds(file: OpenDicom, view: Dataset) -> tuple[float, float] | None:
    """The smallest and largest stored value of padding, or None if the file declares no padding."""
    value, limit = (first_number(view.get(keyword)) for keyword in KEYWORDS[file.element])
    if value is None:
        return None
    bounds = [value, value if limit is None else limit]
    if file.element == "PixelData":
        bounds = [as_stored(file, bound) for bound in bounds]
    return min(bounds), max(bounds)


def first_number(value: Any) -> float | None:
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)


def as_stored(file: OpenDicom, value: float) -> float:
    """Convert a padding value to the signedness of the pixels: some files write -2000 as 63536, or the reverse."""
    allocated = int(file.dataset.BitsAllocated)
    unsigned = int(value) % 2**allocated
    is_negative = file.dataset.get("PixelRepresentation") == 1 and unsigned >= 2 ** (allocated - 1)
    return float(unsigned - 2**allocated if is_negative else unsigned)
