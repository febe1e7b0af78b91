"""Every image is decoded once; unreadable ones are reported, fingerprints are cached, and copies are found."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import make_dataset_spec, make_samples
from PIL import Image, ImageEnhance

from zoo.data.fingerprints import (
    MAX_PAIRS,
    correlate,
    find_alike,
    fingerprint_image,
    near_hashes,
    perceptual_hash,
    take_fingerprints,
)
from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(3)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def class_folders(root, images):
    """Two alternating classes."""
    for number, pixels in enumerate(images):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def open_folder(root, tmp_path):
    return open_dataset(find_source(root), tmp_path / "cache")


def test_sizes_depths_and_channels_are_those_of_the_pixels(tmp_path):
    gray = noise(8, 10)
    images = [gray, noise(12, 9, 3), np.dstack([gray] * 3), np.dstack([gray] * 3 + [np.full_like(gray, 255)])]
    source = open_folder(class_folders(tmp_path / "set", images), tmp_path)
    fingerprints = take_fingerprints(source, tmp_path / "cache")
    sizes = zip(fingerprints.widths, fingerprints.heights, strict=True)
    expected = {"a/0.png": (10, 8), "a/2.png": (10, 8), "b/1.png": (9, 12), "b/3.png": (10, 8)}
    assert dict(zip(source.sample_ids.tolist(), sizes, strict=True)) == expected
    assert fingerprints.bits.tolist() == [8] * 4
    assert dict(zip(source.sample_ids.tolist(), fingerprints.gray.tolist(), strict=True)) == {
        "a/0.png": True,
        "a/2.png": True,
        "b/1.png": False,
        "b/3.png": True,
    }


def test_images_are_decoded_once(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8) for _ in range(6)]), tmp_path)
    first = take_fingerprints(source, tmp_path / "cache")

    def read(image):
        raise AssertionError(f"{image} is read again")

    blind = replace(source, samples=replace(source.samples, read=read))
    np.testing.assert_array_equal(take_fingerprints(blind, tmp_path / "cache").widths, first.widths)


def test_damaged_fingerprints_are_made_again(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8) for _ in range(6)]), tmp_path)
    take_fingerprints(source, tmp_path / "cache")
    (stored,) = (tmp_path / "cache" / "fingerprints").iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert take_fingerprints(source, tmp_path / "cache").widths.tolist() == [8] * 6


def test_images_that_cannot_be_decoded_are_one_line_with_the_first_and_how_many(tmp_path):
    root = class_folders(tmp_path / "set", [noise(40, 40) for _ in range(6)])
    for name in ("a/2.png", "b/3.png"):
        (root / name).write_bytes((root / name).read_bytes()[:600])  # a whole header, half of the pixels
    with pytest.raises(DataError, match=r"a/2\.png: cannot be decoded.* \(and 1 more images cannot be read\)"):
        take_fingerprints(open_folder(root, tmp_path), tmp_path / "cache")


def test_two_depths_in_one_set_are_refused_with_one_image_of_each(tmp_path):
    images = [noise(8, 8), noise(8, 8), noise(8, 8).astype(np.uint16) << 8, noise(8, 8)]
    source = open_folder(class_folders(tmp_path / "set", images), tmp_path)
    with pytest.raises(DataError, match=r"a/2\.png is uint16, but a/0\.png is uint8") as caught:
        take_fingerprints(source, tmp_path / "cache")
    assert caught.value.code == "mixed-depth"


def test_color_in_a_gray_dataset_is_refused_by_name(tmp_path):
    source = open_folder(class_folders(tmp_path / "set", [noise(8, 8, 3) for _ in range(4)]), tmp_path)
    gray = replace(source, spec=replace(source.spec, channels=1))
    with pytest.raises(DataError, match=r"a/0\.png has 3 channels; expected 1"):
        take_fingerprints(gray, tmp_path / "cache")


# --- copies ----------------------------------------------------------------------------------------------------------
def in_memory(images):
    """A binary dataset of arrays."""
    return make_dataset_spec(make_samples(images, np.arange(len(images)) % 2))


def fingerprints_of(images, tmp_path):
    return take_fingerprints(open_dataset(in_memory(images), tmp_path), tmp_path)


def scan(seed, size=96, channels=()):
    """Speckle over smooth blobs, similar to an ultrasound image."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, float) * 0.8 + random.normal(20, 12, (size, size))
    gray = pixels.clip(0, 255).astype(np.uint8)
    return np.dstack([gray] * 3) if channels else gray


def as_jpeg(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


CHANGES = {
    "saved again as JPEG": lambda pixels: as_jpeg(pixels, 40),
    "brighter": lambda pixels: (pixels.astype(int) + 25).clip(0, 255).astype(np.uint8),
    "more contrast": lambda pixels: np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(1.2)),
    "half the size": lambda pixels: np.asarray(Image.fromarray(pixels).resize((48, 48), Image.Resampling.LANCZOS)),
    "noisier": lambda pixels: (
        (pixels + np.random.default_rng(0).normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_a_slightly_changed_image_is_alike(tmp_path, change):
    images = [scan(seed) for seed in range(30)]
    fingerprints = fingerprints_of([*images, change(images[7])], tmp_path)
    assert fingerprints.alike.tolist() == [[7, 30]]
    assert not fingerprints.skipped


@pytest.mark.parametrize(
    "change", [np.fliplr, np.rot90, lambda pixels: pixels[6:-6, 6:-6]], ids=["flip", "turn", "crop"]
)
def test_flips_turns_and_crops_are_not_found(tmp_path, change):
    images = [scan(seed) for seed in range(6)]
    assert not len(fingerprints_of([*images, change(images[2]).copy()], tmp_path).alike)


def test_small_images_are_compared_by_pixels_only_with_a_reason(tmp_path):
    images = [scan(seed, 28) for seed in range(6)]
    fingerprints = fingerprints_of([*images, images[1], CHANGES["brighter"](images[2])], tmp_path)
    assert fingerprints.skipped == "images of 28 px (under 48) are too small to identify copies"
    assert not len(fingerprints.alike)
    assert fingerprints.pixels[7] not in fingerprints.pixels[:7]
    assert fingerprints.pixels[6] == fingerprints.pixels[1]


def test_gray_stored_in_color_has_the_digest_of_gray(tmp_path):
    fingerprints = fingerprints_of([scan(1), scan(1, channels=(3,)), scan(2)], tmp_path)
    assert fingerprints.pixels[0] == fingerprints.pixels[1] != fingerprints.pixels[2]
    assert not len(fingerprints.alike)


def test_pixels_of_another_depth_or_shape_have_another_digest():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert len({fingerprint_image(p).pixels for p in (pixels, pixels.astype(np.uint16), pixels.reshape(4, 16))}) == 3


def test_blank_images_are_marked_and_not_compared(tmp_path):
    black, nearly = np.zeros((64, 64), np.uint8), np.full((64, 64), 9, np.uint8)
    nearly[::2, ::2] = 10
    spot = np.zeros((64, 64), np.uint8)
    spot[30:33, 30:33] = 200
    fingerprints = fingerprints_of([black, nearly, spot, scan(1), black], tmp_path)
    assert fingerprints.blank.tolist() == [True, True, False, False, True]
    assert not len(fingerprints.alike)


def test_16_bit_images_are_compared_over_their_own_range(tmp_path):
    images = [scan(seed).astype(np.uint16) * 16 for seed in range(6)]
    fingerprints = fingerprints_of([*images, images[3] + 100], tmp_path)
    assert fingerprints.alike.tolist() == [[3, 6]]


@pytest.mark.integration
def test_a_set_where_all_look_alike_is_not_listed_pair_by_pair(tmp_path):
    random = np.random.default_rng(0)
    hashes = np.zeros(3000, np.uint64)
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), 64)
    thumbnails = (ramp + random.integers(0, 3, (3000, 4096), dtype=np.uint8)).astype(np.uint8)
    pairs = 0
    for part in find_alike(hashes, thumbnails):
        pairs += len(part)
    assert MAX_PAIRS <= pairs < 3000 * 2999 // 2


def test_the_hash_is_that_of_its_formula():
    levels = np.random.default_rng(5).uniform(0, 255, (64, 64))
    small = levels.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    n = np.arange(32)
    low = np.array(
        [
            [
                (small * np.outer(np.cos(np.pi * (2 * n + 1) * u / 64), np.cos(np.pi * (2 * n + 1) * v / 64))).sum()
                for v in range(8)
            ]
            for u in range(8)
        ]
    )
    bits = "".join("01"[int(value > np.median(low))] for value in low.ravel())
    assert int(perceptual_hash(levels)) == int(bits, 2)


def test_hashes_within_eight_bits_are_found_each_pair_once_across_blocks():
    random = np.random.default_rng(2)
    hashes = random.integers(0, 2**63, 5000, dtype=np.uint64)
    hashes[4999] = hashes[3] ^ np.uint64(0b11111111)  # 8 bits
    hashes[4998] = hashes[4] ^ np.uint64(0b111111111)  # 9 bits
    pairs = [(int(a), int(b)) for first, second in near_hashes(hashes) for a, b in zip(first, second, strict=True)]
    assert pairs == [(3, 4999)]


@pytest.mark.parametrize("count", [3, 2000], ids=["sparse", "dense"])
def test_the_correlation_is_numpys(count):
    random = np.random.default_rng(3)
    thumbnails = random.integers(0, 256, (60, 4096), dtype=np.uint8)
    thumbnails[30:] = (0.7 * thumbnails[:30] + 0.3 * thumbnails[30:]).astype(np.uint8)
    first, second = random.integers(0, 60, (2, count))
    expected = np.corrcoef(thumbnails.astype(float))[first, second]
    np.testing.assert_allclose(correlate(thumbnails, first, second), expected, atol=1e-5)


# --- real sets -------------------------------------------------------------------------------------------------------
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.integration
def test_the_hash_alone_makes_hundreds_of_false_pairs_and_the_second_stage_none(tmp_path):
    if not (SHARED / "pneumoniamnist.npz").exists():
        pytest.skip("pneumoniamnist.npz is not in ../shared/data")
    source = open_dataset(find_source(SHARED / "pneumoniamnist.npz"), tmp_path)
    looks = [fingerprint_image(source.samples.read(image)) for image in source.samples.table["image"][::5]]
    _, first = np.unique([look.pixels for look in looks], return_index=True)
    hashes, thumbnails = np.array([looks[i].hashes for i in first]), np.stack([looks[i].thumbnail for i in first])
    assert sum(len(rows) for rows, _ in near_hashes(hashes)) > 300
    assert sum(map(len, find_alike(hashes, thumbnails))) == 0
