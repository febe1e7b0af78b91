"""Linear probes and nearest-neighbor votes on frozen features, compared with scikit-learn for each task."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import make_fold
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.evaluation.predict import predict
from zoo.models.baselines import BASELINES
from zoo.models.building import build_model, feature_extractor
from zoo.models.features import extract_features
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.specs.protocol import KNN, LINEAR_PROBE
from zoo.tasks.kinds import find_task
from zoo.training.probes import fit_knn, fit_probe, join_head

torch.set_num_threads(1)  # as in a run on a CPU; two threads wait for each other on a busy machine
PENALTY = 0.01
SIDE = 4


def build_pixels(request):
    """A model whose features are the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, request.num_outputs))


PIXELS = ModelSpec(name="pixels", build=build_pixels, classifier="1", channels=1)


def make_targets(task, images):
    """ReadTargets that depend in part on the brightness of some pixels."""
    random = np.random.default_rng(1)
    signal = images.reshape(len(images), -1)[:, :3] / 255 + random.normal(0, 0.3, (len(images), 3))
    if task == REGRESSION:
        return 40 + 10 * signal[:, 0]
    if task == MULTILABEL:
        known = random.random(signal.shape) > 0.2
        return np.where(known, signal > 0.5, np.nan)
    cuts = [0.5] if task == BINARY else [0.35, 0.65]
    return np.searchsorted(cuts, signal[:, 0])


def make(task, count=120):
    """A dataset of random images (60 % train, 20 % val, 20 % test), its pixels, and a model for it."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 1), dtype=np.uint8)
    dataset = make_fold(make_targets(task, images), task=task)
    one = torch.ones(1, 1, 1, 1)
    pixels = Pixels(images=torch.from_numpy(images), scale=(0.0, 255.0), mean=0.4 * one, std=0.2 * one, device="cpu")
    return dataset, pixels


def build(task, dataset, spec=PIXELS):
    return build_model(
        spec, BuildRequest(num_outputs=task.head.num_outputs(len(dataset.labels)), channels=1, image_size=SIDE)
    )


def split(dataset, pixels, name):
    """The features of a split, as the head gets them, and its targets."""
    rows = dataset.index(name)
    features = pixels.normalize(pixels.batch(torch.from_numpy(rows))).flatten(1).double().numpy()
    return features, dataset.targets[rows]


def probe(dataset, pixels, *, penalties=(PENALTY,), select=lambda logits: 0.0, spec=PIXELS):
    protocol = replace(LINEAR_PROBE, regularizations=penalties)
    module = build(dataset.task, dataset, spec).eval()
    extract = feature_extractor(spec, module)
    features = extract_features(extract, pixels, "fp32")
    head, details = fit_probe(features, dataset, protocol, select)
    return join_head(extract, module, head), details


def logistic(count):
    """scikit-learn's logistic regression, converged; C is 1 / (penalty x number of images)."""
    return LogisticRegression(C=1 / (PENALTY * count), tol=1e-10, max_iter=10_000)


# --- the linear probe ------------------------------------------------------------------------------------------------
def sklearns_answer(task, train, targets, test):
    if task == REGRESSION:
        return (
            make_pipeline(StandardScaler(), Ridge(alpha=PENALTY * len(train)))
            .fit(train, targets)
            .predict(test)[:, None]
        )
    if task in (BINARY, MULTICLASS):
        return make_pipeline(StandardScaler(), logistic(len(train))).fit(train, targets).predict_proba(test)
    scaler = StandardScaler().fit(train)
    if task == MULTILABEL:
        columns = []
        for label in targets.T:
            known = ~np.isnan(label)
            fitted = logistic(known.sum()).fit(scaler.transform(train[known]), label[known])
            columns.append(fitted.predict_proba(scaler.transform(test))[:, 1])
        return np.stack(columns, axis=1)
    above = [
        logistic(len(train)).fit(scaler.transform(train), targets > k).predict_proba(scaler.transform(test))[:, 1]
        for k in (0, 1)
    ]
    second = np.minimum(*above)
    return np.stack([1 - above[0], above[0] - second, second], axis=1)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION], ids=str)
def test_the_probabilities_of_a_probe_equal_scikit_learns(task):
    dataset, pixels = make(task)
    module, _ = probe(dataset, pixels)
    actual = predict(module, dataset, pixels, "test", precision="fp32").probabilities
    expected = sklearns_answer(task, *split(dataset, pixels, "train"), split(dataset, pixels, "test")[0])
    np.testing.assert_allclose(actual, expected, atol=2e-3 if task != REGRESSION else 1e-3)


def test_the_penalty_is_the_one_with_the_best_val_score():
    dataset, pixels = make(BINARY)
    seen = []

    def select(logits):
        seen.append(np.abs(logits).mean())  # the stronger the penalty, the smaller
        return -abs(len(seen) - 3)

    _, details = probe(dataset, pixels, penalties=(1e-4, 1e-2, 1.0, 100.0), select=select)
    assert seen == sorted(seen)
    assert details == {"regularization": 1e-2, "val_score": 0}


def test_ties_go_to_the_stronger_penalty():
    dataset, pixels = make(BINARY)
    assert probe(dataset, pixels, penalties=(1e-4, 10.0, 1e-2))[1]["regularization"] == 10.0


def test_a_protocol_without_penalties_is_an_error():
    dataset, pixels = make(BINARY)
    with pytest.raises(RunError, match="regularizations"):
        probe(dataset, pixels, penalties=())


def test_the_val_score_gets_the_logits_of_the_fitted_module():
    dataset, pixels = make(MULTICLASS)
    received = []
    module, _ = probe(dataset, pixels, select=lambda logits: received.append(logits) or 0.0)
    given = predict(module, dataset, pixels, "val", precision="fp32").probabilities
    np.testing.assert_allclose(MULTICLASS.answers.from_logits(received[0]), given, atol=1e-6)


def test_a_constant_feature_is_ignored():
    dataset, pixels = make(BINARY)
    pixels.images[:, 0, 0] = 7
    module, _ = probe(dataset, pixels)
    assert np.isfinite(predict(module, dataset, pixels, "test", precision="fp32").probabilities).all()


def test_probing_trains_only_the_head():
    dataset, pixels = make(BINARY)
    spec = replace(
        PIXELS, build=lambda request: nn.Sequential(nn.BatchNorm2d(1), *build_pixels(request)), classifier="2"
    )
    module = build(BINARY, dataset, spec)
    before = {name: value.clone() for name, value in module[0].state_dict().items()}
    extract = feature_extractor(spec, module.eval())
    head, _ = fit_probe(extract_features(extract, pixels, "fp32"), dataset, LINEAR_PROBE, lambda _: 0.0)
    after = join_head(extract, module, head).backbone[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_features_that_are_not_finite_are_refused():
    dataset, pixels = make(BINARY)
    spec = replace(PIXELS, features=lambda module, images: images.log().flatten(1))
    with pytest.raises(RunError, match="the frozen features are not finite"):
        probe(dataset, pixels, spec=spec)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, ORDINAL, MULTILABEL, REGRESSION], ids=str)
def test_the_constant_baseline_is_the_prior_of_train(task):
    dataset, pixels = make(task)
    module, _ = probe(dataset, pixels, spec=BASELINES[0])
    actual = predict(module, dataset, pixels, "test", precision="fp32").probabilities
    targets = dataset.targets[dataset.index("train")]
    if task.classes:
        expected = np.bincount(targets) / len(targets)
    else:
        expected = np.nanmean(targets.reshape(len(targets), -1), axis=0)
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), rtol=2e-3)


def test_a_class_missing_in_train_is_never_predicted():
    features, targets = np.random.default_rng(0).normal(size=(40, 3)), np.repeat([0, 2], 20)
    weight, bias = MULTICLASS.head.solve(features, targets, PENALTY, num_labels=3)
    actual = MULTICLASS.answers.from_logits(features @ weight.T + bias)
    assert actual[:, 1].max() < 1e-9
    expected = logistic(40).fit(features, targets).predict_proba(features)
    np.testing.assert_allclose(actual[:, [0, 2]], expected, atol=1e-3)


@pytest.mark.parametrize(("known", "expected"), [([1, 1, 1], 3.5 / 4), ([0, 0], 0.5 / 3), ([], 0.5)])
def test_a_label_with_a_single_outcome_gets_its_smoothed_rate(known, expected):
    targets = np.full((8, 2), np.nan)
    targets[: len(known), 0] = known
    targets[:, 1] = [0, 1] * 4
    weight, bias = MULTILABEL.head.solve(np.random.default_rng(0).normal(size=(8, 3)), targets, PENALTY, 2)
    assert not weight[0].any()
    assert MULTILABEL.answers.from_logits(bias[None])[0, 0] == pytest.approx(expected)


# --- nearest neighbors -----------------------------------------------------------------------------------------------
def votes(distances):
    return np.exp((1 - distances) / KNN.temperature)


def knn(dataset, pixels, **change):
    module = build(dataset.task, dataset).eval()
    extract = feature_extractor(PIXELS, module)
    features = extract_features(extract, pixels, "fp32")
    return join_head(extract, module, fit_knn(features, dataset, replace(KNN, **change)))


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, ORDINAL], ids=str)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_a_vote_equals_scikit_learns(task, k):
    dataset, pixels = make(task)
    actual = predict(knn(dataset, pixels, neighbors=k), dataset, pixels, "test", precision="fp32").probabilities
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=votes)
    reference.fit(*split(dataset, pixels, "train"))
    expected = reference.predict_proba(split(dataset, pixels, "test")[0])
    np.testing.assert_allclose(actual, expected, atol=5e-4)  # kept 1e-4 away from 0 and 1


def test_a_regression_vote_equals_scikit_learns():
    dataset, pixels = make(REGRESSION)
    actual = predict(knn(dataset, pixels), dataset, pixels, "test", precision="fp32").probabilities
    reference = KNeighborsRegressor(20, metric="cosine", algorithm="brute", weights=votes)
    reference.fit(*split(dataset, pixels, "train"))
    np.testing.assert_allclose(actual[:, 0], reference.predict(split(dataset, pixels, "test")[0]), rtol=1e-4)


def test_neighbors_with_an_unknown_label_do_not_vote_on_it():
    dataset, pixels = make(MULTILABEL)
    actual = predict(knn(dataset, pixels), dataset, pixels, "test", precision="fp32").probabilities
    train, targets = split(dataset, pixels, "train")
    reference = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(train, np.zeros(len(train)))
    distances, nearest = reference.kneighbors(split(dataset, pixels, "test")[0])
    weight = np.where(np.isnan(targets[nearest]), 0, votes(distances)[:, :, None])
    expected = (weight * np.nan_to_num(targets[nearest])).sum(axis=1) / weight.sum(axis=1)
    np.testing.assert_allclose(actual, expected, atol=5e-4)


def test_more_neighbors_than_images_means_all_images():
    dataset, pixels = make(BINARY)
    every, more = (knn(dataset, pixels, neighbors=k) for k in (72, 5000))
    answers = [predict(m, dataset, pixels, "test", precision="fp32").probabilities for m in (every, more)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("fit", [lambda d, p: knn(d, p), lambda d, p: probe(d, p)[0]], ids=["knn", "probe"])
def test_only_the_frozen_network_runs_in_bf16(fit):
    dataset, pixels = make(BINARY)  # whose network computes nothing
    module = fit(dataset, pixels)
    exact, rough = (predict(module, dataset, pixels, "test", precision=p).probabilities for p in ("fp32", "bf16"))
    np.testing.assert_allclose(rough, exact, atol=1e-6)


# --- probabilities to logits -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["binary", "multiclass", "ordinal", "multilabel", "regression"])
def test_to_logits_inverts_the_tasks_probabilities(name):
    task, random = find_task(name), np.random.default_rng(0)
    given = {
        "binary": random.dirichlet([1, 1], 50),
        "multilabel": random.random((50, 3)),
        "regression": random.normal(size=(50, 1)),
    }.get(name, random.dirichlet([1, 1, 1], 50))
    np.testing.assert_allclose(task.answers.from_logits(task.answers.to_logits(given)), given, atol=4e-4)


@pytest.mark.parametrize("name", ["multiclass", "ordinal", "multilabel"])
def test_certain_probabilities_have_finite_logits(name):
    task, certain = find_task(name), np.eye(3)
    logits = task.answers.to_logits(certain)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(task.answers.from_logits(logits), certain, atol=4e-4)
