"""Estimator specs: models without gradients, fitted to the features of a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.tasks.kinds import IMAGE_TASKS
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from zoo.arrays import Array

# Inputs float64 (N, D) -> the answers to them, in the form of `EstimatorSpec`.
Predict = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorRequest:
    """What to fit an estimator to: the images of train, and nothing of test."""

    inputs: Array  # float64 (N, D): the features of train
    targets: Array  # those of `zoo.Task`; for a regression standardized by train
    patients: Array  # (N,) str; without a patient key, one per image: keep a patient's images together
    task: Task
    num_labels: int
    seed: int
    val_score: Callable[[Predict], float]  # of the primary metric on val, higher is better: to choose between fits


@dataclass(frozen=True, kw_only=True)
class EstimatorSpec:
    """A model that is fitted without gradients, such as one of scikit-learn.

    `fit` returns a function from inputs float64 (N, D) to answers float64 (N, C): the probabilities of `zoo.Task`, or
    for a regression numbers (N, 1) on the scale of the targets. The answer to an image must not depend on the others.
    A protocol with the method "estimator" names the spec, and any model that has features can then be its input.

    `state` returns the arrays from which `restore` builds the function again, in another process and without the
    training images. Without both, the fitted model is not kept: zoo stores arrays, never pickles.
    """

    name: str
    fit: Callable[[EstimatorRequest], Predict]
    title: str = ""
    tasks: tuple[str, ...] = IMAGE_TASKS
    seeded: bool = False  # whether the outcome depends on the seed; if not, a bench fits it once
    state: Callable[[Predict], Mapping[str, Any]] | None = None
    restore: Callable[[Mapping[str, Any]], Predict] | None = None
    version: int = 0  # raise it when `fit` changes a number; 0: it changes with every plugin release
    imports: tuple[str, ...] = ()  # modules whose distributions a result records the versions of
    citation: str = ""
