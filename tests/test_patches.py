"""Patches of images and tiles of predictions, in two and three axes."""

import numpy as np
import pytest
import torch

from zoo.evaluation.tiles import axis_weights, outer, predict_by_tiles, tile_starts
from zoo.training.patches import PatchPlan, find_foreground, locate_patches, take_patches

NOISE = np.random.default_rng(0)
SHAPES = [((9, 14), (30, 12)), ((9, 14, 6), (8, 12, 20))]  # of two images, one of which is smaller than the patch
PATCHES = [(8, 8), (8, 8, 8)]


def plan(label_maps, patch):
    high = torch.tensor([each.shape for each in label_maps])
    return PatchPlan(patch, torch.zeros_like(high), high, find_foreground(label_maps, 2))


# --- patches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shapes", "patch"), [*zip(SHAPES, PATCHES, strict=True)])
def test_patches_are_parts_of_images_of_any_size_with_zeros_outside(shapes, patch):
    images = [NOISE.integers(1, 99, shape) for shape in shapes]
    flat = torch.from_numpy(np.concatenate([each.ravel() for each in images]))
    starts = torch.tensor([0, images[0].size])
    corners = torch.tensor([[-2, 5, 1][: len(patch)], [1, 3, 11][: len(patch)]])
    patches = take_patches(flat, *locate_patches(corners, patch, starts, torch.tensor(shapes)))
    for image, corner, taken in zip(images, corners.tolist(), patches.numpy(), strict=True):
        padded = np.pad(image, 20)
        place = tuple(slice(20 + first, 20 + first + length) for first, length in zip(corner, patch, strict=True))
        np.testing.assert_array_equal(taken, padded[place])


@pytest.mark.parametrize(("shapes", "patch"), [*zip(SHAPES, PATCHES, strict=True)])
def test_drawn_patches_lie_in_the_image_or_are_centered_on_a_smaller_one(shapes, patch):
    own = plan([NOISE.integers(0, 3, shape) for shape in shapes], patch)
    rows = torch.arange(2).repeat(500)
    corners = own.draw(rows, torch.Generator().manual_seed(0))
    for row, shape in enumerate(shapes):
        for axis, (length, side) in enumerate(zip(patch, shape, strict=True)):
            along = corners[rows == row, axis]
            room = side - length
            assert (along.min(), along.max()) == ((0, room) if room > 0 else (room // 2, room // 2))


def test_a_third_of_the_patches_show_a_rare_label():
    label_map = np.zeros((200, 200), np.uint8)
    label_map[:40], label_map[150, 160] = 1, 2
    corners = plan([label_map], (16, 16)).draw(torch.zeros(6000).long(), torch.Generator().manual_seed(0))
    shown = ((corners <= torch.tensor([150, 160])) & (corners + 16 > torch.tensor([150, 160]))).all(1)
    assert shown.float().mean() == pytest.approx(1 / 6 + 5 / 6 * (16 / 185) ** 2, abs=0.02)  # half of a third


def test_images_without_a_label_have_patches_too():
    own = plan([np.zeros((20, 30), np.uint8)] * 2, (8, 8))
    assert own.draw(torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0)).shape == (3, 2)


# --- tiles -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("length", "tile"), [(5, 8), (8, 8), (9, 8), (100, 8), (999, 128)])
def test_tiles_cover_an_axis_and_overlap_by_half(length, tile):
    starts = tile_starts(length, tile)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    assert max(np.diff(starts), default=0) <= tile / 2


@pytest.mark.parametrize(("shape", "tile"), [((50, 33), (16, 8)), ((5, 40), (8, 8)), ((20, 9, 7), (8, 8, 8))])
def test_slabs_of_tiles_join_to_the_logits_of_every_pixel(shape, tile):
    image = torch.from_numpy(NOISE.normal(0, 1, shape)).float()
    padded = torch.nn.functional.pad(image, [0, 8] * len(shape))
    sizes = []

    def predict(corners):
        sizes.append(len(corners))
        places = [tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True)) for corner in corners.tolist()]
        parts = torch.stack([padded[place] for place in places])
        return torch.stack([parts, -parts], dim=1)

    slabs = list(predict_by_tiles(predict, shape, tile, 3))
    assert [start for start, _ in slabs] == np.cumsum([0, *(len(slab[0]) for _, slab in slabs)])[:-1].tolist()
    torch.testing.assert_close(torch.cat([slab for _, slab in slabs], dim=1), torch.stack([image, -image]))
    assert max(sizes) <= 3


def test_the_center_of_a_tile_counts_more_than_its_border():
    def predict(corners):
        return torch.from_numpy(corners[:, :1, None] * np.ones((1, 8, 4))).float()[:, None]  # where the tile begins

    logits = torch.cat([slab for _, slab in predict_by_tiles(predict, (12, 4), (8, 4), 9)], dim=1)[0, :, 0]
    weights = axis_weights(8)
    assert logits[4] == pytest.approx(4 * weights[0] / (weights[0] + weights[4]))
    assert outer([weights, weights]).shape == (8, 8)
