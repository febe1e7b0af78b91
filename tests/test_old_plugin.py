"""A plugin written against an earlier zoo works unchanged."""

from pathlib import Path

from pytest import approx

SOURCE = Path(__file__).with_name("plugin_of_9b98e11.py")


def test_a_plugin_of_an_earlier_zoo_gets_its_board(tmp_path, install, zoo, bench):
    site = tmp_path / "site"
    site.mkdir()
    install(site, "zoo-old", SOURCE.read_text())
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
