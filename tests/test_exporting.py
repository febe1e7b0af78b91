"""Predictions as CSV: one line per test image, model, seed and fold, safe in a spreadsheet."""

import csv
import io

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from zoo.report.predictions_csv import write_predictions
from zoo.results.store import load_results
from zoo.runner.grid import as_control


def lines_of(root):
    stream = io.StringIO()
    count = write_predictions(load_results(root)[0], stream, lambda done, total: None)
    return list(csv.DictReader(io.StringIO(stream.getvalue()))), count


def test_every_test_image_has_one_line_per_seed_and_fold(tmp_path, store):
    for seed in range(2):
        for fold in range(2):
            store(tmp_path, seed=seed, fold=fold, num_folds=2)
    store(tmp_path, model="constant")
    lines, count = lines_of(tmp_path)
    assert count == (200, 5) and len(lines) == 200
    assert {(line["model"], line["seed"], line["fold"]) for line in lines} == {
        ("constant", "0", "0"),
        *(("net", str(seed), str(fold)) for seed in range(2) for fold in range(2)),
    }
    assert {line["sample_id"].split("-")[0] for line in lines} == {"test0", "test1"}
    assert {line["patient"] for line in lines} == {""}  # there is no patient key


def test_scores_computed_from_the_table_are_bit_identical(tmp_path, store):
    result = store(tmp_path, noise=3.0)
    lines, _ = lines_of(tmp_path)
    targets = [line["target"] == "nodule" for line in lines]
    positive = [float(line["probability: nodule"]) for line in lines]
    test = result.predictions()["test"]
    assert positive == test.probabilities[:, 1].tolist()
    assert roc_auc_score(targets, positive) == result.scores()["auroc"].value


def test_failed_tuning_and_control_runs_are_not_in_the_table(tmp_path, store):
    kept = store(tmp_path)
    store(tmp_path, seed=1, status="failed")
    store(tmp_path, seed=10_007, purpose="tune")
    from zoo.specs.protocol import SCRATCH

    store(tmp_path, seed=3, purpose="shuffle", protocol=as_control(SCRATCH))
    lines, _ = lines_of(tmp_path)
    assert {line["seed"] for line in lines} == {str(kept.run["seed"])}


def test_names_from_data_cannot_become_formulas(tmp_path, store):
    facts = {"labels": ["=1+1", "@cmd"], "has_patients": True, "patient": "patient"}
    facts["splits"] = {
        name: {"images": 40, "patients": 40, "labels": {"=1+1": 20, "@cmd": 20}} for name in ("train", "val", "test")
    }
    store(tmp_path, facts=facts, prefix="=HYPERLINK(1)")
    stream = io.StringIO()
    write_predictions(load_results(tmp_path)[0], stream, lambda done, total: None)
    cells = [cell for line in csv.reader(io.StringIO(stream.getvalue())) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
    assert "'=HYPERLINK(1)test0-0" in cells and "'=1+1" in cells


@pytest.fixture(scope="module")
def benched(bench, tiny_data, tmp_path_factory):
    """One run on each of three tasks."""
    results = tmp_path_factory.mktemp("tasks") / "results"
    sets = ",".join(str(tiny_data / name) for name in ("multilabel", "regression", "patients"))
    chosen = ["-m", "tiny_cnn", "--protocol", "linear-probe", "--weights", "none", "--set", "image_size=16"]
    status, _, said = bench(*chosen, "-d", sets, "--seeds", 1, "--results", results)
    assert status == 0, said
    return results


def test_the_command_writes_several_tasks_to_one_file(benched, zoo, tmp_path):
    done = zoo("report", "--results", benched, "--predictions", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["model"] == "tiny_cnn"]
    stored = {
        (r.run["dataset"], str(r.run["fold"])): r for r in load_results(benched)[0] if r.run["shown"] == "tiny_cnn"
    }
    by_set = {
        name: [line for line in lines if line["dataset"] == name] for name in ("multilabel", "regression", "patients")
    }

    many = stored["multilabel", "0"].predictions()["test"]
    targets = [[line[f"target: {label}"] for label in ("mass", "fluid", "air")] for line in by_set["multilabel"]]
    assert targets == [["" if np.isnan(t) else str(int(t)) for t in row] for row in many.targets]
    assert "" in {cell for row in targets for cell in row}

    number = stored["regression", "0"].predictions()["test"]
    assert [float(line["target"]) for line in by_set["regression"]] == number.targets.tolist()
    assert [float(line["prediction"]) for line in by_set["regression"]] == number.probabilities[:, 0].tolist()
    assert {line["probability: mass"] for line in by_set["regression"]} == {""}

    tested = {line["sample_id"]: line["patient"] for line in by_set["patients"]}
    assert len(tested) == 60 and tested["000.png"] == "p00"  # each image once, out of its fold


def test_an_unwritable_file_is_a_usage_error(benched, zoo, tmp_path):
    done = zoo("report", "--results", benched, "--predictions", tmp_path)
    assert done.returncode == 2 and "--predictions" in done.stderr
