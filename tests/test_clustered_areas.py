"""Intervals of an area whose patients have several images: coverage, and copies of an image add no information."""

import numpy as np
import pytest
from factories import make_predictions
from newcombe import newcombe_reference
from pytest import approx
from scipy.special import expit, ndtri
from scipy.stats import t as student

from zoo import BINARY, MULTILABEL
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score
from zoo.specs.metric import ScoringContext
from zoo.statistics.roc import clustered_area, clustered_interval

AUROC = {spec.name: spec for spec in METRICS if spec.name == "auroc"}
CARD = ScoringContext(task=BINARY, labels=("a", "b"), positive=1, unit="image", has_patients=True)


def draw(random, patients, images, area, prevalence):
    owner = np.repeat(np.arange(patients), images)
    positives = random.random(len(owner)) < prevalence
    noise = np.sqrt(0.5) * (random.normal(size=patients)[owner] + random.normal(size=len(owner)))
    return positives, np.sqrt(2) * ndtri(area) * positives + noise, owner


def predicted(positives, scores, owner):
    ids = [f"i{i:04}" for i in range(len(owner))]
    probabilities = np.stack([expit(-scores), expit(scores)], axis=1)
    return make_predictions(positives.astype(np.int64), probabilities, ids=ids, patients=owner.astype(str))


def score_of(*runs):
    stored = [[{"val": part, "test": part}] for part in runs]
    return score(stored, AUROC, CARD, threshold="half")["auroc"]


@pytest.mark.parametrize(
    ("patients", "images", "area", "prevalence"),
    [
        (20, 5, 0.8, 0.5),
        pytest.param(60, 5, 0.98, 0.5, marks=pytest.mark.slow),
        pytest.param(100, 3, 0.98, 0.1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.integration
def test_the_interval_of_a_clustered_area_covers(patients, images, area, prevalence):
    random, covered, held = np.random.default_rng(0), 0, 0
    while held < 200:
        actual = score_of(predicted(*draw(random, patients, images, area, prevalence)))
        if actual.low is None:
            assert actual.reason.code == "too-few"
            continue
        assert actual.method.code == "clustered-newcombe"
        held += 1
        covered += actual.low <= area <= actual.high
    assert covered / held >= 0.93  # nominal .95; percentiles gave .82 to .91


@pytest.mark.parametrize(("patients", "area"), [(100, 0.85), (60, 0.9)])
def test_the_interval_covers_if_a_tenth_of_the_patients_have_most_images(patients, area):
    random, covered, num_sets = np.random.default_rng(9), 0, 0
    images = np.where(np.arange(patients) < patients // 10, 40, 1)
    owner = np.repeat(np.arange(patients), images)
    while num_sets < 200:
        positives = (random.random(patients) < 0.3)[owner]
        if len(np.unique(owner[positives])) < 10:
            continue
        num_sets += 1
        noise = np.sqrt(0.5) * (random.normal(size=patients)[owner] + random.normal(size=len(owner)))
        part = clustered_area(positives, (np.sqrt(2) * ndtri(area) * positives + noise)[None], owner)
        low, high = clustered_interval([part], patients)
        covered += low <= area <= high
    assert covered / num_sets >= 0.9  # nominal .95; with the mean number of images and t(G - 1) .74 to .83


def test_the_degrees_of_freedom_are_of_the_effective_number_of_patients():
    positives, scores, owner = draw(np.random.default_rng(10), 40, 5, 0.85, 0.5)
    assert clustered_area(positives, scores[None], owner).df <= 39
    uneven = np.where(owner < 20, 0, owner)  # one patient has half of the images
    assert clustered_area(positives, scores[None], uneven).df < 4


def test_copies_of_all_images_hardly_change_the_interval():
    random = np.random.default_rng(1)
    positives, scores, _ = draw(random, 200, 1, 0.85, 0.4)
    once = newcombe_reference(
        score_of(predicted(positives, scores, np.arange(200))).value, positives.sum(), (~positives).sum()
    )
    owner = np.repeat(np.arange(200), 10)
    copies = score_of(predicted(positives[owner], scores[owner], owner))
    assert (copies.low, copies.high) == approx(once, abs=0.01)


def test_with_one_image_per_patient_it_is_newcombes_with_students_quantile():
    positives, scores, owner = draw(np.random.default_rng(2), 80, 1, 0.9, 0.5)
    part = clustered_area(positives, scores[None], owner)
    assert part.inflation == approx(1.0)
    assert min(positives.sum(), (~positives).sum()) - 1 <= part.df <= 79
    confidence = 2 * student.cdf(1.959963984540054, part.df) - 1  # at which t equals z
    expected = newcombe_reference(part.area, part.num_positives, part.num_negatives)
    assert clustered_interval([part], 80, confidence) == approx(expected)


def test_a_perfect_clustered_area_has_an_interval_and_a_constant_one_has_none():
    positives, _, owner = draw(np.random.default_rng(3), 40, 4, 0.9, 0.5)
    perfect = score_of(predicted(positives, 4.0 * positives, owner))
    assert perfect.value == perfect.high == 1.0 and 0.8 < perfect.low < 1.0
    assert score_of(predicted(positives, np.zeros(160), owner)).low is None


def test_equal_seeds_count_as_one_and_different_seeds_reduce_the_variance():
    positives, scores, owner = draw(np.random.default_rng(4), 60, 5, 0.85, 0.5)
    noise = 1.5 * np.random.default_rng(5).normal(size=(5, len(owner)))
    one = clustered_area(positives, scores[None], owner)
    assert clustered_area(positives, np.stack([scores] * 5), owner) == one
    each = [clustered_area(positives, (scores + part)[None], owner).inflation for part in noise]
    assert clustered_area(positives, scores + noise, owner).inflation < max(each)


def test_a_fold_whose_positives_are_of_one_patient_has_an_interval_within_0_and_1():
    positives, scores, owner = draw(np.random.default_rng(6), 40, 5, 0.85, 0.5)
    alone = np.where(owner == 0, True, positives & (owner == 0))
    part = clustered_area(alone, scores[None] + alone, owner)
    low, high = clustered_interval([part], 40)
    assert np.isfinite(part.inflation) and 0.0 < low < part.area < high <= 1.0


def fold_of(num_positives, random):
    positives = np.arange(60) < num_positives
    part = predicted(positives, positives + random.normal(size=60), np.arange(60))
    return {"val": part, "test": part}


def test_an_area_over_folds_has_an_interval_if_one_fold_has_one_positive():
    random = np.random.default_rng(7)
    folds = [fold_of(1, random), fold_of(12, random), fold_of(12, random)]
    actual = score([folds], AUROC, CARD, threshold="half")["auroc"]
    assert actual.reason is None and 0.0 < actual.low < actual.value < actual.high < 1.0


def label_with_unknown_targets(known):
    random = np.random.default_rng(8)
    positives = random.random(80) < 0.5
    part = make_predictions(
        np.where(np.arange(80) % 8 == 0, np.nan, positives)[:, None],
        expit(positives + random.normal(size=80))[:, None],
        ids=[f"i{i:04}" for i in range(80)],
        patients=[f"p{i:04}" for i in range(80)],
    )
    return part.take(np.flatnonzero(~np.isnan(part.targets[:, 0]))) if known else part


def test_unknown_targets_of_independent_units_are_ignored():
    card = ScoringContext(task=MULTILABEL, labels=("a",), positive=None, unit="image", has_patients=True)
    whole, rest = (
        score([[{"test": label_with_unknown_targets(known)}]], AUROC, card, threshold="half")["auroc"]
        for known in (False, True)
    )
    assert whole.method.text == rest.method.text == "logit-DeLong"
    assert (whole.low, whole.high) == approx((rest.low, rest.high))
