"""Scores of predictions: thresholds from val, means over folds and seeds, intervals, and undefined metrics."""

import json
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
from factories import make_predictions
from newcombe import newcombe_reference
from pytest import approx
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score, roc_curve

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION, Decisions
from zoo.errors import RunError, Undefined
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score, val_score
from zoo.evaluation.thresholds import choose_thresholds, decide
from zoo.report.reasons import reason_text
from zoo.specs.metric import MetricSpec, ScoringContext
from zoo.statistics.intervals import add_seed_variance, wilson_interval
from zoo.statistics.roc import delong_covariance, logit_interval
from zoo.tasks.logits import softmax

METRIC = {metric.name: metric for metric in METRICS}
BINARY_CARD = ScoringContext(task=BINARY, labels=("benign", "malignant"), positive=1)


def predictions(targets, probabilities, patients=None, prefix="") -> Predictions:
    return make_predictions(targets, probabilities, patients=patients, prefix=prefix)


def binary_run(seed: int, num: int = 120, prefix: str = "", shift: float = 1.0, targets=None) -> dict[str, Predictions]:
    random = np.random.default_rng(seed)
    splits = {}
    for split in ("val", "test"):
        truth = random.integers(2, size=num) if targets is None else targets
        chance = 1 / (1 + np.exp(-(random.normal(size=num) + shift * (truth - 0.5) * 2)))
        splits[split] = predictions(truth, chance, prefix=f"{prefix}{split}")
    return splits


def score_one(name: str, run: dict[str, Predictions], card: ScoringContext = BINARY_CARD, **options):
    return score([[run]], {name: METRIC[name]}, card, **{"threshold": "val", **options})[name]


# --- thresholds ------------------------------------------------------------------------------------------------------
def test_threshold_maximizes_youdens_j_on_val():
    for seed in range(5):
        val = binary_run(seed)["val"]
        (threshold,) = choose_thresholds(val, BINARY_CARD, "val")
        false_alarms, hits, _ = roc_curve(val.targets, val.probabilities[:, 1], drop_intermediate=False)
        decided = val.probabilities[:, 1] >= threshold
        assert 2 * balanced_accuracy_score(val.targets, decided) - 1 == approx((hits - false_alarms).max())


def test_threshold_lies_midway_between_neighboring_scores():
    val = predictions([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    assert choose_thresholds(val, BINARY_CARD, "val") == approx([0.4])


def test_equal_youden_prefers_the_fewest_errors_then_the_nearest_to_half():
    # J = 1/2 at .15 (two false alarms) and at .55 (one miss of two): fewer errors win
    val = predictions([0, 1, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.05, 0.7])
    assert choose_thresholds(val, BINARY_CARD, "val") == approx([0.55])
    # J = 1/2 and one error both at .2 and at .45
    val = predictions([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.5])
    assert choose_thresholds(val, BINARY_CARD, "val") == approx([0.45])


@pytest.mark.parametrize(
    "val",
    [
        predictions([1, 1, 1], [0.1, 0.2, 0.3]),
        predictions([0, 1, 0], [0.3, 0.3, 0.3]),
        predictions([0, 1], [0.9, 0.1]),
        None,
    ],
    ids=["one class", "constant", "worse than chance", "no val"],
)
def test_threshold_falls_back_to_half(val):
    assert choose_thresholds(val, BINARY_CARD, "val") == approx([0.5])


def test_thresholds_of_the_rule_half_and_of_tasks_without_thresholds():
    val = binary_run(0)["val"]
    assert choose_thresholds(val, BINARY_CARD, "half") == approx([0.5])
    assert choose_thresholds(val, ScoringContext(task=MULTICLASS, labels=("a", "b", "c")), "val") is None
    assert choose_thresholds(val, ScoringContext(task=REGRESSION, labels=("y",)), "val") is None


def test_labels_have_their_own_thresholds_and_unknown_targets_are_ignored():
    targets = np.array([[0, 0], [0, np.nan], [1, 0], [1, 1.0]])
    val = predictions(targets, [[0.1, 0.1], [0.2, 0.95], [0.6, 0.2], [0.9, 0.8]])
    card = ScoringContext(task=MULTILABEL, labels=("a", "b"))
    assert choose_thresholds(val, card, "val") == approx([0.4, 0.5])


def test_decisions_on_test_use_the_threshold_of_val():
    val = predictions([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    test = predictions([0, 1] * 20, [0.22, 0.28] * 20)
    assert score_one("accuracy", {"val": val, "test": test}).value == 1.0
    assert score_one("accuracy", {"val": val, "test": test}, threshold="half").value == 0.5


def test_positive_class_may_be_the_first_label():
    run = binary_run(0)
    flipped = {
        split: replace(part, targets=1 - part.targets, probabilities=part.probabilities[:, ::-1])
        for split, part in run.items()
    }
    card = replace(BINARY_CARD, positive=0)
    metrics = {name: METRIC[name] for name in BINARY.metrics}
    assert score([[flipped]], metrics, card, threshold="val") == score([[run]], metrics, BINARY_CARD, threshold="val")


# --- values ----------------------------------------------------------------------------------------------------------
def test_value_is_the_mean_over_seeds_of_the_mean_over_folds():
    targets = [np.random.default_rng(fold).integers(2, size=80) for fold in range(2)]
    runs = [
        [binary_run(10 * seed + fold, num=80, prefix=f"f{fold}", targets=targets[fold]) for fold in range(2)]
        for seed in range(3)
    ]
    scored = score(runs, {"auroc": METRIC["auroc"]}, BINARY_CARD, threshold="val")["auroc"]
    each = [roc_auc_score(run["test"].targets, run["test"].probabilities[:, 1]) for folds in runs for run in folds]
    assert scored.value == approx(np.mean(each))
    assert scored.low < scored.value < scored.high
    assert scored.method.text == "logit-DeLong (patients + seeds)"


def test_patient_unit_scores_the_mean_probability_of_each_patient():
    random = np.random.default_rng(0)
    truth = np.repeat(random.integers(2, size=60), 4)
    patients = np.repeat([f"p{i}" for i in range(60)], 4)
    chance = np.clip(random.normal(0.5 + 0.1 * (truth - 0.5), 0.2), 0, 1)
    run = {split: predictions(truth, chance, patients) for split in ("val", "test")}
    card = replace(BINARY_CARD, unit="patient", has_patients=True)
    expected = roc_auc_score(truth[::4], chance.reshape(60, 4).mean(axis=1))
    assert score_one("auroc", run, card).value == approx(expected)
    assert score_one("auroc", run, card, unit="image").value == approx(roc_auc_score(truth, chance))
    assert score_one("auroc", run, card).method.text == "logit-DeLong"
    assert score_one("auroc", run, card, unit="image").method.code == "clustered-newcombe"


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL, MULTILABEL, REGRESSION])
def test_every_metric_of_every_task_has_a_value_and_an_interval(task):
    random = np.random.default_rng(0)
    labels = ("y",) if task == REGRESSION else ("a", "b", "c")
    run = {}
    for split in ("val", "test"):
        if task == REGRESSION:
            targets = random.normal(size=300)
            probabilities = (targets + random.normal(size=300))[:, None]
        elif task == MULTILABEL:
            targets = random.integers(2, size=(300, 3)).astype(float)
            probabilities = (targets + 2 * random.random((300, 3))) / 3
            targets[random.random((300, 3)) < 0.1] = np.nan
        else:
            targets = random.integers(3, size=300)
            probabilities = softmax(random.normal(size=(300, 3)) + np.eye(3)[targets])
        run[split] = predictions(targets, probabilities)
    metrics = {name: METRIC[name] for name in task.metrics}
    scores = score([[run]], metrics, ScoringContext(task=task, labels=labels), threshold="val")
    assert list(scores) == list(task.metrics)
    for name, scored in scores.items():
        assert scored.reason is None
        assert scored.low < scored.value <= scored.high
        assert scored.value < scored.high or name == "ece"
    assert json.loads(json.dumps({name: asdict(scored) for name, scored in scores.items()}))


def test_an_undefined_metric_is_none_with_a_reason_and_affects_no_other():
    run = binary_run(0)
    test = run["test"]
    one_class = {**run, "test": replace(test, targets=np.zeros_like(test.targets))}
    scores = score([[one_class]], {m: METRIC[m] for m in ("auroc", "accuracy")}, BINARY_CARD, threshold="val")
    assert scores["auroc"].value is None and scores["auroc"].low is None
    assert reason_text(scores["auroc"].reason) == "one class only in the targets"
    assert scores["accuracy"].value is not None


def test_undefined_in_one_fold_is_undefined():
    run = binary_run(0)
    empty = {**run, "test": replace(run["test"], targets=np.zeros(120, dtype=int))}
    scored = score([[run, empty]], {"auroc": METRIC["auroc"]}, BINARY_CARD, threshold="val")["auroc"]
    assert scored.value is None and reason_text(scored.reason) == "one class only in the targets"


def test_an_absent_label_is_noted():
    random = np.random.default_rng(0)
    targets = random.integers(2, size=(200, 3)).astype(float)
    probabilities = (targets + random.random((200, 3))) / 2
    targets[:, 1] = 0
    run = {split: predictions(targets, probabilities) for split in ("val", "test")}
    scored = score_one("auroc", run, ScoringContext(task=MULTILABEL, labels=("a", "b", "c")))
    assert scored.note == "macro over 2 of 3 labels" and scored.value is not None


def test_a_metric_of_another_task_gives_a_reason():
    scored = score_one("rmse", binary_run(0))
    assert scored.value is None and reason_text(scored.reason) == "not a metric of binary tasks"


def test_val_score_is_higher_for_better_predictions():
    val = binary_run(0)["val"]
    assert val_score(val, METRIC["auroc"], BINARY_CARD) == approx(roc_auc_score(val.targets, val.probabilities[:, 1]))
    number = predictions(np.arange(5.0), np.arange(5.0)[:, None] + 2)
    assert val_score(number, METRIC["mae"], ScoringContext(task=REGRESSION, labels=("y",))) == approx(-2)
    assert np.isnan(val_score(replace(val, targets=np.zeros(120, dtype=int)), METRIC["auroc"], BINARY_CARD))
    with pytest.raises(RunError, match="metric 'bad' failed on val: ZeroDivisionError"):
        val_score(val, MetricSpec(name="bad", compute=divide_by_zero), BINARY_CARD)


# --- intervals -------------------------------------------------------------------------------------------------------
def test_a_proportion_of_independent_images_has_wilsons_interval():
    run = binary_run(0)
    scored = score_one("accuracy", run, threshold="half")
    right = int(accuracy_score(run["test"].targets, run["test"].probabilities[:, 1] >= 0.5, normalize=False))
    expected = binomtest(right, 120).proportion_ci(method="wilson")
    assert (scored.low, scored.high) == approx((expected.low, expected.high))
    assert scored.method.text == "wilson"


def test_several_images_per_patient_or_several_folds_are_bootstrapped():
    run = binary_run(0)
    card = replace(BINARY_CARD, has_patients=True)
    shared = {**run, "test": replace(run["test"], patients=np.repeat(np.arange(60).astype(str), 2))}
    assert score_one("accuracy", shared, card).method.text == "patient-cluster bootstrap, B=2000"
    scored = score([[run, binary_run(1)]], {"accuracy": METRIC["accuracy"]}, card, threshold="val")["accuracy"]
    assert scored.method.text == "patient-cluster bootstrap, B=2000"


def test_a_proportion_over_seeds_has_wilsons_interval_plus_their_variance():
    runs = [binary_run(0)]
    runs += [{**runs[0], "test": replace(runs[0]["test"], probabilities=binary_run(1)["test"].probabilities)}]
    shares = [score_one("accuracy", run).value for run in runs]
    scored = score([[run] for run in runs], {"accuracy": METRIC["accuracy"]}, BINARY_CARD, threshold="val")["accuracy"]
    low, high = wilson_interval(120 * np.mean(shares), 120)
    widened = add_seed_variance((low, high), np.mean(shares), np.array(shares), 120)
    assert (scored.low, scored.high) == approx(np.clip(widened, 0, 1))
    assert scored.method.text == "wilson (patients + seeds)"


def test_bootstrap_of_the_accuracy_is_close_to_the_normal_interval():
    run = binary_run(0, num=400)
    folds = [[run, run]]  # resampled separately, like other patients
    scored = score(folds, {"accuracy": METRIC["accuracy"]}, BINARY_CARD, threshold="val")["accuracy"]
    half = 1.96 * np.sqrt(scored.value * (1 - scored.value) / 800)
    assert (scored.low, scored.high) == approx((scored.value - half, scored.value + half), abs=0.006)


@pytest.mark.parametrize("num", [120, 900])  # resamples in one chunk and in several
def test_a_metric_that_writes_into_the_weights_has_its_interval_and_changes_no_other(num):
    def scribble(request, weights):
        weights /= weights.sum(axis=1, keepdims=True)
        return weights @ (request.decisions == request.targets)

    scribbles = replace(METRIC["accuracy"], name="first", resample=scribble, counts=None, per_unit=None)
    metrics = {"first": scribbles, "accuracy": replace(METRIC["accuracy"], counts=None)}
    first, second = score([[binary_run(0, num=num)]], metrics, BINARY_CARD, threshold="val").values()
    assert (first.low, first.high) == approx((second.low, second.high)) and second.low is not None


def test_an_area_of_independent_images_has_delongs_interval():
    run = binary_run(0)
    positives, chance = run["test"].targets == 1, run["test"].probabilities[:, 1]
    (area,), covariance = delong_covariance(positives, chance[None])
    scored = score_one("auroc", run)
    assert (scored.low, scored.high) == approx(logit_interval(area, covariance.item()))
    assert scored.method.text == "logit-DeLong"


def test_several_seeds_average_their_placements_and_add_their_variance():
    run = binary_run(0)
    chance = run["test"].probabilities[:, 1]
    noise = np.random.default_rng(5).normal(0, 0.3, (3, 120))
    runs = [
        [{**run, "test": predictions(run["test"].targets, np.clip(chance + row, 0, 1), prefix="test")}] for row in noise
    ]
    areas, covariance = delong_covariance(run["test"].targets == 1, np.clip(chance + noise, 0, 1))
    scored = score(runs, {"auroc": METRIC["auroc"]}, BINARY_CARD, threshold="val")["auroc"]
    alone = logit_interval(areas.mean(), covariance.mean())
    assert (scored.low, scored.high) == approx(add_seed_variance(alone, areas.mean(), areas, 120))
    assert scored.low < alone[0] and scored.high > alone[1]


def test_independent_folds_average_their_variances():
    folds = [binary_run(fold, prefix=f"f{fold}") for fold in range(3)]
    actual = [delong_covariance(run["test"].targets == 1, run["test"].probabilities[:, 1][None]) for run in folds]
    scored = score([folds], {"auroc": METRIC["auroc"]}, BINARY_CARD, threshold="val")["auroc"]
    value, variance = np.mean([a.item() for a, _ in actual]), np.sum([v.item() for _, v in actual]) / 9
    assert (scored.low, scored.high) == approx(logit_interval(value, variance))


def test_an_area_averaged_over_classes_is_bootstrapped():
    random = np.random.default_rng(0)
    targets = random.integers(3, size=90)
    run = {
        split: predictions(targets, softmax(random.normal(size=(90, 3)) + np.eye(3)[targets]))
        for split in ("val", "test")
    }
    scored = score_one("auroc", run, ScoringContext(task=MULTICLASS, labels=("a", "b", "c")))
    assert scored.method.text == "image bootstrap, B=2000"


def test_a_constant_predictor_has_no_interval_of_width_0():
    targets = np.array([0, 1] * 30)
    run = {split: predictions(targets, np.full(60, 0.3)) for split in ("val", "test")}
    scored = score_one("auroc", run)
    assert (scored.value, scored.low) == (0.5, None)
    assert reason_text(scored.reason) == "no interval: every resample gives the same value"


def test_an_interval_widened_by_seeds_stays_within_the_metrics_bounds():
    runs = []
    for seed in range(3):  # nearly all correct, with one slightly worse seed
        targets = np.arange(60) % 2
        chance = np.where(np.arange(60) < (8 if seed == 2 else 1), 1 - targets, targets) * 0.8 + 0.1
        runs.append([{split: predictions(targets, chance) for split in ("val", "test")}])
    for name in ("accuracy", "auroc"):
        scored = score(runs, {name: METRIC[name]}, BINARY_CARD, threshold="half")[name]
        assert scored.high == 1.0 and scored.low < scored.value < 1.0


def test_correlated_images_widen_the_interval():
    random = np.random.default_rng(0)
    truth = np.repeat(random.integers(2, size=60), 6)
    patients = np.repeat(np.arange(60).astype(str), 6)
    latent = np.repeat(random.normal(size=60), 6) + random.normal(size=360) + 1.2 * truth  # intraclass correlation .5
    chance = 1 / (1 + np.exp(-latent))
    run = {split: predictions(truth, chance, patients) for split in ("val", "test")}
    alone = {split: predictions(truth, chance) for split in ("val", "test")}
    by_patient = score_one("auroc", run, replace(BINARY_CARD, has_patients=True))
    by_image = score_one("auroc", alone)
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 1.5 * (by_image.high - by_image.low)


def test_the_same_call_gives_the_same_interval():
    run = binary_run(0)
    assert score_one("auroc", run) == score_one("auroc", run)


def test_fewer_than_10_positives_have_no_interval():
    targets = np.array([1] * 6 + [0] * 54)
    run = {split: predictions(targets, np.linspace(0.9, 0.1, 60)) for split in ("val", "test")}
    for name in ("auroc", "accuracy"):
        scored = score_one(name, run)
        assert scored.value is not None and scored.low is None and scored.high is None
        assert reason_text(scored.reason) == "too few: 6 positives, 10 are needed"


def test_too_few_counts_patients_over_all_folds():
    random = np.random.default_rng(0)

    def fold(first: int) -> dict[str, Predictions]:
        patients = np.repeat([f"p{first + i}" for i in range(14)], 5)
        truth = np.repeat([1] * 4 + [0] * 10, 5)
        return {split: predictions(truth, random.random(70), patients) for split in ("val", "test")}

    card = replace(BINARY_CARD, has_patients=True)
    folds = [fold(0), fold(100), fold(200)]
    scored = score([folds[:2]], {"auroc": METRIC["auroc"]}, card, threshold="val")["auroc"]
    assert reason_text(scored.reason) == "too few: 8 positives (patients), 10 are needed"
    scored = score([folds], {"auroc": METRIC["auroc"]}, card, threshold="val")["auroc"]
    assert scored.reason is None


def test_too_few_of_one_label_names_it():
    targets = np.array([0] * 30 + [1] * 30 + [2] * 5)
    probabilities = softmax(np.random.default_rng(0).normal(size=(65, 3)) + np.eye(3)[targets])
    run = {split: predictions(targets, probabilities) for split in ("val", "test")}
    scored = score_one("auroc", run, ScoringContext(task=MULTICLASS, labels=("a", "b", "rare")))
    assert scored.value is not None and reason_text(scored.reason) == "too few: 5 positives of 'rare', 10 are needed"


def test_a_perfect_auroc_has_an_interval_below_1():
    targets = np.array([0, 1] * 30)
    run = {split: predictions(targets, targets * 0.8 + 0.1) for split in ("val", "test")}
    scored = score_one("auroc", run)
    assert (scored.value, scored.high, scored.method.text) == (1.0, 1.0, "Newcombe's method 5")
    assert scored.low == approx(newcombe_reference(1.0, 30, 30)[0]) and 0.9 < scored.low < 1.0
    assert 0.9 < score_one("accuracy", run).low < 1.0


def test_intervals_can_be_left_out():
    scored = score_one("auroc", binary_run(0), intervals=False)
    assert scored.value is not None and scored.low is None and scored.reason is None


def test_seeds_tested_on_other_patients_are_refused():
    with pytest.raises(ValueError, match="same patients"):
        score([[binary_run(0)], [binary_run(1, prefix="x")]], METRIC, BINARY_CARD, threshold="val")


# --- metrics of plugins ----------------------------------------------------------------------------------------------
def divide_by_zero(request):
    return 1 / 0


def scribble(request):
    request.probabilities[:] = 0.0
    return 0.5


def interrupt(request):
    raise KeyboardInterrupt


def replace_the_mean(request):
    np.mean = lambda *_, **__: 0.123
    return 0.5


def share_of_positives(request):
    if not request.targets.any():
        raise Undefined("no positives")
    return float(request.targets.mean())


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (divide_by_zero, "ZeroDivisionError: division by zero"),
        (lambda request: float("nan"), "ValueError: expected a finite number, got nan"),
        (lambda request: np.ones(3), "TypeError: expected one number, got ndarray"),
        (lambda request: "0.9", "TypeError: expected one number, got str"),
        (lambda request: None, "TypeError: expected one number, got NoneType"),
        (lambda request: 1.7, "ValueError: 1.7 is outside the metric's bounds 0.0 to 1.0"),
        (lambda request: exit(3), "SystemExit: 3"),
        (scribble, "ValueError: assignment destination is read-only"),
        (interrupt, "KeyboardInterrupt"),
    ],
)
def test_a_failing_metric_affects_only_its_own_score(compute, reason):
    run = binary_run(0)
    metrics = {"bad": MetricSpec(name="bad", compute=compute, version=4), "auroc": METRIC["auroc"]}
    scores = score([[run]], metrics, BINARY_CARD, threshold="val")
    assert scores["bad"].value is None and reason_text(scores["bad"].reason).startswith(reason)
    assert scores["bad"].version == 4
    assert scores["auroc"] == score_one("auroc", run)


def test_a_metric_that_replaces_functions_of_numpy_changes_no_other_score():
    run = binary_run(0)
    metrics = {"bad": MetricSpec(name="bad", compute=replace_the_mean), "auroc": METRIC["auroc"]}
    mean = np.mean
    scores = score([[run]], metrics, BINARY_CARD, threshold="val")
    assert np.mean is mean
    assert scores["auroc"] == score_one("auroc", run)


def test_a_metric_without_resample_is_computed_once_per_resample():
    run = binary_run(0)
    prevalence = MetricSpec(name="prevalence", compute=share_of_positives)
    scored = score([[run]], {"prevalence": prevalence}, BINARY_CARD, threshold="val")["prevalence"]
    share = run["test"].targets.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 120)
    assert (scored.low, scored.high) == approx((share - half, share + half), abs=0.015)


@pytest.mark.parametrize(
    ("resample", "reason"),
    [
        (lambda request, weights: np.full(len(weights), 0.1), "resample gives 0.1 for the test split itself"),
        (lambda request, weights: divide_by_zero(request), "ZeroDivisionError"),
    ],
)
def test_a_broken_resample_removes_the_interval_not_the_value(resample, reason):
    metric = MetricSpec(name="prevalence", compute=share_of_positives, resample=resample)
    scored = score([[binary_run(0)]], {"prevalence": metric}, BINARY_CARD, threshold="val")["prevalence"]
    assert scored.value is not None and scored.low is None
    assert reason_text(scored.reason).startswith("no interval: ") and reason in reason_text(scored.reason)


class LeastProbable(Decisions):
    def decide(self, ranked, cuts, positive):
        return ranked.argmin(axis=1)


def test_a_task_decides_by_itself():
    run = {"test": make_predictions([0, 1, 2], [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])}
    card = ScoringContext(task=replace(MULTICLASS, decisions=LeastProbable()), labels=("a", "b", "c"))
    assert decide(run, card, "val").request.decisions.tolist() == [2, 0, 1]
