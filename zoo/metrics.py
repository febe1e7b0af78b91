"""From targets, probabilities and decisions to the built-in metrics, each a function of values by label and one spec.

A metric is written twice: by label with scikit-learn (the value), and weighted with numpy for B resamples at once (the
interval); the tests hold the two equal. Both give one column a label, NaN where the metric does not exist for it. The
mean over the labels that are left is the value, and a note counts them ("macro over 6 of 7 labels"): a class absent
from the test split is never scored 0, .5 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from zoo.errors import Undefined
from zoo.specs import MetricRequest, MetricSpec
from zoo.statistics import (
    NUM_BINS,
    SMALLEST,
    auroc_influence,
    equal_mass_bins,
    jackknife_influence,
    ratio,
    ratio_influence,
    weighted_auroc,
    weighted_average_precision,
    weighted_spearman,
)

Array = np.ndarray[Any, Any]
ByLabel = Callable[[MetricRequest], Array]  # -> (K,)
WeightedByLabel = Callable[[MetricRequest, Array], Array]  # weights (B, N) -> (B, K)

CLASSES = ("binary", "multiclass", "ordinal", "multilabel")
YES_NO = ("binary", "multilabel")  # each label is there or not


# --- what a metric sees of a label -----------------------------------------------------------------------------------
class Column(NamedTuple):
    """One label against the rest, over the n images where it is known."""

    known: Array  # (N,) bool
    positives: Array  # (n,) bool
    scores: Array  # (n,) probability of the label
    decided: Array  # (n,) bool: decided for the label

    @property
    def negatives(self) -> Array:
        return ~self.positives

    @property
    def cleared(self) -> Array:
        """Decided against."""
        return ~self.decided


def positive_index(request: MetricRequest) -> int:
    """The index of the positive class of a binary task; the last where the request does not say."""
    return 1 if request.positive is None else request.positive


def decided_classes(request: MetricRequest) -> Array:
    if request.decisions is None:
        raise ValueError(f"{request.task} has no labels to decide for")
    return request.decisions


def label_columns(request: MetricRequest) -> list[Column]:
    """Every label against the rest: all classes, or all labels of a multi-label task, unknown (NaN) images left out."""
    num_labels = request.probabilities.shape[1]
    decided = decided_classes(request)
    if is_multilabel(request):
        known, positives = ~np.isnan(request.targets), request.targets == 1
    else:
        known = np.ones((len(request.targets), num_labels), dtype=bool)
        positives = request.targets[:, None] == np.arange(num_labels)
        decided = decided[:, None] == np.arange(num_labels)
    return [
        Column(keep, positives[keep, i], request.probabilities[keep, i], decided[keep, i])
        for i, keep in enumerate(known.T)
    ]


def scored_columns(request: MetricRequest) -> list[Column]:
    """The columns whose probabilities are ranked: of a binary task only the positive class, its rest being the same."""
    columns = label_columns(request)
    return [columns[positive_index(request)]] if request.task.name == "binary" else columns


def decided_columns(request: MetricRequest) -> list[Column]:
    """The labels that are there or not: the positive class of a binary task, every label of a multi-label one."""
    if request.task.name not in YES_NO:
        raise ValueError(f"{request.task} has no positive class")
    return scored_columns(request)


def is_multilabel(request: MetricRequest) -> bool:
    return request.task.name == "multilabel"


def by_column(columns: list[Column], exists: Callable[[Column], Any], value: Callable[[Column], Any]) -> Array:
    return np.array([float(value(column)) if exists(column) else np.nan for column in columns])


def has_positives(column: Column) -> bool:
    return bool(column.positives.any())


def has_negatives(column: Column) -> bool:
    return not column.positives.all()


def has_both(column: Column) -> bool:
    return has_positives(column) and has_negatives(column)


# --- from values by label to a spec ----------------------------------------------------------------------------------
def mean_over_labels(request: MetricRequest, *, values: ByLabel, undefined: str) -> float:
    """The mean of the values that exist; `Undefined` where none does."""
    if len(request.targets) == 0:
        raise Undefined("no images")
    found = values(request)
    if np.isnan(found).all():
        raise Undefined(undefined)
    return float(np.nanmean(found))


def resampled_mean_over_labels(request: MetricRequest, weights: Array, *, values: WeightedByLabel) -> Array:
    found = values(request, weights)
    existing = ~np.isnan(found)
    return ratio(np.where(existing, found, 0.0).sum(axis=1), existing.sum(axis=1))


def labels_note(request: MetricRequest, *, values: ByLabel) -> str:
    """ "macro over 6 of 7 labels" where labels were left out, else ""."""
    found = values(request)
    num_found = int((~np.isnan(found)).sum())
    return f"macro over {num_found} of {len(found)} labels" if num_found < len(found) else ""


def describe_formula(metric: MetricSpec) -> str:
    """What a metric says of itself: the docstring of what computes it, on one line."""
    compute: Any = metric.compute
    while isinstance(compute, partial):
        compute = compute.keywords.get("values", compute.func)
    return " ".join((compute.__doc__ or "").split())


def metric(
    name: str,
    title: str,
    tasks: tuple[str, ...],
    values: ByLabel,
    resampled: WeightedByLabel,
    undefined: str,
    **fields: Any,
) -> MetricSpec:
    """The spec of a metric from its values by label, plain and weighted; `undefined` is the reason there is none."""
    return MetricSpec(
        name=name,
        title=title,
        tasks=tasks,
        compute=partial(mean_over_labels, values=values, undefined=undefined),
        resample=partial(resampled_mean_over_labels, values=resampled),
        note=partial(labels_note, values=values),
        **fields,
    )


def decision_influence(request: MetricRequest, *, resampled: WeightedByLabel) -> Array:
    """Influence values (N,) of a metric of targets and decisions: one unit of each (target, decision) is moved."""
    pairs = np.column_stack([request.targets, decided_classes(request)])
    kinds = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)  # NaN (unknown) equals NaN here
    weighted = partial(resampled_mean_over_labels, request, values=resampled)
    return jackknife_influence(weighted, len(request.targets), kinds)


def decided_metric(name: str, title: str, tasks: tuple[str, ...], *functions: Any, **fields: Any) -> MetricSpec:
    """The spec of a metric of targets and decisions alone."""
    return metric(
        name, title, tasks, *functions, influence=partial(decision_influence, resampled=functions[1]), **fields
    )


def mean_influence(request: MetricRequest, *, errors: Callable[[MetricRequest], list[tuple[Array, Array]]]) -> Array:
    """Influence values (N,) of a mean of `errors`: (known (N,), its values) a column."""
    columns = errors(request)
    sums, counts = np.zeros((2, len(request.targets), len(columns)))
    for i, (known, values) in enumerate(columns):
        sums[known, i], counts[known, i] = values, 1.0
    return ratio_influence(sums, counts)


# --- from probabilities ----------------------------------------------------------------------------------------------
def auroc(request: MetricRequest) -> Array:
    """Area under the ROC curve of each label against the rest; needs a positive and a negative."""
    from sklearn.metrics import roc_auc_score

    return by_column(scored_columns(request), has_both, lambda c: roc_auc_score(c.positives, c.scores))


def resampled_auroc(request: MetricRequest, weights: Array) -> Array:
    columns = scored_columns(request)
    return np.stack([weighted_auroc(c.positives, c.scores, known_weights(c.known, weights)) for c in columns], axis=1)


def one_curve(request: MetricRequest) -> tuple[Array, Array]:
    columns = scored_columns(request)
    if len(columns) > 1:
        raise Undefined("a mean over labels is not one area")
    return columns[0].positives, columns[0].scores


def influence_on_auroc(request: MetricRequest) -> Array:
    """Influence values (N,) of the mean AUROC: placements, see `zoo.statistics.auroc_influence`."""
    num, found = len(request.targets), []
    for column in filter(has_both, scored_columns(request)):
        values = np.zeros(num)
        values[column.known] = auroc_influence(column.positives, column.scores) * (num / len(column.positives))
        found.append(values)
    return np.asarray(np.mean(found, axis=0))


def average_precision(request: MetricRequest) -> Array:
    """Area under the precision-recall steps of each label; needs a positive (scikit-learn says 0.0 without one)."""
    from sklearn.metrics import average_precision_score

    return by_column(scored_columns(request), has_positives, lambda c: average_precision_score(c.positives, c.scores))


def resampled_average_precision(request: MetricRequest, weights: Array) -> Array:
    columns = scored_columns(request)
    drawn = [weighted_average_precision(c.positives, c.scores, known_weights(c.known, weights)) for c in columns]
    return np.stack(drawn, axis=1)


def known_weights(known: Array, weights: Array) -> Array:
    # Without the copy where nothing is unknown: half of a ten-class AUROC's time.
    return weights if known.all() else weights.T[known].T


def squared_distances(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, squares) a label: see `brier`."""
    columns = scored_columns(request)
    squares = [(column.known, (column.scores - column.positives) ** 2) for column in columns]
    if request.task.name in YES_NO:
        return squares
    return [(columns[0].known, np.sum([square for _, square in squares], axis=0))]


def brier(request: MetricRequest) -> Array:
    """Mean over images of sum_k (p_k - [y = k])^2, from 0 to 2, where there are several classes (Brier 1950).

    Binary: (p - y)^2 of the positive class, from 0 to 1, as scikit-learn's `brier_score_loss`; multi-label: that, a
    label, averaged.
    """
    return np.array([np.mean(square) if len(square) else np.nan for _, square in squared_distances(request)])


def resampled_brier(request: MetricRequest, weights: Array) -> Array:
    return np.stack([weighted_mean(square, known, weights) for known, square in squared_distances(request)], axis=1)


def weighted_mean(values: Array, known: Array, weights: Array) -> Array:
    """Mean of `values` (n,) of the known images, as drawn: (B,)."""
    spread = np.zeros(len(known))
    spread[known] = values
    return ratio(weights @ spread, weights @ known.astype(np.float64))


def log_losses(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, losses) a label: see `log_loss`."""
    columns = scored_columns(request)
    if request.task.name in YES_NO:
        told = [(column.known, np.where(column.positives, column.scores, 1 - column.scores)) for column in columns]
    else:
        told = [(columns[0].known, np.take_along_axis(request.probabilities, request.targets[:, None], axis=1)[:, 0])]
    return [(known, -np.log(np.maximum(share, SMALLEST))) for known, share in told]


def log_loss(request: MetricRequest) -> Array:
    """Mean over images of -log p of the class that is there, in nats; multi-label: of each label, averaged."""
    return np.array([np.mean(losses) if len(losses) else np.nan for _, losses in log_losses(request)])


def resampled_log_loss(request: MetricRequest, weights: Array) -> Array:
    return np.stack([weighted_mean(losses, known, weights) for known, losses in log_losses(request)], axis=1)


class Confidence(NamedTuple):
    """What a model claims of the n images where it is known whether that is so."""

    known: Array  # (N,) bool
    claimed: Array  # (n,) probability
    true: Array  # (n,) bool


def confidences(request: MetricRequest) -> list[Confidence]:
    """Of a binary task the positive class's probability, multi-label each label's, else the largest (top label)."""
    columns = scored_columns(request)
    if request.task.name in YES_NO:
        return [Confidence(column.known, column.scores, column.positives) for column in columns]
    right = request.probabilities.argmax(axis=1) == request.targets
    return [Confidence(columns[0].known, request.probabilities.max(axis=1), right)]


def calibration_gaps(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, gaps by bin (n, 15)) a label: see `ece`."""
    gaps = []
    for known, claimed, true in confidences(request):
        if len(claimed) == 0:
            gaps.append((known, np.zeros((0, NUM_BINS))))
            continue
        inside = equal_mass_bins(claimed)[:, None] == np.arange(NUM_BINS)
        gaps.append((known, inside * (claimed - true)[:, None]))
    return gaps


def ece(request: MetricRequest) -> Array:
    """Expected calibration error: sum over bins of n_bin/n |mean confidence - share right|, 15 bins of equal mass.

    Confidence is the probability of the positive class (binary, multi-label: a label, averaged), else the largest
    (Guo et al. 2017, with the bins of Nixon et al. 2019). Equal probabilities share a bin. Resamples keep the bins of
    the whole test split.
    """
    return np.array([np.abs(gap.mean(axis=0)).sum() if len(gap) else np.nan for _, gap in calibration_gaps(request)])


def resampled_gaps(request: MetricRequest, weights: Array) -> list[tuple[Array, Array]]:
    """(gaps of the whole split (15,), of the resamples (B, 15)) a label, each a share of all its images."""
    found = []
    for known, gap in calibration_gaps(request):
        drawn = known_weights(known, weights)
        found.append((gap.sum(axis=0) / max(len(gap), 1), ratio(drawn @ gap, drawn.sum(axis=1, keepdims=True))))
    return found


def resampled_ece(request: MetricRequest, weights: Array) -> Array:
    return np.stack([np.abs(drawn).sum(axis=1) for _, drawn in resampled_gaps(request, weights)], axis=1)


def noise_of_ece(request: MetricRequest, weights: Array) -> Array:
    """What chance alone makes an ECE of in each resample: the gaps' deviations from those of the split, summed (B, K).

    |gap| <= |true gap| + |its deviation| in every bin, so ECE is at most the true one plus this.
    """
    return np.stack([np.abs(drawn - whole).sum(axis=1) for whole, drawn in resampled_gaps(request, weights)], axis=1)


def refuse_influence(_: MetricRequest) -> Array:
    raise Undefined("ECE is no smooth function of the predictions: its differences are not tested")


# --- from decisions --------------------------------------------------------------------------------------------------
Mask = Callable[[Column], Array]  # which of a label's images: bool (n,)


class Tally(NamedTuple):
    """Weight of the images by truth and decision, one column a label; (B, K)."""

    hits: Array
    misses: Array
    alarms: Array
    rejections: Array


def tally(columns: list[Column], weights: Array) -> Tally:
    def count(select: Mask) -> Array:
        chosen = np.zeros((weights.shape[1], len(columns)))
        for i, column in enumerate(columns):
            chosen[column.known, i] = select(column)
        return weights @ chosen

    hits = count(lambda c: c.positives & c.decided)
    positives = count(lambda c: c.positives)
    decided = count(lambda c: c.decided)
    total = count(lambda c: np.ones(len(c.positives)))
    return Tally(hits, positives - hits, decided - hits, total - positives - decided + hits)


def accuracy(request: MetricRequest) -> Array:
    """Share of right decisions; multi-label: of each label's known images, averaged (not of whole rows)."""
    from sklearn.metrics import accuracy_score

    if is_multilabel(request):
        return by_column(
            label_columns(request), lambda c: len(c.positives), lambda c: accuracy_score(c.positives, c.decided)
        )
    return np.array([accuracy_score(request.targets, request.decisions)])


def resampled_accuracy(request: MetricRequest, weights: Array) -> Array:
    if is_multilabel(request):
        t = tally(label_columns(request), weights)
        return ratio(t.hits + t.rejections, t.hits + t.misses + t.alarms + t.rejections)
    return ratio(weights @ (request.targets == request.decisions).astype(np.float64), weights.sum(axis=1))[:, None]


def right_decisions(request: MetricRequest) -> list[tuple[Array, Array]]:
    if is_multilabel(request):
        return [(column.known, column.positives == column.decided) for column in label_columns(request)]
    right = request.targets == request.decisions
    return [(np.ones(len(right), dtype=bool), right)]


def refuse_mean(request: MetricRequest) -> None:
    if is_multilabel(request):
        raise Undefined("a mean over labels is not a proportion")


def count_right(request: MetricRequest) -> tuple[int, int]:
    refuse_mean(request)
    return int((request.targets == request.decisions).sum()), len(request.targets)


def recall(request: MetricRequest) -> Array:
    """Share of a label's images that are decided for it, averaged over the labels that have any."""
    from sklearn.metrics import recall_score

    return by_column(label_columns(request), has_positives, lambda c: recall_score(c.positives, c.decided))


def resampled_recall(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    return ratio(t.hits, t.hits + t.misses)


def balanced_accuracy(request: MetricRequest) -> Array:
    """Mean recall of the classes; multi-label: (sensitivity + specificity)/2 of each label, averaged."""
    from sklearn.metrics import balanced_accuracy_score

    if not is_multilabel(request):
        return recall(request)
    return by_column(label_columns(request), has_both, lambda c: balanced_accuracy_score(c.positives, c.decided))


def resampled_balanced_accuracy(request: MetricRequest, weights: Array) -> Array:
    if not is_multilabel(request):
        return resampled_recall(request, weights)
    return (resampled_recall(request, weights) + resampled_specificity(request, weights)) / 2


def f1(request: MetricRequest) -> Array:
    """2 hits / (2 hits + misses + false alarms) of each label, averaged over the labels that have images.

    Binary is no exception: the mean of the F1 of the positive and of the negative class, not that of the positive.
    """
    from sklearn.metrics import f1_score

    return by_column(label_columns(request), has_positives, lambda c: f1_score(c.positives, c.decided))


def resampled_f1(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    # A label with no image in a resample is left out there, as `f1` leaves it out, even where it was decided for.
    return ratio(np.where(t.hits + t.misses > 0, 2 * t.hits, np.nan), 2 * t.hits + t.misses + t.alarms)


def count_rate(request: MetricRequest, of: Mask, right: Mask) -> tuple[int, int]:
    """How many of some images are right, and how many there are: what Wilson's interval of a rate is made of."""
    refuse_mean(request)
    column = decided_columns(request)[0]
    return int((of(column) & right(column)).sum()), int(of(column).sum())


def sensitivity(request: MetricRequest) -> Array:
    """Recall of the positive class; multi-label: of each label, averaged."""
    from sklearn.metrics import recall_score

    return by_column(decided_columns(request), has_positives, lambda c: recall_score(c.positives, c.decided))


def resampled_sensitivity(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.hits, t.hits + t.misses)


def specificity(request: MetricRequest) -> Array:
    """Recall of the negative class; multi-label: of the images without each label, averaged."""
    from sklearn.metrics import recall_score

    columns = decided_columns(request)
    return by_column(columns, has_negatives, lambda c: recall_score(c.negatives, c.cleared))


def resampled_specificity(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.rejections, t.rejections + t.alarms)


def ppv(request: MetricRequest) -> Array:
    """Positive predictive value, the precision: the share of positives among what is called positive."""
    from sklearn.metrics import precision_score

    columns = decided_columns(request)
    return by_column(columns, lambda c: c.decided.any(), lambda c: precision_score(c.positives, c.decided))


def resampled_ppv(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.hits, t.hits + t.alarms)


def npv(request: MetricRequest) -> Array:
    """Negative predictive value: the share of negatives among what is called negative."""
    from sklearn.metrics import precision_score

    columns = decided_columns(request)
    return by_column(columns, lambda c: not c.decided.all(), lambda c: precision_score(c.negatives, c.cleared))


def resampled_npv(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.rejections, t.rejections + t.misses)


def mcc(request: MetricRequest) -> Array:
    """Matthews' correlation of targets and decisions (Gorodkin 2004); multi-label: of each label, averaged.

    Undefined where either has one class only: its denominator is 0. scikit-learn says 0.0 there, as if chance had
    been measured.
    """
    from sklearn.metrics import matthews_corrcoef

    if is_multilabel(request):
        return by_column(
            label_columns(request),
            lambda c: has_both(c) and len(np.unique(c.decided)) == 2,
            lambda c: matthews_corrcoef(c.positives, c.decided),
        )
    if np.ptp(request.targets) == 0 or np.ptp(decided_classes(request)) == 0:
        return np.array([np.nan])
    return np.array([matthews_corrcoef(request.targets, request.decisions)])


def resampled_mcc(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    total = t.hits + t.misses + t.alarms + t.rejections
    truth, decided = t.hits + t.misses, t.hits + t.alarms
    if is_multilabel(request):
        covariance = t.hits * t.rejections - t.misses * t.alarms
        variances = truth * (total - truth) * decided * (total - decided)
        return ratio(covariance, np.sqrt(variances))
    total = total[:, :1]
    covariance = t.hits.sum(axis=1, keepdims=True) * total - (truth * decided).sum(axis=1, keepdims=True)
    spread_truth = total**2 - (truth**2).sum(axis=1, keepdims=True)
    spread_decided = total**2 - (decided**2).sum(axis=1, keepdims=True)
    # Rounding of non-integer weights may leave a spread of -1e-16 where there is none.
    return ratio(covariance, np.sqrt(np.maximum(spread_truth, 0) * np.maximum(spread_decided, 0)))


def cohen_kappa(request: MetricRequest) -> Array:
    """Cohen's kappa with quadratic weights (1968): 1 - observed/expected mean squared distance of the grades."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(request.targets, decided_classes(request))) < 2:
        return np.array([np.nan])
    labels = np.arange(request.probabilities.shape[1])
    return np.array([cohen_kappa_score(request.targets, request.decisions, labels=labels, weights="quadratic")])


def resampled_cohen_kappa(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    total = weights.sum(axis=1)
    grades = np.arange(request.probabilities.shape[1], dtype=np.float64)
    distances = (grades[:, None] - grades) ** 2
    observed = weights @ ((request.targets - request.decisions) ** 2).astype(np.float64)
    expected = np.einsum("bi,ij,bj->b", t.hits + t.misses, distances, t.hits + t.alarms, optimize=True) / total
    return 1 - ratio(observed, expected)[:, None]


# --- of numbers ------------------------------------------------------------------------------------------------------
def predicted_values(request: MetricRequest) -> Array:
    """The predicted number (regression), or the decided grade (ordinal)."""
    values = request.probabilities[:, 0] if request.decisions is None else request.decisions
    return values.astype(np.float64)


def mae(request: MetricRequest) -> Array:
    """Mean absolute error; ordinal: of the decided grade, in grades."""
    from sklearn.metrics import mean_absolute_error

    return np.array([mean_absolute_error(request.targets, predicted_values(request))])


def resampled_mae(request: MetricRequest, weights: Array) -> Array:
    return ratio(weights @ np.abs(request.targets - predicted_values(request)), weights.sum(axis=1))[:, None]


def absolute_errors(request: MetricRequest) -> list[tuple[Array, Array]]:
    return [(np.ones(len(request.targets), dtype=bool), np.abs(request.targets - predicted_values(request)))]


def rmse(request: MetricRequest) -> Array:
    """Root of the mean squared error."""
    from sklearn.metrics import root_mean_squared_error

    return np.array([root_mean_squared_error(request.targets, predicted_values(request))])


def resampled_rmse(request: MetricRequest, weights: Array) -> Array:
    squares = (request.targets - predicted_values(request)) ** 2
    return np.sqrt(ratio(weights @ squares, weights.sum(axis=1)))[:, None]


def r2(request: MetricRequest) -> Array:
    """1 - squared error / squared deviation of the targets from their mean; undefined where the targets are equal."""
    from sklearn.metrics import r2_score

    if np.ptp(request.targets) == 0:
        return np.array([np.nan])
    return np.array([r2_score(request.targets, predicted_values(request))])


def resampled_r2(request: MetricRequest, weights: Array) -> Array:
    centred = request.targets - request.targets.mean()
    errors = weights @ (request.targets - predicted_values(request)) ** 2
    spread = weights @ centred**2 - ratio((weights @ centred) ** 2, weights.sum(axis=1))
    spread[spread <= 1e-12 * (weights @ centred**2)] = 0.0  # rounding, where one target was drawn only
    return 1 - ratio(errors, spread)[:, None]


def spearman(request: MetricRequest) -> Array:
    """Spearman's rank correlation, ties at mid-rank; undefined where targets or predictions are all equal."""
    from scipy.stats import spearmanr

    predicted = predicted_values(request)
    if np.ptp(request.targets) == 0 or np.ptp(predicted) == 0:
        return np.array([np.nan])
    return np.array([spearmanr(request.targets, predicted).statistic])


def resampled_spearman(request: MetricRequest, weights: Array) -> Array:
    return weighted_spearman(request.targets, predicted_values(request), weights)[:, None]


# --- the specs -------------------------------------------------------------------------------------------------------
ONE_CLASS = "one class only in the targets"
NO_POSITIVES = "no positives in the targets"
NO_NEGATIVES = "no negatives in the targets"
NO_CALLED = "nothing is called positive"
NO_CLEARED = "nothing is called negative"
NO_TARGETS = "no known targets"
NO_SPREAD = "the targets, or the predictions, are all equal"
NO_CHOICE = "one class only in the targets or in the decisions"
NO_DISTANCE = "one and the same class in targets and decisions"

PLUS_MINUS = {"bounds": (-1.0, 1.0)}
ERROR = {"higher_is_better": False, "bounds": (0.0, None)}
OF_RIGHT = {"influence": partial(mean_influence, errors=right_decisions)}
OF_SQUARES = {**ERROR, "bounds": (0.0, 2.0), "influence": partial(mean_influence, errors=squared_distances)}
OF_LOSSES = {**ERROR, "influence": partial(mean_influence, errors=log_losses)}
OF_GAPS = {
    "higher_is_better": False,
    "influence": refuse_influence,
    "noise": partial(resampled_mean_over_labels, values=noise_of_ece),
}
OF_POSITIVES = {"counts": partial(count_rate, of=attrgetter("positives"), right=attrgetter("decided"))}
OF_NEGATIVES = {"counts": partial(count_rate, of=attrgetter("negatives"), right=attrgetter("cleared"))}
OF_CALLED = {"counts": partial(count_rate, of=attrgetter("decided"), right=attrgetter("positives"))}
OF_CLEARED = {"counts": partial(count_rate, of=attrgetter("cleared"), right=attrgetter("negatives"))}
OF_ABSOLUTE = {**ERROR, "influence": partial(mean_influence, errors=absolute_errors)}


METRICS = (
    metric("auroc", "AUROC", CLASSES, auroc, resampled_auroc, ONE_CLASS, curve=one_curve, influence=influence_on_auroc),
    metric(
        "average_precision", "average precision", CLASSES, average_precision, resampled_average_precision, NO_POSITIVES
    ),
    metric("accuracy", "accuracy", CLASSES, accuracy, resampled_accuracy, NO_TARGETS, counts=count_right, **OF_RIGHT),
    decided_metric(
        "balanced_accuracy", "balanced accuracy", CLASSES, balanced_accuracy, resampled_balanced_accuracy, ONE_CLASS
    ),
    decided_metric("f1_macro", "F1 (macro)", CLASSES, f1, resampled_f1, NO_POSITIVES),
    decided_metric("recall_macro", "recall (macro)", CLASSES, recall, resampled_recall, NO_POSITIVES),
    decided_metric(
        "sensitivity", "sensitivity", YES_NO, sensitivity, resampled_sensitivity, NO_POSITIVES, **OF_POSITIVES
    ),
    decided_metric(
        "specificity", "specificity", YES_NO, specificity, resampled_specificity, NO_NEGATIVES, **OF_NEGATIVES
    ),
    decided_metric("ppv", "PPV", YES_NO, ppv, resampled_ppv, NO_CALLED, **OF_CALLED),
    decided_metric("npv", "NPV", YES_NO, npv, resampled_npv, NO_CLEARED, **OF_CLEARED),
    decided_metric("mcc", "MCC", CLASSES, mcc, resampled_mcc, NO_CHOICE, **PLUS_MINUS),
    metric("brier", "Brier score", CLASSES, brier, resampled_brier, NO_TARGETS, **OF_SQUARES),
    metric("log_loss", "log loss", CLASSES, log_loss, resampled_log_loss, NO_TARGETS, **OF_LOSSES),
    metric("ece", "ECE", CLASSES, ece, resampled_ece, NO_TARGETS, **OF_GAPS),
    decided_metric(
        "cohen_kappa", "kappa (quadratic)", ("ordinal",), cohen_kappa, resampled_cohen_kappa, NO_DISTANCE, **PLUS_MINUS
    ),
    metric("mae", "MAE", ("ordinal", "regression"), mae, resampled_mae, NO_TARGETS, **OF_ABSOLUTE),
    metric("rmse", "RMSE", ("regression",), rmse, resampled_rmse, NO_TARGETS, **ERROR),
    metric("r2", "R2", ("regression",), r2, resampled_r2, NO_SPREAD, bounds=(None, 1.0)),
    metric("spearman", "Spearman", ("regression",), spearman, resampled_spearman, NO_SPREAD, **PLUS_MINUS),
)
