"""Segmentation: masks as targets, predicted masks at the size of their images, their statistics, and a board."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import card, open_source
from PIL import Image
from torch.nn import functional

from zoo import SEGMENTATION
from zoo.data.dataset import find_boundary_rule
from zoo.data.masks import LabelMaps, join_maps, pack_map
from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.evaluation.mask_statistics import compare_masks
from zoo.evaluation.metrics.masks import OVERLAPS
from zoo.evaluation.predict_masks import decide_mask, without_padding
from zoo.evaluation.predictions import Predictions, load_predictions, save_predictions
from zoo.images.placement import place_in_square
from zoo.results.soundness import find_fault_of_masks
from zoo.sources.opening import find_source
from zoo.specs.metric import MetricRequest
from zoo.tasks.overlaps import STATISTICS, statistic
from zoo.training.atlas import draw_atlas

NOISE = np.random.default_rng(0)


def pack_maps(maps):
    return join_maps([pack_map(each) for each in maps])


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def squares(root, count=24, side=48, patients=12):
    """Bright squares on noise, with their masks of 0 and 255; the last quarter has none."""
    for number in range(count):
        pixels, mask = NOISE.integers(40, 90, (side, side - 8)).astype(np.uint8), np.zeros((side, side - 8), np.uint8)
        if number < count * 3 // 4:
            top, left = NOISE.integers(4, 20, 2)
            pixels[top : top + 14, left : left + 14] += 120
            mask[top : top + 14, left : left + 14] = 255
        write(root / "images" / f"patient{number % patients:02}_{number}.png", pixels)
        write(root / "masks" / f"patient{number % patients:02}_{number}_mask.png", mask)
    return root


# --- the task --------------------------------------------------------------------------------------------------------
def test_the_loss_is_cross_entropy_plus_one_minus_the_dice_of_the_batch():
    logits = torch.from_numpy(NOISE.normal(0, 2, (3, 3, 5, 4))).float()
    targets = torch.from_numpy(NOISE.integers(0, 3, (3, 5, 4)).astype(np.uint8))
    shares, dices = logits.softmax(1), []
    for label in (1, 2):
        drawn = (targets == label).float()
        shared, both = (shares[:, label] * drawn).sum(), shares[:, label].sum() + drawn.sum()
        dices.append((2 * shared + 1) / (both + 1))
    expected = functional.cross_entropy(logits, targets.long()) + 1 - sum(dices) / 2
    torch.testing.assert_close(SEGMENTATION.head.loss(logits, targets), expected)


def test_a_perfect_mask_has_the_lowest_loss():
    targets = torch.from_numpy(NOISE.integers(0, 2, (2, 8, 8)).astype(np.uint8))
    right = functional.one_hot(targets.long(), 2).movedim(-1, 1).float() * 40
    assert SEGMENTATION.head.loss(right, targets) < 0.01 < SEGMENTATION.head.loss(-right, targets)


# --- label maps ------------------------------------------------------------------------------------------------------
def test_label_maps_of_any_sizes_are_stored_and_selected(tmp_path):
    maps = [NOISE.integers(0, 3, shape).astype(np.uint8) for shape in ((4, 9), (1, 1), (30, 2))]
    packed = pack_maps(maps)
    for row, each in enumerate(maps):
        np.testing.assert_array_equal(packed[row], each)
    np.testing.assert_array_equal(packed.take(np.array([2, 0]))[1], maps[0])
    assert packed.find_fault(3) == "" and packed.find_fault(2) != ""
    part = predictions(maps)
    save_predictions(tmp_path / "p.npz", {"test": part})
    np.testing.assert_array_equal(load_predictions(tmp_path / "p.npz")["test"].label_maps[2], maps[2])


def test_a_short_stream_cannot_expand_to_more_than_its_mask():
    maps = pack_maps([np.zeros((1000, 1000), np.uint8)])
    small = LabelMaps(maps.streams, maps.ends, np.array([[2, 3]]))
    assert small[0].shape == (2, 3)


def predictions(maps, shift=0.0):
    counts = np.stack([np.bincount(each.ravel(), minlength=3)[1:] for each in maps]).astype(float)
    rows = np.zeros((len(maps), 2, len(STATISTICS)))
    rows[:, :, STATISTICS.index("true_positive")] = counts + shift
    names = np.array([f"s{number}" for number in range(len(maps))])
    return Predictions(
        sample_ids=names,
        patients=names,
        targets=counts,
        probabilities=rows.reshape(len(maps), -1),
        label_maps=pack_maps(maps),
    )


def test_statistics_that_do_not_count_the_pixels_of_their_masks_are_noticed():
    maps = [NOISE.integers(0, 3, (6, 6)).astype(np.uint8) for _ in range(3)]
    assert find_fault_of_masks(predictions(maps), 2) == ""
    assert "s0" in find_fault_of_masks(predictions(maps, shift=1.0), 2)


def test_masks_beside_the_answers_of_another_task_are_noticed():
    part = replace(predictions([np.zeros((6, 6), np.uint8)]), probabilities=np.array([[0.2, 0.8]]))
    assert "no masks" in find_fault_of_masks(part, 2, has_masks=False)


# --- predicted masks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50), (90, 31), (7, 7)])
def test_a_mask_comes_back_at_the_size_of_its_image(height, width):
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    placement = place_in_square(height, width, 32)
    placed = placement.mask_to_input(mask, 32)
    logits = functional.one_hot(torch.from_numpy(placed).long(), 2).movedim(-1, 0).float()
    decided = decide_mask(without_padding(logits, placement), placement)
    assert decided.shape == mask.shape and decided.dtype == np.uint8
    assert (decided != mask).mean() < 0.1


def test_the_padding_never_answers_for_the_image():
    placement = place_in_square(10, 40, 40)
    logits = torch.zeros(2, 40, 40)
    logits[1] = 1.0  # a label everywhere but inside the image
    logits[0, 15:25] = 2.0
    assert decide_mask(without_padding(logits, placement), placement).max() == 0


def test_images_of_a_patient_are_averaged_where_they_are_defined():
    dice = np.array([[0.5], [np.nan], [1.0], [np.nan]])
    rows = np.full((4, 1, len(STATISTICS)), np.nan)
    rows[:, :, STATISTICS.index("dice")] = dice
    part = Predictions(
        sample_ids=np.array(list("abcd")),
        patients=np.array(["p", "p", "p", "q"]),
        targets=np.array([[4.0], [0.0], [2.0], [0.0]]),
        probabilities=rows.reshape(4, -1),
        label_maps=pack_maps([np.zeros((2, 2), np.uint8)] * 4),
    ).by_unit("patient")
    np.testing.assert_array_equal(statistic(part.probabilities, "dice"), [[0.75], [np.nan]])
    np.testing.assert_array_equal(part.targets, [[2.0], [0.0]])


@pytest.mark.parametrize("false_pixels", [0, 4])
def test_a_label_that_no_reference_has_is_not_averaged(false_pixels):
    references, predicted = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8)
    references[:, 2:4], predicted[:, 2:4] = 1, 1
    predicted[0, 7, :false_pixels] = 2
    rows = [compare_masks(*pair, 2, None, tolerance=1.0) for pair in zip(references, predicted, strict=True)]
    request = MetricRequest(
        task=SEGMENTATION,
        labels=("a", "b"),
        targets=np.array([[16.0, 0.0]] * 2),
        probabilities=np.stack(rows),
        decisions=None,
    )
    dice = next(metric for metric in OVERLAPS if metric.name == "dice")
    assert dice.compute(request) == 1.0


# --- the atlas -------------------------------------------------------------------------------------------------------
def test_the_atlas_marks_pixels_with_a_label_in_enough_masks():
    prior = np.array([[[0.2, 0.6]], [[0.7, 0.1]]])
    np.testing.assert_array_equal(draw_atlas(prior, 0.5), [[2, 1]])
    np.testing.assert_array_equal(draw_atlas(prior, 0.65), [[2, 0]])


# --- reading ---------------------------------------------------------------------------------------------------------
def test_a_folder_of_images_and_masks_is_read_as_segmentation(tmp_path):
    squares(tmp_path)
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels, len(samples.table)) == (SEGMENTATION, ("foreground",), 24)
    dataset = open_dataset(find_source(tmp_path), tmp_path / "cache")
    assert (dataset.samples.targets > 0).sum() == 18
    assert pickle.loads(pickle.dumps(dataset.samples.masks))("images/patient00_0.png").max() == 1


def test_the_content_hash_changes_with_one_pixel_of_a_mask(tmp_path):
    squares(tmp_path)
    before = open_dataset(find_source(tmp_path), tmp_path / "cache").content_hash
    path = tmp_path / "masks" / "patient00_0_mask.png"
    mask = np.array(Image.open(path))
    rows, columns = np.nonzero(mask)
    mask[rows[0], columns[0]], mask[0, 0] = 0, 255  # as many pixels as before
    Image.fromarray(mask).save(path)
    assert open_dataset(find_source(tmp_path), tmp_path / "cache").content_hash != before


def test_a_mask_that_changes_after_opening_is_refused(tmp_path):
    squares(tmp_path)
    dataset = open_dataset(find_source(tmp_path), tmp_path / "cache")
    write(tmp_path / "masks" / "patient00_0_mask.png", np.zeros((48, 40), np.uint8))
    with pytest.raises(DataError) as caught:
        dataset.samples.masks("images/patient00_0.png")
    assert caught.value.code == "changed" and "patient00_0" in caught.value.message


def test_parts_of_a_mask_are_joined(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.png", NOISE.integers(0, 255, (16, 16)).astype(np.uint8))
        for ending, row in (("_mask", 2), ("_mask_1", 9)):
            mask = np.zeros((16, 16), np.uint8)
            mask[row] = 255
            if ending == "_mask" or number < 2:
                write(tmp_path / f"{number}{ending}.png", mask)
    samples = open_source(tmp_path)[1]
    assert [int(samples.masks(f"{number}.png").sum()) for number in (0, 5)] == [32, 16]


def test_names_with_dots_are_paired(tmp_path):
    for number in range(6):
        write(tmp_path / "images" / f"scan.{number}.png", NOISE.integers(0, 255, (16, 16)).astype(np.uint8))
        write(tmp_path / "masks" / f"scan.{number}.png", np.full((16, 16), 255 * (number == 2), np.uint8))
    samples = open_source(tmp_path)[1]
    assert [int(samples.masks(f"images/scan.{number}.png").max()) for number in (1, 2)] == [0, 1]


def test_values_are_named_by_the_card(tmp_path):
    squares(tmp_path)
    card(tmp_path, 'task = "segmentation"\nlabels = {1 = "lesion"}\nmasks = {path = "masks/{stem}_mask.png"}\n')
    assert open_source(tmp_path)[0].labels == ("lesion",)


@pytest.mark.parametrize("values", ['255 = "lesion"', '0 = "background", 255 = "lesion"'])
def test_white_can_be_named_by_its_value(tmp_path, values):
    squares(tmp_path)
    card(tmp_path, f'task = "segmentation"\nlabels = {{{values}}}\nmasks = {{path = "masks/{{stem}}_mask.png"}}\n')
    samples = open_source(tmp_path)[1]
    assert samples.masks("images/patient00_0.png").max() == 1


@pytest.mark.parametrize("values", ['liver = "1"', '0 = "background"', '-1 = "void"'])
def test_labels_that_name_no_value_of_a_mask_are_refused(tmp_path, values):
    squares(tmp_path)
    card(tmp_path, f'task = "segmentation"\nlabels = {{{values}}}\nmasks = {{path = "masks/{{stem}}_mask.png"}}\n')
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    assert caught.value.code == "mask"


def test_white_among_several_labels_is_refused(tmp_path):
    for number in range(4):
        write(tmp_path / "images" / f"{number}.png", NOISE.integers(0, 255, (16, 16)).astype(np.uint8))
        mask = np.zeros((16, 16), np.uint8)
        mask[:2], mask[2:4] = (255, 0) if number == 3 else (1, 2)
        write(tmp_path / "masks" / f"{number}.png", mask)
    card(tmp_path, 'task = "segmentation"\nmasks = {path = "masks/{stem}.png"}\nimages = "images/*"\n')
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)[1].masks("images/3.png")
    assert caught.value.code == "mask" and "3.png" in caught.value.message


def test_masks_of_one_name_in_several_folders_are_never_joined(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            write(tmp_path / split / "images" / f"{number}.png", NOISE.integers(0, 255, (16, 16)).astype(np.uint8))
            write(tmp_path / split / "masks" / f"{number}.png", np.full((16, 16), 255, np.uint8))
    card(tmp_path, 'task = "segmentation"\nmasks = {path = "*/masks/{stem}.png"}\nimages = "{split}/images/*"\n')
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    assert caught.value.code == "mask" and "the same 2 masks" in caught.value.message


def broken(root, what):
    path = root / "masks" / "patient00_0_mask.png"
    if what == "missing":
        path.unlink()
    elif what == "size":
        write(path, np.full((9, 9), 255, np.uint8))
    elif what == "smooth":
        write(path, np.arange(48 * 40).reshape(48, 40).astype(np.uint8))
    elif what == "color":
        write(path, NOISE.integers(0, 255, (48, 40, 3)).astype(np.uint8))


@pytest.mark.parametrize("what", ["missing", "size", "smooth", "color"])
def test_a_wrong_mask_is_refused_by_name(tmp_path, what):
    from zoo.data.decoded import cache_images

    squares(tmp_path)
    card(tmp_path, 'task = "segmentation"\nmasks = {path = "masks/{stem}_mask.png"}\nimages = "images/*"\n')
    broken(tmp_path, what)
    with pytest.raises(DataError) as caught:
        cache_images(open_dataset(find_source(tmp_path), tmp_path / "cache"), 32, tmp_path / "cache")
    assert caught.value.code == "mask" and "patient00_0" in caught.value.line() and "\n" not in caught.value.line()


# --- a board ---------------------------------------------------------------------------------------------------------
def test_masks_get_a_board_with_baselines_intervals_and_a_bundle_that_verifies(output_of, tmp_path):
    data, results = squares(tmp_path / "squares", count=60, patients=30), tmp_path / "results"
    bench = "--models unet2d --protocol quick --set steps=24 --seeds 0,1 --weights none --folds 1"
    output_of("bench", "--datasets", data, *bench.split(), "--results", results)
    document = json.loads(output_of("report", "--results", results, "--format", "json"))
    rows = {row["model"]: row for row in document["leaderboard"]}
    assert 1 > rows["unet2d"]["value"] > 0.5 > rows["atlas"]["value"] > rows["empty"]["value"] == 0
    assert rows["unet2d"]["low"] < rows["unet2d"]["value"] < rows["unet2d"]["high"]
    sizes = {json.loads(path.read_text())["run"]["image_size"] for path in results.rglob("result.json")}
    assert sizes == {48}  # the baselines have the size of the models
    assert "undefined in foreground" in output_of("report", "--results", results, "--details")
    output_of(
        "score",
        "--masks",
        f"{data}/masks/*_mask.png",
        "--datasets",
        data,
        "--name",
        "reader",
        "--folds",
        1,
        "--results",
        results,
    )
    rows = {
        row["model"]: row
        for row in json.loads(output_of("report", "--results", results, "--format", "json"))["leaderboard"]
    }
    assert (rows["reader"]["value"], rows["reader"]["rank"], rows["reader"]["protocol"]) == (
        1.0,
        1,
        rows["unet2d"]["protocol"],
    )
    assert rows["unet2d"]["rank"] is not None and rows["atlas"]["rank"] is None
    assert "unet2d minus reader" in output_of("compare", "unet2d", "reader", "--results", results)
    output_of("bundle", tmp_path / "bundle.zip", "--results", results)
    assert "no differences" in output_of("verify", tmp_path / "bundle.zip")


# --- statistics ------------------------------------------------------------------------------------------------------
def test_statistics_are_those_of_each_label_against_the_reference():
    reference, predicted = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    reference[2:12, 2:12], predicted[2:12, 3:13] = 1, 1
    reference[15:18, 15:18] = 2  # missed
    rows = compare_masks(reference, predicted, 3, None, tolerance=1.0)[None]
    assert statistic(rows, "dice")[0].tolist()[:2] == [0.9, 0.0]
    assert statistic(rows, "hd95")[0, 0] == 1.0 and statistic(rows, "hd95")[0, 1] == np.hypot(20, 20)
    assert statistic(rows, "nsd")[0].tolist()[:2] == [1.0, 0.0]
    assert np.isnan(statistic(rows, "dice")[0, 2]) and np.isnan(statistic(rows, "missed")[0, 2])
    assert statistic(rows, "missed")[0].tolist()[:2] == [0.0, 1.0]
    assert statistic(rows, "true_positive")[0].tolist() == [90, 0, 0]
    in_mm = compare_masks(reference, predicted, 3, (2.0, 2.0), tolerance=1.0)[None]
    assert statistic(in_mm, "hd95")[0, 0] == 2.0 and statistic(in_mm, "nsd")[0, 0] < 1


def test_distances_are_in_pixels_unless_the_spacing_of_every_image_is_known():
    assert find_boundary_rule([(0.5, 0.7), (0.5, 0.7)], 2) == (0.6, "mm", "one pixel")
    assert find_boundary_rule([(0.5, 0.7), None], 2) == (1.0, "px", "one pixel")
    assert find_boundary_rule([None], 3) == (1.0, "voxels", "one pixel")


def test_the_card_sets_the_tolerance_if_the_spacing_of_every_image_is_known():
    assert find_boundary_rule([(0.5, 0.7)], 2, 2.0) == (2.0, "mm", "the dataset's card")
    for spacings, tolerance in [([(0.5, 0.7), None], 2.0), ([(0.5, 0.7)], 0.0), ([(0.5, 0.7)], float("nan"))]:
        with pytest.raises(DataError) as caught:
            find_boundary_rule(spacings, 2, tolerance)
        assert caught.value.code == "card" and "tolerance_mm" in caught.value.message


@pytest.mark.parametrize("flags", [["--shuffle-labels"], ["--protocol", "knn"], ["--models", "resnet18"]])
def test_what_masks_do_not_have_is_refused_before_anything_runs(zoo, tmp_path, flags):
    squares(tmp_path)
    words = [
        "bench",
        "--datasets",
        tmp_path,
        "--models",
        "unet2d",
        "--weights",
        "none",
        *flags,
        "--results",
        tmp_path / "r",
    ]
    done = zoo(*words)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "error[wrong-task]" in last and "fix:" in last


# --- pictures --------------------------------------------------------------------------------------------------------
def test_a_thumbnail_shows_the_outline_of_the_reference_and_the_area_of_the_prediction():
    from zoo.data.contact_sheet import FILL, OUTLINES, THUMBNAIL_SIDE, Thumbnail, to_image

    side = THUMBNAIL_SIDE
    mask, predicted = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    mask[20:60, 20:60], predicted[100:140, 100:140] = 1, 1
    drawn = np.asarray(to_image(Thumbnail(pixels=mask * 0, mask=mask, predicted=predicted), (0.0, 255.0)))
    assert tuple(drawn[20, 30]) == OUTLINES[0] and tuple(drawn[40, 40]) == (0, 0, 0)
    assert tuple(drawn[120, 120]) == tuple(level // 2 for level in FILL)
