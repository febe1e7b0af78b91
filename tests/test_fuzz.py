"""Mutated files give pixels and rows, or a one-line error of zoo."""

import gzip
import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
import tifffile
from dicom_files import ramp, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images import GRAY8, GRAY16, RGB8, write_png16

from zoo.errors import ZooError
from zoo.images.formats import read_header, read_image
from zoo.sources.opening import find_source
from zoo.specs.dataset import SamplesRequest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
EXAMPLES = 300  # of each kind of file


# --- the files before they are mutated ------------------------------------------------------------------------------
def of_pillow(pixels, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def of_path(name, make):
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        make(path)
        return path.read_bytes()


def animated():
    frames = [Image.fromarray(GRAY8 // (1 + n)) for n in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def volume(name):
    image = nibabel.Nifti1Image(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    return of_path(name, lambda path: nibabel.save(image, path))


def npz():
    stream = io.BytesIO()
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 30), ("val", 10), ("test", 10)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


IMAGES = {
    "gray.png": of_pillow(GRAY8, "PNG"),
    "colour.png": of_pillow(RGB8, "PNG"),
    "deep.png": of_path("x.png", lambda path: write_png16(path, GRAY16)),
    "photo.jpg": of_pillow(RGB8, "JPEG"),
    "old.bmp": of_pillow(GRAY8, "BMP"),
    "plain.tif": of_pillow(GRAY8, "TIFF"),
    "pages.tif": of_path("x.tif", lambda path: tifffile.imwrite(path, np.stack([GRAY16] * 3))),
    "moves.gif": animated(),
    "scan.dcm": of_path("x.dcm", lambda path: write(path, ramp())),
    "frames.dcm": of_path("x.dcm", lambda path: write(path, ramp(shape=(3, 8, 8)))),
    "volume.nii": volume("x.nii"),
    "volume.nii.gz": volume("x.nii.gz"),
    "array.npy": of_path("x.npy", lambda path: np.save(path, GRAY8)),
}
TABLE = "file,patient,label\n" + "".join(f"{n}.png,p{n // 2},{'ab'[n // 2 % 2]}\n" for n in range(20))
CARD = """schema = 1
task = "binary"
labels = ["a", "b"]
table = "table.csv"
join = {column = "file"}
label = {column = "label"}
patient = {column = "patient"}
"""


# --- mutations -------------------------------------------------------------------------------------------------------
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "insert", "delete", "repeat"]), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=6,
)


def mutate(content, changes):
    data = bytearray(content)
    for where, how, new in changes:
        at = int(where * len(data))
        if how == "set":
            data[at : at + len(new)] = new
        elif how == "insert":
            data[at:at] = new
        elif how == "delete":
            del data[at : at + 1 + len(new) * 8]
        else:
            data[at:at] = data[at : at + 64]
    return bytes(data)


fuzzed = settings(max_examples=EXAMPLES, deadline=20_000, suppress_health_check=list(HealthCheck), derandomize=True)


def fuzz(name, make, read):
    """Write `make(changes)` to a file and read it; check that nothing else is written; return how many were read."""
    seen = []

    @fuzzed
    @given(CHANGES)
    def check(changes):
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(make(changes))
            read(path)
            assert {each.name for each in Path(folder).iterdir()} == {name}
        seen.append(changes)

    check()
    return len(seen)


def in_one_line(error):
    assert "\n" not in error.line() and len(error.line()) < 2000


def read_all(path):
    """Read a file as in a dataset of one image."""
    try:
        header = read_header(path)
        pixels = read_image(path)
    except ZooError as error:
        in_one_line(error)
        return
    assert header is not None
    assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim in (2, 3) and pixels.size > 0


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_file(name):
    assert fuzz(name, lambda changes: mutate(IMAGES[name], changes), read_all) >= 100


def test_a_compressed_volume_whose_inside_is_mutated():
    assert fuzz("x.nii.gz", lambda changes: gzip.compress(mutate(IMAGES["volume.nii"], changes)), read_all) >= 100


def understand(root):
    """Guess the layout of a folder or file, and open it."""
    try:
        spec = find_source(root)
        samples = spec.samples(SamplesRequest(folder=root))
        assert len(samples.table) == len(samples.targets)
    except ZooError as error:
        in_one_line(error)


@pytest.mark.parametrize("name", ["table.csv", "dataset.toml"])
def test_a_table_and_a_card(name):
    @fuzzed
    @given(CHANGES)
    def check(changes):
        with TemporaryDirectory() as folder:
            root = Path(folder, "set")
            root.mkdir()
            for number in range(20):
                Image.fromarray(GRAY8 // (1 + number)).save(root / f"{number}.png")
            for file, text in (("table.csv", TABLE), ("dataset.toml", CARD)):
                content = text.encode()
                (root / file).write_bytes(mutate(content, changes) if file == name else content)
            understand(root)
            assert {path.name for path in Path(folder).iterdir()} == {"set"}

    check()


def test_an_npz():
    whole = npz()
    assert fuzz("set.npz", lambda changes: mutate(whole, changes), understand) >= 100


def test_an_archive(monkeypatch, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/table.csv", TABLE)
        for number in range(20):
            archive.writestr(f"set/{number}.png", of_pillow(GRAY8 // (1 + number), "PNG"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert fuzz("set.zip", lambda changes: mutate(stream.getvalue(), changes), understand) >= 100
