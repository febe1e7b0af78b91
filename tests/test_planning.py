"""Planning: names are resolved, datasets opened, and errors raised before the first run starts."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from factories import FACTS, make_predictions
from PIL import Image

from zoo.data.lookup import is_path
from zoo.errors import DataError, UsageError, WeightsError
from zoo.registry.context import Context
from zoo.registry.finding import find_plugins
from zoo.registry.loading import CORE, load_registry
from zoo.registry.lookup import Registry
from zoo.results.plans import load_plan, save_plan
from zoo.results.store import load_result
from zoo.runner.execution import worker_devices
from zoo.runner.planning import has_weights, plan_bench
from zoo.specs.deviation import Deviation
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.protocol import PROTOCOLS
from zoo.specs.suite import Suite
from zoo.system.caches import open_cache
from zoo.system.progress import Console
from zoo.system.settings import Settings


def build(request):
    raise AssertionError("planning builds nothing")


def open_badly(request):
    raise KeyError("column 7")


CORE_SPECS = load_registry([plugin for plugin in find_plugins() if plugin.name == CORE])
TINY = ModelSpec(name="tiny", build=build)
REGISTRY = Registry(
    models={
        "tiny": TINY,
        "tagged": replace(TINY, name="tagged", weights=(Weights(tag="demo", url="https://host.invalid/x"),)),
        "picky": replace(TINY, name="picky", tasks=("binary",), fixed_size=True, image_size=32),
    },
    metrics=CORE_SPECS.metrics,
    executors=CORE_SPECS.executors,
    protocols={protocol.name: protocol for protocol in PROTOCOLS},
)
SUITE = Suite(
    name="flags", models=("tiny",), protocol="scratch", settings=(("image_size", "16"), ("steps", "4")), seeds=(0, 1)
)


def context(results, registry=REGISTRY):
    settings = Settings(results=results, device="cpu")
    return Context(registry=registry, settings=settings, console=Console(stream=io.StringIO()))


@pytest.fixture
def plan(tiny_data, tmp_path):
    """Plan a suite on tiny data; the output goes to `plan.output`."""

    def build_plan(*datasets, registry=REGISTRY, settings=None, **changes):
        suite = replace(SUITE, datasets=tuple(str(tiny_data / name) for name in datasets), **changes)
        build_plan.output = io.StringIO()
        settings = settings or Settings(results=tmp_path / "results", offline=True, device="cpu")
        return plan_bench(
            suite, Context(registry=registry, settings=settings, console=Console(stream=build_plan.output))
        )

    return build_plan


def test_runs_are_models_x_datasets_x_seeds_and_two_baselines(plan):
    actual = plan("binary.npz", "multiclass.npz", models=("tiny", "tagged"), weights="none")
    rows = [(run.dataset, run.shown, run.seed) for run in actual.runs]
    for dataset in ("binary", "multiclass"):
        models = [(dataset, model, seed) for model in ("tiny", "tagged") for seed in (0, 1)]
        assert set(models) | {(dataset, "constant", 0), (dataset, "thumbnails", 0)} <= set(rows)
    assert len(rows) == len(set(rows)) == 12
    assert len({run.id for run in actual.runs}) == 12


def test_without_a_usable_dataset_its_error_is_reported_not_missing_weights(plan, tmp_path):
    (tmp_path / "one" / "class").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one" / "class" / "a.png")
    actual = plan(tmp_path / "one", models=("tagged",), protocol="finetune")
    assert "nothing labels the 1 images" in str(actual.refused[0][1])


def test_duplicate_models_or_datasets_run_once(plan):
    assert len(plan("binary.npz", "binary.npz", models=("tiny", "tin*", "tiny")).runs) == 4


def test_requested_baselines_are_not_added_again(plan):
    registry = replace(
        REGISTRY,
        models={**REGISTRY.models, **{s.name: s for s in CORE_SPECS.models.values() if s.family == "baseline"}},
    )
    actual = plan("binary.npz", models=("thumbnails",), registry=registry)
    assert [run.shown for run in actual.runs if run.protocol.name != "baseline"] == ["thumbnails"] * 2
    assert [run.shown for run in actual.runs if run.protocol.name == "baseline"] == ["constant"]


def test_folds_are_runs_too(plan):
    actual = plan("patients")
    assert len(actual.runs) == 5 * (2 + 2)
    assert {run.fold for run in actual.runs} == set(range(5))


@pytest.mark.parametrize(
    ("changes", "name", "suggestion"),
    [
        ({"models": ("tinny",)}, "'tinny'", "'tiny'"),
        ({"protocol": "skratch"}, "'skratch'", "'scratch'"),
        ({"metrics": ("aurok",)}, "'aurok'", "'auroc'"),
        ({"primary_metric": "aurok"}, "'aurok'", "'auroc'"),
        ({"models": ("x*",)}, "'x*'", ""),
        ({"settings": (("stepz", "4"),)}, "--set stepz=4", "'steps'"),
        ({"settings": (("steps", "many"),)}, "--set steps=many", ""),
        ({"datasets": ()}, "--datasets", ""),
        ({"datasets": ("brestmnist",)}, "'brestmnist'", ""),
    ],
)
def test_a_wrong_name_is_a_usage_error_with_a_suggestion(tmp_path, tiny_data, changes, name, suggestion):
    suite = replace(SUITE, **{"datasets": (str(tiny_data / "binary.npz"),), **changes})
    with pytest.raises(UsageError) as caught:
        plan_bench(suite, context(tmp_path))
    assert caught.value.exit_status == 2
    assert name in str(caught.value) and suggestion in str(caught.value)


def test_a_model_that_does_not_support_the_task_is_a_usage_error(plan, golden):
    with pytest.raises(UsageError, match=r"'picky' .* multiclass .* binary") as caught:
        plan("multiclass.npz", models=("picky",))
    assert caught.value.code == "wrong-task"
    golden(caught.value)


def test_an_unsupported_image_size_becomes_the_nearest_and_is_recorded(plan):
    run = plan("binary.npz", models=("picky",)).runs[0]
    assert (run.image_size, run.deviations) == (32, (Deviation("image-size", (32, 16)),))


def test_unavailable_weights_stop_the_plan(plan):
    with pytest.raises(
        WeightsError, match=r"weights tagged.demo are not available: --offline; .*--weights-dir"
    ) as caught:
        plan("binary.npz", models=("tagged",), protocol="finetune")
    assert caught.value.exit_status == 2


def test_auto_falls_back_to_the_recipe_for_random_init_with_the_same_settings(plan):
    actual = plan("binary.npz", models=("tagged", "tiny"), protocol="finetune", weights="auto")
    runs = {run.shown: run for run in actual.runs}
    assert runs["tagged"].protocol.label == "scratch@1+image_size=16+steps=4"
    assert (runs["tagged"].protocol.steps, runs["tagged"].init) == (4, "random")
    assert runs["tagged"].deviations == (Deviation("no-weights"),)
    assert runs["tiny"].protocol.label == "finetune@1+image_size=16+steps=4"
    assert runs["tiny"].deviations == ()


@pytest.mark.integration
def test_weights_on_disk_are_in_the_identity(plan, tmp_path):
    settings = Settings(results=tmp_path / "results", weights_dir=tmp_path, device="cpu", offline=True)
    ids = []
    for content in (b"a", b"b"):
        (tmp_path / "tagged.demo.pth").write_bytes(content)
        run = plan("binary.npz", models=("tagged",), protocol="finetune", settings=settings).runs[0]
        assert (run.init, run.weights_tag) == ("pretrained", "demo")
        ids.append(run.id)
    assert ids[0] != ids[1]


# --- protocols -------------------------------------------------------------------------------------------------------
def plan_under(tiny_data, tmp_path, *protocols, **changes):
    """Plan a model whose weights are found, under some protocols."""
    (tmp_path / "tagged.demo.pth").write_bytes(b"a")
    settings = Settings(results=tmp_path / "results", weights_dir=tmp_path, device="cpu", offline=True)
    fields = {"datasets": (str(tiny_data / "binary.npz"),), "models": ("tagged",), "seeds": (3, 4), **changes}
    suite = Suite(name="flags", protocol=protocols, **{"settings": (("image_size", "16"),), **fields})
    return plan_bench(suite, Context(registry=REGISTRY, settings=settings, console=Console(stream=io.StringIO())))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "seeds"),
    [
        ({}, [0]),
        ({"weights": "none"}, [3, 4]),  # the network is drawn
        ({"settings": (("stem", "small"),)}, [3, 4]),  # so is the stem
        ({"shuffle_labels": True}, [3, 4]),
    ],
)
@pytest.mark.parametrize("protocol", ["linear-probe", "knn"])
def test_a_head_on_given_weights_is_fitted_once(tiny_data, tmp_path, protocol, changes, seeds):
    runs = plan_under(tiny_data, tmp_path, protocol, **changes).runs
    assert [run.seed for run in runs if run.shown == "tagged"] == seeds


@pytest.mark.integration
def test_several_protocols_have_the_runs_of_each_and_one_set_of_baselines(tiny_data, tmp_path):
    both = plan_under(tiny_data, tmp_path, "finetune", "knn")
    alone = [plan_under(tiny_data, tmp_path, name) for name in ("finetune", "knn")]
    assert sorted(run.id for run in both.runs) == sorted({run.id for plan in alone for run in plan.runs})
    assert [(run.shown, run.protocol.name, run.seed) for run in both.runs] == [
        ("tagged", "finetune", 3),
        ("tagged", "finetune", 4),
        ("tagged", "knn", 0),
        ("constant", "baseline", 0),
        ("thumbnails", "baseline", 0),
    ]


@pytest.mark.integration
def test_a_setting_changes_the_protocols_that_use_it(tiny_data, tmp_path):
    plan = plan_under(tiny_data, tmp_path, "finetune", "knn", settings=(("neighbors", "5"), ("steps", "4")))
    assert [protocol.label for protocol in plan.protocols] == ["finetune@1+steps=4", "knn@1+neighbors=5"]
    with pytest.raises(UsageError, match="regularizations"):
        plan_under(tiny_data, tmp_path, "finetune", "knn", settings=(("regularizations", "1"),))


# --- datasets --------------------------------------------------------------------------------------------------------
def test_an_unusable_dataset_is_refused_and_the_others_run(plan, tiny_data):
    actual = plan("binary.npz", "nowhere")
    assert [name for name, _ in actual.refused] == [str(tiny_data / "nowhere")]
    assert isinstance(actual.refused[0][1], DataError)
    assert {run.dataset for run in actual.runs} == {"binary"}


def test_a_dataset_plugin_that_raises_is_refused_with_file_and_line(tmp_path, tiny_data):
    from zoo import BINARY
    from zoo.specs.dataset import DatasetSpec

    bad = DatasetSpec(name="bad", task=BINARY, labels=("a", "b"), samples=open_badly)
    registry = replace(REGISTRY, datasets={"bad": bad})
    suite = replace(SUITE, datasets=("bad", str(tiny_data / "binary.npz")))
    actual = plan_bench(suite, context(tmp_path, registry))
    assert str(actual.refused[0][1]).startswith("KeyError: 'column 7' (test_planning.py:")
    assert {run.dataset for run in actual.runs} == {"binary"}


def test_two_datasets_of_one_name_are_an_error(plan, tiny_data, tmp_path):
    import shutil

    other = tmp_path / "folders"
    shutil.copytree(tiny_data / "folders", other)
    (other / "train" / "clear").rename(other / "train" / "normal")
    (other / "val" / "clear").rename(other / "val" / "normal")
    (other / "test" / "clear").rename(other / "test" / "normal")
    with pytest.raises(UsageError, match="two datasets are named 'folders'"):
        plan("folders", str(other))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("./x", True), ("a/b", True), ("a\\b", True), (".", True), ("name", False), ("n" * 5000, False), ("nul\0", False)],
)
def test_names_that_look_like_paths_are_paths(name, expected):
    assert is_path(name, REGISTRY) is expected


def test_a_registered_name_takes_precedence_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dots").mkdir()
    assert is_path("dots", REGISTRY)
    assert not is_path("dots", replace(REGISTRY, datasets={"dots": None}))


# --- finished runs ---------------------------------------------------------------------------------------------------
def finish(run, root):
    """Store a minimal result of a planned run."""
    from zoo.results.store import Artifacts, Result, save_result

    val, test = (make_predictions(np.arange(40) % 2, np.full(40, 0.5), prefix=prefix) for prefix in ("val", "test"))
    result = Result(id=run.id, run=run.describe(), identity=run.identity, status="ok", dataset=FACTS)
    save_result(root, run, Artifacts(result=result, predictions={"val": val, "test": test}))
    return root / run.folder


def test_finished_runs_are_done_and_fresh_ones_are_not(plan, tmp_path):
    settings = Settings(results=tmp_path / "results", keep_weights="none", device="cpu")
    runs = plan("binary.npz", settings=settings).runs
    finish(runs[0], settings.results)
    assert set(plan("binary.npz", settings=settings).done) == {runs[0].id}
    assert not plan("binary.npz", settings=replace(settings, fresh=True)).done


@pytest.mark.integration
def test_a_finished_run_without_the_requested_weights_is_not_done(plan, tmp_path):
    def done(keep):
        settings = Settings(results=tmp_path / "results", keep_weights=keep, device="cpu")
        return {
            run.seed
            for run in plan("binary.npz", settings=settings).runs[:2]
            if run.id in plan("binary.npz", settings=settings).done
        }

    first, _ = (finish(run, tmp_path / "results") for run in plan("binary.npz").runs[:2])
    assert (done("none"), done("best"), done("all")) == ({0, 1}, set(), set())
    (first / "model.safetensors").write_bytes(b"")
    assert (done("none"), done("best"), done("all")) == ({0, 1}, {0, 1}, {0})


def test_weights_of_another_version_of_a_choice_are_not_those_of_a_run(plan, tmp_path):
    first, second = plan("binary.npz").runs[:2]
    other = replace(first, choices={"loss": {"name": "focal", "plugin": "zoo-tiny", "version": 2}})
    assert other.protocol.label == second.protocol.label
    (finish(other, tmp_path) / "model.safetensors").write_bytes(b"")
    finish(second, tmp_path)
    assert not has_weights(load_result(tmp_path / second.folder), second, "best")
    (finish(first, tmp_path) / "model.safetensors").write_bytes(b"")
    assert has_weights(load_result(tmp_path / second.folder), second, "best")


def test_weights_kept_under_another_protocol_do_not_count(plan, tmp_path):
    settings = Settings(results=tmp_path / "results", device="cpu")
    runs = plan("binary.npz", settings=settings).runs[:2]
    for run in runs:
        finish(run, settings.results)
    other = plan("binary.npz", settings=settings, protocol="tutorial").runs[0]
    (finish(other, settings.results) / "model.safetensors").write_bytes(b"")
    assert not {run.id for run in runs} & set(plan("binary.npz", settings=settings).done)


def test_the_last_plan_is_stored_by_results_folder(plan, tmp_path):
    runs = plan("binary.npz").runs
    save_plan(runs, tmp_path / "a")
    assert load_plan(tmp_path / "a") == json.loads(json.dumps({run.id: run.identity for run in runs}))
    assert load_plan(tmp_path / "b") == {}


# --- the machine -----------------------------------------------------------------------------------------------------
def test_on_a_cpu_threads_and_precision_are_in_the_identity_and_workers_are_not(plan, tmp_path):
    def first_id(**changes):
        return plan("binary.npz", settings=Settings(results=tmp_path, device="cpu", **changes)).runs[0].id

    assert first_id(workers=1) == first_id(workers=4) == first_id(run_timeout=5.0)
    assert first_id(threads=1) != first_id(threads=2)


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        (3, "cpu", ["cpu"] * 3),
        (None, "cuda", ["cuda:0", "cuda:1"] * 2),
        (3, "cuda", ["cuda:0", "cuda:1", "cuda:0"]),
        (None, "cuda:1", ["cuda:1"] * 2),
        (2, "cuda:1", ["cuda:1"] * 2),
        (None, "mps", ["mps"]),
    ],
)
def test_the_number_of_workers_is_as_requested_or_a_few_per_gpu(workers, device, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("zoo.runner.execution.count_sharing", lambda device: 2)
    kinds = [device.partition(":")[0]] * 10
    assert worker_devices(Settings(workers=workers), device, kinds) == expected
    beside = ["cpu"] * (device != "cpu")
    assert worker_devices(Settings(workers=workers), device, [*kinds, "cpu"]) == expected + beside


def test_there_are_at_most_as_many_workers_as_runs():
    assert worker_devices(Settings(threads=1), "cpu", ["cpu"]) == ["cpu"]
    assert worker_devices(Settings(threads=10_000), "cpu", ["cpu"] * 5) == ["cpu"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99", "mps:1"])
def test_a_missing_device_is_a_usage_error(plan, tmp_path, device):
    with pytest.raises(UsageError, match=f"--device {device}"):
        plan("binary.npz", settings=Settings(results=tmp_path, device=device))


def test_an_unknown_executor_is_an_error_before_datasets_are_opened(plan, tmp_path):
    with pytest.raises(UsageError, match=r"'locl'.*'local'"):
        plan("nowhere", settings=Settings(results=tmp_path, executor="locl", device="cpu"))


def test_an_unusable_cache_is_a_usage_error(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="set ZOO_CACHE to a writable folder"):
        plan("binary.npz", settings=Settings(results=tmp_path, cache=tmp_path / "file" / "cache", device="cpu"))


# --- other cache contents --------------------------------------------------------------------------------------------
def test_a_plan_that_cannot_be_stored_is_no_error_and_no_pipe_blocks(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    (tmp_path / "plans").touch()
    save_plan([], tmp_path / "results")
    (tmp_path / "plans").unlink()
    save_plan([], tmp_path / "results")
    (path,) = (tmp_path / "plans").iterdir()
    path.unlink()
    os.mkfifo(path)
    assert load_plan(tmp_path / "results") == {}


@pytest.mark.parametrize("written", ["[]", "7", '{"a": 1}', "[" * 100_000, "{"])
def test_an_invalid_stored_plan_is_ignored(tmp_path, monkeypatch, written):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    save_plan([], tmp_path / "results")
    (path,) = (tmp_path / "plans").iterdir()
    path.write_text(written)
    assert load_plan(tmp_path / "results") == {}


def test_a_file_in_place_of_a_cache_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "fingerprints").touch()
    with pytest.raises(UsageError, match=rf"{tmp_path}/fingerprints.*ZOO_CACHE"):
        open_cache(tmp_path)


def test_a_field_of_another_method_is_refused_before_anything_starts(tmp_path):
    suite = Suite(name="s", protocol="knn", settings=(("momentum", "0.5"),))
    settings = Settings(results=tmp_path, device="cpu")
    with pytest.raises(UsageError, match="momentum"):
        plan_bench(suite, Context(registry=REGISTRY, settings=settings, console=Console(stream=io.StringIO())))
