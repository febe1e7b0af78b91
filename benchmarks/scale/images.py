"""Measure what a bench does with all images of a dataset before training, by stage.

    python benchmarks/scale/images.py 10000 100000 1000000

Each number is a dataset of that many distinct PNG files of 16 px in two class folders, 1,000 files in each folder below
them. Stages: `listing` recognizes the folder, `hashing` opens the dataset with an empty cache, `hashing again` with the
stored digests, and `splitting` draws the split. A million files take 4 GB of disk.
"""

from __future__ import annotations

import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_recognized

Value = TypeVar("Value")
SIDE = 16
PER_FOLDER = 1_000


def write_images(root: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for start in range(0, count, PER_FOLDER):
        folder = root / f"class{start // PER_FOLDER % 2}" / f"part{start // PER_FOLDER:04}"
        folder.mkdir(parents=True)
        images = random.integers(0, 256, (min(PER_FOLDER, count - start), SIDE, SIDE), dtype=np.uint8)
        for number, image in enumerate(images, start):
            (folder / f"{number:07}.png").write_bytes(to_png(image))


def to_png(image: np.ndarray) -> bytes:
    """An uncompressed gray PNG: quicker to write than with a library."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", *image.shape[::-1], 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def timed(stage: str, work: Callable[[], Value]) -> Value:
    start = time.process_time()
    value = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"  {stage}: {time.process_time() - start:.1f} CPU seconds, peak memory so far {peak:.0f} MB", flush=True)
    return value


def measure(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        images, cache = Path(folder) / "images", Path(folder) / "cache"
        write_images(images, count)
        print(f"{count} images", flush=True)
        spec = timed("listing", lambda: find_recognized(images, ()))
        timed("hashing", lambda: open_dataset(spec, cache))
        source = timed("hashing again", lambda: open_dataset(spec, cache))
        timed("splitting", lambda: draw_split(source))


if __name__ == "__main__":
    for number in sys.argv[1:]:
        measure(int(number))
