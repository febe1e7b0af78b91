"""The toy segmentation: a kind of answer that the core does not know gets a board."""

import json
import subprocess
import sys

import numpy as np
import pytest

from zoo.registry.opening import open_registry
from zoo.results.store import load_results
from zoo.tasks.kinds import find_task
from zoo.testing import check_dataset, check_metric, check_model
from zoo_phantom import DICE, MASKED, NETS, SEGMENTATION
from zoo_phantom.segmentation import dice_of


def mask(*pixels):
    drawn = np.zeros((1, 4, 4), np.uint8)
    for row, column in pixels:
        drawn[0, row, column] = 1
    return drawn


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (mask((0, 0), (0, 1)), mask((0, 1), (0, 2)), 0.5),
        (mask((0, 0)), mask((0, 0)), 1.0),
        (mask(), mask((1, 1)), 0.0),
        (mask((1, 1)), mask(), 0.0),
        (mask(), mask(), np.nan),
    ],
)
def test_dice_is_twice_the_shared_pixels_by_the_sum(answer, target, expected):
    np.testing.assert_equal(dice_of(answer, target), [expected])


def test_registered_tasks_are_found_by_name():
    open_registry()
    assert find_task("toy_segmentation") is SEGMENTATION


def test_the_metric_and_the_networks_pass_the_conformance_kit():
    open_registry()
    check_metric(DICE)
    check_model(NETS[0])


def zoo(*words):
    """The output of a command."""
    done = subprocess.run([sys.executable, "-m", "zoo", *map(str, words)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_segmentation_gets_a_ranked_board_with_intervals_and_paired_tests(tmp_path):
    check_dataset(MASKED, tmp_path)
    results, models = tmp_path / "results", ",".join(net.name for net in NETS)
    bench = "bench --datasets phantom_masks --protocol quick --set steps=12 --weights none --seeds 0,1"
    zoo(*bench.split(), "--models", models, "--results", results)
    document = json.loads(zoo("report", "--results", results, "--format", "json"))
    assert sorted(row["model"] for row in document["leaderboard"]) == sorted(net.name for net in NETS)
    for row in document["leaderboard"]:
        assert row["rank"] in (1, 2) and 0 <= row["low"] < row["value"] < row["high"] <= 1
    (pair,) = document["boards"][0]["comparisons"]["pairs"]
    assert 0 <= pair["p"] <= 1
    assert "dice" in zoo("compare", *models.split(","), "--results", results)
    assert "toy_net_8" in zoo("list", "runs", "--results", results)  # a command that needs no plugin otherwise
    for stored in load_results(results)[0]:
        assert stored.dataset["task_plugin"] == "zoo-phantom" and "zoo-phantom" in stored.versions
