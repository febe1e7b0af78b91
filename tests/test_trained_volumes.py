"""`zoo robustness` with models of volumes: of masks, and of one label for each volume."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
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


@pytest.fixture(scope="module")
def scored(zoo, work):
    """Train a model on one of the sets; return what `zoo robustness` says of it, its rows, and the run."""

    def run(data, model):
        results = work / f"results-{data}"
        done = zoo("bench", "--datasets", work / data, "--models", model, *BENCH.split(), "--results", results)
        assert done.returncode == 0, done.stderr
        words = ("--results", results, "--data", work / data, "--plugin", work / "corruptions.py", "-o", "table.csv")
        done = zoo("robustness", f"{data}/{model}", *words, "--corruptions", "saturation", cwd=results)
        assert done.returncode == 0, done.stderr
        with open(results / "table.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        (own,) = [each for each in load_results(results)[0] if each.run["shown"] == model]
        return done.stdout, rows, own, results

    return run


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
def test_masks_of_corrupted_volumes_are_those_of_files_corrupted_by_hand(scored, work, tmp_path):
    text, rows, own, results = scored("balls", "unet3d")
    test = own.predictions()["test"]
    assert text.startswith("balls/unet3d · dice · 10 test volumes")
    assert float(rows[0]["score"]) == pytest.approx(own.scores()["dice"].value, abs=1e-9)
    files = saturated([work / "balls" / name for name in test.sample_ids], tmp_path)
    model = package.load_model("balls/unet3d", results=results, device="cpu")
    scores = []
    for name, answer in zip(test.sample_ids, model.segment(files), strict=True):
        drawn = nibabel.load(work / "balls" / "labelsTr" / Path(name).name).get_fdata().astype(int)
        scores.append([f1_score(drawn.ravel() == label, answer.mask.ravel() == label) for label in (1, 2)])
    assert float(rows[1]["score"]) == pytest.approx(np.mean(scores), abs=1e-6)
    assert float(rows[1]["score"]) != pytest.approx(float(rows[0]["score"]), abs=1e-3)


@pytest.mark.integration
def test_labels_of_corrupted_volumes_are_those_of_files_corrupted_by_hand(scored, work, tmp_path):
    text, rows, own, results = scored("scans", "resnet18_3d")
    test = own.predictions()["test"]
    assert float(rows[0]["score"]) == pytest.approx(own.scores()["auroc"].value, abs=1e-9)
    files = saturated([work / "scans" / name for name in test.sample_ids], tmp_path)
    table = package.load_model("scans/resnet18_3d", results=results, device="cpu").predict(files)
    positive = own.card().labels[own.card().positive]
    by_patient = table.assign(patient=test.patients, target=test.targets == own.card().positive).groupby("patient")
    means = by_patient.agg({f"probability: {positive}": "mean", "target": "first"})
    expected = roc_auc_score(means["target"], means[f"probability: {positive}"])
    assert float(rows[1]["score"]) == pytest.approx(expected, abs=1e-6)
    assert text.startswith("scans/resnet18_3d · auroc · 10 test volumes, 5 patients")
