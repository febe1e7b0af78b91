"""Detection of flipped labels in synthetic datasets and in a real one."""

import json
import sys

import numpy as np
import pytest
from factories import draw_images
from folders import SHARED
from PIL import Image

from zoo.auditing.label_noise import Backbone, find_label_noise, predict_out_of_fold, require_cleanlab
from zoo.data.fingerprints import take_fingerprints
from zoo.data.lookup import SplitDataset
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import UsageError
from zoo.models.baselines import THUMBNAILS
from zoo.models.weights import RANDOM
from zoo.registry.context import Context
from zoo.sources.opening import find_source
from zoo.system.progress import Console

EIGHT = Backbone(display_name="8x8 thumbnails", spec=THUMBNAILS, weights=RANDOM)


def write_set(root, labels, images, header="image,label"):
    root.mkdir(parents=True)
    rows = [header]
    for number, (label, image) in enumerate(zip(labels, images, strict=True)):
        Image.fromarray(image).save(root / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """400 dark or bright images, 20 of them with the wrong label."""
    random = np.random.default_rng(5)
    bright = np.arange(400) % 2
    images = 60 + 90 * bright[:, None, None] + random.normal(0, 15, (400, 1, 1)) + random.normal(0, 20, (400, 16, 16))
    wrong = random.choice(400, 20, replace=False)
    labels = np.where(np.isin(np.arange(400), wrong), 1 - bright, bright)
    root = write_set(
        tmp_path_factory.mktemp("noise") / "set",
        [("dark", "bright")[label] for label in labels],
        images.clip(0, 255).astype(np.uint8),
    )
    return root, {f"{number}.png" for number in wrong}


def detect(root, cache, backbone=EIGHT):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    split = draw_split(source, fingerprints=fingerprints)
    dataset = SplitDataset(source=source, split=split, fingerprints=fingerprints)
    return find_label_noise(dataset, backbone, cache=cache, device="cpu", console=Console())


@pytest.mark.integration
def test_flipped_labels_are_detected_with_the_right_suggestion(flipped, tmp_path):
    root, wrong = flipped
    finding = detect(root, tmp_path)
    suspects = {suspect.sample for suspect in finding.suspects}
    recall, precision = len(suspects & wrong) / len(wrong), len(suspects & wrong) / len(suspects)
    print(f"recall {recall:.2f}, precision {precision:.2f}")
    assert recall >= 0.8 and precision >= 0.9
    assert finding.verdict == "warn" and finding.count == len(finding.suspects)
    assert all({suspect.given, suspect.suggested} == {"dark", "bright"} for suspect in finding.suspects)
    scores = [suspect.score for suspect in finding.suspects]
    assert scores == sorted(scores) and scores[0] < 0.1


@pytest.mark.slow
def test_over_half_of_5_percent_flipped_labels_of_a_real_dataset_are_detected(tmp_path):
    path, weights = SHARED / "breastmnist.npz", SHARED.parent / "weights"
    if not path.exists() or not weights.exists():
        pytest.skip("breastmnist.npz or weights are not in ../shared")
    with np.load(path) as stored:
        arrays = dict(stored)
    random = np.random.default_rng(0)
    wrong = set()
    for split in ("train", "val", "test"):
        labels = arrays[f"{split}_labels"]
        rows = random.choice(len(labels), len(labels) // 20, replace=False)
        labels[rows] = 1 - labels[rows]
        wrong |= {f"{split}/{row}" for row in rows}
    np.savez(tmp_path / "flipped.npz", **arrays)
    from zoo.auditing.examine import choose_backbone
    from zoo.registry.opening import open_registry
    from zoo.system.settings import Settings

    settings = Settings(cache=tmp_path, offline=True)
    backbone = choose_backbone(
        "tf_efficientnet_lite0", weights, Context(registry=open_registry(), settings=settings, console=Console())
    )
    suspects = {suspect.sample for suspect in detect(tmp_path / "flipped.npz", tmp_path, backbone).suspects}
    recall, precision = len(suspects & wrong) / len(wrong), len(suspects & wrong) / len(suspects)
    print(f"recall {recall:.2f}, precision {precision:.2f}")
    assert recall > 0.5 and precision > 4 * 0.05


def test_a_patient_does_not_predict_its_own_label():
    patients = np.repeat(np.arange(100), 4)
    given = np.random.default_rng(0).integers(0, 2, 100)[patients]
    probabilities = predict_out_of_fold(np.eye(100)[patients], given, patients)  # features identify the patient only
    assert abs(probabilities[:, 1] - given.mean()).max() < 0.15


def test_labels_are_not_judged_by_uninformative_features(tmp_path):
    random = np.random.default_rng(2)
    root = write_set(
        tmp_path / "set", ["ab"[n % 2] for n in range(100)], random.integers(0, 256, (100, 16, 16), np.uint8)
    )
    finding = detect(root, tmp_path)
    assert finding.verdict == "ok" and not finding.suspects
    assert "not checked" in finding.message and "AUROC 0." in finding.message


@pytest.mark.integration
def test_a_multilabel_suspect_names_its_label(tmp_path):
    random = np.random.default_rng(4)
    mass, fluid = random.integers(0, 2, (2, 300))
    images = random.normal(60, 15, (300, 16, 16))
    images[:, :8] += 100 * mass[:, None, None]
    images[:, 8:] += 100 * fluid[:, None, None]
    given = mass.copy()
    given[[3, 30, 200]] = 1 - given[[3, 30, 200]]
    rows = [f"{a},{b}" for a, b in zip(given, fluid, strict=True)]
    finding = detect(
        write_set(tmp_path / "set", rows, images.clip(0, 255).astype(np.uint8), "image,mass,fluid"), tmp_path
    )
    assert {(suspect.sample, suspect.label) for suspect in finding.suspects} >= {
        *((f"{row}.png", "mass") for row in (3, 30, 200)),
    }
    worst = finding.suspects[0]
    assert {worst.given, worst.suggested} == {"absent", "present"}


def test_regression_and_rare_labels_are_not_checked(tmp_path):
    values = [f"{n / 7:.3f}" for n in range(60)]
    images = draw_images(np.arange(60) / 60)
    assert "regression" in detect(write_set(tmp_path / "amounts", values, images, "image,target"), tmp_path).message
    labels = ["rare" if n in (4, 20) else "plain" for n in range(60)]
    assert "no two classes" in detect(write_set(tmp_path / "rare", labels, images), tmp_path).message


def test_a_missing_cleanlab_is_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(UsageError) as caught:
        require_cleanlab()
    assert caught.value.code == "cleanlab-missing" and "zoo-bench[noise]" in caught.value.fix


def test_the_command_warns_about_thumbnails_and_lists_the_suspects(zoo, flipped, tmp_path):
    root, wrong = flipped
    done = zoo("audit", root, "--label-noise", "--offline", "--json", "--html", tmp_path / "page.html")
    assert done.returncode == 0 and "NO PRETRAINED WEIGHTS" in done.stderr
    (entry,) = json.loads(done.stdout)["datasets"]
    (finding,) = [finding for finding in entry["findings"] if finding["check"] == "label-noise"]
    assert "8x8 thumbnails, no weights available" in finding["message"]
    assert len({suspect["sample"] for suspect in finding["suspects"]} & wrong) >= 16
    page = (tmp_path / "page.html").read_text()
    assert page.count('alt="dark: ') + page.count('alt="bright: ') >= 16
    done = zoo("audit", root, "--label-noise", "--offline")
    assert ": dark, suggested bright" in done.stdout and "more: --html FILE or --json" in done.stdout


def test_a_requested_model_must_have_weights(zoo, flipped):
    done = zoo("audit", flipped[0], "--label-noise", "--features", "resnet18", "--offline")
    assert done.returncode == 2 and "weights-missing" in done.stderr
    done = zoo("audit", flipped[0], "--features", "resnet18")
    assert done.returncode == 2 and "add --label-noise" in done.stderr
