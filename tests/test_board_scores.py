"""The scores of a board, recomputed by scikit-learn from the predictions that `zoo report` exports."""

import csv
import io
import json

import numpy as np
import pytest
from factories import draw_images
from PIL import Image
from pytest import approx
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from zoo.results.store import load_results

SETTINGS = ["-m", "tiny_cnn", "--weights", "none", "--protocol", "scratch", "--set", "steps=6"]


@pytest.fixture(scope="module")
def boards(bench, zoo, tiny_data, tmp_path_factory):
    """A binary set and one of three classes, two seeds: results, boards, and the lines of the exported table."""
    root = tmp_path_factory.mktemp("boards")
    sets = ",".join(str(tiny_data / name) for name in ("binary.npz", "table"))
    status, _, said = bench(*SETTINGS, "--set", "image_size=16", "--seeds", 2, "-d", sets, "--results", root / "r")
    assert status == 0, said
    return read_boards(zoo, root)


def read_boards(zoo, root):
    for flags in (("--predictions", root / "out.csv"), ("--format", "json", "--output", root / "board.json")):
        done = zoo("report", "--results", root / "r", *flags)
        assert done.returncode == 0, done.stderr
    with open(root / "out.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return load_results(root / "r")[0], json.loads((root / "board.json").read_text(encoding="utf-8")), lines


def youden(positive, scores):
    """The threshold of the largest sensitivity + specificity, by trying all; then fewest errors, then nearest .5."""
    distinct = np.unique(scores)
    best = ((0.0,), 0.5)  # no better than chance: .5
    for middle in (distinct[:-1] + distinct[1:]) / 2:
        decided = scores >= middle
        youden = recall_score(positive, decided) + recall_score(~positive, ~decided) - 1
        if round(youden, 12) > 0:
            best = min(best, ((-round(youden, 12), (decided != positive).sum(), abs(middle - 0.5)), middle))
    return best[1]


def recompute(result, lines, labels, positive):
    """The scores of one run, by their name on the board; val, which the table does not hold, gives the threshold."""
    targets = np.array([labels.index(line["target"]) for line in lines])
    chances = np.array([[float(line[f"probability: {label}"]) for label in labels] for line in lines])
    decided, found = chances.argmax(axis=1), {}
    if len(labels) == 2:
        val = result.predictions()["val"]
        threshold = youden(val.targets == positive, val.probabilities[:, positive])
        decided = np.where(chances[:, positive] >= threshold, positive, 1 - positive)
        ill, called = targets == positive, decided == positive
        found = {
            "auroc": roc_auc_score(ill, chances[:, positive]),
            "sensitivity": recall_score(ill, called),
            "specificity": recall_score(~ill, ~called),
            "PPV": precision_score(ill, called, zero_division=np.nan),
            "NPV": precision_score(~ill, ~called, zero_division=np.nan),
        }
    else:
        found["auroc"] = roc_auc_score(targets, chances, multi_class="ovr")
    return {
        **found,
        "accuracy": accuracy_score(targets, decided),
        "balanced_accuracy": balanced_accuracy_score(targets, decided),
        "f1_macro": f1_score(targets, decided, average="macro", zero_division=0),
        "recall_macro": recall_score(targets, decided, average="macro", zero_division=0),
    }


@pytest.mark.parametrize("dataset", ["binary", "table"])
def test_the_scores_of_a_board_equal_scikit_learns_of_the_exported_predictions(boards, dataset):
    results, document, lines = boards
    (board,) = [board for board in document["boards"] if board["dataset"]["name"] == dataset]
    labels, positive = board["dataset"]["labels"], board["dataset"]["positive"]
    rows = [row for row in document["leaderboard"] if row["dataset"] == dataset]
    assert {row["model"] for row in rows} == {"tiny_cnn", "constant", "thumbnails"}
    for row in rows:
        runs = []
        for result in (result for result in results if result.id in row["runs"]):
            place = (dataset, row["model"], str(result.run["seed"]), str(result.run["fold"]))
            own = [line for line in lines if place == tuple(line[k] for k in ("dataset", "model", "seed", "fold"))]
            runs.append(recompute(result, own, labels, positive))
            stored = result.scores()
            assert {name: stored[name].value for name in runs[-1] if name in stored} == approx(
                {name: value for name, value in runs[-1].items() if name in stored}
            )
        (operating,) = [
            cells
            for cells in board["sections"].get("operating", {"rows": [{}]})["rows"]
            if cells.get("model", row["model"]) == row["model"]
        ]
        shown = {**row["scores"], **{name: operating[name] for name in ("PPV", "NPV") if name in operating}}
        for name in runs[0]:
            expected = np.mean([run[name] for run in runs])
            assert shown[name]["value"] == (None if np.isnan(expected) else approx(expected)), (row["model"], name)


@pytest.fixture(scope="module")
def one_class(bench, tmp_path_factory):
    """Trained on two classes, tested on a set that shares one of them."""
    root = tmp_path_factory.mktemp("one")
    for place, count in (("here", 240), ("there", 30)):
        targets = np.arange(count) % 2
        for number, (target, image) in enumerate(zip(targets, draw_images(targets, count), strict=True)):
            folder = root / place / (("train", "val", "test")[number // 2 % 3] if place == "here" else "")
            folder = folder / ("clear", "nodule" if place == "here" else "other")[target]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    words = ["--set", "image_size=16", "--seeds", 1, "-d", "here", "--test-on", "there", "--results", root / "r"]
    status, _, said = bench(*SETTINGS, *words, cwd=root)
    assert status == 0, said
    return root / "r"


@pytest.mark.parametrize("form", ["terminal", "markdown", "json"])
def test_every_format_shows_the_number_of_labels_of_a_macro_score(one_class, zoo, form):
    done = zoo("report", "--details", "--results", one_class, "--format", form)
    assert done.returncode == 0, done.stderr
    said = "balanced_accuracy, f1_macro, recall_macro: macro over 1 of 2 labels"
    assert done.stdout.replace("\\_", "_").count(said) == 1


def test_csv_notes_the_number_of_labels_beside_each_macro_score(one_class, zoo):
    done = zoo("report", "--results", one_class, "--format", "csv")
    notes = {line["metric"]: line["note"] for line in csv.DictReader(io.StringIO(done.stdout))}
    assert {notes[name] for name in ("balanced_accuracy", "f1_macro", "recall_macro")} == {"macro over 1 of 2 labels"}
