"""Features of a frozen model are computed once, and cached without changes."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.models.features import extract_features, keep_features


@pytest.fixture
def pixels():
    images = torch.randint(0, 256, (150, 4, 4, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, 1, 1, 1)
    return Pixels(images=images, scale=(0.0, 255.0), mean=0.4 * one, std=0.2 * one, device="cpu")


class Backbone:
    """Count the images that it computes."""

    def __init__(self):
        self.shown = 0

    def __call__(self, images):
        self.shown += len(images)
        return images.flatten(1)[:, :5]


def test_features_are_the_models_outputs_in_order(pixels):
    features = extract_features(Backbone(), pixels, "fp32")
    expected = pixels.normalize(pixels.batch(torch.arange(150))).flatten(1)[:, :5]
    torch.testing.assert_close(features.values, expected)
    torch.testing.assert_close(features.batch(torch.tensor([7, 3])), expected[[7, 3]])


def test_features_that_are_not_finite_are_refused(pixels):
    with pytest.raises(RunError, match="the frozen features are not finite"):
        extract_features(lambda images: images.log().flatten(1), pixels, "fp32")


def test_cached_features_are_not_computed_again(pixels, tmp_path):
    first, second = Backbone(), Backbone()
    features = [keep_features(tmp_path, "net")(backbone, pixels, "fp32") for backbone in (first, second)]
    assert (first.shown, second.shown) == (150, 0)
    assert torch.equal(features[0].values, features[1].values)


@pytest.mark.parametrize("change", [("other net", "fp32"), ("net", "bf16")], ids=["identity", "precision"])
def test_features_with_different_identities_are_separate(pixels, tmp_path, change):
    keep_features(tmp_path, "net")(Backbone(), pixels, "fp32")
    identity, precision = change
    backbone = Backbone()
    keep_features(tmp_path, identity)(backbone, pixels, precision)
    assert backbone.shown == 150


@pytest.mark.parametrize("position", [10, -10], ids=["header", "values"])
def test_a_damaged_features_file_is_replaced(pixels, tmp_path, position):
    expected = keep_features(tmp_path, "net")(Backbone(), pixels, "fp32").values
    (path,) = (tmp_path / "features").glob("*.safetensors")
    with open(path, "rb+") as stream:
        stream.seek(position, os.SEEK_SET if position > 0 else os.SEEK_END)
        stream.write(b"\x7f\x7f")
    backbone = Backbone()
    assert torch.equal(keep_features(tmp_path, "net")(backbone, pixels, "fp32").values, expected)
    assert backbone.shown == 150


def test_concurrent_requests_compute_features_once(pixels, tmp_path):
    backbone = Backbone()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep_features(tmp_path, "net")(backbone, pixels, "fp32"), range(4)))
    assert backbone.shown == 150
