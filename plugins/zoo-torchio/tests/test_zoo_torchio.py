"""Artifacts of MRI: the conformance kit, TorchIO's own results where it is installed, and volumes of a training."""

import numpy as np
import pytest
import torch

from zoo.testing import parametrize_with_checks
from zoo_torchio import BIAS_FIELD, GHOSTING, MOTION, SPIKE, register_transforms
from zoo_torchio.artifacts import compose_motion, field_of, ghosts_of, move_rigidly, spiked

SHAPES = ((12, 9, 10), (11, 8, 1))  # a volume; an image, whose last axis TorchIO keeps
RANDOM = torch.Generator().manual_seed(0)


@pytest.mark.integration  # some checks start a process
@parametrize_with_checks(register_transforms())
def test_the_artifacts_conform(spec, check):
    check(spec)


def image_of(shape):
    return torch.rand((2, *shape), generator=RANDOM)


def batch_of(image):
    """One image of TorchIO (C, A, B, C) as a batch; the last axis of an image is left out."""
    return (image[..., 0] if image.shape[-1] == 1 else image)[None]


def by_torchio(transform, image):
    """TorchIO's own result."""
    torchio = pytest.importorskip("torchio", reason="torchio is not installed: nothing to compare with")
    subject = torchio.Subject(scan=torchio.ScalarImage(tensor=image.clone()))
    return batch_of(transform(torchio)(subject)["scan"].data)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_ghosts_are_those_of_torchio(shape, axis):
    image = image_of(shape)
    expected = by_torchio(lambda torchio: torchio.Ghosting(num_ghosts=4, axis=axis, intensity=0.7, restore=None), image)
    ghosts = ghosts_of(batch_of(image), *(torch.tensor([value]) for value in (4, axis, 0.7)))
    torch.testing.assert_close(ghosts, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_spike_is_that_of_torchio(shape):
    image, place = image_of(shape), torch.tensor([[0.3, 0.8, 0.55]])
    expected = by_torchio(lambda torchio: torchio.Spike(spikes_positions=place.numpy(), intensity=0.4), image)
    torch.testing.assert_close(spiked(batch_of(image), place, torch.tensor([0.4])), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_field_is_that_of_torchio(shape):
    image, coefficients = image_of(shape), torch.rand((1, 20), generator=RANDOM) - 0.5
    expected = by_torchio(lambda torchio: torchio.BiasField(coefficients=coefficients[0].tolist(), order=3), image)
    batch = batch_of(image)
    torch.testing.assert_close(batch * field_of(coefficients, batch), expected, atol=1e-5, rtol=1e-5)


def test_motion_by_whole_voxels_is_that_of_torchio():
    """Only shifts: TorchIO rotates about the first voxel, not about the center."""
    image, times = image_of(SHAPES[0]), np.array([0.3, 0.7])
    shifts = np.array([[2.0, 0, 0], [0, -1.0, 1.0]])  # in LPS: the first two axes point the other way
    nothing = np.zeros((2, 3))
    expected = by_torchio(
        lambda torchio: torchio.Motion(degrees=nothing, translation=shifts, times=times, image_interpolation="linear"),
        image,
    )
    batch, sides = batch_of(image), torch.tensor(SHAPES[0])
    voxels = torch.tensor(shifts * [-1, -1, 1]).float() / sides
    moved = [move_rigidly(batch, torch.zeros(1, 3), each[None]) for each in voxels]
    motion = compose_motion(batch, *moved, torch.tensor(times)[None])
    torch.testing.assert_close(motion, expected, atol=1e-4, rtol=0)


def test_a_quarter_turn_moves_the_corner_of_a_square():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 1, 2] = 1
    turned = move_rigidly(image, torch.tensor([[torch.pi / 2, 0, 0]]), torch.zeros(1, 3))
    assert turned.sum() == pytest.approx(1, abs=1e-4)
    assert turned.allclose(image.rot90(1, (2, 3)), atol=1e-4) or turned.allclose(image.rot90(-1, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("spec", [MOTION, GHOSTING, SPIKE, BIAS_FIELD], ids=lambda spec: spec.name)
def test_the_share_of_changed_images_is_the_option(spec):
    images = torch.rand((64, 1, 12, 12), generator=RANDOM)
    draws = torch.rand((64, spec.num_draws), generator=RANDOM)
    changed = (spec.augment(images, draws, **spec.options) != images).flatten(1).any(1)
    assert changed.equal(draws[:, 0] < 0.5)
