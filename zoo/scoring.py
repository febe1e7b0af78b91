"""Score stored predictions: a value with its interval, or none with the reason.

`runs[s][f]` are the predictions of seed s and fold f, by split; a single run is `[[run]]`. Thresholds come from val,
everything else from test. A metric that fails, or answers what no metric can, costs only its own score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np

from zoo.errors import RunError, Undefined, clean, message_of
from zoo.inference import Predictions
from zoo.specs import Card, MetricRequest, MetricSpec, Unit
from zoo.statistics import (
    NUM_RESAMPLES,
    ClusteredArea,
    add_seed_variance,
    bootstrap_weights,
    clustered_area,
    clustered_interval,
    delong_covariance,
    exact_mean,
    jackknife_influence,
    logit_interval,
    noise_free_interval,
    percentile_interval,
    sum_by_patient,
    wilson_interval,
)
from zoo.system import noted_interrupts, process_unchanged
from zoo.tasks import identity, recover_log_odds, sigmoid

Array = np.ndarray[Any, Any]
Runs = Sequence[Sequence[Mapping[str, Predictions]]]

MIN_CASES = 10
BOOTSTRAP_SEED = 20_250_101  # one for all models, so that they are resampled alike
CHUNK = 500_000  # weights that become floats at once; perf: 4 MB stay in the cache, 16 MB cost a third more
MIN_CHUNK_RESAMPLES = 64  # of large test splits: 47,000 images make 24 MB, some 150 MB with what a metric makes of them
TOLERANCE = 1e-9
# Below it logit-DeLong covers 88 to 93 %, Newcombe's interval 95 to 98 % (benchmarks/statistics/simulate.py)
MIN_MISPLACED = 2
CLUSTERED = "Newcombe's method 5 with a design effect by patient"
PATIENTS_AND_SEEDS = "patients + seeds"  # what an interval's method says where both vary


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The threshold that reaches a sensitivity or a specificity on val, and as much of the other as can then be had."""

    metric: Literal["sensitivity", "specificity"]
    least: float


# On val the largest sensitivity + specificity; one half; or what must be reached on val.
ThresholdRule = Literal["val", "half"] | Reach


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its 95 % interval. `reason` says why there is no value or, where there is one, no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""  # of the interval: "wilson", "patient-cluster bootstrap, B=2000"
    reason: str | None = None
    note: str = ""  # "macro over 6 of 7 labels"
    version: int = 1  # of the metric


@dataclass(frozen=True, eq=False)
class Tested:
    """The test split of one seed and fold, decided: what a metric sees, and whom the units belong to."""

    request: MetricRequest
    patients: Array  # (N,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """One metric of one row, as tests between rows see it."""

    patients: Array  # (n,) str
    influence: Array  # (n,) of each patient on the score, averaged over seeds
    seed_scores: Array  # (S,)


def score(
    runs: Runs,
    metrics: Mapping[str, MetricSpec],
    card: Card,
    *,
    threshold: ThresholdRule,
    unit: Unit | None = None,
    intervals: bool = True,
) -> dict[str, Score]:
    """Score every metric: the mean over seeds of the mean over folds, within which it is computed.

    The interval resamples the same patients for all seeds, takes the same mean of every resample, and adds the variance
    between seeds.
    """
    card = replace(card, unit=unit, val_unit=unit) if unit else card
    tested = [[decide(run, card, threshold) for run in folds] for folds in runs]
    if not tested or not all(tested):
        raise ValueError("nothing to score: expected at least one seed with at least one fold")
    too_few = find_too_few(tested[0], card)
    draws = draw_patients(tested) if intervals and not too_few else []
    return {
        name: score_metric(metric, tested, card, draws if intervals else None, too_few)
        for name, metric in metrics.items()
    }


@process_unchanged()
def score_metric(
    metric: MetricSpec,
    tested: Sequence[Sequence[Tested]],
    card: Card,
    draws: Sequence[Array] | None,
    too_few: str | None,
) -> Score:
    """The score of one metric, with an interval unless `draws` is None or there are too few patients for one.

    What a plugin's metric does to this process, it does to no other metric.
    """
    scored, seed_scores = score_value(metric, tested, card)
    if scored.value is None or draws is None:
        return scored
    if too_few:
        return replace(scored, reason=too_few)
    return add_interval(scored, seed_scores, metric, tested, draws, card)


def score_run(
    predictions: Mapping[str, Predictions], metrics: Mapping[str, MetricSpec], card: Card, *, threshold: ThresholdRule
) -> dict[str, dict[str, Score]]:
    """All that stands in a run's `scores.json`: `scores` of the dataset's unit and, where that is the patient or the
    clip, `image_scores` beside them."""
    scores = {"scores": score([[predictions]], metrics, card, threshold=threshold)}
    if card.unit != "image":
        scores["image_scores"] = score([[predictions]], metrics, card, threshold=threshold, unit="image")
    return scores


@process_unchanged()
def val_score(val: Predictions, metric: MetricSpec, card: Card) -> float:
    """One number to select an epoch by, at thresholds chosen on val: higher is better, so an error is negated.

    NaN where undefined.
    """
    request = decide({"val": val, "test": val}, card, "val").request
    try:
        value = compute(metric, request)
    except Undefined:
        return float("nan")
    except Exception as error:
        raise RunError(
            f"metric {metric.name!r} failed on val: {describe(error)}",
            fix="report it to whoever made the metric, or leave it out of --metrics",
        ) from error
    return value if metric.higher_is_better else -value


# --- decisions -------------------------------------------------------------------------------------------------------
def decide(run: Mapping[str, Predictions], card: Card, threshold: ThresholdRule) -> Tested:
    """The test split of one run as units, with decisions at the thresholds that its val split gives."""
    val, test = run.get("val"), run["test"]
    val, test = val and val.by_unit(card.unit_of("val")), test.by_unit(card.unit)
    val, test = on_one_scale(val, test, card)
    # A metric of a plugin sees copies that it cannot write to: the next one must see the same numbers.
    request = MetricRequest(
        task=card.task,
        labels=card.labels,
        targets=read_only(test.targets),
        probabilities=read_only(test.probabilities),
        decisions=read_only(decide_classes(test, val, card, threshold)),
        positive=card.positive,
        log_odds=read_only(test.log_odds),
    )
    return Tested(request, test.patients)


def on_one_scale(val: Predictions | None, test: Predictions, card: Card) -> tuple[Predictions | None, Predictions]:
    """Val and test both with log odds, or both without.

    Where results of before log odds were stored hold probabilities of exactly 1, the other classes' probabilities,
    which are small and keep their digits, tell the log odds; else probabilities rank as well.
    """
    parts = [test] if val is None else [val, test]
    if all(part.log_odds is not None for part in parts):
        return val, test
    recovered = any((part.probabilities == 1).any() for part in parts) and card.task.name in ("binary", "multiclass")
    found = [replace(part, log_odds=recover_log_odds(part.probabilities) if recovered else None) for part in parts]
    return (None if val is None else found[0]), found[-1]


def read_only(values: Array | None) -> Any:
    if values is not None:
        values = values.copy()
        values.flags.writeable = False
    return values


def decide_classes(test: Predictions, val: Predictions | None, card: Card, rule: ThresholdRule) -> Array | None:
    """int64 (N,) classes, bool (N, L) for multi-label, None for regression."""
    if card.task.name == "regression":
        return None
    scale, ranked = scale_of(test)
    cuts = choose_cuts(val, card, rule, scale)
    if cuts is None:
        classes: Array = test.probabilities.argmax(axis=1)
        return classes
    if card.task.name == "multilabel":
        return ranked >= cuts
    positive = positive_index(card)
    return np.where(ranked[:, positive] >= cuts[0], positive, 1 - positive)


def positive_index(card: Card) -> int:
    return 1 if card.positive is None else card.positive


@dataclass(frozen=True)
class Scale:
    """What units are ranked and thresholds are cut by: probabilities as they are, or their log odds."""

    to_probability: Callable[[Array], Array]
    to_cut: Callable[[Array], Array]
    lowest: float  # every unit is at or above it

    def between(self, ranked: Array) -> Array:
        """The cuts midway between neighbouring probabilities, ascending; between log odds where both round to 1."""
        distinct = np.unique(ranked)
        lower, upper = distinct[:-1], distinct[1:]
        shares = self.to_probability(distinct)
        middle, half = self.to_cut((shares[:-1] + shares[1:]) / 2), lower / 2 + upper / 2
        inside = (middle > lower) & (middle <= upper)
        return np.where(inside, middle, np.where(half > lower, half, upper))  # neighbouring floats have no middle

    def above(self, ranked: Array) -> float:
        """A cut that no unit reaches: midway from the highest probability to 1, where there is room."""
        highest = ranked.max(keepdims=True)
        cut = float(self.to_cut((self.to_probability(highest) + 1) / 2)[0])
        return cut if highest[0] < cut < np.inf else float(np.nextafter(highest[0], np.inf))


def to_log_odds(probabilities: Array) -> Array:
    from scipy.special import logit

    found: Array = logit(probabilities)
    return found


PROBABILITIES = Scale(identity, identity, 0.0)
LOG_ODDS = Scale(sigmoid, to_log_odds, -np.inf)


def scale_of(part: Predictions) -> tuple[Scale, Array]:
    """The scale of a split's predictions, and their values on it (N, C)."""
    return (PROBABILITIES, part.probabilities) if part.log_odds is None else (LOG_ODDS, part.log_odds)


def choose_thresholds(val: Predictions | None, card: Card, rule: ThresholdRule) -> Array | None:
    """The thresholds (1,) of a binary or (L,) of a multi-label task, at or above which a label is decided for.

    None where the largest probability decides. `val` are units, not images, where the patient or clip is the unit.
    """
    scale = PROBABILITIES if val is None else scale_of(val)[0]
    cuts = choose_cuts(val, card, rule, scale)
    return None if cuts is None else scale.to_probability(cuts)


def choose_cuts(val: Predictions | None, card: Card, rule: ThresholdRule, scale: Scale) -> Array | None:
    """The thresholds of `choose_thresholds` on a scale, which is that of val."""
    if card.task.name == "binary":
        columns = [] if val is None else [(val.targets == positive_index(card), positive_index(card))]
        num_thresholds = 1
    elif card.task.name == "multilabel":
        columns = [] if val is None else [(val.targets[:, i], i) for i in range(len(card.labels))]
        num_thresholds = len(card.labels)
    else:
        return None
    if isinstance(rule, Reach) and val is None:
        raise Undefined("no predictions of val")
    half = scale.to_cut(np.full(num_thresholds, 0.5))
    if val is None or rule == "half":
        return half
    found = []
    ranked = scale_of(val)[1]
    for targets, i in columns:
        known = ~np.isnan(targets.astype(np.float64))
        positives, values = targets[known] == 1, ranked[known, i]
        if isinstance(rule, Reach):
            found.append(reaching_threshold(positives, values, rule, scale))
        else:
            best = youden_threshold(positives, values, scale)
            found.append(half[0] if best is None else best)
    return np.array(found)


def describe_threshold_rule() -> str:
    return " ".join((youden_threshold.__doc__ or "").split()) + " None becomes .5."


def youden_threshold(positives: Array, ranked: Array, scale: Scale = PROBABILITIES) -> float | None:
    """The threshold with the largest Youden's J = sensitivity + specificity - 1 (Cancer 1950, 3:32).

    It lies midway between two neighbouring scores. Among equal J the one with the fewest errors, then the one nearest
    .5. None where a class is missing, or where no threshold is better than chance (J = 0: a constant predictor).
    """
    num_positives, num_negatives = int(positives.sum()), int((~positives).sum())
    if num_positives == 0 or num_negatives == 0:
        return None
    middle = scale.between(ranked)
    hits = num_positives - np.searchsorted(np.sort(ranked[positives]), middle, side="left")
    alarms = num_negatives - np.searchsorted(np.sort(ranked[~positives]), middle, side="left")
    # In whole numbers: J times positives times negatives, so that ties are ties.
    youden = hits * num_negatives - alarms * num_positives
    if len(middle) == 0 or youden.max() <= 0:
        return None
    errors = num_positives - hits + alarms
    best = np.lexsort((np.abs(scale.to_probability(middle) - 0.5), errors, -youden))[0]
    return float(middle[best])


def reaching_threshold(positives: Array, ranked: Array, rule: Reach, scale: Scale) -> float:
    """The highest threshold that reaches a sensitivity, or the lowest that reaches a specificity.

    It lies midway between two neighbouring scores; 0 calls every unit positive, and one above every score none.
    Undefined without a unit to count.
    """
    counted = positives if rule.metric == "sensitivity" else ~positives
    if not counted.any():
        raise Undefined(f"val has no {'positives' if rule.metric == 'sensitivity' else 'negatives'}")
    candidates = np.array([scale.lowest, *scale.between(ranked), scale.above(ranked)])
    called = counted.sum() - np.searchsorted(np.sort(ranked[counted]), candidates, side="left")
    right = called if rule.metric == "sensitivity" else counted.sum() - called
    enough = candidates[right >= rule.least * counted.sum() - TOLERANCE]
    return float(enough[-1] if rule.metric == "sensitivity" else enough[0])


# --- values ----------------------------------------------------------------------------------------------------------
def score_value(metric: MetricSpec, tested: Sequence[Sequence[Tested]], card: Card) -> tuple[Score, Array]:
    """The value without an interval, and the scores by seed (S,) that it is the mean of.

    Undefined in one fold is undefined: a mean of the others would be another's.
    """
    none = np.empty(0)
    if card.task.name not in metric.tasks:
        return Score(value=None, reason=f"not a metric of {card.task} tasks", version=metric.version), none
    try:
        with noted_interrupts() as interrupts:
            seed_scores = score_seeds(metric, tested)
            notes = [metric.note(part.request) for folds in tested for part in folds] if metric.note else []
    except Undefined as reason:
        return Score(value=None, reason=clean(reason), version=metric.version), none
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and interrupts:
            raise
        return Score(value=None, reason=describe(error), version=metric.version), none
    note = "; ".join(dict.fromkeys(clean(note) for note in notes if note))
    return Score(value=exact_mean(seed_scores), note=note, version=metric.version), seed_scores


def score_seeds(metric: MetricSpec, tested: Sequence[Sequence[Tested]]) -> Array:
    """The score of every seed (S,): its mean over folds."""
    return np.array([exact_mean(compute(metric, part.request) for part in folds) for folds in tested])


def compute(metric: MetricSpec, request: MetricRequest) -> float:
    """The metric's value, once it is known to be one number within the metric's bounds."""
    value = metric.compute(request)
    if not isinstance(value, Real):
        raise TypeError(f"expected one number, got {type(value).__name__}")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"expected a finite number, got {number} (raise Undefined where there is none)")
    low, high = metric.bounds
    if (low is not None and number < low - TOLERANCE) or (high is not None and number > high + TOLERANCE):
        raise ValueError(f"{number:.6g} is outside the metric's bounds {low} to {high}")
    return number


def mean_of_means(values: Sequence[Sequence[Array]]) -> Array:
    """The mean over seeds of the mean over folds, of resampled values (B,)."""
    return np.asarray(np.mean([np.mean(folds, axis=0) for folds in values], axis=0))


def describe(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {message_of(error)}")


# --- intervals -------------------------------------------------------------------------------------------------------
def find_too_few(folds: Sequence[Tested], card: Card) -> str | None:
    """ "too few: 6 positives, 10 are needed" where an interval would be guesswork, else None.

    Counted are patients, over all folds. Fewer than 10 with and 10 without the positive class; of several classes or
    labels every one that occurs is asked, since macro averages hang on the rarest; of numbers, fewer than 10 patients.
    """
    unit = "patients" if card.has_patients else "images"
    if card.task.name == "regression":
        num_patients = sum(len(np.unique(part.patients)) for part in folds)
        return f"too few: {num_patients} {unit}, {MIN_CASES} are needed" if num_patients < MIN_CASES else None
    # positives and negatives a label, (2, L)
    cases = sum((count_cases(part) for part in folds), np.zeros((2, len(card.labels)), dtype=np.int64))
    several_each = any(len(np.unique(part.patients)) < len(part.patients) for part in folds)
    of_patients = " (patients)" if several_each else ""
    if card.task.name == "binary":
        cases = cases[:, [positive_index(card)]]
    found = [
        (int(cases[side, i]), side, i)
        for i in range(cases.shape[1])
        for side in (0, 1)
        if cases[side, i] < MIN_CASES and (card.task.name == "binary" or cases[0, i] > 0)
    ]
    if not found:
        return None
    num, side, i = min(found)
    label = "" if card.task.name == "binary" else f" of {card.labels[i]!r}"
    return f"too few: {num} {('positives', 'negatives')[side]}{label}{of_patients}, {MIN_CASES} are needed"


def count_cases(part: Tested) -> Array:
    """Patients with an image of each label, and with one that is known to be without it: int64 (2, L)."""
    targets, num_labels = part.request.targets, len(part.request.labels)
    if targets.ndim == 1:
        sides = (targets[:, None] == np.arange(num_labels), targets[:, None] != np.arange(num_labels))
    else:
        sides = (targets == 1, targets == 0)
    return np.array([[len(np.unique(part.patients[column])) for column in side.T] for side in sides], dtype=np.int64)


def draw_patients(tested: Sequence[Sequence[Tested]]) -> list[Array]:
    """One draw of patients a fold, uint16 (B, N), for all seeds: they must have been tested on the same patients."""
    first = tested[0]
    for folds in tested[1:]:
        if len(folds) != len(first) or any(
            not np.array_equal(a.patients, b.patients) for a, b in zip(folds, first, strict=True)
        ):
            raise ValueError("the seeds were not tested on the same patients in the same order")
    return [bootstrap_weights(part.patients, seed=(BOOTSTRAP_SEED, fold)) for fold, part in enumerate(first)]


def add_interval(
    scored: Score,
    seed_scores: Array,
    metric: MetricSpec,
    tested: Sequence[Sequence[Tested]],
    draws: Sequence[Array],
    card: Card,
) -> Score:
    """The score with its interval, or with the reason why it has none."""
    assert scored.value is not None
    try:
        found = wilson_of(metric, tested) or area_interval(metric, tested)
        found = found or bootstrap_interval(scored.value, metric, tested, draws, card)
    except Undefined as reason:
        return replace(scored, reason=f"no interval: {reason}")
    except (Exception, SystemExit) as error:
        return replace(scored, reason=f"no interval: {describe(error)}")
    low, high, method = found
    if len(seed_scores) > 1:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        low, high = add_seed_variance((low, high), scored.value, seed_scores, num_patients)
        least, most = metric.bounds
        low, high = low if least is None else max(low, least), high if most is None else min(high, most)
        method += f" ({PATIENTS_AND_SEEDS})"
    return replace(scored, low=low, high=high, method=method)


def bootstrap_interval(
    value: float, metric: MetricSpec, tested: Sequence[Sequence[Tested]], draws: Sequence[Array], card: Card
) -> tuple[float, float, str]:
    """Low, high and method, of patients drawn anew; Undefined where the resamples give none."""

    def average(function: Callable[[Tested, Array], Array]) -> Array:
        return mean_of_means(
            [[function(part, weights) for part, weights in zip(folds, draws, strict=True)] for folds in tested]
        )

    resampled = average(partial(resample, metric))
    method = f"{'patient-cluster' if card.has_patients else 'image'} bootstrap, B={NUM_RESAMPLES}"
    if metric.noise is not None:
        noise = average(partial(in_chunks, metric.noise))
        interval, method = noise_free_interval(value, resampled, noise), f"{method}, less noise"
    else:
        interval = percentile_interval(resampled)
    if interval.low is None or interval.high is None:
        raise Undefined(str(interval.reason))
    if not interval.low - TOLERANCE <= value <= interval.high + TOLERANCE:
        raise Undefined("biased, the resampled values lie beside the value")
    if interval.num_undefined:
        method += f", undefined in {interval.num_undefined}"
    return interval.low, interval.high, method


def wilson_of(metric: MetricSpec, tested: Sequence[Sequence[Tested]]) -> tuple[float, float, str] | None:
    """Wilson's interval where the value is one proportion of independent units, of one fold, else None.

    Of several seeds it is that of their mean share, of their mean number of trials, as if all seeds were right and
    wrong on the same units: at most too wide, and there is one where a bootstrap has width 0.
    """
    if metric.counts is None or len(tested[0]) > 1:
        return None
    if len(np.unique(tested[0][0].patients)) < len(tested[0][0].patients):
        return None
    try:
        counts = np.array([metric.counts(folds[0].request) for folds in tested], dtype=np.float64)
    except Undefined:
        return None
    trials = float(counts[:, 1].mean())
    return (*wilson_interval(exact_mean(counts[:, 0] / counts[:, 1]) * trials, trials), "wilson")


def area_interval(metric: MetricSpec, tested: Sequence[Sequence[Tested]]) -> tuple[float, float, str] | None:
    """The interval of one area under the ROC curve; None where the value is none, or every unit is scored alike.

    Of independent units logit-DeLong, with the variance of the mean over seeds from DeLong's covariance between them,
    over independent folds. Of patients with several units, and where so few are misplaced that a variance seen is by
    chance too small, Newcombe's, with the design effect of the patients.
    """
    if metric.curve is None:
        return None
    clustered = any(len(np.unique(part.patients)) < len(part.patients) for part in tested[0])
    folds, variances = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        try:
            curves = [metric.curve(part.request) for part in parts]
        except Undefined:
            return None
        positives, scores, patients = curves[0][0], np.stack([scores for _, scores in curves]), parts[0].patients
        if len(positives) < len(patients):  # some targets are unknown
            if clustered:
                return None  # nobody tells whose the others are
            patients = np.arange(len(positives))
        folds.append(clustered_area(positives, scores, patients))
        variances.append(float(delong_covariance(positives, scores)[1].mean()))
    value, variance = exact_mean(fold.area for fold in folds), sum(variances) / len(folds) ** 2
    if any(fold.constant for fold in folds):
        return None
    if clustered:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        return (*clustered_interval(folds, num_patients), CLUSTERED)
    if count_misplaced(folds, value) < MIN_MISPLACED or not variance > TOLERANCE**2:  # NaN: a fold has one positive
        return (*clustered_interval(folds, np.inf), "Newcombe's method 5")
    return (*logit_interval(value, variance), "logit-DeLong")


def count_misplaced(folds: Sequence[ClusteredArea], value: float) -> float:
    """Units of the rarer class times the share of the others that are placed wrongly against one of them."""
    rarer = min(sum(fold.num_positives for fold in folds), sum(fold.num_negatives for fold in folds))
    return rarer * min(value, 1 - value)


def resample(metric: MetricSpec, part: Tested, weights: Array) -> Array:
    """The metric in every resample (B,), NaN where undefined."""
    if metric.resample is None:
        return np.array([compute_or_nan(metric, repeated(part.request, drawn)) for drawn in weights])
    whole = compute(metric, part.request)
    unit_weights = np.ones((1, weights.shape[1]))
    again = float(np.asarray(metric.resample(part.request, unit_weights)).item())
    if not np.isclose(again, whole, rtol=1e-6, atol=1e-6):
        raise ValueError(f"resample gives {again:.6g} for the test split itself, where compute gives {whole:.6g}")
    return in_chunks(metric.resample, part, weights)


def in_chunks(function: Callable[[MetricRequest, Array], Array], part: Tested, weights: Array) -> Array:
    """What `function` gives for all resamples (B,), a part of them at a time."""
    rows = max(MIN_CHUNK_RESAMPLES, CHUNK // weights.shape[1])
    chunks = [
        np.asarray(function(part.request, weights[start : start + rows].astype(np.float64)), dtype=np.float64)
        for start in range(0, len(weights), rows)
    ]
    values = np.concatenate(chunks)
    if values.shape != (len(weights),):
        raise ValueError(f"resample gives the shape {values.shape}, expected ({len(weights)},)")
    return values


def weigh_evidence(runs: Runs, metric: MetricSpec, card: Card, *, threshold: ThresholdRule) -> Evidence:
    """What a test against other rows needs; Undefined where there are too few cases, or no influence values."""
    tested = [[decide(run, card, threshold) for run in folds] for folds in runs]
    too_few = find_too_few(tested[0], card)
    if too_few:
        raise Undefined(too_few)
    patients, influence = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        values = np.mean([unit_influence(metric, part) for part in parts], axis=0)
        owners, summed = sum_by_patient(values, parts[0].patients)
        patients.append(owners)
        influence.append(summed / len(owners))
    # The score is the mean over folds: a patient of n moves it by its own fold's influence, over that fold's patients.
    num_patients = sum(map(len, patients))
    return Evidence(
        patients=np.concatenate(patients),
        influence=np.concatenate(influence) * (num_patients / len(patients)),
        seed_scores=score_seeds(metric, tested),
    )


def unit_influence(metric: MetricSpec, part: Tested) -> Array:
    """Influence values (N,) of the test units: the metric's own, or taken through `resample`, or leaving each out.

    Left out: (N - 1)(T - T without i), the jackknife's pseudo-influence (Efron 1982, chapter 3).
    """
    request, num = part.request, len(part.patients)
    if metric.influence is not None:
        values = np.asarray(metric.influence(request), dtype=np.float64)
    elif metric.resample is not None:
        resampler = metric.resample
        values = jackknife_influence(lambda weights: np.asarray(resampler(request, weights), dtype=np.float64), num)
    else:
        whole = compute(metric, request)
        kept = ~np.eye(num, dtype=bool)
        values = (num - 1) * (whole - np.array([compute(metric, repeated(request, keep)) for keep in kept]))
    if values.shape != (num,) or not np.isfinite(values).all():
        raise ValueError(f"expected {num} finite influence values")
    return values


def compute_or_nan(metric: MetricSpec, request: MetricRequest) -> float:
    try:
        return compute(metric, request)
    except Undefined:
        return float("nan")


def repeated(request: MetricRequest, drawn: Array) -> MetricRequest:
    """The request with every unit as often as it was drawn (N,)."""
    return request.take(np.repeat(np.arange(len(drawn)), drawn))
