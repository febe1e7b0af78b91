"""Sanity checks of rows: degenerate rows, shuffled labels, and the number of configurations."""

import re
from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions
from scipy import stats

from zoo import BINARY, REGRESSION
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score, decide_all
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.sanity_checks import (
    count_configurations,
    count_outputs,
    find_degenerate,
    judge_shuffles,
    score_shuffles,
)
from zoo.report.board_csv import to_csv
from zoo.report.board_markdown import to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.formats import Layout
from zoo.report.reasons import reason_text
from zoo.results.store import load_results, load_scored_runs
from zoo.runner.grid import as_control
from zoo.specs.metric import ScoringContext
from zoo.specs.protocol import FINETUNE, KNN, SCRATCH

DETAILS = Layout(width=200, details=True)
BY_NAME = {spec.name: spec for spec in METRICS}
CARD = ScoringContext(task=BINARY, labels=("clear", "nodule"), positive=1)
CHANCE = Score(value=0.5)
SHORT = replace(SCRATCH, epochs=None, steps=4)  # what `store` stores


def predicted(positive, targets=(0, 1) * 10):
    """One run whose test split has these probabilities of the positive class; val has others, spread out."""
    parts = {}
    for split, column in (("val", np.linspace(0.3, 0.7, len(targets))), ("test", np.asarray(positive, float))):
        parts[split] = make_predictions(sorted(targets) if split == "val" else targets, column, prefix=split)
    return parts


def reasons(score, *runs, constant=CHANCE, higher=True, card=CARD):
    seeds = [[run] for run in runs]
    outputs = count_outputs(seeds, card, decide_all(seeds, card, "val"))
    return find_degenerate(score, constant, higher_is_better=higher, outputs=outputs, unit=card.unit)


GOOD = predicted(np.tile([0.2, 0.8], 10))


# --- degenerate rows -------------------------------------------------------------------------------------------------
def test_a_row_whose_interval_is_above_chance_is_not_flagged():
    assert reasons(Score(value=0.8, low=0.6, high=0.9), GOOD) == ()


@pytest.mark.parametrize("low", [0.5, 0.41])
def test_a_row_whose_interval_covers_the_constant_predictor_is_flagged(low):
    (reason,) = reasons(Score(value=0.6, low=low, high=0.8), GOOD)
    assert reason == "its interval does not exceed the constant predictor's .500"


def test_without_an_interval_the_value_itself_must_beat_the_constant_predictor():
    assert reasons(Score(value=0.6, reason=Reason("too-few", (8, 10, "image", "", ""))), GOOD) == ()
    assert reasons(Score(value=0.5, reason=Reason("too-few", (8, 10, "image", "", ""))), GOOD) == (
        "its score does not exceed the constant predictor's .500",
    )


def test_for_an_error_metric_the_upper_end_must_be_below_the_constant_predictors():
    card = ScoringContext(task=REGRESSION, labels=("age",))
    run = {"test": replace(GOOD["test"], probabilities=np.arange(20.0)[:, None])}
    constant = Score(value=12.0)
    assert reasons(Score(value=9, low=8, high=11), run, constant=constant, higher=False, card=card) == ()
    assert reasons(Score(value=11, low=10, high=13), run, constant=constant, higher=False, card=card)


def test_a_seed_with_one_output_for_every_image_is_counted_though_the_mean_is_good():
    collapsed = predicted(np.full(20, 0.4))
    (reason,) = reasons(Score(value=0.8, low=0.6, high=0.9), GOOD, collapsed)
    assert reason == "the same output for every test image in 1 of 2 runs"


def test_a_row_that_predicts_one_class_is_flagged_despite_a_correct_order():
    high = predicted(np.tile([0.91, 0.93], 10))  # val's threshold is near .5
    (reason,) = reasons(Score(value=1.0, low=0.9, high=1.0), high)
    assert reason == "one class for every test image in 1 of 1 runs"


def test_predicting_one_class_is_right_for_a_test_split_of_one_class():
    assert reasons(None, predicted(np.linspace(0.8, 0.9, 20), targets=(0,) + (1,) * 19)) != ()
    alone = predicted(np.linspace(0.8, 0.9, 20))
    alone["test"] = replace(alone["test"], targets=np.ones(20, int))
    assert reasons(None, alone) == ()


def test_without_a_constant_predictor_on_the_board_nothing_is_compared():
    assert reasons(Score(value=0.4, low=0.3, high=0.5), GOOD, constant=None) == ()


def board_of(root):
    (board,) = build_leaderboard(load_results(root)[0], BY_NAME)
    return board


def store_constant(root, store):
    """The class prior as `zoo bench` stores it: scored .5."""
    from zoo.evaluation.predictions import save_predictions
    from zoo.results.store import Artifacts, write_artifacts

    result = store(root, model="constant")
    flat = {
        split: replace(part, probabilities=np.full((len(part), 2), 0.5)) for split, part in result.predictions().items()
    }
    for name in ("result.json", "scores.json", "predictions.npz", "history.jsonl"):
        (result.folder / name).unlink()
    save_predictions(result.folder / "predictions.npz", flat)
    write_artifacts(result.folder, Artifacts(result=result, scores={"scores": {"auroc": CHANCE}}))


@pytest.mark.integration
def test_a_degenerate_row_is_marked_in_every_format(tmp_path, store):
    for model, noise in (("good", 0.5), ("noise", 50.0)):
        for seed in range(3):
            store(tmp_path, model=model, noise=noise, seed=seed)
    store_constant(tmp_path, store)
    board = board_of(tmp_path)
    assert {row.model: bool(row.degenerate) for row in board.rows} == {"good": False, "noise": True, "constant": False}
    for text in (to_terminal([board], DETAILS), to_markdown([board])):
        assert "noise (degenerate)" in text and "good (degenerate)" not in text
        assert "noise: degenerate: its interval does not exceed the constant predictor's .500" in text
    assert "its interval does not exceed" in to_csv([board])


# --- how often a test set was looked at ------------------------------------------------------------------------------
@pytest.mark.integration
def test_configurations_of_a_test_set_are_counted_over_boards_without_seeds(tmp_path, store):
    for seed in range(3):
        store(tmp_path, seed=seed)
    store(tmp_path, model="other")
    store(tmp_path, protocol=KNN)
    store(tmp_path, init="pretrained", weights_tag="demo", weights_digest="w")
    store(tmp_path, model="constant")
    store(tmp_path, model="failed", status="failed")
    store(tmp_path, model="tried", purpose="tune")
    store(tmp_path, split_hash="6" * 64)
    counted = count_configurations(load_scored_runs(tmp_path))
    assert counted == {("c" * 64, "5" * 64): 4, ("c" * 64, "6" * 64): 1}
    boards = build_leaderboard(load_results(tmp_path)[0], BY_NAME)
    assert sorted(board.num_configurations for board in boards) == [1, 4, 4, 4]


@pytest.mark.integration
def test_a_board_shows_the_number_of_configurations_of_its_test_set(tmp_path, store):
    store(tmp_path)
    assert "test set used by 1 configuration (model x protocol x initial weights)" in to_terminal(
        [board_of(tmp_path)], DETAILS
    )
    store(tmp_path, protocol=FINETUNE)
    store(tmp_path, protocol=KNN)
    for board in build_leaderboard(load_results(tmp_path)[0], BY_NAME):
        assert "test set used by 3 configurations" in to_markdown([board])


def test_a_bench_counts_configurations_of_earlier_benches(bench, zoo, tiny_data, tmp_path):
    chosen = ["-m", "tiny_cnn", "-d", tiny_data / "binary.npz", "--set", "image_size=16", "--seeds", 1]
    chosen += ["--results", tmp_path / "results"]
    assert bench(*chosen, "--protocol", "linear-probe")[0] == 0
    done = zoo("bench", *chosen, "--protocol", "knn")
    assert "2 configurations were scored on this test set" in done.stdout
    details = zoo("report", "--details", "--results", tmp_path / "results").stdout
    assert "test set used by 2 configurations" in details


# --- the control with shuffled labels --------------------------------------------------------------------------------
def shuffles(values):
    """Runs whose AUROC is each of `values`: of 10 x 10 pairs, so many are in the right order."""
    found = []
    for value in values:
        right = round(value * 100)
        positive = np.empty(20)
        positive[0::2] = np.arange(10)  # of the negatives
        positive[1::2] = [below - 0.5 for below in [*[10] * (right // 10), right % 10, *[0] * 9][:10]]
        found.append([predicted((positive + 1) / 12)])
    return found


def judged(values):
    scores = score_shuffles(shuffles(values), {"auroc": BY_NAME["auroc"]}, CARD, threshold="val")
    return scores["auroc"], judge_shuffles("net", scores, len(values), CARD)


def test_the_interval_over_shuffles_equals_scipys_students_t():
    values = [0.4, 0.5, 0.6, 0.55, 0.45]
    found, _ = judged(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, low, high))
    assert found.method.text == "t over 5 shuffles"


def test_an_interval_that_covers_chance_is_no_sign_of_a_leak():
    _, verdict = judged([0.42, 0.5, 0.58] * 6 + [0.48, 0.54])
    assert verdict.passed is True
    assert verdict.text == "labels shuffled (20 shuffles): auroc .501 [.471 .531] covers .5: no sign of a leak"


@pytest.mark.parametrize("center", [0.6, 0.4])
def test_an_interval_that_does_not_cover_chance_fails_the_control(center):
    _, verdict = judged([center, center + 0.04, center - 0.04] * 7)
    assert verdict.passed is False and "DOES NOT COVER .5" in verdict.text


def test_few_shuffles_are_reported_and_one_gives_no_verdict():
    assert "(3 shuffles, fewer than the usual 20)" in judged([0.5, 0.4, 0.6])[1].text
    _, verdict = judged([0.5])
    assert verdict.passed is None and "no interval: one shuffle" in reason_text(verdict.text)


def test_shuffled_runs_are_on_separate_boards_and_do_not_count_as_configurations(tmp_path, store):
    for seed in range(3):
        store(tmp_path, seed=seed, noise=0.3)
        store(tmp_path, seed=seed, noise=50.0, purpose="shuffle", protocol=as_control(SHORT))
    plain, control = build_leaderboard(load_results(tmp_path)[0], BY_NAME)
    assert (plain.is_control, control.is_control) == (False, True)
    assert plain.rows[0].seeds == control.rows[0].seeds == (0, 1, 2)
    assert plain.rows[0].scores["auroc"].value > 0.9
    assert control.rows[0].scores["auroc"].method.text == "t over 3 shuffles"
    assert control.protocol == f"{plain.protocol}+shuffled"
    assert plain.num_configurations == 1
    assert control.rank(0) is None and control.rows[0].degenerate == ()
    assert plain.controls == control.controls


def test_a_failed_control_is_shown_above_the_board_of_the_true_labels(tmp_path, store):
    for seed in range(3):
        store(tmp_path, seed=seed)
        store(tmp_path, seed=seed, noise=0.3, purpose="shuffle", protocol=as_control(SHORT))
    for board in build_leaderboard(load_results(tmp_path)[0], BY_NAME):
        text = to_markdown([board])
        assert "**CONTROL FAILED: net: labels shuffled (3 shuffles" in text
        assert text.index("CONTROL FAILED") < text.index("| rank |")


CHEAT = '''
"""A network that knows the answer without having learned it: bright images are nodules."""
from zoo import ModelSpec, hookimpl


def build(request):
    import torch
    from torch import nn

    class Cheat(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            bright = images.mean((1, 2, 3), keepdim=False)[:, None]
            return torch.cat([-bright, bright + 0 * self.bias], dim=1)

    return Cheat()


@hookimpl
def register_models():
    return [ModelSpec(name="cheat", build=build, tasks=("binary",))]
'''


@pytest.fixture(scope="module")
def controlled(bench, install, tiny_data, tmp_path_factory):
    """A network that learns and one that knows already, on shuffled labels."""
    root = tmp_path_factory.mktemp("control")
    install(root, "zoo-cheat", CHEAT)
    chosen = ["-m", "tiny_cnn,cheat", "-d", tiny_data / "binary.npz", "--protocol", "scratch", "--set", "steps=4"]
    chosen += ["--set", "image_size=16", "--shuffle-labels", "--seeds", 4, "--results", root / "results"]
    status, document, _ = bench(*chosen, sites=[root])
    assert status == 0
    return root, document, chosen


def test_the_control_detects_a_network_with_leaked_labels(controlled, zoo):
    root, document, _ = controlled
    assert {(run["model"], run["protocol"]) for run in document["runs"]} == {
        (model, "scratch@1+image_size=16+steps=4+shuffled") for model in ("tiny_cnn", "cheat")
    }
    assert "CONTROL FAILED for cheat" in zoo("report", "--results", root / "results", sites=[root]).stdout
    told = zoo("report", "--details", "--results", root / "results", sites=[root]).stdout
    assert "control: the labels of train and val were shuffled" in told
    assert re.search(
        r"^CONTROL FAILED: cheat: labels shuffled \(4 shuffles, fewer than the usual 20\): auroc \.[89]", told, re.M
    )
    assert "CONTROL FAILED: tiny_cnn" not in told and "4 shuffles" in told


def test_a_control_is_a_separate_run_and_is_reused(controlled, bench):
    root, _, chosen = controlled
    _, again, _ = bench(*chosen, "--dry-run", sites=[root])
    assert all(run["reused"] for run in again["runs"])
    plain = [word for word in chosen if word != "--shuffle-labels"]
    _, other, _ = bench(*plain, "--dry-run", sites=[root])
    assert not any(run["reused"] for run in other["runs"])


def test_val_and_train_were_shuffled_and_test_was_not(controlled, tiny_data):
    root, _, _ = controlled
    truth = np.load(tiny_data / "binary.npz")
    stored = [result for result in load_results(root / "results")[0] if result.run["shown"] == "tiny_cnn"]
    for result in stored:
        found = result.predictions()
        assert np.array_equal(found["test"].targets, truth["test_labels"].ravel())
        assert not np.array_equal(found["val"].targets, truth["val_labels"].ravel())
        assert found["val"].targets.sum() == truth["val_labels"].sum()
    assert len({result.predictions()["val"].targets.tobytes() for result in stored}) == 4


def test_a_control_searches_no_grid_and_uses_twenty_shuffles(bench, tiny_data, tmp_path):
    chosen = ["-m", "tiny_cnn", "-d", tiny_data / "binary.npz", "--protocol", "tuned", "--weights", "none"]
    _, document, _ = bench(*chosen, "--shuffle-labels", "--dry-run", "--results", tmp_path)
    assert {run["protocol"] for run in document["runs"]} == {"tuned@1+shuffled"}
    assert sorted(run["seed"] for run in document["runs"]) == list(range(20))


def test_a_bundle_of_a_control_verifies(controlled, zoo, tmp_path):
    root, _, _ = controlled
    assert zoo("bundle", tmp_path / "b.zip", "--results", root / "results", sites=[root]).returncode == 0
    done = zoo("verify", tmp_path / "b.zip", sites=[root])
    assert done.returncode == 0, done.stdout
