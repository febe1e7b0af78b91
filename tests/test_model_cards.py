"""Model cards: huggingface_hub reads back the scores of the result, and the text has what the record has."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from factories import draw_images
from PIL import Image

from zoo.report.model_cards import best_baseline, license_fields
from zoo.results.store import load_results
from zoo.trained.card import shareable_notes

pytestmark = pytest.mark.integration
hub = pytest.importorskip("huggingface_hub")

FACTS = """
schema = 1
title = "Spots | of a [test]"
license = "CC BY 4.0"
known_issues = ["two images are the same"]
table = "table.csv"
join = {column = "file"}
patient = {column = "person"}
metadata = ["sex"]
split = {column = "split"}
label = {column = "label", positive = "ill"}
"""


def write_dataset(folder, count, seed):
    """Patients with two images each, half of them ill."""
    folder.mkdir()
    ill = np.repeat(np.arange(count) % 2, 2)
    lines = ["file,person,sex,split,label"]
    for number, image in enumerate(draw_images(ill, seed)):
        Image.fromarray(image).save(folder / f"{number:03}.png")
        sex, split = "mf"[number // 4 % 2], ("train", "val", "test", "test")[number * 2 // count]
        label = ("well", "ill")[ill[number]]
        lines.append(f"{number:03}.png,{folder.name}{number // 2},{sex},{split},{label}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "dataset.toml").write_text(f'name = "{folder.name}"{FACTS}')
    return folder


@pytest.fixture(scope="module")
def folder(zoo, tmp_path_factory):
    """Results of two models with two seeds each, tested on another dataset too; the best seed's weights are kept."""
    root = tmp_path_factory.mktemp("cards")
    own, other = write_dataset(root / "spots", 80, 1), write_dataset(root / "elsewhere", 40, 2)
    budget = ("--protocol", "quick", "--set", "steps=4", "--set", "rounds=1", "--set", "image_size=32")
    done = zoo(
        *("bench", "--models", "tiny_cnn,zoo-timm:resnet10t", "--weights", "none", "--datasets", own, *budget),
        *("--test-on", other, "--seeds", "0,1", "--results", root / "results"),
    )
    assert done.returncode == 0, done.stderr
    return root / "results"


@pytest.fixture(scope="module")
def cards(zoo, folder):
    output = folder.parent / "written"
    done = zoo("report", "--cards", output, "--by", "sex", "--results", folder)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def hub_folder(zoo, folder):
    output = folder.parent / "hub"
    done = zoo("export", "spots/resnet10t", "--to", "hub-folder", "-o", output, "--results", folder)
    assert done.returncode == 0, done.stderr
    return output


def kept_results(folder):
    return {r.run["shown"]: r for r in load_results(folder)[0] if (r.folder / "model.safetensors").exists()}


def load_card(path):
    return hub.ModelCard.load(path)


def test_each_row_with_kept_weights_has_a_card(cards, folder):
    names = sorted(path.name for path in cards.iterdir())
    assert [name.split("__")[:2] for name in names] == [["spots", "resnet10t"], ["spots", "tiny_cnn"]]
    assert len(kept_results(folder)) == len(names)


@pytest.mark.parametrize("model", ["resnet10t", "tiny_cnn"])
def test_the_hub_reads_back_the_scores_of_the_result(cards, folder, model):
    (path,) = cards.glob(f"spots__{model}__*.md")
    result, found = kept_results(folder)[model], load_card(path).data.eval_results
    own = {each.metric_type: each for each in found if each.dataset_type == "spots"}
    expected = {name: score for name, score in result.scores().items() if score.value is not None}
    assert own.keys() == expected.keys()
    for name, score in expected.items():
        assert own[name].metric_value == score.value
        if score.low is not None:
            assert own[name].metric_args["ci"] == [score.low, score.high]
        assert own[name].metric_args["n_patients"] == result.dataset["splits"]["test"]["patients"]
        assert own[name].metric_args["run"] == result.id
        assert own[name].task_type == "image-classification"
    assert "area" in own["auroc"].metric_args["definition"].lower()


def test_external_scores_are_those_of_the_same_weights(cards, folder):
    (path,) = cards.glob("spots__tiny_cnn__*.md")
    kept = kept_results(folder)["tiny_cnn"]
    (external,) = [r for r in load_results(folder)[0] if r.details.get("trained_run") == kept.id]
    found = {e.metric_type: e for e in load_card(path).data.eval_results if e.dataset_type == "elsewhere"}
    assert found["auroc"].metric_value == external.scores()["auroc"].value
    assert found["auroc"].metric_args["n_patients"] == 40


def test_the_text_has_the_record_and_names_what_is_blank(cards):
    (path,) = cards.glob("spots__tiny_cnn__*.md")
    text = load_card(path).text
    assert "not a medical device" in text
    for fact in ("CC BY 4.0", "two images are the same", "audit: passed", "Temperature of these weights", "thumbnails"):
        assert fact in text
    assert re.search(r"\d+ of 44 items are filled from the record", text)
    assert "| 33 | testing on external data | tested on elsewhere |" in text
    assert "| steps | 4 |" in text
    assert "zoo bench" in text
    assert re.search(r"\| 44 \| [^|]*funding[^|]* \| \(blank: for the authors\) \|", text)
    assert r"Spots \| of a \[test\]" in text  # names from data cannot break a table
    assert re.search(r"\| tiny\\_cnn \| sex \| f \|", text)


def test_subgroups_are_absent_unless_requested(hub_folder):
    assert "None were requested" in load_card(hub_folder / "README.md").text


def test_a_hub_folder_has_the_weights_their_card_and_a_loader(hub_folder, folder):
    files = {path.name for path in hub_folder.iterdir()}
    assert {"model.safetensors", "card.json", "README.md", "load.py"} <= files
    metadata = load_card(hub_folder / "README.md").data
    assert (metadata.model_name, metadata.license) == ("spots/resnet10t", "cc-by-4.0")
    assert json.loads((hub_folder / "card.json").read_text())["run"] == kept_results(folder)["resnet10t"].id


def test_a_hub_folder_predicts(zoo, hub_folder, folder):
    done = zoo("predict", hub_folder, folder.parent / "elsewhere" / "000.png")
    assert done.returncode == 0, done.stderr


def test_an_exported_folder_has_no_record_to_fill_a_card(zoo, hub_folder, folder, tmp_path):
    done = zoo("export", hub_folder, "--to", "hub-folder", "-o", tmp_path / "again", "--results", folder)
    assert done.returncode == 2
    assert "no record of its run" in done.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("data", "weights", "tag", "fields"),
    [
        ("CC BY 4.0", "Apache-2.0", "", {"license": "cc-by-4.0"}),
        ("Apache-2.0", "Apache-2.0", "in1k", {"license": "apache-2.0"}),
        ("CC BY-NC 4.0", "MIT", "in1k", {"license": "other", "license_name": "CC BY-NC 4.0, MIT"}),
        ("see the page", "", "", {"license": "other", "license_name": "see the page"}),
        ("", "MIT", "in1k", {}),
        ("MIT", "", "in1k", {}),
        ("unknown", "", "", {}),
    ],
)
def test_the_license_is_that_of_the_data_and_the_initial_weights_if_both_are_known(data, weights, tag, fields):
    card = SimpleNamespace(dataset={"license": data}, weights={"license": weights, "tag": tag})
    assert license_fields(card) == fields


def test_notes_of_a_shared_card_name_no_file_and_no_patient():
    notes = ["3 rows have no row in extra.csv, first person 'Jane Doe'", "2 volumes have no slice left, first a/x.nii"]
    shared = " ".join(shareable_notes({"name": "spots", "labels": ["well"], "notes": notes}))
    assert "Doe" not in shared and "x.nii" not in shared and "2 volumes have no slice left" in shared


def test_the_best_baseline_may_score_0():
    row = SimpleNamespace(label="constant", is_second_reader=False, scores={"mcc": SimpleNamespace(value=0.0)})
    board = SimpleNamespace(specs={"mcc": SimpleNamespace(higher_is_better=True)})
    assert best_baseline(SimpleNamespace(baselines=[row], board=board), "mcc").endswith("(constant)")


def test_without_kept_weights_there_is_no_card(zoo, store, tmp_path):
    store(tmp_path / "results")
    done = zoo("report", "--cards", tmp_path / "cards", "--results", tmp_path / "results")
    assert done.returncode == 5
    assert "no weights are kept" in done.stderr


def test_flags_of_boards_are_refused(zoo, folder, tmp_path):
    done = zoo("report", "--cards", tmp_path, "--format", "html", "--results", folder)
    assert done.returncode == 2
    assert "--format" in done.stderr
