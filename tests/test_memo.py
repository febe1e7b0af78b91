"""What is kept of stored predictions: a board from the cache equals one without it, and nothing stale is used."""

import ast
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from factories import make_predictions

from zoo.evaluation.mask_statistics import compare_masks
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.thresholds import ThresholdTarget
from zoo.evaluation.values import Score
from zoo.leaderboard import boards, rows
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.tables import ReportOptions
from zoo.report.formats import FORMATS, Layout, write_boards
from zoo.results import memo, verifying
from zoo.results.memo import RunsMemo, ScoreMemo, SoundRuns
from zoo.results.store import load_results, load_sound_result
from zoo.system.machine import can_fork

BY_NAME = {spec.name: spec for spec in METRICS}


def write_all(results, cache, options=None, processes=1):
    """The boards of some results in every format."""
    metrics = {**BY_NAME, "own": replace(BY_NAME["accuracy"], name="own")}  # as of a plugin
    built = build_leaderboard(results, metrics, options, memo=ScoreMemo(cache=cache, processes=processes))
    layout = Layout(details=True)
    return {form: write_boards(built, form, layout) for form in FORMATS}


def store_rows(root, store_one):
    for seed in range(2):
        for model, noise in (("a", 1.0), ("b", 2.0), ("saturated", 0.01)):
            store_one(root, model=model, seed=seed, noise=noise)
        store_one(root, model="a", seed=seed, noise=3.0, purpose="shuffle")
    store_one(root, model="constant", noise=None)
    results, damaged = load_results(root)
    assert not damaged
    return results


def multilabel(seed):
    random = np.random.default_rng(seed)
    targets = (random.random((40, 3)) < (0.5, 0.4, 0.1)).astype(float)  # the last label has too few cases
    chance = 1 / (1 + np.exp(-(targets - 0.5 + random.normal(size=targets.shape))))
    return {split: make_predictions(targets, chance, prefix=split) for split in ("val", "test")}


def numbers(seed):
    targets = np.linspace(0, 10, 40)
    values = targets + np.random.default_rng(seed).normal(size=40)
    return {split: make_predictions(targets, values[:, None], prefix=split) for split in ("val", "test")}


def masks(seed):
    random, references = np.random.default_rng(seed), np.zeros((40, 12, 12), np.uint8)
    references[:, 3:8, 3:8] = 1
    references[::2, 8:11, 1:9] = 2
    predicted = np.where(random.random(references.shape) < 0.1, 1, references)
    rows = [compare_masks(*pair, 2, None, tolerance=1.0) for pair in zip(references, predicted, strict=True)]
    sizes = np.stack([(references == label).sum(axis=(1, 2)) for label in (1, 2)], axis=1).astype(float)
    return {split: make_predictions(sizes, np.stack(rows), prefix=split) for split in ("val", "test")}


OTHER_TASKS = {
    "multilabel": (["x", "y", "z"], ("auroc", "f1"), lambda model, seed: multilabel(0)),
    "regression": (["value"], ("mae", "r2"), lambda model, seed: numbers(10 * model + seed)),
    "segmentation": (["organ", "lesion"], ("dice", "hd95"), lambda model, seed: masks(10 * model + seed)),
}


def store_task(root, store_one, task):
    labels, metrics, draw = OTHER_TASKS[task]
    facts = {"task": task, "positive": None, "labels": labels}
    facts["splits"] = {split: {"images": 40, "patients": 40} for split in ("train", "val", "test")}
    for number, model in enumerate("ab"):
        for seed in range(2):
            predictions = draw(number, seed)
            store_one(root, model=model, seed=seed, facts=facts, metrics=metrics, predictions=predictions)
    results, damaged = load_results(root)
    assert not damaged
    return results


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [
        ReportOptions(),
        ReportOptions(prevalence=0.1, reach=ThresholdTarget(metric="sensitivity", least=0.9), rank_by="accuracy"),
    ],
)
def test_a_board_from_the_cache_equals_one_without_it_in_every_format(tmp_path, store, options):
    results = store_rows(tmp_path / "results", store)
    plain = write_all(results, None, options)
    assert write_all(results, tmp_path / "cache", options) == plain  # fills the cache
    assert list((tmp_path / "cache" / "scores").iterdir())
    assert write_all(results, tmp_path / "cache", options) == plain


@pytest.mark.integration
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_boards_of_other_tasks_from_the_cache_equal_those_without_it(tmp_path, store, task):
    results = store_task(tmp_path / "results", store, task)
    plain = write_all(results, None)
    assert write_all(results, tmp_path / "cache") == plain
    assert write_all(results, tmp_path / "cache") == plain


@pytest.mark.integration
def test_several_processes_give_the_board_of_a_plugins_metric(tmp_path, store, monkeypatch):
    results, options = (
        store_rows(tmp_path / "results", store),
        ReportOptions(rank_by="own", metrics=("own", "f1_macro")),
    )
    monkeypatch.setattr(boards, "MIN_SCORED_AHEAD", 1)
    assert write_all(results, tmp_path / "cache", options, processes=2) == write_all(results, None, options)


@pytest.mark.integration
def test_several_processes_score_the_rows_of_a_board(tmp_path, store, monkeypatch):
    results = store_rows(tmp_path / "results", store)
    plain, scored_here = write_all(results, None), []
    score_decided = rows.score_decided
    monkeypatch.setattr(rows, "score_decided", lambda *args: scored_here.append(1) or score_decided(*args))
    monkeypatch.setattr(boards, "MIN_SCORED_AHEAD", 1)
    assert write_all(results, tmp_path / "cache", processes=2) == plain
    assert len(scored_here) == (2 if can_fork() else 4)  # of four rows the first one, and the baseline


@pytest.mark.integration
@pytest.mark.skipif(not can_fork(), reason="processes are spawned here, and none is started for a board")
def test_processes_report_how_many_rows_they_have_scored(tmp_path, store, monkeypatch):
    results, calls = store_rows(tmp_path / "results", store), []
    monkeypatch.setattr(boards, "MIN_SCORED_AHEAD", 1)
    memo = ScoreMemo(cache=tmp_path / "cache", processes=2, progress=lambda *call: calls.append(call))
    build_leaderboard(results, BY_NAME, memo=memo)
    assert calls[-1] == (3, 3)  # models; the baseline is scored here


def test_a_second_board_reads_the_predictions_of_one_run(tmp_path, store, monkeypatch):
    results, cache = store_rows(tmp_path / "results", store), ScoreMemo(cache=tmp_path / "cache")
    build_leaderboard(results, BY_NAME, memo=cache)
    reads = []
    load = memo.Result.predictions
    monkeypatch.setattr(memo.Result, "predictions", lambda result: reads.append(result.id) or load(result))
    build_leaderboard(results, BY_NAME, memo=cache)
    assert len(set(reads)) == 1  # for the counts of the test split


def facts_of(results, cache):
    return ScoreMemo(cache=cache).of_runs([[result] for result in results])


def test_other_predictions_are_other_facts(tmp_path, store):
    first, second = (store(tmp_path, seed=seed) for seed in range(2))
    paths = [facts_of(runs, tmp_path).path for runs in ([first], [second], [first, second], [second, first])]
    assert len(set(paths)) == 4


def test_other_code_makes_other_facts(tmp_path, store, monkeypatch):
    result = store(tmp_path)
    path = facts_of([result], tmp_path).path
    monkeypatch.setattr(memo, "digest_code", lambda: "of another version")
    assert facts_of([result], tmp_path).path != path


def test_code_that_is_installed_without_its_sources_has_a_digest(tmp_path):
    (tmp_path / "code").mkdir()
    module = tmp_path / "code" / "module.pyc"
    digests = {memo.digest_modules(tmp_path)}
    for content in (b"1", b"2"):
        module.write_bytes(content)
        digests.add(memo.digest_modules(tmp_path))
    assert len(digests) == 3


def test_a_result_of_a_bundle_keeps_no_facts(tmp_path, store):
    assert facts_of([replace(store(tmp_path), bundle="theirs")], tmp_path).path is None


def compute_twice(path, *facts):
    """Compute a fact in two blocks; return the second value."""
    for fact in facts:
        with RunsMemo(path) as runs:
            value = runs.find("name", lambda fact=fact: fact)
    return value


def test_a_fact_is_computed_once(tmp_path):
    assert compute_twice(tmp_path / "x.facts", [0.1, None], ["other"]) == [0.1, None]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-3], lambda text: text.replace("0.1", "0.2"), lambda _: "", lambda _: "ä\n{}"]
)
def test_a_damaged_file_is_computed_anew(tmp_path, damage):
    path = tmp_path / "x.facts"
    compute_twice(path, 0.1)
    path.write_text(damage(path.read_text()), encoding="utf-8")
    assert compute_twice(path, "new") == "new"
    assert compute_twice(path, "newer") == "new"


def test_the_reason_of_an_error_is_not_kept(tmp_path):
    failed = Score(value=None, reason=Reason("failed", ("MemoryError: ",)))
    for score in (failed, Score(value=0.5)):
        with RunsMemo(tmp_path / "x.facts") as runs:
            scores = runs.find_scores("scores", {"auroc": BY_NAME["auroc"]}, lambda _, score=score: {"auroc": score})
    assert scores == {"auroc": Score(value=0.5)}


def score_as(value, requested, metrics):
    requested.append([*metrics])
    return dict.fromkeys(metrics, Score(value=value))


def test_a_metric_of_a_plugin_is_computed_each_time(tmp_path):
    metrics = {"auroc": BY_NAME["auroc"], "own": replace(BY_NAME["auroc"], name="own")}
    requested = []
    for value in (0.5, 0.6):
        with RunsMemo(tmp_path / "x.facts") as runs:
            scores = runs.find_scores("scores", metrics, partial(score_as, value, requested))
    assert requested == [["auroc", "own"], ["own"]]
    assert [score.value for score in scores.values()] == [0.5, 0.6]


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert compute_twice(tmp_path / "file" / "x.facts", 1, 2) == 2


# --- soundness -------------------------------------------------------------------------------------------------------
def load_sound(root, cache):
    with SoundRuns(cache, root) as sound:
        return load_results(root, partial(load_sound_result, check=sound.check))


def test_the_predictions_of_a_sound_run_are_checked_once(tmp_path, store, monkeypatch):
    root = tmp_path / "results"
    stored = store(root)
    assert load_sound(root, tmp_path / "cache")[1] == []
    monkeypatch.setattr("zoo.results.store.load_predictions", None)
    (result,), damaged = load_sound(root, tmp_path / "cache")
    assert (result.id, damaged) == (stored.id, [])


def test_changed_predictions_of_a_sound_run_are_found(tmp_path, store):
    root = tmp_path / "results"
    path = store(root).folder / "predictions.npz"
    load_sound(root, tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1])
    results, damaged = load_sound(root, tmp_path / "cache")
    assert results == []
    assert "changed after it was written" in damaged[0]


def test_unsound_predictions_are_not_kept_as_sound(tmp_path, store):
    root = tmp_path / "results"
    store(root, facts={"splits": {"test": {"images": 41, "patients": 41}}})
    for _ in range(2):
        assert "40 images, expected 41" in load_sound(root, tmp_path / "cache")[1][0]


def test_verification_never_reads_the_cache():
    tree = ast.parse(Path(verifying.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "zoo.results.memo" not in imported
