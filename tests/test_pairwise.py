"""Two models side by side: names, the board's test, single runs, and disagreements."""

import json

import numpy as np
import pytest
from factories import paired_delong
from pytest import approx
from sklearn.metrics import roc_auc_score

from zoo.errors import UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.pairwise import (
    BY_PROBABILITY,
    compare_models,
    describe_target,
    find_label,
    select_results,
)
from zoo.report.board_json import to_json
from zoo.report.pairs import pair_to_document, pair_to_terminal
from zoo.report.reasons import reason_text
from zoo.report.statements import statements
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.metric import ScoringContext
from zoo.statistics.pairs import mcnemar
from zoo.tasks.kinds import find_task

BY_NAME = {spec.name: spec for spec in METRICS}
PATIENTS = {"has_patients": True, "patient": "patient"}


def boards_of(root):
    return build_leaderboard(load_results(root)[0], BY_NAME, sections=())


@pytest.fixture
def three_seeds(tmp_path, store):
    for model, noise in (("net", 0.5), ("other_net", 3.0), ("third", 1.0)):
        for seed in range(3):
            store(tmp_path, model=model, seed=seed, noise=noise)
    return tmp_path


def the_contrast(root, first="net", second="other_net"):
    (found,) = compare_models(boards_of(root), first, second)
    return found


# --- names -----------------------------------------------------------------------------------------------------------
def test_a_plain_or_qualified_name_means_its_only_row(tmp_path, store):
    store(tmp_path, init="pretrained", weights_tag="demo")
    boards = boards_of(tmp_path)
    assert [find_label(boards, name) for name in ("net.demo", "net", "zoo-tiny:net")] == ["net.demo"] * 3


def test_a_name_of_several_rows_is_an_error_that_names_them(tmp_path, store):
    for tag in ("demo", "other"):
        store(tmp_path, init="pretrained", weights_tag=tag, weights_digest=tag)
    with pytest.raises(UsageError, match=r"'net' is 2 rows: net.demo, net.other"):
        find_label(boards_of(tmp_path), "net")


def test_an_unknown_name_is_an_error_with_the_nearest(three_seeds):
    with pytest.raises(UsageError, match=r"no board has a model 'othr_net'; fix: Did you mean 'other_net'"):
        compare_models(boards_of(three_seeds), "net", "othr_net")


def test_a_model_is_not_compared_with_itself(three_seeds):
    with pytest.raises(UsageError, match="are the same model: net"):
        compare_models(boards_of(three_seeds), "net", "zoo-tiny:net")


def test_models_without_a_common_board_are_an_error_that_lists_their_boards(tmp_path, store):
    store(tmp_path, model="net")
    store(tmp_path, model="other_net", dataset="rings")
    with pytest.raises(UsageError, match=r"no board has both .*net: dots scratch@1; other_net: rings scratch@1"):
        compare_models(boards_of(tmp_path), "net", "other_net")


def test_results_are_selected_by_dataset_and_protocol_with_their_baselines(tmp_path, store):
    for dataset in ("dots", "rings"):
        store(tmp_path, dataset=dataset)
        store(tmp_path, dataset=dataset, model="constant")
    results = load_results(tmp_path)[0]
    for protocol in ("scratch", "scratch@1"):
        chosen = select_results(results, "dots", protocol)
        assert sorted((r.run["dataset"], r.run["shown"]) for r in chosen) == [("dots", "constant"), ("dots", "net")]
    with pytest.raises(UsageError, match="dataset 'dot'; fix: Did you mean 'dots'"):
        select_results(results, "dot", None)
    with pytest.raises(UsageError, match="protocol 'knn'; fix: there are: scratch, scratch@1"):
        select_results(results, None, "knn")


# --- over patients and seeds -----------------------------------------------------------------------------------------
def test_the_test_equals_the_boards_in_either_order_of_the_models(three_seeds):
    there, back = the_contrast(three_seeds), the_contrast(three_seeds, "other_net", "net")
    (pair,) = [p for p in there.board.comparisons.pairs if {p.first, p.second} == {there.first, there.second}]
    assert (there.tested.p, there.tested.p_holm) == (pair.p, pair.p_holm)
    assert back.tested.difference == -there.tested.difference
    assert there.tested.difference == approx(there.rows[0].scores["auroc"].value - there.rows[1].scores["auroc"].value)
    assert there.single is None and there.reason is None


def test_every_board_with_both_models_is_compared(three_seeds, store):
    for model in ("net", "other_net"):
        for seed in range(2):
            store(three_seeds, dataset="rings", model=model, seed=seed)
    store(three_seeds, dataset="stars")
    found = compare_models(boards_of(three_seeds), "net", "other_net")
    assert [(c.board.dataset, len(c.board.comparisons.pairs)) for c in found] == [("dots", 3), ("rings", 1)]


def test_a_leaking_dataset_is_not_tested_and_the_reason_is_shown(tmp_path, store):
    for model in ("net", "other_net"):
        for seed in range(2):
            store(tmp_path, model=model, seed=seed, deviations=(Deviation("leak-allowed", ("a control",)),))
    found = the_contrast(tmp_path)
    assert found.tested is None and found.single is None
    assert reason_text(found.reason) == "net: a row on a dataset that leaks is not ranked"
    assert found.ordered_by == BY_PROBABILITY


# --- single runs -----------------------------------------------------------------------------------------------------
def test_single_runs_are_tested_by_delong_and_mcnemar(tmp_path, store):
    stored = [store(tmp_path, model=model, noise=noise) for model, noise in (("net", 1.0), ("other_net", 3.0))]
    found = the_contrast(tmp_path)
    test = [result.predictions()["test"] for result in stored]
    expected = paired_delong(test[0].targets == 1, *(part.probabilities[:, 1] for part in test))
    assert found.tested is None and found.single.method == "paired DeLong"
    assert (found.single.statistic, found.single.p) == approx((expected.statistic, expected.p))
    areas = [roc_auc_score(part.targets, part.probabilities[:, 1]) for part in test]
    assert found.single.difference == approx(areas[0] - areas[1])
    assert found.single.low < found.single.difference < found.single.high
    assert found.single.mcnemar == mcnemar(found.single.only_first, found.single.only_second)
    accuracy = [row.scores["accuracy"].value for row in found.rows]
    assert found.single.only_first - found.single.only_second == round(40 * (accuracy[0] - accuracy[1]))
    assert "single runs: no statement on seeds (seed 0)" in pair_to_terminal([found])


def test_a_baseline_is_compared_with_one_run_of_the_model(three_seeds, store):
    store(three_seeds, model="constant", noise=0.0)
    found = the_contrast(three_seeds, "net", "constant")
    assert found.tested is None and found.single.seeds == (0, 0)


def test_folds_average_their_areas_and_add_their_variances(tmp_path, store):
    for model, noise in (("net", 1.0), ("other_net", 3.0)):
        for fold in range(2):
            store(tmp_path, model=model, noise=noise, fold=fold, num_folds=2)
    found = the_contrast(tmp_path)
    assert found.single.difference == approx(found.rows[0].scores["auroc"].value - found.rows[1].scores["auroc"].value)
    assert found.single.p < 1 and len(found.disagreements) == 10


def test_mcnemars_test_is_omitted_for_several_images_per_patient(tmp_path, store):
    for model in ("net", "other_net"):
        store(tmp_path, model=model, noise=2.0, facts=PATIENTS, images_each=2)
    found = the_contrast(tmp_path)
    assert found.single.method == "z of the paired influence by patient" and 0 < found.single.p <= 1
    assert found.single.mcnemar is None and "independent" in found.single.mcnemar_reason


# --- where they disagree ---------------------------------------------------------------------------------------------
def test_removing_a_case_reduces_the_difference_by_its_influence(three_seeds):
    found = the_contrast(three_seeds)
    assert [abs(part.moves) for part in found.disagreements] == sorted(
        (abs(part.moves) for part in found.disagreements), reverse=True
    )
    part = found.disagreements[0]
    scores = []
    for row in found.rows:
        tests = [run[0]["test"] for run in row.stored]
        kept = tests[0].sample_ids != part.case
        scores.append(np.mean([roc_auc_score(t.targets[kept], t.probabilities[kept, 1]) for t in tests]))
    assert found.tested.difference - (scores[0] - scores[1]) == approx(part.moves, rel=0.1)


def test_a_case_shows_its_target_and_the_mean_probability_of_each_model(three_seeds):
    found = the_contrast(three_seeds)
    part = found.disagreements[0]
    for row, shown in zip(found.rows, (part.first, part.second), strict=True):
        tests = [run[0]["test"] for run in row.stored]
        (i,) = np.flatnonzero(tests[0].sample_ids == part.case)
        target = tests[0].targets[i]
        assert shown == approx(np.mean([test.probabilities[i, target] for test in tests]))
        assert part.target == ("clear", "nodule")[target]


def test_images_of_one_patient_are_one_case(tmp_path, store):
    for model in ("net", "other_net"):
        for seed in range(2):
            store(tmp_path, model=model, seed=seed, noise=2.0, facts=PATIENTS, images_each=2)
    found = the_contrast(tmp_path)
    part = found.disagreements[0]
    number = int(part.case[1:])
    assert part.samples == (f"test0-{2 * number}", f"test0-{2 * number + 1}")
    assert part.target == "clear x 1; nodule x 1"
    assert f"{part.case}" in pair_to_terminal([found], width=200)


def test_models_with_equal_predictions_have_no_disagreements(tmp_path, store):
    for model in ("net", "other_net"):
        for seed in range(2):
            store(tmp_path, model=model, seed=seed, noise=0.0)
    found = the_contrast(tmp_path)
    assert found.disagreements == () and found.tested.p == 1.0
    assert "there is no difference" in pair_to_terminal([found])


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        ("multiclass", np.array([1, 0]), [0.6, 0.5]),
        ("multilabel", np.array([[1.0, 0.0], [np.nan, np.nan]]), [(0.3 + 0.4) / 2, np.nan]),
        ("multilabel", np.array([[1.0, np.nan], [np.nan, 1.0]]), [0.3, 0.2]),
        ("regression", np.array([2.0, 3.0]), [0.3, 0.5]),
    ],
)
def test_the_truth_has_a_probability_in_every_task(task, targets, expected):
    probabilities = np.array([[0.3, 0.6], [0.5, 0.2]])
    assert find_task(task).answers.of_target(probabilities, targets) == approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("task", "targets", "text"),
    [
        ("binary", [1, 1], "mass"),
        ("binary", [0, 1, 1], "none seen x 1; mass x 2"),
        ("multilabel", [[1.0, 1.0]], "none seen | mass"),
        ("multilabel", [[0.0, np.nan]], "none"),
        ("regression", [61.5, 61.5], "61.5"),
        ("regression", [61.5, 62.5], "61.5 x 1; 62.5 x 1"),
    ],
)
def test_a_target_is_described_by_its_labels(task, targets, text):
    card = ScoringContext(task=find_task(task), labels=("none seen", "mass"))
    assert describe_target(np.array(targets), card) == text


# --- formats ---------------------------------------------------------------------------------------------------------
def test_the_terminal_shows_the_test_and_the_patients_needed(three_seeds):
    text = pair_to_terminal([the_contrast(three_seeds)], width=200)
    for told in (
        "dots · binary",
        "auroc of net minus other_net: +.",
        "after Holm over the board's 3 pairs: net is better",
        "variance of the difference: ",
        "these 40 images and these seeds detect a difference of .",
        "to detect a difference of this size with 80 % power and these seeds: ",
        "ordered by influence",
    ):
        assert told in text
    assert "\x1b" not in text


def test_with_highly_variable_seeds_no_possible_difference_is_detectable(tmp_path, store):
    for model in ("net", "other_net"):
        for seed, noise in enumerate((0.01, None)):  # areas of 1 and .5
            store(tmp_path, model=model, seed=seed, noise=noise)
    found = the_contrast(tmp_path)
    told = "could not find any difference with 80 % power: auroc differs by 1 at most"
    assert f"these 40 images and these seeds {told}" in pair_to_terminal([found], width=200)
    assert f"this test set of 40 images, with these seeds, {told}" in statements(found.board)
    assert pair_to_document([found])["boards"][0]["tested"]["detectable"] is None
    comparisons = json.loads(to_json([found.board]))["boards"][0]["comparisons"]
    assert comparisons["detectable"] is comparisons["pairs"][0]["detectable"] is None


def test_a_constant_difference_needs_no_number_of_images(tmp_path, store):
    for seed in range(2):
        store(tmp_path, model="net", seed=seed, noise=0.01)  # an area of 1 in all seeds
        store(tmp_path, model="flat", seed=seed, noise=None)
    found = the_contrast(tmp_path, "net", "flat")
    text = pair_to_terminal([found], width=200)
    told = (
        "cannot determine the difference that is detected with 80 % power: "
        "the models differ by the same amount on every image and in every seed"
    )
    assert told in text and any(told in line for line in statements(found.board))
    assert "net is better" in text and "to detect a difference" not in text and "no number of" not in text
    tested = pair_to_document([found])["boards"][0]["tested"]
    assert tested["detectable"] is tested["patients_needed"] is None


def test_deviations_of_either_row_are_shown(three_seeds, store):
    for seed in range(2):
        store(three_seeds, model="small", seed=seed, deviations=(Deviation("image-size", (64, 28)),))
    text = pair_to_terminal([the_contrast(three_seeds, "net", "small")], width=200)
    assert "small: image_size: 64 instead of 28" in text and "small: 2 of 3 runs count" in text


def test_the_json_document_names_models_instead_of_positions(three_seeds):
    document = json.loads(json.dumps(pair_to_document([the_contrast(three_seeds)]), allow_nan=False))
    assert (document["schema"], document["command"], document["models"]) == (1, "compare", ["net", "other_net"])
    (board,) = document["boards"]
    tested = board["tested"]
    assert (tested["first"], tested["second"], tested["winner"]) == ("net", "other_net", "net")
    assert tested["patient_share"] + tested["seed_share"] == approx(1)
    assert board["single_runs"] is None and len(board["disagreements"]) == 10
    assert {"case", "samples", "target", "first", "second", "moves"} == set(board["disagreements"][0])
    assert board["first"]["seeds"] == [0, 1, 2]
