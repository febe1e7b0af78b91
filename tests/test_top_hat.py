"""The top-hat filter: a baseline without learning, for masks of thin structures only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_segmentation import squares, write

from zoo.data.dataset import open_fold
from zoo.data.decoded import cache_images
from zoo.data.opening import open_dataset
from zoo.data.pixels import open_pixels
from zoo.data.splits import draw_split
from zoo.data.thin_masks import THIN, has_thin_masks, measure_width
from zoo.evaluation.predict import predict
from zoo.models.baselines import ATLAS, TOP_HAT, build_top_hat, top_hat
from zoo.runner.grid import is_offered
from zoo.sources.opening import find_source
from zoo.specs.model import BuildRequest
from zoo.tasks.overlaps import statistic
from zoo.training.atlas import fit_mask_baseline
from zoo.training.top_hat import choose_response

NOISE = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:96, :96]


def lines(root, count=15, side=80):
    """Dark lines of 3 pixels in the red channel of noisy color images, with their masks."""
    for number in range(count):
        pixels = NOISE.integers(120, 150, (side, side, 3)).astype(np.uint8)
        mask = np.zeros((side, side), np.uint8)
        for start in NOISE.integers(4, side - 8, 3):
            mask[start : start + 3, 2:-2] = 255
        pixels[..., 0][mask > 0] -= 60
        write(root / "images" / f"p{number}.png", pixels)
        write(root / "masks" / f"p{number}.png", mask)
    return root


def opened(root, cache):
    source = open_dataset(find_source(root), cache)
    return source, draw_split(source, folds=1)


def test_the_response_is_the_black_top_hat_of_the_smoothed_image():
    image = NOISE.normal(0, 1, (40, 50))
    smooth = ndimage.gaussian_filter(image, 9 / 8, mode="nearest", radius=3)
    expected = ndimage.black_tophat(smooth, size=(9, 9))
    found = top_hat(torch.from_numpy(image)[None], 9)[0].numpy()
    np.testing.assert_allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-12)


@pytest.mark.parametrize(
    ("marked", "is_thin"),
    [
        ((ROWS - 48) ** 2 + (COLUMNS - 48) ** 2 < 40**2, False),
        (((ROWS - 48) / 4) ** 2 + ((COLUMNS - 48) / 40) ** 2 < 1, False),
        ((ROWS % 12 < 4) & (COLUMNS % 12 < 4), False),
        ((ROWS == 48), True),
        ((ROWS % 24 < 2) | (COLUMNS % 24 < 2), True),
    ],
    ids=["disk", "ellipse", "spots", "line", "net"],
)
def test_lines_are_thin_and_compact_shapes_are_not(marked, is_thin):
    assert (measure_width(marked) < THIN) == is_thin


def test_an_empty_mask_has_no_width():
    assert measure_width(np.zeros((4, 4), bool)) is None


def test_only_masks_of_thin_structures_get_the_filter(tmp_path):
    thin, compact = opened(lines(tmp_path / "lines"), tmp_path), opened(squares(tmp_path / "squares"), tmp_path)
    assert is_offered(TOP_HAT, *thin) and not is_offered(TOP_HAT, *compact)
    assert is_offered(ATLAS, *thin) and is_offered(ATLAS, *compact)
    two_labels = replace(thin[0], spec=replace(thin[0].spec, labels=("artery", "vein")))
    assert not has_thin_masks(two_labels, thin[1])


def test_the_filter_finds_channel_sign_and_threshold_on_train_and_draws_the_lines(tmp_path):
    source, split = opened(lines(tmp_path / "lines"), tmp_path)
    fold = open_fold(source, split, 0, cache_images(source, 80, tmp_path))
    pixels = open_pixels(fold, (0.5,) * 3, (0.5,) * 3, "cpu")
    module = build_top_hat(BuildRequest(num_outputs=2, channels=3, image_size=80))
    empty = predict(module, fold, pixels, "test", precision="fp32").probabilities
    assert statistic(empty, "true_positive").sum() == statistic(empty, "false_positive").sum() == 0
    details = fit_mask_baseline(TOP_HAT, module, fold, pixels)
    assert (details["channel"], details["lines"]) == (0, "dark")
    test = predict(module, fold, pixels, "test", precision="fp32").probabilities
    hit, false, missed = (statistic(test, name).sum() for name in ("true_positive", "false_positive", "false_negative"))
    assert 2 * hit / (2 * hit + false + missed) > 0.9


def test_the_threshold_has_the_best_dice_of_all_pixels():
    responses = NOISE.normal(0, 1, (3, 30, 30))
    marked = responses + NOISE.normal(0, 0.5, responses.shape) > 1
    dice, threshold = choose_response(responses, marked)

    def pooled(cut):
        drawn = responses > cut
        return 2 * (drawn & marked).sum() / (drawn.sum() + marked.sum())

    assert dice == pytest.approx(pooled(threshold))
    assert dice >= max(pooled(cut) for cut in np.linspace(0, 2, 50)) - 0.01


def test_nothing_is_predicted_if_no_pixel_of_train_is_marked():
    responses = NOISE.normal(0, 1, (3, 30, 30))
    dice, threshold = choose_response(responses, np.zeros(responses.shape, bool))
    assert dice == 0 and not (responses > threshold).any()
