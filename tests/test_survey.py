"""Every image is decoded once: what cannot be is named, what differs is found, and all else is remembered."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.samples import open_source
from zoo.sources import find_source
from zoo.survey import survey_images

RANDOM = np.random.default_rng(3)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def class_folders(root, images):
    """Two classes in turn."""
    for number, pixels in enumerate(images):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def open_folder(root, tmp_path):
    return open_source(find_source(root), tmp_path / "cache")


def test_sizes_depths_and_channels_are_those_of_the_pixels(tmp_path):
    gray = noise(8, 10)
    images = [gray, noise(12, 9, 3), np.dstack([gray] * 3), np.dstack([gray] * 3 + [np.full_like(gray, 255)])]
    source = open_folder(class_folders(tmp_path / "set", images), tmp_path)
    survey = survey_images(source, tmp_path / "cache")
    found = dict(zip(source.sample_ids.tolist(), zip(survey.widths, survey.heights, strict=True), strict=True))
    assert found == {"a/0.png": (10, 8), "a/2.png": (10, 8), "b/1.png": (9, 12), "b/3.png": (10, 8)}
    assert survey.bits.tolist() == [8] * 4
    assert dict(zip(source.sample_ids.tolist(), survey.gray.tolist(), strict=True)) == {
        "a/0.png": True,
        "a/2.png": True,
        "b/1.png": False,
        "b/3.png": True,
    }


def test_what_was_decoded_is_not_decoded_again(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8) for _ in range(6)]), tmp_path)
    first = survey_images(source, tmp_path / "cache")

    def read(image):
        raise AssertionError(f"{image} is read again")

    blind = replace(source, samples=replace(source.samples, read=read))
    np.testing.assert_array_equal(survey_images(blind, tmp_path / "cache").widths, first.widths)


def test_a_damaged_memory_of_a_survey_is_made_again(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8) for _ in range(6)]), tmp_path)
    survey_images(source, tmp_path / "cache")
    (stored,) = (tmp_path / "cache" / "surveys").iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert survey_images(source, tmp_path / "cache").widths.tolist() == [8] * 6


def test_images_that_cannot_be_decoded_are_one_line_with_the_first_and_how_many(tmp_path):
    root = class_folders(tmp_path / "set", [noise(40, 40) for _ in range(6)])
    for name in ("a/2.png", "b/3.png"):
        (root / name).write_bytes((root / name).read_bytes()[:600])  # a whole header, half of the pixels
    with pytest.raises(DataError, match=r"a/2\.png: cannot be decoded.* \(and 1 more images cannot be read\)"):
        survey_images(open_folder(root, tmp_path), tmp_path / "cache")


def test_two_depths_in_one_set_are_refused_with_one_image_of_each(tmp_path):
    images = [noise(8, 8), noise(8, 8), noise(8, 8).astype(np.uint16) << 8, noise(8, 8)]
    source = open_folder(class_folders(tmp_path / "set", images), tmp_path)
    with pytest.raises(DataError, match=r"a/2\.png is uint16, a/0\.png is uint8") as caught:
        survey_images(source, tmp_path / "cache")
    assert caught.value.code == "mixed-depth"


def test_colour_where_the_card_says_gray_is_refused_by_name(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8, 3) for _ in range(4)]), tmp_path)
    gray = replace(source, spec=replace(source.spec, channels=1))
    with pytest.raises(DataError, match=r"a/0\.png has 3 channels; its card says 1"):
        survey_images(gray, tmp_path / "cache")
