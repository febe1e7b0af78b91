"""Simulate models with known true scores to measure the coverage of intervals and the false claims of tests.

python benchmarks/statistics/simulate.py --what TABLE [--repetitions N]

Prints the tables of docs/statistics.md with fixed seeds, in one thread and within minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from zoo.evaluation.intervals import area_interval
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.thresholds import DecidedTest
from zoo.evaluation.values import MIN_CASES
from zoo.specs.metric import MetricRequest
from zoo.statistics.calibration import NUM_BINS
from zoo.statistics.datasets import DatasetSamples, order_models
from zoo.statistics.intervals import (
    add_seed_variance,
    bootstrap_weights,
    independent_difference,
    noise_free_interval,
    percentile_interval,
)
from zoo.statistics.pairs import ALPHA, compare_pairs, holm
from zoo.statistics.roc import (
    ClusteredArea,
    auroc_influence,
    clustered_interval,
    clustered_variance,
    delong_covariance,
    logit_interval,
    placements,
)
from zoo.statistics.weighted import sum_by_patient, weighted_auroc
from zoo.tasks.kinds import BINARY

Array = np.ndarray[Any, Any]


def interval_at_edge(value: float, num_positives: int, num_negatives: int) -> tuple[float, float]:
    """Newcombe's method 5, as used in scoring for independent units."""
    part = ClusteredArea(
        area=value, num_positives=num_positives, num_negatives=num_negatives, inflation=1.0, constant=False
    )
    return clustered_interval([part], np.inf)


# --- coverage --------------------------------------------------------------------------------------------------------
def cover_area(area: float, num_positives: int, num_negatives: int, repetitions: int) -> float:
    """Coverage of the true area by logit-DeLong intervals (Newcombe's for an area of 1); normal scores."""
    random = np.random.default_rng([1, int(area * 1000), num_positives, num_negatives])
    positives = np.arange(num_positives + num_negatives) < num_positives
    scores = random.normal(size=(repetitions, len(positives))) + positives * np.sqrt(2) * ndtri(area)
    of_positives, of_negatives = placements(positives, scores)
    areas = of_positives.mean(axis=1)
    variances = of_positives.var(axis=1, ddof=1) / num_positives + of_negatives.var(axis=1, ddof=1) / num_negatives
    covered = 0
    for value, variance in zip(areas, variances, strict=True):
        at_edge = variance <= 0
        low, high = (
            interval_at_edge(value, num_positives, num_negatives) if at_edge else logit_interval(value, variance)
        )
        covered += low <= area <= high
    return covered / repetitions


def cover_clusters(
    num_patients: int, num_images: int, repetitions: int, num_resamples: int = 2000
) -> tuple[float, float]:
    """Coverage of the true area by bootstrap intervals, by patient and by image; intraclass correlation .5.

    A patient's images share their label; a patient is positive with probability one half. Area Phi(.6) = .726.
    """
    random = np.random.default_rng([2, num_patients, num_images])
    truth, owner = 0.7257468822, np.repeat(np.arange(num_patients), num_images)
    covered = np.zeros(2)
    for repetition in range(repetitions):
        positives = (random.random(num_patients) < 0.5)[owner]
        scores = 1.2 * positives + random.normal(size=num_patients)[owner] + random.normal(size=len(owner))
        for way, patients in enumerate((owner, np.arange(len(owner)))):
            weights = bootstrap_weights(patients, num_resamples, repetition).astype(np.float64)
            interval = percentile_interval(weighted_auroc(positives, scores, weights))
            covered[way] += interval.low is not None and interval.low <= truth <= (interval.high or 0.0)
    return float(covered[0] / repetitions), float(covered[1] / repetitions)


def draw_units(
    owner: Array, area: float, prevalence: float, labels: str, random: np.random.Generator
) -> tuple[Array, Array]:
    """Positives and scores of units with these owners: intraclass correlation .5, labels by patient or image."""
    num_patients = owner[-1] + 1
    uniform = random.random(num_patients)[owner] if labels == "patient" else random.random(len(owner))
    positives = uniform < prevalence
    noise = np.sqrt(0.5) * (random.normal(size=num_patients)[owner] + random.normal(size=len(owner)))
    return positives, np.sqrt(2) * ndtri(area) * positives + noise


def count_equal(num_images: int, num_patients: int, random: np.random.Generator) -> Array:  # noqa: ARG001
    return np.full(num_patients, num_images)


def count_few_large(num_patients: int, random: np.random.Generator) -> Array:  # noqa: ARG001
    """A tenth of the patients with 40 images each, the others with one."""
    return np.where(np.arange(num_patients) < num_patients // 10, 40, 1)


def count_heavy_tailed(num_patients: int, random: np.random.Generator) -> Array:
    """Pareto-distributed numbers of images, at most 60: half of the patients have 1 to 3."""
    return np.minimum(1 + np.floor(2 * random.pareto(1.0, num_patients)), 60).astype(np.int64)


def count_geometric(num_patients: int, random: np.random.Generator) -> Array:
    return random.geometric(0.3, num_patients)


def cover_grid(
    shape: tuple[int, int], area: float, prevalence: float, labels: str, repetitions: int
) -> tuple[float, float] | None:
    """Coverage with equally many images per patient; see `cover_clustered`."""
    random = np.random.default_rng([7, *shape, int(area * 1000), int(prevalence * 1000), labels == "patient"])
    return cover_clustered(partial(count_equal, shape[1]), shape[0], (area, prevalence, labels), repetitions, random)


def cover_clustered(
    count_images: Callable[[int, np.random.Generator], Array],
    num_patients: int,
    units: tuple[float, float, str],
    repetitions: int,
    random: np.random.Generator,
) -> tuple[float, float] | None:
    """Coverage of the true area by zoo's interval, and by Obuchowski's on the logit scale with t(G - 1).

    `units` are the area, the prevalence and what shares a label. Test sets with fewer than 10 patients of a class have
    no interval and are drawn again; None if most are that small.
    """
    auroc = next(spec for spec in METRICS if spec.name == "auroc")
    area = units[0]
    covered, held = np.zeros(2), 0
    for tries in range(3 * repetitions):
        if held == repetitions or (tries == 200 and held < 50):
            break
        owner = np.repeat(np.arange(num_patients), count_images(num_patients, random))
        positives, scores = draw_units(owner, *units, random)
        if min(len(np.unique(owner[side])) for side in (positives, ~positives)) < MIN_CASES:
            continue
        held += 1
        shares = np.stack([expit(-scores), expit(scores)], axis=1)
        request = MetricRequest(
            task=BINARY, labels=("a", "b"), targets=positives.astype(np.int64), probabilities=shares,
            decisions=positives.astype(np.int64), positive=1,
        )  # fmt: skip
        interval = area_interval(auroc, [[DecidedTest(request, owner)]])
        value, variance = auroc.compute(request), clustered_variance(positives, *placements(positives, scores), owner)
        half = stdtrit(num_patients - 1, 0.975) * np.sqrt(max(variance, 0)) / (value * (1 - value)) if value < 1 else 0
        is_covered = interval is not None and interval[0] <= area <= interval[1]
        covered += is_covered, abs(logit(value) - logit(area)) <= half
    return (float(covered[0] / held), float(covered[1] / held)) if held >= repetitions / 4 else None


def cover_percentiles(
    shape: tuple[int, int], area: float, prevalence: float, repetitions: int, num_resamples: int = 1000
) -> float:
    """Coverage of the true area by percentiles over resampled patients; labels by image."""
    random, covered = np.random.default_rng([8, *shape, int(area * 1000)]), 0
    for repetition in range(repetitions):
        owner = np.repeat(np.arange(shape[0]), shape[1])
        positives, scores = draw_units(owner, area, prevalence, "image", random)
        weights = bootstrap_weights(owner, num_resamples, repetition).astype(np.float64)
        interval = percentile_interval(weighted_auroc(positives, scores, weights))
        covered += interval.low is not None and interval.low <= area <= (interval.high or 0.0)
    return covered / repetitions


def cover_seeds(num_seeds: int, seed_sd: float, repetitions: int) -> tuple[float, float]:
    """Coverage of the true mean by intervals of a mean over seeds, with and without the variance s^2/S."""
    random = np.random.default_rng([3, num_seeds, int(seed_sd * 1000)])
    setting = Setting(num_models=1, num_seeds=num_seeds, seed_sd=seed_sd, num_patients=1000)
    covered = np.zeros(2)
    for _ in range(repetitions):
        values, influence = draw_board(setting, random)
        value, seeds = float(values.mean()), values[0]
        patients = logit_interval(value, float(influence[0].var(ddof=1)) / influence.shape[1])
        for way, (low, high) in enumerate((add_seed_variance(patients, value, seeds, influence.shape[1]), patients)):
            covered[way] += low <= setting.areas[0] <= high
    return float(covered[0] / repetitions), float(covered[1] / repetitions)


def cover_calibration(
    slope: float, shift: float, num_images: int, repetitions: int, num_resamples: int = 1000
) -> tuple[float, float, float]:
    """The true ECE, and its coverage by intervals less noise and by percentiles.

    Logits are normal with SD 2; the true probability has the logit shift + slope x logit, so slope 1 and shift 0 are
    calibrated.
    """
    random = np.random.default_rng([5, int(100 * slope), int(100 * shift), num_images])
    ece = next(spec for spec in METRICS if spec.name == "ece")

    def draw(num: int) -> tuple[Array, Array]:
        logits = 2 * random.normal(size=num)
        return expit(logits), expit(shift + slope * logits)

    claimed, true = draw(400_000)
    bins = np.searchsorted(np.quantile(claimed, np.arange(1, NUM_BINS) / NUM_BINS), claimed)
    truth = float(np.abs(np.bincount(bins, claimed - true)).sum() / len(claimed))
    covered = np.zeros(2)
    for repetition in range(repetitions):
        claimed, true = draw(num_images)
        targets = (random.random(num_images) < true).astype(np.int64)
        probabilities = np.stack([1 - claimed, claimed], axis=1)
        request = MetricRequest(
            task=BINARY, labels=("a", "b"), targets=targets, probabilities=probabilities, decisions=targets, positive=1
        )
        weights = bootstrap_weights(np.arange(num_images), num_resamples, repetition).astype(np.float64)
        assert ece.resample and ece.noise
        resampled = ece.resample(request, weights)
        intervals = (
            noise_free_interval(ece.compute(request), resampled, ece.noise(request, weights)),
            percentile_interval(resampled),
        )
        for way, interval in enumerate(intervals):
            covered[way] += interval.low is not None and interval.low <= truth <= (interval.high or 0.0)
    return truth, float(covered[0] / repetitions), float(covered[1] / repetitions)


# --- boards ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Setting:
    """A board with known true AUROCs; half of the patients are positive, and scores are correlated between models."""

    num_models: int = 10
    num_seeds: int = 3
    seed_sd: float = 0.0  # of the true area between seeds: .01 is one point
    num_patients: int = 200
    num_images: int = 1
    lead: float = 0.0  # of the first model's area over the others'
    shared: float = 0.7  # share of a score's variance common to all models: hard cases are hard for all

    @property
    def areas(self) -> Array:
        areas = np.full(self.num_models, 0.85)
        areas[0] += self.lead
        return areas


def draw_board(setting: Setting, random: np.random.Generator) -> tuple[Array, Array]:
    """Simulate a test: areas (k, S), and influence values by patient averaged over seeds (k, n).

    A score is label x separation + noise. A share of the noise variance is common to all models; half of the rest
    belongs to the model, a quarter to the seed and patient, a quarter to the seed and image.
    """
    k, s, n = setting.num_models, setting.num_seeds, setting.num_patients
    owner = np.repeat(np.arange(n), setting.num_images)
    positives = (np.arange(n) % 2 == 0)[owner]
    areas = np.clip(setting.areas[:, None] + setting.seed_sd * random.normal(size=(k, s)), 0.5, 0.995)
    own = 1 - setting.shared
    noise = np.sqrt(setting.shared) * random.normal(size=n)[owner]
    noise = noise + np.sqrt(own / 2) * random.normal(size=(k, 1, n))[..., owner]
    noise = noise + np.sqrt(own / 4) * random.normal(size=(k, s, n))[..., owner]
    noise = noise + np.sqrt(own / 4) * random.normal(size=(k, s, len(owner)))
    scores = (np.sqrt(2) * ndtri(areas)[..., None] * positives + noise).reshape(k * s, -1)
    values = placements(positives, scores)[0].mean(axis=1).reshape(k, s)
    influence = auroc_influence(positives, scores).reshape(k, s, -1).mean(axis=1)
    return values, sum_by_patient(influence, owner)[1]


def draw_boards(setting: Setting, repetitions: int) -> Iterator[tuple[Array, Array]]:
    random = np.random.default_rng([4, setting.num_seeds, int(setting.seed_sd * 1000), setting.num_patients])
    return (draw_board(setting, random) for _ in range(repetitions))


def count_claims(setting: Setting, repetitions: int) -> dict[str, float]:
    """Share of boards of equal models that claim a difference: by zoo's test, by Holm on patients alone, by naive z."""
    from scipy.stats import norm

    claims = dict.fromkeys(("rule", "patients only", "naive z"), 0)
    for values, influence in draw_boards(setting, repetitions):
        pairs = compare_pairs(influence, list(values))
        z = np.divide(
            pairs.difference,
            np.sqrt(pairs.patient_variance),
            out=np.zeros(len(pairs)),
            where=pairs.patient_variance > 0,
        )
        naive = 2 * norm.sf(np.abs(z))
        claims["rule"] += bool((pairs.p_holm < ALPHA).any())
        claims["patients only"] += bool((holm(naive) < ALPHA).any())
        claims["naive z"] += bool((naive < ALPHA).any())
    return {name: count / repetitions for name, count in claims.items()}


def find_power(setting: Setting, repetitions: int) -> dict[str, float]:
    """Power to detect the first model's lead over one, any and all other models, and false claims among the others."""
    counts = dict.fromkeys(("one pair", "any", "all", "false claim"), 0.0)
    for values, influence in draw_boards(setting, repetitions):
        pairs = compare_pairs(influence, list(values))
        claimed = pairs.p_holm < ALPHA
        of_first = claimed[pairs.first == 0] & (pairs.difference[pairs.first == 0] > 0)
        counts["one pair"] += of_first.mean()
        counts["any"] += bool(of_first.any())
        counts["all"] += bool(of_first.all())
        counts["false claim"] += bool(claimed[pairs.first != 0].any())
    return {name: total / repetitions for name, total in counts.items()}


def order_across(setting: Setting, num_datasets: int, repetitions: int) -> dict[str, float]:
    """Coverage of mean rank intervals over several datasets, for all models and for the first; and claims of a leader.

    The expected rank is the mean over 20,000 draws of patients and seeds. A claim is a first probability above 95 %; it
    is right for the first model.
    """
    random = np.random.default_rng([5, num_datasets, setting.num_models, int(setting.lead * 1000)])
    ranks = [rank(draw_board(setting, random)[0].mean(axis=1)) for _ in range(20_000 // num_datasets)]
    expected = np.mean(ranks, axis=0)
    counts = dict.fromkeys(("all", "first", "claims", "right"), 0.0)
    for repetition in range(repetitions):
        boards = [draw_board(setting, random) for _ in range(num_datasets)]
        samples = [DatasetSamples(influence=influence, seed_scores=list(values)) for values, influence in boards]
        order = order_models(samples, num_resamples=1000, seed=repetition)
        low, high = order.mean_rank_interval.T
        covered = (low <= expected) & (expected <= high)
        claimed = order.first_probability > 0.95
        counts["all"] += covered.mean()
        counts["first"] += covered[0]
        counts["claims"] += claimed.any()
        counts["right"] += claimed[0]
    return {name: total / repetitions for name, total in counts.items()}


def rank(scores: Array) -> Array:
    return (scores[:, None] < scores).sum(axis=1) + 1.0


def claim_groups(sizes: list[tuple[int, int]], area: float, repetitions: int) -> tuple[float, float]:
    """Coverage of 0 by the interval of group less rest for equal groups, and share of models with a flagged group.

    `sizes` are the positives and negatives of each group; three seeds of one model, one image per patient, as in
    `zoo report --by`.
    """
    random = np.random.default_rng([6, int(1000 * area), len(sizes), *sizes[0]])
    positives = np.concatenate([np.arange(m + n) < m for m, n in sizes])
    groups = np.repeat(np.arange(len(sizes)), [m + n for m, n in sizes])
    covered = claimed = 0
    for _ in range(repetitions):
        noise = np.sqrt(0.7) * random.normal(size=len(groups)) + np.sqrt(0.3) * random.normal(size=(3, len(groups)))
        scores = np.sqrt(2) * ndtri(area) * positives + noise
        p_values = []
        for group in range(len(sizes)):
            sides = [area_of_seeds(positives[rows], scores[:, rows]) for rows in (groups == group, groups != group)]
            values, bounds = [value for value, _ in sides], [interval for _, interval in sides]
            low, high, p = independent_difference(values[0], values[1], bounds[0], bounds[1])
            covered += low <= 0 <= high
            p_values.append(p)
        family = p_values[:1] if len(sizes) == 2 else p_values  # two groups give one test
        claimed += bool((holm(np.array(family)) < ALPHA).any())
    return covered / repetitions / len(sizes), claimed / repetitions


def area_of_seeds(positives: Array, scores: Array) -> tuple[float, tuple[float, float]]:
    """The mean area of the seeds' scores (S, N) and its interval, as on a board."""
    areas, covariance = delong_covariance(positives, scores)
    value, variance = float(areas.mean()), float(covariance.mean())
    inner = 0 < value < 1 and variance > 1e-18
    counts = int(positives.sum()), int((~positives).sum())
    interval = logit_interval(value, variance) if inner else interval_at_edge(value, *counts)
    return value, add_seed_variance(interval, value, areas, len(positives))


# --- tables ----------------------------------------------------------------------------------------------------------
def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def print_coverage(repetitions: int) -> None:
    rows = []
    for area, m, n in ((0.8, 50, 50), (0.9, 50, 50), (0.95, 50, 50), (0.95, 10, 90), (0.85, 10, 10), (0.99, 100, 900)):
        covered = cover_area(area, m, n, 10 * repetitions)
        rows.append([f"logit-DeLong, AUC {area}", f"{m} / {n}", percent(covered)])
    for patients, images in ((60, 6), (200, 3)):
        by_patient, by_image = cover_clusters(patients, images, max(repetitions // 2, 1))
        rows.append([f"bootstrap by patient, {images} images each", f"{patients} patients", percent(by_patient)])
        rows.append([f"bootstrap by image, {images} images each", f"{patients} patients", percent(by_image)])
    for seeds in (3, 5):
        for sd in (0.0, 0.01, 0.03):
            both, alone = cover_seeds(seeds, sd, repetitions)
            what = f"{seeds} seeds, SD {100 * sd:.0f} points"
            rows += [[f"patients + seeds, {what}", "500 / 500", percent(both)]]
            rows += [[f"patients alone, {what}", "500 / 500", percent(alone)]]
    print_table(["interval", "cases", "covers"], rows)


def print_clusters(repetitions: int) -> None:
    areas = (0.6, 0.8, 0.9, 0.95, 0.98, 0.99)
    rows, all_cells = [], []
    for labels in ("image", "patient"):
        for patients in (12, 20, 60, 200):
            for images in (1, 5, 20)[labels == "patient" :]:
                for prevalence in (0.05, 0.2, 0.5):
                    cells = [cover_grid((patients, images), a, prevalence, labels, repetitions) for a in areas]
                    if any(cells):
                        texts = ["too few" if c is None else f"{100 * c[0]:.0f} / {100 * c[1]:.0f}" for c in cells]
                        rows.append([labels, f"{patients} x {images}", f"{prevalence:g}", *texts])
                        all_cells += [c for c in cells if c]
    print_table(["labels by", "patients x images", "positive", *map(str, areas)], rows)
    rows = []
    for way, name in enumerate(("zoo", "Obuchowski, logit, t(G - 1)")):
        shares = np.array([c[way] for c in all_cells])
        rows.append([name, percent(shares.mean()), percent(shares.min()), f"{(shares < 0.92).sum()} of {len(shares)}"])
    print_table(["interval", "mean", "least", "cells under 92 %"], rows)
    rows = []
    for shape, prevalence, area in (((20, 5), 0.5, 0.8), ((60, 5), 0.5, 0.98), ((100, 3), 0.05, 0.98)):
        both = cover_grid(shape, area, prevalence, "image", repetitions)
        shares = [cover_percentiles(shape, area, prevalence, max(repetitions // 2, 1)), *(both or ())]
        rows.append([f"{shape[0]} x {shape[1]}", f"{prevalence:g}", str(area), *map(percent, shares)])
    names = ("percentiles", "zoo", "Obuchowski, logit, t(G - 1)")
    print_table(["patients x images", "positive", "area", *names], rows)


def print_uneven(repetitions: int) -> None:
    areas = (0.6, 0.8, 0.9, 0.95, 0.98)
    designs = {"few large": count_few_large, "heavy-tailed": count_heavy_tailed, "geometric": count_geometric}
    rows = []
    for number, (name, count_images) in enumerate(designs.items()):
        for labels in ("image", "patient"):
            for patients, prevalence in ((20, 0.5), (60, 0.2), (60, 0.5), (100, 0.3), (200, 0.1)):
                seed = [9, number, patients, int(prevalence * 1000), labels == "patient"]
                random = np.random.default_rng(seed)
                cells = [
                    cover_clustered(count_images, patients, (a, prevalence, labels), repetitions, random) for a in areas
                ]
                if any(cells):
                    texts = ["too few" if c is None else f"{100 * c[0]:.0f} / {100 * c[1]:.0f}" for c in cells]
                    rows.append([name, labels, str(patients), f"{prevalence:g}", *texts])
    print_table(["images per patient", "labels by", "patients", "positive", *map(str, areas)], rows)


def print_calibration(repetitions: int) -> None:
    rows = []
    for slope, shift in ((1.0, 0.0), (0.9, 0.15), (0.8, 0.0), (0.6, 0.0), (0.5, 0.7), (1.0, 1.0)):
        for num_images in (100, 300, 1000):
            truth, less_noise, percentiles = cover_calibration(slope, shift, num_images, repetitions)
            rows.append([f"{truth:.3f}", str(num_images), percent(less_noise), percent(percentiles)])
    print_table(["true ECE", "images", "less noise covers", "percentiles cover"], rows)


def print_groups(repetitions: int) -> None:
    rows = []
    for sizes in ([(50, 100)] * 2, [(10, 10), (100, 200)], [(10, 10)] * 4, [(10, 10), *[(30, 60)] * 3]):
        for area in (0.75, 0.85, 0.95):
            covers, claims = claim_groups(sizes, area, repetitions)
            rows.append([", ".join(f"{m} / {n}" for m, n in sizes), str(area), percent(covers), percent(claims)])
    print_table(["positives / negatives a group", "AUROC", "group less rest covers 0", "any group named"], rows)


def print_claims(repetitions: int) -> None:
    rows = []
    for patients, images in ((200, 1), (1000, 1), (60, 6)):
        for seeds in (3, 5):
            for sd in (0.0, 0.01, 0.03):
                setting = Setting(num_seeds=seeds, seed_sd=sd, num_patients=patients, num_images=images)
                claims = count_claims(setting, repetitions)
                rows.append([f"{patients} x {images}", str(seeds), f"{100 * sd:.0f}", *map(percent, claims.values())])
    print_table(["patients x images", "seeds", "seed SD", "the rule", "Holm, patients only", "naive z"], rows)


def print_power(repetitions: int) -> None:
    rows = []
    for models in (2, 10):
        for seeds in (3, 5):
            for sd in (0.0, 0.01, 0.03):
                setting = Setting(num_models=models, num_seeds=seeds, seed_sd=sd, num_patients=1000, lead=0.03)
                power = find_power(setting, repetitions)
                rows.append([str(models), str(seeds), f"{100 * sd:.0f}", *map(percent, power.values())])
    print_table(["models", "seeds", "seed SD", "one pair found", "any", "all", "false claim among the rest"], rows)


def print_across(repetitions: int) -> None:
    rows = []
    for models in (3, 10):
        for sets in (3, 10):
            for lead in (0.0, 0.03):
                setting = Setting(num_models=models, seed_sd=0.01, num_patients=200, lead=lead)
                shares = order_across(setting, sets, repetitions)
                rows.append([str(models), str(sets), f"{100 * lead:.0f}", *map(percent, shares.values())])
    columns = ["models", "datasets", "lead of the first, points", "interval of a mean rank covers", "of the first"]
    print_table([*columns, "P(rank 1) > .95 for some model", "for the first"], rows)


TABLES = {
    "coverage": (print_coverage, 2000),
    "clusters": (print_clusters, 400),
    "uneven": (print_uneven, 400),
    "calibration": (print_calibration, 400),
    "groups": (print_groups, 1000),
    "claims": (print_claims, 1000),
    "power": (print_power, 400),
    "across": (print_across, 200),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=TABLES, required=True)
    parser.add_argument("--repetitions", type=int)
    options = parser.parse_args()
    show, default = TABLES[options.what]
    show(options.repetitions or default)
