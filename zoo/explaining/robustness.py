"""Score a trained model on its test images with corruptions of growing severity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, ResultsError, Undefined, UsageError
from zoo.evaluation.evidence import Evidence, weigh_evidence
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Score
from zoo.explaining.sampling import Place, TestedImages, open_tested, read_tested
from zoo.registry.choices import find_choice
from zoo.registry.lookup import Registry
from zoo.specs.choice import Choice
from zoo.specs.metric import MetricSpec
from zoo.statistics.pairs import compare_pairs, difference_intervals, holm
from zoo.system.progress import Progress
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import IMAGES_AT_ONCE, forward_squares, read_batches, scoring_context
from zoo.trained.second_input import no_metadata

UNCHANGED = "none"
MAX_REPEATED = 1e-3  # of a probability: what was stored and what is predicted again


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
    num_images: int
    num_patients: int
    has_patients: bool
    rows: tuple[CorruptedScore, ...]


def find_corruptions(names: Sequence[str], registry: Registry) -> dict[str, tuple[Choice, ...]]:
    """The choices of each severity by corruption; of all installed ones without names.

    Raises UsageError for a transform without severities.
    """
    installed = [name for name, spec in registry.specs("transform").items() if spec.severities and 2 in spec.dims]
    corruptions = {}
    for name in names or installed:
        choice = find_choice("transform", name, registry)
        if not choice.spec.severities or 2 not in choice.spec.dims:
            raise UsageError(
                f"transform {name!r} has no severities for images",
                fix=f"choose from {', '.join(installed)}",
                code="unknown-transform",
            )
        corruptions[name] = tuple(
            replace(choice, options={**choice.spec.options, **options}) for options in choice.spec.severities
        )
    return corruptions


@dataclass(frozen=True, kw_only=True, eq=False)
class TestedModel:
    """A trained model with its test images at the size of its input, squares (N, size, size, channels)."""

    model: OpenModel
    test: Predictions
    squares: Array
    has_patients: bool

    def predict(self, corruption: str = UNCHANGED, choice: Choice | None = None) -> Predictions:
        """The predictions of the test images, which are first changed by a corruption if there is one."""
        card = self.model.card
        parts = []
        for start in range(0, len(self.squares), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            squares = self.squares[rows]
            if choice is not None:
                draws = draw_by_name(corruption, self.test.sample_ids[rows], choice.spec.num_draws)
                squares = corrupt(squares, draws, choice, card.intensity)
            parts.append(forward_squares(self.model, squares, ())[0])
        logits, answers = np.concatenate(parts), card.task_kind.answers
        if not np.isfinite(logits).all():
            raise ResultsError(
                f"{card.name}: its output under {corruption} is not finite", fix="use another corruption"
            )
        return replace(
            self.test,
            probabilities=answers.from_logits(logits, card.target_scale),
            log_odds=answers.to_log_odds(logits),
        )


def open_tested_model(model: OpenModel, place: Place, progress: Progress | None = None) -> TestedModel:
    """Read the test images of a model again. Raises DataError for an image that cannot be read."""
    card = model.card
    if card.volumes is not None or card.task_kind.targets.spatial:
        raise UsageError(f"{card.name} is not a model of images with labels", fix="name another one", code="wrong-task")
    if card.coding is not None:
        raise no_metadata(card)
    test = read_tested(model.folder, card)
    dataset = open_tested(card, place, progress)
    images = TestedImages(dataset, test.sample_ids).list_images()
    squares = []
    for batch in read_batches(model, images):
        for each in batch:
            if each.pixels is None:
                raise DataError(each.refused, fix=each.fix)
            squares.append(each.pixels)
    return TestedModel(model=model, test=test, squares=np.stack(squares), has_patients=dataset.has_patients)


def draw_by_name(corruption: str, sample_ids: Array, num_draws: int) -> Array:
    """Draws (N, num_draws), float32 in 0..1, that depend on the names of a corruption and of an image only."""
    digests = [hashlib.sha256(f"{corruption}\t{name}".encode()).digest() for name in sample_ids.tolist()]
    generators = [np.random.default_rng(int.from_bytes(digest[:8], "little")) for digest in digests]
    return np.stack([generator.random(num_draws, dtype=np.float32) for generator in generators])


def corrupt(squares: Array, draws: Array, choice: Choice, intensity: tuple[float, float]) -> Array:
    """Apply a corruption to squares (N, size, size, channels) and round to their levels, as a file holds them."""
    import torch

    low, high = intensity
    images = (torch.from_numpy(squares.astype(np.float32)).movedim(3, 1) - low) / (high - low)
    changed = choice.spec.augment(images, torch.from_numpy(draws), **choice.options)
    levels = (changed * (high - low) + low).round().clamp(0, np.iinfo(squares.dtype).max)
    return np.ascontiguousarray(levels.movedim(1, 3).numpy().astype(squares.dtype))


def measure_robustness(
    tested: TestedModel, corruptions: Mapping[str, Sequence[Choice]], metric: MetricSpec, progress: Progress
) -> Robustness:
    """Score the model without and with each corruption. The thresholds are those of val, without corruptions."""
    cases = list(list_cases(corruptions))
    predictions = []
    for done, (name, _, choice) in enumerate(cases):
        progress(done, len(cases))
        predictions.append(tested.predict(name, choice))
    require_repeated(tested, predictions[0])
    scores = [score_of(tested, metric, each) for each in predictions]
    drops = find_drops(tested, metric, predictions)
    return Robustness(
        model=tested.model.card.name,
        metric=metric.name,
        num_images=len(tested.test),
        num_patients=len(np.unique(tested.test.patients)),
        has_patients=tested.has_patients,
        rows=tuple(
            CorruptedScore(corruption=name, severity=severity, score=value, drop=drop)
            for (name, severity, _), value, drop in zip(cases, scores, drops, strict=True)
        ),
    )


def list_cases(corruptions: Mapping[str, Sequence[Choice]]) -> Iterator[tuple[str, int, Choice | None]]:
    """No corruption, then every one with its severities."""
    yield UNCHANGED, 0, None
    for name, choices in corruptions.items():
        for severity, choice in enumerate(choices, start=1):
            yield name, severity, choice


def require_repeated(tested: TestedModel, again: Predictions) -> None:
    """Raise ResultsError if the model predicts its test images otherwise than its run did."""
    difference = float(np.abs(again.probabilities - tested.test.probabilities).max())
    scale = max(1.0, float(np.abs(tested.test.probabilities).max()))
    if difference > MAX_REPEATED * scale:
        raise ResultsError(
            f"{tested.model.card.name}: predicted again, a test image differs by {difference:.2g} from its run",
            fix="use the device and the versions of the run",
            code="other-predictions",
        )


def runs_of(tested: TestedModel, test: Predictions) -> list[list[dict[str, Predictions]]]:
    val = tested.model.val
    return [[{"test": test} if val is None else {"val": val, "test": test}]]


def score_of(tested: TestedModel, metric: MetricSpec, test: Predictions) -> Score:
    card, runs = tested.model.card, runs_of(tested, test)
    context = replace(scoring_context(card), has_patients=tested.has_patients)
    return score(runs, {metric.name: metric}, context, threshold=card.protocol_fields["threshold"])[metric.name]


def find_drops(tested: TestedModel, metric: MetricSpec, predictions: Sequence[Predictions]) -> list[Drop | None]:
    """How much worse each score is than the first, paired by patient, as two models of a board are compared."""
    card = tested.model.card
    context = replace(scoring_context(card), has_patients=tested.has_patients)
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
