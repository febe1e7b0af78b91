"""Choose one Reading for all files of a set from their headers and its card.

One mapping for the whole set, recorded; nothing is clipped without a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.errors import DataError
from zoo.images.formats import read_values
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.sources.cards import DatasetCard, Intensity
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

NUM_MEASURED = 64  # images decoded to find percentiles, or to count those with values outside a stated range
NUM_QUANTILES = 1001  # remembered of each: percentiles in steps of .1
MAX_SAMPLED_VALUES = 1 << 18  # of an image, evenly spread, besides its least and greatest
GREATEST_LEVEL = 65535
DARK = 0.1  # of the range of all volumes: one that spans less is hardly seen
# Whoever took such an image chose how it is to be shown; CT and MR windows differ by what was looked for.
SHOWN_AS_DECLARED = frozenset({"CR", "DX", "MG", "XA", "RF"})


def choose_reading(
    card: DatasetCard, files: Sequence[Path], headers: Sequence[Header], looked_at: Reading = AS_STORED
) -> tuple[Reading, tuple[str, ...]]:
    """The one way in which all files become pixels, and what should be said about it.

    `headers` are those of `files`, read as `looked_at` cuts volumes.

    Where the card says nothing, 8 bits stay 8 bits, radiographs are shown as each file declares, and all else gets one
    level a step over the range that the headers allow.
    """
    reading = replace(looked_at, crop=card.crop)
    if isinstance(card.intensity, Intensity):
        return read_as_said(card.intensity, reading, files, headers)
    if all(header.bits == 8 and header.values == (0, 255) and header.step == 1 for header in headers):
        return reading, ()
    gray = [header for header in headers if header.channels == 1]
    if gray and all(header.has_window and header.modality in SHOWN_AS_DECLARED for header in gray):
        note = (
            "every file is shown in the window or VOI LUT that it declares, as 16 bits "
            "(in dataset.toml: intensity = {levels = [low, high]} for one range)"
        )
        return replace(reading, window="dicom", bits=16), (note,)
    return read_whole_range(reading, files, headers, bits=16)


def is_measured(card: DatasetCard, headers: Sequence[Header]) -> bool:
    """Whether `choose_reading` looks at pixels to choose levels: percentiles of the set, or floating-point values.

    The header of such a file has no range; what stands there was read from its values.
    """
    said = card.intensity
    if isinstance(said, Intensity):
        if said.percentiles:
            return said.each != "volume"
        if said.window or said.levels:
            return False
    return any(header.step == 0 for header in headers)


def record_reading(reading: Reading) -> dict[str, Any]:
    """What of a Reading is not as in every other set: part of the content hash, and shown."""
    plain = asdict(AS_STORED)
    return {name: value for name, value in asdict(reading).items() if value != plain[name]}


def read_as_said(
    said: Intensity, reading: Reading, files: Sequence[Path], headers: Sequence[Header]
) -> tuple[Reading, tuple[str, ...]]:
    if said.window == "dicom":
        for path, header in zip(files, headers, strict=True):
            if header.channels == 1 and not header.has_window:
                raise DataError(
                    f"{path}: has no window and no VOI LUT, and intensity.window is 'dicom'",
                    fix="say intensity = {levels = [low, high]} in dataset.toml",
                )
        return replace(reading, window="dicom", bits=said.bits), (
            f"every file is shown in the window or VOI LUT that it declares, as {said.bits} bits",
        )
    if said.percentiles and said.each == "volume":
        return read_each_volume(said.percentiles, said.bits, reading, files, headers)
    if said.percentiles:
        return read_percentiles(said.percentiles, said.bits, reading, files, headers)
    levels = said.levels
    if isinstance(said.window, tuple):
        centre, width = said.window
        levels = (centre - width / 2, centre + width / 2)
    if levels is None:
        return read_whole_range(reading, files, headers, bits=said.bits)
    reading = replace(reading, levels=check_range(levels), bits=said.bits)
    looked_at = measure_levels(reading, files, headers)
    return reading, (say_mapping(reading), say_clipped(reading, looked_at))


def check_range(levels: tuple[float, float]) -> tuple[float, float]:
    low, high = levels
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(f"intensity: {low:g} to {high:g} is no range of values", fix="write the lower one first")
    return float(low), float(high)


def read_whole_range(
    reading: Reading, files: Sequence[Path], headers: Sequence[Header], *, bits: Literal[8, 16]
) -> tuple[Reading, tuple[str, ...]]:
    """Every value that the headers allow, one level a step where 16 bits are enough for that."""
    low = min(header.values[0] for header in headers)
    high = max(header.values[1] for header in headers)
    if not (np.isfinite(low) and np.isfinite(high)):
        return read_percentiles((0.0, 100.0), bits, reading, files, headers)
    step = min(header.step for header in headers)
    if high <= low:  # a file of floating-point values that are all the same
        high = low + 1.0
    fits = step > 0 and (high - low) / step <= GREATEST_LEVEL + 1e-6
    if bits == 8 or not fits:
        reading = replace(reading, levels=(low, high), bits=bits)
        return reading, (say_mapping(reading) + ", rounded", *say_scales(headers, low, high))
    reading = replace(reading, levels=(low, low + GREATEST_LEVEL * step), bits=16)
    notes = [f"values {low:g} to {high:g} (as the headers allow) become levels 0 to {round((high - low) / step)}"]
    depths = sorted({header.bits for header in headers})
    if len(depths) > 1:
        shallower = ", ".join(map(str, depths[:-1]))
        notes.append(f"files of {shallower} and {depths[-1]} bits: the same value is the same level in all")
    return reading, (*notes, *say_scales(headers, low, high))


def read_each_volume(
    percentiles: tuple[float, float],
    bits: Literal[8, 16],
    reading: Reading,
    files: Sequence[Path],
    headers: Sequence[Header],
) -> tuple[Reading, tuple[str, ...]]:
    """Two percentiles of every volume by itself: what MR needs, whose values have no unit."""
    for path, header in zip(files, headers, strict=True):
        if not header.is_volume:
            raise DataError(f"{path}: is no volume, and intensity.each is 'volume'", fix="leave `each` out")
    low, high = check_percentiles(percentiles)
    note = f"percentiles {low:g} and {high:g} of each volume become levels 0 to {2**bits - 1}, in each by itself"
    return replace(reading, percentiles=(low, high), bits=bits), (note,)


def check_percentiles(percentiles: tuple[float, float]) -> tuple[float, float]:
    lower, upper = percentiles
    if not 0 <= lower < upper <= 100:
        raise DataError(f"intensity.percentiles: expected 0 <= low < high <= 100, got {list(percentiles)}")
    return lower, upper


def read_percentiles(
    percentiles: tuple[float, float],
    bits: Literal[8, 16],
    reading: Reading,
    files: Sequence[Path],
    headers: Sequence[Header],
) -> tuple[Reading, tuple[str, ...]]:
    """Two percentiles of the values of images evenly spread over the set, every image counting alike."""
    lower, upper = check_percentiles(percentiles)
    quantiles = measure_levels(reading, files, headers)
    low, high = np.percentile(quantiles, [lower, upper])
    if high <= low:
        raise DataError(
            f"intensity.percentiles {lower:g} and {upper:g} are both {low:g} in {len(quantiles)} images",
            fix="say wider percentiles, or levels = [low, high]",
        )
    reading = replace(reading, levels=(float(low), float(high)), bits=bits)
    measured = f"percentiles {lower:g} and {upper:g} of {len(quantiles)} images: {say_mapping(reading)}"
    return reading, (measured, say_clipped(reading, quantiles))


# --- measured --------------------------------------------------------------------------------------------------------
def measure_levels(reading: Reading, files: Sequence[Path], headers: Sequence[Header]) -> np.ndarray[Any, Any]:
    """(files, NUM_QUANTILES): quantiles of the values of files evenly spread over the set; remembered."""
    chosen = list(range(0, len(files), max(1, -(-len(files) // NUM_MEASURED))))
    frames = {files[index]: (headers[index].frames or 0) // 2 if headers[index].frames else None for index in chosen}
    find = partial(find_quantiles, frames=frames, reading=reading)
    memo = FileMemo(cache_root(), what=f"quantiles:2:{reading.axis}:{reading.crop}", find=find)
    try:
        return np.array([memo(path) for path in frames])
    finally:
        memo.close()


def find_quantiles(path: Path, frames: dict[Path, int | None], reading: Reading) -> list[float]:
    """Quantiles of a file's middle frame, the first and last its least and greatest value."""
    values = read_values(path, frames[path], reading).ravel()
    spread = values[:: max(1, -(-values.size // MAX_SAMPLED_VALUES))]
    quantiles = np.quantile(spread.astype(np.float64), np.linspace(0, 1, NUM_QUANTILES))
    quantiles[0], quantiles[-1] = values.min(), values.max()
    found: list[float] = quantiles.tolist()
    return found


def say_mapping(reading: Reading) -> str:
    assert reading.levels
    low, high = reading.levels
    return f"values {low:g} to {high:g} become levels 0 to {2**reading.bits - 1}"


def say_scales(headers: Sequence[Header], low: float, high: float) -> tuple[str, ...]:
    """A note where some volumes leave the others in the dark: values without a unit, as of MR, on different scales."""
    if not all(header.is_volume for header in headers):  # the range of others is what their headers allow
        return ()
    dark = [header for header in headers if header.values[1] - header.values[0] < DARK * (high - low)]
    if not dark:
        return ()
    return (
        f"{len(dark)} of {len(headers)} volumes span under {DARK:.0%} of this range and are nearly black: their scales "
        'differ; say intensity = {percentiles = [0, 99.5], each = "volume"} where values have no unit, as in MR',
    )


def say_clipped(reading: Reading, quantiles: np.ndarray[Any, Any]) -> str:
    assert reading.levels
    low, high = reading.levels
    outside = int(((quantiles[:, 0] < low) | (quantiles[:, -1] > high)).sum())
    return f"values outside are clipped: {outside} of {len(quantiles)} images looked at have some"
