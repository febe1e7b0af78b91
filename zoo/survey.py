"""From an opened dataset to what each of its images is once decoded: size, depth, channels, or that it cannot be.

A header says nothing of the pixels behind it: half a PNG has a whole header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.files import written_whole
from zoo.samples import Progress, Source, mixed_depth, wrong_channels
from zoo.system import num_cores

Array = np.ndarray[Any, Any]

VERSION = 1  # raised when decoding changes, or what is kept of it


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What every image is, in the dataset's order."""

    widths: Array  # (N,) int64
    heights: Array  # (N,) int64
    bits: Array  # (N,) int64, 8 or 16
    channels: Array  # (N,) int64, 1 or 3, as read
    gray: Array  # (N,) bool: one channel, or three that are equal


def survey_images(source: Source, cache: Path, progress: Progress | None = None) -> Survey:
    """Decode every image once, by threads, and remember what was found by content.

    Raises DataError naming the first that cannot be decoded, and how many more there are; or that differs in depth; or
    that has colour where the card says gray.
    """
    path = cache / "surveys" / f"{source.content_hash[:20]}-v{VERSION}.npz"
    survey = load_survey(path, len(source.sample_ids))
    if survey is None:
        survey = look_at_all(source, progress)
        with written_whole(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **{field.name: getattr(survey, field.name) for field in fields(Survey)})
    check_alike(source, survey)
    return survey


def load_survey(path: Path, num_images: int) -> Survey | None:
    """What was found before; None where there is nothing, or nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            survey = Survey(**{field.name: stored[field.name] for field in fields(Survey)})
    except Exception:  # absent, or damaged in one of many ways: it is found again
        return None
    return survey if len(survey.widths) == num_images else None


def look_at_all(source: Source, progress: Progress | None) -> Survey:
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])

    def look(image: Any) -> tuple[int, int, int, int, bool] | DataError:
        try:
            return describe_pixels(source.samples.read(image))
        except DataError as error:
            return error

    found, faults = [], []
    with ThreadPoolExecutor(num_cores()) as pool:
        for done, facts in enumerate(pool.map(look, images), start=1):
            if isinstance(facts, DataError):
                faults.append(facts)
            else:
                found.append(facts)
            if progress:
                progress(done, len(images))
    if faults:
        raise unreadable(faults)
    columns = [np.array(column) for column in zip(*found, strict=True)]
    return Survey(**dict(zip((field.name for field in fields(Survey)), columns, strict=True)))


def describe_pixels(pixels: Array) -> tuple[int, int, int, int, bool]:
    """In the order of `Survey`'s fields."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    gray = channels == 1 or bool((pixels == pixels[:, :, :1]).all())
    return width, height, 8 * pixels.dtype.itemsize, channels, gray


def unreadable(faults: Sequence[DataError]) -> DataError:
    """The first fault, and how many more images have one."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more images cannot be read)" if len(faults) > 1 else ""
    return DataError(first.message + more, fix=first.fix, code=first.code)


def check_alike(source: Source, survey: Survey) -> None:
    """What a bench would refuse when it decodes: two depths in one set, colour in a gray one."""
    other = np.flatnonzero(survey.bits != survey.bits[0])
    if len(other):
        raise mixed_depth(source, int(other[0]), f"uint{survey.bits[other[0]]}", f"uint{survey.bits[0]}")
    coloured = np.flatnonzero(~survey.gray)
    if source.spec.channels == 1 and len(coloured):
        raise wrong_channels(source, int(coloured[0]), int(survey.channels[coloured[0]]))
