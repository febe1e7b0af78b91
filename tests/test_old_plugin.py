"""Plugins written against earlier versions of zoo work unchanged."""

from pathlib import Path

import pytest
from pytest import approx

from zoo import __all__ as offered

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def site_of(tmp_path_factory, install):
    """A folder with the plugin of an earlier zoo installed in it."""

    def build(commit, name):
        site = tmp_path_factory.mktemp("site")
        install(site, name, (HERE / f"plugin_of_{commit}.py").read_text())
        return site

    return build


def test_a_plugin_of_an_earlier_zoo_gets_its_board(tmp_path, site_of, zoo, bench):
    site = site_of("9b98e11", "zoo-old")
    chosen = {"-m": "old_cnn,old_binary_cnn", "-d": "old_dots", "--protocol": "old_quick", "--weights": "none"}
    chosen["--metrics"] = "auroc,accuracy,old_share"
    words = [word for pair in chosen.items() for word in pair]
    status, document, said = bench(*words, "--seeds", "0,1", "--results", tmp_path / "results", sites=[site])
    assert status == 0, said
    rows = {row["model"]: row for row in document["leaderboard"]}
    assert {"old_cnn", "old_binary_cnn"} <= rows.keys()
    for row in rows.values():
        assert row["protocol"] in ("old_quick@1", "baseline@1")
        assert row["scores"]["old_share"]["value"] == approx(row["scores"]["accuracy"]["value"])
    listed = zoo("list", "metrics", "old_share", sites=[site])
    assert "zoo-old" in listed.stdout


@pytest.fixture(scope="module")
def site_of_v2(site_of):
    return site_of("2e28dcf", "zoo-v2")


def test_a_suite_task_executor_and_observer_of_an_earlier_zoo_work(tmp_path, site_of_v2, bench):
    chosen = ["--suite", "v2_suite", "--executor", "v2_forks", "--observers", "v2_recorder"]
    status, document, said = bench(*chosen, "--results", tmp_path / "results", sites=[site_of_v2])
    assert status == 0, said
    rows = {row["dataset"]: row for row in document["leaderboard"] if row["model"] == "v2_cnn"}
    assert rows.keys() == {"v2_dots", "v2_smooth_dots"}
    for row in rows.values():
        assert row["protocol"] == "v2_quick@1"
        assert row["scores"]["v2_share"]["value"] == approx(row["scores"]["v2_right"]["value"])
    recorded = (tmp_path / "results" / "recorded.txt").read_text().splitlines()
    assert recorded.count('["v2_cnn", "ok"]') == 2


def test_masks_of_an_earlier_zoo_get_their_board(tmp_path, site_of_v2, bench):
    chosen = ["-m", "v2_masker", "-d", "v2_masks", "--protocol", "v2_masks", "--seeds", "1"]
    status, document, said = bench(*chosen, "--results", tmp_path / "results", sites=[site_of_v2])
    assert status == 0, said
    rows = {row["model"]: row for row in document["leaderboard"]}
    assert 0 <= rows["v2_masker"]["scores"]["dice"]["value"] <= 1


def test_the_newest_of_these_plugins_imports_every_name_that_zoo_offered_then():
    text = (HERE / "plugin_of_2e28dcf.py").read_text().partition("from zoo import (")[2].partition(")")[0]
    imported = {name.strip() for name in text.split(",") if name.strip()}
    assert len(imported) == 42 and imported <= set(offered)
