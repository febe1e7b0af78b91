"""What `list`, `info`, `why` show, as plain data."""

import json

import pytest

from zoo.errors import DataError, ResultsError, UsageError
from zoo.registry.lookup import Registry
from zoo.registry.model_sets import MODEL_SETS
from zoo.registry.opening import open_registry
from zoo.report.catalog import describe_item, list_items
from zoo.report.text import table_lines, to_text
from zoo.results.lookup import describe_run, explain_run
from zoo.results.plans import save_plan
from zoo.specs.dataset import DatasetSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.protocol import FINETUNE
from zoo.system.files import SEAL, write_sealed
from zoo.tasks.kinds import BINARY


def build(request):
    raise AssertionError("listing builds nothing")


def not_here(request):
    raise DataError("not on this machine", code="offline")


REGISTRY = Registry(
    models={
        "tiny": ModelSpec(name="tiny", build=build, family="dots", weights=(Weights(tag="a"), Weights(tag="b"))),
        "zoo-x:other": ModelSpec(name="other", build=build),
    },
    datasets={"dots": DatasetSpec(name="dots", task=BINARY, labels=("a", "b\x1b"), samples=not_here, license="CC0")},
    metrics={"auroc": MetricSpec(name="auroc", compute=build)},
    protocols={"finetune": FINETUNE},
    owners={"model": {"tiny": ("zoo-tiny",), "other": ("zoo-x",)}},
)


def names(kind, pattern=None):
    return [item["name"] for item in list_items(kind, pattern, REGISTRY)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["tiny", "zoo-x:other"]),
        ("ti", ["tiny"]),
        ("t*", ["tiny"]),
        ("zoo-x:*", ["zoo-x:other"]),
        ("zoo-tiny:t*", ["tiny"]),
        ("nothing", []),
    ],
)
def test_a_pattern_is_a_glob_or_a_part_of_a_name(pattern, expected):
    assert names("models", pattern) == expected


@pytest.mark.parametrize("kind", ["models", "datasets", "metrics", "protocols", "suites", "executors"])
def test_every_kind_lists_as_json_with_a_name_and_a_plugin(kind):
    items = list_items(kind, None, open_registry())
    assert items and all(item["name"] and "plugin" in item for item in json.loads(json.dumps(items)))


def test_the_core_owns_what_the_core_brings():
    items = {item["name"]: item for item in list_items("metrics", None, open_registry())}
    assert items["auroc"]["plugin"] == "zoo-bench"


def test_lines_have_columns_as_wide_as_they_must_be():
    lines = table_lines([{"name": "a", "labels": [1, 2]}, {"name": "longer", "labels": [1, 2, 3, 4, 5, 6]}])
    assert lines == ["name    labels", "a       1, 2", "longer  1, 2, 3 and 3 more"]


def test_lines_show_no_control_character():
    assert table_lines([{"labels": ["b\x1b", "c"]}]) == ["labels", "b\\x1b, c"]


def test_info_leaves_out_what_is_callable_or_empty():
    described = describe_item("models", "tiny", REGISTRY)
    assert (described["name"], described["plugin"]) == ("tiny", "zoo-tiny:tiny")
    assert described["default_weights"] == "a"
    assert [weights["tag"] for weights in described["weights"]] == ["a", "b"]
    assert "build" not in described and "citation" not in described
    json.dumps(described)


@pytest.mark.parametrize(("kind", "name"), [("datasets", "dots"), ("metrics", "auroc"), ("protocols", "finetune")])
def test_info_of_each_kind_is_json(kind, name):
    assert json.loads(json.dumps(describe_item(kind, name, REGISTRY)))["name"] == name


def test_info_of_a_suite_and_of_a_set_of_models():
    assert describe_item("suites", "quickstart", REGISTRY)["datasets"] == ("phantom",)
    assert "resnet18" in describe_item("models", "starter", REGISTRY)["models"]


def test_a_set_of_models_is_listed_by_its_name(monkeypatch):
    monkeypatch.setitem(MODEL_SETS, "few", ("tiny", "not-installed"))
    assert names("models", "few") == ["tiny"]


def test_a_metric_that_says_nothing_of_itself_has_no_formula():
    assert "formula" not in describe_item("metrics", "auroc", REGISTRY)


def test_info_of_a_path_opens_it_and_draws_its_splits(tiny_data):
    described = describe_item("datasets", str(tiny_data / "folders"), REGISTRY)
    assert described["images"] == 160
    assert {name: part["images"] for name, part in described["splits"].items()} == {"train": 60, "val": 60, "test": 40}
    patients = describe_item("datasets", str(tiny_data / "patients"), REGISTRY)
    assert (patients["patients"], patients["split"]) == (20, "5-fold")


class WordlessError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def opened(error):
    def samples(request):
        raise error

    spec = DatasetSpec(name="dots", task=BINARY, labels=("a", "b"), samples=samples)
    return describe_item("datasets", "dots", Registry(datasets={"dots": spec}))


def test_a_plugin_s_set_that_is_refused_is_an_error_as_one_given_by_path_is():
    with pytest.raises(DataError, match="no images") as caught:
        opened(DataError("dataset 'dots': it has no images"))
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("code", ["offline", "data-missing"])
def test_of_a_plugin_s_set_whose_data_are_not_here_the_card_is_shown(code):
    assert opened(DataError("not on this machine", code=code))["data"] == "not shown: not on this machine"


def test_the_card_of_a_family_of_sets_is_shown_and_nothing_opened():
    spec = DatasetSpec(name="kaggle", task=BINARY, labels=(), samples=build, find=build, title="sets of Kaggle")
    described = describe_item("datasets", "kaggle", Registry(datasets={"kaggle": spec}))
    assert described["title"] == "sets of Kaggle" and "data" not in described


def test_an_exception_that_cannot_be_shown_is_one_line_of_info():
    with pytest.raises(DataError, match=r"WordlessError: \(its message cannot be shown: RuntimeError\) \(test_catalog"):
        opened(WordlessError())


def test_text_shows_no_control_character():
    text = to_text(describe_item("datasets", "dots", REGISTRY) | {"counts": {"b\x1b": 1}})
    assert "\x1b" not in text
    assert "labels: a, b\\x1b" in text
    assert "license: CC0" in text


# --- runs ------------------------------------------------------------------------------------------------------------
def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path, store):
    stored = store(tmp_path)
    described = describe_run(stored.id[:6], tmp_path, REGISTRY)
    assert described["id"] == stored.id
    assert described["scores"]["auroc"]["value"] == stored.scores()["auroc"].value
    json.dumps(described)


@pytest.mark.parametrize(("asked", "said"), [("abc", "too short"), ("abcdefgh", "unknown run 'abcdefgh'")])
def test_a_run_that_is_not_there_is_an_error_of_usage(tmp_path, store, asked, said):
    store(tmp_path)
    with pytest.raises(UsageError, match=said):
        describe_run(asked, tmp_path, REGISTRY)
    with pytest.raises(UsageError, match=said):
        explain_run(asked, tmp_path)


@pytest.mark.parametrize("ask", [lambda i, root: describe_run(i, root, REGISTRY), explain_run], ids=["info", "why"])
def test_a_damaged_run_that_is_asked_for_is_named(tmp_path, store, capsys, ask):
    stored = store(tmp_path)
    (stored.folder / "predictions.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="unknown run"):
        ask(stored.id[:8], tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"left out: {stored.folder}/predictions.npz: is not what was written" in said


def change_sealed(path, change):
    document = json.loads(path.read_text())
    document.pop(SEAL)
    change(document)
    write_sealed(path, document)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d["identity"]["protocol"].update(regularizations=[{}, 1.0]), "identity.protocol.regularizations"),
        (lambda d: d["identity"]["protocol"].update(stem={"own": 1}), "identity.protocol.stem"),
        (lambda d: d["identity"].update(protocol=None), "identity.protocol"),
        (lambda d: d["identity"].update(seed=[{}]), "identity.seed"),
        (lambda d: d["identity"].pop("dataset"), "identity.dataset"),
        (lambda d: d["run"].update(weights_digest={}), "run.weights_digest"),
        (lambda d: d["dataset"].update(task="telepathy"), "dataset.task"),
        (lambda d: d["dataset"].update(unit=[]), "dataset.unit"),
        (lambda d: d["dataset"].update(val_unit={}), "dataset.val_unit"),
        (lambda d: d["dataset"].update(positive=-1), "dataset.positive"),
        (lambda d: d.update(dataset={}), "dataset: missing"),
    ],
)
def test_a_field_of_a_stored_run_that_is_of_a_wrong_type_is_named(tmp_path, store, capsys, change, field):
    stored = store(tmp_path)
    change_sealed(stored.folder / "result.json", change)
    for ask in (lambda i, root: describe_run(i, root, REGISTRY), explain_run):
        with pytest.raises(UsageError, match="unknown run"):
            ask(stored.id[:8], tmp_path)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"{stored.folder}/result.json: {field}" in said


@pytest.mark.parametrize(("field", "value"), [("method", {}), ("note", 1), ("reason", [{}]), ("version", "x")])
def test_a_field_of_a_stored_score_that_is_of_a_wrong_type_is_one_line(tmp_path, store, field, value):
    stored = store(tmp_path)
    change_sealed(stored.folder / "scores.json", lambda d: d["scores"]["auroc"].update({field: value}))
    with pytest.raises(ResultsError, match=r"scores\.json: cannot be read"):
        describe_run(stored.id[:8], tmp_path, REGISTRY)


@pytest.mark.parametrize(
    "facts", [{"labels": ["a"]}, {"labels": ["a", "b", "c"]}, {"positive": 5}, {"task": "multilabel"}]
)
def test_predictions_of_other_labels_than_the_card_s_are_one_line(tmp_path, store, facts):
    stored = store(tmp_path)
    change_sealed(stored.folder / "result.json", lambda d: d["dataset"].update(facts))
    with pytest.raises(ResultsError, match="its predictions do not fit the labels of its dataset"):
        describe_run(stored.id[:8], tmp_path, REGISTRY)


def test_what_is_no_table_of_facts_is_shown_as_it_is():
    assert to_text({"odd": [{"a": 1}, "x"]}) == "odd: {'a': 1}, x"


def test_an_unknown_run_names_the_nearest(tmp_path, store):
    stored = store(tmp_path)
    typo = stored.id[:6] + ("00" if stored.id[6:8] != "00" else "11")
    with pytest.raises(UsageError, match=f"Did you mean '{stored.id[:8]}'"):
        explain_run(typo, tmp_path)


def test_why_a_finished_run_is_reused(tmp_path, store):
    stored = store(tmp_path)
    explained = explain_run(stored.id[:8], tmp_path)
    assert explained["status"] == "ok"
    assert explained["answer"].endswith("the same command reuses it")


def test_why_a_failed_run_is_tried_again(tmp_path, store):
    stored = store(tmp_path, status="timeout")
    explained = explain_run(stored.id[:8], tmp_path)
    assert explained["answer"].startswith("ended as timeout")


def test_why_a_planned_run_is_not_the_same_says_field_by_field(tmp_path, store, monkeypatch):
    import dataclasses

    from zoo.results.runs import Run
    from zoo.specs.protocol import SCRATCH

    stored = store(tmp_path, seed=0)
    fields = {name: value for name, value in stored.run.items() if name != "protocol_label"}
    recipe = dataclasses.replace(SCRATCH, epochs=None, steps=5)
    planned = Run(**{**fields, "protocol": recipe, "deviations": (), "seed": 1})
    save_plan([planned], tmp_path)
    explained = explain_run(planned.id[:8], tmp_path)
    assert explained["status"] == "not run"
    assert explained["nearest"] == [
        {"id": stored.id[:8], "differs in": "seed: 1 here, 0 there; protocol.steps: 5 here, 4 there"}
    ]
