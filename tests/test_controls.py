"""What speaks against a row: no better than the constant predictor, one answer for all, a test set looked at often."""

import numpy as np
import pytest

from zoo.controls import count_configurations, find_degenerate
from zoo.inference import Predictions
from zoo.leaderboard import build_leaderboard
from zoo.metrics import METRICS
from zoo.protocol import FINETUNE, KNN
from zoo.report import to_csv, to_markdown, to_terminal
from zoo.results import load_results, load_scored_runs
from zoo.scoring import Score
from zoo.specs import Card
from zoo.tasks import BINARY, REGRESSION

BY_NAME = {spec.name: spec for spec in METRICS}
CARD = Card(task=BINARY, labels=("clear", "nodule"), positive=1)
CHANCE = Score(value=0.5)


def predicted(positive, targets=(0, 1) * 10):
    """One run whose test split has these probabilities of the positive class; val has others, spread out."""
    parts = {}
    for split, column in (("val", np.linspace(0.3, 0.7, len(targets))), ("test", np.asarray(positive, float))):
        ids = np.array([f"{split}{number}" for number in range(len(targets))])
        parts[split] = Predictions(
            sample_ids=ids,
            patients=ids,
            targets=np.array(sorted(targets) if split == "val" else targets),
            probabilities=np.stack([1 - column, column], axis=1),
        )
    return parts


def reasons(score, *runs, constant=CHANCE, higher=True, card=CARD):
    found = [[run] for run in runs]
    return find_degenerate(score, constant, higher_is_better=higher, runs=found, card=card, rule="val")


GOOD = predicted(np.tile([0.2, 0.8], 10))


# --- degenerate rows -------------------------------------------------------------------------------------------------
def test_a_row_whose_interval_is_above_chance_is_not_flagged():
    assert reasons(Score(value=0.8, low=0.6, high=0.9), GOOD) == ()


@pytest.mark.parametrize("low", [0.5, 0.41])
def test_a_row_whose_interval_covers_the_constant_predictor_is_flagged(low):
    (reason,) = reasons(Score(value=0.6, low=low, high=0.8), GOOD)
    assert reason == "its interval does not exceed the constant predictor's 0.500"


def test_without_an_interval_the_value_itself_must_beat_the_constant_predictor():
    assert reasons(Score(value=0.6, reason="too few"), GOOD) == ()
    assert reasons(Score(value=0.5, reason="too few"), GOOD) == (
        "its score does not exceed the constant predictor's 0.500",
    )


def test_of_an_error_the_upper_end_must_be_below_the_constant_predictors():
    card = Card(task=REGRESSION, labels=("age",))
    run = {"test": Predictions(**{**vars(GOOD["test"]), "probabilities": np.arange(20.0)[:, None]})}
    constant = Score(value=12.0)
    assert reasons(Score(value=9, low=8, high=11), run, constant=constant, higher=False, card=card) == ()
    assert reasons(Score(value=11, low=10, high=13), run, constant=constant, higher=False, card=card)


def test_a_seed_with_one_output_for_every_image_is_counted_though_the_mean_is_good():
    collapsed = predicted(np.full(20, 0.4))
    (reason,) = reasons(Score(value=0.8, low=0.6, high=0.9), GOOD, collapsed)
    assert reason == "the same output for every test image in 1 of 2 runs"


def test_a_row_that_decides_for_one_class_is_flagged_though_its_order_is_right():
    high = predicted(np.tile([0.91, 0.93], 10))  # val's threshold is near .5
    (reason,) = reasons(Score(value=1.0, low=0.9, high=1.0), high)
    assert reason == "one class for every test image in 1 of 1 runs"


def test_a_test_split_of_one_class_is_decided_for_rightly():
    assert reasons(None, predicted(np.linspace(0.8, 0.9, 20), targets=(0,) + (1,) * 19)) != ()
    alone = predicted(np.linspace(0.8, 0.9, 20))
    alone["test"] = Predictions(**{**vars(alone["test"]), "targets": np.ones(20, int)})
    assert reasons(None, alone) == ()


def test_without_a_constant_predictor_on_the_board_nothing_is_compared():
    assert reasons(Score(value=0.4, low=0.3, high=0.5), GOOD, constant=None) == ()


def board_of(root):
    (board,) = build_leaderboard(load_results(root)[0], BY_NAME)
    return board


def store_constant(root, store):
    """The class prior as `zoo bench` stores it: scored .5."""
    from zoo.inference import save_predictions
    from zoo.results import write_result

    result = store(root, model="constant")
    flat = {
        split: Predictions(**{**vars(part), "probabilities": np.full((len(part), 2), 0.5)})
        for split, part in result.predictions().items()
    }
    for name in ("result.json", "scores.json", "predictions.npz", "history.jsonl"):
        (result.folder / name).unlink()
    save_predictions(result.folder / "predictions.npz", flat)
    write_result(result.folder, result, None, {"scores": {"auroc": CHANCE}}, [])


def test_a_degenerate_row_is_marked_in_every_format(tmp_path, store):
    for model, noise in (("good", 0.5), ("noise", 50.0)):
        for seed in range(3):
            store(tmp_path, model=model, noise=noise, seed=seed)
    store_constant(tmp_path, store)
    board = board_of(tmp_path)
    assert {row.model: bool(row.degenerate) for row in board.rows} == {"good": False, "noise": True, "constant": False}
    for text in (to_terminal([board], width=200), to_markdown([board])):
        assert "noise (degenerate)" in text and "good (degenerate)" not in text
        assert "noise: degenerate: its interval does not exceed the constant predictor's 0.500" in text
    assert "its interval does not exceed" in to_csv([board])


# --- how often a test set was looked at ------------------------------------------------------------------------------
def test_configurations_of_a_test_set_are_counted_over_boards_and_seeds_are_none(tmp_path, store):
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


def test_a_board_says_how_many_configurations_its_test_set_has_seen(tmp_path, store):
    store(tmp_path)
    assert "test set used by 1 configuration (model x protocol x initial weights)" in to_terminal([board_of(tmp_path)])
    store(tmp_path, protocol=FINETUNE)
    store(tmp_path, protocol=KNN)
    for board in build_leaderboard(load_results(tmp_path)[0], BY_NAME):
        assert "test set used by 3 configurations" in to_markdown([board])


def test_a_bench_counts_what_was_scored_before_it_too(bench, zoo, tiny_data, tmp_path):
    chosen = ["-m", "tiny_cnn", "-d", tiny_data / "binary.npz", "--set", "image_size=16", "--seeds", 1]
    chosen += ["--results", tmp_path / "results"]
    assert bench(*chosen, "--protocol", "linear-probe")[0] == 0
    done = zoo("bench", *chosen, "--protocol", "knn")
    assert "test set used by 2 configurations" in done.stdout
    assert "test set used by 2 configurations" in zoo("report", "--results", tmp_path / "results").stdout
