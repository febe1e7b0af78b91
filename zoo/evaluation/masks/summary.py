"""Average the metrics of masks: image, then patient, then label, with an interval over patients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.intervals import BOOTSTRAP_SEED
from zoo.evaluation.masks.metrics import CaseMetric, is_false, is_missed, is_undefined, metrics_for
from zoo.evaluation.masks.records import CaseScores
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.reasons import Reason, reason_for_interval
from zoo.evaluation.values import MIN_CASES, Score
from zoo.statistics.intervals import bootstrap_weights, percentile_interval
from zoo.statistics.means import exact_mean, mean_by_group
from zoo.statistics.units import resampled_means

WORST_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """One metric of one label over patients. `score` is the mean; the others are quantiles, None for several labels."""

    metric: CaseMetric
    score: Score
    median: float | None
    worst_twentieth: float | None  # a twentieth of the patients are worse
    num_patients: int  # with a defined value; of several labels, of that with the fewest


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """The scores of one label, or their means over several labels."""

    labels: tuple[str, ...]
    num_cases: int
    num_missed: int  # a reference, no prediction: the worst value
    num_false: int  # a prediction, no reference: the worst value
    num_undefined: int  # neither: left out of the means
    scores: tuple[MaskScore, ...]


def patient_values(rows: CaseScores, metric: CaseMetric) -> tuple[Array, Array]:
    """The patients, str (P,) in order, and the mean value of each one's cases by label: float (P, L).

    Undefined values are left out of a mean; NaN without a defined one. These are the units of the functions in
    `zoo.statistics.units` and `zoo.statistics.weighted`.
    """
    labels = {label: number for number, label in enumerate(rows.labels)}
    patients, owner = np.unique(rows["patient"], return_inverse=True)
    values = metric.per_case(rows)
    places = owner * len(labels) + np.array([labels[label] for label in rows["label"].tolist()])
    defined = ~np.isnan(values)
    means = np.full(len(patients) * len(labels), np.nan)
    if defined.any():
        filled, group = np.unique(places[defined], return_inverse=True)
        means[filled] = mean_by_group(values[defined], group, len(filled))
    return patients, means.reshape(len(patients), len(labels))


def summarize_masks(rows: CaseScores, has_patients: bool) -> tuple[LabelSummary, ...]:
    """Summarize each label, then the mean over the labels that occur in a reference, if there are several.

    The resamples of patients are the same for all labels and metrics, and for all predictions of the same patients.
    """
    weights = bootstrap_weights(np.unique(rows["patient"]), seed=(BOOTSTRAP_SEED, 0)).astype(np.float64)
    tables = [(metric, patient_values(rows, metric)[1]) for metric in metrics_for(rows)]
    in_references = set(rows["label"][rows["ref_volume"] > 0].tolist())
    several = tuple(label for label in rows.labels if label in in_references)
    summaries = []
    for labels in (*((label,) for label in rows.labels), *([several] if len(several) > 1 else [])):
        chosen = [rows.labels.index(label) for label in labels]
        own = rows.take(np.isin(rows["label"], labels))
        summaries.append(
            LabelSummary(
                labels=labels,
                num_cases=len(np.unique(own["case"])),
                num_missed=int(is_missed(own).sum()),
                num_false=int(is_false(own).sum()),
                num_undefined=int(is_undefined(own).sum()),
                scores=tuple(
                    score_over_patients(metric, values[:, chosen], weights, has_patients) for metric, values in tables
                ),
            )
        )
    return tuple(summaries)


def score_over_patients(metric: CaseMetric, values: Array, weights: Array, has_patients: bool) -> MaskScore:
    """The mean over the labels of the mean over patients, from values (P, L) and weights (B, P)."""
    known = [column[~np.isnan(column)] for column in values.T]
    num_patients = min(map(len, known))
    if not num_patients:
        score, quantiles = Score(value=None, reason=Reason("undefined", ("undefined for every case",))), [None, None]
    else:
        share = WORST_SHARE if metric.higher_is_better else 1 - WORST_SHARE
        score = add_patient_interval(exact_mean(map(exact_mean, known)), values, weights, num_patients)
        quantiles = np.quantile(known[0], [0.5, share]).tolist() if len(known) == 1 else [None, None]
    if score.method and not has_patients:
        score = replace(score, method=replace(score.method, unit="image"))
    return MaskScore(
        metric=metric, score=score, median=quantiles[0], worst_twentieth=quantiles[1], num_patients=num_patients
    )


def add_patient_interval(value: float, values: Array, weights: Array, num_patients: int) -> Score:
    """A score with its interval over resampled patients, or the reason why there is none."""
    if num_patients < MIN_CASES:
        return Score(value=value, reason=Reason("too-few", (num_patients, MIN_CASES, "patient", "", "")))
    interval = percentile_interval(resampled_means(values, weights))
    if interval.low is None:
        return Score(value=value, reason=reason_for_interval(interval))
    method = IntervalMethod(code="bootstrap", unit="patient", count=interval.num_undefined)
    return Score(value=value, low=interval.low, high=interval.high, method=method)
