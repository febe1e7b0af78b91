"""The audit of datasets with one fault each, of real datasets, and as part of a bench."""

import hashlib
import io
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from PIL import Image

from zoo.auditing.audit import run_audit
from zoo.auditing.columns import metadata_columns
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.report.audit_text import audit_lines
from zoo.sources.opening import find_source
from zoo.specs.dataset import DatasetSpec, parse_patient

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RANDOM = np.random.default_rng(0)


@cache
def random_png(number, size):
    """The bytes of one of the random images, the same in every dataset of this module."""
    stream = io.BytesIO()
    save(stream, np.random.default_rng([1, number]).integers(0, 256, (8, 8), dtype=np.uint8), size)
    return stream.getvalue()


def write_set(root, *, size=64, patients=None):
    """Write class folders a and b in train, val and test with random images, and a table of patients if given."""
    rows = ["image,patient"]
    for split, count in (("train", 80), ("val", 60), ("test", 60)):
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random_png(len(rows), size))
            rows.append(f"{path.name},{(patients or {}).get(path.name, path.stem)}")
    if patients is not None:
        (root / "patients.csv").write_text("\n".join(rows))
    return root


def save(path, levels, size=64):
    Image.fromarray(levels).resize((size, size), Image.Resampling.BICUBIC).save(path, "PNG")


def examine(root, cache, **options):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    return run_audit(source, draw_split(source, fingerprints=fingerprints, **options), fingerprints)


def findings_of(audited, check):
    return [finding for finding in audited.findings if finding.check == check]


@pytest.mark.integration
def test_a_clean_dataset_is_ok_with_a_note_on_missing_patients(tmp_path):
    audited = examine(write_set(tmp_path / "set"), tmp_path)
    assert audited.verdict == "ok" and audited.refusal() is None
    assert [finding.check for finding in audited.findings] == ["patient"]


def test_a_clean_dataset_is_one_line_that_lists_the_checks(tmp_path):
    names = [
        f"{split}{number}.png" for split, count in (("train", 80), ("val", 60), ("test", 60)) for number in range(count)
    ]
    patients = {name: f"{name[:-5]}-{name[-5]}" if len(name) > 9 else name for name in names}
    root = write_set(tmp_path / "set", patients=patients)
    assert audit_lines(examine(root, tmp_path)) == [
        f"set: ok: 200 images of {len(set(patients.values()))} patients; no conflicting labels, "
        "duplicates across splits, duplicates within a split, shared patients, patients spelled in several ways, "
        "near-duplicates, missing classes, blank images, unusual sizes, predictive columns"
    ]


def test_skipped_checks_are_listed_with_their_reason(tmp_path):
    root = write_set(tmp_path / "set", size=16)
    (line,) = audit_lines(examine(root, tmp_path))
    assert line.startswith("set: ok: 200 images; no ")
    small = "images of 16 px (under 48) are too small to identify copies"
    assert line.endswith(f", predictive columns; not checked: patients (no patient key), near-duplicates ({small})")
    (root / "dataset.toml").write_text('near_duplicates = "ignore"\n')
    (line,) = audit_lines(examine(root, tmp_path))
    assert line.endswith("near-duplicates (ignored by its card)")


def test_checks_that_do_not_apply_to_a_task_are_listed(tmp_path):
    root = write_labels(tmp_path / "set", [number / 7 for number in range(40)])
    (root / "dataset.toml").write_text('task = "regression"\nlabel = {column = "a"}\n')
    (line,) = audit_lines(examine(root, tmp_path))
    for check in ("missing labels", "predictive columns"):
        assert f"{check} (does not apply to regression)" in line.partition("; not checked: ")[2]


def test_the_checksum_check_is_listed_only_for_cards_with_checksums(tmp_path):
    root = write_set(tmp_path / "set", size=16, patients={})
    assert "unofficial files" not in audit_lines(examine(root, tmp_path))[0]
    md5 = hashlib.md5((root / "patients.csv").read_bytes()).hexdigest()
    (root / "dataset.toml").write_text(f'checksums = {{"patients.csv" = "{md5}"}}\n')
    assert audit_lines(examine(root, tmp_path))[0].endswith(
        ", unofficial files; not checked: near-duplicates (images of 16 px (under 48) are too small to identify copies)"
    )


def test_docs_and_audit_use_the_same_names_for_the_checks(tmp_path):
    root = write_set(tmp_path / "set", patients={})
    (root / "dataset.toml").write_text('checksums = {"patients.csv" = "0"}\n')
    page = (Path(__file__).resolve().parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    made = examine(root, tmp_path).scope.checks
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip(" `"): row[1].strip() for row in rows if row[0].strip(" `") in made} == made


def write_labels(root, cells, *, split=None):
    """Write images with a table of the labels a and b ("" if unknown), one patient per image."""
    root.mkdir()
    rows = ["image,a,b" + (",split" if split else "")]
    for number, cell in enumerate(cells):
        save(root / f"{number}.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), 16)
        rows.append(f"{number}.png,{cell},{number % 2}" + (f",{split[number]}" if split else ""))
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "dataset.toml").write_text('label = {columns = ["a", "b"]}\n')
    return root


THREE = ["train"] * 80 + ["val"] * 60 + ["test"] * 60


@pytest.mark.integration
@pytest.mark.parametrize(
    ("train", "val", "test", "message"),
    [
        (
            "0 0",
            "0 1",
            "0 1",
            "no image with 'a' in train: it cannot be learned there, but its score counts in the macro mean",
        ),
        (
            "0 1",
            "0 0",
            "0 1",
            "no image with 'a' in val: its AUROC is undefined on val and left out of the macro mean",
        ),
        (
            "0 1",
            "0 1",
            "1 1",
            "no image without 'a' in test: its AUROC is undefined on test and left out of the macro mean",
        ),
        (
            "0 1",
            "0 1",
            "1 ?",
            "no image without 'a' in test: its AUROC is undefined on test and left out of the macro mean",
        ),
        (
            "0 1",
            "? ?",
            "0 1",
            "no image with 'a' in val: its AUROC is undefined on val and left out of the macro mean",
        ),
        (
            "0 ?",
            "0 1",
            "0 ?",
            "no image with 'a' in train and test: it cannot be learned there; "
            "its AUROC is undefined on test and left out of the macro mean",
        ),
        (
            "0 1",
            "0 1",
            "? 1",
            "no image without 'a' in test: its AUROC is undefined on test and left out of the macro mean",
        ),
    ],
)
def test_a_label_missing_from_a_split_is_reported_with_its_effect(train, val, test, message, tmp_path):
    values = dict(zip(("train", "val", "test"), (train.split(), val.split(), test.split()), strict=True))
    rows = [values[name][number // 2 % 2].replace("?", "") for number, name in enumerate(THREE)]
    audited = examine(write_labels(tmp_path / "set", rows, split=THREE), tmp_path)
    assert [finding.message for finding in findings_of(audited, "class-absent")] == [message]
    assert audited.verdict == "warn"


def test_labels_with_positives_and_negatives_in_every_split_are_no_finding(tmp_path):
    cells = [("0", "1", "")[number // 2 % 3] for number in range(200)]
    audited = examine(write_labels(tmp_path / "set", cells, split=THREE), tmp_path)
    assert audited.verdict == "ok" and "missing labels" in audited.scope.checks.values()


@pytest.mark.integration
def test_cross_validation_reports_the_number_of_folds_without_a_label(tmp_path):
    cells = ["1" if number in (0, 1, 2) else "0" for number in range(200)]
    (finding,) = findings_of(examine(write_labels(tmp_path / "set", cells), tmp_path, folds=5), "class-absent")
    counts = re.match(r"no image with 'a' in val of (\d) of 5 folds, test of (\d): its AUROC", finding.message)
    # Three images are in the test split of three folds at most.
    assert counts and int(counts[2]) >= 2 and finding.splits == ("val", "test")


@pytest.mark.integration
def test_missing_classes_are_checked_in_every_fold(tmp_path):
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
    (finding,) = findings_of(run_audit(source, split, fingerprints), "class-absent")
    assert without >= 2 and f"test of {without}" in finding.message


def test_identical_pixels_in_different_files_of_two_splits_are_refused(tmp_path):
    root = write_set(tmp_path / "set")
    Image.open(root / "train/a/train0.png").save(root / "test/a/test0.png", compress_level=0)
    assert (root / "train/a/train0.png").read_bytes() != (root / "test/a/test0.png").read_bytes()
    audited = examine(root, tmp_path)
    (finding,) = findings_of(audited, "identical")
    assert (finding.verdict, finding.splits, finding.count) == ("refuse", ("train", "test"), 2)
    error = audited.refusal()
    assert isinstance(error, DataError) and error.code == "identical"
    assert "train/a/train0.png (train)" in error.message and "test/a/test0.png (test)" in error.message
    assert "--drop-leaks" in error.fix


@pytest.mark.integration
def test_drop_leaks_fixes_copies_but_not_label_conflicts(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "test/a/test0.png").write_bytes((root / "train/a/train0.png").read_bytes())
    assert examine(root, tmp_path, drop_leaks=True).verdict == "ok"
    (root / "test/b/test1.png").write_bytes((root / "train/a/train2.png").read_bytes())
    audited = examine(root, tmp_path, drop_leaks=True)
    (finding,) = findings_of(audited, "label-conflict")
    assert finding.verdict == "refuse" and "with different labels, 'b' and 'a'" in finding.message


@pytest.mark.integration
def test_a_conflict_within_a_split_is_a_warning_unless_it_is_listed_as_known(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "test/b/test1.png").write_bytes((root / "test/a/test0.png").read_bytes())
    assert findings_of(examine(root, tmp_path), "label-conflict")[0].verdict == "warn"
    (root / "dataset.toml").write_text('known_conflicts = [["test/a/test0.png", "test/b/test1.png"]]\n')
    assert not findings_of(examine(root, tmp_path), "label-conflict")


def test_a_patient_in_two_splits_is_refused_by_name(tmp_path):
    root = write_set(tmp_path / "set", patients={"train0.png": "P7", "test0.png": "P7", "test1.png": "P7"})
    audited = examine(root, tmp_path)
    (finding,) = findings_of(audited, "patient")
    assert (finding.verdict, finding.count) == ("refuse", 3)
    assert "'P7' is in two splits" in finding.message and "with 2 test images" in finding.message
    assert examine(root, tmp_path, drop_leaks=True).verdict == "ok"


def test_a_patient_column_that_the_card_does_not_mention_is_called_patient(tmp_path):
    names = [f"train{number}.png" for number in range(80)] + [f"test{number}.png" for number in range(60)]
    root = write_set(tmp_path / "set", patients={name: f"P{number % 80}" for number, name in enumerate(names)})
    spec = replace(find_source(root), patient=DatasetSpec.patient)
    source = open_dataset(spec, tmp_path)
    fingerprints = take_fingerprints(source, tmp_path)
    audited = run_audit(source, draw_split(source, fingerprints=fingerprints), fingerprints)
    (finding,) = findings_of(audited, "patient")
    assert source.patient_word == "patient" and "none" not in finding.message
    assert finding.message.startswith("patient 'P0' is in two splits") and "60 of 140 patients, " in finding.message


@pytest.mark.parametrize(
    ("patient", "word"),
    [("none: image level", "patient"), ("", "patient"), ("lesion: one per scan", "lesion"), ("eye", "eye")],
)
def test_the_word_for_a_patient_is_the_noun_of_the_card(patient, word):
    assert parse_patient(patient).word == word


@pytest.mark.parametrize(
    ("a", "b"), [("Pa0", "pA0"), ("Müller 1", "MÜLLER 1"), ("P 1", "P  1"), ("P 1", "P1"), ("P1", "P\u00a01")]
)
@pytest.mark.integration
def test_patient_names_that_differ_only_in_case_or_blanks_are_a_warning(tmp_path, a, b):
    patients = {"train0.png": a, "train2.png": "Q1", "train4.png": "q1", "test0.png": b}
    audited = examine(write_set(tmp_path / "set", patients=patients), tmp_path)
    (finding,) = findings_of(audited, "patient-spelling")
    assert (finding.verdict, finding.count, finding.splits) == ("warn", 4, ("train", "test"))
    assert f"{b!r} of test/a/test0.png (test) and {a!r} of train/a/train0.png (train)" in finding.message
    assert "'Q1' of train/a/train2.png (train) and 'q1'" in finding.message
    assert finding.pairs[0] == ("test/a/test0.png", "train/a/train0.png")
    assert not findings_of(audited, "patient")


@pytest.mark.integration
def test_patients_in_two_unicode_forms_are_one_also_from_a_plugin(tmp_path):
    root = write_set(tmp_path / "set", patients={"train0.png": "\u00e9", "test0.png": "e\u0301"})
    assert findings_of(examine(root, tmp_path), "patient")[0].verdict == "refuse"
    spec = find_source(root)

    def as_written(request):
        samples = spec.samples(request)
        return replace(
            samples, table=samples.table.assign(patient=samples.table["patient"].replace("\u00e9", "e\u0301"))
        )

    source = open_dataset(replace(spec, samples=as_written), tmp_path)
    assert "\u00e9" in source.patients and "e\u0301" not in source.patients


def test_near_duplicates_are_refused_above_half_a_percent_of_test(tmp_path):
    root = write_set(tmp_path / "set")
    image = Image.open(root / "train/a/train0.png")
    brighter = np.clip(np.asarray(image).astype(int) * 9 // 10 + 12, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(root / "test/a/test0.png")
    (finding,) = findings_of(examine(root, tmp_path), "near-duplicate")
    assert finding.verdict == "refuse" and "1.7% of the test images" in finding.message  # one of 60
    (root / "dataset.toml").write_text('near_duplicates = "ignore"\n')
    assert not findings_of(examine(root, tmp_path), "near-duplicate")


@pytest.mark.integration
def test_a_predictive_column_is_reported_and_a_random_one_is_not(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    rows = ["image,label,scanner,age"]
    for number in range(200):
        save(root / f"{number}.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
        scanner = "GE" if (number % 2) ^ (number % 10 == 0) else "Siemens"
        rows.append(f"{number}.png,{'ab'[number % 2]},{scanner},{RANDOM.integers(20, 90)}")
    (root / "labels.csv").write_text("\n".join(rows))
    findings = findings_of(examine(root, tmp_path), "metadata")
    assert [finding.message.split("'")[1] for finding in findings] == ["scanner"]


def column_messages(cells, labels, tmp_path, *, sizes=None, suffixes=None):
    """Return the audit's messages on one column `x` of 200 images labeled a and b."""
    root = tmp_path / "set"
    root.mkdir()
    rows = ["image,label,x"]
    for number, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        name = f"{number}{suffixes[number] if suffixes else '.png'}"
        save(root / name, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), sizes[number] if sizes else 16)
        rows.append(f"{name},{label},{cell}")
    (root / "labels.csv").write_text("\n".join(rows))
    return [finding.message for finding in findings_of(examine(root, tmp_path), "metadata")]


LABELS = ["ab"[number % 2] for number in range(200)]


@pytest.mark.parametrize(
    ("of_a", "of_b", "expected"),
    [
        (lambda n: f"{40 + n % 23}.5", lambda n: f"{55 + n % 23}.5", True),  # ages
        (lambda n: f"{40 + n % 23}.5" if n % 3 else "unknown", lambda n: f"{55 + n % 23}.5", True),
        (lambda n: f"{40 + n % 23}.5", lambda n: f"{40 + n % 23}.5", False),
        (lambda n: "", lambda n: "grade 2" if n % 8 else "", True),  # filled in for one class only
        (lambda n: f"study {n}", lambda n: f"study {n}", False),  # an identifier
        (lambda n: "1", lambda n: "1", False),
    ],
    ids=["numbers", "numbers and words", "the same numbers", "blanks", "names", "one value"],
)
@pytest.mark.integration
def test_predictive_columns_of_numbers_words_and_blanks_are_reported(of_a, of_b, expected, tmp_path):
    cells = [(of_a if label == "a" else of_b)(number) for number, label in enumerate(LABELS)]
    messages = column_messages(cells, LABELS, tmp_path)
    assert [message.startswith("column 'x' alone predicts the label: AUROC ") for message in messages] == [
        True
    ] * expected


def test_columns_of_the_second_input_are_checked_like_metadata():
    source = SimpleNamespace(
        samples=SimpleNamespace(table=pandas.DataFrame({"age": ["40", "50"], "x": ["a", "b"]}), files=()),
        spec=SimpleNamespace(metadata=("x",), inputs=("age", "x")),
        splits=np.array(["train", "test"]),
    )
    images = SimpleNamespace(widths=np.array([8, 8]), heights=np.array([8, 8]), channels=np.array([1, 1]))
    columns = metadata_columns(source, images)
    assert list(columns)[:2] == ["column 'x'", "column 'age'"] and columns["column 'age'"].tolist() == ["40", "50"]


@pytest.mark.integration
def test_predictive_sizes_and_types_of_files_are_reported(tmp_path):
    sizes = [16 if label == "a" else 20 for label in LABELS]
    suffixes = [".png" if label == "a" else ".bmp" for label in LABELS]
    messages = column_messages(["1"] * 200, LABELS, tmp_path, sizes=sizes, suffixes=suffixes)
    assert [message.partition(" alone")[0] for message in messages] == [
        *("the image's width", "the image's height", "the file's type"),
    ]
    assert all("AUROC 1.00" in message for message in messages)


def test_a_predictive_official_split_is_reported(tmp_path):
    root = tmp_path / "set"
    for split, mostly, rarely in (("train", "a", "b"), ("test", "b", "a")):
        for number in range(100):
            path = root / split / (rarely if number % 8 == 0 else mostly) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), 16)
    (finding,) = findings_of(examine(root, tmp_path), "metadata")
    assert finding.message.startswith("the official split alone predicts the label")


def test_a_file_that_differs_from_its_checksum_is_reported(tmp_path):
    root = write_set(tmp_path / "set", size=16, patients={})
    md5 = {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in ("patients.csv", "test/a/test0.png")}
    card = "checksums = {" + ", ".join(f'"{name}" = "{value}"' for name, value in md5.items()) + "}\n"
    (root / "dataset.toml").write_text(card)
    assert not findings_of(examine(root, tmp_path), "checksum")
    (root / "patients.csv").write_text((root / "patients.csv").read_text() + "\n\n")
    (finding,) = findings_of(examine(root, tmp_path), "checksum")
    assert finding.verdict == "warn" and "patients.csv is not the official file" in finding.message
    assert md5["patients.csv"] in finding.message


def test_blank_and_unusually_sized_images_are_reported(tmp_path):
    root = write_set(tmp_path / "set")
    save(root / "train/a/train0.png", np.zeros((8, 8), np.uint8))
    save(root / "train/a/train2.png", RANDOM.integers(0, 256, (8, 8), dtype=np.uint8), size=640)
    audited = examine(root, tmp_path)
    assert audited.verdict == "warn"
    assert findings_of(audited, "blank")[0].samples == ("train/a/train0.png",)
    assert findings_of(audited, "size")[0].samples == ("train/a/train2.png",)


def test_a_split_that_zoo_draws_is_never_refused(tmp_path):
    root = tmp_path / "set"
    for number in range(120):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    for number in range(0, 20, 2):
        (root / "a" / f"copy{number}.png").write_bytes((root / "a" / f"{number}.png").read_bytes())
    audited = examine(root, tmp_path)
    assert audited.verdict == "warn" and not findings_of(audited, "identical")
    assert findings_of(audited, "identical-within")[0].count == 10


# --- real datasets ---------------------------------------------------------------------------------------------------
def real(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return SHARED / name


@pytest.mark.integration
def test_breastmnist_has_one_image_with_opposite_labels_in_train_and_test(tmp_path):
    audited = examine(real("breastmnist.npz"), tmp_path)
    (finding,) = findings_of(audited, "label-conflict")
    assert (finding.verdict, finding.samples) == ("refuse", ("train/115", "test/76"))


@pytest.mark.slow
@pytest.mark.integration
def test_pneumoniamnist_has_eight_images_of_val_in_train(tmp_path):
    audited = examine(real("pneumoniamnist.npz"), tmp_path)
    (finding,) = findings_of(audited, "identical")
    assert (finding.verdict, finding.splits) == ("refuse", ("train", "val"))
    assert sum(sample.startswith("val/") for sample in finding.samples) == 8


@pytest.mark.slow
def test_ham10000_split_by_image_leaks_234_test_images_until_leaks_are_dropped(tmp_path):
    root = real("ham10000_mel_nv")
    (finding,) = findings_of(examine(root, tmp_path), "patient")
    assert finding.verdict == "refuse"
    assert "200 of 1563 lesions, with 234 test images" in finding.message
    audited = examine(root, tmp_path, drop_leaks=True)
    assert audited.verdict == "warn" and not audited.failed_checks & {"patient", "near-duplicate"}


def test_a_rewritten_medmnist_file_is_reported_as_unofficial(zoo, tmp_path):
    with np.load(real("breastmnist.npz")) as arrays:
        np.savez(tmp_path / "breastmnist.npz", **arrays)
    done = zoo("audit", "breastmnist", "--offline", MEDMNIST_ROOT=str(tmp_path))
    assert "warn    checksum: breastmnist.npz is not the official file: its md5 is " in done.stdout
    assert "750601b1f35ba3300ea97c75c52ff8f6" in done.stdout
    done = zoo("audit", "breastmnist", "--offline", MEDMNIST_ROOT=str(SHARED))
    assert done.returncode == 0 and "checksum" not in done.stdout


# --- the audit in a bench --------------------------------------------------------------------------------------------
SHORT = ("-m", "thumbnails", "--set", "image_size=16", "--set", "steps=2", "--seeds", "1")


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    root = write_set(tmp_path_factory.mktemp("sets") / "leaky", size=16)
    (root / "test/a/test0.png").write_bytes((root / "train/a/train0.png").read_bytes())
    return root


def test_a_bench_refuses_a_leaking_dataset_and_runs_the_other(bench, leaking, tmp_path):
    clean = write_set(tmp_path / "clean", size=16)
    arguments = (*SHORT, "--results", tmp_path / "results")
    status, document, said = bench("-d", f"{leaking},{clean}", *arguments)
    assert status == 3 and document["refused"][0]["code"] == "identical"
    refused = (
        "zoo: error[identical] leaky: refused: test/a/test0.png (test) and train/a/train0.png (train) are the same"
    )
    assert refused in said
    assert {run["dataset"] for run in document["runs"]} == {"clean"}
    assert all(run["status"] == "ok" for run in document["runs"])


def test_a_refusal_names_the_dataset_once(bench, leaking, tmp_path):
    (tmp_path / "small").mkdir()
    for number in range(6):
        path = tmp_path / "small" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        save(path, RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    _, _, stderr = bench("-d", f"{leaking},{tmp_path / 'small'}", *SHORT, "--results", tmp_path / "results")
    lines = [line for line in stderr.splitlines() if ": refused: " in line]
    assert len(lines) == 2 and not [line for line in lines if "dataset '" in line]
    assert [line for line in lines if line.startswith("zoo: error[too-small] small: refused: too small for train,")]


def test_an_allowed_leak_is_recorded_in_every_result_and_not_ranked(bench, leaking, tmp_path):
    arguments = ("-d", leaking, *SHORT, "--results", tmp_path / "results")
    status, document, _ = bench(*arguments, "--allow-leak", "measure its effect")
    assert status == 0
    assert all("leak allowed: measure its effect" in run["deviations"] for run in document["runs"])
    assert all(row["rank"] is None for row in document["leaderboard"])


def test_dropped_leaks_make_another_split_without_deviations(bench, leaking, tmp_path):
    arguments = ("-d", leaking, *SHORT, "--results", tmp_path / "results", "--dry-run")
    status, document, stderr = bench(*arguments, "--drop-leaks")
    assert status == 0 and not any(run["deviations"] for run in document["runs"])
    assert "left out as copies of test (same patient, same pixels or alike): 1 image of train" in stderr
    ids = {run["id"] for run in document["runs"]}
    _, allowed, _ = bench(*arguments, "--allow-leak", "x")
    assert ids.isdisjoint(run["id"] for run in allowed["runs"])


def test_zoo_audit_prints_text_or_json_and_exits_with_4(zoo, leaking):
    done = zoo("audit", leaking)
    assert done.returncode == 4
    assert done.stdout.startswith("leaky: refuse: 200 images\n  refuse  identical [train, test]: ")
    assert done.stdout.splitlines()[-1].startswith(
        "  ok      no conflicting labels, duplicates within a split, missing "
    )
    done = zoo("audit", leaking, "--json")
    (entry,) = json.loads(done.stdout)["datasets"]
    assert (entry["dataset"], entry["verdict"]) == ("leaky", "refuse")
    assert {"check", "verdict", "splits", "samples", "count"} <= set(entry["findings"][0])
    assert entry["looked_at"]["images"] == 200 and entry["looked_at"]["patients"] is None
    assert "identical" not in entry["looked_at"]["clean"] and "identical-within" in entry["looked_at"]["clean"]
    assert entry["looked_at"]["not_looked_at"]["patient"] == "no patient key"


def test_an_unreadable_dataset_is_refused_with_its_error(zoo, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK")
    done = zoo("audit", tmp_path / "x.npz")
    assert done.returncode == 4 and "refuse  npz: " in done.stdout and "Traceback" not in done.stderr
