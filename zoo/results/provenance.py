"""Trace each number of a stored run to its inputs, files, thresholds, formulas and intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from zoo.errors import ResultsError, plural_of
from zoo.evaluation.intervals import BOOTSTRAP_SEED, INTERVAL_FORMULAS
from zoo.evaluation.metrics.labels import describe_formula
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.thresholds import VAL_RULE_FORMULA, choose_thresholds, decide, on_one_scale
from zoo.evaluation.values import MIN_CASES, Score, count_cases
from zoo.results.soundness import find_faults_of_run
from zoo.results.store import DELETABLE, Result
from zoo.specs.dataset import Unit
from zoo.specs.metric import MetricSpec, ScoringContext
from zoo.statistics.intervals import NUM_RESAMPLES

ON_A_BOARD = (
    "mean of this score over folds, then over seeds; the interval resamples the same patients for all seeds and adds "
    "the variance between seeds (docs/statistics.md)"
)


def trace_run(result: Result, metrics: Mapping[str, MetricSpec]) -> dict[str, Any]:
    """Return a stored run as plain data, with the computation of each score and interval."""
    described = dataclasses.asdict(result)
    for name in ("folder", "checksums", "bundle", "provenance"):
        described.pop(name)
    described |= {"folder": str(result.folder), "files": list_run_files(result)}
    if not result.ok:
        return described
    predictions, card, rule = result.predictions(), result.card(), result.run["protocol"]["threshold"]
    check_fit(result, predictions, card)
    scores, image_scores = result.scores(), result.read_scores("image_scores")
    return {
        **described,
        "thresholds": trace_thresholds(predictions, card, rule),
        "test": count_test(predictions, card, card.unit, rule),
        "intervals": trace_intervals([*scores.values(), *image_scores.values()]),
        "scores": trace_scores(scores, metrics),
        **({"image_scores": trace_scores(image_scores, metrics)} if image_scores else {}),
        "on_a_board": ON_A_BOARD,
    }


def check_fit(result: Result, predictions: Mapping[str, Predictions], card: ScoringContext) -> None:
    """Raise ResultsError if the predictions do not fit the labels of the dataset's card."""
    task, num_labels = card.task, len(card.labels)
    fits = all(
        task.targets.fits(part.targets.shape[1:], num_labels)
        and not task.answers.find_fault(part.probabilities, num_labels)
        for part in predictions.values()
    )
    if "test" not in predictions or not fits or not 0 <= (card.positive or 0) < len(card.labels):
        raise ResultsError(
            f"{result.folder}: its predictions do not fit the labels of its dataset",
            fix="delete the folder and run again",
        )
    if fault := next(find_faults_of_run(card, result.run["purpose"], result.dataset, predictions), ""):
        raise ResultsError(f"{result.folder}/predictions.npz: {fault}", fix="delete the folder and run again")


def list_run_files(result: Result) -> list[dict[str, Any]]:
    """List the files of a run with their recorded sha256, which was verified when the run was loaded."""
    if result.folder is None:
        return []
    files = []
    for path in sorted({*result.folder.iterdir(), *(result.folder / name for name in result.checksums)}):
        checksum = result.checksums.get(path.name)
        exists = path.is_file()
        state = "unchanged" if exists else "not kept" if path.name in DELETABLE else "missing"
        if checksum is None:
            state = "the record itself" if path.name == "result.json" else "recomputed by `zoo score`"
        files.append(
            {"name": path.name, "bytes": path.stat().st_size if exists else None, "sha256": checksum, "state": state}
        )
    return files


def trace_thresholds(predictions: Mapping[str, Predictions], card: ScoringContext, rule: Any) -> dict[str, Any]:
    """Return the decision thresholds chosen on val; regression and multi-class tasks have none."""
    val = predictions.get("val")
    units = val.by_unit(card.unit_of("val")) if val is not None else None
    units, _ = on_one_scale(units, predictions["test"].by_unit(card.unit), card)
    thresholds = choose_thresholds(units, card, rule)
    if thresholds is None:
        decisions = card.task.decisions
        return {"rule": decisions.rule if decisions else f"none: {card.task.presentation.title}", "values": {}}
    labels = [card.labels[i] for i in card.task.targets.scored_labels(len(card.labels), card.positive)]
    values = {label: float(value) for label, value in zip(labels, thresholds, strict=True)}
    if units is None or rule == "half":
        return {"rule": "fixed at .5", "values": values}
    return {"rule": VAL_RULE_FORMULA, "chosen_on": f"val, {len(units)} {plural_of(card.unit)}", "values": values}


def count_test(predictions: Mapping[str, Predictions], card: ScoringContext, unit: Unit, rule: Any) -> dict[str, Any]:
    """Count the images, units and patients of test, in total and by label."""
    test, part = predictions["test"], decide(predictions, card, rule)
    counted: dict[str, Any] = {
        "unit": unit,
        "images": len(test),
        "units": len(part.patients),
        "patients": len(np.unique(test.patients)) if card.has_patients else None,
    }
    flags = card.task.targets.to_flags(part.request.targets, len(card.labels))
    if flags is None:
        return counted
    positives, negatives = count_cases(part.request.targets, part.patients, len(part.request.labels))
    cases = "patients" if card.has_patients else "images"
    counted["labels"] = {
        label: {
            "units": int((flags[:, i] == 1).sum()),
            f"{cases} with it": int(present),
            f"{cases} without it": int(absent),
        }
        for i, (label, present, absent) in enumerate(zip(card.labels, positives, negatives, strict=True))
    }
    return counted


def trace_scores(scores: Mapping[str, Score], metrics: Mapping[str, MetricSpec]) -> dict[str, Any]:
    return {
        name: {
            **dataclasses.asdict(score),
            "method": score.method.text if score.method else "",
            "installed_version": metrics[name].version if name in metrics else None,
            "formula": describe_formula(metrics[name]) if name in metrics else None,
        }
        for name, score in scores.items()
    }


def trace_intervals(scores: Iterable[Score]) -> dict[str, Any]:
    """Describe each interval method of the scores: confidence, resamples, seed and formula."""
    methods = {}
    used = {score.method for score in scores if score.low is not None and score.method}
    for method in sorted(used, key=lambda each: each.text):
        drawn = {"resamples": NUM_RESAMPLES, "seed": [BOOTSTRAP_SEED, 0]} if method.is_bootstrap else {}
        formula = INTERVAL_FORMULAS.get(method.code)
        methods[method.text] = {"confidence": 0.95, "min_cases": MIN_CASES, **drawn, "formula": formula}
    return methods
