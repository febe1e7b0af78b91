"""Read a frame of an animated GIF. A GIF with one frame is read like any other image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images import raster
from zoo.images.reading import AS_STORED, Header, Reading, check_regular, check_size, damaged, to_levels
from zoo.images.recent import Recent

SUFFIXES = (".gif",)
HEADER_VERSION = 1
MAX_CLIP_BYTES = 256 << 20  # of all frames: 340 of 512 x 512 in color
RECENT_ANIMATION_BYTES = 512 << 20


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """Decode all frames to read their size and number; the clip is gray if every frame is gray."""
    if count_frames(path) == 1:
        return raster.read_header(path, reading)
    frames = RECENT_ANIMATIONS(path)
    return Header(
        width=frames.shape[2], height=frames.shape[1], channels=1 if frames.ndim == 3 else 3, frames=len(frames)
    )


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    if frame is None:
        return raster.read_frame(path, None, reading)
    check_regular(path)
    frames = RECENT_ANIMATIONS(path)
    if frame >= len(frames):
        raise DataError(
            f"{path}: frame {frame} of {len(frames)}", fix="use an existing frame, counted from 0", code="image"
        )
    return to_levels(frames[frame].copy(), reading)


def count_frames(path: Path) -> int:
    import PIL.Image

    check_regular(path)
    try:
        with PIL.Image.open(path, formats=("GIF",)) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # not a GIF, or damaged: the reader of single images reports it
        return 1


def open_animation(path: Path) -> tuple[Array, int]:
    """All frames, (T, H, W) if every one is gray, else (T, H, W, 3); transparent pixels are blended with black."""
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=("GIF",)) as image:
            check_size(path, image.width, image.height, 3)
            count = int(image.n_frames)  # type: ignore[attr-defined]
            if count * image.width * image.height * 3 > MAX_CLIP_BYTES:
                raise DataError(
                    f"{path}: {count} frames of {image.width} x {image.height} are more than {MAX_CLIP_BYTES >> 20} MB",
                    fix="save it as a video (.avi, .mp4), or its frames as files",
                    code="image",
                )
            frames = np.empty((count, image.height, image.width, 3), np.uint8)
            for number in range(count):
                image.seek(number)
                frames[number] = raster.flatten(np.asarray(image.convert("RGBA")))
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error
    is_gray = all((frame == frame[..., :1]).all() for frame in frames)
    pixels = np.ascontiguousarray(frames[..., 0]) if is_gray else frames
    return pixels, pixels.nbytes


RECENT_ANIMATIONS: Recent[Array] = Recent(open_animation, RECENT_ANIMATION_BYTES)
