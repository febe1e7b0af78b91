"""From a row to what speaks against it: it is no better than nothing, or its test set was looked at often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from zoo.inference import Predictions
from zoo.scoring import Runs, Score, ThresholdRule, decide
from zoo.specs import Card

SAME = 1e-6  # probabilities that differ by less do not tell two images apart


# --- rows no better than the class prior -----------------------------------------------------------------------------
def find_degenerate(
    found: Score | None, constant: Score | None, *, higher_is_better: bool, runs: Runs, card: Card, rule: ThresholdRule
) -> tuple[str, ...]:
    """The reasons why a trained row is worth no more than the constant predictor; empty where there is none.

    Its interval must exclude the constant's score; where there is no interval its value must beat it. A row of which
    any run answers the same whatever the image is named too, since a mean over seeds hides it.
    """
    stored = [run for folds in runs for run in folds]
    reasons = []
    same = sum(says_the_same(run["test"]) for run in stored)
    if same:
        reasons.append(f"the same output for every test image in {same} of {len(stored)} runs")
    decided = 0 if card.task.name in ("multilabel", "regression") else sum(one_class(r, card, rule) for r in stored)
    if decided > same:
        reasons.append(f"one class for every test {card.unit} in {decided} of {len(stored)} runs")
    if found is None or found.value is None or constant is None or constant.value is None:
        return tuple(reasons)
    bound = found.low if higher_is_better else found.high
    worst = found.value if bound is None else bound
    if worst <= constant.value if higher_is_better else worst >= constant.value:
        what = "its score" if bound is None else "its interval"
        reasons.append(f"{what} does not exceed the constant predictor's {constant.value:.3f}")
    return tuple(reasons)


def says_the_same(test: Predictions) -> bool:
    return bool(np.ptp(test.probabilities, axis=0).max() <= SAME)


def one_class(run: Mapping[str, Predictions], card: Card, rule: ThresholdRule) -> bool:
    """Whether one class is decided for all units of test although they have several."""
    request = decide(run, card, rule).request
    assert request.decisions is not None
    return len(np.unique(request.decisions)) == 1 and len(np.unique(request.targets)) > 1


# --- how often a test set was looked at ------------------------------------------------------------------------------
def tested_on(run: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two runs' test images the same; `run` is `Run.describe()`."""
    return run["content_hash"], run["split_hash"]


def count_configurations(runs: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    """By test set, how many configurations (model x protocol x initial weights) were scored on it; seeds are none.

    The best of many looks better than it is. Baselines and controls are not chosen among: they do not count.
    """
    seen = {
        (tested_on(run), run["model"], run["protocol_label"], run["init"], run["weights_digest"])
        for run in runs
        if run["purpose"] == "score" and not is_baseline(run)
    }
    return Counter(configuration[0] for configuration in seen)


def is_baseline(run: Mapping[str, Any]) -> bool:
    return str(run["protocol_label"]).startswith("baseline@")
