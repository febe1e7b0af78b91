"""`zoo predict`: the slices of a DICOM series are one input if the model was scored by patient."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write

from zoo.results.store import load_results

pytestmark = pytest.mark.integration

LEVELS = "intensity = {levels = [0, 255], bits = 8}"


def slices(number, ill, count=4):
    """Slices of a chest that differ in their noise, brighter in the ill."""
    random = np.random.default_rng(number)
    return random.integers(60 * ill, 100 + 60 * ill, (count, 24, 24)).astype(np.int16)


def write_series(folder, number, **elements):
    """A series whose file names are in another order than its slices."""
    for position, pixels in enumerate(slices(number, number % 2)):
        tags = {"SeriesInstanceUID": f"1.2.{number}", "InstanceNumber": position + 1, "PatientID": f"P{number}"}
        write(folder / f"{9 - position}.dcm", pixels, **{**tags, **elements})
    return folder


def make_dataset(root, card):
    for number in range(24):
        split = ("train", "train", "val", "test")[number // 2 % 4]
        write_series(root / split / ("well", "ill")[number % 2] / f"s{number}", number)
    (root / "dataset.toml").write_text("\n".join(("schema = 1", LEVELS, *card)) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(zoo, tmp_path_factory):
    """Two models: scored by patient, as patients are in the headers, and by image."""
    root = tmp_path_factory.mktemp("series")
    sets = {"scans": (), "alone": ('unit = "image"',)}
    data = [make_dataset(root / name, card) for name, card in sets.items()]
    done = zoo(
        *("bench", "--models", "tiny_cnn", "--weights", "none", "--datasets", ",".join(map(str, data)), "--seeds", "1"),
        *("--protocol", "quick", "--set", "steps=4", "--set", "rounds=1", "--set", "image_size=24"),
        *("--results", root / "results"),
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def predict(zoo, trained, tmp_path):
    def run(model, *inputs, flags=()):
        done = zoo("predict", model, *inputs, *flags, "-o", tmp_path / "out.csv", "--results", trained / "results")
        with (tmp_path / "out.csv").open() as stream:
            return done, {row["image"]: row for row in csv.DictReader(stream)}

    return run


def test_a_series_gets_the_answer_of_the_bench(predict, trained):
    (run,) = [
        r for r in load_results(trained / "results")[0] if r.run["dataset"] == "scans" and r.run["shown"] == "tiny_cnn"
    ]
    test = run.predictions()["test"].by_unit("patient")
    done, rows = predict("scans/tiny_cnn", trained / "scans" / "test", flags=["--keep-names"])
    assert done.returncode == 0, done.stderr
    assert {row["images"] for row in rows.values()} == {"4"}
    assert all(name.endswith("/series-1") for name in rows)
    assert all(re.fullmatch(r"1\.2\.\d+", row["SeriesInstanceUID"]) for row in rows.values())
    answered = {row["PatientID"]: float(row["probability: ill"]) for row in rows.values()}
    expected = dict(zip(test.patients, test.probabilities[:, run.card().labels.index("ill")], strict=True))
    assert answered == pytest.approx(expected, abs=1e-6)


def test_slices_named_one_by_one_are_the_same_series(predict, trained):
    folder = next((trained / "scans" / "test" / "ill").iterdir())
    whole = predict("scans/tiny_cnn", folder)[1]
    assert predict("scans/tiny_cnn", *sorted(folder.iterdir()))[1] == whole
    assert len(whole) == 1


def test_a_model_scored_by_image_answers_each_slice(predict, trained):
    folder = next((trained / "alone" / "test" / "ill").iterdir())
    assert len(predict("alone/tiny_cnn", folder)[1]) == 4


def test_two_series_in_one_folder_are_two_inputs_and_others_are_alone(predict, tmp_path):
    folder = write_series(tmp_path / "scans", 1)
    for position, pixels in enumerate(slices(2, 0)):
        write(folder / f"b{position}.dcm", pixels, SeriesInstanceUID="1.2.99", InstanceNumber=position)
    write(folder / "lone.dcm", slices(3, 1)[0], SeriesInstanceUID="1.2.98", InstanceNumber=1)
    write(folder / "unnumbered.dcm", slices(3, 1)[1])
    done, rows = predict("scans/tiny_cnn", folder)
    assert done.returncode == 0, done.stderr
    assert {name.rpartition("/")[2]: row["images"] for name, row in rows.items()} == {
        "series-1": "4",
        "series-2": "4",
        "lone.dcm": "1",
        "unnumbered.dcm": "1",
    }


def test_a_file_with_the_name_of_a_series_is_refused(predict, tmp_path):
    write_series(tmp_path, 1)
    (tmp_path / "series-1").write_bytes(b"not a slice")
    done, rows = predict("scans/tiny_cnn", tmp_path / "series-1", *sorted(tmp_path.glob("*.dcm")))
    assert "Traceback" not in done.stderr
    assert {Path(name).name: row["status"] for name, row in rows.items()} == {"series-1": "refused", "series-2": "ok"}


def test_a_file_without_a_readable_header_is_refused_by_name_and_the_other_slices_are_answered(predict, tmp_path):
    folder = write_series(tmp_path / "scans", 1)
    damaged = folder / "9.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-600])
    done, rows = predict("scans/tiny_cnn", folder)
    assert done.returncode == 3
    assert {name.rpartition("/")[2]: (row["status"], row["images"]) for name, row in rows.items()} == {
        "series-1": ("ok", "3"),
        "9.dcm": ("refused", "1"),
    }


def test_a_slice_that_training_would_refuse_refuses_its_series_and_no_other(predict, tmp_path):
    folder = write_series(tmp_path / "scans", 1)
    write_series(folder / "b", 2)
    color = np.zeros((24, 24, 3), np.uint8)
    color[..., 0] = 200
    write(folder / "9.dcm", color, SeriesInstanceUID="1.2.1", InstanceNumber=1)
    done, rows = predict("scans/tiny_cnn", folder)
    assert done.returncode == 3
    status = {str(Path(name).relative_to(folder)): row["status"] for name, row in rows.items()}
    assert status == {"series-1": "refused", "b/series-1": "ok"}
    assert "gray" in rows[str(folder / "series-1")]["problem"]


def test_a_series_has_the_patient_of_its_slices_only_on_request(predict, trained):
    folder = next((trained / "scans" / "test" / "ill").iterdir())
    (row,) = predict("scans/tiny_cnn", folder, flags=["--keep-names"])[1].values()
    assert row["PatientID"].startswith("P")
    done, rows = predict("scans/tiny_cnn", folder)
    (row,) = rows.values()
    assert not {"PatientID", "SeriesInstanceUID"} & row.keys()
    assert "1.2." not in f"{rows} {done.stdout} {done.stderr}"
