"""Datasets with one bad image: `zoo info` and `zoo bench` name the file on one line, and other datasets run.

One bench gets all of them and a good dataset; its memory is that of the whole process.
"""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from bad_sets import MAX_BYTES, MAX_SECONDS, bench_all, look_at_each, refused_by
from PIL import Image

from zoo.data.opening import open_dataset
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(11)
NUM_IMAGES = 30
posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs, links and wait4")


# --- files that are not what they seem -------------------------------------------------------------------------------
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra, size=32):
    """A valid PNG with additional chunks after its header."""
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (size, size), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()[:33] + b"".join(extra) + stream.getvalue()[33:]


def compress_zeros(count):
    """A zlib stream of `count` zeros, a multiple of 10,000: one compressed block, repeated."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(10_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (count % 65521) << 16 | 1  # Adler-32
    return b"\x78\xda" + block * (count // 10_000) + packer.flush() + struct.pack(">I", checksum)


def png_bomb(width, height):
    rows = compress_zeros((width // 8 + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(exif=b""):
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (32, 32), dtype=np.uint8)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def tiff(pages, loop_to):
    """A chain of TIFF pages; the last one points to page `loop_to`."""
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (32, 32), dtype=np.uint8)).save(stream, "TIFF")
    whole = bytearray(stream.getvalue() + b"\0" * (len(stream.getvalue()) % 2))
    start = struct.unpack_from("<I", whole, 4)[0]
    length = 2 + 12 * struct.unpack_from("<H", whole, start)[0]
    starts, directory = [start], bytes(whole[start : start + length])
    for _ in range(pages - 1):
        starts.append(len(whole))
        whole += directory + bytes(4) + b"\0" * (length % 2)
    for at, following in zip(starts, [*starts[1:], starts[loop_to]], strict=True):
        struct.pack_into("<I", whole, at + length, following)
    return bytes(whole)


WHOLE = png(size=64)
BOMB = compress_zeros(100_000_000)
# name of the dataset -> name of the file, its bytes, part of the message
FILES = {
    "empty": ("x.png", b"", "the file is empty"),
    "truncated": ("x.png", WHOLE[: len(WHOLE) // 2], "cannot be decoded"),
    "flipped": ("x.png", WHOLE[:400] + bytes([WHOLE[400] ^ 0x55]) + WHOLE[401:], "cannot be decoded"),
    "truncated_jpeg": ("x.jpg", jpeg()[:400], "cannot be decoded"),
    "html": ("x.png", b"<!DOCTYPE html><html><body>Please log in</body></html>", "it is a web page"),
    "pickle": ("x.png", b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.", "it is a Python pickle"),
    "bomb_900": ("x.png", png_bomb(30_000, 30_000), "more than 89 megapixels"),
    "bomb_120": ("x.png", png_bomb(12_000, 10_000), "12000 x 10000 is more than 89 megapixels"),
    "text_bomb": ("x.png", png(chunk(b"zTXt", b"Comment\0\0" + BOMB)), "cannot be decoded"),
    "profile_bomb": ("x.png", png(chunk(b"iCCP", b"p\0\0" + BOMB)), "cannot be decoded"),
    "tiff_loop": ("x.tif", tiff(3, loop_to=0), "pages"),
    "svg": ("x.png", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "eps": ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(rm) run", "not an image"),
}
# name of the dataset -> function that makes an entry `x.png`, part of the message
ENTRIES = {
    "fifo": (os.mkfifo if os.name == "posix" else None, "neither a folder nor a regular file"),
    "link_out": (lambda path: path.symlink_to("/etc/hostname"), "outside link_out"),
    "link_to_nothing": (lambda path: path.symlink_to(path.with_name("absent.png")), "which does not exist"),
    "link_to_itself": (lambda path: path.symlink_to(path.name), "x.png"),
    "control": (lambda path: path.with_name("x\x1b[31m.png").write_bytes(png()), "a control character"),
}


def test_the_bombs_are_valid_streams():
    assert zlib.decompress(compress_zeros(30_000)) == bytes(30_000)
    assert zlib.decompress(BOMB) == bytes(100_000_000)


def good_folder(root):
    """Write two classes of small gray images."""
    for number in range(NUM_IMAGES):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        level = 60 + 100 * (number % 2)
        pixels = RANDOM.integers(level - 50, level + 50, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def odd_folder(root):
    """Write unusual files that must be read or ignored, but not refused."""
    good_folder(root)
    tag = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0"
    (root / "a" / "far_side.jpg").write_bytes(jpeg(b"Exif\0\0" + tag + b"\x01\0\0\0\x63\0\0\0\0\0\0\0"))
    (root / "a" / "endless.jpg").write_bytes(jpeg(b"Exif\0\0" + tag + b"\xff\xff\xff\xff\x63\0\0\0\0\0\0\0"))
    (root / "a" / "junk.jpg").write_bytes(jpeg(b"Exif\0\0" + b"\xff" * 60_000))
    (root / "a" / "one_page_loop.tif").write_bytes(tiff(1, loop_to=0))
    (root / "b" / "UPPER.PNG").write_bytes(png())
    (root / "b" / "Upper.JPG").write_bytes(jpeg())
    for mode in ("1", "LA", "RGBA", "P", "RGB"):
        gray = Image.fromarray(RANDOM.integers(0, 256, (16, 16), dtype=np.uint8))
        gray.convert(mode).save(root / "b" / f"mode_{mode}.png")
    (root / "a" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "a" / "._0.png").write_bytes(b"\0\5\26\7")
    (root / "__MACOSX" / "a").mkdir(parents=True)
    (root / "__MACOSX" / "a" / "0.png").write_bytes(b"\0\5\26\7")
    (root / "b" / "folder.png").mkdir()
    if os.name == "posix":
        (root / "b" / "again").symlink_to(root, target_is_directory=True)
    return root


NUM_ODD = 11


@pytest.fixture(scope="module")
def bad_sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    for name, (file, data, _) in FILES.items():
        (good_folder(root / name) / "a" / file).write_bytes(data)
    for name, (make, _) in ENTRIES.items() if os.name == "posix" else ():
        make(good_folder(root / name) / "a" / "x.png")
    odd_folder(root / "odd")
    return root


EXPECTED = {name: part for name, (_, _, part) in FILES.items()} | (
    {name: part for name, (_, part) in ENTRIES.items()} if os.name == "posix" else {}
)


# --- in zoo info -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def looked_at(bad_sets, environment):
    paths = [bad_sets / name for name in (*EXPECTED, "odd")]
    return look_at_each(bad_sets / "odd", paths, environment())


@posix
@pytest.mark.parametrize("name", EXPECTED)
def test_info_names_the_bad_file_on_one_line_quickly(looked_at, name):
    status, output, seconds = looked_at.document[name]
    assert status == 4
    assert output.count("\n") == 1 and output.startswith("zoo: error[")
    assert EXPECTED[name] in output and f"{os.sep}{name}{os.sep}" in output and "/a/x" in output
    assert "\x1b" not in output
    assert seconds < MAX_SECONDS


@posix
def test_info_takes_little_memory_whatever_the_files_declare(looked_at):
    assert looked_at.peak < MAX_BYTES


@posix
def test_unusual_but_valid_files_are_read(looked_at, bad_sets, tmp_path):
    assert looked_at.document["odd"][:2] == [0, ""]
    source = open_dataset(find_source(bad_sets / "odd"), tmp_path)
    names = {name.rpartition("/")[2] for name in source.sample_ids.tolist()}
    assert len(names) == NUM_IMAGES + NUM_ODD
    assert source.spec.channels == 1  # RGB and RGBA files among them, all of them gray
    assert {"UPPER.PNG", "Upper.JPG", "mode_RGBA.png", "far_side.jpg"} <= names


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_named(tmp_path, zoo):
    path = good_folder(tmp_path / "set") / "a" / "0.png"
    path.chmod(0)
    done = zoo("info", "datasets", tmp_path / "set")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and "a/0.png" in done.stderr


# --- in zoo bench ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def benched(bad_sets, command, environment, tiny_data, tmp_path_factory):
    bad = [bad_sets / name for name in (*EXPECTED, "odd")]
    return bench_all(command, tiny_data / "binary.npz", bad, environment(), tmp_path_factory.mktemp("bench"))


@posix
def test_bench_refuses_each_bad_dataset_by_its_file_and_runs_the_others(benched):
    document, refused = benched.document, refused_by(benched)
    assert set(refused) == set(EXPECTED)
    for name, message in refused.items():
        assert EXPECTED[name] in message and "/a/x" in message and "\n" not in message
    ok = {run["dataset"] for run in document["runs"] if run["status"] == "ok"}
    assert ok == {"binary", "odd"}
    assert {run["dataset"] for run in document["runs"] if run["status"] == "refused"} <= set(EXPECTED)


@posix
def test_bench_takes_little_memory_and_time_for_bad_files(benched):
    assert benched.peak < MAX_BYTES
    assert benched.seconds < MAX_SECONDS * len(EXPECTED)


@posix
@pytest.mark.slow
def test_nothing_runs_if_the_bad_image_is_in_the_only_dataset(bad_sets, bench, tmp_path):
    arguments = ["-m", "tiny_cnn", "-d", bad_sets / "truncated", "--protocol", "scratch", "--set", "steps=2"]
    status, document, _ = bench(*arguments, "--set", "image_size=16", "--folds", 1, "--results", tmp_path)
    assert status == 4
    assert "x.png: cannot be decoded" in document["refused"][0]["message"]
    assert not any(run["status"] == "ok" for run in document["runs"])
