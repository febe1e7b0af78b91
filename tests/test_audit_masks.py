"""The audit of masks: copied and empty ones, and values that are no labels."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.auditing.audit import run_audit
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source

pytestmark = pytest.mark.integration  # each test opens and audits whole datasets: half a second

CARD = 'task = "segmentation"\nimages = "{split}/images/*"\nmasks = {path = "{split}/masks/{stem}.png"}\n'
COUNTS = {"train": 20, "val": 50, "test": 10}  # a smaller val is drawn again


def write_set(root):
    """Random images and masks in folders of splits."""
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            save(root / split / "images" / f"{split}{number}.png", random.integers(0, 256, (32, 32)))
            save(mask_of(root, split, number), np.kron(random.integers(0, 2, (4, 4)), np.ones((8, 8))) * 255)
    return root


def mask_of(root, split, number):
    return root / split / "masks" / f"{split}{number}.png"


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def examine(root, cache):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    return run_audit(source, draw_split(source, fingerprints=fingerprints), fingerprints)


def findings_of(audited, check):
    return [finding for finding in audited.findings if finding.check == check]


def test_masks_of_different_images_are_clean(tmp_path):
    audited = examine(write_set(tmp_path / "set"), tmp_path / "cache")
    assert not findings_of(audited, "mask-copied") and not findings_of(audited, "empty-mask")
    assert "copied masks" in audited.scope.summary(audited.failed_checks)


def test_a_mask_copied_between_patients_is_reported_with_both(tmp_path):
    root = write_set(tmp_path / "set")
    mask_of(root, "test", 1).write_bytes(mask_of(root, "train", 5).read_bytes())
    (finding,) = findings_of(examine(root, tmp_path / "cache"), "mask-copied")
    assert (finding.verdict, finding.splits, finding.count) == ("warn", ("train", "test"), 1)
    assert set(finding.samples) == {"train/images/train5.png", "test/images/test1.png"}


def test_one_mask_of_two_images_of_a_patient_is_no_copy(tmp_path):
    root = write_set(tmp_path / "set")
    mask_of(root, "train", 6).write_bytes(mask_of(root, "train", 5).read_bytes())
    (root / "dataset.toml").write_text(
        CARD + "patient = {regex = '(train|val[0-9]+|test[0-9]+)[^/]*$'}\n"  # all of train is one patient
    )
    assert not findings_of(examine(root, tmp_path / "cache"), "mask-copied")


def test_empty_masks_are_counted_per_split_and_are_no_copies(tmp_path):
    root = write_set(tmp_path / "set")
    for split, number in (("train", 1), ("train", 2), ("test", 3)):
        save(mask_of(root, split, number), np.zeros((32, 32)))
    audited = examine(root, tmp_path / "cache")
    (finding,) = findings_of(audited, "empty-mask")
    assert finding.verdict == "ok" and not findings_of(audited, "mask-copied")
    assert finding.message == "masks without any label: 2 of 20 in train, 0 of 50 in val, 1 of 10 in test"


def test_a_value_outside_the_card_is_a_refusal_that_names_the_file(zoo, tmp_path):
    root = write_set(tmp_path / "set")
    (root / "dataset.toml").write_text(CARD + 'labels = {255 = "lesion"}\n')
    save(mask_of(root, "val", 2), np.full((32, 32), 7))
    done = zoo("audit", root, "--json")
    assert done.returncode == 4, done.stderr
    (document,) = json.loads(done.stdout)["datasets"]
    (finding,) = document["findings"]
    assert (finding["verdict"], finding["check"]) == ("refuse", "mask")
    assert "val2.png: value 7 is no label" in finding["message"]
