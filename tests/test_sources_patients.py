"""Patients spelled in two ways, missing or unused are unified, or reported by the audit."""

import numpy as np
import pytest
from folders import card, images, open_source, table
from PIL import Image

from zoo.auditing.audit import run_audit
from zoo.auditing.external import match_datasets
from zoo.auditing.overlap import OverlapRequest, check_overlap
from zoo.data.checks import patient_key, unify_spellings
from zoo.data.lookup import open_and_split
from zoo.errors import DataError
from zoo.sources.opening import find_source
from zoo.system.progress import Console
from zoo.system.settings import Settings

NAMES = [f"{number:03d}" for number in range(40)]


def pictures(root):
    """Forty different images of noise."""
    noise = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        Image.fromarray(noise.integers(0, 256, (16, 16), dtype=np.uint8)).save(root / f"{name}.png")
    return root


def labels(root, patients):
    rows = [f"{name},{'ab'[number // 4 % 2]},{patients(number)}" for number, name in enumerate(NAMES)]
    return table(pictures(root), "image,label,patient_id", *rows)


def examine(root, cache):
    dataset = open_and_split(find_source(root), Settings(cache=cache), Console())
    return run_audit(dataset.source, dataset.split, dataset.fingerprints)


def checks(audited):
    return {finding.check: finding for finding in audited.findings if finding.verdict != "ok"}


@pytest.mark.parametrize(
    "spellings",
    [
        ("12", "12.0", "0012"),
        ("7", "7.0", "7."),
        ("1200", "'1200", "'1200.0"),
        ("3", "3,0", "003"),
        ("12000000", "1.2e+07", "12000000.0"),
        ("90071992547409931", "90071992547409931.0", "090071992547409931"),
    ],
)
def test_all_spellings_of_a_number_are_one_patient(spellings):
    assert set(unify_spellings([*spellings, "other"])) == {spellings[0], "other"}


@pytest.mark.parametrize(
    ("a", "b"), [("12", "12.5"), ("1_2", "12"), ("P1", "P01"), ("1.2.3", "1.2.30"), ("-1", "1"), ("1,000", "1")]
)
def test_patients_that_are_not_whole_numbers_stay_separate(a, b):
    assert patient_key(a) != patient_key(b)


@pytest.mark.parametrize(
    "column",
    [
        *(
            "PatientNr",
            "anon_patient_id",
            "subjectkey",
            "participant",
            "Person Code",
            "pat_no",
            "src_subject_id",
            "MRN",
        ),
        *("Patientennummer", "Numéro de patient", "id_paciente", "Codice paziente", "Proband", "MRN"),
    ],
)
def test_columns_named_like_a_patient_are_the_patient(tmp_path, column):
    rows = [f"{name},{'ab'[int(name) % 2]},{int(name) // 4}" for name in NAMES]
    samples = open_source(table(pictures(tmp_path), f"image,label,{column}", *rows))[1]
    assert samples.table["patient"].nunique() == 10


@pytest.mark.parametrize("column", ["is_patient", "patient_age", "study_date", "per_patient_count", "lesion_number"])
def test_columns_with_a_word_for_patients_and_another_meaning_are_metadata(tmp_path, column):
    rows = [f"{name},{'ab'[int(name) % 2]},{int(name) // 4}" for name in NAMES]
    spec, samples = open_source(table(pictures(tmp_path), f"image,label,{column}", *rows))
    assert column in spec.metadata and "patient" not in samples.table


def test_a_number_spelled_in_one_way_keeps_its_zeros():
    assert unify_spellings(["0012", "0013"]).tolist() == ["0012", "0013"]


def test_a_patient_number_spelled_in_two_ways_stays_in_one_split_with_a_note(tmp_path):
    root = labels(
        tmp_path / "set", lambda number: (str(number // 4), f"{number // 4}.0", f"{number // 4:04}")[number % 3]
    )
    dataset = open_and_split(find_source(root), Settings(cache=tmp_path), Console())
    source, split, fingerprints = dataset.source, dataset.split, dataset.fingerprints
    owner = [number // 4 for number in range(40)]
    assert all(len({fold[row] for row in range(40) if owner[row] == who}) == 1 for fold in split.folds for who in owner)
    finding = checks(run_audit(source, split, fingerprints))["patient-spelling"]
    assert (finding.verdict, finding.count) == ("warn", 40)
    assert "10 of 10 patients are numbers spelled in several ways" in "\n".join(source.samples.notes)


@pytest.mark.parametrize(("a", "b"), [("P012", "P12"), ("P-12", "p12"), ("sub_01", "sub_1")])
def test_names_that_may_be_one_patient_are_noted_and_not_joined(tmp_path, a, b):
    root = labels(tmp_path / "set", lambda number: {0: a, 1: b}.get(number, f"Q{100 + number}"))
    audited = examine(root, tmp_path)
    assert checks(audited)["patient-spelling"].count == 2
    assert audited.scope.num_patients == 40


def test_a_patient_spelled_differently_in_an_external_dataset_is_recognized(tmp_path):
    one = labels(tmp_path / "one", lambda number: f"{number}.0")
    other = labels(tmp_path / "other", lambda number: f"{number:04}")
    settings, console = Settings(cache=tmp_path), Console()
    trained, tested = (open_and_split(find_source(root), settings, console) for root in (one, other))
    external = match_datasets(trained.source, tested.source, tested.fingerprints, {}, name="other")
    request = OverlapRequest(dataset=trained, external=external, distinct_patients=False, cache=tmp_path)
    overlap = check_overlap(request, drop=False)
    assert "patient" in {finding.check for finding in overlap.findings}


ADD = """
table = "truth.csv"
add = {table = "facts.csv", by = "image"}
join = {column = "image"}
label = {column = "dx", positive = "mel"}
patient = {column = "lesion_id", means = "lesion"}
"""


def two_tables(root, key, rows=NAMES):
    table(
        pictures(root), "image,dx", *(f"{name},{('nv', 'mel')[int(name) // 4 % 2]}" for name in NAMES), name="truth.csv"
    )
    table(root, "image,lesion_id", *(f"{key(name)},L{int(name) // 4}" for name in rows), name="facts.csv")
    return card(root, ADD)


@pytest.mark.parametrize("key", ["{}.png", "images/{}", "x{}"])
def test_a_second_table_without_a_matching_row_is_refused(tmp_path, key):
    with pytest.raises(DataError, match=r"facts\.csv") as caught:
        find_source(two_tables(tmp_path, key.format))
    assert caught.value.code == "card"
    assert repr(key.format("000")) in caught.value.message


def test_a_second_table_that_matches_some_rows_is_a_warning_with_their_number(tmp_path):
    root = two_tables(tmp_path / "set", str, NAMES[:30])
    assert "10 of 40 rows have no row in facts.csv" in "\n".join(open_source(root)[1].notes)
    finding = checks(examine(root, tmp_path))["patient-unknown"]
    assert (finding.verdict, finding.count) == ("warn", 10)


def test_a_blank_patient_among_others_is_a_warning(tmp_path):
    root = labels(tmp_path / "set", lambda number: "" if number < 3 else f"P{number // 4}")
    assert checks(examine(root, tmp_path))["patient-unknown"].count == 3


def test_a_table_whose_patients_are_not_used_is_a_warning(tmp_path):
    root = images(tmp_path / "set", *(f"{label}/{name}.png" for label in "ab" for name in NAMES))
    table(root, "scan,patient_id", "x1,P1", "x2,P2", name="who.csv")
    finding = checks(examine(root, tmp_path))["patient-unknown"]
    assert "who.csv" in finding.message and "'patient_id'" in finding.message
    card(root, 'patient = {none = "not published"}\n')
    assert "patient-unknown" not in checks(examine(root, tmp_path))


def test_a_column_of_repeated_keys_that_may_be_the_patient_is_a_warning(tmp_path):
    rows = [f"{name},{'ab'[int(name) // 2 % 2]},F{int(name) // 2},S{int(name) % 3},{name}" for name in NAMES]
    root = table(pictures(tmp_path / "set"), "image,label,Fallnummer,scanner_id,exam_id", *rows)
    finding = checks(examine(root, tmp_path))["patient-unknown"]
    assert "'Fallnummer'" in finding.message and 'patient = {column = "Fallnummer"}' in finding.fix
    card(root, 'patient = {none = "one image each"}\n')
    assert "patient-unknown" not in checks(examine(root, tmp_path))


def test_a_table_for_class_folders_that_names_none_of_their_images_is_refused(tmp_path):
    root = images(tmp_path, *(f"{label}/{name}.png" for label in "ab" for name in NAMES))
    table(root, "scan,who", "x1,P1", "x2,P2")
    text = 'images = "{label}/*"\ntable = "labels.csv"\njoin = {column = "scan"}\npatient = {column = "who"}\n'
    with pytest.raises(DataError, match="no image 'x1'"):
        find_source(card(root, text))


def test_a_german_table_is_read_without_a_card(tmp_path):
    rows = [f"{name}.png;{('gesund', 'Tumor')[int(name) // 2 % 2]};{int(name) // 2}" for name in NAMES]
    spec, samples = open_source(table(pictures(tmp_path), "Datei;Befund;Patientennummer", *rows))
    assert (spec.positive or spec.labels[-1]) == "Tumor"
    assert samples.table["patient"].nunique() == 20


def test_a_table_beside_the_folder_of_the_images_is_an_error_with_the_keys(tmp_path):
    pictures(tmp_path / "set" / "images")
    path = tmp_path / "set" / "tables" / "labels.csv"
    path.parent.mkdir()
    path.write_text("image,label\n" + "".join(f"{name},{'ab'[int(name) % 2]}\n" for name in NAMES))
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "set")
    assert 'table = "tables/labels.csv"' in caught.value.fix
    with pytest.raises(DataError) as caught:
        open_source(path)
    assert "contains the table and the images" in caught.value.fix


def test_paths_relative_to_the_folder_of_the_images_are_found(tmp_path):
    root = images(tmp_path / "set", *(f"images/{'ab'[int(name) // 2 % 2]}/{name}.png" for name in NAMES))
    rows = [f"{'ab'[int(name) // 2 % 2]}/{name},{int(name) // 2}" for name in NAMES]
    samples = open_source(table(root, "path,patient_id", *rows))[1]
    assert samples.table["patient"].nunique() == 20
    assert "relative to images/" in "\n".join(samples.notes)
