"""A set whose files are stored in colour to the gray set that it is in fact, if every image is gray."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.images.formats import read_header
from zoo.sources.assembly import Assembled
from zoo.specs.dataset import Samples
from zoo.system.files import cache_root
from zoo.system.machine import num_cores
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress

COLOR_VERSION = 1  # of what is remembered of a file; raised when decoding changes
FILES_AT_ONCE = 64  # files looked at before asking whether one had colour: a colour set is known by its first


def settle_colour(found: Assembled, progress: Progress | None = None) -> Samples:
    """The samples, as gray where no image has two channels that differ, with a note; the others' notes say colour.

    Only the pixels tell: chest X-rays are often RGB or RGBA files of equal channels. Sets of frames stay as declared.
    """
    samples = found.samples
    images = list(samples.table["image"])
    one_a_file = len(set(samples.files)) == len(images)
    if found.spec.channels == 1 or not one_a_file:
        return replace(samples, notes=(*samples.notes, *found.channel_notes))
    is_gray = partial(is_file_gray, read=samples.read, images=dict(zip(samples.files, images, strict=True)))
    memo = FileMemo(cache_root(), what=f"gray:{COLOR_VERSION}", find=is_gray)
    try:
        with ThreadPoolExecutor(num_cores()) as pool:
            for start in range(0, len(images), FILES_AT_ONCE):
                files = samples.files[start : start + FILES_AT_ONCE]
                if not all(pool.map(memo, files)):
                    return replace(samples, notes=(*samples.notes, *found.channel_notes))
                if progress:
                    progress(start + len(files), len(images))
    finally:
        memo.close()
    note = f"files of three or four channels, equal in all of the {len(images)} images: the set is read as gray"
    return replace(samples, spec=replace(found.spec, channels=1), notes=(*samples.notes, note))


def is_file_gray(path: Path, *, read: Callable[[Any], Any], images: dict[Path, str]) -> bool:
    if read_header(path).channels == 1:
        return True
    pixels = read(images[path])
    return pixels.ndim == 2 or bool(np.all(pixels == pixels[:, :, :1]))
