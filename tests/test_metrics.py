"""All built-in metrics of all tasks compared with scikit-learn: the value, and the weighted value of `resample`."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from pytest import approx
from scipy.stats import spearmanr
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from zoo import BINARY
from zoo.errors import Undefined
from zoo.evaluation.evidence import unit_influence
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.thresholds import DecidedTest
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.statistics.intervals import bootstrap_weights
from zoo.tasks.kinds import CORE_TASKS, IMAGE_TASKS, TASKS
from zoo.tasks.logits import softmax

METRIC = {metric.name: metric for metric in METRICS}
TASK_METRICS = [(task, name) for task, spec in TASKS.items() if task in IMAGE_TASKS for name in spec.metrics]
TASK_METRICS += [(task, name) for name in ("log_loss", "ppv", "npv") for task in METRIC[name].tasks]


def make_request(task: str, *, seed: int = 0, num: int = 150, num_labels: int = 4) -> MetricRequest:
    """Predictions that are better than chance, with ties among the probabilities."""
    random = np.random.default_rng(seed)
    spec = TASKS[task]
    if task == "regression":
        targets = random.normal(size=num)
        predicted = np.round(targets + random.normal(size=num), 1)[:, None]
        return MetricRequest(task=spec, labels=("y",), targets=targets, probabilities=predicted, decisions=None)
    num_labels = 2 if task == "binary" else num_labels
    labels = tuple("abcdefgh"[:num_labels])
    if task == "multilabel":
        targets = (random.random((num, num_labels)) < 0.3).astype(float)
        probabilities = np.round((targets + random.random((num, num_labels)) * 2) / 3, 2)
        decisions = probabilities >= 0.45
    else:
        targets = random.integers(num_labels, size=num)
        probabilities = softmax(np.round(random.normal(size=(num, num_labels)) + np.eye(num_labels)[targets], 1))
        decisions = probabilities.argmax(axis=1)
    positive = 1 if task == "binary" else None
    return MetricRequest(
        task=spec, labels=labels, targets=targets, probabilities=probabilities, decisions=decisions, positive=positive
    )


def sklearn_value(name: str, request: MetricRequest, weight: np.ndarray | None = None) -> float:
    """The reference: scikit-learn on the whole arrays, with `sample_weight`."""
    t, p, d, task = request.targets, request.probabilities, request.decisions, request.task.name
    w = np.ones(len(t)) if weight is None else weight
    single = task != "multilabel"
    score = p[:, 1] if task == "binary" else p
    one_hot = np.eye(p.shape[1])[t] if single and task != "regression" else t

    def each_label(function):
        return np.mean([function(t[:, i], d[:, i], sample_weight=w) for i in range(t.shape[1])])

    number = p[:, 0] if d is None else d
    references = {
        "auroc": lambda: sk.roc_auc_score(t, score, multi_class="ovr", average="macro", sample_weight=w),
        "average_precision": lambda: sk.average_precision_score(
            t if task == "binary" else one_hot, score, average="macro", sample_weight=w
        ),
        "accuracy": lambda: sk.accuracy_score(t, d, sample_weight=w) if single else each_label(sk.accuracy_score),
        "balanced_accuracy": lambda: (
            sk.balanced_accuracy_score(t, d, sample_weight=w) if single else each_label(sk.balanced_accuracy_score)
        ),
        "f1_macro": lambda: sk.f1_score(t, d, average="macro", sample_weight=w),
        "recall_macro": lambda: sk.recall_score(t, d, average="macro", sample_weight=w),
        "sensitivity": lambda: sk.recall_score(t, d, sample_weight=w),
        "specificity": lambda: (
            sk.recall_score(t, d, pos_label=0, sample_weight=w)
            if single
            else sk.recall_score(1 - t, ~d, average="macro", sample_weight=w)
        ),
        "ppv": lambda: sk.precision_score(t, d, average="binary" if single else "macro", sample_weight=w),
        "npv": lambda: (
            sk.precision_score(t, d, pos_label=0, sample_weight=w)
            if single
            else sk.precision_score(1 - t, ~d, average="macro", sample_weight=w)
        ),
        "log_loss": lambda: (
            sk.log_loss(t, p, sample_weight=w)
            if single
            else np.mean([sk.log_loss(t[:, i], p[:, i], sample_weight=w) for i in range(t.shape[1])])
        ),
        "mcc": lambda: sk.matthews_corrcoef(t, d, sample_weight=w) if single else each_label(sk.matthews_corrcoef),
        "brier": lambda: (
            sk.brier_score_loss(t, score, sample_weight=w)
            if task == "binary"
            else np.average((p - one_hot) ** 2 @ np.ones(p.shape[1]) / (1 if single else p.shape[1]), weights=w)
        ),
        "ece": lambda: reference_ece(request, w),
        "cohen_kappa": lambda: sk.cohen_kappa_score(t, d, weights="quadratic", sample_weight=w),
        "mae": lambda: sk.mean_absolute_error(t, number, sample_weight=w),
        "rmse": lambda: sk.root_mean_squared_error(t, number, sample_weight=w),
        "r2": lambda: sk.r2_score(t, number, sample_weight=w),
        "spearman": lambda: spearmanr(np.repeat(t, w.astype(int)), np.repeat(number, w.astype(int))).statistic,
    }
    return float(references[name]())


def reference_ece(request: MetricRequest, weight: np.ndarray) -> float:
    """ECE bin by bin, by its definition."""
    t, p, task = request.targets, request.probabilities, request.task.name
    if task == "multilabel":
        return float(np.mean([bin_by_bin(p[:, i], t[:, i], weight) for i in range(p.shape[1])]))
    if task == "binary":
        return bin_by_bin(p[:, 1], t, weight)
    return bin_by_bin(p.max(axis=1), p.argmax(axis=1) == t, weight)


def bin_by_bin(confidence, outcome, weight) -> float:
    edges = np.percentile(confidence, np.linspace(0, 100, 16))
    error = 0.0
    for low, high in zip([-np.inf, *edges[1:-1]], [*edges[1:-1], np.inf], strict=True):
        inside = (confidence > low) & (confidence <= high) & (weight > 0)
        if inside.any():
            gap = np.average(confidence[inside], weights=weight[inside]) - np.average(
                outcome[inside], weights=weight[inside]
            )
            error += weight[inside].sum() / weight.sum() * abs(gap)
    return error


# --- all tasks, all metrics ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("task", "name"), TASK_METRICS)
def test_the_value_equals_scikit_learns(task, name):
    for seed in range(3):
        request = make_request(task, seed=seed)
        assert METRIC[name].compute(request) == approx(sklearn_value(name, request), abs=1e-12)
        assert METRIC[name].note(request) == ""


@pytest.mark.parametrize(("task", "name"), TASK_METRICS)
def test_the_weighted_value_equals_scikit_learns_with_sample_weight(task, name):
    request = make_request(task)
    weights = np.random.default_rng(1).multinomial(150, np.full(150, 1 / 150), size=8)
    expected = [sklearn_value(name, request, row) for row in weights]
    assert METRIC[name].resample(request, weights.astype(float)) == approx(expected, abs=1e-10)
    # the memory layout used by scoring
    assert METRIC[name].resample(request, np.asfortranarray(weights, dtype=float)) == approx(expected, abs=1e-10)


@pytest.mark.parametrize(("task", "name"), TASK_METRICS)
def test_unit_weights_give_the_value_with_unknown_targets_and_absent_classes(task, name):
    request = make_request(task)
    if task == "multilabel":
        unknown = np.random.default_rng(2).random(request.targets.shape) < 0.2
        targets = np.where(unknown, np.nan, request.targets)
        targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 0.0)
        request = replace(request, targets=targets)
    elif task in {"multiclass", "ordinal"}:
        request = replace(request, targets=np.where(request.targets == 2, 1, request.targets))
    weights = np.ones((2, len(request.targets)))
    assert METRIC[name].resample(request, weights) == approx(METRIC[name].compute(request), abs=1e-12)


def test_the_metrics_of_each_task_support_it():
    for task, name in TASK_METRICS:
        assert task in METRIC[name].tasks
    for task in CORE_TASKS:
        assert task.primary_metric in task.metrics


def test_specs_can_be_pickled():
    request = make_request("binary")
    for metric in METRICS:
        if "binary" in metric.tasks:
            assert pickle.loads(pickle.dumps(metric)).compute(request) == metric.compute(request)


def test_counts_give_the_value():
    request = make_request("binary")
    for name in ("accuracy", "sensitivity", "specificity"):
        successes, trials = METRIC[name].counts(request)
        assert successes / trials == approx(METRIC[name].compute(request))
    with pytest.raises(Undefined, match="mean over labels"):
        METRIC["accuracy"].counts(make_request("multilabel"))


# --- definitions -----------------------------------------------------------------------------------------------------
def test_positive_class_may_be_the_first():
    request = make_request("binary")
    swapped = replace(
        request,
        targets=1 - request.targets,
        probabilities=request.probabilities[:, ::-1],
        decisions=1 - request.decisions,
        positive=0,
    )
    for name in BINARY.metrics:
        assert METRIC[name].compute(swapped) == approx(METRIC[name].compute(request))
    weights = np.random.default_rng(0).integers(0, 3, size=(5, 150)).astype(float)
    for name in BINARY.metrics:
        assert METRIC[name].resample(swapped, weights) == approx(METRIC[name].resample(request, weights))


def test_brier_of_several_classes_equals_scikit_learns():
    request = make_request("multiclass")
    assert METRIC["brier"].compute(request) == approx(
        sk.brier_score_loss(request.targets, request.probabilities, labels=range(4))
    )


def test_ece_equals_scikit_learns_calibration_curve_for_bins_of_equal_size():
    random = np.random.default_rng(0)
    positive = random.random(150)
    targets = (random.random(150) < positive**2).astype(int)
    probabilities = np.column_stack([1 - positive, positive])
    request = replace(make_request("binary"), targets=targets, probabilities=probabilities)
    share, confidence = calibration_curve(targets, positive, n_bins=15, strategy="quantile")
    assert METRIC["ece"].compute(request) == approx(np.abs(share - confidence).mean())


def test_sensitivity_of_several_labels_is_their_mean_recall():
    request = make_request("multilabel")
    expected = sk.recall_score(request.targets, request.decisions, average="macro")
    assert METRIC["sensitivity"].compute(request) == approx(expected)


def test_ordinal_mae_counts_grades():
    request = replace(make_request("ordinal", num=3), targets=np.array([0, 1, 3]), decisions=np.array([0, 3, 2]))
    assert METRIC["mae"].compute(request) == approx(1.0)


# --- metrics of one function -----------------------------------------------------------------------------------------
GRID = np.array([[1.0, np.nan, np.nan], [0.0, 0.5, np.nan], [np.nan, 1.0, np.nan], [0.5, np.nan, np.nan]])


def from_grid(request: MetricRequest) -> np.ndarray:
    return GRID[request.targets]


def first_label(request: MetricRequest) -> np.ndarray:
    return from_grid(request)[:, 0]


def four_units() -> MetricRequest:
    return replace(make_request("multiclass", num=4), targets=np.arange(4))


def test_per_unit_values_are_averaged_by_label_and_then_over_the_defined_labels():
    spec = MetricSpec(name="grid", per_unit=from_grid)
    assert spec.compute(four_units()) == (0.5 + 0.75) / 2
    assert spec.note(four_units()) == "macro over 2 of 3 labels"
    assert MetricSpec(name="one", per_unit=first_label).compute(four_units()) == 0.5


def test_resamples_of_per_unit_values_leave_out_labels_that_no_drawn_unit_defines():
    spec = MetricSpec(name="grid", per_unit=from_grid)
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 0, 1], [0, 0, 3, 0], [0, 0, 0, 0]])
    assert spec.resample(four_units(), weights) == approx([0.625, 2.5 / 3, 1.0, np.nan], nan_ok=True)


def test_influence_of_per_unit_values_is_the_derivative_of_their_resample():
    spec = MetricSpec(name="grid", per_unit=from_grid)
    part = DecidedTest(four_units(), np.arange(4))
    through_weights = unit_influence(replace(spec, per_unit=None, influence=None), part)
    assert unit_influence(spec, part) == approx(through_weights, abs=1e-5)


def test_per_unit_values_that_are_all_undefined_are_an_undefined_metric():
    spec = MetricSpec(name="grid", per_unit=from_grid)
    request = replace(make_request("multiclass", num=4), targets=np.array([0, 1, 2, 3]))
    with pytest.raises(Undefined, match="undefined for every unit"):
        MetricSpec(name="last", per_unit=last_label).compute(request)
    assert np.isnan(spec.resample(request, np.zeros((1, 4)))).all()


def last_label(request: MetricRequest) -> np.ndarray:
    return from_grid(request)[:, 2]


def test_replacing_per_unit_replaces_all_that_follows_from_it():
    spec = replace(MetricSpec(name="grid", per_unit=from_grid), name="one", per_unit=first_label)
    assert spec.compute(four_units()) == 0.5
    assert spec.resample(four_units(), np.ones((1, 4))) == approx([0.5])
    assert spec.note(four_units()) == ""


def test_a_metric_without_a_function_is_refused():
    with pytest.raises(TypeError, match="neither `per_unit` nor `compute`"):
        MetricSpec(name="none")


# --- undefined -------------------------------------------------------------------------------------------------------
def one_class(task: str, label: int) -> MetricRequest:
    request = make_request(task)
    targets = np.full_like(request.targets, label)
    return replace(request, targets=targets)


@pytest.mark.parametrize(
    ("name", "request_", "reason"),
    [
        ("auroc", one_class("binary", 1), "one class only"),
        ("auroc", one_class("binary", 0), "one class only"),
        ("auroc", one_class("multilabel", 0), "one class only"),
        ("average_precision", one_class("binary", 0), "no positives"),
        ("average_precision", one_class("multilabel", 0), "no positives"),
        ("sensitivity", one_class("binary", 0), "no positives"),
        ("specificity", one_class("binary", 1), "no negatives"),
        ("mcc", one_class("multiclass", 1), "one class only"),
        ("r2", one_class("regression", 1), "all equal"),
        ("spearman", one_class("regression", 1), "all equal"),
    ],
)
def test_an_undefined_metric_raises_undefined_with_a_reason(name, request_, reason):
    with pytest.raises(Undefined, match=reason):
        METRIC[name].compute(request_)
    assert np.isnan(METRIC[name].resample(request_, np.ones((3, 150)))).all()


def test_constant_decisions_have_no_mcc_and_perfect_single_class_no_kappa():
    request = make_request("ordinal")
    constant = replace(request, decisions=np.ones(150, dtype=int))
    with pytest.raises(Undefined):
        METRIC["mcc"].compute(constant)
    assert METRIC["cohen_kappa"].compute(constant) == 0.0
    with pytest.raises(Undefined):
        METRIC["cohen_kappa"].compute(replace(constant, targets=np.ones(150, dtype=int)))
    assert np.isnan(METRIC["mcc"].resample(constant, np.ones((2, 150)))).all()


@pytest.mark.parametrize("name", [name for task, name in TASK_METRICS if task == "multilabel"])
@pytest.mark.parametrize(
    "decided", [lambda d: d & False, lambda d: d | True, lambda d: d & (np.arange(d.shape[1]) == 0)]
)
def test_the_averaged_labels_do_not_depend_on_the_decisions(name, decided):
    request = make_request("multilabel")
    other = replace(request, decisions=decided(request.decisions))
    assert METRIC[name].note(other) == METRIC[name].note(request)
    value, weights = METRIC[name].compute(other), np.ones((2, len(request.targets)))
    assert METRIC[name].resample(other, weights) == approx(value)
    if METRIC[name].influence and name != "ece":
        assert np.isfinite(METRIC[name].influence(other)).all()


def test_a_model_that_predicts_one_label_of_ten_has_a_tenth_of_its_mcc():
    random = np.random.default_rng(3)
    targets = (random.random((400, 10)) < 0.2).astype(float)
    collapsed = np.zeros((400, 10))
    collapsed[:, 0] = 0.5 * targets[:, 0] + 0.5 * random.random(400)
    decisions = collapsed > 0.45
    request = replace(
        make_request("multilabel"),
        labels=tuple("abcdefghij"),
        targets=targets,
        probabilities=collapsed,
        decisions=decisions,
    )
    each = [sk.matthews_corrcoef(targets[:, i], decisions[:, i]) for i in range(10)]
    assert METRIC["mcc"].compute(request) == approx(np.mean(each))
    assert METRIC["ppv"].compute(request) == approx(
        sk.precision_score(targets, decisions, average="macro", zero_division=0)
    )


def test_no_images_is_undefined_for_every_metric():
    for task, name in TASK_METRICS:
        request = make_request(task)
        decisions = None if request.decisions is None else request.decisions[:0]
        empty = replace(
            request, targets=request.targets[:0], probabilities=request.probabilities[:0], decisions=decisions
        )
        with pytest.raises(Undefined, match="no images"):
            METRIC[name].compute(empty)


def test_an_absent_class_is_left_out_and_counted():
    request = make_request("multiclass")
    keep = request.targets != 2
    absent = replace(
        request,
        targets=request.targets[keep],
        probabilities=request.probabilities[keep],
        decisions=request.decisions[keep],
    )
    one_vs_rest = [sk.roc_auc_score(absent.targets == i, absent.probabilities[:, i]) for i in (0, 1, 3)]
    assert METRIC["auroc"].compute(absent) == approx(np.mean(one_vs_rest))
    recalls = sk.recall_score(absent.targets, absent.decisions, labels=[0, 1, 3], average="macro")
    assert METRIC["balanced_accuracy"].compute(absent) == approx(recalls)
    f1 = sk.f1_score(absent.targets, absent.decisions, labels=[0, 1, 3], average="macro")
    assert METRIC["f1_macro"].compute(absent) == approx(f1)
    for name in ("auroc", "average_precision", "balanced_accuracy", "f1_macro", "recall_macro"):
        assert METRIC[name].note(absent) == "macro over 3 of 4 labels"
    assert METRIC["accuracy"].note(absent) == ""


def test_unknown_targets_are_masked_label_by_label():
    request = make_request("multilabel")
    unknown = np.random.default_rng(5).random(request.targets.shape) < 0.3
    masked = replace(request, targets=np.where(unknown, np.nan, request.targets))
    references = {
        "auroc": lambda t, p, d: sk.roc_auc_score(t, p),
        "average_precision": lambda t, p, d: sk.average_precision_score(t, p),
        "accuracy": lambda t, p, d: sk.accuracy_score(t, d),
        "f1_macro": lambda t, p, d: sk.f1_score(t, d),
        "specificity": lambda t, p, d: sk.recall_score(t, d, pos_label=0),
        "mcc": lambda t, p, d: sk.matthews_corrcoef(t, d),
        "brier": lambda t, p, d: sk.brier_score_loss(t, p),
    }
    weights = np.random.default_rng(6).integers(0, 3, size=(4, 150)).astype(float)
    for name, reference in references.items():
        columns = [
            (request.targets[k, i], request.probabilities[k, i], request.decisions[k, i])
            for i, k in enumerate(~unknown.T)
        ]
        assert METRIC[name].compute(masked) == approx(np.mean([reference(*column) for column in columns]))
        repeated = [METRIC[name].compute(repeat(masked, row)) for row in weights]
        assert METRIC[name].resample(masked, weights) == approx(repeated)


def repeat(request: MetricRequest, weight: np.ndarray) -> MetricRequest:
    rows = np.repeat(np.arange(len(weight)), weight.astype(int))
    return replace(
        request,
        targets=request.targets[rows],
        probabilities=request.probabilities[rows],
        decisions=request.decisions[rows],
    )


# --- influence values ------------------------------------------------------------------------------------------------
SMOOTH = [(task, name) for task, name in TASK_METRICS if name != "ece"]


@pytest.mark.parametrize(("task", "name"), SMOOTH)
def test_the_variance_of_the_influence_values_equals_the_bootstraps(task, name):
    request = make_request(task, num=400)
    part = DecidedTest(request, np.arange(400))
    influence = unit_influence(METRIC[name], part)
    drawn = METRIC[name].resample(request, bootstrap_weights(np.arange(400), 1000).astype(float))
    assert influence.mean() == approx(0, abs=1e-6)
    assert influence.std() / 20 == approx(drawn.std(), rel=0.08)


@pytest.mark.parametrize(("task", "name"), SMOOTH)
def test_influence_values_are_the_derivative_of_the_weighted_metric(task, name):
    request = make_request(task, num=60)
    if task == "multilabel":
        request.targets[:20, 1] = np.nan  # unknown
    through_weights = unit_influence(
        replace(METRIC[name], per_unit=None, influence=None), DecidedTest(request, np.arange(60))
    )
    assert unit_influence(METRIC[name], DecidedTest(request, np.arange(60))) == approx(through_weights, abs=2e-4)


def test_ece_has_no_influence_values():
    with pytest.raises(Undefined, match="not a smooth function"):
        unit_influence(METRIC["ece"], DecidedTest(make_request("binary"), np.arange(150)))


@pytest.mark.parametrize("name", ["mae", "r2"])
def test_without_a_weighted_metric_influence_is_the_jackknife(name):
    request = make_request("regression", num=300)
    alone = replace(METRIC[name], per_unit=None, influence=None, resample=None)
    actual, expected = (unit_influence(m, DecidedTest(request, np.arange(300))) for m in (alone, METRIC[name]))
    assert np.corrcoef(actual, expected)[0, 1] > 0.999
    assert actual.std() == approx(expected.std(), rel=0.03)
