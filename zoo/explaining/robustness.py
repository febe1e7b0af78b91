"""Score a trained model on its test images or volumes with corruptions of growing severity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset
from zoo.errors import ResultsError, Undefined, UsageError
from zoo.evaluation.evidence import Evidence, weigh_evidence
from zoo.evaluation.predictions import Predictions, concatenate, prediction_difference
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Score
from zoo.explaining.sampling import Place, open_tested, read_tested
from zoo.explaining.test_inputs import TestInput, read_test_inputs
from zoo.registry.choices import find_choice
from zoo.registry.lookup import Registry
from zoo.specs.choice import Choice
from zoo.specs.metric import MetricSpec
from zoo.statistics.pairs import compare_pairs, difference_intervals, holm
from zoo.system.progress import Progress
from zoo.tasks.overlaps import COUNTED
from zoo.tasks.task import Task
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import scoring_context
from zoo.trained.second_input import no_metadata

UNCHANGED = "none"
INPUTS = {2: "images", 3: "volumes"}
# Of a probability, or of the pixels of a mask: the difference of what was stored and what is predicted again.
MAX_REPEATED = 1e-3


class Drop(NamedTuple):
    """How much worse a score is under a corruption than without: above 0 is worse. `p` is adjusted by Holm."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class CorruptedScore:
    """The score of a metric on the test images under a corruption."""

    corruption: str
    severity: int  # from 1; 0 without a corruption
    score: Score
    drop: Drop | None  # None without a corruption, or with too few patients for a test


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The scores of one model, first without a corruption, then by corruption and severity."""

    model: str
    metric: str
    inputs: str  # "images" or "volumes"
    num_inputs: int
    num_patients: int
    has_patients: bool
    left_out: tuple[str, ...]  # installed corruptions that do not take the inputs
    rows: tuple[CorruptedScore, ...]


class Case(NamedTuple):
    """A corruption of a severity; without a choice the images stay as they are."""

    corruption: str = UNCHANGED
    severity: int = 0
    choice: Choice | None = None


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """The cases to compare, first without a corruption, and the installed corruptions that do not take the inputs."""

    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()


def find_corruptions(names: Sequence[str], registry: Registry, dims: int) -> Corruptions:
    """Every severity of some corruptions of images or volumes, by `dims`; of all installed ones without names.

    Raises UsageError for a transform without severities.
    """
    installed = {name: spec.dims for name, spec in registry.specs("transform").items() if spec.severities}
    fitting = [name for name, axes in installed.items() if dims in axes]
    left_out = [name for name in installed if name not in fitting]
    cases = [Case()]
    for name in names or fitting:
        choice = find_choice("transform", name, registry)
        if not choice.spec.severities or dims not in choice.spec.dims:
            raise UsageError(
                f"transform {name!r} has no severities for {INPUTS[dims]}",
                fix=f"choose from {', '.join(fitting)}",
                code="unknown-transform",
            )
        for severity, options in enumerate(choice.spec.severities, start=1):
            changed = replace(choice, options={**choice.spec.options, **options})
            cases.append(Case(name, severity, changed))
    return Corruptions(cases=tuple(cases), left_out=() if names else tuple(left_out))


def find_task_metric(name: str, task: Task, registry: Registry) -> MetricSpec:
    """The named metric, or the one that ranks the task. Raises UsageError for a metric of other tasks."""
    metric: MetricSpec = registry.find("metric", name or task.primary_metric)
    if task.name not in metric.tasks:
        raise UsageError(f"--metric {name}: not a metric of {task} tasks", fix="see: zoo list metrics")
    return metric


@dataclass(frozen=True, kw_only=True, eq=False)
class TestedModel:
    """A trained model, its stored predictions of test, and the dataset in which these images or volumes are."""

    model: OpenModel
    test: Predictions
    dataset: OpenDataset

    def predict(self, cases: Sequence[Case], progress: Progress, *, counts_only: bool = False) -> list[Predictions]:
        """The predictions of the test split by case; each image or volume is read once.

        `counts_only` leaves out the statistics of masks that are not in `COUNTED`: NaN.

        Raises DataError if one cannot be read, and ResultsError if it is predicted otherwise than the run did.
        """
        parts: list[list[Predictions]] = [[] for _ in cases]
        done = 0
        for inputs in read_test_inputs(self.model, self.dataset, self.test):
            for case, own in zip(cases, parts, strict=True):
                own.append(predict_case(inputs, case, counts_only=counts_only))
                if case.choice is None:
                    self.require_repeated(inputs.test, own[-1])
                done += len(inputs.test)
                progress(done, len(cases) * len(self.test))
        return [concatenate(own, self.test) for own in parts]

    def require_repeated(self, stored: Predictions, again: Predictions) -> None:
        difference = prediction_difference(again, stored)
        scale = 1.0 if stored.label_maps is not None else max(1.0, float(np.abs(self.test.probabilities).max()))
        if difference > MAX_REPEATED * scale:
            raise ResultsError(
                f"{self.model.card.name}: predicted again, a test image differs by {difference:.2g} from its run",
                fix="use the device and the versions of the run",
                code="other-predictions",
            )


def predict_case(inputs: TestInput, case: Case, *, counts_only: bool) -> Predictions:
    if case.choice is None:
        return inputs.answer(counts_only=counts_only)
    draws = draw_by_name(case.corruption, inputs.test.sample_ids, case.choice.spec.num_draws)
    return inputs.corrupted(case.choice, draws).answer(counts_only=counts_only)


def draw_by_name(corruption: str, sample_ids: Array, num_draws: int) -> Array:
    """Draws (N, num_draws), float32 in 0..1, that depend on the names of a corruption and of an image only."""
    digests = [hashlib.sha256(f"{corruption}\t{name}".encode()).digest() for name in sample_ids.tolist()]
    generators = [np.random.default_rng(int.from_bytes(digest[:8], "little")) for digest in digests]
    return np.stack([generator.random(num_draws, dtype=np.float32) for generator in generators])


def open_tested_model(model: OpenModel, place: Place, progress: Progress | None = None) -> TestedModel:
    """Open the dataset of a model again. Raises UsageError for a model that takes metadata."""
    if model.card.coding is not None:
        raise no_metadata(model.card)
    test = read_tested(model.folder, model.card)
    return TestedModel(model=model, test=test, dataset=open_tested(model.card, place, progress))


def measure_robustness(
    tested: TestedModel, corruptions: Corruptions, metric: MetricSpec, progress: Progress
) -> Robustness:
    """Score the model without and with each corruption. The thresholds are those of val, without corruptions."""
    predictions = tested.predict(corruptions.cases, progress, counts_only=metric.name in COUNTED)
    scores = [score_of(tested, metric, each) for each in predictions]
    drops = find_drops(tested, metric, predictions)
    return Robustness(
        model=tested.model.card.name,
        metric=metric.name,
        inputs=INPUTS[tested.dataset.spec.dims],
        num_inputs=len(tested.test),
        num_patients=len(np.unique(tested.test.patients)),
        has_patients=tested.dataset.has_patients,
        left_out=corruptions.left_out,
        rows=tuple(
            CorruptedScore(corruption=case.corruption, severity=case.severity, score=value, drop=drop)
            for case, value, drop in zip(corruptions.cases, scores, drops, strict=True)
        ),
    )


def runs_of(tested: TestedModel, test: Predictions) -> list[list[dict[str, Predictions]]]:
    val = tested.model.val
    return [[{"test": test} if val is None else {"val": val, "test": test}]]


def score_of(tested: TestedModel, metric: MetricSpec, test: Predictions) -> Score:
    card, runs = tested.model.card, runs_of(tested, test)
    context = replace(scoring_context(card), has_patients=tested.dataset.has_patients)
    return score(runs, {metric.name: metric}, context, threshold=card.protocol_fields["threshold"])[metric.name]


def find_drops(tested: TestedModel, metric: MetricSpec, predictions: Sequence[Predictions]) -> list[Drop | None]:
    """How much worse each score is than the first, paired by patient, as two models of a board are compared."""
    card = tested.model.card
    context = replace(scoring_context(card), has_patients=tested.dataset.has_patients)
    weigh = partial(weigh_evidence, metric=metric, card=context, threshold=card.protocol_fields["threshold"])
    try:
        evidence: list[Evidence] = [weigh(runs_of(tested, each)) for each in predictions]
    except Undefined:
        return [None] * len(predictions)
    pairs = compare_pairs(np.stack([each.influence for each in evidence]), [each.seed_scores for each in evidence])
    rows = pairs.first == 0
    parts = np.stack([pairs.difference, *difference_intervals(pairs)])[:, rows]
    values, lows, highs = parts if metric.higher_is_better else -parts[[0, 2, 1]]
    adjusted = holm(pairs.p[rows])
    return [None, *(Drop(*map(float, each)) for each in zip(values, lows, highs, adjusted, strict=True))]
