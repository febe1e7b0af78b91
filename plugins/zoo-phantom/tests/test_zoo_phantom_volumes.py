"""The volumes are pinned, stand upright, and have masks of their lesions and empty masks of the others."""

from dataclasses import replace

import numpy as np
import pytest

from zoo.testing import check_dataset
from zoo_phantom.volumes import (
    DATASET_3D,
    DEPTH,
    MASKED_3D,
    SHA256_OF_STACKS,
    STACKS,
    draw_stacks,
    mask_stacks,
    paint_stacks,
    read_stack,
)

PARAMETERS, SHARE = STACKS["phantom_seg3d"]


@pytest.fixture(scope="module")
def stacks():
    return draw_stacks(replace(PARAMETERS, patients=(6, 3, 3)), SHARE)


@pytest.fixture(scope="module")
def masks(stacks):
    """The mask of each volume, before it is turned to RAS+."""
    return np.split(mask_stacks(stacks), stacks.ends[:-1])


@pytest.mark.integration
@pytest.mark.parametrize("spec", [DATASET_3D, MASKED_3D], ids=lambda spec: spec.name)
def test_a_set_of_volumes_is_the_pinned_one_and_passes_the_conformance_kit(spec, tmp_path):
    check_dataset(spec, tmp_path)  # opening it refuses other voxels than the pinned ones
    assert (tmp_path / f"{spec.name}.npy").exists()
    assert SHA256_OF_STACKS[spec.name]


def test_masks_are_empty_exactly_where_no_lesion_was_placed(stacks, masks):
    assert [bool(mask.any()) for mask in masks] == (stacks.num_lesions > 0).tolist()
    assert 0 < (stacks.num_lesions == 0).mean() < 0.5


def test_patients_have_one_to_three_volumes_all_in_one_split(stacks):
    splits_of = [set(stacks.split[stacks.patient == patient]) for patient in range(12)]
    assert all(len(splits) == 1 for splits in splits_of)
    assert set(np.bincount(stacks.patient)) == {1, 2, 3}


def test_thick_sections_are_half_as_many_and_twice_as_far_apart(stacks, masks):
    for volume, (mask, thick) in enumerate(zip(masks, stacks.thick, strict=True)):
        assert len(mask) == (DEPTH // 2 if thick else DEPTH)
        assert stacks.spacing(volume)[2] * len(mask) == DEPTH * 12.0


def test_a_lesion_is_denser_than_what_it_replaces(stacks):
    clear = replace(stacks, scenes=replace(stacks.scenes, lesions=stacks.scenes.lesions[:0]))
    added = paint_stacks(stacks).astype(int) - paint_stacks(clear).astype(int)
    assert added[mask_stacks(stacks) == 1].mean() > 250


def test_a_volume_is_read_to_the_right_the_front_and_the_head(tmp_path):
    """The first section is the highest one; its first row is the front, its first column the patient's right."""
    sections = np.arange(3 * 2 * 2).reshape(3, 2, 2)
    np.save(tmp_path / "a.npy", sections)
    volume = read_stack(tmp_path / "a.npy", np.array([3]), 0)
    assert volume.shape == (2, 2, 3)
    assert volume[1, 1, 2] == sections[0, 0, 0]
    assert volume[0, 1, 2] == sections[0, 0, 1]
    assert volume[1, 1, 0] == sections[2, 0, 0]
