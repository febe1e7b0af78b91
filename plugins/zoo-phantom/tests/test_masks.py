"""The slices with masks: what the generator knows about their lesions."""

import numpy as np
import pytest

from zoo import SamplesRequest
from zoo.data.opening import open_dataset
from zoo_phantom import PARAMETERS, draw, masks
from zoo_phantom.segmentation import MASKED, SCENES, open_masks


@pytest.mark.integration
def test_masks_are_those_of_the_generator_and_some_are_empty(tmp_path):
    samples = open_masks(SamplesRequest(folder=tmp_path))
    scenes = draw(PARAMETERS[SCENES])
    for image in (0, 100, 1500):
        np.testing.assert_array_equal(samples.masks(image), masks(scenes, image).any(axis=0))
    dataset = open_dataset(MASKED, tmp_path)
    empty = (dataset.samples.targets == 0).mean()
    assert 0.05 < empty < 0.5


@pytest.mark.integration
def test_masks_that_were_changed_are_drawn_again(tmp_path):
    request = SamplesRequest(folder=tmp_path)
    samples = open_masks(request)
    image = next(image for image in range(100) if samples.masks(image).any())
    drawn = np.load(tmp_path / "masks.npy")
    np.save(tmp_path / "masks.npy", drawn * 0)
    np.testing.assert_array_equal(open_masks(request).masks(image), drawn[image])
