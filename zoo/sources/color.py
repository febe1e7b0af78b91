"""Read a dataset stored in color as gray if every image has equal channels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.images.formats import read_header, reader_key
from zoo.sources.assembly import Assembled
from zoo.specs.dataset import Samples
from zoo.system.files import cache_root
from zoo.system.machine import num_cores
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress

COLOR_VERSION = 1  # of the memo; raise it when decoding changes
FILES_AT_ONCE = 64  # files checked between two decisions: a color set stops after the first batch


def settle_color(assembled: Assembled, progress: Progress | None = None) -> Samples:
    """Return the samples, read as gray if the channels are equal in every image, and a note.

    Chest X-rays are often RGB or RGBA files of equal channels, which only the pixels show. Datasets of frames keep the
    declared channels.
    """
    samples = assembled.samples
    images = list(samples.table["image"])
    one_per_file = len(set(samples.files)) == len(images)
    if assembled.spec.channels == 1 or assembled.spec.dims == 3 or not one_per_file:
        return replace(samples, notes=(*samples.notes, *assembled.channel_notes))
    is_gray = partial(is_file_gray, read=samples.read, images=dict(zip(samples.files, images, strict=True)))
    what = f"gray:{COLOR_VERSION}{reader_key(path.name for path in samples.files)}"
    memo = FileMemo(cache_root(), what=what, find=is_gray)
    try:
        with ThreadPoolExecutor(num_cores()) as pool:
            for start in range(0, len(images), FILES_AT_ONCE):
                files = samples.files[start : start + FILES_AT_ONCE]
                if not all(pool.map(memo, files)):
                    return replace(samples, notes=(*samples.notes, *assembled.channel_notes))
                if progress:
                    progress(start + len(files), len(images))
    finally:
        memo.close()
    note = f"the channels are equal in all {len(images)} images: they are read as gray"
    return replace(samples, spec=replace(assembled.spec, channels=1), notes=(*samples.notes, note))


def is_file_gray(path: Path, *, read: Callable[[Any], Any], images: dict[Path, str]) -> bool:
    if read_header(path).channels == 1:
        return True
    pixels = read(images[path])
    return pixels.ndim == 2 or bool(np.all(pixels == pixels[:, :, :1]))
