"""The audit on sets with one fault each, on real sets, and as the gate of a bench."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.audit.leaks import audit
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.report.audit_text import audit_lines
from zoo.sources.opening import find_source

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RANDOM = np.random.default_rng(0)


def write_set(root, *, size=64, patients=None):
    """Class folders a and b in train, val and test, every image another; patient in the table where given."""
    rows = ["image,patient"]
    for split, count in (("train", 80), ("val", 60), ("test", 60)):
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), size)
            rows.append(f"{path.name},{(patients or {}).get(path.name, path.stem)}")
    if patients is not None:
        (root / "patients.csv").write_text("\n".join(rows))
    return root


def save(path, levels, size=64):
    Image.fromarray(levels).resize((size, size), Image.Resampling.BICUBIC).save(path)


def examine(root, cache, **options):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    return audit(source, draw_split(source, fingerprints=fingerprints, **options), fingerprints)


def found(audited, check):
    return [finding for finding in audited.findings if finding.check == check]


def test_a_clean_set_is_ok_and_says_that_patients_are_unknown(tmp_path):
    audited = examine(write_set(tmp_path / "set"), tmp_path)
    assert audited.verdict == "ok" and audited.refusal() is None
    assert [finding.check for finding in audited.findings] == ["patient"]


def test_of_a_clean_set_one_line_says_what_was_looked_at(tmp_path):
    names = [
        f"{split}{number}.png" for split, count in (("train", 80), ("val", 60), ("test", 60)) for number in range(count)
    ]
    patients = {name: f"{name[:-5]}-{name[-5]}" if len(name) > 9 else name for name in names}
    root = write_set(tmp_path / "set", patients=patients)
    assert audit_lines(examine(root, tmp_path)) == [
        f"set: ok: 200 images of {len(set(patients.values()))} patients; no conflicting labels, copies across splits, "
        "copies within a split, shared patients, patients spelt in two ways, look-alikes, absent classes, "
        "blank images, odd sizes, telling columns"
    ]


def test_what_could_not_be_looked_at_is_said_with_the_reason(tmp_path):
    root = write_set(tmp_path / "set", size=16)
    (line,) = audit_lines(examine(root, tmp_path))
    assert line.startswith("set: ok: 200 images; no ")
    small = "images of 16 px, under 48, are too small to tell a copy"
    assert line.endswith(f", telling columns; not looked at: patients (no patient key), look-alikes ({small})")
    (root / "dataset.toml").write_text('near_duplicates = "ignore"\n')
    (line,) = audit_lines(examine(root, tmp_path))
    assert line.endswith("look-alikes (its card says to ignore them)")


def test_the_checksums_of_a_card_are_said_to_be_looked_at_only_where_there_are_some(tmp_path):
    root = write_set(tmp_path / "set", size=16, patients={})
    assert "unofficial files" not in audit_lines(examine(root, tmp_path))[0]
    md5 = hashlib.md5((root / "patients.csv").read_bytes()).hexdigest()
    (root / "dataset.toml").write_text(f'checksums = {{"patients.csv" = "{md5}"}}\n')
    assert audit_lines(examine(root, tmp_path))[0].endswith(
        ", unofficial files; not looked at: look-alikes (images of 16 px, under 48, are too small to tell a copy)"
    )


def test_every_check_of_the_docs_is_named_there_as_the_audit_names_it(tmp_path):
    root = write_set(tmp_path / "set", patients={})
    (root / "dataset.toml").write_text('checksums = {"patients.csv" = "0"}\n')
    page = (Path(__file__).resolve().parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    made = examine(root, tmp_path).scope.sought
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip(" `"): row[1].strip() for row in rows if row[0].strip(" `") in made} == made


def write_labels(root, cells, *, split=None):
    """Images with the labels a and b in a table, "" where unknown; each of a patient of its own."""
    root.mkdir()
    rows = ["image,a,b" + (",split" if split else "")]
    for number, cell in enumerate(cells):
        save(root / f"{number}.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), 16)
        rows.append(f"{number}.png,{cell},{number % 2}" + (f",{split[number]}" if split else ""))
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "dataset.toml").write_text('label = {columns = ["a", "b"]}\n')
    return root


THREE = ["train"] * 80 + ["val"] * 60 + ["test"] * 60


@pytest.mark.parametrize(
    ("train", "val", "test", "told"),
    [
        (
            "0 0",
            "0 1",
            "0 1",
            "no image with 'a' in train: it cannot be learned there, "
            "and its score is counted in the macro mean all the same",
        ),
        (
            "0 1",
            "0 0",
            "0 1",
            "no image with 'a' in val: its AUROC is undefined on val, and left out of the macro mean there",
        ),
        (
            "0 1",
            "0 1",
            "1 1",
            "no image without 'a' in test: its AUROC is undefined on test, and left out of the macro mean there",
        ),
        (
            "0 1",
            "0 1",
            "1 ?",
            "no image without 'a' in test: its AUROC is undefined on test, and left out of the macro mean there",
        ),
        (
            "0 1",
            "? ?",
            "0 1",
            "no image with 'a' in val: its AUROC is undefined on val, and left out of the macro mean there",
        ),
        (
            "0 ?",
            "0 1",
            "0 ?",
            "no image with 'a' in train and test: it cannot be learned there; "
            "its AUROC is undefined on test, and left out of the macro mean there",
        ),
        (
            "0 1",
            "0 1",
            "? 1",
            "no image without 'a' in test: its AUROC is undefined on test, and left out of the macro mean there",
        ),
    ],
)
def test_a_label_that_one_split_cannot_teach_or_test_is_told_with_what_follows(train, val, test, told, tmp_path):
    values = dict(zip(("train", "val", "test"), (train.split(), val.split(), test.split()), strict=True))
    rows = [values[name][number // 2 % 2].replace("?", "") for number, name in enumerate(THREE)]
    audited = examine(write_labels(tmp_path / "set", rows, split=THREE), tmp_path)
    assert [finding.message for finding in found(audited, "class-absent")] == [told]
    assert audited.verdict == "warn"


def test_labels_that_every_split_knows_both_ways_are_no_finding(tmp_path):
    cells = [("0", "1", "")[number // 2 % 3] for number in range(200)]
    audited = examine(write_labels(tmp_path / "set", cells, split=THREE), tmp_path)
    assert audited.verdict == "ok" and "absent labels" in audited.scope.sought.values()


def test_in_cross_validation_it_is_said_of_how_many_folds_a_label_is_absent(tmp_path):
    cells = ["1" if number in (0, 1, 2) else "0" for number in range(200)]
    (finding,) = found(examine(write_labels(tmp_path / "set", cells), tmp_path, folds=5), "class-absent")
    lacking = re.match(r"no image with 'a' in val of (\d) of 5 folds, test of (\d): its AUROC", finding.message)
    # Three images are tested in three folds at most, each in one.
    assert lacking and int(lacking[2]) >= 2 and finding.splits == ("val", "test")


def test_a_class_is_looked_for_in_every_fold_not_the_first_alone(tmp_path):
    root = tmp_path / "set"
    for number in range(203):
        path = root / ("rare" if number >= 200 else "ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    source = open_dataset(find_source(root), tmp_path)
    fingerprints = take_fingerprints(source, tmp_path)
    split = draw_split(source, folds=5, fingerprints=fingerprints)
    targets = np.asarray(source.samples.targets)
    without = sum(not (targets[fold == "test"] == 2).any() for fold in split.folds)
    (finding,) = found(audit(source, split, fingerprints), "class-absent")
    assert without >= 2 and f"test of {without}" in finding.message


def test_the_same_pixels_in_two_splits_are_refused_though_the_files_differ(tmp_path):
    root = write_set(tmp_path / "set")
    Image.open(root / "train/a/train0.png").save(root / "test/a/test0.png", compress_level=0)
    assert (root / "train/a/train0.png").read_bytes() != (root / "test/a/test0.png").read_bytes()
    audited = examine(root, tmp_path)
    (finding,) = found(audited, "identical")
    assert (finding.verdict, finding.splits, finding.count) == ("refuse", ("train", "test"), 2)
    error = audited.refusal()
    assert isinstance(error, DataError) and error.code == "identical"
    assert "train/a/train0.png (train)" in error.message and "test/a/test0.png (test)" in error.message
    assert "--drop-leaks" in error.fix


def test_dropping_leaks_mends_copies_and_not_conflicts_of_labels(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "test/a/test0.png").write_bytes((root / "train/a/train0.png").read_bytes())
    assert examine(root, tmp_path, drop_leaks=True).verdict == "ok"
    (root / "test/b/test1.png").write_bytes((root / "train/a/train2.png").read_bytes())
    audited = examine(root, tmp_path, drop_leaks=True)
    (finding,) = found(audited, "label-conflict")
    assert finding.verdict == "refuse" and "with two labels, 'b' and 'a'" in finding.message


def test_a_conflict_within_a_split_is_a_warning_and_a_known_one_is_none(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "test/b/test1.png").write_bytes((root / "test/a/test0.png").read_bytes())
    assert found(examine(root, tmp_path), "label-conflict")[0].verdict == "warn"
    (root / "dataset.toml").write_text('known_conflicts = [["test/a/test0.png", "test/b/test1.png"]]\n')
    assert not found(examine(root, tmp_path), "label-conflict")


def test_a_patient_in_two_splits_is_refused_by_name(tmp_path):
    root = write_set(tmp_path / "set", patients={"train0.png": "P7", "test0.png": "P7", "test1.png": "P7"})
    audited = examine(root, tmp_path)
    (finding,) = found(audited, "patient")
    assert (finding.verdict, finding.count) == ("refuse", 3)
    assert "'P7' is in two splits" in finding.message and "with 2 test images" in finding.message
    assert examine(root, tmp_path, drop_leaks=True).verdict == "ok"


@pytest.mark.parametrize(
    ("a", "b"), [("Pa0", "pA0"), ("Müller 1", "MÜLLER 1"), ("P 1", "P  1"), ("P 1", "P1"), ("P1", "P\u00a01")]
)
def test_patients_whose_names_differ_only_in_case_or_blanks_are_a_warning_that_names_them(tmp_path, a, b):
    patients = {"train0.png": a, "train2.png": "Q1", "train4.png": "q1", "test0.png": b}
    audited = examine(write_set(tmp_path / "set", patients=patients), tmp_path)
    (finding,) = found(audited, "patient-spelling")
    assert (finding.verdict, finding.count, finding.splits) == ("warn", 4, ("train", "test"))
    assert f"{b!r} of test/a/test0.png (test) and {a!r} of train/a/train0.png (train)" in finding.message
    assert "'Q1' of train/a/train2.png (train) and 'q1'" in finding.message
    assert finding.pairs[0] == ("test/a/test0.png", "train/a/train0.png")
    assert not found(audited, "patient")


def test_patients_in_two_unicode_forms_are_one_also_where_a_plugin_hands_them_over(tmp_path):
    root = write_set(tmp_path / "set", patients={"train0.png": "\u00e9", "test0.png": "e\u0301"})
    assert found(examine(root, tmp_path), "patient")[0].verdict == "refuse"
    spec = find_source(root)

    def as_written(request):
        samples = spec.samples(request)
        return replace(
            samples, table=samples.table.assign(patient=samples.table["patient"].replace("\u00e9", "e\u0301"))
        )

    source = open_dataset(replace(spec, samples=as_written), tmp_path)
    assert "\u00e9" in source.patients and "e\u0301" not in source.patients


def test_look_alikes_are_refused_above_half_a_percent_of_test(tmp_path):
    root = write_set(tmp_path / "set")
    image = Image.open(root / "train/a/train0.png")
    brighter = np.clip(np.asarray(image).astype(int) * 9 // 10 + 12, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(root / "test/a/test0.png")
    (finding,) = found(examine(root, tmp_path), "near-duplicate")
    assert finding.verdict == "refuse" and "1.7% of test" in finding.message  # one of 60
    (root / "dataset.toml").write_text('near_duplicates = "ignore"\n')
    assert not found(examine(root, tmp_path), "near-duplicate")


def test_a_column_that_stands_for_the_label_is_told_and_one_of_noise_is_not(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    rows = ["image,label,scanner,age"]
    for number in range(200):
        save(root / f"{number}.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
        scanner = "GE" if (number % 2) ^ (number % 10 == 0) else "Siemens"
        rows.append(f"{number}.png,{'ab'[number % 2]},{scanner},{RANDOM.integers(20, 90)}")
    (root / "labels.csv").write_text("\n".join(rows))
    told = found(examine(root, tmp_path), "metadata")
    assert [finding.message.split("'")[1] for finding in told] == ["scanner"]


def told_of(cells, labels, tmp_path, *, sizes=None, suffixes=None):
    """What is said of one column `x`, of 200 images labelled a and b."""
    root = tmp_path / "set"
    root.mkdir()
    rows = ["image,label,x"]
    for number, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        name = f"{number}{suffixes[number] if suffixes else '.png'}"
        save(root / name, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), sizes[number] if sizes else 16)
        rows.append(f"{name},{label},{cell}")
    (root / "labels.csv").write_text("\n".join(rows))
    return [finding.message for finding in found(examine(root, tmp_path), "metadata")]


LABELS = ["ab"[number % 2] for number in range(200)]


@pytest.mark.parametrize(
    ("of_a", "of_b", "expected"),
    [
        (lambda n: f"{40 + n % 23}.5", lambda n: f"{55 + n % 23}.5", True),  # ages
        (lambda n: f"{40 + n % 23}.5" if n % 3 else "unknown", lambda n: f"{55 + n % 23}.5", True),
        (lambda n: f"{40 + n % 23}.5", lambda n: f"{40 + n % 23}.5", False),
        (lambda n: "", lambda n: "grade 2" if n % 8 else "", True),  # filled in for the sick alone
        (lambda n: f"study {n}", lambda n: f"study {n}", False),  # a name
        (lambda n: "1", lambda n: "1", False),
    ],
    ids=["numbers", "numbers and words", "the same numbers", "blanks", "names", "one value"],
)
def test_columns_of_numbers_words_and_blanks_are_told_where_they_stand_for_the_label(of_a, of_b, expected, tmp_path):
    cells = [(of_a if label == "a" else of_b)(number) for number, label in enumerate(LABELS)]
    told = told_of(cells, LABELS, tmp_path)
    assert [message.startswith("column 'x' alone predicts the label: AUROC ") for message in told] == [True] * expected


def test_sizes_and_types_of_files_that_stand_for_the_label_are_told(tmp_path):
    sizes = [16 if label == "a" else 20 for label in LABELS]
    suffixes = [".png" if label == "a" else ".bmp" for label in LABELS]
    told = told_of(["1"] * 200, LABELS, tmp_path, sizes=sizes, suffixes=suffixes)
    assert [message.partition(" alone")[0] for message in told] == [
        *("the image's width", "the image's height", "the file's type"),
    ]
    assert all("AUROC 1.00" in message for message in told)


def test_an_official_split_that_stands_for_the_label_is_told(tmp_path):
    root = tmp_path / "set"
    for split, mostly, rarely in (("train", "a", "b"), ("test", "b", "a")):
        for number in range(100):
            path = root / split / (rarely if number % 8 == 0 else mostly) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), 16)
    (finding,) = found(examine(root, tmp_path), "metadata")
    assert finding.message.startswith("the official split alone predicts the label")


def test_a_file_that_is_not_the_one_the_card_has_the_checksum_of_is_told(tmp_path):
    root = write_set(tmp_path / "set", size=16, patients={})
    md5 = {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in ("patients.csv", "test/a/test0.png")}
    card = "checksums = {" + ", ".join(f'"{name}" = "{value}"' for name, value in md5.items()) + "}\n"
    (root / "dataset.toml").write_text(card)
    assert not found(examine(root, tmp_path), "checksum")
    (root / "patients.csv").write_text((root / "patients.csv").read_text() + "\n\n")
    (finding,) = found(examine(root, tmp_path), "checksum")
    assert finding.verdict == "warn" and "patients.csv is not the official file" in finding.message
    assert md5["patients.csv"] in finding.message


def test_blank_and_odd_images_are_told(tmp_path):
    root = write_set(tmp_path / "set")
    save(root / "train/a/train0.png", np.zeros((8, 8), np.uint8))
    save(root / "train/a/train2.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), size=640)
    audited = examine(root, tmp_path)
    assert audited.verdict == "warn"
    assert found(audited, "blank")[0].samples == ("train/a/train0.png",)
    assert found(audited, "size")[0].samples == ("train/a/train2.png",)


def test_a_split_that_zoo_draws_is_never_refused(tmp_path):
    root = tmp_path / "set"
    for number in range(120):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    for number in range(0, 20, 2):
        (root / "a" / f"copy{number}.png").write_bytes((root / "a" / f"{number}.png").read_bytes())
    audited = examine(root, tmp_path)
    assert audited.verdict == "warn" and not found(audited, "identical")
    assert found(audited, "identical-within")[0].count == 10


# --- real sets -------------------------------------------------------------------------------------------------------
def real(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return SHARED / name


def test_breastmnist_has_one_image_with_opposite_labels_in_train_and_test(tmp_path):
    audited = examine(real("breastmnist.npz"), tmp_path)
    (finding,) = found(audited, "label-conflict")
    assert (finding.verdict, finding.samples) == ("refuse", ("train/115", "test/76"))


def test_pneumoniamnist_has_eight_images_of_val_in_train(tmp_path):
    audited = examine(real("pneumoniamnist.npz"), tmp_path)
    (finding,) = found(audited, "identical")
    assert (finding.verdict, finding.splits) == ("refuse", ("train", "val"))
    assert sum(sample.startswith("val/") for sample in finding.samples) == 8


@pytest.mark.slow
def test_ham10000_split_by_image_leaks_234_test_images_which_dropping_mends(tmp_path):
    root = real("ham10000_mel_nv")
    (finding,) = found(examine(root, tmp_path), "patient")
    assert finding.verdict == "refuse"
    assert "200 of 1563 lesions are, with 234 test images" in finding.message
    mended = examine(root, tmp_path, drop_leaks=True)
    assert mended.verdict == "warn" and not found(mended, "patient") and not found(mended, "near-duplicate")


def test_a_file_of_medmnist_saved_anew_is_not_the_official_one(zoo, tmp_path):
    with np.load(real("breastmnist.npz")) as arrays:
        np.savez(tmp_path / "breastmnist.npz", **arrays)
    done = zoo("audit", "breastmnist", "--offline", MEDMNIST_ROOT=str(tmp_path))
    assert "warn    checksum: breastmnist.npz is not the official file: its md5 is " in done.stdout
    assert "750601b1f35ba3300ea97c75c52ff8f6" in done.stdout
    done = zoo("audit", "breastmnist", "--offline", MEDMNIST_ROOT=str(SHARED))
    assert done.returncode == 0 and "checksum" not in done.stdout


# --- the gate --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    root = write_set(tmp_path_factory.mktemp("sets") / "leaky", size=16)
    (root / "test/a/test0.png").write_bytes((root / "train/a/train0.png").read_bytes())
    return root


def test_a_bench_refuses_a_dataset_that_leaks_in_one_line_and_runs_the_other(bench, leaking, tmp_path):
    clean = write_set(tmp_path / "clean", size=16)
    arguments = ("-m", "thumbnails", "--results", tmp_path / "results")
    status, document, said = bench("-d", f"{leaking},{clean}", *arguments)
    assert status == 3 and document["refused"][0]["code"] == "identical"
    refused = (
        "zoo: error[identical] leaky: refused: test/a/test0.png (test) and train/a/train0.png (train) are the same"
    )
    assert refused in said
    assert {run["dataset"] for run in document["runs"]} == {"clean"}
    assert all(run["status"] == "ok" for run in document["runs"])


def test_the_line_of_a_refusal_names_the_set_once(bench, leaking, tmp_path):
    (tmp_path / "small").mkdir()
    for number in range(6):
        path = tmp_path / "small" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    _, _, said = bench("-d", f"{leaking},{tmp_path / 'small'}", "-m", "thumbnails", "--results", tmp_path / "results")
    lines = [line for line in said.splitlines() if ": refused: " in line]
    assert len(lines) == 2 and not [line for line in lines if "dataset '" in line]
    assert [
        line for line in lines if line.startswith("zoo: error[too-small] small: refused: it is too small for train,")
    ]


def test_a_leak_that_is_allowed_is_stamped_on_every_result_and_not_ranked(bench, leaking, tmp_path):
    arguments = ("-d", leaking, "-m", "thumbnails", "--results", tmp_path / "results")
    status, document, _ = bench(*arguments, "--allow-leak", "to see what it costs")
    assert status == 0
    assert all("leak allowed: to see what it costs" in run["deviations"] for run in document["runs"])
    assert all(row["rank"] is None for row in document["leaderboard"])


def test_dropped_leaks_make_another_split_without_a_stamp(bench, leaking, tmp_path):
    arguments = ("-d", leaking, "-m", "thumbnails", "--results", tmp_path / "results", "--dry-run")
    status, document, said = bench(*arguments, "--drop-leaks")
    assert status == 0 and not any(run["deviations"] for run in document["runs"])
    assert "left out as copies of test (same patient, same pixels or alike): 1 images of train" in said
    ids = {run["id"] for run in document["runs"]}
    _, allowed, _ = bench(*arguments, "--allow-leak", "x")
    assert ids.isdisjoint(run["id"] for run in allowed["runs"])


def test_zoo_audit_prints_a_table_or_one_document_and_exits_with_4(zoo, leaking):
    done = zoo("audit", leaking)
    assert done.returncode == 4
    assert done.stdout.startswith("leaky: refuse: 200 images\n  refuse  identical [train, test]: ")
    assert done.stdout.splitlines()[-1].startswith("  ok      no conflicting labels, copies within a split, absent ")
    done = zoo("audit", leaking, "--json")
    (entry,) = json.loads(done.stdout)["datasets"]
    assert (entry["dataset"], entry["verdict"]) == ("leaky", "refuse")
    assert {"check", "verdict", "splits", "samples", "count"} <= set(entry["findings"][0])
    assert entry["looked_at"]["images"] == 200 and entry["looked_at"]["patients"] is None
    assert "identical" not in entry["looked_at"]["clean"] and "identical-within" in entry["looked_at"]["clean"]
    assert entry["looked_at"]["not_looked_at"]["patient"] == "no patient key"


def test_a_dataset_that_cannot_be_read_is_refused_by_its_error(zoo, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK")
    done = zoo("audit", tmp_path / "x.npz")
    assert done.returncode == 4 and "refuse  npz: " in done.stdout and "Traceback" not in done.stderr
