"""Operating points: thresholds from val, rates on test, and predictive values at any prevalence."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from factories import make_predictions
from pytest import approx
from scipy.optimize import brentq
from scipy.stats import binom
from sklearn.metrics import precision_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from zoo import BINARY, MULTICLASS, MULTILABEL
from zoo.errors import Undefined
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.thresholds import ThresholdTarget, choose_thresholds
from zoo.leaderboard.operating_points import build_section
from zoo.leaderboard.tables import ReportOptions, ScoredRow, SectionRequest
from zoo.report.reasons import reason_text
from zoo.specs.metric import ScoringContext
from zoo.statistics.intervals import wilson_interval
from zoo.statistics.predictive import predictive_intervals, predictive_values, ratio_interval

CARD = ScoringContext(task=BINARY, labels=("benign", "malignant"), positive=1)
BY_PATIENT = replace(CARD, has_patients=True)


def predictions(targets, positive, patients=None) -> Predictions:
    return make_predictions(targets, positive, patients=patients)


def draw_run(seed=0, num=200, num_images=1):
    """A run of `num` patients whose images share their label and half of their noise."""
    random, run = np.random.default_rng(seed), {}
    for split, first in (("val", 7), ("test", 8)):
        truth = np.repeat(np.random.default_rng(first).random(num) < 0.3, num_images).astype(int)
        owner = np.repeat(np.arange(num), num_images)
        noise = np.random.default_rng(first).normal(size=num)[owner] + random.normal(size=num * num_images)
        run[split] = predictions(truth, 1 / (1 + np.exp(-(noise + 2 * truth - 1))), owner.astype(str))
    return run


def section_of(*runs, card=CARD, threshold="val", **options):
    row = ScoredRow(label="net", baseline=False, stored=[[run] for run in runs], seeds=tuple(range(len(runs))))
    request = SectionRequest(
        rows=[row], card=card, facts={}, primary=METRICS[0], threshold=threshold, options=ReportOptions(**options)
    )
    return build_section(request)


def cells_of(section, row=0):
    return dict(zip(section.columns, section.rows[row], strict=True))


def reach(metric, least):
    return ThresholdTarget(metric=metric, least=least)


# --- thresholds ------------------------------------------------------------------------------------------------------
VAL = predictions([0, 0, 1, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (reach("sensitivity", 0.5), 0.65),  # two of four positives
        (reach("sensitivity", 0.6), 0.45),  # three are needed
        (reach("sensitivity", 0.75), 0.45),
        (reach("sensitivity", 0.76), 0.25),
        (reach("specificity", 0.5), 0.25),
        (reach("specificity", 0.75), 0.45),
        (reach("specificity", 0.76), 0.65),
    ],
)
def test_the_threshold_reaches_its_target_and_maximizes_the_other_rate(rule, threshold):
    assert choose_thresholds(VAL, CARD, rule) == approx([threshold])


def test_if_the_lowest_score_is_a_positive_full_sensitivity_calls_everything():
    assert choose_thresholds(predictions([1, 0], [0.2, 0.8]), CARD, reach("sensitivity", 0.999)) == approx([0.0])


@pytest.mark.parametrize(("highest", "threshold"), [(0.8, 0.9), (1.0, np.nextafter(1, 2))])
def test_if_the_highest_score_is_a_negative_full_specificity_calls_nothing(highest, threshold):
    val = predictions([1, 0], [0.2, highest])
    assert choose_thresholds(val, CARD, reach("specificity", 0.999)) == approx([threshold], abs=0)


def test_a_target_out_of_reach_on_val_is_undefined():
    with pytest.raises(Undefined, match="val has no positives"):
        choose_thresholds(predictions([0, 0], [0.1, 0.2]), CARD, reach("sensitivity", 0.9))
    with pytest.raises(Undefined, match="no predictions of val"):
        choose_thresholds(None, CARD, reach("sensitivity", 0.9))


@pytest.mark.parametrize("metric", ["sensitivity", "specificity"])
def test_the_rate_on_val_is_shown_beside_that_on_test(metric):
    run = draw_run()
    section = section_of(run, reach=reach(metric, 0.9))
    cells, threshold = cells_of(section), section.details["points"][0]["thresholds"][0]["threshold"]

    def share(part):
        decided, label = part.probabilities[:, 1] >= threshold, int(metric == "sensitivity")
        return recall_score(part.targets, decided, pos_label=label)

    assert cells[f"{metric} on val"] == approx(share(run["val"])) and share(run["val"]) >= 0.9
    assert cells[metric].value == approx(share(run["test"])) and share(run["test"]) != share(run["val"])
    assert cells["threshold"] == threshold


def test_test_does_not_choose_the_threshold():
    run, other = draw_run(0), draw_run(1)
    mixed = {"val": run["val"], "test": other["test"]}
    assert cells_of(section_of(run))["threshold"] == cells_of(section_of(mixed))["threshold"]


def test_a_fallback_threshold_is_reported():
    run = draw_run()
    constant = {split: predictions(part.targets, np.full(200, 0.3), part.patients) for split, part in run.items()}
    section = section_of(constant, run)
    assert any("net: threshold .5 in 1 of 2 runs: on val no threshold is better" in note for note in section.notes)
    section = section_of({"test": run["test"]}, reach=reach("sensitivity", 0.9))
    assert "net: no threshold: no predictions of val" in section.notes
    assert set(section.rows[0][1:]) == {None}


def test_a_protocol_with_threshold_half_keeps_it_unless_a_sensitivity_is_requested():
    run = draw_run()
    plain, asked = section_of(run, threshold="half"), section_of(run, threshold="half", reach=reach("sensitivity", 0.9))
    assert cells_of(plain)["threshold"] == 0.5 and "threshold .5, the protocol's" in plain.title
    assert cells_of(asked)["threshold"] != 0.5 and "sensitivity of at least 90 % on val" in asked.title


# --- on test ---------------------------------------------------------------------------------------------------------
def test_rates_of_one_run_equal_scikit_learns_with_statsmodels_wilson_intervals():
    test, cells = (run := draw_run())["test"], cells_of(section_of(run))
    decided = test.probabilities[:, 1] >= cells["threshold"]
    for name, score, label, of in (
        ("sensitivity", recall_score, 1, test.targets),
        ("specificity", recall_score, 0, test.targets),
        ("PPV", precision_score, 1, decided),
        ("NPV", precision_score, 0, decided),
    ):
        value, trials = score(test.targets, decided, pos_label=label), int((of == label).sum())
        low, high = proportion_confint(round(value * trials), trials, method="wilson")
        assert cells[name].value == approx(value)
        assert (cells[name].low, cells[name].high) == approx((low, high), abs=1e-9)


def test_the_interval_of_a_mean_rate_is_wilsons_widened_by_the_seeds():
    runs = [draw_run(seed) for seed in range(3)]
    alone = [cells_of(section_of(run))["sensitivity"].value for run in runs]
    together = cells_of(section_of(*runs))["sensitivity"]
    trials = int(runs[0]["test"].targets.sum())
    low, high = wilson_interval(np.mean(alone) * trials, trials)
    assert together.value == approx(np.mean(alone))
    assert together.method.text == "wilson (patients + seeds)"
    assert together.low < low and together.high > high


def test_a_perfect_sensitivity_of_several_seeds_has_an_interval():
    targets = np.arange(60) % 2
    run = {split: predictions(targets, 0.2 + 0.6 * targets) for split in ("val", "test")}
    found = cells_of(section_of(run, run, run))["sensitivity"]
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == approx(wilson_interval(30, 30)[0], abs=0.003)  # t of 59 degrees of freedom, not z


def test_several_images_a_patient_are_resampled_by_patient():
    run = draw_run(num=60, num_images=5)
    alone = {split: replace(part, patients=part.sample_ids) for split, part in run.items()}
    grouped, independent = (cells_of(section_of(case, card=BY_PATIENT)) for case in (run, alone))
    for name in ("sensitivity", "specificity", "PPV", "NPV"):
        assert grouped[name].value == independent[name].value
        assert grouped[name].method.text == "patient-cluster bootstrap, B=2000"
        assert grouped[name].high - grouped[name].low > 1.2 * (independent[name].high - independent[name].low)


def test_fewer_than_10_positives_have_no_interval():
    targets = np.arange(60) < 6
    positive = np.random.default_rng(0).random(60) + targets
    run = {split: predictions(targets.astype(int), positive / 2) for split in ("val", "test")}
    cells = cells_of(section_of(run, prevalence=0.1))
    for name in ("sensitivity", "PPV", "PPV at 10 %"):
        assert cells[name].low is None and reason_text(cells[name].reason) == "too few: 6 positives, 10 are needed"


def test_a_positive_class_that_is_the_first_label_is_the_one_that_is_found():
    run = draw_run()
    turned = {s: replace(p, targets=1 - p.targets, probabilities=p.probabilities[:, ::-1]) for s, p in run.items()}
    assert section_of(turned, card=replace(CARD, positive=0)).rows == section_of(run).rows


def test_if_patients_are_scored_their_mean_probability_decides():
    run = draw_run(num=80, num_images=4)
    averaged = {split: part.by_unit("patient") for split, part in run.items()}
    found, expected = section_of(run, card=replace(BY_PATIENT, unit="patient")), section_of(averaged, card=BY_PATIENT)
    assert found.rows == expected.rows


# --- several labels --------------------------------------------------------------------------------------------------
def draw_labels(num_labels=3):
    labels = tuple(f"finding{i}" for i in range(num_labels))
    runs = [draw_run(seed) for seed in range(num_labels)]
    stacked = {}
    for split in ("val", "test"):
        targets = np.stack([run[split].targets for run in runs], axis=1).astype(float)
        targets[:20, 1] = np.nan  # unknown
        positive = np.stack([run[split].probabilities[:, 1] for run in runs], axis=1)
        stacked[split] = replace(runs[0][split], targets=targets, probabilities=positive)
    return stacked, ScoringContext(task=MULTILABEL, labels=labels), runs


def test_each_label_is_a_separate_question_without_unknown_targets():
    stacked, card, runs = draw_labels()
    section = section_of(stacked, card=card)
    known = {split: predictions(p.targets[20:], p.probabilities[20:, 1]) for split, p in runs[1].items()}
    assert [cells_of(section, row)["label"] for row in range(3)] == list(card.labels)
    for row, run in enumerate((runs[0], known, runs[2])):
        assert section.rows[row][2:] == section_of(run).rows[0][1:]


@pytest.mark.integration
def test_with_many_labels_a_terminal_shows_only_whole_models():
    stacked, card, _ = draw_labels(5)
    assert section_of(stacked, card=card).compact_rows == 10
    row = ScoredRow(label="net", baseline=False, stored=[[stacked]], seeds=(0,))
    request = SectionRequest(rows=[row] * 4, card=card, facts={}, primary=METRICS[0], threshold="val")
    assert len(build_section(request).rows) == 20


def test_a_task_without_a_positive_class_has_no_such_section():
    assert section_of(draw_run(), card=ScoringContext(task=MULTICLASS, labels=("a", "b"))) is None


# --- at a prevalence -------------------------------------------------------------------------------------------------
def test_predictive_values_are_shares_of_a_population_of_that_prevalence():
    population = 1_000_000
    sick = 20_000  # 2 %
    found, alarms = 0.9 * sick, 0.2 * (population - sick)
    ppv, npv = predictive_values(np.array(0.9), np.array(0.8), 0.02)
    assert ppv == approx(found / (found + alarms))
    assert npv == approx(0.8 * (population - sick) / (0.8 * (population - sick) + 0.1 * sick))


def test_at_the_test_splits_own_prevalence_they_are_the_observed_ones():
    run = draw_run()
    share = float(run["test"].targets.mean())
    cells = cells_of(section_of(run, prevalence=share))
    for name in ("PPV", "NPV"):
        (column,) = (column for column in cells if column.startswith(f"{name} at"))
        assert cells[column].value == approx(cells[name].value)


def test_the_ratio_interval_solves_its_equations():
    (l1, u1), (l2, u2) = wilson_interval(6, 40), wilson_interval(45, 60)
    first, second = 6 / 40, 45 / 60
    low = brentq(lambda r: first - r * second - np.hypot(first - l1, r * (u2 - second)), 0, 1)
    high = brentq(lambda r: first - r * second + np.hypot(u1 - first, r * (second - l2)), 0, 1)
    assert ratio_interval(first, second, (l1, u1), (l2, u2)) == approx((low, high))


def test_with_many_patients_the_interval_approaches_mercaldos_logit_interval():
    n1, n0, se, sp, p = 40_000, 60_000, 0.85, 0.9, 0.05
    (ppv,), (npv,) = (np.atleast_1d(v) for v in predictive_values(np.array(se), np.array(sp), p))
    of_ppv, of_npv = predictive_intervals(se, sp, wilson_interval(se * n1, n1), wilson_interval(sp * n0, n0), p)
    for value, found, variance in (  # Mercaldo, Lau & Zhou 2007: variances of logit PPV and logit NPV
        (ppv, of_ppv, (1 - se) / (se * n1) + sp / ((1 - sp) * n0)),
        (npv, of_npv, se / ((1 - se) * n1) + (1 - sp) / (sp * n0)),
    ):
        logit = np.log(value / (1 - value))
        expected = [1 / (1 + np.exp(-(logit + sign * 1.959964 * np.sqrt(variance)))) for sign in (-1, 1)]
        assert found == approx(expected, rel=1e-3)


@pytest.mark.parametrize("num", [(20, 20), (30, 100)])
@pytest.mark.parametrize(("se", "sp"), [(0.9, 0.8), (0.95, 0.95), (0.7, 0.99)])
def test_predictive_intervals_cover_by_counting_every_outcome(se, sp, num):
    p, truth = 0.02, [float(v) for v in predictive_values(np.array(se), np.array(sp), 0.02)]
    covered = np.zeros(2)
    outcomes = [
        [(k / n, wilson_interval(k, n), chance) for k, chance in enumerate(binom.pmf(range(n + 1), n, share))]
        for n, share in zip(num, (se, sp), strict=True)
    ]
    for (hits, of_hits, chance_of_hits), (right, of_right, chance_of_right) in product(*outcomes):
        bounds = predictive_intervals(hits, right, of_hits, of_right, p)
        inside = [low - 1e-12 <= v <= high + 1e-12 for v, (low, high) in zip(truth, bounds, strict=True)]
        covered += chance_of_hits * chance_of_right * np.array(inside)
    assert (covered > 0.92).all()


def test_a_specificity_of_1_still_gives_an_interval_of_the_ppv():
    of_ppv, of_npv = predictive_intervals(0.9, 1.0, wilson_interval(36, 40), wilson_interval(60, 60), 0.02)
    assert of_ppv[1] == 1.0 and 0.1 < of_ppv[0] < 0.5
    assert of_npv[0] < of_npv[1] < 1.0


def test_the_values_at_a_prevalence_follow_from_the_rows_sensitivity_and_specificity():
    for runs, card in (
        ([draw_run(seed) for seed in range(3)], CARD),
        ([draw_run(seed, num=60, num_images=5) for seed in range(2)], BY_PATIENT),
    ):
        section = section_of(*runs, card=card, prevalence=0.02)
        cells = cells_of(section)
        expected = predictive_values(np.array(cells["sensitivity"].value), np.array(cells["specificity"].value), 0.02)
        for name, value in zip(("PPV at 2 %", "NPV at 2 %"), expected, strict=True):
            assert cells[name].value == approx(float(value))
            assert 0 <= cells[name].low < cells[name].value < cells[name].high <= 1
        kind = "MOVER-R" if card is CARD else "patient-cluster bootstrap, B=2000 (patients + seeds)"
        assert kind in cells["PPV at 2 %"].method.text
        assert any("at 2 %: by Bayes' rule" in note for note in section.notes)


def test_bootstrap_and_mover_agree_on_independent_images():
    run = draw_run(num=600)
    paired = {s: replace(p, patients=np.repeat(np.arange(300), 2).astype(str)) for s, p in run.items()}
    mover, bootstrap = (cells_of(section_of(case, card=BY_PATIENT, prevalence=0.1)) for case in (run, paired))
    for name in ("PPV at 10 %", "NPV at 10 %"):
        assert bootstrap[name].value == approx(mover[name].value)
        assert (bootstrap[name].low, bootstrap[name].high) == approx((mover[name].low, mover[name].high), abs=0.03)


def test_without_positive_calls_the_ppv_has_a_reason_and_no_value():
    run = {split: predictions(np.arange(60) % 2, np.full(60, 0.3)) for split in ("val", "test")}
    cells = cells_of(section_of(run, prevalence=0.02))
    assert cells["PPV"].value is None and reason_text(cells["PPV"].reason) == "nothing is called positive"
    assert cells["PPV at 2 %"].value is None and reason_text(cells["PPV at 2 %"].reason) == "nothing is called positive"
    assert cells["NPV at 2 %"].value == approx(0.98)
