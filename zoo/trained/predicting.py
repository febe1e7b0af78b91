"""Predict new images with trained models: the mean of their seeds, the decision, and whether an image is unlike val."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.pixels import Pixels, as_pixels
from zoo.evaluation.predictions import Predictions, join_parts, mean_log_odds
from zoo.evaluation.temperature import find_temperature
from zoo.evaluation.thresholds import ThresholdRule, choose_cuts, scale_of
from zoo.images.formats import split_frame
from zoo.specs.metric import ScoringContext
from zoo.system.machine import num_cores
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage, ReadImage, read_new_image
from zoo.trained.modules import forward_rows
from zoo.trained.second_input import no_metadata

if TYPE_CHECKING:
    from zoo.trained.opening import OpenModel

IMAGES_AT_ONCE = 64
NO_OUTPUT_FIX = "look at the image, and leave it out"


@dataclass(frozen=True, kw_only=True, eq=False)
class NewAnswer:
    """The answer for one image, or for the images of one file; or the reason why there is none."""

    name: str
    probabilities: Array | None = None  # (C,)
    log_odds: Array | None = None  # (C,)
    calibrated: Array | None = None  # (C,)
    spread: Array | None = None  # (C,) standard deviation of the seeds
    decision: Any = None
    num_images: int = 1
    differs: tuple[str, ...] = ()  # from the training images, by the header
    distance: float | None = None  # of the features, as a multiple of the limit; the mean of seeds and images
    tags: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    fix: str = ""

    @property
    def outside(self) -> tuple[str, ...]:
        """Why the image is unlike the training data; empty if it is not."""
        return (*self.differs, *(("features",) if self.distance is not None and self.distance > 1 else ()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
    """How mean probabilities become decisions and calibrated probabilities; chosen on val."""

    cuts: Array | None  # on the scale of the log odds, if the task has them
    temperature: float | None


def find_rules(models: Sequence[OpenModel]) -> Rules:
    """The rules of one model, from its card; of several, from their predictions of val.

    These are averaged over the seeds of a fold; the folds, whose val splits differ, are joined.
    """
    card, val = models[0].card, [model.val for model in models if model.val is not None]
    if len(models) == 1 or len(val) < len(models):
        return Rules(cuts=None if card.cuts is None else np.array(card.cuts), temperature=card.temperature)
    context = scoring_context(card)
    folds: dict[tuple[str, ...], list[Predictions]] = {}
    for part in val:
        folds.setdefault(tuple(part.sample_ids), []).append(part)
    joined = join_parts([mean_of_seeds(parts) for parts in folds.values()])
    return choose_rules(joined.by_unit(context.unit), context, card.protocol_fields["threshold"])


def choose_rules(val: Predictions, context: ScoringContext, rule: ThresholdRule) -> Rules:
    """Choose the rules on predictions of val, one row per unit."""
    fitted = find_temperature({"val": val}, replace(context, unit="image")) if is_calibrated(context) else None
    return Rules(
        cuts=choose_cuts(val, context, rule, scale_of(val)[0]),
        temperature=fitted if isinstance(fitted, float) else None,
    )


def is_calibrated(context: ScoringContext) -> bool:
    return bool(context.task.presentation.calibrated)


def scoring_context(card: ModelCard) -> ScoringContext:
    return ScoringContext(task=card.task_kind, labels=card.labels, positive=card.positive, unit=card.unit)  # type: ignore[arg-type]


def mean_of_seeds(parts: Sequence[Predictions]) -> Predictions:
    """The mean probabilities of several models for the same images."""
    logs = [part.log_odds for part in parts if part.log_odds is not None]
    mean = np.mean([part.probabilities for part in parts], axis=0)
    return replace(parts[0], probabilities=mean, log_odds=mean_logs(logs) if len(logs) == len(parts) else None)


def mean_logs(logs: Sequence[Array]) -> Array:
    """Log odds (N, C) of the mean of probabilities, from log odds (N, C) of each."""
    count = len(logs[0])
    return mean_log_odds(np.concatenate(logs), np.tile(np.arange(count), len(logs)), count)


# --- prediction ------------------------------------------------------------------------------------------------------
def predict_images(models: Sequence[OpenModel], images: Iterable[NewImage], rules: Rules) -> Iterator[NewAnswer]:
    """Yield the answers in the order of the images; three batches are in memory at most.

    If the model was scored by clip or patient, the images of a file are one answer: the mean of their probabilities.
    """
    answers = (each for batch in read_batches(models[0], images) for each in answer_batch(models, batch, rules))
    if models[0].card.unit == "image":
        yield from answers
        return
    for name, group in groupby(answers, key=lambda each: split_frame(each.name)[0]):
        yield merge_answers(name, list(group), models[0].card, rules)


def read_batches(
    model: OpenModel, images: Iterable[NewImage], at_once: int = IMAGES_AT_ONCE
) -> Iterator[list[ReadImage]]:
    """Read images in threads, two batches ahead of the network."""
    stream = iter(images)
    with ThreadPoolExecutor(num_cores()) as pool:

        def submit() -> list[Future[ReadImage]]:
            return [
                pool.submit(read_new_image, model.card, image, model.transforms) for image in islice(stream, at_once)
            ]

        waiting = [submit(), submit()]
        while waiting[0]:
            batch = [future.result() for future in waiting.pop(0)]
            waiting.append(submit())
            yield batch


def answer_batch(models: Sequence[OpenModel], batch: Sequence[ReadImage], rules: Rules) -> Iterator[NewAnswer]:
    """Yield the answers for a batch of read images; refused ones keep their place."""
    squares = [each.pixels for each in batch if each.pixels is not None]
    cells = [each.image.cells for each in batch if each.pixels is not None]
    answers = iter(answer_squares(models, np.stack(squares), rules, cells) if squares else ())
    for each in batch:
        name, tags = each.image.name, each.image.tags
        if each.pixels is None:
            yield NewAnswer(name=name, tags=tags, refused=each.refused, fix=each.fix)
        elif (answer := next(answers)) is None:
            yield NewAnswer(
                name=name, tags=tags, refused=f"{name}: the model's output is not finite", fix=NO_OUTPUT_FIX
            )
        else:
            yield replace(answer, name=name, tags=tags, differs=(each.differs,) if each.differs else ())


def answer_squares(
    models: Sequence[OpenModel], squares: Array, rules: Rules, cells: Sequence[Mapping[str, str]] = ()
) -> list[NewAnswer | None]:
    """The answers for squares (B, size, size, channels), without their names; None if an output is not finite.

    `cells` has the columns of each square's second input.
    """
    return answer_outputs(models, [forward_squares(model, squares, cells) for model in models], rules)


def answer_outputs(
    models: Sequence[OpenModel], outputs: Sequence[tuple[Array, Array | None]], rules: Rules
) -> list[NewAnswer | None]:
    """The answers from the logits (B, outputs) and features (B, D) of each model; None if one is not finite."""
    logits = [own for own, _ in outputs]
    distances = [
        model.reference.ratios(features)
        for model, (_, features) in zip(models, outputs, strict=True)
        if model.reference is not None and features is not None
    ]
    rows = np.flatnonzero(np.isfinite(np.column_stack([*logits, *distances])).all(axis=1))
    if not len(rows):
        return [None] * len(logits[0])
    far = np.mean(distances, axis=0)[rows].tolist() if distances else [None] * len(rows)
    made = make_answers(models[0].card, [each[rows] for each in logits])
    made = apply_rules(models[0].card, rules, [replace(each, distance=far[row]) for row, each in enumerate(made)])
    answers = dict(zip(rows.tolist(), made, strict=True))
    return [answers.get(row) for row in range(len(logits[0]))]


def make_answers(card: ModelCard, logits: Sequence[Array]) -> list[NewAnswer]:
    """The mean answers of seeds, from their logits (B, outputs) each."""
    answers = card.task_kind.answers
    probabilities = [answers.from_logits(outputs, card.target_scale) for outputs in logits]
    known = [logs for outputs in logits if (logs := answers.to_log_odds(outputs)) is not None]
    mean = np.mean(probabilities, axis=0)
    spread = np.std(probabilities, axis=0, ddof=1) if len(logits) > 1 else None
    return [
        NewAnswer(name="", probabilities=mean[row], log_odds=log_row, spread=None if spread is None else spread[row])
        for row, log_row in enumerate(mean_logs(known) if known else [None] * len(mean))
    ]


def forward_squares(model: OpenModel, squares: Array, cells: Sequence[Mapping[str, str]]) -> tuple[Array, Array | None]:
    """Logits (B, outputs) and features (B, D) of squares (B, size, size, channels)."""
    return forward_rows(model.tap, pixels_of(model, squares, cells), np.arange(len(squares)), model.card.precision)


def pixels_of(model: OpenModel, squares: Array, cells: Sequence[Mapping[str, str]] = ()) -> Pixels:
    """Squares (B, size, size, channels) with their conversion to the network's input, and their second input."""
    import torch

    card, coding = model.card, model.card.coding
    squares = np.require(squares, requirements="W")  # torch warns about read-only arrays
    levels = torch.from_numpy(squares.view(np.int16) if squares.dtype == np.uint16 else squares)
    pixels = as_pixels(levels, card.intensity, card.mean, card.std, model.device)
    if coding is None:
        return pixels
    if len(cells) != len(squares):
        raise no_metadata(card)
    columns = {name: np.array([each[name] for each in cells]) for name in coding.names}
    return replace(pixels, metadata=torch.from_numpy(coding.encode(columns)).to(model.device))


def apply_rules(card: ModelCard, rules: Rules, answers: Sequence[NewAnswer]) -> list[NewAnswer]:
    """Set the decisions and calibrated probabilities of answers from their probabilities."""
    task, positive = card.task_kind, 1 if card.positive is None else card.positive
    probabilities = np.stack([each.probabilities for each in answers if each.probabilities is not None])
    logs = [each.log_odds for each in answers if each.log_odds is not None]
    calibrated = None if rules.temperature is None else task.answers.rescale(probabilities, rules.temperature)
    decisions = None
    if task.decisions is not None:
        ranked = np.stack(logs) if logs and rules.cuts is not None else probabilities
        decisions = task.decisions.decide(ranked, np.empty(0) if rules.cuts is None else rules.cuts, positive)
    return [
        replace(
            each,
            calibrated=None if calibrated is None else calibrated[row],
            decision=None if decisions is None else decisions[row],
        )
        for row, each in enumerate(answers)
    ]


def merge_answers(name: str, answers: Sequence[NewAnswer], card: ModelCard, rules: Rules) -> NewAnswer:
    """One answer for the images of a file; refused if one of them is."""
    if refused := [each for each in answers if each.refused]:
        return replace(refused[0], name=name)
    logs = [each.log_odds[None] for each in answers if each.log_odds is not None]
    spreads = [each.spread for each in answers if each.spread is not None]
    distances = [each.distance for each in answers if each.distance is not None]
    merged = NewAnswer(
        name=name,
        probabilities=np.mean(
            np.stack([each.probabilities for each in answers if each.probabilities is not None]), axis=0
        ),
        log_odds=mean_logs(logs)[0] if logs else None,
        spread=np.mean(spreads, axis=0) if spreads else None,
        num_images=len(answers),
        differs=tuple(sorted({reason for each in answers for reason in each.differs})),
        distance=float(np.mean(distances)) if distances else None,
        tags=answers[0].tags,
    )
    return apply_rules(card, rules, [merged])[0]
