"""Read a frame of a video. The frames of a clip are decoded in order, and each once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.reading import AS_STORED, MAX_PIXELS, Header, Reading, check_regular, check_size, damaged, to_levels
from zoo.images.recent import Recent

# The demuxer follows from the suffix, never from the content: a playlist called `a.avi` could make it read other files.
VIDEO_FORMATS = {
    ".avi": "avi",
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
}
SUFFIXES = tuple(VIDEO_FORMATS)
HEADER_VERSION = 1
MAX_CLIP_FRAMES = 1_000_000
DECODED_PIXELS = 200_000_000  # clips up to this size are decoded completely for their header, in about a second
KEPT_BYTES = 64 << 20  # cache for decoded frames of a clip, because threads read them slightly out of order
RECENT_CLIP_BYTES = 256 << 20
SHORT_CLIP_FRAMES = 0.9  # share of the declared duration below which a file counts as truncated


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:  # noqa: ARG001
    """The size and number of frames.

    A short clip is decoded completely, to check that it is complete and whether it is gray. The packets of a long clip
    are counted, and it counts as color.
    """
    check_regular(path)
    num_packets = count_packets(path)
    frames = Decoder(path)
    first = frame_pixels(path, next(frames))
    height, width = first.shape[:2]
    if num_packets * width * height > DECODED_PIXELS:
        return Header(width=width, height=height, channels=3, frames=num_packets)
    channels, count = 1 if first.ndim == 2 else 3, 1
    for frame in frames:
        count += 1
        channels = max(channels, 1 if frame_pixels(path, frame).ndim == 2 else 3)
    return Header(width=width, height=height, channels=channels, frames=count)


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Pixels uint8, (H, W) if they are gray, else (H, W, 3), rotated as declared in the file."""
    check_regular(path)
    return to_levels(RECENT_CLIPS(path).read(frame or 0), reading)


class OpenClip:
    """A video that is being decoded, with a cache of the last frames. It is thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        self.position = 0
        self.cached: OrderedDict[int, Any] = OrderedDict()  # in the decoded format: half the size of RGB
        self.frames = Decoder(self.path)

    def read(self, number: int) -> Array:
        with self.lock:
            if number not in self.cached and number < self.position:
                self.begin()
            while self.position <= number:
                frame = next(self.frames, None)
                if frame is None:
                    raise DataError(
                        f"{self.path}: frame {number} of {self.position}",
                        fix="copy it again, or use an existing frame",
                        code="image",
                    )
                self.cached[self.position] = frame
                self.position += 1
                while len(self.cached) * frame.width * frame.height * 3 > KEPT_BYTES and len(self.cached) > 1:
                    self.cached.popitem(last=False)
            return frame_pixels(self.path, self.cached[number])


def open_clip(path: Path) -> tuple[OpenClip, int]:
    return OpenClip(path), KEPT_BYTES


RECENT_CLIPS: Recent[OpenClip] = Recent(open_clip, RECENT_CLIP_BYTES)


# --- PyAV ------------------------------------------------------------------------------------------------------------
def open_container(path: Path) -> Any:
    """Open the container of a file with a video stream. Raises DataError."""
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{path}: reading videos needs the package av", fix="pip install 'zoo-bench[video]'", code="video-extra"
        ) from error
    try:
        # "file:" makes FFmpeg treat the rest as a path, even if it looks like a URL
        container = av.open(f"file:{path.resolve()}", format=VIDEO_FORMATS[path.suffix.lower()])
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: contains no video", fix="leave it out", code="image")
    return container


class Decoder:
    """An iterator over the frames of a video in display order.

    It is not a generator, because a suspended generator would be closed at exit, after the names it needs are deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.is_empty = path, True
        self.container = open_container(path)
        stream = self.container.streams.video[0]
        stream.codec_context.thread_count = 1  # threads do not survive a fork, and there is one per file already
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self.frames = self.container.decode(stream)

    def __iter__(self) -> Decoder:
        return self

    def __next__(self) -> Any:
        try:
            frame = next(self.frames, None)
        except Exception as error:
            raise damaged(self.path, error) from error
        if frame is None:
            self.container.close()
            if self.is_empty:
                raise no_frame(self.path)
            raise StopIteration
        self.is_empty = False
        deepest = max(component.bits for component in frame.format.components)
        if deepest > 8:
            raise DataError(
                f"{self.path}: {deepest} bits per sample ({frame.format.name}), expected 8",
                fix="convert all clips with ffmpeg -i IN -pix_fmt yuv420p OUT, or save frames as 16-bit files",
                code="image",
            )
        return frame


def count_packets(path: Path) -> int:
    """The number of stored frames. Raises DataError if it is less than declared: the file is truncated."""
    with open_container(path) as container:
        stream = container.streams.video[0]
        check_size(path, stream.codec_context.width, stream.codec_context.height, 3)
        count, end, seen = 0, 0.0, 0
        try:
            for seen, packet in enumerate(container.demux(stream)):
                if packet.size:
                    count += 1
                    if packet.pts is not None and packet.time_base:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if seen > MAX_CLIP_FRAMES:
                    break
        except Exception as error:
            raise damaged(path, error) from error
        declared, seconds = stream.frames, (container.duration or 0) / 1e6
    if seen > MAX_CLIP_FRAMES:
        raise DataError(f"{path}: more than {MAX_CLIP_FRAMES} frames", fix="cut it into clips", code="image")
    if not count:
        raise no_frame(path)
    if count < declared or (not declared and end < SHORT_CLIP_FRAMES * seconds):
        what = f"{declared} frames, but ends after {count}" if declared else f"{seconds:.2f} s, but ends at {end:.2f} s"
        raise DataError(f"{path}: it declares {what}", fix="copy it again, or leave it out", code="image")
    return count


def no_frame(path: Path) -> DataError:
    return DataError(f"{path}: contains no frame", fix="copy it again, or leave it out", code="image")


def frame_pixels(path: Path, frame: Any) -> Array:
    """A frame as uint8, (H, W) if all pixels are gray, else (H, W, 3), rotated as declared in the file."""
    check_size(path, frame.width, frame.height, 3)
    pixels: Array = frame.to_ndarray(format="rgb24")
    if frame.rotation % 360:
        pixels = np.rot90(pixels, frame.rotation // 90)
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels)
