"""What a dataset trained on and one tested on share: images, look-alikes, patients; only train and val can leak."""

import shutil

import numpy as np
import pytest
from folders import shared
from PIL import Image

from zoo.audit.external import match_datasets
from zoo.audit.overlap import audit_external, check_overlap
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.sources.opening import find_source

SIZE = 64


def scene(number):
    """A smooth image of its own: blobs, so that a re-encoded copy looks alike and another scene does not."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 6)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def write(root, first, *, count=240, patients=None, splits=True):
    """A table of `count` scenes, two labels by turns; with `patients` the n-th image is of patients(n)."""
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
    """Two sets that share nothing."""
    root = tmp_path_factory.mktemp("sets")
    return write(root / "a", 0), write(root / "b", 10_000, count=60, splits=False)


@pytest.fixture
def tested(sets, tmp_path):
    return shutil.copytree(sets[1], tmp_path / "b")


def opened(root):
    cache = root.parent / "cache"
    source = open_dataset(find_source(root), cache, offline=True)
    return source, take_fingerprints(source, cache)


def check(trained, tested, *, folds=None, **changes):
    source, fingerprints = opened(trained)
    external = match_datasets(source, *opened(tested), {}, name=tested.name)
    split = draw_split(source, folds, fingerprints)
    settings = {"drop": False, "distinct_patients": False, **changes}
    return check_overlap(source, split, fingerprints, external, trained.parent / "cache", **settings)


def findings(external):
    return {(found.check, found.verdict): found for found in external.findings}


def copy(trained, number, tested, place, change=lambda image: image):
    change(Image.open(trained / "images" / f"{number:03}.png")).save(tested / "images" / f"{place:03}.png")


def brighter(image):
    return Image.fromarray((np.asarray(image) * 0.9 + 12).astype(np.uint8))


def test_sets_that_share_nothing_pass_and_say_what_could_not_be_seen(sets, tested):
    found = findings(check(sets[0], tested))
    assert list(found) == [("patient", "ok")]
    assert "no patient key in both" in found["patient", "ok"].message


@pytest.mark.parametrize("number", [3, 130])
def test_an_image_of_train_or_val_is_refused(sets, tested, number):
    copy(sets[0], number, tested, 7)
    external = check(sets[0], tested)
    found = findings(external)["identical", "refuse"]
    assert (found.count, found.samples) == (1, ("images/007.png",))
    error = audit_external("a", external).refusal()
    assert "are the same image: 1 images are in a (train or val) and b" in error.message
    assert "--drop-leaks leaves them out of b" in error.fix


def test_an_image_of_test_is_no_leak_since_no_model_has_seen_it(sets, tested):
    copy(sets[0], 200, tested, 7)
    assert ("identical", "refuse") not in findings(check(sets[0], tested))


def test_in_folds_every_image_was_trained_on_by_some_model(sets, tested, tmp_path):
    trained = shutil.copytree(sets[0], tmp_path / "folds")
    table = trained / "table.csv"
    table.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()))
    copy(trained, 200, tested, 7)
    assert ("identical", "refuse") in findings(check(trained, tested, folds=3))


def test_a_copy_stored_in_colour_is_the_same_image(sets, tested):
    copy(sets[0], 3, tested, 7, lambda image: image.convert("RGB"))
    assert ("identical", "refuse") in findings(check(sets[0], tested))


def test_a_copy_that_is_not_identical_looks_alike(sets, tested):
    copy(sets[0], 3, tested, 7, brighter)
    found = findings(check(sets[0], tested))["near-duplicate", "refuse"]
    assert (found.count, found.samples) == (1, ("images/007.png",))
    assert "look alike: 1.7% of the images tested on" in found.message


def test_few_look_alikes_among_many_images_are_a_warning(sets, tmp_path):
    tested = write(tmp_path / "many", 20_000, count=240, splits=False)
    copy(sets[0], 3, tested, 7, brighter)
    assert ("near-duplicate", "warn") in findings(check(sets[0], tested))


def test_the_second_time_the_pairs_are_remembered(sets, tested, monkeypatch):
    copy(sets[0], 3, tested, 7, brighter)
    first = check(sets[0], tested).findings
    monkeypatch.setattr("zoo.audit.overlap.find_alike_across", None)
    assert check(sets[0], tested).findings == first


def test_small_images_are_not_compared_and_that_is_said(tmp_path):
    for name, first in (("a", 0), ("b", 500)):
        root = write(tmp_path / name, first, splits=name == "a")
        for path in (root / "images").iterdir():
            Image.open(path).resize((28, 28)).save(path)
    found = findings(check(tmp_path / "a", tmp_path / "b"))
    assert "under 48, are too small" in found["near-duplicate", "ok"].message


def test_a_patient_in_both_is_refused_unless_the_names_are_said_to_be_other_peoples(tmp_path):
    trained = write(tmp_path / "a", 0, patients=lambda number: f"P{number}")
    tested = write(tmp_path / "b", 10_000, count=60, splits=False, patients=lambda number: f"P{number // 2 + 150}")
    external = check(trained, tested)  # patients 150 to 179, of which 150 to 159 are in val
    found = findings(external)["patient", "refuse"]
    assert found.count == 20
    assert "patient 'P150' is in a (train or val) and b: 10 are, with 20 images tested on" in found.message
    assert "--distinct-patients" in audit_external("a", external).refusal().fix
    distinct = check(trained, tested, distinct_patients=True)
    assert distinct.findings == ()
    assert "equal names of patients in a are said to be other people" in distinct.notes


def test_dropping_leaves_out_copies_and_all_images_of_their_patients(tmp_path):
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


def test_where_dropping_leaves_nothing_the_pair_is_refused(sets, tmp_path):
    tested = shutil.copytree(sets[0], tmp_path / "same")
    (tested / "images" / "239.png").unlink()
    table = tested / "table.csv"
    table.write_text(
        "\n".join(line for line in table.read_text().splitlines() if not line.startswith(("16", "17", "18", "19", "2")))
    )
    with pytest.raises(DataError, match="and none is left"):
        check(sets[0], tested, drop=True)


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
    found = findings(external)["patient", "refuse"]
    assert found.count == 234
    assert "is in train (train or val) and test: 200 are, with 234 images tested on" in found.message
    dropped = check(trained, tested, folds=5, drop=True)
    assert len(dropped.rows) <= 1000 - 234 and audit_external("train", dropped).refusal() is None


def test_what_is_wrong_with_the_images_tested_on_themselves_is_said(sets, tested):
    for place in (10, 11, 13):  # of labels a, b and b
        copy(sets[1], 0, tested, place)
    found = findings(check(sets[0], tested))
    assert found["label-conflict", "warn"].count > 0 and found["identical-within", "warn"].count == 3
