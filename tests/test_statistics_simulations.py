"""Coverage, false claims and power as in docs/statistics.md, with fewer repetitions than its tables."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "statistics" / "simulate.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulate", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # needed by its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("area", "positives", "negatives", "least"), [(0.8, 50, 50, 0.93), (0.95, 50, 50, 0.93), (0.95, 10, 90, 0.90)]
)
def test_logit_delong_covers(simulate, area, positives, negatives, least):
    assert simulate.cover_area(area, positives, negatives, 40_000) >= least


def test_the_bootstrap_by_patient_covers_and_the_one_by_image_does_not(simulate):
    by_patient, by_image = simulate.cover_clusters(60, 6, 500, num_resamples=1000)
    assert by_patient >= 0.92
    assert by_image < 0.80


@pytest.mark.parametrize("num_images", [100, 300, 1000])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.8, 0.0), (0.5, 0.7)])
def test_the_interval_of_ece_covers_where_percentiles_do_not(simulate, slope, shift, num_images):
    truth, less_noise, percentiles = simulate.cover_calibration(slope, shift, num_images, 200)
    assert less_noise >= 0.90
    assert truth > 0.01 or percentiles == 0


@pytest.mark.parametrize("area", [0.75, 0.95])
@pytest.mark.parametrize("sizes", [[(50, 100)] * 2, [(10, 10), (100, 200)], [(10, 10)] * 4])
def test_at_most_7_percent_of_models_have_a_subgroup_flagged_by_chance(simulate, sizes, area):
    covers, claims = simulate.claim_groups(sizes, area, 400)
    assert covers >= 0.94
    assert claims <= 0.07


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sd", [0.0, 0.01, 0.03])
def test_the_interval_of_a_mean_over_seeds_covers(simulate, seeds, sd):
    both, alone = simulate.cover_seeds(seeds, sd, 1000)
    assert both >= 0.92
    assert sd < 0.03 or alone < 0.80


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sd", [0.0, 0.01, 0.03])
@pytest.mark.parametrize(("patients", "images"), [(200, 1), (60, 6)])
def test_boards_of_ten_equal_models_claim_a_difference_in_at_most_7_percent(simulate, patients, images, seeds, sd):
    setting = simulate.Setting(num_seeds=seeds, seed_sd=sd, num_patients=patients, num_images=images)
    claims = simulate.count_claims(setting, 400)
    assert claims["rule"] <= 0.07  # 5 % plus chance in 400 repetitions
    assert claims["naive z"] > 0.3  # the differences are large enough to reveal a bad test


def test_a_lead_of_3_points_is_detected_with_1000_patients(simulate):
    alone = simulate.Setting(num_models=2, num_patients=1000, lead=0.03)
    assert simulate.find_power(alone, 100)["one pair"] > 0.8
    among_ten = simulate.Setting(num_patients=1000, lead=0.03)
    assert simulate.find_power(among_ten, 50)["any"] > 0.8


@pytest.mark.parametrize("lead", [0.0, 0.03])
def test_mean_rank_intervals_cover_a_leaders_rank_and_equal_models_have_no_leader(simulate, lead):
    setting = simulate.Setting(num_models=10, seed_sd=0.01, num_patients=200, lead=lead)
    actual = simulate.order_across(setting, 10, 25)
    assert actual["first"] >= 0.9 and actual["all"] >= 0.9
    assert actual["claims"] == actual["right"] if lead else actual["claims"] <= 0.04
