"""Augmentation: one draw per image, exact without resampling, otherwise equal to torchvision's."""

import math

import pytest
import torch

from zoo.system.devices import Cuda, open_device
from zoo.training.augmentation import (
    OPERATIONS,
    Augmentation,
    apply_symmetry,
    augment,
    blur,
    change_tone,
    draw,
    parameters,
    warp,
)

SIZE = 48


@pytest.fixture(scope="module")
def reference():
    """torchvision's functions, imported here because torchvision imports torch's compiler: 1.5 s."""
    import torchvision.transforms.functional

    return torchvision.transforms.functional


def noise(count, channels=1, size=9, seed=0):
    return torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(seed))


def smooth():
    """A few broad blobs away from the border, so that all resampling rules give nearly the same."""
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    blobs = [(0.3, -0.2, 0.15), (-0.4, 0.1, 0.2), (0.1, 0.4, 0.12)]
    image = sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s in blobs)
    return image[None, None]


def run(images, *, seed=0, symmetries=(), one_of=True):
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(1, len(images), len(symmetries), one_of=one_of, generator=generator)
    return augment(images.clone(), first(drawn), symmetries)


def first(drawn):
    """Select the first of several batches."""
    kind, numbers = drawn.kind, drawn.parameters
    one_of = {} if kind is None else {"kind": kind[0], "parameters": numbers[0]}
    return Augmentation(turns=drawn.turns[0], **one_of)


def draws(count, seed=0):
    """The operations that `augment` draws for a batch without symmetries."""
    return torch.randint(0, len(OPERATIONS), (count,), generator=torch.Generator().manual_seed(seed))


# --- the draws -------------------------------------------------------------------------------------------------------
def test_an_image_without_an_operation_is_unchanged():
    images = noise(200)
    unchanged = draws(200) == OPERATIONS.index("none")
    assert unchanged.any()
    actual = run(images)
    assert torch.equal(actual[unchanged], images[unchanged])
    assert (actual[~unchanged] != images[~unchanged]).flatten(1).any(dim=1).all()


def test_each_image_has_its_own_draw():
    actual = run(noise(1).expand(300, -1, -1, -1))
    assert len({tuple(image.flatten().tolist()) for image in actual}) > 200


@pytest.mark.integration
def test_the_other_images_of_a_batch_do_not_affect_an_image():
    one = noise(1).expand(40, -1, -1, -1)
    others = torch.cat([one[:20], noise(20, seed=1)])
    torch.testing.assert_close(run(one)[:20], run(others)[:20])


def test_draws_depend_on_the_generator_alone():
    torch.manual_seed(0)
    first = run(noise(50), symmetries=("hflip", "rot90"))
    torch.manual_seed(1)
    assert torch.equal(run(noise(50), symmetries=("hflip", "rot90")), first)
    assert not torch.equal(run(noise(50), symmetries=("hflip", "rot90"), seed=1), first)


def test_every_operation_is_drawn_about_equally_often():
    counts = torch.bincount(draws(9000), minlength=len(OPERATIONS))
    assert counts.float().div(1000).tolist() == pytest.approx([1.0] * len(OPERATIONS), abs=0.12)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_augmentation_keeps_the_shape_for_any_number_of_channels(channels):
    assert run(noise(30, channels), symmetries=("rot90",)).shape == (30, channels, 9, 9)


# --- symmetries ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("symmetry", ["hflip", "vflip"])
def test_a_flip_equals_torchvisions_and_is_its_own_inverse(symmetry, reference):
    images, draw = noise(4), torch.arange(4)
    once = apply_symmetry(images, symmetry, draw)
    assert torch.equal(once[draw % 2 == 0], images[draw % 2 == 0])
    assert torch.equal(once[draw % 2 == 1], getattr(reference, symmetry)(images)[draw % 2 == 1])
    assert torch.equal(apply_symmetry(once, symmetry, draw), images)


def test_an_image_is_rotated_by_its_draw_of_quarter_turns():
    images = noise(4)
    actual = apply_symmetry(images, "rot90", torch.arange(4))
    for quarters in range(4):
        assert torch.equal(actual[quarters], torch.rot90(images[quarters], quarters, (1, 2)))


def test_only_the_declared_symmetries_are_applied():
    images = noise(1).expand(60, -1, -1, -1)
    allowed = [images[0], images[0].flip(2)]
    actual = run(images, symmetries=("hflip",), one_of=False)
    matches = torch.stack([(actual == version).flatten(1).all(dim=1) for version in allowed])
    assert (matches.sum(dim=0) == 1).all()
    assert 15 < matches[1].sum() < 45
    assert torch.equal(run(images, one_of=False), images)


# --- affine maps -----------------------------------------------------------------------------------------------------
def strengths(first, second=0.5):
    return torch.tensor([[first, second]])


def split(operation, strength):
    """The parameters of images with the same operation: affine maps, tones, taps."""
    drawn = torch.full((len(strength),), OPERATIONS.index(operation))
    return parameters(drawn, strength).split([6, 3, 5], dim=1)


def warped(operation, strength):
    return warp(smooth(), split(operation, strength)[0])


def affine(reference, angle=0.0, translate=(0, 0), scale=1.0, shear=0.0):
    """torchvision's affine transform, whose angle has the opposite sign."""
    bilinear = reference.InterpolationMode.BILINEAR
    return reference.affine(smooth(), angle, list(translate), scale, [shear, 0.0], interpolation=bilinear)


@pytest.mark.parametrize(
    ("operation", "strength", "expected"),
    [
        ("rotate", strengths(1.0), {"angle": -30.0}),
        ("rotate", strengths(0.0), {"angle": 30.0}),
        ("rotate", strengths(0.75), {"angle": -15.0}),
        ("zoom", strengths(0.0), {"scale": 0.8}),
        ("zoom", strengths(1.0), {"scale": 1.2}),
        ("shift", strengths(1.0, 0.5), {"translate": (-0.1 * SIZE, 0)}),
        ("shift", strengths(0.5, 0.0), {"translate": (0, 0.1 * SIZE)}),
        ("shear", strengths(1.0), {"shear": math.degrees(math.atan(0.2))}),
        ("shear", strengths(0.0), {"shear": -math.degrees(math.atan(0.2))}),
    ],
)
def test_an_affine_map_equals_torchvisions(operation, strength, expected, reference):
    difference = (warped(operation, strength) - affine(reference, **expected)).abs().max().item()
    assert difference < 0.02
    assert (warped(operation, strength) - smooth()).abs().max() > 0.1  # and it does something


@pytest.mark.parametrize("operation", ["rotate", "shift", "zoom", "shear"])
def test_half_the_strength_is_the_identity(operation):
    torch.testing.assert_close(warped(operation, strengths(0.5)), smooth(), atol=1e-5, rtol=0)


def test_pixels_from_outside_the_image_are_zero():
    actual = warp(torch.ones(1, 1, 10, 10), split("shift", strengths(1.0))[0])
    assert actual[0, 0, :, -1].tolist() == [0.0] * 10
    assert actual[0, 0, :, 0].tolist() == pytest.approx([1.0] * 10)


# --- photometric operations ------------------------------------------------------------------------------------------
STRENGTH = torch.tensor([0.0, 0.25, 0.5, 1.0])[:, None].expand(-1, 2)


def toned(operation, images):
    return change_tone(images, split(operation, STRENGTH)[1])


def test_brightness_is_a_shift_of_at_most_a_fifth():
    images = noise(4)
    shifts = toned("brightness", images) - images
    torch.testing.assert_close(shifts, torch.tensor([-0.2, -0.1, 0.0, 0.2]).reshape(4, 1, 1, 1).expand_as(images))


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    images = noise(4, channels=3)
    actual = toned("contrast", images)
    torch.testing.assert_close(actual.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    ratio = actual.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert ratio.tolist() == pytest.approx([0.7, 0.85, 1.0, 1.3], rel=1e-5)


def test_gamma_equals_torchvisions_in_the_range_and_is_the_identity_outside(reference):
    images = noise(4)
    images[:, :, 0, 0], images[:, :, 0, 1] = -0.3, 1.4
    actual = toned("gamma", images)
    for row, exponent in enumerate([0.7, 0.875, 1.05, 1.4]):
        torch.testing.assert_close(actual[row, :, 1:], reference.adjust_gamma(images[row, :, 1:], exponent))
    torch.testing.assert_close(actual[:, :, 0, :2], images[:, :, 0, :2])


def test_blur_equals_torchvisions_gaussian_with_one_width_per_image(reference):
    images = noise(4, channels=3, size=12)
    actual = blur(images, split("blur", STRENGTH)[2])
    for row, sigma in enumerate([0.1, 0.45, 0.8, 1.5]):
        expected = reference.gaussian_blur(images[row], [5, 5], [sigma, sigma])
        torch.testing.assert_close(actual[row, :, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=1e-4)


def test_channels_last_images_give_the_same_result():
    images = noise(60, channels=3)
    torch.testing.assert_close(run(images.contiguous(memory_format=torch.channels_last)), run(images))


# --- the same distribution as before ---------------------------------------------------------------------------------
def old_augment(images, symmetries, one_of, generator):
    """`augment` as in `finetune@1` at its publication (version 1 of run ids), image by image."""
    count = len(images)
    for symmetry in symmetries:
        images = apply_symmetry(images, symmetry, torch.randint(0, 4, (count,), generator=generator))
    if not one_of:
        return images
    chosen = torch.randint(0, 9, (count,), generator=generator)
    strength = torch.rand((count, 2), generator=generator)
    return torch.stack([old_operation(*each) for each in zip(images, chosen.tolist(), strength.tolist(), strict=True)])


def old_operation(image, operation, strength):
    first, second = strength
    a, b = 2 * first - 1, 2 * second - 1
    if operation == 0:
        return image
    if operation <= 4:
        angle = a * math.radians(30) if operation == 1 else 0.0
        across, down = (a * 0.2, b * 0.2) if operation == 2 else (0.0, 0.0)
        zoom = 0.8 + 0.4 * first if operation == 3 else 1.0
        shear = a * 0.2 if operation == 4 else 0.0
        cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
        affine_map = torch.tensor([[[cosine, shear - sine, across], [sine, cosine, down]]])
        grid = torch.nn.functional.affine_grid(affine_map, [1, *image.shape], align_corners=False)
        return torch.nn.functional.grid_sample(image[None], grid, align_corners=False)[0]
    if operation == 5:
        return image + a * 0.2
    if operation == 6:
        return (image - image.mean()) * (0.7 + 0.6 * first) + image.mean()
    if operation == 7:
        inside = image.clamp(0, 1)
        return image - inside + inside ** (0.7 + 0.7 * first)
    sigma = 0.1 + 1.4 * first
    taps = torch.exp(-(torch.arange(-2, 3) ** 2) / (2 * sigma**2))
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = torch.nn.functional.pad(image[:, None], (2, 2, 2, 2), mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel[None, None])[:, 0]


@pytest.mark.parametrize("symmetries", [(), ("hflip", "rot90")])
@pytest.mark.parametrize("one_of", [True, False])
def test_each_image_is_augmented_as_in_the_published_recipe(symmetries, one_of):
    images = noise(400, channels=3, size=16)
    actual = run(images, symmetries=symmetries, one_of=one_of, seed=7)
    expected = old_augment(images, symmetries, one_of, torch.Generator().manual_seed(7))
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_drawing_several_batches_equals_drawing_them_one_by_one():
    at_once = draw(3, 20, 2, one_of=True, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        alone = draw(1, 20, 2, one_of=True, generator=generator)
        for name in ("turns", "kind", "parameters"):
            assert torch.equal(getattr(at_once, name)[number], getattr(alone, name)[0])


def test_computing_all_images_and_selecting_equals_computing_the_selected_images(monkeypatch):
    """The GPU's implementation, tested on the CPU."""
    images = noise(200, channels=3)
    expected = run(images.clone(), symmetries=("hflip",))
    monkeypatch.setattr(type(open_device("cpu")), "replace_where", Cuda.replace_where)
    torch.testing.assert_close(run(images, symmetries=("hflip",)), expected, atol=1e-6, rtol=0)


def test_a_rotation_of_an_image_that_is_no_square_does_not_shear_it():
    """A square of 10 by 10 pixels, turned by 45 degrees, has diagonals of equal length."""
    images = torch.zeros(1, 1, 40, 80)
    images[..., 15:25, 35:45] = 1
    turn = torch.tensor(
        [math.cos(math.pi / 4), -math.sin(math.pi / 4), 0, math.sin(math.pi / 4), math.cos(math.pi / 4), 0]
    )
    turned = warp(images, turn[None])[0, 0] > 0.5
    height, width = turned.any(1).sum(), turned.any(0).sum()
    assert height == width and 12 <= int(height) <= 15
