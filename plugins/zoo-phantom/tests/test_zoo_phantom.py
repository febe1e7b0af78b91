"""The phantoms are pinned, honest about what tells the labels apart, and true to what they say is in them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from zoo import DataError, SamplesRequest
from zoo.data.masks import measure_masks
from zoo.testing import check_dataset
from zoo_phantom import DATASETS, PARAMETERS, SHA256, boxes, draw, find_lesions, masks, paint
from zoo_phantom.exact import Stream, direction
from zoo_phantom.paint import lung_share, paint_anatomy, paint_lesions
from zoo_phantom.segmentation import MASKED, SCENES, open_masks
from zoo_phantom.storage import digest, keep_slices

PHANTOM = PARAMETERS["phantom"]
FEW = replace(PHANTOM, patients=(4, 2, 2))


@pytest.fixture(scope="module")
def scenes():
    return draw(PHANTOM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def painting():
    """What was reported while the slices were painted."""
    return []


@pytest.fixture(scope="module")
def samples(folder, painting):
    request = SamplesRequest(folder=folder, progress=lambda done, total: painting.append((done, total)))
    return DATASETS["phantom"].samples(request)


@pytest.fixture(scope="module")
def images(samples):
    return np.load(samples.files[0], allow_pickle=False)


# --- the same bytes everywhere -----------------------------------------------------------------------------------
@pytest.mark.integration
def test_the_pixels_are_the_pinned_ones(images):
    assert digest(images) == "3db02851da96819ae58f1cc5fa94e2d30fab5fb8c67c768c65f28b0597e4ea78"


def test_painting_twice_gives_the_same_bytes():
    assert paint(draw(FEW)).tobytes() == paint(draw(FEW)).tobytes()


def test_another_seed_draws_other_slices():
    assert not np.array_equal(paint(draw(FEW)), paint(draw(replace(FEW, seed=1))))


def test_random_words_are_those_of_philox():
    key = np.array([7, int.from_bytes(b"noise   ", "little")], dtype=np.uint64)
    assert np.array_equal(Stream(7, "noise").words(5), np.random.Philox(key=key).random_raw(5))


def test_noise_has_mean_zero_and_variance_one():
    noise = Stream(7, "noise").bell(400, 500)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.var() == pytest.approx(1.0, abs=0.01)


def test_a_direction_is_a_point_of_the_circle():
    x, y = direction(np.linspace(-1.0, 1.0, 9))
    assert np.hypot(x, y) == pytest.approx(np.ones(9))
    assert (x[0], y[0]) == (0.0, -1.0)


# --- the file ----------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_slices_are_painted_once_and_the_painting_is_reported(samples, painting, folder):
    assert painting[-1] == (1680, 1680)
    (path,) = samples.files
    painted, reports = path.stat().st_mtime_ns, len(painting)
    DATASETS["phantom"].samples(SamplesRequest(folder=folder, progress=lambda done, total: painting.append(done)))
    assert (path.stat().st_mtime_ns, len(painting)) == (painted, reports)
    assert not list(folder.glob(".*"))


def test_a_damaged_file_is_painted_again(tmp_path):
    few, path = draw(FEW), tmp_path / "few.npy"
    path.write_bytes(b"\x93NUMPY cut short")
    expected = paint(few)
    keep_slices(path, few, digest(expected), None)
    assert np.array_equal(np.load(path, allow_pickle=False), expected)


def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected slices with sha256 0000"):
        keep_slices(tmp_path / "few.npy", draw(FEW), "0000", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_the_reader_travels_to_another_process(samples, images):
    read = pickle.loads(pickle.dumps(samples.read))
    assert read(17).dtype == np.uint16
    assert np.array_equal(read(17), images[17])


# --- the datasets ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "phantom" else pytest.mark.slow) for name in DATASETS]
)
@pytest.mark.integration
def test_a_dataset_is_the_pinned_one_and_passes_the_conformance_kit(name, folder):
    check_dataset(DATASETS[name], folder)  # opening it refuses other pixels than the pinned ones
    assert digest(np.load(folder / f"{name}.npy", allow_pickle=False)) == SHA256[name]


@pytest.mark.parametrize("name", list(DATASETS))
def test_the_card_declares_synthetic_data(name):
    spec = DATASETS[name]
    assert spec.synthetic
    assert "synthetic" in spec.title
    assert spec.description.startswith("SYNTHETIC: no patient was imaged.")


@pytest.mark.integration
def test_splits_have_their_sizes_and_share_no_patient(samples):
    splits = samples.table.groupby("split")
    assert splits.size().to_dict() == {"train": 1280, "val": 160, "test": 240}
    assert splits["patient"].nunique().to_dict() == {"train": 160, "val": 40, "test": 60}
    assert samples.table.groupby("patient")["split"].nunique().max() == 1
    assert samples.table["sample_id"].is_unique


@pytest.mark.integration
def test_two_slices_in_five_are_positive_in_every_split(samples):
    shares = samples.table.assign(positive=samples.targets).groupby("split")["positive"].mean()
    assert shares.to_dict() == {"train": 0.4, "val": 0.4, "test": 0.4}


@pytest.mark.integration
def test_most_patients_have_slices_of_both_kinds(samples):
    kinds = samples.table.assign(positive=samples.targets).groupby("patient")["positive"].nunique()
    assert (kinds == 2).mean() > 0.6


def test_every_class_of_the_multiclass_set_is_in_every_split():
    scenes = draw(PARAMETERS["phantom_multiclass"])
    for split in range(3):
        assert scenes.present[scenes.split == split].mean(axis=0) == pytest.approx([0.34, 0.26, 0.22, 0.18], abs=0.01)


@pytest.mark.integration
def test_some_multilabel_targets_are_unknown_and_the_others_are_the_truth(folder):
    targets = DATASETS["phantom_multilabel"].samples(SamplesRequest(folder=folder)).targets
    present = draw(PARAMETERS["phantom_multilabel"]).present
    assert np.isnan(targets).mean() == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(np.nan_to_num(targets[~np.isnan(targets)]), present[~np.isnan(targets)])


@pytest.mark.slow
@pytest.mark.integration
def test_masks_are_those_of_the_generator_and_some_are_empty(folder, tmp_path):
    samples = open_masks(SamplesRequest(folder=folder))
    scenes = draw(PARAMETERS[SCENES])
    for image in (0, 100, 1500):
        np.testing.assert_array_equal(samples.masks(image), masks(scenes, image).any(axis=0))
    sizes = measure_masks(MASKED, samples, tmp_path).sizes
    assert 0.05 < (sizes == 0).mean() < 0.5


# --- neither trivial nor hopeless --------------------------------------------------------------------------------
def test_lesions_of_both_kinds_add_the_same_density(scenes):
    drawn = np.bincount(scenes.lesions["slice"], weights=scenes.lesions["density"])
    assert roc_auc_score(scenes.present[:, 1], drawn) == pytest.approx(0.5, abs=0.05)
    slices = np.arange(64)
    added = paint_lesions(scenes, slices, lung_share(scenes, slices)).sum(axis=(1, 2), dtype=np.float64)
    assert added == pytest.approx(drawn[:64], rel=0.01)


@pytest.mark.integration
def test_mean_brightness_does_not_separate_the_labels(samples, images):
    assert roc_auc_score(samples.targets, images.mean(axis=(1, 2))) == pytest.approx(0.5, abs=0.05)


@pytest.mark.integration
def test_thumbnails_do_not_solve_it(samples, images):
    thumbnails = images.reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 64)
    train, test = (samples.table["split"].to_numpy() == split for split in ("train", "test"))
    standardised = (thumbnails - thumbnails[train].mean(axis=0)) / thumbnails[train].std(axis=0)
    model = LogisticRegression(max_iter=1000).fit(standardised[train], samples.targets[train])
    assert roc_auc_score(samples.targets[test], model.predict_proba(standardised[test])[:, 1]) <= 0.68


@pytest.mark.integration
def test_masks_that_were_changed_are_drawn_again(folder):
    request = SamplesRequest(folder=folder)
    samples = open_masks(request)
    image = next(image for image in range(100) if samples.masks(image).any())
    drawn = np.load(folder / "masks.npy")
    np.save(folder / "masks.npy", drawn * 0)
    np.testing.assert_array_equal(open_masks(request).masks(image), drawn[image])


# --- known truth -------------------------------------------------------------------------------------------------
def test_a_mask_is_the_disc_of_its_lesion_within_the_lung(scenes):
    for image in np.flatnonzero(scenes.present[:, 1])[:5]:
        lung = lung_share(scenes, np.array([image]))[0]
        rows, columns = np.mgrid[:64, :64] + 0.5
        for lesion, mask in zip(find_lesions(scenes, image), masks(scenes, image), strict=True):
            distance = np.hypot(columns - lesion.x, rows - lesion.y)
            assert mask[(distance < lesion.radius - 0.5) & (lung == 1.0)].all()
            assert not mask[(distance > lesion.radius + 0.5) | (lung == 0.0)].any()


def test_a_box_encloses_its_mask_tightly(scenes):
    for image in (0, 1, 2):
        for box, mask in zip(boxes(scenes, image), masks(scenes, image), strict=True):
            x0, y0, x1, y1 = box.astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()


@pytest.mark.integration
def test_each_label_has_the_masks_of_its_lesions(samples, scenes):
    for image in np.flatnonzero(scenes.present[:, 1])[:3]:
        diffuse, nodules = samples.findings(int(image))
        assert not diffuse.any()
        assert (nodules == masks(scenes, image).any(axis=0)).all() and nodules.any()


@pytest.mark.integration
def test_the_table_counts_the_lesions(samples, scenes):
    for image in (0, 5, 700):
        assert samples.table["num_lesions"][image] == len(find_lesions(scenes, image))


def test_a_lesion_adds_its_contrast_at_its_densest_pixel():
    scenes = draw(FEW)
    image = int(np.flatnonzero(scenes.faint)[0])  # one lesion: nothing overlaps
    slices = np.array([image])
    added = paint_lesions(scenes, slices, lung_share(scenes, slices))
    (lesion,) = find_lesions(scenes, image)
    assert added.max() == pytest.approx(lesion.contrast, rel=1e-5)


def test_a_clear_slice_has_no_lesion():
    scenes = draw(PARAMETERS["phantom_multiclass"])
    image = int(np.flatnonzero(scenes.present[:, 0])[0])
    assert find_lesions(scenes, image) == []
    assert masks(scenes, image).shape == (0, 64, 64)
    assert boxes(scenes, image).shape == (0, 4)


def test_a_larger_size_shows_the_same_scene():
    few, large, slices = draw(FEW), draw(replace(FEW, size=128)), np.arange(4)
    native = paint_anatomy(few, slices, lung_share(few, slices))
    halved = paint_anatomy(large, slices, lung_share(large, slices)).reshape(4, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(halved - native).mean() < 15.0  # HU
    assert paint(large).shape == (len(large.patient), 128, 128)


@pytest.mark.integration
def test_densities_are_those_of_a_chest(images):
    hu = images.astype(np.int64) - 1024
    assert np.median(hu[:, :3, :3]) == pytest.approx(-1000, abs=10)  # air
    assert -900 < np.percentile(hu[:, 30:34, 14:20], 30) < -700  # lung
    assert 300 < np.percentile(hu, 99.9) < 1500  # bone


def test_the_picture_shows_every_label(tmp_path):
    from PIL import Image

    from zoo_phantom.__main__ import draw_sheet

    draw_sheet(FEW).save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 3 * 64, 2 * 2 * 3 * 64)
        assert {(64, 160, 255), (255, 96, 64)} <= {color for _, color in sheet.getcolors(1 << 20)}
