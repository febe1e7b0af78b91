"""Photographs and scans are read upright with all levels, or refused on one line."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from zoo.errors import DataError
from zoo.images.formats import is_image_name, read_header, read_image
from zoo.images.resizing import fit_square

RANDOM = np.random.default_rng(7)
GRAY8 = RANDOM.integers(0, 256, (11, 17), dtype=np.uint8)
RGB8 = RANDOM.integers(0, 256, (11, 17, 3), dtype=np.uint8)
GRAY16 = RANDOM.integers(0, 65536, (11, 17), dtype=np.uint16)
RGB16 = RANDOM.integers(0, 65536, (11, 17, 3), dtype=np.uint16)


def write_png16(path: Path, pixels: np.ndarray) -> Path:
    """A 16-bit PNG of 1 to 4 channels, written from the format's specification: Pillow cannot write color."""
    height, width = pixels.shape[:2]
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("pixels", [GRAY8, RGB8], ids=["gray", "rgb"])
def test_lossless_8_bit_files_come_back_as_written(tmp_path, suffix, pixels):
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    read = read_image(tmp_path / f"a{suffix}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


def test_a_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("pixels", [GRAY16, RGB16], ids=["gray", "rgb"])
def test_a_16_bit_png_keeps_every_level(tmp_path, pixels):
    read = read_image(write_png16(tmp_path / "a.png", pixels))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("pixels", [GRAY16, RGB16], ids=["gray", "rgb"])
@pytest.mark.parametrize(
    "layout", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"byteorder": ">", "compression": "zlib"}]
)
def test_a_16_bit_tiff_keeps_every_level(tmp_path, pixels, layout):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", **layout)
    read = read_image(tmp_path / "a.tif")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


def test_a_16_bit_tiff_with_separate_planes_keeps_every_level(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(RGB16, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB16)


@pytest.mark.parametrize("pixels", [GRAY8, GRAY16], ids=["8 bit", "16 bit"])
def test_a_tiff_where_white_is_zero_is_inverted_at_both_depths(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.iinfo(pixels.dtype).max - pixels)


def test_alpha_is_blended_with_black(tmp_path):
    alpha = RANDOM.integers(0, 256, (11, 17, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB8, np.full_like(alpha, 255)], axis=2)).save(tmp_path / "opaque.png")
    Image.fromarray(np.concatenate([RGB8, alpha], axis=2)).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), RGB8)
    expected = np.rint(RGB8 * (alpha / 255.0))
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), expected)


@pytest.mark.parametrize("channels", [2, 4], ids=["gray and alpha", "rgb and alpha"])
def test_16_bit_alpha_is_blended_with_black_without_losing_levels(tmp_path, channels):
    pixels = RANDOM.integers(0, 65536, (11, 17, channels), dtype=np.uint16)
    read = read_image(write_png16(tmp_path / "a.png", pixels))
    expected = np.rint(pixels[..., :-1] * (pixels[..., -1:] / 65535.0))
    np.testing.assert_allclose(read.reshape(expected.shape), expected, atol=1)
    assert read_header(tmp_path / "a.png").channels == (1 if channels == 2 else 3)


def test_one_bit_palette_and_cmyk_files_become_gray_or_rgb(tmp_path):
    ones = Image.fromarray((GRAY8 > 127).astype(np.uint8) * 255).convert("1")
    ones.save(tmp_path / "ones.png")
    np.testing.assert_array_equal(read_image(tmp_path / "ones.png"), (GRAY8 > 127) * 255)

    colors = Image.fromarray(RGB8).quantize(16)
    colors.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(colors.convert("RGB")))
    assert read_header(tmp_path / "palette.png").channels == 3

    grays = Image.fromarray(GRAY8).convert("P")
    grays.save(tmp_path / "grays.gif")
    assert read_image(tmp_path / "grays.gif").shape == (11, 17)
    assert read_header(tmp_path / "grays.gif").channels == 1

    inks = Image.fromarray(RGB8).convert("CMYK")
    inks.save(tmp_path / "inks.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "inks.tif"), np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_would(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GRAY8).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(GRAY8).save(tmp_path / "a.jpg", exif=exif)
    for name in ("a.png", "a.jpg"):
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert expected.shape == ((17, 11) if orientation >= 5 else (11, 17))
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}])
def test_a_rotated_tiff_is_read_upright_in_every_layout(tmp_path, orientation, layout):
    stored = np.moveaxis(RGB16, 2, 0) if layout.get("planarconfig") else RGB16
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extratags=tag, **layout)
    planes = [Image.fromarray(RGB16[..., plane].astype(np.int32)) for plane in range(3)]
    for plane in planes:
        plane.getexif()[0x0112] = orientation
    expected = np.stack([np.asarray(ImageOps.exif_transpose(plane)) for plane in planes], axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def damaged_file(folder: Path, how: str) -> Path:
    path = folder / f"{how}.png"
    Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    flipped = whole[:400] + bytes([whole[400] ^ 0x55]) + whole[401:]
    header_only = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30000, 30000, 8, 0, 0, 0, 0)
    path.write_bytes(
        {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "flipped": flipped,
            "html": b"<!DOCTYPE html><html><body>Please log in</body></html>",
            "pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.",
            "text": b"not an image at all",
            "bomb": header_only + struct.pack(">I", zlib.crc32(header_only[12:])) + whole[33:],
        }[how]
    )
    return path


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("empty", "the file is empty"),
        ("truncated", "cannot be decoded"),
        ("flipped", "cannot be decoded"),
        ("html", "web page"),
        ("pickle", "Python pickle"),
        ("text", "it begins with"),
        ("bomb", "89 megapixels"),
    ],
)
def test_a_damaged_file_is_named_on_one_line(tmp_path, how, cause):
    path = damaged_file(tmp_path, how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=cause) as caught:
            read_image(path)
    assert f"{how}.png" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_several_pages_and_float_pixels_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "pages.tif", RANDOM.integers(0, 256, (3, 8, 8), dtype=np.uint8), photometric="minisblack"
    )
    with pytest.raises(DataError, match="3 pages"):
        read_image(tmp_path / "pages.tif")
    tifffile.imwrite(tmp_path / "float.tif", RANDOM.random((8, 8), dtype=np.float32))
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", [".pgm", ".jp2", ".jfif"])
def test_gray_files_of_the_rarer_formats_are_read(tmp_path, suffix):
    Image.fromarray(GRAY8).save(tmp_path / f"a{suffix}")
    expected = np.asarray(Image.open(tmp_path / f"a{suffix}").convert("L"))
    assert (read_image(tmp_path / f"a{suffix}") == expected).all()
    assert read_header(tmp_path / f"a{suffix}").width == 17


def test_16_bits_of_a_pgm_and_of_a_jpeg_2000_keep_every_level(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 17 11 65535\n" + GRAY16.astype(">u2").tobytes())
    Image.fromarray(GRAY16).save(tmp_path / "a.jp2")  # lossless, as Pillow writes it
    for name in ("a.pgm", "a.jp2"):
        assert read_image(tmp_path / name).dtype == np.uint16
        assert (read_image(tmp_path / name) == GRAY16).all()


def test_16_bit_color_that_would_lose_levels_is_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 17 11 65535\n" + RGB16.astype(">u2").tobytes())
    with pytest.raises(DataError, match=r"a\.ppm: PPM with 16-bit color"):
        read_image(tmp_path / "a.ppm")


def test_levels_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="levels 70000 to 70000"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("mode", "value", "key"), [("L", 10, 10), ("RGB", (9, 8, 7), (9, 8, 7))])
def test_the_transparent_level_of_a_png_is_blended_with_black(tmp_path, mode, value, key):
    image = Image.new(mode, (2, 1), 200 if mode == "L" else (200, 201, 202))
    image.putpixel((0, 0), value)
    image.save(tmp_path / "a.png", transparency=key)
    assert read_image(tmp_path / "a.png")[0].tolist() == ([0, 200] if mode == "L" else [[0, 0, 0], [200, 201, 202]])


@pytest.mark.parametrize(
    ("pixels", "layout", "cause"),
    [
        (RANDOM.integers(0, 9, (8, 8), dtype=np.int64), {}, "int64 of shape"),
        (
            RANDOM.integers(0, 9, (8, 8, 5), dtype=np.uint8),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "5",
        ),
    ],
    ids=["64 bit", "five channels"],
)
def test_tiffs_of_other_depths_and_channels_are_refused(tmp_path, pixels, layout, cause):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **layout)
    with pytest.raises(DataError, match=cause):
        read_image(tmp_path / "a.tif")


def test_a_webp_is_read_in_color(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "a.webp", lossless=True)
    assert (read_image(tmp_path / "a.webp") == RGB8).all()


@pytest.mark.parametrize("pixels", [GRAY8, GRAY16], ids=["8 bit", "16 bit"])
def test_a_rotated_tiff_where_white_is_zero_is_inverted_and_upright(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite", extratags=[(274, 3, 1, 6, True)])
    assert (read_image(tmp_path / "a.tif") == np.iinfo(pixels.dtype).max - np.rot90(pixels, -1)).all()


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "folder.png")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", True),
        ("A.JPG", True),
        ("a.tiff", True),
        ("a.csv", False),
        (".a.png", False),
        ("._a.png", False),
        (".DS_Store", False),
        ("Thumbs.db", False),
        ("__MACOSX", False),
    ],
)
def test_files_of_operating_systems_are_not_images(name, expected):
    assert is_image_name(name) is expected


@pytest.mark.parametrize("pixels", [GRAY8, RGB8, GRAY16, RGB16], ids=["gray8", "rgb8", "gray16", "rgb16"])
def test_fit_square_keeps_dtype_and_aspect_and_pads_with_zeros(pixels):
    square = fit_square(pixels, 34)
    assert square.dtype == pixels.dtype
    assert square.shape == (34, 34, *pixels.shape[2:])
    assert not square[:6].any()
    assert not square[28:].any()
    assert square[6:28].any(axis=tuple(range(1, square.ndim))).all()


def test_fit_square_returns_an_image_of_that_size_unchanged():
    pixels = RANDOM.integers(0, 65536, (28, 28), dtype=np.uint16)
    assert fit_square(pixels, 28) is pixels


def test_fit_square_of_16_bits_matches_pillows_rounded_float_resize():
    pixels = RANDOM.integers(0, 65536, (64, 64), dtype=np.uint16)
    expected = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((20, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit_square(pixels, 20), np.rint(expected))


def test_fit_square_neither_overshoots_nor_aliases():
    edge = np.where(np.arange(64) < 32, 1000, 60000).astype(np.uint16)[None].repeat(64, axis=0)
    small = fit_square(edge, 24)
    assert (small.min(), small.max()) == (1000, 60000)
    stripes = np.where(np.arange(64) % 2, 255, 0).astype(np.uint8)[None].repeat(64, axis=0)
    assert abs(fit_square(stripes, 16)[:, 2:-2].astype(int) - 127).max() <= 3


def test_signed_bytes_of_a_tiff_are_read_as_signed(tmp_path):
    positive, negative = GRAY8.astype(np.int16) % 128, GRAY8.astype(np.int16) - 128
    for name, pixels in (("positive.tif", positive), ("negative.tif", negative)):
        tifffile.imwrite(tmp_path / name, pixels.astype(np.int8))
    assert np.array_equal(read_image(tmp_path / "positive.tif"), positive)
    with pytest.raises(DataError, match=r"negative\.tif") as caught:
        read_image(tmp_path / "negative.tif")
    assert caught.value.code == "image"
