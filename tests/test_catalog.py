"""The data shown by `zoo list`, `zoo info` and `zoo why`."""

import json

import pytest

from zoo import BINARY
from zoo.errors import DataError, ResultsError, UsageError
from zoo.registry.lookup import Plugin, Registry
from zoo.registry.opening import open_registry
from zoo.report.catalog import describe_item, list_items, list_plugins, tabulate_plugins
from zoo.report.text import table_lines, to_text
from zoo.results.lookup import describe_run, explain_run
from zoo.results.plans import save_plan
from zoo.specs.dataset import DatasetSpec
from zoo.specs.hooks import KIND_OF
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.protocol import FINETUNE
from zoo.specs.suite import Suite
from zoo.system.files import SEAL, write_sealed


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
    suites={"few": Suite(name="few", models=("tiny", "not-installed"))},
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


@pytest.mark.parametrize("kind", KIND_OF)
def test_every_kind_lists_as_json_with_a_name_and_a_plugin(kind):
    items = list_items(kind, None, open_registry())
    assert items or kind == "readers"  # zoo's own formats have no spec
    assert all(item["name"] and "plugin" in item for item in json.loads(json.dumps(items)))


def test_core_metrics_belong_to_zoo_bench():
    items = {item["name"]: item for item in list_items("metrics", None, open_registry())}
    assert items["auroc"]["plugin"] == "zoo-bench"


def test_columns_of_lines_are_aligned():
    lines = table_lines([{"name": "a", "labels": [1, 2]}, {"name": "longer", "labels": [1, 2, 3, 4, 5, 6]}])
    assert lines == ["name    labels", "a       1, 2", "longer  1, 2, 3 and 3 more"]


def test_lines_have_no_control_characters():
    assert table_lines([{"labels": ["b\x1b", "c"]}]) == ["labels", "b\\x1b, c"]


def test_info_omits_callables_and_empty_fields():
    described = describe_item("models", "tiny", REGISTRY)
    assert (described["name"], described["plugin"]) == ("tiny", "zoo-tiny:tiny")
    assert described["default_weights"] == "a"
    assert [weights["tag"] for weights in described["weights"]] == ["a", "b"]
    assert "build" not in described and "citation" not in described
    json.dumps(described)


@pytest.mark.parametrize(("kind", "name"), [("datasets", "dots"), ("metrics", "auroc"), ("protocols", "finetune")])
def test_info_of_each_kind_is_json(kind, name):
    assert json.loads(json.dumps(describe_item(kind, name, REGISTRY)))["name"] == name


def test_info_of_a_suite_and_a_model_set():
    assert describe_item("suites", "quickstart", REGISTRY)["datasets"] == ("phantom",)
    assert "resnet18" in describe_item("models", "starter", open_registry())["models"]


def test_the_models_of_a_suite_are_listed_by_its_name():
    assert names("models", "few") == ["tiny"]


def test_a_metric_without_a_docstring_has_no_formula():
    assert "formula" not in describe_item("metrics", "auroc", REGISTRY)


@pytest.mark.integration
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


def test_a_refused_plugin_dataset_is_an_error():
    with pytest.raises(DataError, match="no images") as caught:
        opened(DataError("dataset 'dots': it has no images"))
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("code", ["offline", "data-missing"])
def test_info_shows_the_card_if_the_data_are_missing(code):
    assert opened(DataError("not on this machine", code=code))["data"] == "not shown: not on this machine"


def test_info_of_a_dataset_family_shows_the_card_only():
    spec = DatasetSpec(name="kaggle", task=BINARY, labels=(), samples=build, find=build, title="sets of Kaggle")
    described = describe_item("datasets", "kaggle", Registry(datasets={"kaggle": spec}))
    assert described["title"] == "sets of Kaggle" and "data" not in described


def test_an_exception_without_a_readable_message_is_one_line():
    with pytest.raises(DataError, match=r"WordlessError: \(its message cannot be shown: RuntimeError\) \(test_catalog"):
        opened(WordlessError())


def test_text_has_no_control_characters():
    text = to_text(describe_item("datasets", "dots", REGISTRY) | {"counts": {"b\x1b": 1}})
    assert "\x1b" not in text
    assert "labels: a, b\\x1b" in text
    assert "license: CC0" in text


# --- runs ------------------------------------------------------------------------------------------------------------
def test_a_run_is_selected_by_a_prefix_of_its_id(tmp_path, store):
    stored = store(tmp_path)
    described = describe_run(stored.id[:6], tmp_path, REGISTRY)
    assert described["id"] == stored.id
    assert described["scores"]["auroc"]["value"] == stored.scores()["auroc"].value
    json.dumps(described)


@pytest.mark.parametrize(("run_id", "message"), [("abc", "too short"), ("abcdefgh", "unknown run 'abcdefgh'")])
def test_an_unknown_run_is_a_usage_error(tmp_path, store, run_id, message):
    store(tmp_path)
    with pytest.raises(UsageError, match=message):
        describe_run(run_id, tmp_path, REGISTRY)
    with pytest.raises(UsageError, match=message):
        explain_run(run_id, tmp_path)


@pytest.mark.parametrize("ask", [lambda i, root: describe_run(i, root, REGISTRY), explain_run], ids=["info", "why"])
def test_a_damaged_requested_run_is_reported(tmp_path, store, capsys, ask):
    stored = store(tmp_path)
    (stored.folder / "predictions.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="unknown run"):
        ask(stored.id[:8], tmp_path)
    stderr = capsys.readouterr().err
    assert (
        stderr.count("\n") == 1 and f"skipped: {stored.folder}/predictions.npz: changed after it was written" in stderr
    )


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
def test_a_stored_field_of_a_wrong_type_is_named(tmp_path, store, capsys, change, field):
    stored = store(tmp_path)
    change_sealed(stored.folder / "result.json", change)
    for ask in (lambda i, root: describe_run(i, root, REGISTRY), explain_run):
        with pytest.raises(UsageError, match="unknown run"):
            ask(stored.id[:8], tmp_path)
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1 and f"{stored.folder}/result.json: {field}" in stderr


@pytest.mark.parametrize(("field", "value"), [("method", {}), ("note", 1), ("reason", [{}]), ("version", "x")])
def test_a_stored_score_of_a_wrong_type_is_one_line(tmp_path, store, field, value):
    stored = store(tmp_path)
    change_sealed(stored.folder / "scores.json", lambda d: d["scores"]["auroc"].update({field: value}))
    with pytest.raises(ResultsError, match=r"scores\.json: cannot be read"):
        describe_run(stored.id[:8], tmp_path, REGISTRY)


@pytest.mark.parametrize(
    "facts", [{"labels": ["a"]}, {"labels": ["a", "b", "c"]}, {"positive": 5}, {"task": "multilabel"}]
)
def test_predictions_with_other_labels_are_one_line(tmp_path, store, facts):
    stored = store(tmp_path)
    change_sealed(stored.folder / "result.json", lambda d: d["dataset"].update(facts))
    with pytest.raises(ResultsError, match="its predictions do not fit the labels of its dataset"):
        describe_run(stored.id[:8], tmp_path, REGISTRY)


def test_lists_with_mixed_types_are_shown_as_text():
    assert to_text({"odd": [{"a": 1}, "x"]}) == "odd: {'a': 1}, x"


def test_an_unknown_run_suggests_the_nearest(tmp_path, store):
    stored = store(tmp_path)
    typo = stored.id[:6] + ("00" if stored.id[6:8] != "00" else "11")
    with pytest.raises(UsageError, match=f"Did you mean '{stored.id[:8]}'"):
        explain_run(typo, tmp_path)


def test_why_a_finished_run_is_reused(tmp_path, store):
    stored = store(tmp_path)
    explained = explain_run(stored.id[:8], tmp_path)
    assert explained["status"] == "ok"
    assert explained["answer"].endswith("the same command reuses it")


def test_why_a_failed_run_is_repeated(tmp_path, store):
    stored = store(tmp_path, status="timeout")
    explained = explain_run(stored.id[:8], tmp_path)
    assert explained["answer"].startswith("status timeout")


def test_why_lists_the_fields_of_a_planned_run_that_differ(tmp_path, store, monkeypatch):
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


def test_the_table_of_plugins_shortens_only_the_version_of_a_file():
    plugins = [
        Plugin(name="zoo-far", version="1.2.3.dev45+g0123abc"),
        Plugin(name="my-net", version=f"sha256:{'ab' * 32}", file="/here/my_net.py"),
    ]
    rows = tabulate_plugins(list_plugins(Registry(plugins=tuple(plugins))))
    assert [row["version"] for row in rows] == ["1.2.3.dev45+g0123abc", "sha256:abababab"]
