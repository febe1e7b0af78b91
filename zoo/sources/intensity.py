"""Choose one Reading for all files of a dataset, from their headers and the card.

All files share one recorded mapping from values to levels; clipping is always noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.errors import DataError
from zoo.images.formats import read_values, reader_key
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.images.text_headers import stored_files
from zoo.sources.cards import DatasetCard, Intensity
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

NUM_MEASURED = 64  # images decoded to measure percentiles, or to count those with values outside the given range
NUM_QUANTILES = 1001  # stored per image: percentiles in steps of 0.1
MAX_SAMPLED_VALUES = 1 << 18  # per image, evenly spread, besides its minimum and maximum
GREATEST_LEVEL = 65535
DARK = 0.1  # of the range of all volumes: a volume that spans less is nearly black
# In these modalities the window is part of the acquisition; in CT and MR it depends on the clinical question.
SHOWN_AS_DECLARED = frozenset({"CR", "DX", "MG", "XA", "RF"})


def choose_reading(
    card: DatasetCard, files: Sequence[Path], headers: Sequence[Header], volume_reading: Reading = AS_STORED
) -> tuple[Reading, tuple[str, ...]]:
    """Choose how all files become pixels, and describe it in notes.

    `headers` belong to `files`; `volume_reading` defines how they cut volumes. Without `intensity` in the card, 8 bits
    stay 8 bits, radiographs use the window that each file declares, and everything else gets one level per step over
    the range that the headers allow.
    """
    reading = replace(volume_reading, crop=card.crop)
    if isinstance(card.intensity, Intensity):
        return read_as_declared(card.intensity, reading, files, headers)
    if all(header.bits == 8 and header.values == (0, 255) and header.step == 1 for header in headers):
        return reading, ()
    gray = [header for header in headers if header.channels == 1]
    if gray and all(header.has_window and header.modality in SHOWN_AS_DECLARED for header in gray):
        note = (
            "every file is read through the window or VOI LUT that it declares, as 16 bits "
            "(in dataset.toml: intensity = {levels = [low, high]} for one range)"
        )
        return replace(reading, window="dicom", bits=16), (note,)
    return read_whole_range(reading, files, headers, bits=16)


def is_measured(card: DatasetCard, headers: Sequence[Header]) -> bool:
    """Whether `choose_reading` measures pixels: for percentiles of the set, or for floating-point values.

    Files of floating-point values declare no range; the range in their Header was read from the values.
    """
    intensity = card.intensity
    if isinstance(intensity, Intensity):
        if intensity.percentiles:
            return intensity.each != "volume"
        if intensity.window or intensity.levels:
            return False
    return any(header.step == 0 for header in headers)


def record_reading(reading: Reading) -> dict[str, Any]:
    """Return the fields of a Reading that differ from the default; they are part of the content hash."""
    plain = asdict(AS_STORED)
    return {name: value for name, value in asdict(reading).items() if value != plain[name]}


def read_as_declared(
    intensity: Intensity, reading: Reading, files: Sequence[Path], headers: Sequence[Header]
) -> tuple[Reading, tuple[str, ...]]:
    """Read as the card's `intensity` section defines."""
    if intensity.window == "dicom":
        for path, header in zip(files, headers, strict=True):
            if header.channels == 1 and not header.has_window:
                raise DataError(
                    f"{path}: has no window and no VOI LUT, which intensity.window = 'dicom' needs",
                    fix="set intensity = {levels = [low, high]} in dataset.toml",
                )
        return replace(reading, window="dicom", bits=intensity.bits), (
            f"every file is read through the window or VOI LUT that it declares, as {intensity.bits} bits",
        )
    if intensity.percentiles and intensity.each == "volume":
        return read_each_volume(intensity.percentiles, intensity.bits, reading, files, headers)
    if intensity.percentiles:
        return read_percentiles(intensity.percentiles, intensity.bits, reading, files, headers)
    levels = intensity.levels
    if isinstance(intensity.window, tuple):
        center, width = intensity.window
        levels = (center - width / 2, center + width / 2)
    if levels is None:
        return read_whole_range(reading, files, headers, bits=intensity.bits)
    reading = replace(reading, levels=check_range(levels), bits=intensity.bits)
    quantiles = measure_levels(reading, files, headers)
    return reading, (describe_mapping(reading), describe_clipped(reading, quantiles))


def check_range(levels: tuple[float, float]) -> tuple[float, float]:
    low, high = levels
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(
            f"intensity: expected two finite values, the lower one first, got {low:g} and {high:g}",
            fix="correct it in dataset.toml",
        )
    return float(low), float(high)


def read_whole_range(
    reading: Reading, files: Sequence[Path], headers: Sequence[Header], *, bits: Literal[8, 16]
) -> tuple[Reading, tuple[str, ...]]:
    """Map every value that the headers allow, one level per step if 16 bits suffice."""
    low = min(header.values[0] for header in headers)
    high = max(header.values[1] for header in headers)
    if not (np.isfinite(low) and np.isfinite(high)):
        return read_percentiles((0.0, 100.0), bits, reading, files, headers)
    step = min(header.step for header in headers)
    if high <= low:  # floating-point values that are all equal
        high = low + 1.0
    fits = step > 0 and (high - low) / step <= GREATEST_LEVEL + 1e-6
    if bits == 8 or not fits:
        reading = replace(reading, levels=(low, high), bits=bits)
        return reading, (describe_mapping(reading) + ", rounded", *describe_scales(headers, low, high))
    reading = replace(reading, levels=(low, low + GREATEST_LEVEL * step), bits=16)
    notes = [f"values {low:g} to {high:g} (as the headers allow) become levels 0 to {round((high - low) / step)}"]
    depths = sorted({header.bits for header in headers})
    if len(depths) > 1:
        shallower = ", ".join(map(str, depths[:-1]))
        notes.append(f"files of {shallower} and {depths[-1]} bits: equal values are equal levels in all of them")
    return reading, (*notes, *describe_scales(headers, low, high))


def read_each_volume(
    percentiles: tuple[float, float],
    bits: Literal[8, 16],
    reading: Reading,
    files: Sequence[Path],
    headers: Sequence[Header],
) -> tuple[Reading, tuple[str, ...]]:
    """Map two percentiles of each volume separately, as MR needs, whose values have no unit."""
    for path, header in zip(files, headers, strict=True):
        if not header.is_volume:
            raise DataError(
                f"{path}: not a volume, as intensity.each = 'volume' needs", fix="remove `each` from dataset.toml"
            )
    low, high = check_percentiles(percentiles)
    note = f"percentiles {low:g} and {high:g} of each volume become levels 0 to {2**bits - 1}, separately per volume"
    return replace(reading, percentiles=(low, high), bits=bits), (note,)


def check_percentiles(percentiles: tuple[float, float]) -> tuple[float, float]:
    lower, upper = percentiles
    if not 0 <= lower < upper <= 100:
        raise DataError(
            f"intensity.percentiles: expected 0 <= low < high <= 100, got {list(percentiles)}",
            fix="correct them in dataset.toml",
        )
    return lower, upper


def read_percentiles(
    percentiles: tuple[float, float],
    bits: Literal[8, 16],
    reading: Reading,
    files: Sequence[Path],
    headers: Sequence[Header],
) -> tuple[Reading, tuple[str, ...]]:
    """Map two percentiles of the values in images evenly spread over the set, with equal weight per image."""
    lower, upper = check_percentiles(percentiles)
    quantiles = measure_levels(reading, files, headers)
    low, high = np.percentile(quantiles, [lower, upper])
    if high <= low:
        raise DataError(
            f"intensity.percentiles {lower:g} and {upper:g} are both {low:g} in {len(quantiles)} images",
            fix="set wider percentiles, or levels = [low, high]",
        )
    reading = replace(reading, levels=(float(low), float(high)), bits=bits)
    measured = f"percentiles {lower:g} and {upper:g} of {len(quantiles)} images: {describe_mapping(reading)}"
    return reading, (measured, describe_clipped(reading, quantiles))


# --- measured --------------------------------------------------------------------------------------------------------
def measure_levels(reading: Reading, files: Sequence[Path], headers: Sequence[Header]) -> np.ndarray[Any, Any]:
    """Return cached quantiles (files, NUM_QUANTILES) of the values in files evenly spread over the set."""
    chosen = list(range(0, len(files), max(1, -(-len(files) // NUM_MEASURED))))
    frames = {files[index]: (headers[index].frames or 0) // 2 if headers[index].frames else None for index in chosen}
    find = partial(find_quantiles, frames=frames, reading=reading)
    what = f"quantiles:2:{reading.axis}:{reading.crop}{reader_key(path.name for path in frames)}"
    memo = FileMemo(cache_root(), what, find, stored_files)
    try:
        return np.array([memo(path) for path in frames])
    finally:
        memo.close()


def find_quantiles(path: Path, frames: dict[Path, int | None], reading: Reading) -> list[float]:
    """Return quantiles of a file's middle frame, from its minimum to its maximum."""
    values = read_values(path, frames[path], reading).ravel()
    spread = values[:: max(1, -(-values.size // MAX_SAMPLED_VALUES))]
    quantiles = np.quantile(spread.astype(np.float64), np.linspace(0, 1, NUM_QUANTILES))
    quantiles[0], quantiles[-1] = values.min(), values.max()
    result: list[float] = quantiles.tolist()
    return result


def describe_mapping(reading: Reading) -> str:
    assert reading.levels
    low, high = reading.levels
    return f"values {low:g} to {high:g} become levels 0 to {2**reading.bits - 1}"


def describe_scales(headers: Sequence[Header], low: float, high: float) -> tuple[str, ...]:
    """Return a note where some volumes become nearly black: values without a unit, as in MR, have different scales."""
    if not all(header.is_volume for header in headers):  # other headers give the possible range, not the actual one
        return ()
    dark = [header for header in headers if header.values[1] - header.values[0] < DARK * (high - low)]
    if not dark:
        return ()
    return (
        f"{len(dark)} of {len(headers)} volumes span under {DARK:.0%} of this range and are nearly black: their scales "
        'differ; set intensity = {percentiles = [0, 99.5], each = "volume"} if values have no unit, as in MR',
    )


def describe_clipped(reading: Reading, quantiles: np.ndarray[Any, Any]) -> str:
    assert reading.levels
    low, high = reading.levels
    outside = int(((quantiles[:, 0] < low) | (quantiles[:, -1] > high)).sum())
    return f"values outside are clipped: {outside} of {len(quantiles)} measured images have some"
