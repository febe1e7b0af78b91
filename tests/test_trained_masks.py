"""`zoo robustness` and `zoo explain` with a model of masks, against masks predicted and scored by hand."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from html_pages import Page
from PIL import Image
from sklearn.metrics import f1_score

import zoo as package
from zoo.explaining.locating import FolderMasks
from zoo.explaining.uncertainty import measure_uncertainty
from zoo.images.placement import place_in_square
from zoo.results.store import load_results
from zoo.training.transforms import LOW_CONTRAST

BENCH = "--models unet2d --protocol quick --weights none --seeds 0,1 --folds 1 --keep-weights all --set steps=24"
BENCH += " --set rounds=1 --set batch_size=8 --set learning_rate=0.005 --set precision=fp32"


@pytest.fixture(scope="module")
def trained(output_of, tmp_path_factory):
    """The results of two seeds on synthetic slices of 64 by 64 pixels, four of each of 60 test patients."""
    folder = tmp_path_factory.mktemp("trained_masks")
    output_of("bench", "--datasets", "phantom_seg", *BENCH.split(), "--results", folder)
    return folder


@pytest.fixture(scope="module")
def models(trained):
    """The seeds, the one with the best val score first."""
    opened = package.load_model("phantom_seg/unet2d", results=trained, device="cpu")
    return [opened.best, *(each for each in opened.models if each is not opened.best)]


@pytest.fixture(scope="module")
def slices():
    """Read the image and the mask of a sample id."""
    samples = package.open_dataset("phantom_seg").samples
    rows = dict(zip(samples.table["sample_id"], samples.table["image"], strict=True))
    return SimpleNamespace(image=lambda name: samples.read(rows[name]), mask=lambda name: samples.masks(rows[name]))


# --- robustness ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def scored(zoo, trained):
    done = zoo(
        "robustness",
        "phantom_seg/unet2d",
        "--corruptions",
        "contrast",
        "--results",
        trained,
        "-o",
        "table.csv",
        cwd=trained,
    )
    assert done.returncode == 0, done.stderr
    with open(trained / "table.csv", encoding="utf-8", newline="") as stream:
        return done.stdout, list(csv.DictReader(stream))


def mean_dice(references, masks, patients):
    """The mean Dice by patient, without the images whose masks are both empty."""
    scores = {}
    for reference, mask, patient in zip(references, masks, patients, strict=True):
        if reference.any() or mask.any():
            scores.setdefault(patient, []).append(f1_score(reference.ravel(), mask.ravel()))
    return np.mean([np.mean(own) for own in scores.values()])


@pytest.mark.integration
def test_a_corrupted_score_is_that_of_files_corrupted_by_hand(scored, models, slices, trained, tmp_path):
    _, rows = scored
    (own,) = [each for each in load_results(trained)[0] if each.id == models[0].card.run]
    test = own.predictions()["test"]
    assert float(rows[0]["score"]) == pytest.approx(own.scores()["dice"].value, abs=1e-9)
    for name in test.sample_ids:
        image = slices.image(name).astype(np.float64)
        changed = (image - image.mean()) * LOW_CONTRAST.severities[0]["factor"] + image.mean()
        Image.fromarray(np.rint(changed).astype(np.uint16)).save(tmp_path / f"{name}.png")
    model = package.load_model(own.id, results=trained, device="cpu")
    masks = [each.mask for each in model.segment([tmp_path / f"{name}.png" for name in test.sample_ids])]
    expected = mean_dice([slices.mask(name) for name in test.sample_ids], masks, test.patients)
    assert float(rows[1]["score"]) == pytest.approx(expected, abs=1e-6)
    assert float(rows[1]["drop"]) == pytest.approx(float(rows[0]["score"]) - expected, abs=1e-6)
    assert abs(float(rows[1]["drop"])) > 0.01


@pytest.mark.integration
def test_the_table_of_masks_is_that_of_labels(scored):
    text, rows = scored
    assert [row["severity"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert text.splitlines()[0] == "phantom_seg/unet2d · dice · 240 test images, 60 patients"
    assert all(float(row["drop_low"]) <= float(row["drop"]) <= float(row["drop_high"]) for row in rows[1:])
    assert all(len(line) <= 80 for line in text.splitlines())


# --- maps ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def explained(zoo, trained):
    """What the command says about some test images, its folder and its document."""
    done = zoo("explain", "phantom_seg/unet2d", "--results", trained, "-o", "maps", cwd=trained)
    assert done.returncode == 0, done.stderr
    return done.stderr, trained / "maps", json.loads((trained / "maps" / "maps.json").read_text())


def probabilities_of(model, image):
    """Of the lesion at each pixel, without zoo's reading of pixels."""
    low, high = model.card.intensity
    shares = (image.astype(np.float64) - low) / (high - low)
    levels = torch.from_numpy((shares - np.mean(model.card.mean)) / np.mean(model.card.std)).float()
    with torch.inference_mode():
        return model.module(levels[None, None]).softmax(dim=1)[0, 1].double().numpy()


def stored_map(path):
    return np.asarray(Image.open(path)).astype(float) / 65535


@pytest.mark.integration
def test_entropy_and_disagreement_are_those_of_the_two_seeds(explained, models, slices):
    _, folder, document = explained
    assert document["seeds"] == [model.card.seed for model in models] and document["seed"] == document["seeds"][0]
    for row in document["images"][:5]:
        first, second = (probabilities_of(model, slices.image(row["image"])) for model in models)
        mean = (first + second) / 2
        entropy = -(mean * np.log2(mean) + (1 - mean) * np.log2(1 - mean))
        for name, expected in (("entropy", entropy), ("disagreement", np.abs(first - second))):
            stored = row["uncertainty"][name]
            np.testing.assert_allclose(stored_map(folder / stored["map"]), expected, atol=2e-5)
            assert stored["mean"] == pytest.approx(expected.mean(), abs=1e-5)


@pytest.mark.integration
def test_the_dice_beside_a_picture_is_that_of_its_mask(explained, models, slices):
    _, folder, document = explained
    known = [row for row in document["images"] if row["dice"]]
    assert len(known) > 5
    for row in known:
        mask = np.mean([probabilities_of(model, slices.image(row["image"])) for model in models], axis=0) > 0.5
        assert row["dice"]["lesion"] == pytest.approx(f1_score(slices.mask(row["image"]).ravel(), mask.ravel()))
        assert Image.open(folder / row["overlay"]).width > 4 * 320


@pytest.mark.integration
def test_each_label_of_a_mask_has_a_map_of_the_bottleneck_and_its_pixels(explained):
    said, folder, document = explained
    maps = [each for row in document["images"] for each in row["maps"]]
    assert maps and {(each["layer"], each["grid"], each["label"]) for each in maps} == {("encoder.4", 4, "lesion")}
    assert all(each["pixels"] > 0 and 0 <= each.get("mass", 0) <= 1 for each in maps)
    assert all(stored_map(folder / each["map"]).shape == (64, 64) for each in maps)
    assert document["numbers"]["num_layers"] == 37 and "insertion" not in document["numbers"]["comparisons"]
    assert f"24 masks and {len(maps)} maps" in said and "masks of 2 seeds" in said
    page = Page((folder / "index.html").read_text())
    assert len(page.all("img")) == 24 and all(sentence in page.text for sentence in document["statements"])


@pytest.mark.integration
def test_new_images_are_explained_and_refused_as_they_are_predicted(zoo, trained, slices, explained, tmp_path):
    _, _, document = explained
    name = next(row["image"] for row in document["images"] if any("mass" in each for each in row["maps"]))
    (tmp_path / "new").mkdir()
    for path, levels in (("a.png", slices.image(name)), ("shallow.png", slices.image(name).astype(np.uint8))):
        Image.fromarray(levels).save(tmp_path / "new" / path)
    (tmp_path / "masks").mkdir()
    Image.fromarray(slices.mask(name) * 255).save(tmp_path / "masks" / "a.png")
    words = ("--results", trained, "-o", "out", "--masks", "masks", "--label", "lesion")
    done = zoo("explain", "phantom_seg/unet2d", "new", *words, cwd=tmp_path)
    assert done.returncode == 3 and "uint8" in done.stderr
    rows = json.loads((tmp_path / "out" / "maps.json").read_text())["images"]
    (same,) = [row for row in document["images"] if row["image"] == name]
    assert [row["status"] for row in rows] == ["ok", "refused"]
    assert rows[0]["dice"] == same["dice"]
    assert rows[0]["uncertainty"]["entropy"]["mean"] == same["uncertainty"]["entropy"]["mean"]
    assert rows[0]["maps"][0]["mass"] == pytest.approx(same["maps"][0]["mass"])
    done = zoo(
        "explain", "phantom_seg/unet2d", "new", "--results", trained, "-o", "no", "--label", "liver", cwd=tmp_path
    )
    assert done.returncode == 2 and "error[unknown-label]" in done.stderr


@pytest.mark.integration
def test_the_page_of_a_board_shows_maps_of_masks(output_of, trained, tmp_path):
    output_of("report", "--results", trained, "--format", "html", "--explain", "--output", tmp_path / "board.html")
    page = Page((tmp_path / "board.html").read_text())
    assert "Grad-CAM of encoder.4, 4 x 4 positions" in page.text and "map: lesion" in page.text


# --- parts -----------------------------------------------------------------------------------------------------------
def test_seeds_that_are_sure_of_different_labels_disagree_fully():
    sure, opposite = torch.tensor([[[20.0]], [[-20.0]]]), torch.tensor([[[-20.0]], [[20.0]]])
    assert measure_uncertainty([sure, opposite]) == {"entropy": pytest.approx(1), "disagreement": pytest.approx(1)}
    assert measure_uncertainty([sure, sure]) == {"entropy": pytest.approx(0), "disagreement": pytest.approx(0)}
    assert measure_uncertainty([torch.zeros(5, 1, 1)]) == {"entropy": pytest.approx(1)}


def test_masks_of_several_labels_have_their_numbers(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).save(tmp_path / "a.png")
    masks = FolderMasks(tmp_path, has_numbers=True)
    assert masks("a.png", 1, place_in_square(2, 2, 2)).tolist() == [[False, False], [True, True]]
