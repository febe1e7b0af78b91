"""Masks of other tools as rows of a dataset's board."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import card
from PIL import Image
from test_segmentation import squares
from test_volumes import msd, save

from zoo.data.opening import open_dataset
from zoo.data.references import open_references
from zoo.data.splits import Split
from zoo.errors import DataError, UsageError
from zoo.evaluation.predict_masks import collect_masks
from zoo.results.store import load_results
from zoo.sources.imported_masks import Expected, match_images, read_imported
from zoo.sources.label_map_pairs import find_label_maps
from zoo.sources.opening import find_source


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 30 patients, with their masks."""
    root = squares(tmp_path_factory.mktemp("imported") / "squares", count=60, patients=30)
    return card(root, 'patient = {regex = "(patient[0-9]+)_"}\n')


def predict(data, folder, shift=1, leave_out=()):
    """The reference masks moved down, named as their images."""
    folder.mkdir()
    for path in sorted((data / "masks").glob("*.png")):
        name = path.name.replace("_mask", "")
        if name not in leave_out:
            Image.fromarray(np.roll(np.asarray(Image.open(path)), shift, 0)).save(folder / name)
    return folder


def stored_masks(results):
    (result, *_), _ = load_results(Path(results))
    return result.predictions()["test"]


# --- names -----------------------------------------------------------------------------------------------------------
def files(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return find_label_maps(str(root))


NAMES = {"a": ("images/a_0000.nii.gz", "labels/a.nii.gz"), "b": ("images/b_0000.nii.gz", "labels/b.nii.gz")}


@pytest.mark.parametrize("name", ["images/a_0000.png", "a_0000.nii.gz", "labels/a.npy", "a.nii.gz"])
def test_a_mask_is_named_as_its_image_or_as_the_reference(tmp_path, name):
    matched = match_images(files(tmp_path, name, "other.png"), NAMES)
    assert matched.by_image == {"a": tmp_path / name} and matched.unmatched == (tmp_path / "other.png",)


def test_a_path_with_a_star_names_the_image(tmp_path):
    files(tmp_path, "b_pred.png")
    assert match_images(find_label_maps(f"{tmp_path}/*_pred.png"), NAMES).by_image == {"b": tmp_path / "b_pred.png"}


@pytest.mark.parametrize("names", [("x.png",), ("a.png", "a_0000.png"), ("c.png",)])
def test_masks_that_cannot_be_matched_are_refused(tmp_path, names, golden):
    twice = {f"{split}/c": (f"{split}/c.png",) for split in ("test", "train")}
    with pytest.raises(UsageError) as refused:
        match_images(files(tmp_path, *names), NAMES | twice)
    golden(str(refused.value).replace(f"{tmp_path}", "masks"))


# --- reading ---------------------------------------------------------------------------------------------------------
def test_values_become_label_numbers_in_the_order_of_the_labels(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 4], [2, 2]], np.uint8))
    expected = Expected(shape=(2, 2), spacing=None, reference=None)
    assert read_imported(tmp_path / "a.npy", (4, 2), expected).tolist() == [[0, 1], [2, 2]]


@pytest.mark.parametrize(
    ("array", "values"), [(np.eye(3), (1,)), (np.eye(2) * 3, (1, 2)), (np.eye(2) * 255, (1, 2)), (np.eye(2) / 2, (1,))]
)
def test_a_mask_with_another_shape_or_value_is_refused(tmp_path, array, values, golden):
    kind = np.float32 if array.max() < 1 else np.uint8
    np.save(tmp_path / "a.npy", array.astype(kind))
    with pytest.raises(DataError) as refused:
        read_imported(tmp_path / "a.npy", values, Expected(shape=(2, 2), spacing=None, reference=None))
    golden(str(refused.value).replace(f"{tmp_path}/", ""))


def test_a_volume_has_the_grid_of_its_reference(tmp_path):
    save(tmp_path / "reference.nii.gz", np.zeros((4, 5, 6), np.uint8), (1.0, 1.0, 2.0))
    save(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.uint8), (1.0, 1.0, 2.5))
    expected = Expected(shape=(4, 5, 6), spacing=(1.0, 1.0, 2.0), reference=tmp_path / "reference.nii.gz")
    with pytest.raises(DataError, match=r"its spacing is \[1 1 2.5\], that of .*reference.nii.gz is \[1 1 2\]"):
        read_imported(tmp_path / "a.nii.gz", (1,), expected)


def test_masks_are_compared_as_those_of_models_without_decoding_an_image(tmp_path):
    root = msd(tmp_path / "balls", count=6)
    source = open_dataset(find_source(root), tmp_path / "cache")
    split = Split(folds=(np.array(["train", "val", "test"] * 2),), origin="drawn", hash="h")
    fold = open_references(source, split, 0)
    rows = fold.index("test")
    part = collect_masks(fold, rows, [fold.label_maps[row] for row in rows])
    assert fold.boundary_rule.unit == "mm" and (part.probabilities[:, 0] == 1).all()
    assert not (tmp_path / "cache" / "volumes").exists()


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_masks_become_a_row_with_a_mark(main, data, tmp_path):
    predict(data, tmp_path / "masks")
    words = ("score", "--masks", "masks", "--datasets", data, "--name", "nnunet", "--folds", "1")
    status, out, err = main(*words)
    assert status == 0, err
    assert "nnunet * (imported)" in out and "imported@1" in out
    test = stored_masks("results")
    hits, alarms = (test.probabilities[:, at] for at in (12, 13))
    dice = 2 * hits / np.maximum(2 * hits + 2 * alarms, 1)
    assert np.array_equal(dice[hits > 0], test.probabilities[hits > 0, 0])
    assert "Not trained here but imported: nnunet." in main("report", "--format", "latex")[1]
    row = json.loads(main("report", "--format", "json")[1])["leaderboard"][0]
    assert (row["init"], row["weights"], row["deviations"]) == (
        "none",
        "imported",
        ["imported: masks of another tool, not trained here"],
    )
    assert set(row["cost"].values()) == {None}
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("predictions.npz")}
    assert main(*words)[0] == 0
    assert len(before) == len(list(Path("results").rglob("predictions.npz"))) == 1  # the same masks are the same run


@pytest.mark.integration
def test_images_without_a_mask_count_as_empty_and_are_counted(main, data, tmp_path):
    folder = predict(data, tmp_path / "masks", shift=0)
    words = ("--datasets", data, "--name", "nnunet", "--folds", "1")
    assert main("score", "--masks", folder, *words)[0] == 0
    test = stored_masks("results")
    name = test.sample_ids[np.flatnonzero(test.targets[:, 0])[0]]
    (folder / Path(name).name).unlink()
    status, _, err = main("score", "--masks", folder, *words, "--results", "fewer")
    assert status == 0 and "count as empty: 1" in err
    assert stored_masks("fewer").probabilities[stored_masks("fewer").sample_ids == name, 0] == 0
    assert "1 of 12 test images have no prediction" in main("report", "--results", "fewer", "--details")[1]


@pytest.mark.integration
def test_every_fold_is_a_run_and_other_masks_are_another_row(main, data, tmp_path):
    for shift in (1, 2):
        folder = predict(data, tmp_path / f"masks{shift}", shift)
        words = ("--datasets", data, "--name", "nnunet", "--folds", "3")
        assert main("score", "--masks", folder, *words)[0] == 0
    words = ("--datasets", data, "--name", "whole", "--folds", "1")
    assert (
        "of another split or version"
        in main("score", "--masks", tmp_path / "masks1", *words, "--results", "results")[2]
    )
    shutil.rmtree(next(Path("results").rglob("whole.imported")))
    results, _ = load_results(Path("results"))
    assert sorted(result.run["fold"] for result in results) == [0, 0, 1, 1, 2, 2]
    rows = json.loads(main("report", "--format", "json")[1])["leaderboard"]
    assert [row["coverage"] for row in rows] == ["3/3", "3/3"]
    assert [row["rank"] for row in rows] == [1, 2] and rows[0]["label"].startswith("nnunet[predictions=")
    assert main("bundle", "b")[0] == 0
    assert "no differences" in main("verify", "b")[1]
    shutil.rmtree(next(Path("b").rglob("*.fold1.*")))
    assert "the masks are not those of the run's id, or lack a fold" in main("verify", "b")[1]


@pytest.mark.integration
def test_nothing_is_stored_if_a_mask_cannot_be_used(main, data, tmp_path):
    folder = predict(data, tmp_path / "masks")
    for path in folder.glob("*.png"):
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    status, out, err = main("score", "--masks", folder, "--datasets", data, "--name", "nnunet", "--folds", "1")
    assert (status, out) == (4, "")
    assert err.count("JPEG changes the values of a mask") == 12
    assert "nothing is stored: 12 masks cannot be used" in err and not list(Path("results").rglob("result.json"))


@pytest.mark.parametrize(
    "words",
    [
        ("--datasets", "phantom_seg"),
        ("--datasets", "phantom_seg", "--name", "a/b"),
        ("--datasets", "phantom_seg", "--name", "a", "--tolerance", "1"),
        ("--reference", "masks", "--name", "a"),
    ],
)
def test_a_wrong_use_is_one_line(main, tmp_path, golden, words):
    np.save(tmp_path / "a.npy", np.eye(4, dtype=np.uint8))
    status, _, err = main("score", "--masks", tmp_path, *words)
    assert status == 2
    golden(err.splitlines()[-1])
