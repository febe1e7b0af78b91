"""Stacks in a single page of a TIFF, compared with the array that tifffile wrote."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from zoo.errors import DataError
from zoo.images.formats import all_have_pages, read_header, read_image
from zoo.images.reading import Reading
from zoo.sources.opening import find_source
from zoo.specs.dataset import DatasetSpec, SamplesRequest

PAGES = Reading(pages=True)
STACK = np.random.default_rng(0).integers(0, 4096, (8, 16, 12), dtype=np.uint16)
COLOR = np.random.default_rng(1).integers(0, 256, (5, 16, 12, 3), dtype=np.uint8)
LAYOUTS = {
    "imagej": (STACK, {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}}),
    "imagej-hyperstack": (
        STACK.reshape(2, 4, 16, 12),
        {"imagej": True, "truncate": True, "metadata": {"axes": "ZCYX"}},
    ),
    "imagej-color": (COLOR, {"imagej": True, "truncate": True, "metadata": {"axes": "ZYXS"}}),
    "tifffile": (STACK, {"truncate": True, "photometric": "minisblack"}),
    "tifffile-big-endian": (STACK, {"truncate": True, "photometric": "minisblack", "byteorder": ">"}),
    "tifffile-inverted": (STACK, {"truncate": True, "photometric": "miniswhite"}),
    "image-depth": (
        STACK,
        {"volumetric": True, "photometric": "minisblack", "tile": (8, 16, 16), "metadata": None, "compression": "zlib"},
    ),
    "metamorph": (
        STACK,
        {
            "truncate": True,
            "photometric": "minisblack",
            "metadata": None,
            "extratags": [(33629, 5, 8, (1, 1) * 8, True)],
        },
    ),
}


def write_stack(path, layout):
    pixels, options = LAYOUTS[layout]
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, **options)
    images = pixels.reshape(-1, *pixels.shape[-3 if pixels is COLOR else -2 :])
    return 65535 - images if "inverted" in layout else images


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_of_a_single_page_stack_is_read(tmp_path, layout):
    path = tmp_path / "a.tif"
    images = write_stack(path, layout)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    assert all_have_pages([path])
    assert read_header(path, PAGES).frames == len(images)
    assert all(np.array_equal(read_image(path, number, PAGES), image) for number, image in enumerate(images))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stack_in_place_of_one_image_is_refused(tmp_path, layout):
    path = tmp_path / "a.tif"
    images = write_stack(path, layout)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=rf"a\.tif: .*\b{len(images)} images") as caught:
            read(path)
        assert caught.value.code == "image"


def test_a_truncated_single_page_stack_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    write_stack(path, "imagej")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.tif: .*\b8 images") as caught:
        read_header(path, PAGES)
    assert caught.value.code == "image"


def test_a_stack_of_fewer_pages_than_declared_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[:2], description="ImageJ=1.53\nimages=8\nslices=8\n", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: .*\b8 images.* 2 pages") as caught:
        read_header(path, PAGES)
    assert caught.value.code == "image"


def test_a_single_image_with_a_description_is_an_image(tmp_path):
    tifffile.imwrite(tmp_path / "ij.tif", STACK[0], imagej=True)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(COLOR[0], 2, 0), photometric="rgb", planarconfig="separate")
    Image.fromarray(STACK[0]).save(tmp_path / "text.tif", tiffinfo={270: '{"shape": not JSON'})
    assert np.array_equal(read_image(tmp_path / "ij.tif"), STACK[0])
    assert np.array_equal(read_image(tmp_path / "planes.tif"), COLOR[0])
    assert np.array_equal(read_image(tmp_path / "text.tif"), STACK[0])
    assert not all_have_pages([tmp_path / "ij.tif"])


def test_class_folders_of_single_page_stacks_are_slices_of_one_volume_each(tmp_path):
    for number in range(6):
        write_stack(tmp_path / "ab"[number % 2] / f"{number}.tif", "imagej")
    spec = find_source(tmp_path)
    assert isinstance(spec, DatasetSpec)
    samples = spec.samples(SamplesRequest(folder=tmp_path))
    assert len(samples.table) == 48
    assert samples.table["patient"].nunique() == 6
