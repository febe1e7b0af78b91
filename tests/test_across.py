"""The order of models over several datasets: coverage, failures, versions, tests and formats."""

import csv
import io
import json

import numpy as np
import pytest
import scipy.stats
from pytest import approx

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.multi_dataset import find_across
from zoo.report.board_csv import table_to_csv
from zoo.report.board_json import to_json
from zoo.report.board_markdown import to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.formats import Layout
from zoo.report.reasons import section_notes
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import KNN

DETAILS = Layout(width=200, details=True)

BY_NAME = {spec.name: spec for spec in METRICS}
NOISE = {"good": 0.5, "fair": 2.0, "poor": 9.0}


@pytest.fixture
def fill(tmp_path, store):
    """Store models with two seeds each on datasets, beside the constant predictor."""

    def run(datasets, models=NOISE, **changes):
        for dataset in datasets:
            store(tmp_path, dataset=dataset, model="constant", noise=None)
            for model in models:
                for seed in range(2):
                    store(tmp_path, dataset=dataset, model=model, seed=seed, noise=NOISE[model], **changes)
        return tmp_path

    return run


def boards_of(root):
    return build_leaderboard(load_results(root)[0], BY_NAME, sections=())  # the tables below each board cost most


def cells_of(found):
    return {cells[0]: dict(zip(found.section.columns, cells, strict=True)) for cells in found.section.rows}


def notes_of(found):
    return "\n".join(section_notes(found.section))


def test_one_dataset_gives_no_order_across_datasets(fill):
    assert find_across(boards_of(fill(["dots"]))) == []


def test_the_mean_rank_equals_scipys_of_the_boards_scores(fill):
    boards = boards_of(fill(["dots", "rings", "stars"]))
    (found,) = find_across(boards)
    scores = np.array([[next(r for r in b.rows if r.model == m).scores["auroc"].value for m in NOISE] for b in boards])
    ranks = scipy.stats.rankdata(-scores, axis=1).mean(axis=0)
    cells = cells_of(found)
    assert [cells[model]["mean rank"].value for model in NOISE] == approx(ranks.tolist())
    wins = (3 - ranks) / 2
    assert [cells[model]["win probability"].value for model in NOISE] == approx(wins.tolist())
    assert found.models[0] == "good" and cells["good"]["P(rank 1)"] > 0.9
    assert cells["poor"]["mean rank"].low <= ranks[2] <= cells["poor"]["mean rank"].high
    assert sum(cells[model]["P(rank 1)"] for model in NOISE) == approx(1)


def test_different_networks_of_one_name_are_different_models(fill):
    fill(["dots"], ["good"], network="0.1.0-f")
    fill(["rings"], ["good"], network="0.2.0-f")
    root = fill(["dots", "rings"], ["fair", "poor"])
    assert sorted(find_across(boards_of(root))[0].models) == ["fair", "poor"]


def test_the_normalized_mean_is_0_for_chance_and_1_for_the_best(fill):
    boards = boards_of(fill(["dots", "rings"]))
    (found,) = find_across(boards)
    scores = [next(r for r in b.rows if r.model == "good").scores["auroc"].value for b in boards]
    expected = np.mean([(score - 0.5) / 0.5 for score in scores])
    assert cells_of(found)["good"]["mean (score - chance)/(1 - chance)"] == approx(expected)


@pytest.mark.integration
def test_for_an_error_metric_the_smallest_is_first_and_the_constant_predictor_is_chance(fill):
    boards = boards_of(fill(["dots", "rings"], metrics=("brier",)))
    (found,) = find_across(boards)
    assert found.models == ("good", "fair", "poor")
    scores = [next(r for r in b.rows if r.model == "good").scores["brier"].value for b in boards]
    constants = [next(r for r in b.rows if r.model == "constant").scores["brier"].value for b in boards]
    assert cells_of(found)["good"]["mean (score - chance)/(1 - chance)"] == approx(
        np.mean([1 - s / c for s, c in zip(scores, constants, strict=True)])
    )


@pytest.mark.integration
def test_each_protocol_has_its_own_order(fill):
    fill(["dots", "rings"])
    found = find_across(boards_of(fill(["dots", "rings"], protocol=KNN)))
    assert sorted(part.protocol for part in found) == ["knn@1", "scratch@1"]


def test_external_validations_do_not_count_as_datasets(fill):
    from dataclasses import replace

    boards = boards_of(fill(["dots", "rings"]))
    elsewhere = replace(boards[1], facts={**boards[1].facts, "external": {"dataset": "rings"}})
    assert find_across([boards[0], elsewhere]) == []


# --- tests over the datasets -----------------------------------------------------------------------------------------
@pytest.mark.integration
def test_too_few_datasets_are_not_tested_and_the_needed_number_is_shown(fill):
    (found,) = find_across(boards_of(fill(["dots", "rings"])))
    assert found.pairs == ()
    assert "too few datasets to test: 2; 3 pairs of models would need 7" in notes_of(found)


@pytest.mark.integration
def test_two_models_on_six_datasets_are_tested(fill):
    boards = boards_of(fill([f"set{i}" for i in range(6)], models=("good", "poor")))
    (found,) = find_across(boards)
    ((first, second, p),) = found.pairs
    assert {first, second} == {"good", "poor"} and p == approx(2 * 0.5**6)
    assert "Wilcoxon's test over the datasets, Holm over 1 pair: " in notes_of(found)


# --- failures and what was not run -----------------------------------------------------------------------------------
@pytest.mark.integration
def test_a_failure_of_the_model_is_scored_as_the_constant_predictor_and_flagged(fill, tmp_path, store):
    fill(["dots", "rings", "stars"])
    for seed in range(2):  # a model that is best where it does not diverge
        store(tmp_path, dataset="dots", model="brittle", seed=seed, noise=0.1)
        store(tmp_path, dataset="rings", model="brittle", seed=seed, noise=0.1)
        store(tmp_path, dataset="stars", model="brittle", seed=seed, status="failed", code="diverged")
    (found,) = find_across(boards_of(tmp_path))
    cells = cells_of(found)["brittle"]
    assert cells["mean rank"].value > 1.5  # last, or next to last, on stars
    assert (cells["datasets"], cells["failures"]) == ("3/3", "2 of 6 seeds")
    assert "brittle on stars: seeds 0, 1 scored as the constant predictor (failed: the loss is nan)" in notes_of(found)
    assert "without the datasets on which a model failed the order is different: brittle, good" in notes_of(found)


@pytest.mark.integration
def test_one_diverged_seed_of_two_halves_the_lead_over_chance(fill, tmp_path, store):
    fill(["dots", "rings"])
    for dataset in ("dots", "rings"):
        store(tmp_path, dataset=dataset, model="brittle", seed=0, noise=0.1)
    store(tmp_path, dataset="dots", model="brittle", seed=1, noise=0.1)
    store(tmp_path, dataset="rings", model="brittle", seed=1, status="failed", code="diverged")
    boards = boards_of(tmp_path)
    (found,) = find_across(boards)
    alone = [next(r for r in b.rows if r.model == "brittle").scores["auroc"].value for b in boards]
    leads = [(alone[0] - 0.5) / 0.5, (alone[1] - 0.5) / 0.5 / 2]
    assert cells_of(found)["brittle"]["mean (score - chance)/(1 - chance)"] == approx(np.mean(leads))


def test_without_a_constant_predictor_a_failure_cannot_be_scored(tmp_path, store):
    for dataset in ("dots", "rings"):
        for model in ("good", "fair"):
            for seed in range(2):
                store(tmp_path, dataset=dataset, model=model, seed=seed)
    store(tmp_path, dataset="dots", model="good", seed=2, status="failed", code="oom")
    store(tmp_path, dataset="rings", model="good", seed=2)
    assert find_across(boards_of(tmp_path)) == []  # one dataset is left to both


@pytest.mark.integration
def test_a_failure_of_the_machine_excludes_its_dataset_and_both_orders_are_shown(fill, tmp_path, store):
    fill(["dots", "rings", "stars"])
    for dataset, status in (("dots", "ok"), ("rings", "ok"), ("stars", "crashed")):
        for seed in range(2):
            store(tmp_path, dataset=dataset, model="late", seed=seed, noise=0.1, status=status, code="crashed")
    every, common = find_across(boards_of(tmp_path))
    assert (every.over, every.datasets) == ("all", ("dots", "rings", "stars"))
    assert set(every.models) == set(NOISE)
    assert (common.over, common.datasets, common.models[0]) == ("common", ("dots", "rings"), "late")
    assert (cells_of(common)["late"]["datasets"], cells_of(common)["good"]["datasets"]) == ("2/3", "3/3")
    assert "late: not ranked here; not run: stars (no finished run; crashed: the loss is nan)" in notes_of(every)


@pytest.mark.integration
def test_a_model_with_one_dataset_does_not_exclude_the_other_datasets(fill, tmp_path, store):
    fill(["dots", "rings", "stars"])
    for seed in range(2):
        store(tmp_path, dataset="dots", model="late", seed=seed)
    (found,) = find_across(boards_of(tmp_path))
    assert found.datasets == ("dots", "rings", "stars") and "late" not in found.models
    assert "late: not ranked here; not run: rings (not run), stars (not run)" in notes_of(found)


@pytest.mark.integration
def test_one_seed_and_leaking_datasets_do_not_count(fill, tmp_path, store):
    fill(["dots", "rings"])
    fill(["leaky"], deviations=(Deviation("leak-allowed", ("a control",)),))
    store(tmp_path, dataset="single", model="good")
    store(tmp_path, dataset="single", model="fair")
    (found,) = find_across(boards_of(tmp_path))
    assert found.datasets == ("dots", "rings")
    assert "leaky (a row on a dataset that leaks is not ranked), single (one seed is never ranked)" in notes_of(found)


@pytest.mark.integration
def test_of_two_versions_of_a_dataset_one_counts(fill, tmp_path):
    fill(["dots", "rings"])
    fill(["dots"], models=("good", "fair"), content_hash="d" * 64)
    (found,) = find_across(boards_of(tmp_path))
    assert found.datasets == ("dots", "rings") and len(found.models) == 3
    assert "dots: 2 versions; used is the one with most models (content cccccccc" in notes_of(found)


# --- formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_the_order_appears_once_after_all_boards_in_every_format(fill):
    boards = boards_of(fill(["dots", "rings"]))
    title = "across 2 datasets · scratch@1 · random init"
    for text in (to_terminal(boards, DETAILS), to_markdown(boards)):
        assert text.count(title) == 1 and text.index(title) > text.rindex("binary")
    (found,) = json.loads(to_json(boards))["across"]
    assert (found["over"], found["datasets"], found["pairs"]) == ("all", ["dots", "rings"], [])
    assert found["rows"][0]["mean rank"]["value"] == 1
    first, *_ = csv.DictReader(io.StringIO(table_to_csv(boards, "across")))
    assert (first["dataset"], first["protocol"], first["model"]) == ("dots; rings", "scratch@1", "good")
    assert float(first["mean rank_low"]) >= 1 and first["failures"] == ""


@pytest.mark.integration
def test_the_same_results_give_the_same_order_and_intervals(fill):
    root = fill(["dots", "rings"])
    assert find_across(boards_of(root)) == find_across(boards_of(root))
