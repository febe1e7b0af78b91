"""A dataset is read as gray only if the channels are equal in all images, and a note reports it."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(5)


def gray(channels):
    pixels = np.dstack([RANDOM.integers(0, 256, (9, 9), dtype=np.uint8)] * min(channels, 3))
    return np.dstack([pixels, np.full((9, 9), 255, np.uint8)]) if channels == 4 else pixels.squeeze()


def folder(root, images):
    for number, pixels in enumerate(images):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def test_rgb_and_rgba_files_of_equal_channels_are_read_as_gray_with_a_note(tmp_path):
    root = folder(tmp_path / "set", [gray(1), gray(3), gray(4), gray(3)])
    source = open_dataset(find_source(root), tmp_path)
    assert source.spec.channels == 1
    assert "the channels are equal in all 4 images: they are read as gray" in (source.samples.notes)
    assert not any("read as color" in note for note in source.samples.notes)


def test_one_color_image_makes_a_color_dataset_with_a_note(tmp_path):
    color = RANDOM.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    source = open_dataset(find_source(folder(tmp_path / "set", [gray(1), gray(3), gray(4), color])), tmp_path)
    assert source.spec.channels == 3
    assert "1 gray and 3 color images among 4 headers: all are read as color" in source.samples.notes


def test_gray_files_are_not_checked_and_not_noted(tmp_path):
    source = open_dataset(find_source(folder(tmp_path / "set", [gray(1)] * 4)), tmp_path)
    assert source.spec.channels == 1
    assert not any("gray" in note or "color" in note for note in source.samples.notes)


def test_equal_channels_give_another_content_hash_than_color(tmp_path):
    first = open_dataset(find_source(folder(tmp_path / "set", [gray(3)] * 4)), tmp_path)
    assert open_dataset(find_source(tmp_path / "set"), tmp_path).content_hash == first.content_hash
    folder(tmp_path / "set", [gray(3), RANDOM.integers(0, 256, (9, 9, 3), dtype=np.uint8)])
    assert open_dataset(find_source(tmp_path / "set"), tmp_path).spec.channels == 3


def test_a_file_that_cannot_be_decoded_is_named_before_anything_is_trained(tmp_path):
    root = folder(tmp_path / "set", [gray(3)] * 4)
    path = root / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"a/2\.png"):
        open_dataset(find_source(root), tmp_path)
