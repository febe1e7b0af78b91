"""Sanity checks of a row: no better than the class prior, better than chance on shuffled labels, one of many tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.reasons import Reason
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import ThresholdRule
from zoo.evaluation.values import DecidedRuns, Runs, Score
from zoo.leaderboard.formatting import number, with_interval
from zoo.results.runs import NUM_SHUFFLES
from zoo.specs.dataset import Unit
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext
from zoo.specs.protocol import BASELINE, SECOND_READER
from zoo.statistics.intervals import mean_interval
from zoo.statistics.means import ROUNDING, exact_mean

SAME = 1e-6  # smaller differences of log odds or probabilities count as equal outputs


# --- rows no better than the class prior -----------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class OutputCounts:
    """Counts over the test splits of a row's runs."""

    num_runs: int = 0
    same: int = 0  # runs with the same output for every image
    one_class: int = 0  # runs with one class for every unit
    num_outputs: int = 0  # predictions, over all runs
    saturated: int = 0  # predictions that are 0 or 1 as probabilities
    has_log_odds: bool = True  # whether saturated ones are ranked by their log odds, stored or recovered


NO_OUTPUTS = OutputCounts()


def count_outputs(runs: Runs, card: ScoringContext, decided: DecidedRuns) -> OutputCounts:
    """Count degenerate and saturated outputs; `one_class` is 0 for tasks without classes."""
    stored = [run for folds in runs for run in folds]
    tests = [run["test"] for run in stored]
    answers = card.task.answers
    saturated = [answers.is_saturated(test.probabilities) for test in tests]
    num = sum(int(part.reshape(len(part), -1).any(axis=1).sum()) for part in saturated)
    return OutputCounts(
        num_runs=len(stored),
        same=sum(says_the_same(test, card) for test in tests),
        one_class=sum(one_class(test.request) for folds in decided for test in folds) if card.task.classes else 0,
        num_outputs=sum(map(len, tests)),
        saturated=num,
        has_log_odds=num == 0
        or all(test.log_odds is not None or answers.recover_log_odds(test.probabilities) is not None for test in tests),
    )


def find_degenerate(
    row_score: Score | None,
    constant: Score | None,
    *,
    higher_is_better: bool,
    outputs: OutputCounts,
    unit: Unit,
) -> tuple[str, ...]:
    """Return the reasons why a trained row is no better than the constant predictor; empty if there are none.

    Its interval must exclude the constant's score; without an interval, its value must be better. A row is degenerate
    too if one of its runs gives the same output for every image, which a mean over seeds hides.
    """
    reasons = []
    if outputs.same:
        reasons.append(f"the same output for every test image in {outputs.same} of {outputs.num_runs} runs")
    if outputs.one_class > outputs.same:
        reasons.append(f"one class for every test {unit} in {outputs.one_class} of {outputs.num_runs} runs")
    if row_score is None or row_score.value is None or constant is None or constant.value is None:
        return tuple(reasons)
    bound = row_score.low if higher_is_better else row_score.high
    worst = row_score.value if bound is None else bound
    lead = worst - constant.value if higher_is_better else constant.value - worst
    if lead <= ROUNDING:
        what = "its score" if bound is None else "its interval"
        reasons.append(f"{what} does not exceed the constant predictor's {number(constant.value)}")
    return tuple(reasons)


def says_the_same(test: Predictions, card: ScoringContext) -> bool:
    """Whether all images have the same log odds, or for regression the same value relative to the targets' range."""
    spread = np.ptp(test.probabilities if test.log_odds is None else test.log_odds, axis=0).max()
    return bool(spread <= SAME * card.task.answers.unit(test.targets))


def one_class(request: MetricRequest) -> bool:
    """Whether all test units get the same class although their targets differ."""
    assert request.decisions is not None
    return len(np.unique(request.decisions)) == 1 and len(np.unique(request.targets)) > 1


# --- the control with shuffled labels --------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class ShuffleVerdict:
    """The result of one model on shuffled labels; `passed` is None if there is no interval."""

    model: str
    passed: bool | None
    text: Reason | str


def score_shuffles(
    runs: Runs, metrics: Mapping[str, MetricSpec], card: ScoringContext, *, threshold: ThresholdRule
) -> dict[str, Score]:
    """Each metric's mean over shuffles with Student's t interval over them; the test set is the same for all."""
    each = [score([folds], metrics, card, threshold=threshold, intervals=False) for folds in runs]
    scores = {}
    for name, metric in metrics.items():
        values = [value for found in each if (value := found[name].value) is not None]
        if not values:
            scores[name] = Score(value=None, reason=each[0][name].reason, version=metric.version)
            continue
        left_out = len(each) - len(values)
        mean = Score(
            value=exact_mean(values),
            note=f"undefined in {left_out} of {len(each)} shuffles" if left_out else "",
            version=metric.version,
        )
        if len(values) < 2:
            scores[name] = replace(mean, reason=Reason("one-shuffle"))
            continue
        low, high = mean_interval(np.array(values, dtype=float))
        scores[name] = replace(mean, low=low, high=high, method=IntervalMethod(code="shuffles", count=len(values)))
    return scores


def judge_shuffles(model: str, scores: Mapping[str, Score], num_shuffles: int, card: ScoringContext) -> ShuffleVerdict:
    """Check that the interval over shuffles covers chance; otherwise information on test labels leaks."""
    name, chance, chance_text = card.task.presentation.chance
    mean = scores.get(name)
    counted = f"{num_shuffles} shuffle{'s' * (num_shuffles != 1)}"
    counted += f", fewer than the usual {NUM_SHUFFLES}" if num_shuffles < NUM_SHUFFLES else ""
    if mean is None or mean.value is None or mean.low is None or mean.high is None:
        reason = (mean and mean.reason) or f"{name} is missing"
        missing = Reason("of", (f"labels shuffled ({counted}): no verdict", reason))
        return ShuffleVerdict(model=model, passed=None, text=missing)
    value = f"{name} {with_interval(mean)}"
    if mean.low - ROUNDING <= chance <= mean.high + ROUNDING:
        text = f"labels shuffled ({counted}): {value} covers {chance_text}: no sign of a leak"
        return ShuffleVerdict(model=model, passed=True, text=text)
    text = (
        f"labels shuffled ({counted}): {value} DOES NOT COVER {chance_text}: the model knows the "
        "labels of test, although those of train were shuffled (or this is the one interval in 20 that misses by "
        "chance: run other shuffles with --seeds)"
    )
    return ShuffleVerdict(model=model, passed=False, text=text)


# --- how often a test set was used -----------------------------------------------------------------------------------
SCORED = ("score", "external", "imported")  # purposes of runs whose scores measure a model's quality
CONFIGURATION = ("content_hash", "split_hash", "model", "protocol_label", "init", "weights_digest", "predictions")


def tested_on(run: Mapping[str, Any]) -> tuple[str, ...]:
    """A key of the test images; `run` is `Run.describe()`."""
    return (run["test_hash"],) if run.get("test_hash") else (run["content_hash"], run["split_hash"])


def count_configurations(runs: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    """Count by test set the configurations (model x protocol x initial weights) scored on it; seeds do not count.

    The best of many looks better than it is. Baselines and controls do not count: nobody selects among them.
    """
    seen = {
        (tested_on(run), *(run.get(name, "") for name in (*CONFIGURATION, "network")))
        for run in runs
        if run["purpose"] in SCORED and not is_baseline(run)
    }
    return Counter(configuration[0] for configuration in seen)


def is_baseline(run: Mapping[str, Any]) -> bool:
    """Whether a run is a reference on every board of its data, which is not ranked."""
    return run["protocol"]["name"] in (BASELINE.name, SECOND_READER.name)


def is_imported(run: Mapping[str, Any]) -> bool:
    """Whether another tool made the predictions."""
    return bool(run["purpose"] == "imported") and not is_baseline(run)


def is_untrained(run: Mapping[str, Any]) -> bool:
    """Whether nothing was trained on the dataset here: imported predictions, and answers without training."""
    return is_imported(run) or run["protocol"].get("method") == "zero-shot"
