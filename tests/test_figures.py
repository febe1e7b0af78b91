"""The figures of a board: their numbers against scikit-learn, their words, their files, and what may be missing."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions

from zoo import BINARY, MULTICLASS, ORDINAL, REGRESSION, Presentation
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score_run
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.label_scores import score_labels
from zoo.leaderboard.tables import ReportOptions, parse_by
from zoo.report.board_csv import to_csv
from zoo.report.board_html import to_html
from zoo.report.figures.board_figures import BUILDERS, list_figures
from zoo.report.figures.figure import figure_name, to_csv_file, to_svg_file
from zoo.report.figures.files import find_converter, name_files, write_figures
from zoo.report.figures.plots import relative_path
from zoo.results.runs import read_run
from zoo.results.store import Artifacts, load_result, save_result
from zoo.tasks.kinds import CORE_TASKS
from zoo.tasks.masks import SEGMENTATION
from zoo.tasks.overlaps import STATISTICS

KNOWN = {spec.name: spec for spec in METRICS}
HISTORY = [{"step": s, "num_steps": 8, "loss": 1 / s, "val_loss": 0.1, "val_score": 0.5 + s / 20} for s in (2, 4, 8)]


def store_answers(store, root, test, *, task=BINARY, history=HISTORY, **changes):
    """A stored run with these test predictions, which stand for val too."""
    labels = changes.pop(
        "labels", {"binary": ("clear", "nodule"), "regression": ("age",)}.get(task.name, ("a", "b", "c"))
    )
    counts = {"images": len(test), "patients": len(test), **task.targets.count(test.targets, labels)}
    facts = {"task": task.name, "labels": list(labels), "positive": 1 if task is BINARY else None}
    facts["splits"] = dict.fromkeys(("train", "val", "test"), counts)
    result = store(root / "first", facts=facts, status="failed", **changes)
    ids = np.char.add("val-", test.sample_ids)
    predictions = {"val": replace(test, sample_ids=ids, patients=ids), "test": test}
    metrics = {name: KNOWN[name] for name in task.metrics[:2]}
    scores = score_run(predictions, metrics, result.card(), threshold="val")
    details = {**result.details, "primary_metric": task.primary_metric}
    changed = replace(result, status="ok", error=None, details=details, checksums={})
    artifacts = Artifacts(result=changed, predictions=predictions, scores=scores, history=history)
    return load_result(save_result(root / "second", read_run(result.run), artifacts))


def draw_binary(seed=0, count=120):
    random = np.random.default_rng(seed)
    targets = (random.random(count) < 0.4).astype(int)
    return make_predictions(targets, np.round(1 / (1 + np.exp(-random.normal(targets - 0.5, 0.9))), 3))


def figures_of(results, options=None):
    (board,) = build_leaderboard(results, KNOWN, options)
    found = list_figures(board)
    return {figure.name: figure for figure in found.figures}, found.notes


def read_rows(figure):
    return list(csv.DictReader(to_csv_file(figure).splitlines()))


def numbers(rows, column):
    return np.array([float(row[column]) for row in rows])


@pytest.fixture(scope="module")
def binary(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("binary")
    return [store_answers(store, root, draw_binary(), model="net", seed=0)]


@pytest.fixture(scope="module")
def drawn(binary):
    return figures_of(binary)[0]


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_the_roc_curve_is_scikit_learn_s(drawn):
    from sklearn.metrics import roc_curve

    test = draw_binary()
    alarms, hits, _ = roc_curve(test.targets, test.probabilities[:, 1])
    rows = [row for row in read_rows(drawn["roc-nodule"]) if row["part"] == "curve"]
    x = numbers(rows, "1 - specificity")
    assert numbers(rows, "sensitivity")[1:] == pytest.approx(np.interp(x, alarms, hits)[1:], abs=1e-12)


def test_the_operating_point_is_that_of_the_board(drawn, binary):
    (point,) = [row for row in read_rows(drawn["roc-nodule"]) if row["part"] == "operating point"]
    test = draw_binary()
    called = test.probabilities[:, 1] >= float(point["threshold"])
    assert float(point["sensitivity"]) == pytest.approx(called[test.targets == 1].mean())
    assert 1 - float(point["1 - specificity"]) == pytest.approx((~called)[test.targets == 0].mean())
    assert float(point["low"]) < float(point["sensitivity"]) < float(point["high"])


def test_the_precision_recall_curve_is_scikit_learn_s(drawn):
    from sklearn.metrics import precision_recall_curve

    test = draw_binary()
    precision, recall, _ = precision_recall_curve(test.targets, test.probabilities[:, 1])
    for row in read_rows(drawn["precision-recall-nodule"])[1:]:
        reaching = np.flatnonzero(recall >= float(row["recall"]) - 1e-12)
        assert float(row["precision"]) == pytest.approx(precision[reaching[-1]])


def test_the_reliability_diagram_is_scikit_learn_s(drawn):
    from sklearn.calibration import calibration_curve

    test = draw_binary()
    true, predicted = calibration_curve(test.targets, test.probabilities[:, 1], n_bins=10, strategy="quantile")
    rows = [row for row in read_rows(drawn["reliability-nodule"]) if row["part"] == "bin"]
    assert numbers(rows, "mean predicted") == pytest.approx(predicted)
    assert numbers(rows, "observed share") == pytest.approx(true)
    assert numbers(rows, "images").sum() == 120


def test_the_distribution_of_probabilities_counts_every_unit(drawn):
    rows = [row for row in read_rows(drawn["reliability-nodule"]) if row["part"] == "distribution"]
    expected = np.histogram(draw_binary().probabilities[:, 1], bins=np.linspace(0, 1, 21))[0]
    assert numbers(rows, "images").tolist() == expected.tolist()


def test_the_confusion_matrix_is_scikit_learn_s(drawn):
    from sklearn.metrics import confusion_matrix

    test = draw_binary()
    (point,) = [row for row in read_rows(drawn["roc-nodule"]) if row["part"] == "operating point"]
    expected = confusion_matrix(test.targets, test.probabilities[:, 1] >= float(point["threshold"]))
    assert numbers(read_rows(drawn["confusion"]), "images").tolist() == expected.ravel().tolist()


def test_the_decision_curve_has_the_net_benefit_of_treating_everyone(drawn):
    rows = [row for row in read_rows(drawn["decision-curve-nodule"]) if row["model"] == "treat everyone"]
    share, p = draw_binary().targets.mean(), numbers(rows, "threshold probability")
    assert numbers(rows, "net benefit") == pytest.approx(share - (1 - share) * p / (1 - p))


def test_learning_curves_are_the_rounds_of_every_run(drawn):
    assert numbers(read_rows(drawn["training-loss"]), "mean training loss") == pytest.approx([1 / 2, 1 / 4, 1 / 8])
    assert numbers(read_rows(drawn["val-score"]), "auroc on val") == pytest.approx([0.6, 0.7, 0.9])


def test_several_seeds_are_one_diagram_of_mean_counts(tmp_path, store):
    from sklearn.calibration import calibration_curve

    tests = [draw_binary(0), replace(draw_binary(0), probabilities=draw_binary(0).probabilities ** 2)]
    tests[1] = replace(tests[1], probabilities=tests[1].probabilities / tests[1].probabilities.sum(axis=1)[:, None])
    results = [store_answers(store, tmp_path, test, model="net", seed=seed) for seed, test in enumerate(tests)]
    rows = [row for row in read_rows(figures_of(results)[0]["reliability-nodule"]) if row["part"] == "bin"]
    targets = np.concatenate([test.targets for test in tests])
    claimed = np.concatenate([test.probabilities[:, 1] for test in tests])
    true, predicted = calibration_curve(targets, claimed, n_bins=10, strategy="quantile")
    assert numbers(rows, "observed share") == pytest.approx(true) and numbers(rows, "mean predicted") == pytest.approx(
        predicted
    )
    assert numbers(rows, "images").sum() == pytest.approx(120)


def test_numbers_have_an_agreement_plot_with_bland_and_altman_s_limits(tmp_path, store):
    random = np.random.default_rng(3)
    true = random.normal(50, 10, 60)
    predicted = true + random.normal(2, 3, 60)
    test = make_predictions(true, predicted[:, None])
    drawn, _ = figures_of([store_answers(store, tmp_path, test, task=REGRESSION)])
    assert {"predicted-true", "bland-altman"} <= set(drawn) and not {"roc-age", "confusion"} & set(drawn)
    assert numbers(read_rows(drawn["predicted-true"]), "predicted") == pytest.approx(predicted)
    levels = {row["part"]: float(row["predicted - true"]) for row in read_rows(drawn["bland-altman"])[60:]}
    difference = predicted - true
    assert levels["mean difference"] == pytest.approx(difference.mean())
    assert levels["upper limit"] == pytest.approx(difference.mean() + 1.96 * difference.std(ddof=1))


# --- what a task shows -----------------------------------------------------------------------------------------------
def test_a_presentation_names_known_figures_only():
    assert {kind for task in CORE_TASKS for kind in task.presentation.figures} == set(BUILDERS)
    with pytest.raises(TypeError, match="unknown 'pie'"):
        Presentation(title="a", figures=("pie",))
    with pytest.raises(TypeError, match="unknown 'nicest'"):
        Presentation(title="a", pictures=("nicest",))


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL])
def test_classes_have_a_confusion_matrix_and_scores_by_label(tmp_path, store, task):
    random = np.random.default_rng(4)
    targets = np.arange(90) % 3
    odds = np.eye(3)[targets] + random.normal(size=(90, 3))
    test = make_predictions(targets, np.exp(odds) / np.exp(odds).sum(axis=1)[:, None])
    drawn, _ = figures_of([store_answers(store, tmp_path, test, task=task)])
    assert {"confusion", "labels-auroc", "roc-a", "roc-c", "reliability"} <= set(drawn)
    assert ("decision-curve-a" in drawn) == ("decision-curve" in task.presentation.figures)


def test_groups_are_dots_with_intervals(tmp_path, store):
    sex = np.array(["f", "m"] * 30 + ["m", "f"] * 30)
    test = replace(draw_binary(), metadata={"sex": sex})
    drawn, _ = figures_of([store_answers(store, tmp_path, test)], ReportOptions(by=parse_by(["sex"])))
    rows = read_rows(drawn["subgroups-sex"])
    assert [(row["group"], row["images"]) for row in rows] == [("f", "60"), ("m", "60")]
    assert all(float(row["low"]) < float(row["auroc"]) < float(row["high"]) for row in rows)


def test_groups_that_are_too_small_for_a_value_are_not_drawn(tmp_path, store):
    test = replace(draw_binary(), metadata={"ward": np.array([f"w{number % 12}" for number in range(120)])})
    drawn, _ = figures_of([store_answers(store, tmp_path, test)], ReportOptions(by=parse_by(["ward"])))
    assert "subgroups-ward" not in drawn


# --- words and files -------------------------------------------------------------------------------------------------
def test_every_figure_has_a_sentence_and_is_a_drawing_of_its_own(drawn):
    for figure in drawn.values():
        assert re.search(r"\w.* .*\.$", figure.text)
        assert ElementTree.fromstring(figure.svg).get("aria-label") == figure.text
        assert all(len(row) == len(figure.columns) for row in figure.rows) and figure.rows
        file = to_svg_file(figure)
        assert "var(" not in file and not re.search(r"url\(|href|@import|<script", file)
        root = ElementTree.fromstring(file)
        assert root.find("{http://www.w3.org/2000/svg}title").text == figure.title
        assert root.find("{http://www.w3.org/2000/svg}rect").get("fill") == "#ffffff"


@pytest.mark.integration
def test_equal_results_make_equal_files(tmp_path, store):
    results = [store_answers(store, tmp_path, draw_binary(seed), model="net", seed=seed) for seed in range(2)]
    boards = [build_leaderboard(results, KNOWN) for _ in range(2)]
    for number, found in enumerate(boards):
        write_figures(found, tmp_path / str(number))
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert "dots-roc-nodule.svg" in names and "dots-scores.csv" in names
    for name in names:
        if not name.endswith(".pdf"):  # cairo writes the time into it
            assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_boards_of_one_dataset_have_files_of_their_own(binary):
    (board,) = build_leaderboard(binary, KNOWN)
    other, third = replace(board, protocols=("other@1",)), replace(board, dataset="dots 2")
    assert name_files([board, other, third]) == [f"dots-{figure_name(board.protocol)}", "dots-other-1", "dots-2"]
    assert len(set(name_files([board, board, third]))) == 3


def test_a_name_of_files_is_plain_and_short():
    assert figure_name("roc", "Melanoma & Naevus / 2") == "roc-melanoma-naevus-2"
    assert figure_name("roc", "肺") == "roc" and len(figure_name("roc", "x" * 300)) == 100


def test_a_text_that_a_spreadsheet_would_run_is_disarmed(tmp_path, store):
    drawn, _ = figures_of([store_answers(store, tmp_path, draw_binary(), model="=1+1")])
    assert {row["model"] for row in read_rows(drawn["confusion"])} == {"'=1+1"}


@pytest.mark.integration
def test_the_command_writes_figures_beside_its_board(zoo, binary, tmp_path):
    folder = binary[0].folder.parents[2]
    done = zoo("report", "--results", folder, "--figures", tmp_path / "figures")
    assert done.returncode == 0 and "auroc" in done.stdout
    files = {path.suffix for path in (tmp_path / "figures").iterdir()}
    convert, problem = find_converter()
    assert files == ({".svg", ".csv", ".pdf"} if convert else {".svg", ".csv"})
    assert problem in done.stderr and " figures" in done.stderr


def test_a_figure_becomes_a_pdf_where_cairosvg_is_installed(drawn):
    convert, problem = find_converter()
    if convert is None:
        pytest.skip(problem)
    assert convert(to_svg_file(drawn["confusion"])).startswith(b"%PDF")


# --- what may be missing ---------------------------------------------------------------------------------------------
def test_a_test_set_of_one_class_has_no_curves_and_says_so(tmp_path, store):
    test = draw_binary()
    drawn, notes = figures_of([store_answers(store, tmp_path, replace(test, targets=np.zeros(120, int)))])
    assert "no curves: no label has positives and negatives in test" in notes and not any(
        name.startswith("roc") for name in drawn
    )
    assert "confusion" in drawn


def test_two_images_are_drawn_without_intervals(tmp_path, store):
    drawn, _ = figures_of([store_answers(store, tmp_path, make_predictions([0, 1], [0.3, 0.6]))])
    assert {row["low"] for row in read_rows(drawn["roc-nodule"]) if row["part"] == "operating point"} == {""}


def test_two_numbers_are_drawn_too(tmp_path, store):
    test = make_predictions(np.array([1.0, 2.0]), np.array([[1.5], [1.5]]))
    assert "bland-altman" in figures_of([store_answers(store, tmp_path, test, task=REGRESSION)])[0]


def test_a_model_without_rounds_has_a_note_in_place_of_its_curve(tmp_path, store):
    drawn, notes = figures_of([store_answers(store, tmp_path, draw_binary(), history=())])
    assert "training-loss" not in drawn
    assert "net: no learning curve: its runs hold no history of rounds" in notes


def test_a_damaged_history_costs_only_its_curve(tmp_path, store):
    result = store_answers(store, tmp_path, draw_binary())
    (result.folder / "history.jsonl").write_text('[{"step": 1}]\n')
    drawn, notes = figures_of([result])
    assert "roc-nodule" in drawn and any("history.jsonl: cannot be read" in note for note in notes)


def test_undefined_rounds_are_gaps(tmp_path, store):
    history = [{"step": 1, "loss": 0.5, "val_score": None}, {"step": 2, "loss": 0.4, "val_score": 0.7}]
    drawn, _ = figures_of([store_answers(store, tmp_path, draw_binary(), history=history)])
    assert [row["auroc on val"] for row in read_rows(drawn["val-score"])] == ["", "0.7"]


def test_labels_that_differ_only_in_signs_have_files_of_their_own(tmp_path, store):
    random = np.random.default_rng(5)
    targets = np.arange(60) % 3
    odds = np.eye(3)[targets] + random.normal(size=(60, 3))
    test = make_predictions(targets, np.exp(odds) / np.exp(odds).sum(axis=1)[:, None])
    drawn, _ = figures_of([store_answers(store, tmp_path, test, task=MULTICLASS, labels=("g+", "g-", "肺"))])
    assert {"roc-g", "roc-g-2", "roc"} <= set(drawn)


def test_rows_without_predictions_have_no_figures(tmp_path, store):
    assert (
        figures_of([store(tmp_path, model="bad", status="failed"), store(tmp_path, model="constant", noise=None)])[0]
        == {}
    )


def test_names_in_figures_are_text(tmp_path, store):
    name = "<script>alert(1)</script>"
    result = store_answers(store, tmp_path, draw_binary(), model=name, labels=("a & b", name))
    (board,) = build_leaderboard([result], KNOWN)
    assert to_html([board]).count("<script>") == 1
    for figure in list_figures(board).figures:
        ElementTree.fromstring(to_svg_file(figure))


def test_steps_between_points_lead_to_the_points_within_a_twentieth_of_a_pixel():
    places = np.random.default_rng(0).uniform(0, 300, (200, 2)).cumsum(axis=0) / 100
    start, steps = relative_path([tuple(place) for place in places]).split("l")
    numbers = [float(text) for text in re.findall(r"-?(?:\d*\.\d+|\d+)", steps)]
    drawn = np.cumsum([[float(text) for text in start.split()], *np.reshape(numbers, (-1, 2))], axis=0)
    assert np.abs(drawn - places).max() <= 0.05 + 1e-9
    assert relative_path([(1, 2)]) == "1 2" and relative_path([]) == ""


# --- masks -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def masks(tmp_path_factory, store):
    """Two runs on masks of two labels; no reference and no prediction has "b" in ten images of the first."""
    root, results = tmp_path_factory.mktemp("masks"), []
    for seed in (0, 1):
        random = np.random.default_rng(seed)
        answers = random.random((40, 2, len(STATISTICS)))
        answers[:10, 1] = np.nan if seed == 0 else 0.0
        test = make_predictions(np.ones((40, 2)), answers.reshape(40, -1))
        results.append(store_answers(store, root, test, task=SEGMENTATION, labels=("a", "b"), model="net", seed=seed))
    return results


def read_dice(results):
    tests = [result.predictions()["test"] for result in results]
    return np.stack([test.probabilities.reshape(40, 2, -1)[:, :, STATISTICS.index("dice")] for test in tests])


def test_the_cases_of_each_label_have_their_mean_and_their_worst_twentieth(masks):
    (board,) = build_leaderboard(masks, KNOWN)
    (section,) = [section for section in board.sections if section.name == "cases"]
    dice = read_dice(masks)
    for place, row in enumerate(section.rows):
        cells = dict(zip(section.columns, row, strict=True))
        values = np.nanmean(dice[:, :, place], axis=0)
        assert cells["label"] == "ab"[place] and (cells["units"], cells["undefined"]) == (40, 0)
        assert cells["mean"] == pytest.approx(np.nanmean(dice[:, :, place], axis=1).mean())
        assert cells["worst twentieth"] == pytest.approx(np.quantile(values, 0.05))
        assert cells["worst"] == values.min()
    of_labels = [row[section.columns.index("mean")] for row in section.rows]
    assert board.rows[0].scores["dice"].value == pytest.approx(np.mean(of_labels))


def test_a_metric_of_all_labels_together_has_no_cases(masks):
    joint = replace(KNOWN["dice"], per_unit=lambda request: request.probabilities[:, 0])
    (board,) = build_leaderboard(masks, {**KNOWN, "dice": joint})
    assert "cases" not in [section.name for section in board.sections]


def test_the_strip_of_a_label_has_a_dot_for_every_case(masks):
    drawn, _ = figures_of(masks)
    assert {"cases-a", "cases-b"} <= set(drawn)
    rows = read_rows(drawn["cases-b"])
    assert numbers(rows, "Dice") == pytest.approx(np.sort(np.nanmean(read_dice(masks)[:, :, 1], axis=0)))
    assert drawn["cases-b"].svg.count("h0") == len(rows) == 40


def test_masks_are_scored_by_label(masks):
    (board,) = build_leaderboard(masks, KNOWN)
    scores = score_labels(board, board.rows[0])
    dice = read_dice(masks)
    assert scores["a"]["dice"].value == pytest.approx(dice[:, :, 0].mean())
    assert scores["b"]["dice"].value == pytest.approx(np.nanmean(dice[:, :, 1], axis=1).mean())
    assert scores["b"]["dice"].low is not None
    lines = list(csv.DictReader(to_csv([board]).splitlines()))
    assert {line["label"] for line in lines if line["metric"] == "dice"} == {"", "a", "b"}
