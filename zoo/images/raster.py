"""Read a photograph or scan (PNG, JPEG, TIFF, ...): gray or RGB, upright, without loss of levels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.reading import (
    AS_STORED,
    RASTER_KINDS,
    RASTER_SUFFIXES,
    Header,
    Reading,
    check_regular,
    check_size,
    damaged,
    detect_kind,
    first_bytes,
    has_wrong_suffix,
    open_tiff,
    to_levels,
    too_large,
)
from zoo.images.stacks import declared_planes, planes_in_directory

if TYPE_CHECKING:
    from PIL.Image import Image


RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")  # not EPS: it runs ghostscript
SUFFIXES = RASTER_SUFFIXES
TIFF_SUFFIXES = (".tif", ".tiff")
GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
SINGLE_FRAME_EXTRAS = frozenset({"MPO"})  # phones append a preview to the JPEG; the first frame is the photograph

LARGE_PIXELS = 16_000_000  # threads decode larger images one at a time: two of 80 Mpx would take 1.5 GB
LARGE_IMAGE_LOCK = threading.Lock()
SAMPLE_FORMAT = 339  # TIFF: 1 unsigned, 2 signed, 3 floating point
STRIP_PIXELS = 1 << 20  # pixels blended with their alpha at once

# Pillow keeps the high byte of 16-bit color. Reading the same bytes in the other order gives the low byte.
OTHER_BYTE_ORDER = {";16B": ";16L", ";16L": ";16B"}


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:  # noqa: ARG001
    """The size and channels of the result of `read_frame`, except for its orientation."""
    try:
        with open_image(path) as image:
            if image.mode in GRAY_MODES or "LA;16" in raw_mode(image):
                return Header(width=image.width, height=image.height, channels=1)
            if image.mode != "P":
                return Header(width=image.width, height=image.height, channels=3)
    except DataError:
        if path.suffix.lower() not in TIFF_SUFFIXES:
            raise
    pixels = read_raster_pixels(path)  # whether it is gray depends on the colors of its palette
    return Header(width=pixels.shape[1], height=pixels.shape[0], channels=1 if pixels.ndim == 2 else 3)


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """The pixels of `read_raster_pixels`, mapped by `reading`."""
    return to_levels(read_raster_pixels(path, frame), reading)


def read_raster_pixels(path: Path, frame: int | None = None) -> Array:  # noqa: ARG001
    """Pixels uint8 or uint16, (H, W) or (H, W, 3), rotated upright by EXIF.

    1-bit images become 0 and 255; palettes become RGB, or gray if all colors are gray; CMYK, YCbCr and LAB become RGB.
    An alpha channel is blended with black. 16 bits are kept. Raises DataError with the name of the file for float
    pixels, several pages and damaged files.
    """
    try:
        with open_image(path) as image:
            if image.format == "TIFF" and is_scrambled_by_pillow(image):
                return read_tiff(path)
            bits = stored_bits(image, path)
            check_size(path, image.width, image.height, len(image.getbands()), bits)
            with alone_if_large(image.width * image.height):
                return np.ascontiguousarray(decode_raster(image, path, bits))
    except DataError as error:
        if error.code == "image-unknown" and path.suffix.lower() in TIFF_SUFFIXES:
            return read_tiff(path)
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error


def decode_raster(image: Image, path: Path, bits: int) -> Array:
    if bits > 8 and image.mode not in GRAY_MODES:
        return read_deep_color(image, path)
    image.load()
    pixels = turn_upright(flatten(to_array(image, path)), image.getexif().get(0x0112, 1))
    # TIFF photometric 0: white is zero. Pillow inverts 8-bit pixels, but not 16-bit ones.
    if pixels.dtype == np.uint16 and image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        pixels = np.uint16(65535) - pixels
    return pixels


@contextmanager
def alone_if_large(num_pixels: int) -> Iterator[None]:
    if num_pixels <= LARGE_PIXELS:
        yield
        return
    with LARGE_IMAGE_LOCK:
        yield


def open_image(path: Path) -> Image:
    """Open a file and check its header. The caller closes it."""
    import PIL.Image

    check_regular(path)
    try:
        image = PIL.Image.open(path, formats=RASTER_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise too_large(path, "more than") from error
    except PIL.UnidentifiedImageError as error:
        kind = detect_kind(path)
        if kind and kind[0] in RASTER_KINDS and not has_wrong_suffix(path, kind):
            raise DataError(
                f"{path}: a damaged {kind[0]}", fix="copy it again, or leave it out", code="image-unknown"
            ) from error
        option = (
            f"rename it with the suffix {kind[1][0]}" if kind and path.suffix.lower() not in kind[1] else "leave it out"
        )
        raise DataError(
            f"{path}: not an image: {first_bytes(path)}", fix=f"{option}, or convert it to PNG", code="image-unknown"
        ) from error
    except Exception as error:
        raise damaged(path, error) from error
    try:
        check_size(path, image.width, image.height)
        frames = getattr(image, "n_frames", 1)  # reads a whole GIF
        planes = planes_in_directory(image.tag_v2, *image.size) if image.format == "TIFF" and frames == 1 else 1  # type: ignore[attr-defined]
    except DataError:
        image.close()
        raise
    except Exception as error:
        image.close()
        raise damaged(path, error) from error
    if frames > 1 and image.format not in SINGLE_FRAME_EXTRAS:
        image.close()
        raise DataError(
            f"{path}: {frames} pages or frames, expected one image", fix="save each as its own file", code="image"
        )
    if planes > 1:
        image.close()
        raise too_many_planes(path, planes)
    return image


def too_many_planes(path: Path, planes: int) -> DataError:
    return DataError(
        f"{path}: declares {planes} images in one page, expected one image",
        fix="save each as its own file; if there is only one image, remove its ImageDescription",
        code="image",
    )


# --- bit depth -------------------------------------------------------------------------------------------------------
def raw_mode(image: Image) -> str:
    """The raw mode by which Pillow will unpack the samples ("RGB;16B"), or "" if unknown."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def stored_bits(image: Image, path: Path) -> int:
    """Bits per sample in the file. Pillow does not report them and silently reduces 16-bit color to 8."""
    if image.format == "PNG":
        with open(path, "rb") as stream:
            return stream.read(25)[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]
    if image.format == "PPM":
        arguments = image.tile[0][3]  # type: ignore[attr-defined]
        return 16 if isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255 else 8
    if image.format == "JPEG2000":
        with open(path, "rb") as stream:
            box = stream.read(4096).partition(b"ihdr")[2]
        return (box[10] & 0x7F) + 1 if len(box) > 10 else 8
    return 8


def read_deep_color(image: Image, path: Path) -> Array:
    """Read 16-bit RGB, RGBA or gray with alpha without loss: Pillow decodes the bytes twice, in both orders."""
    import PIL.Image

    mode = raw_mode(image)
    if mode == "LA;16B":  # four bytes per pixel, like RGBA
        with PIL.Image.open(path, formats=RASTER_FORMATS) as again:
            again.tile = [again.tile[0]._replace(args="RGBA")]  # type: ignore[attr-defined]
            data = np.asarray(again)
        return turn_upright(flatten(join_bytes(data[..., 0::2], data[..., 1::2])), again.getexif().get(0x0112, 1))
    order = mode[-4:].replace(";16N", ";16L" if np.little_endian else ";16B")
    if mode[:-4] in {"RGB", "RGBA"} and order in OTHER_BYTE_ORDER and image.format in {"PNG", "TIFF"}:
        with PIL.Image.open(path, formats=RASTER_FORMATS) as again:
            again.tile = [with_raw_mode(tile, mode[:-4] + OTHER_BYTE_ORDER[order]) for tile in again.tile]  # type: ignore[attr-defined]
            low = np.asarray(again)
        return turn_upright(flatten(join_bytes(np.asarray(image), low)), image.getexif().get(0x0112, 1))
    if image.format == "TIFF":
        return read_tiff(path)
    raise DataError(
        f"{path}: {image.format} with 16-bit color would lose levels", fix="save it as 16-bit PNG", code="image"
    )


def join_bytes(high: Array, low: Array) -> Array:
    """Combine two arrays of uint8 to uint16."""
    joined = high.astype(np.uint16)
    joined <<= 8
    joined |= low
    return joined


def is_scrambled_by_pillow(image: Image) -> bool:
    """Whether this is an uncompressed, rotated TIFF, whose rows Pillow 13 splits by the width after rotation."""
    sideways = image.tag_v2.get(0x0112) in (5, 6, 7, 8)  # type: ignore[attr-defined]
    return sideways and any(tile[0] == "raw" for tile in image.tile)  # type: ignore[attr-defined]


def with_raw_mode(tile: Any, mode: str) -> Any:
    arguments = (mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode
    return tile._replace(args=arguments)


def read_tiff(path: Path) -> Array:
    """Read a TIFF that Pillow does not support: separate planes, BigTIFF of unusual depth."""
    try:
        with open_tiff(path) as tiff:
            page = tiff.pages[0]
            if len(tiff.pages) > 1:
                raise DataError(f"{path}: {len(tiff.pages)} pages, expected one image", code="image")
            if (planes := declared_planes(tiff)) > 1:
                raise too_many_planes(path, planes)
            check_size(path, page.imagewidth, page.imagelength, page.samplesperpixel, page.bitspersample)
            pixels = page.asarray()
            planes_first = page.planarconfig == 2 and pixels.ndim == 3
            tag = page.tags.get("Orientation")
            orientation = int(tag.value) if tag else 1
            photometric = int(page.photometric)  # 0 white is zero, 1 black is zero, 2 RGB
    except DataError:
        raise
    except Exception as error:
        raise damaged(path, error) from error
    if planes_first:
        pixels = np.moveaxis(pixels, 0, -1)
    if (
        pixels.dtype not in (np.uint8, np.uint16)
        or pixels.ndim not in (2, 3)
        or pixels.shape[2:] not in ((), (3,), (4,))
    ):
        raise DataError(
            f"{path}: {pixels.dtype} of shape {pixels.shape}, expected 8 or 16 bits, gray or RGB", code="image"
        )
    if photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return np.ascontiguousarray(turn_upright(flatten(pixels), orientation))


# --- modes -----------------------------------------------------------------------------------------------------------
def to_array(image: Image, path: Path) -> Array:
    """Convert a loaded image to uint8 or uint16 with 1 to 4 channels; the last of 2 or 4 is alpha."""
    mode = image.mode
    if mode.startswith("I") or is_signed_byte(image):
        levels = np.asarray(image) if mode.startswith("I") else np.asarray(image).view(np.int8)
        if levels.dtype != np.uint16 and (levels.min() < 0 or levels.max() > 65535):
            raise DataError(
                f"{path}: levels {levels.min()} to {levels.max()} do not fit into 16 bits",
                fix="map all images to 16 bits in the same way",
                code="image",
            )
        return levels.astype(np.uint8 if levels.dtype == np.int8 else np.uint16)
    if mode == "F":
        raise DataError(
            f"{path}: floating-point pixels, expected 8 or 16 bits",
            fix="map all images to 16 bits in the same way",
            code="image",
        )
    if mode in {"P", "PA"}:
        colors = np.asarray(image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB"))
        gray = (colors[..., 0] == colors[..., 1]).all() and (colors[..., 0] == colors[..., 2]).all()
        return np.concatenate([colors[..., :1], colors[..., 3:]], axis=2) if gray else colors
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode in {"L", "RGB"} and "transparency" in image.info:
        colors = np.asarray(image.convert("RGBA"))
        return colors if mode == "RGB" else colors[..., [0, 3]]
    return np.asarray(image if mode in {"L", "LA", "RGB", "RGBA"} else image.convert("RGB"))


def is_signed_byte(image: Image) -> bool:
    """Whether a TIFF has signed 8-bit samples, which Pillow reads as unsigned: -1 as 255."""
    return image.format == "TIFF" and image.mode == "L" and image.tag_v2.get(SAMPLE_FORMAT) == (2,)  # type: ignore[attr-defined]


def flatten(pixels: Array) -> Array:
    """Convert pixels to (H, W) or (H, W, 3) by blending an alpha channel with black."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4):
        pixels = blend_with_black(pixels)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def blend_with_black(pixels: Array) -> Array:
    """Multiply the channels by alpha, the last one; in strips, because a 64-bit copy of a large image takes 2 GB."""
    opaque = np.iinfo(pixels.dtype).max
    blended = np.empty((*pixels.shape[:2], pixels.shape[2] - 1), pixels.dtype)
    num_rows = max(1, STRIP_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), num_rows):
        strip = slice(top, top + num_rows)
        colors, alpha = pixels[strip, :, :-1], pixels[strip, :, -1:]
        if (alpha != opaque).any():
            colors = (colors.astype(np.uint64) * alpha + opaque // 2) // opaque
        blended[strip] = colors
    return blended


def turn_upright(pixels: Array, orientation: int) -> Array:
    """Undo the EXIF orientation (1 to 8; any other value means upright)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
