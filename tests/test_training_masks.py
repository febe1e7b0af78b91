"""Training on masks: where they are stored, patches, the rounds that val selects, and prediction by tiles."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_segmentation import squares

import zoo.data.pixels
import zoo.evaluation.predict_masks
import zoo.sources.mask_targets
from zoo import SEGMENTATION, ModelSpec
from zoo.data.dataset import open_fold
from zoo.data.decoded import cache_images
from zoo.data.opening import open_dataset
from zoo.data.pixels import open_pixels
from zoo.data.splits import draw_split
from zoo.errors import DataError, UsageError
from zoo.evaluation.mask_statistics import compare_masks, compare_pixels
from zoo.evaluation.predict import predict
from zoo.evaluation.predict_masks import decide_mask
from zoo.images.placement import place_in_square
from zoo.registry.lookup import ModelChoice
from zoo.runner.grid import check_patch
from zoo.sources.opening import find_source
from zoo.specs.protocol import SEGMENT_QUICK, override, resolved_fields
from zoo.system.devices import Device
from zoo.tasks.overlaps import COUNTED, STATISTICS, statistic
from zoo.training.batches import Batches, Feed
from zoo.training.fitting import FitRequest, fit
from zoo.training.selection import BestRound

NOISE = np.random.default_rng(0)
SEEDS = {"order": 1, "augmentation": 2, "patches": 3}
PATCH = (16, 16)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


@pytest.fixture(scope="module")
def dataset(cache):
    source = open_dataset(find_source(squares(cache / "squares", side=40)), cache)
    source = replace(source, spec=replace(source.spec, symmetries=("hflip", "rot90")))
    return open_fold(source, draw_split(source, folds=1), 0, cache_images(source, 40, cache))


def pixels_of(dataset, patch=()):
    return open_pixels(dataset, (0.0,), (1.0,), "cpu", patch)


class Bright(torch.nn.Module):
    """Label bright pixels; one weight, to have something to train."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1, 1, 1, 1), 20.0))

    def forward(self, images):
        return torch.cat([torch.zeros_like(images), (images - 0.55) * self.weight], dim=1)


# --- batches ---------------------------------------------------------------------------------------------------------
def test_masks_are_stored_where_the_images_are(dataset):
    pixels = replace(pixels_of(dataset), device="meta")  # images on the host, another device for the network
    assert Batches(dataset, pixels, SEGMENT_QUICK, SEEDS).masks.device == pixels.images.device


def test_images_and_masks_are_kept_on_a_device_only_if_both_fit(dataset, monkeypatch):
    asked = []

    class Asked(Device):
        def holds(self, num_bytes):
            asked.append(num_bytes)
            return False

    monkeypatch.setattr(zoo.data.pixels, "open_device", Asked)
    assert asked == [] and pixels_of(dataset) and asked == [2 * 24 * 40 * 40]


def draw_batches(dataset, pixels, *, resident):
    protocol = replace(SEGMENT_QUICK, batch_size=4)
    optimizer = torch.optim.SGD(Bright().parameters(), lr=0.1)
    optimizer.param_groups[0]["share"] = 1.0
    feed = Feed(Batches(dataset, pixels, protocol, SEEDS), optimizer, protocol, 3)
    feed.is_resident = resident
    batches = []
    for step in range(3):
        feed.prepare(step)
        batches.append([each.clone() for each in feed.read()])
    return batches


@pytest.mark.parametrize("patch", [(), PATCH])
def test_batches_that_are_sent_are_those_of_a_device_that_holds_them(dataset, patch):
    pixels = pixels_of(dataset, patch)
    for one, other in zip(*(draw_batches(dataset, pixels, resident=each) for each in (True, False)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("patch", [(), PATCH])
def test_masks_are_cut_and_moved_with_their_images(dataset, patch):
    for images, masks in draw_batches(dataset, pixels_of(dataset, patch), resident=True):
        assert images.shape[2:] == masks.shape[1:] == (patch or (40, 40))
        assert torch.equal(images[:, 0] > 0.6, masks > 0)


# --- rounds ----------------------------------------------------------------------------------------------------------
def statistics(reference, predicted):
    return np.stack([compare_pixels(*pair, 1) for pair in zip(reference, predicted, strict=True)])


def test_a_round_that_draws_nothing_is_best_where_val_has_no_lesion():
    empty, drawn = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8)
    drawn[:, 2] = 1
    keeper = BestRound(torch.nn.Linear(1, 1), select_last=False)
    losses = [SEGMENTATION.answers.loss(statistics(empty, each), None, 1.0) for each in (drawn, empty, drawn)]
    for step, loss in enumerate(losses):
        keeper.offer(step, None, loss)
    assert losses == [1.0, 0.0, 1.0] and keeper.step == 1


def test_counts_are_those_of_the_whole_comparison():
    for _ in range(5):
        reference, predicted = (NOISE.integers(0, 3, (9, 11)).astype(np.uint8) for _ in range(2))
        whole = compare_masks(reference, predicted, 3, None, 1.0).reshape(3, -1)
        counted = compare_pixels(reference, predicted, 3).reshape(3, -1)
        known = [name in COUNTED for name in STATISTICS]
        np.testing.assert_array_equal(counted[:, known], whole[:, known])
        assert np.isnan(counted[:, np.logical_not(known)]).all()


def test_rounds_measure_only_what_selects_them(dataset):
    measured = []

    def val_score(val):
        measured.append(statistic(val.probabilities, "hd95"))
        return float(np.nanmean(statistic(val.probabilities, "dice")))

    request = FitRequest(
        spec=ModelSpec(name="bright", build=lambda _: None, channels=1),
        module=Bright(),
        dataset=dataset,
        pixels=pixels_of(dataset, PATCH),
        protocol=replace(SEGMENT_QUICK, steps=2, rounds=2, batch_size=4),
        seed=0,
        precision="fp32",
        val_score=val_score,
        notify=lambda _: None,
        counts_only=True,
    )
    assert fit(request).history[-1]["val_score"] == 1.0
    assert len(measured) == 2 and np.isnan(measured).all()


# --- prediction ------------------------------------------------------------------------------------------------------
def test_tiles_answer_as_the_whole_image_does_for_a_network_that_sees_single_pixels(dataset):
    whole, tiled = (
        predict(Bright(), dataset, pixels_of(dataset, patch), "test", precision="fp32") for patch in ((), PATCH)
    )
    np.testing.assert_array_equal(whole.probabilities, tiled.probabilities)
    assert np.nanmin(statistic(whole.probabilities, "dice")) == 1.0


def test_resizing_the_logits_may_run_out_of_memory_too(dataset, monkeypatch):
    failures = iter([True])

    def decide(logits, placement):
        if next(failures, False):
            raise torch.OutOfMemoryError
        return decide_mask(logits, placement)

    monkeypatch.setattr(zoo.evaluation.predict_masks, "decide_mask", decide)
    assert len(predict(Bright(), dataset, pixels_of(dataset), "test", precision="fp32")) == 5


def test_each_pixel_takes_the_label_of_the_largest_resized_logit():
    logits = torch.from_numpy(NOISE.normal(0, 1, (5, 6, 8))).float()
    resized = torch.nn.functional.interpolate(logits[None], (30, 40), mode="bilinear", align_corners=False)[0]
    np.testing.assert_array_equal(decide_mask(logits, place_in_square(30, 40, 8)), resized.argmax(0).numpy())


# --- opening ---------------------------------------------------------------------------------------------------------
def test_masks_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    root, reads = squares(tmp_path / "squares", count=8, patients=8), []
    read = zoo.sources.mask_targets.read_label_map
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(zoo.sources.mask_targets, "read_label_map", lambda path: reads.append(path.name) or read(path))

    def open_again():
        reads.clear()
        return open_dataset(find_source(root), tmp_path / "cache"), len(reads)

    first, num_reads = open_again()
    assert num_reads == 16  # the values of all masks, and the masks
    second, num_reads = open_again()
    assert num_reads == 0 and second.content_hash == first.content_hash
    np.testing.assert_array_equal(second.samples.targets, first.samples.targets)
    path = root / "masks" / "patient00_0_mask.png"
    path.write_bytes((root / "masks" / "patient01_1_mask.png").read_bytes())
    third, num_reads = open_again()
    assert num_reads == 2 and third.content_hash != first.content_hash


def test_masks_that_were_removed_from_the_cache_are_an_error_of_one_line(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        _ = replace(dataset, images=tmp_path / "images.npy").label_maps
    assert caught.value.code == "cache-removed" and "label_maps" in caught.value.line()


# --- planning --------------------------------------------------------------------------------------------------------
def test_a_patch_is_part_of_a_run_only_if_it_is_set():
    assert "patch" not in resolved_fields(SEGMENT_QUICK)
    assert resolved_fields(override(SEGMENT_QUICK, {"patch": "128,96"}))["patch"] == (128, 96)


def test_one_length_stands_for_all_axes():
    assert override(SEGMENT_QUICK, {"patch": "64"}).patch_shape(3) == (64, 64, 64)
    with pytest.raises(UsageError, match="2 axes; the images have 3"):
        override(SEGMENT_QUICK, {"patch": "64,32"}).patch_shape(3)


def test_patches_that_are_no_squares_are_refused_where_images_are_rotated(tmp_path):
    source = open_dataset(find_source(squares(tmp_path / "squares", side=40)), tmp_path)
    choice = ModelChoice(name="p:net", spec=ModelSpec(name="net", build=Bright), weights=None, shown="net")
    oblong = override(SEGMENT_QUICK, {"patch": "32,16"})
    turned = replace(source, spec=replace(source.spec, symmetries=("hflip", "rot90")))
    check_patch(oblong, choice, source)
    check_patch(override(oblong, {"symmetries": "false"}), choice, turned)
    check_patch(override(SEGMENT_QUICK, {"patch": "16,16"}), choice, turned)
    with pytest.raises(UsageError, match="rot90"):
        check_patch(oblong, choice, turned)


def test_patches_get_a_board_at_the_resolution_of_the_images(zoo, output_of, tmp_path):
    data, results = squares(tmp_path / "squares", count=40, patients=20), tmp_path / "results"
    bench = ["--datasets", data, "--models", "unet2d", "--weights", "none", "--folds", "1", "--seeds", "1"]
    recipe = ["--protocol", "segment-patches", "--set", "patch=32", "--set", "steps=30", "--set", "rounds=1"]
    output_of("bench", *bench, *recipe, "--results", results)
    document = json.loads(output_of("report", "--results", results, "--format", "json"))
    rows = {row["model"]: row for row in document["leaderboard"]}
    assert rows["unet2d"]["value"] > rows["atlas"]["value"]
    runs = [json.loads(path.read_text()) for path in results.rglob("result.json")]
    assert {each["run"]["image_size"] for each in runs} == {48}
    refused = zoo("bench", *bench, *recipe, "--set", "patch=30")
    assert refused.returncode == 2 and "does not accept patches of 30 pixels" in refused.stderr
