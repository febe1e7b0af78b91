"""Read a photograph or scan (PNG, JPEG, TIFF, ...): gray or RGB, upright, with every level of the file."""

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
    RASTER_SUFFIXES,
    Header,
    Reading,
    check_regular,
    check_size,
    damaged,
    first_bytes,
    kind_in_fact,
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

LARGE_PIXELS = 16_000_000  # threads decode images beyond it one at a time: two of 80 Mpx would hold 1.5 GB
ALONE = threading.Lock()
STRIP_PIXELS = 1 << 20  # what is blended with its alpha at once

# Pillow keeps the high byte of 16-bit colour. The same bytes read in the other order give it the low byte.
OTHER_BYTE_ORDER = {";16B": ";16L", ";16L": ";16B"}


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:  # noqa: ARG001
    """The size and channels of an image, as `read_frame` will return it but for orientation."""
    try:
        with open_image(path) as image:
            if image.mode in GRAY_MODES or "LA;16" in raw_mode(image):
                return Header(width=image.width, height=image.height, channels=1)
            if image.mode != "P":
                return Header(width=image.width, height=image.height, channels=3)
    except DataError:
        if path.suffix.lower() not in TIFF_SUFFIXES:
            raise
    pixels = read_raster_pixels(path)  # only the palette's colours tell whether it is gray
    return Header(width=pixels.shape[1], height=pixels.shape[0], channels=1 if pixels.ndim == 2 else 3)


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Pixels as `read_pixels` has them, mapped where the set says how."""
    return to_levels(read_raster_pixels(path, frame), reading)


def read_raster_pixels(path: Path, frame: int | None = None) -> Array:  # noqa: ARG001
    """Pixels uint8 or uint16, (H, W) or (H, W, 3), turned upright as EXIF says.

    1-bit becomes 0 and 255; a palette its colours, or gray where they all are; CMYK, YCbCr and LAB become RGB. Alpha is
    dropped where it is opaque, else the image is laid over black. 16 bits stay 16 bits. Float pixels, several pages and
    anything damaged are a DataError that names the file.
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
    except Exception as error:  # what a damaged file makes a decoder raise cannot be listed
        raise damaged(path, error) from error


def decode_raster(image: Image, path: Path, bits: int) -> Array:
    if bits > 8 and image.mode not in GRAY_MODES:
        return read_deep_colour(image, path)
    image.load()
    pixels = upright(flatten(to_array(image, path)), image.getexif().get(0x0112, 1))
    # TIFF photometric 0: white is zero. Pillow inverts 8 bits, and 16 not.
    if pixels.dtype == np.uint16 and image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        pixels = np.uint16(65535) - pixels
    return pixels


@contextmanager
def alone_if_large(num_pixels: int) -> Iterator[None]:
    if num_pixels <= LARGE_PIXELS:
        yield
        return
    with ALONE:
        yield


def open_image(path: Path) -> Image:
    """The opened file, its header read and believed; the caller closes it."""
    import PIL.Image

    check_regular(path)
    try:
        image = PIL.Image.open(path, formats=RASTER_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise too_large(path, "more than") from error
    except PIL.UnidentifiedImageError as error:
        kind = kind_in_fact(path)
        named = (
            f"give it the suffix {kind[1][0]}, " if kind and path.suffix.lower() not in kind[1] else "leave it out, "
        )
        raise DataError(
            f"{path}: not an image: {first_bytes(path)}", fix=f"{named}or convert it to PNG", code="image-unknown"
        ) from error
    except Exception as error:
        raise damaged(path, error) from error
    try:
        check_size(path, image.width, image.height)
        frames = getattr(image, "n_frames", 1)  # counted now, through the whole of a GIF
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
            f"{path}: {frames} pages or frames, expected one image", fix="save each as a file", code="image"
        )
    if planes > 1:
        image.close()
        raise too_many_planes(path, planes)
    return image


def too_many_planes(path: Path, planes: int) -> DataError:
    return DataError(
        f"{path}: declares {planes} images in one page, expected one image",
        fix="save each as a file; if it holds one image, remove its ImageDescription",
        code="image",
    )


# --- bit depth -------------------------------------------------------------------------------------------------------
def raw_mode(image: Image) -> str:
    """How Pillow is about to unpack the file's samples ("RGB;16B"), or "" where it does not say."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def stored_bits(image: Image, path: Path) -> int:
    """Bits a sample in the file, which Pillow does not tell: it reduces 16-bit colour to 8 without a word."""
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


def read_deep_colour(image: Image, path: Path) -> Array:
    """16-bit RGB, RGBA or gray with alpha, exactly: Pillow decodes the bytes twice, in both orders."""
    import PIL.Image

    mode = raw_mode(image)
    if mode == "LA;16B":  # four bytes a pixel, the same as RGBA
        with PIL.Image.open(path, formats=RASTER_FORMATS) as again:
            again.tile = [again.tile[0]._replace(args="RGBA")]  # type: ignore[attr-defined]
            data = np.asarray(again)
        return upright(flatten(join_bytes(data[..., 0::2], data[..., 1::2])), again.getexif().get(0x0112, 1))
    order = mode[-4:].replace(";16N", ";16L" if np.little_endian else ";16B")
    if mode[:-4] in {"RGB", "RGBA"} and order in OTHER_BYTE_ORDER and image.format in {"PNG", "TIFF"}:
        with PIL.Image.open(path, formats=RASTER_FORMATS) as again:
            again.tile = [with_raw_mode(tile, mode[:-4] + OTHER_BYTE_ORDER[order]) for tile in again.tile]  # type: ignore[attr-defined]
            low = np.asarray(again)
        return upright(flatten(join_bytes(np.asarray(image), low)), image.getexif().get(0x0112, 1))
    if image.format == "TIFF":
        return read_tiff(path)
    raise DataError(
        f"{path}: {image.format} with 16-bit colour would lose its levels", fix="save it as 16-bit PNG", code="image"
    )


def join_bytes(high: Array, low: Array) -> Array:
    """uint16 of two arrays of uint8."""
    joined = high.astype(np.uint16)
    joined <<= 8
    joined |= low
    return joined


def is_scrambled_by_pillow(image: Image) -> bool:
    """Whether this is an uncompressed TIFF on its side: Pillow 13 cuts its rows by the width of the upright one."""
    sideways = image.tag_v2.get(0x0112) in (5, 6, 7, 8)  # type: ignore[attr-defined]
    return sideways and any(tile[0] == "raw" for tile in image.tile)  # type: ignore[attr-defined]


def with_raw_mode(tile: Any, mode: str) -> Any:
    arguments = (mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode
    return tile._replace(args=arguments)


def read_tiff(path: Path) -> Array:
    """The TIFFs Pillow does not know: separate planes, big TIFF of unusual depth."""
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
            f"{path}: {pixels.dtype} of shape {pixels.shape}, expected 8 or 16 bit, gray or RGB", code="image"
        )
    if photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return np.ascontiguousarray(upright(flatten(pixels), orientation))


# --- modes -----------------------------------------------------------------------------------------------------------
def to_array(image: Image, path: Path) -> Array:
    """A loaded image as uint8 or uint16 with 1 to 4 channels, the last one alpha where there are 2 or 4."""
    mode = image.mode
    if mode.startswith("I"):
        levels = np.asarray(image)
        if levels.dtype != np.uint16 and (levels.min() < 0 or levels.max() > 65535):
            raise DataError(
                f"{path}: levels {levels.min()} to {levels.max()} do not fit 16 bits",
                fix="map them to 16 bit, all images alike",
                code="image",
            )
        return levels.astype(np.uint16)
    if mode == "F":
        raise DataError(
            f"{path}: floating-point pixels, expected 8 or 16 bit", fix="map them to 16 bit, all alike", code="image"
        )
    if mode in {"P", "PA"}:
        colours = np.asarray(image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB"))
        gray = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all()
        return np.concatenate([colours[..., :1], colours[..., 3:]], axis=2) if gray else colours
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode in {"L", "RGB"} and "transparency" in image.info:
        colours = np.asarray(image.convert("RGBA"))
        return colours if mode == "RGB" else colours[..., [0, 3]]
    return np.asarray(image if mode in {"L", "LA", "RGB", "RGBA"} else image.convert("RGB"))


def flatten(pixels: Array) -> Array:
    """(H, W) or (H, W, 3): pixels with an alpha channel are laid over black, which leaves opaque ones as they are."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4):
        pixels = lay_over_black(pixels)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def lay_over_black(pixels: Array) -> Array:
    """The channels before the last, times the last; strip by strip, because 64-bit copies of a large image are 2 GB."""
    opaque = np.iinfo(pixels.dtype).max
    laid = np.empty((*pixels.shape[:2], pixels.shape[2] - 1), pixels.dtype)
    num_rows = max(1, STRIP_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), num_rows):
        strip = slice(top, top + num_rows)
        colours, alpha = pixels[strip, :, :-1], pixels[strip, :, -1:]
        if (alpha != opaque).any():
            colours = (colours.astype(np.uint64) * alpha + opaque // 2) // opaque
        laid[strip] = colours
    return laid


def upright(pixels: Array, orientation: int) -> Array:
    """Undo the EXIF orientation (1 to 8; anything else is taken as upright)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
