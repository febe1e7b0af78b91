"""`zoo robustness` and `zoo explain` with models of volumes: of masks, and of one label for each volume."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from test_volume_classes import write_set
from test_volumes import msd

import zoo as package
from zoo.results.store import load_results

BENCH = "--protocol quick --weights none --folds 1 --seeds 1 --set steps=6 --set rounds=1 --set image_size=16"
BENCH += " --set precision=fp32"
# Values above the middle of the range become the middle. Its numbers are exact, so that masks can be compared by voxel.
PLUGIN = """
from zoo import TransformSpec, hookimpl


def saturate(images, draws, *, level):
    return images.clamp(max=level)


@hookimpl
def register_transforms():
    levels = {"options": {"level": 1.0}, "severities": ({"level": 0.5},)}
    return [TransformSpec(name="saturation", augment=saturate, dims=(2, 3), **levels)]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Volumes of whole numbers with masks and with labels, and a plugin of a corruption."""
    root = tmp_path_factory.mktemp("trained_volumes")
    msd(root / "balls", count=50)
    write_set(root / "scans")
    for path in (*root.glob("balls/images*/*.nii.gz"), *root.glob("scans/scans/*.nii.gz")):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.rint(image.get_fdata()).astype(np.int16), image.affine), path)
    (root / "corruptions.py").write_text(PLUGIN)
    return root


def train(zoo, work, data, model):
    """The results of a model on one of the sets."""
    results = work / f"results-{data}"
    done = zoo("bench", "--datasets", work / data, "--models", model, *BENCH.split(), "--results", results)
    assert done.returncode == 0, done.stderr
    return results


@pytest.fixture(scope="module")
def balls(zoo, work):
    return train(zoo, work, "balls", "unet3d")


@pytest.fixture(scope="module")
def scans(zoo, work):
    return train(zoo, work, "scans", "resnet18_3d")


def run_of(results):
    (own,) = [each for each in load_results(results)[0] if each.run["shown"] in ("unet3d", "resnet18_3d")]
    return own


def score(zoo, work, name, results):
    """What `zoo robustness` says of a model, and its rows."""
    words = ("--results", results, "--data", work / name.split("/")[0], "--plugin", work / "corruptions.py")
    done = zoo("robustness", name, *words, "-o", "table.csv", "--corruptions", "saturation", cwd=results)
    assert done.returncode == 0, done.stderr
    with open(results / "table.csv", encoding="utf-8", newline="") as stream:
        return done.stdout, list(csv.DictReader(stream))


def saturated(paths, folder):
    """The volumes with their upper half of values cut off, as new files."""
    written = []
    for path in paths:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
        middle = np.rint((values.min().astype(float) + values.max()) / 2)
        written.append(folder / path.name)
        nibabel.save(nibabel.Nifti1Image(np.minimum(values, middle).astype(np.int16), image.affine), written[-1])
    return written


@pytest.mark.integration
def test_masks_of_corrupted_volumes_are_those_of_files_corrupted_by_hand(zoo, work, balls, tmp_path):
    text, rows = score(zoo, work, "balls/unet3d", balls)
    own = run_of(balls)
    test = own.predictions()["test"]
    assert text.startswith("balls/unet3d · dice · 10 test volumes")
    assert float(rows[0]["score"]) == pytest.approx(own.scores()["dice"].value, abs=1e-9)
    files = saturated([work / "balls" / name for name in test.sample_ids], tmp_path)
    model = package.load_model("balls/unet3d", results=balls, device="cpu")
    scores = []
    for name, answer in zip(test.sample_ids, model.segment(files), strict=True):
        drawn = nibabel.load(work / "balls" / "labelsTr" / Path(name).name).get_fdata().astype(int)
        scores.append([f1_score(drawn.ravel() == label, answer.mask.ravel() == label) for label in (1, 2)])
    assert float(rows[1]["score"]) == pytest.approx(np.mean(scores), abs=1e-6)
    assert float(rows[1]["score"]) != pytest.approx(float(rows[0]["score"]), abs=1e-3)


@pytest.mark.integration
def test_labels_of_corrupted_volumes_are_those_of_files_corrupted_by_hand(zoo, work, scans, tmp_path):
    text, rows = score(zoo, work, "scans/resnet18_3d", scans)
    own = run_of(scans)
    test = own.predictions()["test"]
    assert float(rows[0]["score"]) == pytest.approx(own.scores()["auroc"].value, abs=1e-9)
    files = saturated([work / "scans" / name for name in test.sample_ids], tmp_path)
    table = package.load_model("scans/resnet18_3d", results=scans, device="cpu").predict(files)
    positive = own.card().labels[own.card().positive]
    by_patient = table.assign(patient=test.patients, target=test.targets == own.card().positive).groupby("patient")
    means = by_patient.agg({f"probability: {positive}": "mean", "target": "first"})
    expected = roc_auc_score(means["target"], means[f"probability: {positive}"])
    assert float(rows[1]["score"]) == pytest.approx(expected, abs=1e-6)
    assert text.startswith("scans/resnet18_3d · auroc · 10 test volumes, 5 patients")


@pytest.mark.integration
def test_the_test_volumes_are_explained_as_the_bench_answered_them_and_files_as_they(zoo, work, scans, tmp_path):
    words = ("--results", scans, "--label", "ball")
    done = zoo("explain", "scans/resnet18_3d", *words, "--data", work / "scans", "-o", "maps", cwd=tmp_path)
    assert done.returncode == 0 and "10 maps by scans/resnet18_3d" in done.stderr, done.stderr
    document = json.loads((tmp_path / "maps" / "maps.json").read_text())
    own = run_of(scans)
    test, column = own.predictions()["test"], own.card().labels.index("ball")
    stored = dict(zip(test.sample_ids.tolist(), test.probabilities[:, column], strict=True))
    assert {row["image"]: pytest.approx(row["probability"], abs=1e-6) for row in document["images"]} == stored
    assert document["numbers"]["stages"] and document["numbers"]["comparisons"]["pointing"] is None
    first = document["images"][0]
    values = np.load(tmp_path / "maps" / first["map"])
    assert values.shape == (32, 32, 32) and values.max() in (0, 1)
    assert Image.open(tmp_path / "maps" / first["overlay"]).width == 4 * 320 + 3 * 8
    done = zoo("explain", "scans/resnet18_3d", work / "scans" / first["image"], *words, "-o", "one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "one" / "maps.json").read_text())["images"]
    np.testing.assert_allclose(np.load(tmp_path / "one" / row["map"]), values, atol=1e-5)


@pytest.mark.integration
def test_what_cannot_be_explained_of_volumes_is_one_line(main, work, balls, scans):
    for words, code in (
        (("balls/unet3d", "--results", balls), "no-map"),
        (("scans/resnet18_3d", "--results", scans, "--method", "occlusion"), "no-map"),
        (("scans/resnet18_3d", work / "scans", "--results", scans, "--masks", work), "masks"),
    ):
        _, _, err = main("explain", *words, "-o", "out")
        assert f"error[{code}]" in err.splitlines()[-1]
