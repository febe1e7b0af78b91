"""The core's estimators: nearest centroid, support vector machine, and gradient boosting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.specs.estimator import EstimatorRequest, EstimatorSpec, Predict
from zoo.tasks.kinds import IMAGE_TASKS, TASKS
from zoo.tasks.logits import sigmoid, softmax

LABELED_TASKS = tuple(name for name in IMAGE_TASKS if TASKS[name].labeled)
MIN_SPREAD = 1e-8  # of a feature; a smaller one is constant
FOLDS_OF_CALIBRATION = 3
ROUNDS = 100  # of gradient boosting

Arrays = Mapping[str, Array]


def standardization(inputs: Array) -> tuple[Array, Array]:
    """Center and spread (D,) of each feature; 1 for a constant one."""
    spread = inputs.std(axis=0)
    return inputs.mean(axis=0), np.where(spread < MIN_SPREAD, 1.0, spread)


def is_one_class(request: EstimatorRequest) -> bool:
    """Whether each image has one class, so that its probabilities sum to 1; otherwise labels are independent."""
    return request.task.classes


def flags_of(request: EstimatorRequest) -> Array:
    """Which labels each image has: float (N, L), NaN where unknown."""
    flags = request.task.targets.to_flags(request.targets, request.num_labels)
    assert flags is not None
    return flags


def smoothed_prior(present: Array) -> float:
    return float((present.sum() + 0.5) / (len(present) + 1))


# --- nearest centroid ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class NearestCentroid:
    """Probabilities from the distance to the mean of each class, or to those with and without each label.

    The logit is minus half the mean squared distance over the features, each divided by its spread in train.
    """

    arrays: Arrays

    def __call__(self, inputs: Array) -> Array:
        scaled = (inputs - self.arrays["center"]) / self.arrays["spread"]
        logits = self.arrays["offset"] - 0.5 * mean_squared_distances(scaled, self.arrays["present"])
        if "absent" not in self.arrays:
            return softmax(logits)
        return sigmoid(logits + 0.5 * mean_squared_distances(scaled, self.arrays["absent"]))


def mean_squared_distances(rows: Array, centroids: Array) -> Array:
    """Mean squared difference (N, L) between rows (N, D) and centroids (L, D)."""
    return np.stack([((rows - centroid) ** 2).mean(axis=1) for centroid in centroids], axis=1)


ABSENT_LOGIT = -50.0  # the logit of a class without images in train


def fit_centroids(request: EstimatorRequest) -> NearestCentroid:
    center, spread = standardization(request.inputs)
    scaled, flags = (request.inputs - center) / spread, flags_of(request)
    has, lacks = flags == 1, flags == 0
    arrays = {"center": center, "spread": spread, "present": means_of(scaled, has)}
    if is_one_class(request):
        offset = np.where(has.any(axis=0), 0.0, ABSENT_LOGIT)
    else:
        arrays["absent"] = means_of(scaled, lacks)
        known = has.any(axis=0) & lacks.any(axis=0)
        prior = (has.sum(axis=0) + 0.5) / (has.sum(axis=0) + lacks.sum(axis=0) + 1)
        offset = np.where(known, 0.0, np.log(prior / (1 - prior)))
        for name in ("present", "absent"):  # a label that is always or never present is its prior
            arrays[name] = np.where(known[:, None], arrays[name], 0.0)
    return NearestCentroid({**arrays, "offset": offset})


def means_of(rows: Array, members: Array) -> Array:
    """The mean (L, D) of the rows (N, D) that are members (N, L); 0 for a label without any."""
    counts = members.sum(axis=0)
    means: Array = members.T.astype(np.float64) @ rows / np.maximum(counts, 1)[:, None]
    return means


# --- one question per label ------------------------------------------------------------------------------------------
AnswerLabel = Callable[[Array], Array]  # inputs (N, D) -> probabilities (N,)
# Inputs (N, D), whether the label is present (N,), patients (N,)
FitLabel = Callable[[Array, Array, Array], AnswerLabel]


def fit_labels(request: EstimatorRequest, fit_label: FitLabel) -> list[AnswerLabel]:
    """Fit each label against the others over the images where it is known; of two classes only the second."""
    flags = flags_of(request)
    columns = [1] if is_one_class(request) and request.num_labels == 2 else range(request.num_labels)
    fitted: list[AnswerLabel] = []
    for column in columns:
        known = ~np.isnan(flags[:, column])
        present = flags[known, column] == 1
        if present.all() or not present.any():
            fitted.append(Constant(smoothed_prior(present)))
        else:
            fitted.append(fit_label(request.inputs[known], present, request.patients[known]))
    return fitted


def join_labels(columns: list[Array], one_class: bool) -> Array:
    """The answers (N, L) of the questions of `fit_labels`."""
    if one_class and len(columns) == 1:
        return np.stack([1 - columns[0], columns[0]], axis=1)
    values = np.stack(columns, axis=1)
    if not one_class:
        return values
    values = np.maximum(values, np.finfo(np.float64).tiny)
    shares: Array = values / values.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Constant:
    """The same probability for every image."""

    probability: float

    def __call__(self, inputs: Array) -> Array:
        return np.full(len(inputs), self.probability)


# --- support vector machine ------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class VectorMachine:
    """A support vector machine with an RBF kernel, and a sigmoid from its values to probabilities (Platt 1999)."""

    arrays: Arrays  # support (S, D), weights (S,), and numbers (4,): gamma, intercept, slope, offset

    def values(self, inputs: Array) -> Array:
        """Decision values (N,) of standardized inputs."""
        support, weights = self.arrays["support"], self.arrays["weights"]
        gamma, intercept = self.arrays["numbers"][:2]
        squared = (inputs**2).sum(axis=1)[:, None] + (support**2).sum(axis=1) - 2 * inputs @ support.T
        decided: Array = np.exp(-gamma * np.maximum(squared, 0)) @ weights + intercept
        return decided

    def __call__(self, inputs: Array) -> Array:
        slope, offset = self.arrays["numbers"][2:]
        return sigmoid(slope * self.values(inputs) + offset)


@dataclass(frozen=True, eq=False)
class VectorMachines:
    """The answers of one machine per label, or of one for a number."""

    arrays: Arrays

    def __call__(self, inputs: Array) -> Array:
        scaled = (inputs - self.arrays["center"]) / self.arrays["spread"]
        kind, count = self.arrays["form"].tolist()
        machines = [VectorMachine(part_of(self.arrays, number)) for number in range(count)]
        if kind == SINGLE_NUMBER:
            return machines[0].values(scaled)[:, None]
        return join_labels([machine(scaled) for machine in machines], kind == EXCLUSIVE_LABELS)


# The first number of the array `form`; the second is the number of machines.
EXCLUSIVE_LABELS, INDEPENDENT_LABELS, SINGLE_NUMBER = range(3)


def part_of(arrays: Arrays, number: int) -> Arrays:
    prefix = f"machine{number}_"
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def fit_machines(request: EstimatorRequest) -> VectorMachines:
    """Fit with C = 1 and gamma = 1 / D on standardized features."""
    center, spread = standardization(request.inputs)
    scaled = (request.inputs - center) / spread
    if request.task.labeled:
        kind = EXCLUSIVE_LABELS if is_one_class(request) else INDEPENDENT_LABELS
        standardized = EstimatorRequest(**{**vars(request), "inputs": scaled})
        fitted = [as_machine(each, scaled) for each in fit_labels(standardized, fit_machine)]
    else:
        from sklearn.svm import SVR

        model = SVR(gamma=1 / scaled.shape[1]).fit(scaled, request.targets.reshape(-1))
        kind, fitted = SINGLE_NUMBER, [machine_of(model, scaled.shape[1], 1.0, 0.0)]
    arrays = {"center": center, "spread": spread, "form": np.array([kind, len(fitted)])}
    for number, machine in enumerate(fitted):
        arrays |= {f"machine{number}_{name}": value for name, value in machine.arrays.items()}
    return VectorMachines(arrays)


def machine_of(model: Any, num_features: int, slope: float, offset: float) -> VectorMachine:
    """The arrays of a fitted `SVC` or `SVR`."""
    numbers = np.array([1 / num_features, float(model.intercept_[0]), slope, offset])
    return VectorMachine({"support": model.support_vectors_, "weights": model.dual_coef_[0], "numbers": numbers})


def as_machine(fitted: AnswerLabel, inputs: Array) -> VectorMachine:
    """A constant as a machine without support vectors."""
    if isinstance(fitted, VectorMachine):
        return fitted
    assert isinstance(fitted, Constant)
    log_odds = float(np.log(fitted.probability / (1 - fitted.probability)))
    support = np.zeros((0, inputs.shape[1]))
    return VectorMachine({"support": support, "weights": np.zeros(0), "numbers": np.array([1.0, 0.0, 1.0, log_odds])})


def fit_machine(inputs: Array, present: Array, patients: Array) -> VectorMachine:
    from sklearn.svm import SVC

    make = partial(SVC, gamma=1 / inputs.shape[1])
    slope, offset = fit_sigmoid(*held_out_values(make, inputs, present, patients))
    return machine_of(make().fit(inputs, present), inputs.shape[1], slope, offset)


def held_out_values(make: Callable[[], Any], inputs: Array, present: Array, patients: Array) -> tuple[Array, Array]:
    """Decision values of images whose patients a fit has not seen, and whether the label is present."""
    from sklearn.model_selection import GroupKFold

    count = min(FOLDS_OF_CALIBRATION, len(np.unique(patients)))
    values, known = [], []
    for rest, held in GroupKFold(count).split(inputs, present, patients) if count > 1 else ():
        if len(np.unique(present[rest])) == 2:
            values.append(make().fit(inputs[rest], present[rest]).decision_function(inputs[held]))
            known.append(present[held])
    return (np.concatenate(values), np.concatenate(known)) if values else (np.zeros(0), np.zeros(0, bool))


def fit_sigmoid(values: Array, present: Array) -> tuple[float, float]:
    """Slope and offset of log odds on decision values; 1 and 0 if there is nothing to fit, or the slope is negative.

    As in Platt (1999), a target is (n + 1)/(n + 2) for a label with n images, so that separable values stay finite.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(present)) < 2:
        return 1.0, 0.0
    smoothed = np.where(present, 1 - 1 / (present.sum() + 2), 1 / ((~present).sum() + 2))
    model = LogisticRegression(C=1e6).fit(
        np.tile(values, 2)[:, None],
        np.repeat([True, False], len(values)),
        sample_weight=np.concatenate([smoothed, 1 - smoothed]),
    )
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (slope, offset) if slope > 0 else (1.0, 0.0)


# --- gradient boosting -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class BoostedLabels:
    columns: list[AnswerLabel]
    one_class: bool

    def __call__(self, inputs: Array) -> Array:
        return join_labels([column(inputs) for column in self.columns], self.one_class)


@dataclass(frozen=True, eq=False)
class BoostedNumber:
    model: Any

    def __call__(self, inputs: Array) -> Array:
        values: Array = self.model.predict(inputs)[:, None]
        return values


def fit_boosting(request: EstimatorRequest) -> Predict:
    """scikit-learn's histogram-based trees with its defaults, without early stopping: no random number is drawn."""
    if request.task.labeled:
        return BoostedLabels(fit_labels(request, fit_boosted_label), is_one_class(request))
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(max_iter=ROUNDS, early_stopping=False, random_state=0)
    return BoostedNumber(model.fit(request.inputs, request.targets.reshape(-1)))


def fit_boosted_label(inputs: Array, present: Array, _: Array) -> AnswerLabel:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=ROUNDS, early_stopping=False, random_state=0)
    return partial(second_column, model.fit(inputs, present))


def second_column(model: Any, inputs: Array) -> Array:
    probabilities: Array = model.predict_proba(inputs)[:, 1]
    return probabilities


def arrays_of(predict: Any) -> Arrays:
    arrays: Arrays = predict.arrays
    return arrays


ESTIMATORS = (
    EstimatorSpec(
        name="nearest-centroid",
        title="the class with the nearest mean",
        fit=fit_centroids,
        tasks=LABELED_TASKS,
        state=arrays_of,
        restore=NearestCentroid,
        version=1,
    ),
    EstimatorSpec(
        name="svm",
        title="support vector machine, RBF kernel, C = 1",
        fit=fit_machines,
        state=arrays_of,
        restore=VectorMachines,
        version=1,
        citation="Platt, Probabilistic outputs for support vector machines, 1999",
    ),
    EstimatorSpec(
        name="gradient-boosting",
        title="100 rounds of gradient-boosted trees",
        fit=fit_boosting,
        version=1,
        citation="Friedman, Greedy function approximation: a gradient boosting machine, Annals of Statistics 2001",
    ),
)
