"""Masks of new volumes: `zoo predict` with a model of volumes, and the card it is read by."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import inv_ornt_aff
from test_text_headers import WRITERS
from test_volumes import SPACING, ball, msd, save

import zoo
from zoo.images.label_maps import read_grid
from zoo.images.nifti_masks import save_volume_mask
from zoo.images.volumes import count_stored_channels
from zoo.results.store import TIMING_FILE, load_results
from zoo.sources.whole_volumes import read_whole_volume
from zoo.trained.card import read_model_card
from zoo.trained.keeping import as_small_floats, describe_pixels
from zoo.trained.segmenting_volumes import mean_network
from zoo.trained.volume_inputs import find_other_size, group_channels, list_volumes

BENCH = "--models unet3d --protocol quick --weights none --set steps=4 --set image_size=16 --folds 1 --seeds 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """35 volumes of two spacings, so that half of them are resampled."""
    root = msd(tmp_path_factory.mktemp("predict_volumes") / "balls")
    for number in range(0, 35, 2):
        for part in ("imagesTr", "labelsTr"):
            path = root / part / f"ball_{number:03}.nii.gz"
            save(path, np.asarray(nibabel.load(path).dataobj), (2.0, 1.5, 1.0))
    return root


@pytest.fixture(scope="module")
def elsewhere(folder):
    """Volumes of another spacing with other numbers of the labels, and one label more."""
    root, random = folder.parent / "elsewhere", np.random.default_rng(7)
    for number in range(4):
        values, mask = ball(random, random.integers(14, 22, 3))
        save(root / "imagesTr" / f"other_{number:03}.nii.gz", values, (1.5, 1.5, 1.5))
        swapped = np.array([0, 2, 1], np.uint8)[mask]
        swapped[0, 0, 0] = 3
        save(root / "labelsTr" / f"other_{number:03}.nii.gz", swapped, (1.5, 1.5, 1.5))
    labels = {"0": "background", "1": "Back", "2": "front", "3": "tumor"}
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "modality": {"0": "MRI"}}))
    return root


@pytest.fixture(scope="module")
def trained(output_of, folder, elsewhere):
    results = folder.parent / "results"
    output_of("bench", "--datasets", folder, *BENCH.split(), "--test-on", elsewhere, "--results", results)
    return results


def model_of(results, tested_on=""):
    runs = [each for each in load_results(results)[0] if each.run["shown"] == "unet3d"]
    (result,) = [each for each in runs if each.run["tested_on"] == tested_on]
    return result


def lines_of(folder):
    with open(Path(folder) / "masks.csv", encoding="utf-8", newline="") as stream:
        return {Path(line["image"]).name: line for line in csv.DictReader(stream)}


@pytest.mark.integration
def test_the_masks_of_volumes_are_those_that_the_bench_stored(main, folder, trained):
    test = model_of(trained).predictions()["test"]
    chosen = list(enumerate(test.sample_ids))[:3]
    paths = [folder / sample_id for _, sample_id in chosen]
    status, _, err = main("predict", "balls/unet3d", *paths, "--results", trained, "-o", "masks")
    assert status == 0 and "3 predicted" in err and "0 outside" in err
    assert any(nibabel.load(path).header.get_zooms() != SPACING for path in paths)
    for row, sample_id in chosen:
        written = nibabel.load(Path("masks") / Path(sample_id).name)
        volume = nibabel.load(folder / sample_id)
        np.testing.assert_array_equal(np.asarray(written.dataobj), test.label_maps[row])
        np.testing.assert_array_equal(written.affine, volume.affine)
    line = lines_of("masks")[Path(test.sample_ids[0]).name]
    voxels = np.count_nonzero(test.label_maps[0] == 2)
    assert int(line["voxels: back"]) == voxels
    assert float(line["ml: back"]) == pytest.approx(voxels * np.prod(SPACING) / 1000, rel=1e-5)
    assert "not a medical device" in bytes(written.header["descrip"]).decode()


@pytest.mark.integration
def test_files_that_training_would_refuse_are_refused_and_the_others_predicted(main, folder, trained, tmp_path):
    new = tmp_path / "new"
    (new / "series").mkdir(parents=True)
    original = folder / "imagesTr" / "ball_001.nii.gz"
    values = np.asarray(nibabel.load(original).dataobj)
    save(new / "a.nii.gz", values[::-1].copy(), (-1.0, 1.5, 2.0))
    save(new / "small.nii.gz", values[:4])
    save(new / "nan.nii.gz", np.where(values > 130, np.nan, values))
    save(new / "two.nii.gz", np.stack([values, values], axis=-1))
    (new / "damaged.nii.gz").write_bytes((new / "a.nii.gz").read_bytes()[:200])
    np.save(new / "unsized.npy", values)
    for number in range(3):
        shutil.copy(nibabel_dicom(), new / "series" / f"{number}.dcm")
    status, _, err = main("predict", "balls/unet3d", new, original, "--results", trained, "-o", "masks")
    assert status == 3 and "3 predicted" in err and "5 refused, 1 outside" in err
    lines = lines_of("masks")
    refused = {name for name, line in lines.items() if line["status"] == "refused"}
    assert refused == {"nan.nii.gz", "two.nii.gz", "damaged.nii.gz", "unsized.npy", "0.dcm"}
    assert lines["small.nii.gz"]["outside"] == "other image size" and lines["a.nii.gz"]["outside"] == ""
    assert "NaN" in lines["nan.nii.gz"]["problem"] and "2 channels" in lines["two.nii.gz"]["problem"]
    assert "unknown" in lines["unsized.npy"]["problem"] and lines["unsized.npy"]["ml: back"] == ""
    assert "(and 2 more in its folder)" in lines["0.dcm"]["problem"] and "dcm2niix" in lines["0.dcm"]["problem"]
    # the same volume with another order of its first axis
    own, turned = (nibabel.load(path) for path in ("masks/ball_001.nii.gz", "masks/a.nii.gz"))
    np.testing.assert_array_equal(np.asarray(own.dataobj), np.asarray(turned.dataobj)[::-1])
    answers = zoo.load_model("balls/unet3d", results=trained, device="cpu").segment(
        [new / "a.nii.gz", new / "nan.nii.gz"]
    )
    masks = {Path(answer.name).name: answer.mask for answer in answers}
    np.testing.assert_array_equal(masks["a.nii.gz"], np.asarray(turned.dataobj))
    assert masks["nan.nii.gz"] is None


def nibabel_dicom():
    return next((Path(nibabel.__file__).parent / "nicom" / "tests" / "data").glob("*.dcm"))


# --- other datasets and time -----------------------------------------------------------------------------------------
@pytest.mark.integration
def test_masks_on_another_dataset_are_those_of_zoo_predict_with_the_labels_of_training(main, elsewhere, trained):
    result = model_of(trained, "elsewhere")
    test = result.predictions()["test"]
    status, _, err = main("predict", "balls/unet3d", elsewhere / "imagesTr", "--results", trained, "-o", "masks")
    assert (status, len(test.sample_ids)) == (0, 4), err
    for row, sample_id in enumerate(test.sample_ids):
        written = np.asarray(nibabel.load(Path("masks") / Path(sample_id).name).dataobj)
        np.testing.assert_array_equal(written, test.label_maps[row])
        mask = np.asarray(nibabel.load(elsewhere / "labelsTr" / Path(sample_id).name).dataobj)
        assert test.targets[row].tolist() == [(mask == 2).sum(), (mask == 1).sum()]  # front, back
    assert any("background: 'tumor' (4 images)" in note for note in result.dataset["notes"])
    rule = result.dataset["boundaries"]
    assert (rule["tolerance"], rule["unit"]) == (1.5, "mm") and result.scores()["dice"].value >= 0
    baselines = {each.run["shown"] for each in load_results(trained)[0] if each.run["tested_on"]}
    assert baselines == {"unet3d", "atlas", "empty"}


@pytest.mark.integration
def test_a_model_of_volumes_is_timed_on_one_patch_and_the_board_says_so(main, trained):
    result = model_of(trained)
    timing = json.loads((result.folder / TIMING_FILE).read_text())["timing"]
    assert timing["timed_patch"] == result.details["patch"] and 0 < timing["latency_seconds"] < 60
    status, out, _ = main("report", "--results", trained, "--details")
    assert status == 0 and "those of one patch" in " ".join(out.split())


@pytest.mark.integration
@pytest.mark.slow
def test_an_exported_network_of_patches_says_how_volumes_become_its_input(main, trained):
    pytest.importorskip("onnxscript")
    status, out, err = main("export", "balls/unet3d", "--to", "onnx", "--results", trained, "-o", "exported")
    assert status == 0 and "2 images of val" in out and " 0 decisions flip" in out, err
    described = json.loads(Path("exported/parity.json").read_text())
    patch = model_of(trained).details["patch"]
    assert described["input"]["shape"] == ["batch", 1, *patch] and described["largest_difference"] < 1e-3
    assert described["input"]["spacing"] == [2.0, 1.5, 1.0, "mm, trilinear"] and "mean" in described["input"]["values"]


# --- the file of a mask ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_lies_on_the_grid_of_its_file_whatever_the_order_of_its_axes(tmp_path, seed, code):
    random = np.random.default_rng(seed)
    shape = (5, 6, 7)
    orientation = np.stack([random.permutation(3), random.choice([-1, 1], 3)], axis=1)
    affine = np.diag([1.0, 1.5, 2.0, 1.0]) @ inv_ornt_aff(orientation, shape)
    stored = random.integers(0, 3, shape).astype(np.uint8)
    image = nibabel.Nifti1Image(stored, affine if code else None)
    if code:
        image.set_sform(affine, code)
        image.set_qform(affine, 1)
    else:
        image.header.set_zooms((1.0, 1.5, 2.0))
    image.header["descrip"] = b"DOE^JANE"
    nibabel.save(image, tmp_path / "volume.nii.gz")
    mask = read_whole_volume(tmp_path, "volume.nii.gz")  # the values are those of a mask
    save_volume_mask(tmp_path / "mask.nii.gz", np.asarray(mask), tmp_path / "volume.nii.gz", "a notice")
    volume, written = (nibabel.load(tmp_path / name) for name in ("volume.nii.gz", "mask.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-6)
    assert written.header["sform_code"] == volume.header["sform_code"]
    assert b"DOE" not in (tmp_path / "mask.nii.gz").read_bytes() and bytes(written.header["descrip"])[:8] == b"a notice"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_the_mask_of_a_text_header_has_its_places_and_its_channels_are_counted(tmp_path, suffix):
    values = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.int16)
    volume = WRITERS[suffix](tmp_path / f"v{suffix}", values)
    mask = np.asarray(read_whole_volume(tmp_path, volume.name)).astype(np.uint8)
    save_volume_mask(tmp_path / "mask.nii.gz", mask, volume, "a notice")
    own, written = read_grid(volume), read_grid(tmp_path / "mask.nii.gz")
    assert own.shape == written.shape
    np.testing.assert_allclose(written.affine, own.affine, atol=1e-5)
    np.testing.assert_array_equal(read_whole_volume(tmp_path, "mask.nii.gz"), mask)
    several = WRITERS[suffix](tmp_path / f"w{suffix}", np.stack([values, values]))
    assert (count_stored_channels(volume), count_stored_channels(several)) == (1, 2)


# --- files and cards -------------------------------------------------------------------------------------------------
def card_of_volumes(**facts):
    sides = [[10.0, 10.0, 10.0], [20.0, 20.0, 20.0]]
    return SimpleNamespace(volumes={"spacing": [1.0, 1.0, 1.0], "endings": [], "sides": sides, **facts}, channels=1)


def test_the_files_of_channels_are_one_volume(tmp_path):
    card = card_of_volumes(endings=["0", "1"])
    files = {name: Path(name) for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c.nii.gz")}
    volumes = {each.name: each for each in group_channels(files, card)}
    assert volumes["a_0000.nii.gz"].files == (Path("a_0000.nii.gz"), Path("a_0001.nii.gz"))
    assert volumes["b_0000.nii.gz"].refused.startswith("b_0001.nii.gz: missing")
    assert volumes["c.nii.gz"].files == (Path("c.nii.gz"),) and len(volumes) == 3


def test_the_first_channel_may_come_after_the_others():
    files = {name: Path(name) for name in ("a_flair.nii.gz", "a_t1.nii.gz", "b_flair.nii.gz", "b_t1.nii.gz")}
    volumes = list(group_channels(files, card_of_volumes(endings=["t1", "flair"])))
    assert [each.files for each in volumes] == [tuple(Path(f"{n}_{e}.nii.gz") for e in ("t1", "flair")) for n in "ab"]


@pytest.mark.parametrize(("spacing", "sides"), [((1.0,) * 3, [[4] * 3, [6] * 3]), (None, [[2] * 3, [6] * 3])])
def test_the_sides_in_a_card_are_those_of_train_in_one_unit(spacing, sides):
    fold = SimpleNamespace(
        label_maps=SimpleNamespace(shapes=np.array([[2] * 3, [6] * 3, [99] * 3])),
        spacings=[(2.0,) * 3, (1.0,) * 3, None],
        index=lambda split: {"train": np.array([0, 1])}[split],
        volumes=SimpleNamespace(window=None),
        channels=1,
    )
    pixels = SimpleNamespace(clipped=False, patch=(8,) * 3, spacing=spacing)
    seen = {"frames": {}, "patient": {}, "endings": ()}
    assert describe_pixels(fold, pixels, seen)["volumes"]["sides"] == sides


def test_a_volume_of_another_size_differs_in_millimeters():
    card = card_of_volumes()
    assert find_other_size(card, (10, 10, 10), (0.6, 1.0, 1.0)) == ()
    assert find_other_size(card, (10, 10, 10), (0.4, 1.0, 1.0)) == ("size",)
    assert find_other_size(card, (41, 10, 10), (1.0, 1.0, 1.0)) == ("size",)
    assert find_other_size(card_of_volumes(spacing=None), (10, 10, 10), (0.1, 1.0, 1.0)) == ()


@pytest.mark.parametrize(("largest", "dtype"), [(3000.0, np.float16), (-65504.0, np.float16), (90000.0, np.float32)])
def test_values_of_patches_that_float16_cannot_hold_are_kept_as_float32(largest, dtype):
    kept = as_small_floats(np.array([1.5, largest], np.float32))
    assert kept.dtype == dtype and kept.tolist() == [1.5, largest]


def test_seeds_decide_by_their_mean_probability():
    logits = [torch.tensor([0.0, 1.0]), torch.tensor([5.0, 0.0]), torch.tensor([0.0, 1.0])]
    models = [SimpleNamespace(module=lambda _, own=own: own.reshape(1, 2, 1, 1, 1)) for own in logits]
    assert mean_network(models)(None).flatten().argmax() == 0
    assert mean_network(models[:1]) is models[0].module


def test_a_path_that_does_not_exist_is_refused(tmp_path, main):
    with pytest.raises(Exception, match="no such file"):
        list(list_volumes([tmp_path / "nothing"], card_of_volumes(), tmp_path))


@pytest.mark.integration
def test_the_card_of_a_model_of_volumes_says_how_they_are_read(trained):
    card = read_model_card(model_of(trained).folder)
    assert card.volumes["spacing"] == [2.0, 1.5, 1.0] and card.volumes["window"] is None
    assert len(card.volumes["patch"]) == 3 and card.channels == 1
    assert np.all(np.array(card.volumes["sides"][0]) >= 13) and replace(card).volumes == card.volumes
