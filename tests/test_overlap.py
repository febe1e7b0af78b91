"""The overlap of a training set with an external test set: identical images, near-duplicates and patients."""

import shutil

import numpy as np
import pytest
from folders import shared
from PIL import Image

from zoo.auditing.external import match_datasets
from zoo.auditing.overlap import OverlapRequest, audit_external, check_overlap
from zoo.data.fingerprints import take_fingerprints
from zoo.data.lookup import SplitDataset
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.sources.opening import find_source

pytestmark = pytest.mark.integration  # each test opens and audits whole datasets: half a second

SIZE = 64


def scene(number):
    """Draw smooth random blobs: a re-encoded copy is a near-duplicate, another scene is not."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 6)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def write(root, first, *, count=240, patients=None, splits=True):
    """Write a table of `count` scenes with alternating labels; the n-th image is of patient `patients(n)`."""
    (root / "images").mkdir(parents=True)
    header = "file,label" + (",patient" if patients else "") + (",split" if splits else "")
    lines = [header]
    for number in range(count):
        scene(first + number).save(root / "images" / f"{number:03}.png")
        split = "train" if number < 100 else "val" if number < 160 else "test"
        cells = [f"{number:03}.png", "ab"[number % 2]]
        cells += [patients(number)] if patients else []
        lines.append(",".join([*cells, *([split] if splits else [])]))
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two datasets without overlap."""
    root = tmp_path_factory.mktemp("sets")
    return write(root / "a", 0), write(root / "b", 10_000, count=60, splits=False)


@pytest.fixture
def tested(sets, tmp_path):
    return shutil.copytree(sets[1], tmp_path / "b")


def opened(root):
    cache = root.parent / "cache"
    source = open_dataset(find_source(root), cache, offline=True)
    return source, take_fingerprints(source, cache)


def check(trained, tested, *, folds=None, drop=False, distinct_patients=False):
    source, fingerprints = opened(trained)
    external = match_datasets(source, *opened(tested), {}, name=tested.name)
    split = draw_split(source, folds, fingerprints)
    request = OverlapRequest(
        dataset=SplitDataset(source=source, split=split, fingerprints=fingerprints),
        external=external,
        distinct_patients=distinct_patients,
        cache=trained.parent / "cache",
    )
    return check_overlap(request, drop=drop)


def findings(external):
    return {(finding.check, finding.verdict): finding for finding in external.findings}


def copy(trained, number, tested, place, change=lambda image: image):
    change(Image.open(trained / "images" / f"{number:03}.png")).save(tested / "images" / f"{place:03}.png")


def brighter(image):
    return Image.fromarray((np.asarray(image) * 0.9 + 12).astype(np.uint8))


def test_datasets_without_overlap_pass_with_a_note_on_missing_patients(sets, tested):
    found = findings(check(sets[0], tested))
    assert list(found) == [("patient", "ok")]
    assert "no patient key in both" in found["patient", "ok"].message


@pytest.mark.parametrize("number", [3, 130])
def test_an_image_of_train_or_val_is_refused(sets, tested, number):
    copy(sets[0], number, tested, 7)
    external = check(sets[0], tested)
    finding = findings(external)["identical", "refuse"]
    assert (finding.count, finding.samples) == (1, ("images/007.png",))
    error = audit_external("a", external).refusal()
    assert "are the same image: 1 images are in both a (train or val) and b" in error.message
    assert "--drop-leaks removes them from b" in error.fix


def test_a_copy_of_a_test_image_is_no_leak(sets, tested):
    copy(sets[0], 200, tested, 7)
    assert ("identical", "refuse") not in findings(check(sets[0], tested))


def test_with_folds_every_image_counts_as_train(sets, tested, tmp_path):
    trained = shutil.copytree(sets[0], tmp_path / "folds")
    table = trained / "table.csv"
    table.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()))
    copy(trained, 200, tested, 7)
    assert ("identical", "refuse") in findings(check(trained, tested, folds=3))


def test_a_copy_stored_in_color_is_the_same_image(sets, tested):
    copy(sets[0], 3, tested, 7, lambda image: image.convert("RGB"))
    assert ("identical", "refuse") in findings(check(sets[0], tested))


def test_an_altered_copy_is_a_near_duplicate(sets, tested):
    copy(sets[0], 3, tested, 7, brighter)
    finding = findings(check(sets[0], tested))["near-duplicate", "refuse"]
    assert (finding.count, finding.samples) == (1, ("images/007.png",))
    assert "near-duplicates; 1.7% of the test images" in finding.message


def test_few_near_duplicates_among_many_images_are_a_warning(sets, tmp_path):
    tested = write(tmp_path / "many", 20_000, count=240, splits=False)
    copy(sets[0], 3, tested, 7, brighter)
    assert ("near-duplicate", "warn") in findings(check(sets[0], tested))


def test_near_duplicate_pairs_are_cached(sets, tested, monkeypatch):
    copy(sets[0], 3, tested, 7, brighter)
    first = check(sets[0], tested).findings
    monkeypatch.setattr("zoo.auditing.overlap.find_alike_across", None)
    assert check(sets[0], tested).findings == first


def test_small_images_are_not_compared_with_a_note(tmp_path):
    for name, first in (("a", 0), ("b", 500)):
        root = write(tmp_path / name, first, splits=name == "a")
        for path in (root / "images").iterdir():
            Image.open(path).resize((28, 28)).save(path)
    found = findings(check(tmp_path / "a", tmp_path / "b"))
    assert "(under 48) are too small" in found["near-duplicate", "ok"].message


def test_a_shared_patient_is_refused_unless_patients_are_declared_distinct(tmp_path):
    trained = write(tmp_path / "a", 0, patients=lambda number: f"P{number}")
    tested = write(tmp_path / "b", 10_000, count=60, splits=False, patients=lambda number: f"P{number // 2 + 150}")
    external = check(trained, tested)  # patients 150 to 179, of which 150 to 159 are in val
    finding = findings(external)["patient", "refuse"]
    assert finding.count == 20
    assert (
        "patient 'P150' is in both a (train or val) and b; in total 10 patients, with 20 test images" in finding.message
    )
    assert "--distinct-patients" in audit_external("a", external).refusal().fix
    distinct = check(trained, tested, distinct_patients=True)
    assert distinct.findings == ()
    assert "equal patient names in a are declared to be different people (--distinct-patients)" in distinct.notes


def test_dropping_removes_copies_and_all_images_of_their_patients(tmp_path):
    trained = write(tmp_path / "a", 0, patients=lambda number: f"P{number}")
    tested = write(tmp_path / "b", 10_000, count=60, splits=False, patients=lambda number: f"Q{number // 2}")
    copy(trained, 3, tested, 7)
    copy(trained, 4, tested, 20, brighter)
    whole, external = check(trained, tested), check(trained, tested, drop=True)
    left = set(whole.source.sample_ids) - set(external.source.sample_ids)
    assert left == {f"images/0{number:02}.png" for number in (6, 7, 20, 21)}
    assert external.findings == () and external.hash != whole.hash
    assert len(external.fingerprints.pixels) == len(external.rows) == 56
    assert "4 images left out as copies of train or val of a" in external.notes[-1]


def test_dropping_every_image_is_an_error(sets, tmp_path):
    tested = shutil.copytree(sets[0], tmp_path / "same")
    (tested / "images" / "239.png").unlink()
    table = tested / "table.csv"
    table.write_text(
        "\n".join(line for line in table.read_text().splitlines() if not line.startswith(("16", "17", "18", "19", "2")))
    )
    with pytest.raises(DataError) as caught:
        check(sets[0], tested, drop=True)
    assert caught.value.code == "no-test"


def write_part(root, part):
    """One split of HAM10000 as a dataset of its own, with the lesion of every image."""
    source = shared("ham10000_mel_nv")
    shutil.copytree(source / part, root / part)
    lines = (source / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([lines[0], *(line for line in lines if line.startswith(f"{part}/"))]))
    card = ['table = "labels.csv"', 'join = {column = "path"}', 'label = {column = "label"}']
    (root / "dataset.toml").write_text("\n".join([*card, 'patient = {column = "lesion_id", means = "lesion"}\n']))
    return root


@pytest.mark.slow
def test_the_published_halves_of_ham10000_share_200_lesions(tmp_path):
    trained, tested = (write_part(tmp_path / part, part) for part in ("train", "test"))
    external = check(trained, tested, folds=5)
    finding = findings(external)["patient", "refuse"]
    assert finding.count == 234
    assert "is in both train (train or val) and test; in total 200 lesions, with 234 test images" in finding.message
    dropped = check(trained, tested, folds=5, drop=True)
    assert len(dropped.rows) <= 1000 - 234 and audit_external("train", dropped).refusal() is None


def test_conflicts_and_duplicates_within_the_test_set_are_reported(sets, tested):
    for place in (10, 11, 13):  # of labels a, b and b
        copy(sets[1], 0, tested, place)
    found = findings(check(sets[0], tested))
    assert found["label-conflict", "warn"].count > 0 and found["identical-within", "warn"].count == 3
