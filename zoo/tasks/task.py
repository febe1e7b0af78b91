"""`Task` and its parts: targets, network head, answers, decisions and presentation of one kind of prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from zoo.arrays import Array
from zoo.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

# What one target is: the index of a class, a row of 0/1/NaN, a number, or something that a plugin defines.
Form = Literal["class", "flags", "number", "other"]
# The figures of a board that a task can have.
FigureKind = Literal[
    "roc",  # needs labels
    "precision-recall",  # needs labels
    "decision-curve",  # needs labels
    "reliability",  # needs `calibrated`
    "confusion",  # needs classes
    "agreement",  # needs numbers: predicted against true, and their difference against their mean
    "cases",  # needs a primary metric with a value of each unit
]
# The rules by which a board chooses test images to show.
PictureRule = Literal[
    "most confident, right",  # needs decisions
    "most confident, wrong",  # needs decisions
    "least confident",  # needs decisions
    "smallest error",  # needs numbers
    "largest error",  # needs numbers
    "lowest score",  # needs masks
    "median score",  # needs masks
]


class TargetFault(NamedTuple):
    """A target that does not fit the task: its row (None: all of them), what is wrong, and how to fix it."""

    row: int | None
    problem: str
    fix: str


class Targets(ABC):
    """The targets of N samples of a dataset with L labels."""

    form: Form = "other"
    ordered = False  # classes are grades
    has_positive = False  # two classes, one of which is the positive one
    min_labels = 1
    max_labels: int | None = None
    by_label = False  # one column per label, each of which can be scored by itself
    spatial = False  # the network is trained on masks, label maps (H, W) that augmentation moves with their images
    kinds = "biuf"  # of stored arrays, as `numpy.dtype.kind`
    generic: np.dtype[Any] = np.dtype(np.float64)  # what a plugin returns

    def fits(self, shape: tuple[int, ...], num_labels: int) -> bool:
        """Whether one target may have a shape."""
        return shape == ()

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        """The first fault of the targets of a dataset."""
        return None

    def find_stored_fault(self, targets: Array, num_labels: int) -> str:
        """The fault in the values of stored targets of the right shape and dtype, or ""."""
        return "targets contain NaN or infinity" if not np.isfinite(targets).all() else ""

    def to_flags(self, targets: Array, num_labels: int) -> Array | None:
        """Which labels each sample has: (N, L) with 1, 0, and NaN for unknown; None if samples have no labels."""
        return None

    def scored_labels(self, num_labels: int, positive: int | None) -> Sequence[int]:
        """The labels that scores by label are about: the positive one of two classes, else all."""
        return range(num_labels)

    def count(self, targets: Array, labels: Sequence[str]) -> dict[str, Any]:
        """The counts stored of a split's targets: `labels` with the number of samples that have each."""
        flags = self.to_flags(targets, len(labels))
        if flags is None:
            return {}
        return {"labels": {label: int(n) for label, n in zip(labels, np.nansum(flags, axis=0), strict=True)}}

    def sizes(self, targets: Array) -> Array:
        """One number per sample (N,), to show examples from the least to the greatest."""
        return np.zeros(len(targets))

    def strata(self, targets: Array) -> Array:
        """The stratum of each sample, int (N,), to balance splits by: the quintile of its size."""
        sizes = self.sizes(targets)
        return np.searchsorted(np.quantile(sizes, [0.2, 0.4, 0.6, 0.8]), sizes)

    def inverse_frequencies(self, targets: Array, num_labels: int) -> Array | None:
        """Weights (L,) of the labels in a loss, for training targets; None if samples have no labels to weight.

        Of classes, N / (L * images of the class), as scikit-learn's "balanced"; of labels that may be present or
        absent, the weight of a present one if an absent one has 1: absent / present.
        """
        return None

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        """One target as text for tables and pages."""
        return str(target)

    def describe_volume(self, target: Any, labels: Sequence[str]) -> str:
        """The target of a volume as text, which may count voxels where `describe` counts pixels."""
        return self.describe(target, labels)

    def columns(self, labels: Sequence[str]) -> list[str]:
        """The columns of a table of targets."""
        return ["target"]

    def cells(self, targets: Array, labels: Sequence[str]) -> list[list[Any]]:
        """The cells of each target in these columns; None where it is unknown."""
        return [[target] for target in targets.tolist()]

    def num_cases(self, targets: Array, num_labels: int) -> int:
        """The number of samples that limits the precision of a score: of several classes, those of the rarer."""
        return len(targets)

    def scale(self, train: Array) -> tuple[float, float]:
        """Center and spread of the training targets, which the network predicts in these units."""
        return 0.0, 1.0

    def standardize(self, targets: Array, scale: tuple[float, float]) -> Array:
        """The targets as the loss takes them."""
        return targets

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        """Random targets and the correct answers to them, for tests of metrics."""

    def votes(self, targets: Array, num_labels: int) -> Array:
        """Standardized targets (N, ...) as votes (N, C) of neighbors, NaN where unknown."""
        flags = self.to_flags(targets, num_labels)
        return targets.reshape(len(targets), -1) if flags is None else flags


class Head(ABC):
    """The number and shape of a network's outputs, and how they are fitted."""

    dense = False  # logits (N, num_outputs, H, W) instead of (N, num_outputs)
    likelihood = False  # has `target_losses` and `target_weights`, from which other losses are made

    def num_outputs(self, num_labels: int) -> int:
        return num_labels

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the logits of a batch against its standardized targets."""

    def target_losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """-log P of each target of a batch (N,), or of each of its labels (N, L); 0 where it is unknown.

        `smoothing` is the share of a target that is spread evenly over its possible values.
        """
        raise NotImplementedError

    def target_weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """The weight of each of `target_losses` in their mean, in a shape that broadcasts to theirs; 0 if unknown."""
        raise NotImplementedError

    def solve(self, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
        """Minimize mean loss + penalty / 2 * |W|^2 over W (outputs, D) and an unpenalized bias (outputs,)."""
        raise RunError(
            "a linear head cannot be fitted to targets of this task", fix="choose a protocol that trains the network"
        )


class Answers(ABC):
    """The stored predictions of N samples, computed from their logits: usually probabilities (N, C)."""

    formula = ""  # from logits to answers, for whoever uses an exported model

    @abstractmethod
    def find_fault(self, answers: Array, num_labels: int) -> str:
        """The fault in the shape, dtype or values of stored answers of N samples, or ""."""

    def columns(self, labels: Sequence[str]) -> list[str]:
        """The columns of a table of answers."""
        return [f"probability: {label}" for label in labels]

    def cells(self, answers: Array) -> list[list[Any]]:
        """The cells of each answer in these columns."""
        cells: list[list[Any]] = answers.tolist()
        return cells

    def keep_labels(self, answers: Array, labels: Sequence[int]) -> Array:
        """The answers about the labels at these positions, of a task whose targets are `by_label`."""
        kept: Array = answers[:, list(labels)]
        return kept

    @abstractmethod
    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        """Convert logits to answers; `scale` is that of the targets."""

    def to_log_odds(self, logits: Array) -> Array | None:
        """log p/(1 - p), which ranks samples whose probabilities round to 1; None if there is none."""
        return None

    def evidence(self, logits: Tensor) -> Tensor:
        """The numbers (N, C) that an explanation of each column of the answers differentiates, from its logits."""
        return logits

    def region_evidence(self, logits: Tensor, decided: Tensor) -> Tensor:
        """The same (N, L) of dense logits (N, O, H, W), of each label in its region of one label map (H, W)."""
        raise NotImplementedError

    def recover_log_odds(self, answers: Array) -> Array | None:
        """Log odds from stored probabilities that keep the digits of small ones; None where they are lost."""
        return None

    def to_logits(self, answers: Array, floor: float = 1e-4) -> Array:
        """Invert `from_logits`, with probabilities clipped to `floor` and 1 - `floor`."""
        return answers

    def rescale(self, answers: Array, temperature: float) -> Array:
        """The probabilities of the logits divided by a temperature (Guo et al. 2017); 1 changes nothing."""
        return self.from_logits(self.to_logits(answers, floor=1e-15) / temperature)

    @abstractmethod
    def of_target(self, answers: Array, targets: Array) -> Array:
        """The probability of each target, or the predicted value: (N,), NaN where the target is unknown."""

    @abstractmethod
    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        """The mean loss of answers, by which rounds of training are compared on val."""

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> Array:
        """Random answers, for tests of metrics."""
        return rng.random((count, num_labels))

    def unit(self, targets: Array) -> float:
        """The size of a difference between answers that matters."""
        return 1.0

    def is_saturated(self, answers: Array) -> Array:
        """Which probabilities were rounded to 0 or 1, bool (N, C)."""
        return np.zeros(answers.shape, bool)


POSITIVE_AND_NEGATIVE = ("positive", "negative")


class Decisions:
    """How answers become decisions; by default the label with the largest probability."""

    rule = "the class with the largest probability"  # as a reader sees it; not shown if labels have thresholds

    def cut_labels(self, num_labels: int, positive: int) -> Sequence[int]:
        """The labels that are decided at a threshold."""
        return ()

    def decide(self, ranked: Array, cuts: Array, positive: int) -> Array:
        """The decisions about N samples, at the thresholds of `cut_labels`.

        `ranked` (N, C) is on the scale of the thresholds, probabilities or log odds. If no label has a threshold,
        `cuts` is empty and `ranked` has the answers.
        """
        decided: Array = ranked.argmax(axis=1)
        return decided


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """The words for a task in reports."""

    title: str
    answer: str = "probability of the target"
    cases: tuple[str, ...] = ()  # the cases of a label that an interval needs enough of; () if it needs samples only
    calibrated: str = ""  # what the calibration error is of; "" if there is none
    chance: tuple[str, float, str] = ("auroc", 0.5, ".5")  # a metric, its value by chance, and that value as text
    figures: tuple[FigureKind, ...] = ()  # beside those that every task has
    pictures: tuple[PictureRule, ...] = ()
    hub_task: str = ""  # the pipeline tag of model cards; "" if the Hugging Face hub has none

    def __post_init__(self) -> None:
        for name, kinds in (("figures", get_args(FigureKind)), ("pictures", get_args(PictureRule))):
            for kind in getattr(self, name):
                if kind not in kinds:
                    raise TypeError(f"{name}: unknown {kind!r}; there are: {', '.join(kinds)}")


REQUESTED = ("finetune", "scratch", "quick", "linear-probe", "knn")
RECIPES_3D = {name: f"{name}3d" for name in REQUESTED}  # for one answer for each volume


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A kind of answer, for N images and L labels.

    | task | targets | head outputs | probabilities |
    |---|---|---|---|
    | binary, multiclass | int64 (N,) | L | (N, L), rows sum to 1 |
    | ordinal | int64 (N,) | L - 1, P(y > k) | (N, L), rows sum to 1 |
    | multilabel | float (N, L), NaN = unknown | L | (N, L), each in [0, 1] |
    | regression | float (N,) | 1 | (N, 1), the predicted value |
    """

    name: str
    primary_metric: str
    metrics: tuple[str, ...]
    targets: Targets
    head: Head
    answers: Answers
    decisions: Decisions | None = field(default_factory=Decisions)
    presentation: Presentation
    recipes: Mapping[str, str] = field(default_factory=dict)  # requested protocol -> the one for this task
    volume_recipes: Mapping[str, str] = field(default_factory=lambda: dict(RECIPES_3D))  # the same for volumes

    def recipe(self, protocol: str, dims: int) -> str:
        """The name of the protocol for this task in place of a requested one, for images of two or three axes."""
        return (self.volume_recipes if dims == 3 else self.recipes).get(protocol, protocol)

    @property
    def classes(self) -> bool:
        """Whether each sample has one class, which can be counted and stratified."""
        return self.targets.form == "class"

    @property
    def labeled(self) -> bool:
        """Whether each label is present or absent, so that positives and negatives can be counted."""
        return self.targets.form in ("class", "flags")

    @property
    def yes_no(self) -> bool:
        """Whether labels are decided at thresholds: present or absent."""
        return self.decisions is not None and bool(self.decisions.cut_labels(2, 1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name
