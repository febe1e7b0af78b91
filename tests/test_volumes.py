"""Volumes as volumes: reading, the cache, patches, windows, the native grid, and a board of `unet3d`."""

import json
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import nibabel
import numpy as np
import pytest
import torch
from factories import make_dataset_spec, make_samples
from folders import open_source, refusal
from torch.nn import functional

from zoo import SEGMENTATION
from zoo.data.dataset import Resolution, cache_decoded, open_fold
from zoo.data.datasheet import label_text
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.data.volumes import Sides, check_resampled_size, check_values, map_ahead, open_volumes, standardize
from zoo.errors import DataError
from zoo.evaluation.predict_volumes import decide_planes, decide_volume, predict_planes
from zoo.models.baselines import build_atlas
from zoo.models.weights import InitialWeights
from zoo.registry.lookup import ModelChoice
from zoo.registry.opening import open_registry
from zoo.runner.grid import Machine, PlannedModel, plan_run
from zoo.runner.weight_checks import list_trials
from zoo.sources.opening import write_card
from zoo.specs.choice import Choice
from zoo.specs.model import BuildRequest
from zoo.specs.protocol import PROTOCOLS, SEGMENT3D_QUICK, override, resolved_fields
from zoo.specs.transform import TransformSpec
from zoo.system.devices import open_device
from zoo.system.machine import num_cores
from zoo.training.atlas import label_shares
from zoo.training.volume_augmentation import NUM_PARAMETERS, augment_volumes, draw_parameters, turn_volumes
from zoo.training.volume_batches import VolumeBatches
from zoo_segmentation import plain_unet_3d

LABELS = {"0": "background", "1": "front", "2": "back"}
SPACING = (1.0, 1.5, 2.0)


def ball(random, shape):
    """A volume of noise with a bright ball, whose two halves are labels."""
    values = random.normal(100, 10, shape).astype(np.float32)
    center = random.uniform(0.4, 0.6, 3) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(grid - center, axis=-1) < min(shape) / 3
    mask = np.where(inside, np.where(grid[..., 1] < center[1], 1, 2), 0).astype(np.uint8)
    return values + 40 * inside, mask


def save(path, array, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def msd(root, count=35, spacing=SPACING):
    """A set as the Medical Segmentation Decathlon publishes them: ragged volumes, and a test folder without masks."""
    random = np.random.default_rng(0)
    for number in range(count):
        values, mask = ball(random, random.integers(14, 22, 3))
        save(root / "imagesTr" / f"ball_{number:03}.nii.gz", values, spacing)
        save(root / "labelsTr" / f"ball_{number:03}.nii.gz", mask, spacing)
    save(root / "imagesTs" / "ball_900.nii.gz", values, spacing)
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS, "modality": {"0": "MRI"}, "licence": "CC BY 4.0"}))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return msd(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def source(folder, tmp_path_factory):
    spec, _ = open_source(folder)
    return open_dataset(spec, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def fold(source, tmp_path_factory):
    images = cache_decoded(source, Resolution(16, None), tmp_path_factory.mktemp("decoded"))
    return open_fold(source, draw_split(source), 0, images, patch=16)


def open_patches(fold, **options):
    return open_volumes(fold.decoded, fold.volumes, "cpu", **{"sides": Sides(8, 8), **options})


# --- reading ---------------------------------------------------------------------------------------------------------
def test_volumes_with_masks_are_a_set_of_volumes(folder):
    spec, samples = open_source(folder)
    assert (spec.task, spec.dims, spec.labels, spec.channels) == (SEGMENTATION, 3, ("front", "back"), 1)
    assert (len(samples.table), spec.modality) == (35, "MRI")
    assert "1 volumes in imagesTs are left out: none has a mask" in samples.notes
    image = samples.table["image"][3]
    assert samples.volumes(image).shape == samples.masks(image).shape
    assert samples.spacing(image) == SPACING


def test_the_written_card_of_volumes_reads_the_same(folder, tmp_path):
    path = write_card(folder, tmp_path / "balls.toml")
    spec, samples = open_source(path)
    assert "dims = 3" in path.read_text() and spec.labels == ("front", "back")
    assert samples.table.equals(open_source(folder)[1].table)


def test_volumes_are_read_in_one_orientation(tmp_path):
    values, mask = ball(np.random.default_rng(1), np.array([12, 14, 16]))
    save(tmp_path / "imagesTr" / "a.nii.gz", values)
    save(tmp_path / "labelsTr" / "a.nii.gz", mask)
    flipped = np.diag([-1.0, 1.5, 2.0, 1.0])
    for folder, array in (("imagesTr", values), ("labelsTr", mask)):
        turned = nibabel.Nifti1Image(array[::-1], flipped @ np.diag([1, 1, 1, 1.0]))
        nibabel.save(turned, tmp_path / folder / "b.nii.gz")
    samples = open_source(tmp_path)[1]
    for read in (samples.volumes, samples.masks):
        np.testing.assert_array_equal(read("imagesTr/a.nii.gz"), read("imagesTr/b.nii.gz"))


@pytest.mark.parametrize(
    ("shape", "spacing", "fact"), [((14, 14, 15), SPACING, "shape"), ((14, 14, 14), (1.0, 1.5, 2.5), "spacing")]
)
def test_a_mask_on_another_grid_is_refused_with_both_values(tmp_path, shape, spacing, fact):
    msd(tmp_path, count=3)
    save(tmp_path / "imagesTr" / "odd.nii.gz", np.ones((14, 14, 14), np.float32))
    save(tmp_path / "labelsTr" / "odd.nii.gz", np.ones(shape, np.uint8), spacing)
    spec, _ = open_source(tmp_path)
    with pytest.raises(DataError, match=f"labelsTr/odd.nii.gz: its {fact} is .*imagesTr/odd.nii.gz is") as caught:
        open_dataset(spec, tmp_path / "cache")
    assert caught.value.code == "geometry"


def test_a_volume_of_one_slice_has_a_mask_of_three_axes(tmp_path):
    msd(tmp_path, count=2)
    save(tmp_path / "imagesTr" / "flat.nii.gz", np.ones((14, 12, 1), np.float32))
    save(tmp_path / "labelsTr" / "flat.nii.gz", np.ones((14, 12, 1), np.uint8))
    samples = open_source(tmp_path)[1]
    assert samples.volumes("imagesTr/flat.nii.gz").shape == samples.masks("imagesTr/flat.nii.gz").shape == (14, 12, 1)


def test_volumes_above_the_folder_of_the_images_are_left_out_alone(tmp_path):
    msd(tmp_path, count=2)
    for name in ("template.nii.gz", "imagesTr/more/extra.nii.gz"):
        save(tmp_path / name, np.ones((14, 14, 14), np.float32))
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).rename(tmp_path / "imagesTs" / folder)
    samples = open_source(tmp_path)[1]
    assert samples.table["image"].tolist() == [f"imagesTs/imagesTr/ball_00{number}.nii.gz" for number in (0, 1)]
    assert "1 volumes in the folder itself are left out: none has a mask" in samples.notes


def test_masks_with_other_names_than_the_volumes_are_an_error_of_one_line(tmp_path):
    msd(tmp_path, count=2)
    for path in (tmp_path / "imagesTr").iterdir():  # as nnU-Net names the first channel
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    assert "masks" in refusal(tmp_path)


def test_a_volume_with_nan_is_refused_by_name(tmp_path):
    msd(tmp_path, count=3)
    save(tmp_path / "imagesTr" / "ball_001.nii.gz", np.full((14, 14, 14), np.nan, np.float32))
    samples = open_source(tmp_path)[1]
    with pytest.raises(DataError, match=r"ball_001.nii.gz: NaN"):
        samples.volumes("imagesTr/ball_001.nii.gz")


def test_a_volume_beyond_float32_is_refused_by_name():
    """As float32 it is infinite, and NaN when it is standardized."""
    with pytest.raises(DataError, match=r"a.nii.gz has values that are NaN, infinite or beyond 3.4e\+38"):
        check_values(np.full((2, 2, 2), -1e39), "a.nii.gz")


def test_a_volume_that_resampling_would_enlarge_beyond_memory_is_refused_by_name():
    """The voxels of a header in meters that means millimeters are 1,000 times too large."""
    with pytest.raises(DataError, match=r"a.nii.gz: .* 4800 x 5400 x 3600 voxels of 1 x 1 x 1 mm") as caught:
        check_resampled_size("a.nii.gz", (16, 18, 12), (300.0,) * 3, (1.0,) * 3)
    assert caught.value.code == "geometry"
    check_resampled_size("a.nii.gz", (512, 512, 400), (0.7, 0.7, 5.0), (0.7, 0.7, 1.0))


def test_a_fourth_axis_is_that_of_channels(tmp_path):
    random = np.random.default_rng(0)
    for number in range(35):
        values, mask = ball(random, np.array([12, 14, 13]))
        save(tmp_path / "imagesTr" / f"{number}.nii.gz", np.stack([values, 3 * values + 7], axis=-1))
        save(tmp_path / "labelsTr" / f"{number}.nii.gz", mask)
    source = open_dataset(open_source(tmp_path)[0], tmp_path / "cache")
    images = cache_decoded(source, Resolution(16, None), tmp_path / "cache")
    fold = open_fold(source, draw_split(source), 0, images, patch=16)
    assert source.spec.channels == fold.channels == 2 and source.samples.read("imagesTr/3.nii.gz").shape == (14, 12)
    drawn = batches(fold, augmentation="none")
    part = {name: tensor[0] for name, tensor in drawn.plan(1).tensors().items()}
    volumes, _ = drawn.compute(drawn.unpack(part))
    assert volumes.shape == (4, 2, *drawn.pixels.patch)
    torch.testing.assert_close(volumes[:, 0], volumes[:, 1], atol=0.02, rtol=0)


def test_a_slice_stands_for_a_volume_where_it_is_shown(source):
    shown = source.samples.read(source.samples.table["image"][0])
    volume = source.samples.volumes(source.samples.table["image"][0])
    assert shown.dtype == np.uint8 and shown.shape == volume.shape[1::-1]


def test_the_sizes_of_labels_of_a_volume_are_in_voxels(source):
    assert re.fullmatch(r"front [\d,]+ voxels, back [\d,]+ voxels", label_text(source, 0))
    image = replace(source, spec=replace(source.spec, dims=2))
    assert label_text(image, 0) == label_text(source, 0).replace("voxels", "px")


def test_volumes_of_a_plugin_are_hashed_whole(tmp_path):
    arrays = [ball(np.random.default_rng(row), np.array([8, 8, 8])) for row in range(6)]
    samples = replace(
        make_samples(6, np.empty(0)), read=None, volumes=lambda row: arrays[row][0], masks=lambda row: arrays[row][1]
    )
    spec = make_dataset_spec(samples, SEGMENTATION, labels=("front", "back"), dims=3)
    before = open_dataset(spec, tmp_path).content_hash
    arrays[2][0][0, 0, 0] += 1  # not in the slice that is shown
    assert open_dataset(spec, tmp_path).content_hash != before


def test_a_set_of_masks_without_images_is_refused(tmp_path):
    samples = replace(make_samples(0, np.empty(0)), masks=lambda row: None)
    spec = make_dataset_spec(samples, SEGMENTATION, labels=("front",))
    with pytest.raises(DataError, match="it has no images"):
        open_dataset(spec, tmp_path)


# --- the cache -------------------------------------------------------------------------------------------------------
def test_decoded_volumes_are_standardized_and_keep_their_native_masks(source, fold):
    for row in (0, 7):
        image = source.samples.table["image"][row]
        start, shape = fold.decoded.starts[row], fold.decoded.shapes[row]
        own = fold.decoded.voxels[start : start + shape.prod(), 0].reshape(shape).astype(np.float64)
        values = source.samples.volumes(image)
        np.testing.assert_allclose(own, (values - values.mean()) / values.std(), atol=2e-3)
        np.testing.assert_array_equal(fold.label_maps[row], source.samples.masks(image))
    assert fold.boundary_rule[:2] == (1.5, "mm")


def test_volumes_are_resampled_to_the_spacing_of_the_protocol(source, tmp_path):
    images = cache_decoded(source, Resolution(16, 2.0), tmp_path)
    fold = open_fold(source, draw_split(source), 0, images, patch=16)
    native = fold.label_maps.shapes
    np.testing.assert_array_equal(fold.decoded.shapes, np.rint(native * np.array(SPACING) / 2))
    share = [(fold.decoded.mask(row) == 1).mean() / (fold.label_maps[row] == 1).mean() for row in range(35)]
    assert np.mean(share) == pytest.approx(1, abs=0.1)


def test_the_window_of_ct_comes_from_the_labeled_voxels_of_train(source, tmp_path):
    ct = replace(source, spec=replace(source.spec, modality="CT of the chest"))
    images = cache_decoded(ct, Resolution(16, None), tmp_path)
    fold = open_fold(ct, draw_split(ct), 0, images, patch=16)
    inside = [
        source.samples.volumes(image)[source.samples.masks(image) > 0]
        for image in source.samples.table["image"][fold.index("train")]
    ]
    np.testing.assert_allclose(fold.intensity, np.percentile(np.concatenate(inside), [0.5, 99.5]), atol=0.5)
    pixels, row = open_patches(fold), int(fold.index("test")[0])
    values = pixels.to_input(pixels.stored(row), row)
    assert values.min() == -2 and values.max() == 2


def test_a_window_without_a_labeled_voxel_of_train_is_an_error_with_its_fix(source, fold):
    empty = replace(fold.decoded)
    empty.__dict__["columns"] = {
        **fold.decoded.columns,
        "counts": np.zeros((35, 2), int),
        "places": np.empty((0, 3), int),
    }
    with pytest.raises(DataError) as caught:
        empty.measure_window(fold.split_of == "train")
    assert caught.value.code == "mask" and "intensity" in caught.value.fix


@pytest.mark.parametrize("shape", [(70, 9, 8), (35, 9, 8), (41, 12, 5), (100, 3, 20)])
def test_slabs_of_a_volume_are_standardized_and_resampled_as_a_whole_one(shape):
    values = np.random.default_rng(0).integers(-1000, 2000, (70, 9, 8), dtype=np.int16)
    done = standardize(np.asfortranarray(values), shape)
    assert (done.mean[0], done.std[0]) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    whole = torch.from_numpy((values - values.mean()) / values.std())[None, None].float()
    expected = functional.interpolate(whole, shape, mode="trilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(done.voxels[..., 0], expected, atol=2e-3)


def test_a_volume_is_standardized_without_a_copy_of_it_in_64_bits():
    values = np.zeros((512, 64, 64), np.int16)
    values[::2] = 1
    tracemalloc.start()
    standardize(values, values.shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.75 * 8 * values.size


def test_a_narrow_window_of_ct_is_not_widened(source, tmp_path):
    def thousandth(image):
        return source.samples.volumes(image) / 1000

    ct = replace(source, spec=replace(source.spec, modality="CT"), samples=replace(source.samples, volumes=thousandth))
    fold = open_fold(ct, draw_split(ct), 0, cache_decoded(ct, Resolution(16, None), tmp_path), patch=16)
    low, high = fold.intensity
    assert 0.1 < low < high < 0.2


def test_channels_of_different_units_have_no_common_window(source, tmp_path):
    def with_pet(image):
        ct = source.samples.volumes(image)
        return np.stack([ct, ct / 1000], axis=-1)

    both = replace(
        source, spec=replace(source.spec, modality="CT, PET"), samples=replace(source.samples, volumes=with_pet)
    )
    fold = open_fold(both, draw_split(both), 0, cache_decoded(both, Resolution(16, None), tmp_path), patch=16)
    pixels = open_patches(fold)
    values = pixels.to_input(pixels.stored(0), 0)
    assert not pixels.clipped and values[:, 1].std() == pytest.approx(1, abs=0.01)


def test_only_some_volumes_are_decoded_ahead_of_those_written():
    started = []
    with ThreadPoolExecutor(4) as pool:
        volumes = map_ahead(pool, lambda row: started.append(row) or row, range(100))
        assert next(volumes) == 0
        assert max(started) <= num_cores()
        assert list(volumes) == list(range(1, 100))


# --- patches ---------------------------------------------------------------------------------------------------------
def batches(fold, choices=MappingProxyType({}), **changes):
    protocol = replace(SEGMENT3D_QUICK, batch_size=4, **changes)
    seeds = {"order": 1, "augmentation": 2, "patches": 3, "transforms": 4}
    return VolumeBatches(fold, open_patches(fold), protocol, seeds, choices)


def test_a_patch_is_cut_from_its_volume_with_its_mask(fold):
    drawn = batches(fold, augmentation="none")
    planned = drawn.plan(2).tensors()
    part = {name: tensor[1] for name, tensor in planned.items()}
    volumes, masks = drawn.compute(drawn.unpack(part))
    assert volumes.shape == (4, 1, *drawn.pixels.patch) and masks.shape == (4, *drawn.pixels.patch)
    for number, (row, corner) in enumerate(zip(part["rows"].tolist(), part["corners"].tolist(), strict=True)):
        whole = drawn.pixels.to_input(drawn.pixels.stored(row), row)[0, 0].numpy()
        padded, mask = np.pad(whole, 16), np.pad(fold.decoded.mask(row), 16)
        place = tuple(slice(16 + at, 16 + at + side) for at, side in zip(corner, drawn.pixels.patch, strict=True))
        np.testing.assert_array_equal(volumes[number, 0], padded[place])
        np.testing.assert_array_equal(masks[number], mask[place])


def computed(drawn, count=2):
    """The first of some planned batches, after their tensors were stored and unpacked."""
    return drawn.compute(drawn.unpack({name: tensor[0] for name, tensor in drawn.plan(count).tensors().items()}))


def invert(images, draws):
    """Invert the images whose draw is below a half."""
    return torch.where(draws[:, 0].reshape(-1, 1, 1, 1, 1) < 0.5, 1 - images, images)


def test_a_transform_changes_patches_within_their_range_and_no_masks(fold):
    invert_some = Choice(spec=TransformSpec(name="invert", augment=invert, dims=(3,)), plugin="odd")
    (plain, masks), (inverted, same) = (
        computed(batches(fold, choices)) for choices in ({}, {"transforms": (invert_some,)})
    )
    assert torch.equal(masks, same)
    ends = plain.amin(dim=(1, 2, 3, 4), keepdim=True) + plain.amax(dim=(1, 2, 3, 4), keepdim=True)
    kept, changed = (torch.isclose(inverted, each, atol=1e-5).flatten(1).all(1) for each in (plain, ends - plain))
    assert kept.any() and changed.any() and (kept | changed).all()


def test_the_mask_is_moved_with_its_volume():
    mask = torch.zeros(2, 1, 20, 20, 20)
    mask[:, :, 6:13, 5:11, 8:15] = 1
    identity = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1])
    same, _ = augment_volumes(mask.clone(), mask, identity.repeat(2, 1))
    torch.testing.assert_close(same, mask, atol=1e-5, rtol=0)
    drawn = torch.stack([draw_parameters(2, (20, 20, 20), torch.Generator().manual_seed(seed)) for seed in range(9)])
    drawn = drawn.flatten(0, 1)
    assert drawn.shape == (18, NUM_PARAMETERS)
    drawn[:, 12:] = torch.tensor([1.0, 0.0, 1.0])
    volumes, masks = augment_volumes(mask[:1].repeat(18, 1, 1, 1, 1), mask[:1].repeat(18, 1, 1, 1, 1), drawn)
    assert ((volumes > 0.5).float() - masks).abs().mean() < 0.01
    assert (masks != mask[:1]).float().mean() > 0.005  # some are moved


def test_declared_symmetries_turn_volumes_with_their_masks(fold):
    both = batches(replace(fold, symmetries=("hflip", "vflip")), augmentation="none")
    planned = both.plan(6)
    assert planned.turns.shape == (6, 4, 2) and 0 < (planned.turns % 2).float().mean() < 1
    part = {name: tensor[0] for name, tensor in planned.tensors().items()}
    turned, own = both.compute(both.unpack(part)), both.compute(both.unpack({**part, "turns": 0 * part["turns"]}))
    for row, (left, front) in enumerate((part["turns"] % 2).tolist()):
        axes = [axis for axis, flips in enumerate((left, front)) if flips]
        torch.testing.assert_close(turned[1][row], own[1][row].flip(axes))
        torch.testing.assert_close(turned[0][row], own[0][row].flip([axis + 1 for axis in axes]))


@pytest.mark.parametrize(("turn", "quarters"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_quarter_turns_are_in_the_axial_plane_and_half_turns_if_its_sides_differ(turn, quarters):
    square, oblong = torch.randn(1, 1, 4, 4, 3), torch.randn(1, 1, 4, 6, 3)
    turns = torch.tensor([[turn]], dtype=torch.uint8)
    torch.testing.assert_close(turn_volumes(square, ["rot90"], turns), square.rot90(quarters, (2, 3)))
    torch.testing.assert_close(turn_volumes(oblong, ["rot90"], turns), oblong.rot90(quarters // 2 * 2, (2, 3)))


def test_a_baseline_answers_a_volume_without_its_logits_at_the_size_of_the_volume(fold):
    atlas = build_atlas(BuildRequest(num_outputs=3, channels=1, image_size=16, dims=3))
    atlas.logits = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(atlas.logits[None], (11, 9, 15), mode="trilinear", align_corners=False)[0].argmax(
        0
    )
    atlas.forward = None  # is not called
    np.testing.assert_array_equal(decide_volume(atlas, open_patches(fold), 0, (11, 9, 15), "fp32"), expected)


def test_the_shares_of_an_atlas_are_counted_mask_by_mask(fold):
    masks = fold.decoded.common_masks(fold.index("train"))
    expected = [(masks == number).mean(axis=0) for number in (1, 2)]
    shares = label_shares(fold)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_a_patch_that_is_no_cube_is_rotated_without_shear():
    lengths = (40.0, 20.0, 10.0)
    (drawn,) = [draw_parameters(64, lengths, torch.Generator().manual_seed(0))[:, :12].reshape(64, 3, 4)]
    sides = torch.tensor(lengths[::-1])
    maps = drawn[:, :, :3] * sides[:, None] / sides  # of mm
    moved = (maps - torch.eye(3)).abs().amax(dim=(1, 2)) > 0
    squares = maps.transpose(1, 2) @ maps
    torch.testing.assert_close(squares, torch.diag_embed(squares.diagonal(dim1=1, dim2=2)), atol=1e-5, rtol=0)
    assert 10 < moved.sum() < 54


def test_an_interrupted_training_draws_the_same_patches(fold):
    whole, resumed = batches(fold), batches(fold)
    whole.plan(3)
    resumed.restore(whole.state())
    expected, found = whole.plan(2).tensors(), resumed.plan(2).tensors()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_a_patch_has_the_sides_that_the_network_accepts(fold):
    median = np.median(fold.decoded.shapes, axis=0)
    assert max(median) <= 24
    assert fold.decoded.patch_shape(128, Sides(8, 8)) == tuple(8 * np.ceil(median / 8).astype(int))
    assert fold.decoded.patch_shape(128, Sides(16, 40)) == (48, 48, 48)


# --- prediction ------------------------------------------------------------------------------------------------------
class Pointwise(torch.nn.Module):
    """Logits that depend on the voxel alone."""

    def forward(self, volumes):
        return torch.cat([volumes, -volumes, volumes.square() - 1], dim=1)


def test_windows_and_one_pass_agree_where_a_voxel_answers_alone(fold):
    row = 4
    once = torch.stack(list(predict_planes(Pointwise(), replace(open_patches(fold), patch=(24, 24, 24)), row)))
    pixels = replace(open_patches(fold), patch=(8, 8, 8))
    parts = torch.stack(list(predict_planes(Pointwise(), pixels, row)))
    assert once.shape == (fold.decoded.shapes[row][0], 3, *fold.decoded.shapes[row][1:])
    torch.testing.assert_close(parts, once, atol=1e-4, rtol=1e-4)


def test_a_volume_is_padded_to_the_shortest_side_of_the_network(fold):
    shapes = []

    class Shape(Pointwise):
        def forward(self, volumes):
            shapes.append(tuple(volumes.shape[2:]))
            return super().forward(volumes)

    pixels = open_volumes(fold.decoded, fold.volumes._replace(patch=48), "cpu", sides=Sides(16, 40))
    planes = list(predict_planes(Shape(), pixels, row=4))
    assert shapes == [(48, 48, 48)]
    assert (len(planes), *planes[0].shape[1:]) == tuple(fold.decoded.shapes[4])


def test_a_volume_is_padded_with_its_mean_in_training_and_in_prediction(fold):
    seen = []

    def answer(volumes):
        seen.append(volumes)
        return volumes

    pixels = replace(open_patches(fold, sides=Sides(32, 32)), patch=(32, 32, 32), offsets=torch.full((35, 1), 1.5))
    list(predict_planes(answer, pixels, 4))
    assert seen[0].shape[2:] == (32, 32, 32) and seen[0][0, 0, -1, -1, -1] == 1.5


@pytest.mark.parametrize("new", [(5, 6, 7), (11, 9, 15), (5, 12, 3), (1, 1, 1)])
def test_logits_are_interpolated_trilinearly_on_the_native_grid(new):
    logits = torch.randn(1, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(logits, new, mode="trilinear", align_corners=False)[0].argmax(0)
    np.testing.assert_array_equal(decide_planes(logits[0].unbind(1), (5, 6, 7), new), expected)


def test_a_volume_that_does_not_fit_beside_other_runs_is_predicted_when_they_end(fold, monkeypatch):
    failures, device = iter([True]), type(open_device("cpu"))

    class Large(Pointwise):
        def forward(self, volumes):
            if next(failures, False):
                raise torch.OutOfMemoryError
            return super().forward(volumes)

    monkeypatch.setattr(device, "can_wait", True)
    monkeypatch.setattr(device, "wait_alone", lambda _: True)
    shape = tuple(fold.label_maps.shapes[4])
    assert decide_volume(Large(), open_patches(fold), 4, shape, "fp32").shape == shape


def test_logits_that_are_not_finite_are_noticed():
    logits = torch.zeros(2, 4, 4, 4)
    logits[1, 2, 0, 0] = float("nan")
    assert decide_planes(logits.unbind(1), (4, 4, 4), (4, 4, 4)) is None


# --- the identity of runs --------------------------------------------------------------------------------------------
def test_protocols_of_images_have_the_identity_they_had_before_volumes():
    for protocol in PROTOCOLS:
        assert ({"dims", "spacing"} & resolved_fields(protocol).keys() != set()) == (protocol.dims == 3)
    assert resolved_fields(override(SEGMENT3D_QUICK, {"spacing": "1.5"}))["spacing"] == 1.5


def test_weights_of_a_model_of_volumes_are_tried_on_volumes(source, tmp_path):
    weights = InitialWeights(init="pretrained", digest="e" * 64, tag="t", path=tmp_path / "w.pth")
    spec = plain_unet_3d()
    planned = PlannedModel(
        choice=ModelChoice(name="zoo-segmentation:unet3d", spec=spec, weights=None, shown="unet3d"),
        weights=weights,
        protocol=SEGMENT3D_QUICK,
        seeds=(0,),
        machine=Machine(device_kind="cpu", threads=1, precision="fp32"),
    )
    split = draw_split(source)
    run = plan_run(planned, source, split, 0, 0, "dice")
    sources = {run.dataset: (source, split)}
    (trial,) = list_trials([run], {(weights.digest, "t"): weights}, sources, open_registry(), tmp_path)
    assert trial.request.dims == 3 and trial.key != replace(trial, request=replace(trial.request, dims=2)).key


# --- a board ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_volumes_get_a_board_a_page_and_a_bundle(zoo, folder, tmp_path):
    bench = ("bench", "--datasets", folder, "--models", "unet3d", "--protocol", "quick", "--weights", "none")
    bench += ("--set", "steps=4", "--set", "image_size=16", "--seeds", "1", "--folds", "1", "--results", "r")
    done = zoo(*bench, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 runs" in done.stderr and "atlas" in done.stdout and "unet3d" in done.stdout
    again = zoo(*bench, cwd=tmp_path)
    assert "[1 of" not in again.stderr and again.stdout == done.stdout
    page = zoo("report", "--results", "r", "--format", "html", "--data", folder, "--output", "b.html", cwd=tmp_path)
    assert page.returncode == 0 and "data:image" in (tmp_path / "b.html").read_text(), page.stderr
    shared = zoo("bundle", "b.zip", "--results", "r", cwd=tmp_path)
    assert shared.returncode == 0, shared.stderr
    checked = zoo("verify", "b.zip", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_models_of_images_are_refused_for_volumes(zoo, folder, tmp_path):
    done = zoo(
        "bench", "--datasets", folder, "--models", "unet2d", "--protocol", "quick", "--results", "r", cwd=tmp_path
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "error[wrong-dims]" in last and "'unet2d'" in last and "fix:" in last
