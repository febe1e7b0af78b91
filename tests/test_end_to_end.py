"""The installed command on real files: benches of every task and method, repeated, scored again, reported.

The networks come from a real installed plugin and are so small that a run takes a second; expensive benches are shared.
"""

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import images, table
from html_pages import Page
from sklearn import metrics as reference

from zoo.evaluation.predictions import load_predictions

SETTINGS = ["--set", "image_size=16"]
SCRATCH = ["--protocol", "scratch", *SETTINGS, "--set", "steps=4"]
DATASETS = ["folders", "binary.npz", "table", "multilabel", "ordinal", "regression"]
PRIMARY = {"ordinal": "cohen_kappa", "regression": "mae"}  # of the others: auroc
STATUSES = {"ok", "failed", "refused", "skipped", "timeout", "oom", "crashed"}


def paths(root, *names):
    return ",".join(str(root / name) for name in names)


def folder_of(root, run):
    (found,) = root.glob(f"*/*/*.{run['id'][:8]}")
    return found


def stored_predictions(root, run):
    with np.load(folder_of(root, run) / "predictions.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def runs_of(document, model):
    return [run for run in document["runs"] if run["model"] == model]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("bench") / "results"


@pytest.fixture(scope="module")
def finetuned(bench, tiny_data, results):
    """Every task, and every layout that needs no plugin, fine-tuned for four steps."""
    return bench("-m", "tiny_cnn", "-d", paths(tiny_data, *DATASETS), *SCRATCH, "--seeds", 1, "--results", results)


@pytest.fixture(scope="module")
def probed(finetuned, bench, tiny_data, results):
    chosen = ["--protocol", "linear-probe", *SETTINGS, "--seeds", 1, "--results", results]
    return bench("-m", "tiny_cnn", "-d", paths(tiny_data, *DATASETS), *chosen)


@pytest.fixture(scope="module")
def neighbours(probed, bench, tiny_data, results):
    chosen = ["--protocol", "knn", *SETTINGS, "--seeds", 1, "--results", results]
    return bench("-m", "tiny_cnn", "-d", paths(tiny_data, *DATASETS), *chosen)


# --- every task, layout and method -----------------------------------------------------------------------------------
@pytest.mark.integration
@pytest.mark.parametrize("method", ["finetuned", "probed", pytest.param("neighbours", marks=pytest.mark.slow)])
def test_every_task_and_layout_runs_to_the_end_with_its_baselines(request, method):
    status, document, _ = request.getfixturevalue(method)
    assert status == 0
    names = {Path(name).stem for name in DATASETS}
    found = {(run["dataset"], run["model"]) for run in document["runs"]}
    assert found == {(name, model) for name in names for model in ("tiny_cnn", "constant", "thumbnails")}
    assert {run["status"] for run in document["runs"]} == {"ok"}
    assert document["refused"] == []


def test_the_document_is_that_of_the_contract(finetuned):
    _, document, _ = finetuned
    assert (document["schema"], document["command"]) == (1, "bench")
    assert {"schema", "command", "runs", "leaderboard", "refused"} == set(document)
    run_keys = {"id", "model", "weights", "dataset", "protocol", "seed", "status", "reused", "error", "deviations"}
    row_keys = {"dataset", "model", "rank", "tied_with", "metric", "value", "low", "high", "seeds", "coverage"}
    for run in document["runs"]:
        assert run_keys | {"scores", "cost"} <= set(run)
        assert run["status"] in STATUSES and run["error"] is None and run["reused"] is False
        cost = {"train_seconds", "images_per_second", "peak_memory_bytes", "num_parameters", "flops"}
        assert cost <= set(run["cost"])
        for score in run["scores"].values():
            assert {"value", "low", "high", "method", "reason"} <= set(score)
            assert score["value"] is not None or score["reason"]
    for row in document["leaderboard"]:
        assert row_keys <= set(row)
        assert row["metric"] == PRIMARY.get(row["dataset"], "auroc")


def test_baselines_are_not_trained_again_for_another_protocol(probed):
    assert all(run["reused"] is (run["model"] != "tiny_cnn") for run in probed[1]["runs"])


def test_binary_scores_are_scikit_learns_of_the_stored_predictions(finetuned, results):
    (run,) = [run for run in runs_of(finetuned[1], "tiny_cnn") if run["dataset"] == "binary"]
    arrays = stored_predictions(results, run)
    targets, positive = arrays["test_targets"], arrays["test_probabilities"][:, 1]
    scores = {name: score["value"] for name, score in run["scores"].items()}
    assert scores["auroc"] == pytest.approx(reference.roc_auc_score(targets, positive), abs=1e-12)
    assert scores["average_precision"] == pytest.approx(reference.average_precision_score(targets, positive), abs=1e-12)
    assert scores["brier"] == pytest.approx(reference.brier_score_loss(targets, positive), abs=1e-12)
    false_alarms, hits, thresholds = reference.roc_curve(arrays["val_targets"], arrays["val_probabilities"][:, 1])
    # between two scores of val any threshold has the same J; the stored decision must reach the best of them on val
    decided = scores["sensitivity"], scores["specificity"]
    possible = [
        (
            reference.recall_score(targets, positive >= t),
            reference.recall_score(targets, positive >= t, pos_label=0),
        )
        for t in between(thresholds[np.isclose(hits - false_alarms, (hits - false_alarms).max())], arrays)
    ]
    assert any(decided == pytest.approx(pair) for pair in possible)


def between(best, arrays):
    """Every score of val that decides as well as the best threshold, and the middle to the score below."""
    scores = np.unique(arrays["val_probabilities"][:, 1])
    for threshold in best:
        below = scores[scores < threshold]
        yield (threshold + below[-1]) / 2 if len(below) and np.isfinite(threshold) else threshold


def test_multiclass_scores_are_scikit_learns_of_the_stored_predictions(finetuned, results):
    (run,) = [run for run in runs_of(finetuned[1], "tiny_cnn") if run["dataset"] == "table"]
    arrays = stored_predictions(results, run)
    targets, probabilities = arrays["test_targets"], arrays["test_probabilities"]
    decisions = probabilities.argmax(axis=1)
    expected = {
        "auroc": reference.roc_auc_score(targets, probabilities, multi_class="ovr"),
        "accuracy": reference.accuracy_score(targets, decisions),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, decisions),
        "f1_macro": reference.f1_score(targets, decisions, average="macro"),
        "mcc": reference.matthews_corrcoef(targets, decisions),
    }
    assert {name: run["scores"][name]["value"] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_multilabel_scores_leave_unknown_targets_out(finetuned, results):
    (run,) = [run for run in runs_of(finetuned[1], "tiny_cnn") if run["dataset"] == "multilabel"]
    arrays = stored_predictions(results, run)
    targets, probabilities = arrays["test_targets"], arrays["test_probabilities"]
    assert np.isnan(targets).any()
    known = [~np.isnan(column) for column in targets.T]
    each = [reference.roc_auc_score(targets[k, i], probabilities[k, i]) for i, k in enumerate(known)]
    assert run["scores"]["auroc"]["value"] == pytest.approx(np.mean(each), abs=1e-12)


def test_ordinal_and_regression_scores_are_scikit_learns_of_the_stored_predictions(finetuned, results):
    (run,) = [run for run in runs_of(finetuned[1], "tiny_cnn") if run["dataset"] == "ordinal"]
    arrays = stored_predictions(results, run)
    decided = arrays["test_probabilities"].argmax(axis=1)
    kappa = reference.cohen_kappa_score(arrays["test_targets"], decided, weights="quadratic")
    assert run["scores"]["cohen_kappa"]["value"] == pytest.approx(kappa, abs=1e-12)
    (run,) = [run for run in runs_of(finetuned[1], "tiny_cnn") if run["dataset"] == "regression"]
    arrays = stored_predictions(results, run)
    targets, values = arrays["test_targets"], arrays["test_probabilities"][:, 0]
    expected = {
        "mae": reference.mean_absolute_error(targets, values),
        "rmse": reference.root_mean_squared_error(targets, values),
        "r2": reference.r2_score(targets, values),
    }
    assert {name: run["scores"][name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert 20 < values.mean() < 90  # in years, not in standard deviations


def test_every_task_is_compared_and_traced(finetuned, zoo, results):
    done = zoo("compare", "tiny_cnn", "constant", "--results", results, "--json")
    assert done.returncode == 0, done.stderr
    boards = {board["dataset"]: board for board in json.loads(done.stdout)["boards"]}
    assert set(boards) == {Path(name).stem for name in DATASETS}
    for name, board in boards.items():
        assert board["reason"] is None and board["single_runs"]["difference"] is not None, name
        assert board["disagreements"] and board["ordered_by"] == "influence", name
    assert boards["binary"]["single_runs"]["method"] == "paired DeLong"
    assert boards["table"]["single_runs"]["mcnemar"] and not boards["multilabel"]["single_runs"]["mcnemar"]
    assert zoo("compare", "tiny_cnn", "constant", "--results", results).returncode == 0
    for run in runs_of(finetuned[1], "tiny_cnn"):
        done = zoo("info", "runs", run["id"], "--results", results, "--json")
        item = json.loads(done.stdout)["item"]
        assert {name: score["value"] for name, score in item["scores"].items()} == {
            name: score["value"] for name, score in run["scores"].items()
        }


def test_every_task_has_a_page(finetuned, zoo, results, tmp_path):
    done = zoo("report", "--results", results, "--format", "html", "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    headings = [name for name in DATASETS if f"{Path(name).stem} · " in page.text]
    assert headings == DATASETS
    assert "nan" not in page.text.split() and "None" not in page.text.split()


def test_the_constant_predictor_is_chance(finetuned):
    values = {run["dataset"]: run["scores"] for run in runs_of(finetuned[1], "constant")}
    assert values["binary"]["auroc"]["value"] == values["table"]["auroc"]["value"] == 0.5
    assert values["ordinal"]["cohen_kappa"]["value"] == 0


# --- the same run ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def seeds(bench, tiny_data, tmp_path_factory):
    """Two seeds on one set, one run at a time; its results folder is copied, never changed."""
    root = tmp_path_factory.mktemp("seeds") / "results"
    chosen = ["-m", "tiny_cnn", "-d", tiny_data / "binary.npz", *SCRATCH, "--seeds", 2]
    status, document, _ = bench(*chosen, "--workers", 1, "--results", root)
    assert status == 0
    return root, document, chosen


def test_the_same_command_gives_the_same_bits_however_many_run_at_once(seeds, bench, tmp_path):
    root, document, chosen = seeds
    _, again, _ = bench(*chosen, "--workers", 2, "--results", tmp_path)
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in document["runs"]]
    for run in document["runs"]:
        one, other = stored_predictions(root, run), stored_predictions(tmp_path, run)
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert [run["scores"] for run in again["runs"]] == [run["scores"] for run in document["runs"]]
    first, second = (stored_predictions(root, run) for run in runs_of(document, "tiny_cnn"))
    assert not np.array_equal(first["test_probabilities"], second["test_probabilities"])


def test_a_model_is_compared_with_a_baseline_on_their_board(seeds, zoo):
    root, document, _ = seeds
    done = zoo("compare", "tiny_cnn", "constant", "--results", root, "--json")
    assert done.returncode == 0, done.stderr
    (board,) = json.loads(done.stdout)["boards"]
    (row,) = [row for row in document["leaderboard"] if row["model"] == "tiny_cnn"]
    assert board["first"]["score"]["value"] == row["value"]
    assert board["single_runs"]["statement"] == "single runs: no statement on seeds"
    first = next(run for run in runs_of(document, "tiny_cnn") if run["seed"] == 0)
    assert board["single_runs"]["difference"] == pytest.approx(first["scores"]["auroc"]["value"] - 0.5)
    done = zoo("compare", "tiny_cnn", "constnt", "--results", root)
    assert (done.returncode, done.stdout) == (2, "") and "Did you mean 'constant'" in done.stderr


def test_one_file_of_weights_a_model_is_kept_of_the_best_seed(seeds):
    root, document, _ = seeds
    (kept,) = root.rglob("model.safetensors")
    val = {
        run["seed"]: json.loads((folder_of(root, run) / "result.json").read_text())["details"]["val_score"]
        for run in runs_of(document, "tiny_cnn")
    }
    assert f".seed{max(val, key=lambda seed: val[seed])}." in kept.parent.name


def test_the_second_time_everything_is_reused(seeds, bench):
    root, document, chosen = seeds
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    status, again, told = bench(*chosen, "--results", root)
    assert status == 0
    assert all(run["reused"] for run in again["runs"])
    assert again["leaderboard"] == document["leaderboard"]
    assert "4 done already" in told
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def planned(bench, *arguments):
    """How many runs of the network would be carried out, and how many are done."""
    status, document, _ = bench(*arguments, "--dry-run")
    assert status == 0
    done = [run["reused"] for run in runs_of(document, "tiny_cnn")]
    return done.count(False), done.count(True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["--seeds", "1,5"], (1, 1)),
        (["--set", "learning_rate=0.002"], (2, 0)),
        (["--fresh"], (2, 0)),
        (["--metrics", "rmse", "--workers", "2", "--run-timeout", "100"], (0, 2)),
    ],
)
def test_what_matters_to_a_number_is_in_the_identity_and_what_does_not_is_not(seeds, bench, changed, expected):
    root, _, chosen = seeds
    assert planned(bench, *chosen, *changed, "--results", root) == expected


@pytest.mark.parametrize("change", ["nothing", "pixel", "label"])
def test_one_pixel_or_one_label_is_another_dataset(seeds, bench, tiny_data, tmp_path, change):
    root, _, chosen = seeds
    arrays = dict(np.load(tiny_data / "binary.npz"))
    if change == "pixel":
        arrays["train_images"][0, 0, 0] ^= 1
    if change == "label":
        arrays["test_labels"][0] = 1 - arrays["test_labels"][0]
    copy = tmp_path / "binary.npz"
    np.savez(copy, **arrays)
    elsewhere = [copy if part == tiny_data / "binary.npz" else part for part in chosen]
    assert planned(bench, *elsewhere, "--results", root) == ((0, 2) if change == "nothing" else (2, 0))


def test_a_dry_run_writes_nothing_and_prints_what_would_run(seeds, zoo, tmp_path):
    _, _, chosen = seeds
    done = zoo("bench", *chosen, "--dry-run", "--results", tmp_path / "results")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert all(line.split()[1:3] == ["to", "run"] for line in done.stdout.splitlines())
    assert not (tmp_path / "results").exists()


def test_why_names_the_field_that_differs(seeds, bench, zoo):
    root, document, chosen = seeds
    run = runs_of(document, "tiny_cnn")[0]
    done = zoo("why", run["id"][:8], "--results", root)
    assert done.returncode == 0 and "the same command reuses it" in done.stdout
    _, dry, _ = bench(*chosen, "--set", "learning_rate=0.002", "--dry-run", "--results", root)
    answer = zoo("why", runs_of(dry, "tiny_cnn")[0]["id"][:8], "--results", root).stdout
    assert "no stored run has this identity" in answer
    assert "protocol.learning_rate: 0.002 here, 0.001 there" in answer


def test_a_metric_installed_later_is_computed_from_yesterdays_predictions(seeds, zoo, install, tmp_path):
    root, document, _ = seeds
    copy = tmp_path / "results"
    shutil.copytree(root, copy)
    site = tmp_path / "site"
    site.mkdir()
    install(site, "zoo-late", LATE_PLUGIN)
    assert zoo("score", "--metrics", "late_metric", "--results", copy).returncode == 2
    done = zoo("score", "--metrics", "late_metric", "--results", copy, sites=[site])
    assert done.returncode == 0 and done.stdout.startswith("4 runs scored"), done.stderr
    run = runs_of(document, "tiny_cnn")[0]
    scores = json.loads((folder_of(copy, run) / "scores.json").read_text())["scores"]
    arrays = stored_predictions(copy, run)
    expected = np.abs(arrays["test_probabilities"][:, 1] - arrays["test_targets"]).mean()
    assert scores["late_metric"]["value"] == pytest.approx(expected)
    assert scores["auroc"]["value"] == run["scores"]["auroc"]["value"]
    report = zoo("report", "--results", copy, "--format", "csv", sites=[site])
    assert "late_metric" in {line["metric"] for line in csv.DictReader(io.StringIO(report.stdout))}


LATE_PLUGIN = """
from zoo import MetricSpec, hookimpl

def compute(request):
    return float(abs(request.probabilities[:, 1] - request.targets).mean())

@hookimpl
def register_metrics():
    return [MetricSpec(name="late_metric", compute=compute, tasks=("binary",), higher_is_better=False)]
"""


# --- reports ---------------------------------------------------------------------------------------------------------
def test_report_twice_is_the_same_bytes_and_check_agrees(seeds, zoo, tmp_path):
    root, _, _ = seeds
    arguments = ["report", "--results", root, "--format", "markdown"]
    first = zoo(*arguments, "--output", tmp_path / "board.md")
    assert (first.returncode, first.stdout) == (0, "")
    assert zoo(*arguments).stdout.encode() == (tmp_path / "board.md").read_bytes()
    assert zoo(*arguments, "--output", tmp_path / "board.md", "--check").returncode == 0


def test_the_leaderboard_of_the_bench_is_that_of_the_stored_results(seeds, zoo):
    root, document, _ = seeds
    report = json.loads(zoo("report", "--results", root, "--format", "json").stdout)
    assert report["leaderboard"] == document["leaderboard"]
    lines = csv.DictReader(io.StringIO(zoo("report", "--results", root, "--format", "csv").stdout))
    assert [float(line["value"]) for line in lines if line["ranks"] == "1"] == [
        row["value"] for row in document["leaderboard"]
    ]


def test_no_output_of_a_pipe_holds_an_escape_code(finetuned, seeds, zoo):
    report = zoo("report", "--results", seeds[0])
    assert report.returncode == 0 and "tiny_cnn" in report.stdout
    assert "\x1b" not in report.stdout + report.stderr + finetuned[2]


# --- folds and patients ----------------------------------------------------------------------------------------------
def test_without_a_test_split_each_patient_is_tested_once(bench, zoo, tiny_data, tmp_path):
    arguments = ["-m", "tiny_cnn", "-d", tiny_data / "patients", *SCRATCH, "--seeds", 1, "--results", tmp_path]
    status, document, _ = bench(*arguments)
    assert status == 0
    runs = runs_of(document, "tiny_cnn")
    assert [run["fold"] for run in runs] == [0, 1, 2, 3, 4]
    parts = [stored_predictions(tmp_path, run) for run in runs]
    tested = [patient for part in parts for patient in np.unique(part["test_patients"])]
    assert sorted(tested) == [f"p{number:02}" for number in range(20)]
    for part in parts:
        assert not set(part["test_patients"]) & set(part["val_patients"])
    each = []
    for part in parts:
        patients = np.unique(part["test_patients"])
        means = [part["test_probabilities"][part["test_patients"] == p, 1].mean() for p in patients]
        each.append(
            reference.roc_auc_score([part["test_targets"][part["test_patients"] == p][0] for p in patients], means)
        )
    (row,) = [row for row in document["leaderboard"] if row["model"] == "tiny_cnn"]
    assert row["value"] == pytest.approx(np.mean(each))
    assert row["coverage"] == "5/5"
    text = zoo("report", "--details", "--results", tmp_path).stdout
    assert "60 images, each tested once in 5 folds" in text
    assert "unit: patient; 60 test images of 20 patients" in text
    images = json.loads((folder_of(tmp_path, runs[0]) / "scores.json").read_text())["image_scores"]
    assert images["auroc"]["value"] == pytest.approx(
        reference.roc_auc_score(parts[0]["test_targets"], parts[0]["test_probabilities"][:, 1])
    )


def test_a_bench_keeps_what_the_table_says_of_an_image_for_scores_by_group(bench, zoo, tmp_path):
    random = np.random.default_rng(0)
    names = [f"{number:03}.png" for number in range(200)]
    splits = np.repeat(["train", "val", "test"], [60, 60, 80])
    labels, sexes, ages = random.choice(["a", "b"], 200), random.choice(["F", "M"], 200), random.integers(20, 80, 200)
    rows = [",".join(map(str, cells)) for cells in zip(names, labels, splits, sexes, ages, strict=True)]
    table(images(tmp_path / "data", *names), "file,label,split,sex,age", *rows)
    arguments = ["-m", "tiny_cnn", "-d", tmp_path / "data", *SCRATCH, "--seeds", 1, "--results", tmp_path / "results"]
    status, document, said = bench(*arguments)
    assert status == 0, said
    stored = load_predictions(folder_of(tmp_path / "results", runs_of(document, "tiny_cnn")[0]) / "predictions.npz")
    assert stored["test"].metadata["sex"].tolist() == sexes[splits == "test"].tolist()
    assert stored["val"].metadata["age"].tolist() == ages[splits == "val"].astype(str).tolist()
    report = json.loads(zoo("report", "--results", tmp_path / "results", "--by", "sex", "--format", "json").stdout)
    rows = report["boards"][0]["sections"]["subgroups"]["rows"]
    assert {row["group"]: row["images"] for row in rows} == {
        name: int((sexes[splits == "test"] == name).sum()) for name in "FM"
    }


# --- tuning and weights ----------------------------------------------------------------------------------------------
def test_a_grid_is_tuned_on_val_and_the_row_says_so(bench, zoo, tiny_data, tmp_path):
    grid = ["--protocol", "scratch", *SETTINGS, "--set", "steps=8", "--set", "learning_rate=1e-6,0.01"]
    arguments = ["-m", "tiny_cnn", "-d", tiny_data / "binary.npz", *grid, "--seeds", 1, "--results", tmp_path]
    status, document, told = bench(*arguments)
    assert status == 0 and "tuning on val: 2 runs" in told
    (run,) = runs_of(document, "tiny_cnn")
    assert run["protocol"] == "scratch@1+image_size=16+learning_rate=1e-6,0.01+steps=8"
    trials = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/*.tuning.*/result.json")]
    best = max(trials, key=lambda trial: trial["details"]["val_score"])["run"]["protocol"]["learning_rate"]
    (row,) = [row for row in document["leaderboard"] if row["model"] == "tiny_cnn"]
    assert row["tuned"] == f"tuned learning_rate: {best:g} of 1e-06, 0.01 (winner at the edge)"
    assert f"tiny_cnn: {row['tuned']}" in zoo("report", "--details", "--results", tmp_path).stdout
    _, again, _ = bench(*arguments)
    assert all(run["reused"] for run in again["runs"])


def test_weights_that_cannot_be_had_refuse_before_anything_starts(zoo, tiny_data, tmp_path):
    done = zoo("bench", "-m", "tiny_pretrained", "-d", tiny_data / "binary.npz", "--results", tmp_path / "r", "--json")
    assert done.returncode == 2
    assert "error[weights-missing] weights tiny_pretrained.demo are not available" in done.stderr
    assert "--weights-dir FOLDER" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "weights-missing"


def test_weights_of_a_folder_are_used_and_missing_ones_are_marked_on_the_row(bench, tiny_data, tmp_path, seeds):
    (kept,) = seeds[0].rglob("model.safetensors")
    folder = tmp_path / "weights"
    folder.mkdir()
    save_as_source_weights(kept, folder / "tiny_pretrained.demo.safetensors")
    arguments = ["-m", "tiny_pretrained", "-d", tiny_data / "binary.npz", "--weights", "auto", "--seeds", 1]
    arguments += ["--set", "steps=2", *SETTINGS, "--results", tmp_path / "results"]
    _, with_weights, _ = bench(*arguments, "--weights-dir", folder)
    _, without, told = bench(*arguments)
    (one,), (other,) = (runs_of(document, "tiny_pretrained") for document in (with_weights, without))
    assert (one["init"], one["weights"], one["deviations"]) == ("pretrained", "demo", [])
    assert (other["init"], other["deviations"]) == ("random", ["weights: none found, random init"])
    assert (one["protocol"], other["protocol"]) == (
        "finetune@1+image_size=16+steps=2",
        "scratch@1+image_size=16+steps=2",
    )
    assert "NO PRETRAINED WEIGHTS for tiny_pretrained" in told


def test_a_head_on_given_weights_is_fitted_once_and_its_features_are_computed_once_for_all_heads(
    bench, tiny_data, tmp_path, seeds
):
    (kept,) = seeds[0].rglob("model.safetensors")
    save_as_source_weights(kept, tmp_path / "tiny_pretrained.demo.safetensors")
    arguments = ["-m", "tiny_pretrained", "-d", tiny_data / "binary.npz", "--weights-dir", tmp_path, "--seeds", 2]
    arguments += [*SETTINGS, "--results", tmp_path / "results"]
    environment = {"ZOO_CACHE": str(tmp_path / "cache")}
    status, document, _ = bench(*arguments, "--protocol", "linear-probe", **environment)
    (run,) = runs_of(document, "tiny_pretrained")
    assert (status, run["seed"]) == (0, 0)
    (row,) = [row for row in document["leaderboard"] if row["model"] == "tiny_pretrained"]
    assert (row["deterministic"], row["seeds"], row["coverage"]) == (True, 1, "1/1")
    (features,) = (tmp_path / "cache" / "features").glob("*.safetensors")
    written = features.read_bytes(), features.stat().st_ino
    status, document, _ = bench(*arguments, "--protocol", "knn,linear-probe", **environment)
    rows = {row["label"] for row in document["leaderboard"] if row["model"] == "tiny_pretrained"}
    assert status == 0 and rows == {"tiny_pretrained.demo · knn", "tiny_pretrained.demo · linear-probe"}
    (features,) = (tmp_path / "cache" / "features").glob("*.safetensors")
    assert (features.read_bytes(), features.stat().st_ino) == written


def test_a_local_file_is_normalized_as_its_card_declares_and_its_result_records_what_it_is(
    bench, tiny_data, tmp_path, seeds
):
    (kept,) = seeds[0].rglob("model.safetensors")
    path = tmp_path / "weights" / "tiny_pretrained.safetensors"
    path.parent.mkdir()
    save_as_source_weights(kept, path)
    card = 'mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\nlicense = "CC0"\npretraining = ["radimagenet"]\n'
    path.with_suffix(".toml").write_text(card)
    arguments = ["-m", "tiny_pretrained", "-d", tiny_data / "binary.npz", "--weights-dir", path.parent, "--seeds", 1]
    status, document, _ = bench(*arguments, "--set", "steps=2", *SETTINGS, "--results", tmp_path / "r")
    (row,) = runs_of(document, "tiny_pretrained")
    assert (status, row["deviations"]) == (0, [])
    (file,) = (tmp_path / "r").glob("*/tiny_pretrained.local-*/*/result.json")
    stored = json.loads(file.read_text())
    assert stored["run"]["weights_tag"] == f"local-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    assert stored["details"]["pretraining"] == ["radimagenet"]
    assert stored["details"]["weights_license"] == "CC0"
    assert "zoo-tiny" in stored["versions"]


def save_as_source_weights(kept, path):
    """The three-channel, ten-class file that `tiny_pretrained` is built with."""
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(kept)
    state["conv.weight"] = state["conv.weight"].repeat(1, 3, 1, 1) / 3
    state |= {"fc.weight": torch.zeros(10, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(10)}
    save_file(state, path)


# --- the quickstart --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_quickstart_is_neither_trivial_nor_hopeless(bench, tmp_path):
    status, document, _ = bench("--offline", "--results", tmp_path, timeout=1800)
    assert status == 0
    found = {row["model"]: row["value"] for row in document["leaderboard"]}
    assert 0.88 <= found["resnet18"] <= 0.97
    assert 0.70 <= found["efficientnet_b0"] <= 0.97  # quick@2 gave .743
    assert found["thumbnails"] <= 0.68
    assert found["constant"] == 0.5
