"""The registry on plugins in memory: isolation, resolution of names, and errors."""

import os
import pickle
import signal
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from costs import cost_ratio

from zoo import BINARY, hookimpl
from zoo.errors import PluginError, UsageError, plural_of
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_plugin, load_registry
from zoo.registry.lookup import Registry, split_model_name
from zoo.specs.dataset import DatasetSpec
from zoo.specs.executor import ExecutorSpec
from zoo.specs.hooks import CONTRACT, KINDS
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.protocol import FINETUNE, PROTOCOLS, QUICK
from zoo.specs.suite import Suite


def build_nothing(request):
    raise AssertionError("a registry does not build models")


def model(name, *tags):
    return ModelSpec(name=name, build=build_nothing, weights=tuple(Weights(tag=tag) for tag in tags))


def dataset(name):
    return DatasetSpec(name=name, task=BINARY, labels=("no", "yes"), samples=build_nothing)


def metric(name):
    return MetricSpec(name=name, compute=build_nothing)


def raise_it(error):
    raise error


def plugin(name, *, error=None, version="1.0", group="zoo.v1", **specs):
    """A plugin whose hooks return the given specs, or whose import raises `error`."""
    if error is not None:
        return InstalledPlugin(name=name, version=version, group=group, load=partial(raise_it, error))
    hooks = {f"register_{kind}": hookimpl(lambda returned=returned: returned) for kind, returned in specs.items()}
    return InstalledPlugin(name=name, version=version, group=group, load=lambda: SimpleNamespace(**hooks))


def plugin_with(name, **functions):
    """A plugin whose module holds the given functions."""
    return InstalledPlugin(name=name, version="1.0", load=lambda: SimpleNamespace(**functions))


def reason(installed):
    """The reason why a plugin is broken; a good one beside it stays usable."""
    registry = load_registry([installed, plugin("good", models=[TINY])])
    assert list(registry.models) == ["tiny"]
    assert [broken.plugin for broken in registry.broken] == [installed.name]
    return registry.broken[0].reason


TINY = model("tiny")
FIRST = replace(model("resnet18", "a1_in1k", "a2_in1k"), priority=2, prefixes=("timm/",))
TIMM = plugin("zoo-timm", models=[FIRST, model("vit_tiny"), model("resnet50")])
SECOND = replace(model("resnet18", "imagenet1k_v1", "a2_in1k"), priority=1)
TORCHVISION = plugin("zoo-torchvision", models=[SECOND, model("vgg11", "v1")])


# --- one broken plugin leaves the others usable -----------------------------------------------------------------------
def test_a_broken_plugin_leaves_the_others_usable():
    registry = load_registry([plugin("good", models=[TINY]), plugin("bad", error=ImportError("no cuda"))])
    assert list(registry.models) == ["tiny"]
    assert registry.broken[0].reason == "ImportError: no cuda"


def test_sys_exit_at_import_is_contained():
    assert reason(plugin("bad", error=SystemExit(3))) == "SystemExit: it called sys.exit(3)"


def test_an_exception_outside_of_exception_is_contained():
    class PanicException(BaseException):  # what Rust extensions raise
        pass

    assert reason(plugin("bad", error=PanicException("out of cheese"))) == "PanicException: out of cheese"


def test_an_exception_that_cannot_be_shown_is_contained():
    class UnspeakableError(Exception):
        def __str__(self):
            raise RuntimeError

    assert "cannot be shown: RuntimeError" in reason(plugin("bad", error=UnspeakableError()))


def test_an_interrupt_of_the_user_is_not_contained():
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            load_registry([replace(plugin("slow"), load=interrupt)])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_keyboard_interrupt_raised_by_a_plugin_is_contained():
    assert reason(plugin("bad", error=KeyboardInterrupt())) == "KeyboardInterrupt"


def test_a_reason_is_one_line_without_control_characters():
    assert reason(plugin("bad", error=ImportError("no\n  \x1b[2Jcuda"))) == "ImportError: no \\x1b[2Jcuda"


def test_a_raising_hook_is_contained():
    bad = plugin_with("bad", register_models=hookimpl(lambda: 1 / 0))
    assert reason(bad) == "ZeroDivisionError: division by zero"


def test_a_misspelled_hook_is_named_with_the_correct_one(golden):
    golden(reason(plugin_with("bad", register_modles=hookimpl(lambda: [TINY]))), "register_modles", "register_models")


def test_an_unmarked_hook_is_named():
    assert "register_models is not marked" in reason(plugin_with("bad", register_models=lambda: [TINY]))


def test_an_unmarked_misspelled_hook_is_named_with_the_correct_one():
    assert "Did you mean 'register_datasets'?" in reason(plugin_with("bad", register_dataset=list))


def test_a_hook_with_an_unknown_argument_is_contained():
    assert "wheels" in reason(plugin_with("bad", register_models=hookimpl(lambda wheels: [TINY])))


def test_a_plugin_without_hooks_is_broken():
    assert "no function is marked @hookimpl" in reason(plugin_with("bad", models=lambda: [TINY]))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "register_models returned None, expected a list of ModelSpec"),
        (TINY, "register_models returned an object of type ModelSpec, expected a list of ModelSpec"),
        ((spec for spec in [TINY]), "returned an object of type generator, expected a list"),
        (["resnet18", "resnet50"], "returned an object of type str at [1], expected ModelSpec"),
        ([metric("tiny")], "returned an object of type MetricSpec at [0], expected ModelSpec"),
        ([TINY, TINY], "model 'tiny' twice"),
        ([model("../tiny")], "model name '../tiny'"),
        ([model("-tiny")], "model name '-tiny'"),
        ([model("")], "model name ''"),
        ([model("tiny\n")], "model name"),
        ([model("tiny.v2")], "without dots"),
        ([model("tiny", "a", "a")], "weights tag: a, a"),
        ([model("tiny", "a/b")], "weights tag name 'a/b'"),
    ],
)
def test_an_invalid_return_value_is_named(answer, words):
    assert words in reason(plugin("bad", models=answer))


class Unspeakable(str):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "binary"}, "task is 'binary', expected Task such as zoo.BINARY"),
        ({"labels": None}, "labels is None, expected tuple[str, ...], each once"),
        ({"labels": "np"}, "labels is 'np', expected tuple[str, ...]"),
        ({"labels": ["n", "p"]}, "labels is ['n', 'p'], expected tuple[str, ...]"),
        ({"labels": (0, 1)}, "labels is (0, 1), expected tuple[str, ...]"),
        ({"labels": ("n", "n")}, "labels is ('n', 'n'), expected tuple[str, ...], each once"),
        ({"labels": ("n", Unspeakable("p"))}, "expected tuple[str, ...]"),
        ({"samples": None}, "samples is None, expected Callable[[SamplesRequest], Samples]"),
        ({"title": 5}, "title is 5, expected str"),
        ({"title": Unspeakable("dots")}, "title is <Unspeakable instance at "),
        ({"citation": b"x"}, "citation is b'x', expected str"),
        ({"license": 3}, "license is 3, expected str"),
        ({"known_issues": "abc"}, "known_issues is 'abc', expected tuple[str, ...]"),
        ({"checksums": {"a.npz": 1}}, "checksums is {'a.npz': 1}, expected Mapping[str, str]"),
        ({"checksums": None}, "checksums is None, expected Mapping[str, str]"),
        ({"channels": 7}, "channels is 7, expected int, 1 or 3"),
        ({"channels": True}, "channels is True, expected int, 1 or 3"),
        ({"channels": np.int64(3)}, "expected int, 1 or 3"),
        ({"unit": "lesion"}, "unit is 'lesion', expected one of auto, image, clip, patient"),
        ({"symmetries": ("foo",)}, "symmetries is ('foo',), expected tuple[str, ...] of hflip, vflip, rot90"),
        ({"intensity": (0.0,)}, "intensity is (0.0,), expected tuple[float, float] | None"),
        ({"synthetic": 1}, "synthetic is 1, expected bool"),
        ({"near_duplicates": "foo"}, "near_duplicates is 'foo', expected one of group, ignore"),
        ({"known_conflicts": (("a", "b", "c"),)}, "expected tuple[tuple[str, str], ...]"),
        ({"find": "here"}, "find is 'here', expected Callable[[FetchRequest], DatasetSpec] | None"),
    ],
)
def test_an_invalid_field_of_a_dataset_is_named(changes, words):
    message = reason(plugin("bad", datasets=[replace(dataset("dots"), **changes)]))
    assert message.startswith(f"dataset 'dots': {next(iter(changes))} is ") and words in message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(TINY, build=None), "model 'tiny': build is None, expected Callable[[BuildRequest], nn.Module]"),
        (replace(TINY, image_size="224"), "model 'tiny': image_size is '224', expected int"),
        (replace(TINY, mean=(0.5, "1")), "model 'tiny': mean is (0.5, '1'), expected tuple[float, ...]"),
        (replace(TINY, weights=("a",)), "model 'tiny': weights is ('a',), expected tuple[Weights, ...]"),
        (
            replace(TINY, weights=(Weights(tag="a", image_size="224"),)),
            "model 'tiny', weights 'a': image_size is '224', expected int",
        ),
        (
            replace(TINY, weights=(Weights(tag="a", sha256="F37072FD"),)),
            "model 'tiny', weights 'a': sha256 is 'F37072FD', expected str of up to 64 lower-case hexadecimal digits",
        ),
        (replace(metric("hits"), tasks="binary"), "metric 'hits': tasks is 'binary', expected tuple[str, ...]"),
        (replace(metric("hits"), bounds=(0, "1")), "bounds is (0, '1'), expected tuple[float | None, float | None]"),
        (replace(FINETUNE, epochs="x"), "protocol 'finetune': epochs is 'x', expected int | None above 0"),
        (replace(FINETUNE, batch_size=-1), "protocol 'finetune': batch_size is -1, expected int above 0"),
        (replace(FINETUNE, warmup=float("nan")), "protocol 'finetune': warmup is nan, expected float, 0 or more"),
        (replace(FINETUNE, method="magic"), "method is 'magic', expected one of finetune, probe, knn"),
        (
            replace(FINETUNE, tune=(("epochs", 3),)),
            "tune is (('epochs', 3),), expected tuple[tuple[str, tuple[Any, ...]]",
        ),
        (ExecutorSpec(name="far", execute="there"), "executor 'far': execute is 'there', expected Callable[..., Any]"),
        (metric(Unspeakable("hits")), "metric name <Unspeakable instance at "),
    ],
)
def test_a_field_of_an_invalid_type_is_named_for_every_kind_of_spec(spec, words):
    kinds = {ModelSpec: "models", MetricSpec: "metrics", ExecutorSpec: "executors"}
    assert words in reason(plugin("bad", **{kinds.get(type(spec), "protocols"): [spec]}))


def test_valid_fields_are_accepted():
    specs = {
        "datasets": [replace(dataset("dots"), intensity=(-1000, 400.5), folds=5, find=partial(build_nothing))],
        "metrics": [replace(metric("hits"), bounds=(0, None), note=str)],
        "protocols": [replace(FINETUNE, learning_rate=1, clip_norm=None, tune=(("learning_rate", (1e-4, 3e-4)),))],
        "models": [replace(TINY, mean=(np.float64(0.5), 0, 1), weights=(Weights(tag="a"),))],
    }
    assert load_registry([plugin("good", **specs)]).broken == ()


def test_a_newer_contract_is_not_loaded(golden):
    newer = f"zoo.v{CONTRACT + 1}"
    golden(reason(plugin("new", error=AssertionError("must not be imported"), group=newer)), newer, "upgrade zoo-bench")


def test_an_older_contract_asks_for_a_newer_plugin():
    assert "upgrade old" in reason(plugin("old", group="zoo.v0", models=[TINY]))


def test_what_a_plugin_prints_goes_to_stderr(capsys):
    def chatty():
        print("loading 3 models")
        return [TINY]

    assert "tiny" in load_registry([plugin_with("chatty", register_models=hookimpl(chatty))]).models
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loading 3 models\n"


def test_the_list_of_plugins_has_versions_statuses_and_counts():
    registry = load_registry(
        [plugin("good", models=[TINY, model("small")], metrics=[metric("m")]), plugin("bad", error=ImportError("x"))]
    )
    good, bad = registry.plugins
    assert (good.name, good.version, good.status, dict(good.counts)) == ("good", "1.0", "ok", {"model": 2, "metric": 1})
    assert (bad.name, bad.status, bad.reason) == ("bad", "broken", "ImportError: x")


def test_every_kind_of_spec_is_loaded():
    executor = ExecutorSpec(name="ray", execute=build_nothing)
    registry = load_registry(
        [
            plugin(
                "all",
                models=[TINY],
                datasets=(dataset("dots"),),
                metrics=[metric("m")],
                protocols=[QUICK],
                executors=[executor],
            )
        ]
    )
    assert registry.find("model", "tiny") is TINY
    assert registry.find("dataset", "dots").labels == ("no", "yes")
    assert registry.find("metric", "m").name == "m"
    assert registry.find("protocol", "quick") is QUICK
    assert registry.find("executor", "ray") is executor


def test_the_core_s_own_specs_are_one_more_plugin():
    registry = load_registry([plugin("zoo-bench", protocols=PROTOCOLS, metrics=[metric("auroc")])])
    assert registry.find("protocol", "finetune") is FINETUNE
    assert registry.plugins[0].name == "zoo-bench"
    assert registry.qualified("metric", "auroc") == "zoo-bench:auroc"


# --- which name means what --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [[TIMM, TORCHVISION], [TORCHVISION, TIMM]])
def test_a_plain_name_means_timm_in_any_loading_order(order):
    registry = load_registry(order)
    assert set(registry.models) == {"resnet18", "vit_tiny", "resnet50", "vgg11", "zoo-torchvision:resnet18"}
    assert registry.find_model("resnet18").name == "zoo-timm:resnet18"


def test_a_plain_name_means_torchvision_without_timm():
    registry = load_registry([plugin("zoo-mine", models=[model("resnet18")]), TORCHVISION])
    assert registry.find_model("resnet18").name == "zoo-torchvision:resnet18"
    assert registry.find_model("zoo-mine:resnet18").shown == "zoo-mine:resnet18"


def test_the_core_goes_before_any_priority():
    ours, theirs = model("constant"), replace(model("constant"), priority=9)
    registry = load_registry([plugin("a-plugin", models=[theirs]), plugin("zoo-bench", models=[ours])])
    assert registry.find("model", "constant") is ours


def test_equal_priorities_are_ambiguous():
    both = [plugin(name, models=[replace(model("net"), priority=2)]) for name in ("zoo-a", "zoo-b")]
    assert set(load_registry(both).models) == {"zoo-a:net", "zoo-b:net"}


def test_a_plugin_s_suite_stands_for_its_models():
    registry = load_registry([plugin("zoo-x", suites=[Suite(name="few", models=("tiny", "resnet*"))])])
    assert registry.expand_models("few") == ("tiny", "resnet*")
    assert registry.expand_models("tiny") == ("tiny",)
    assert registry.qualified("suite", "few") == "zoo-x:few"


def test_a_plugin_registers_a_task():
    task = replace(BINARY, name="counting")
    registry = load_registry([plugin("zoo-x", tasks=[task])])
    assert registry.find("task", "counting") is task


def test_a_family_resolves_its_names_and_no_others():
    family = replace(dataset("shop"), find=build_nothing)
    registry = load_registry([plugin("zoo-x", datasets=[family, dataset("dots")])])
    assert registry.find_family("dataset", "shop:owner/name") is family
    assert registry.find_family("dataset", "dots:owner/name") is None
    assert registry.find_family("dataset", "shop") is None


@pytest.mark.parametrize(("kind", "name"), [("dataset", "kaggle:owner/name"), ("model", "timm:resnet18")])
def test_a_missing_plugin_of_this_project_is_suggested(kind, name):
    with pytest.raises(UsageError, match=f"pip install zoo-{name.partition(':')[0]}") as caught:
        Registry().find_family(kind, name)
    assert caught.value.code == f"unknown-{kind}"


def test_an_unknown_kind_of_specs_is_refused():
    with pytest.raises(TypeError, match="modls"):
        Registry(modls={})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_hook_that_checks_the_class(kind):
    assert "expected " + KINDS[kind].__name__ in reason(plugin("bad", **{plural_of(kind): [object()]}))


def test_a_name_clash_is_an_error_only_on_request(golden):
    registry = load_registry(
        [plugin("zoo-b", datasets=[dataset("dots"), dataset("b")]), plugin("zoo-a", datasets=[dataset("dots")])]
    )
    assert list(registry.datasets) == ["zoo-a:dots", "zoo-b:dots", "b"]
    assert registry.find("dataset", "zoo-b:dots").name == "dots"
    with pytest.raises(UsageError, match="zoo-a:dots or zoo-b:dots") as caught:
        registry.find("dataset", "dots")
    assert caught.value.code == "ambiguous-dataset"
    golden(caught.value)


def test_a_plugin_cannot_override_a_name_of_the_core():
    ours, theirs = metric("auroc"), metric("auroc")
    registry = load_registry([plugin("zoo-bench", metrics=[ours]), plugin("a-plugin", metrics=[theirs])])
    assert registry.find("metric", "auroc") is ours
    assert registry.find("metric", "a-plugin:auroc") is theirs


def test_a_qualified_name_always_selects_its_distribution():
    registry = load_registry([TIMM, TORCHVISION])
    assert registry.find("model", "zoo-timm:resnet18").weights[0].tag == "a1_in1k"
    assert registry.find("model", "zoo-torchvision:resnet18").weights[0].tag == "imagenet1k_v1"
    assert registry.find("model", "zoo-torchvision:vgg11").name == "vgg11"  # allowed, although there is no clash
    assert registry.find("model", "Zoo_TorchVision:vgg11").name == "vgg11"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet18", ("", "resnet18", "")),
        ("resnet18.a1_in1k", ("", "resnet18", "a1_in1k")),
        ("net.v1.5", ("", "net", "v1.5")),
        ("zoo-torchvision:resnet18.v1", ("zoo-torchvision", "resnet18", "v1")),
        ("hf-hub:owner/name.v2", ("", "hf-hub:owner/name.v2", "")),
    ],
)
def test_a_model_s_name_is_split_into_its_parts(name, parts):
    assert split_model_name(name) == parts


@pytest.mark.parametrize(
    ("requested", "name", "tag", "shown"),
    [
        ("resnet18", "zoo-timm:resnet18", "a1_in1k", "resnet18"),
        ("resnet18.a1_in1k", "zoo-timm:resnet18", "a1_in1k", "resnet18"),
        ("timm/resnet18.a2_in1k", "zoo-timm:resnet18", "a2_in1k", "resnet18.a2_in1k"),
        ("resnet18.a2_in1k", "zoo-timm:resnet18", "a2_in1k", "resnet18.a2_in1k"),  # both have it: timm's
        ("resnet18.imagenet1k_v1", "zoo-torchvision:resnet18", "imagenet1k_v1", "zoo-torchvision:resnet18"),
        ("zoo-torchvision:resnet18", "zoo-torchvision:resnet18", "imagenet1k_v1", "zoo-torchvision:resnet18"),
        ("zoo-torchvision:resnet18.a2_in1k", "zoo-torchvision:resnet18", "a2_in1k", "zoo-torchvision:resnet18.a2_in1k"),
        ("vit_tiny", "zoo-timm:vit_tiny", None, "vit_tiny"),
    ],
)
def test_a_model_s_name_chooses_architecture_and_weights(requested, name, tag, shown):
    choice = load_registry([TIMM, TORCHVISION]).find_model(requested)
    assert (choice.name, choice.weights and choice.weights.tag, choice.shown) == (name, tag, shown)


def test_the_display_name_means_the_same_choice():
    registry = load_registry([TIMM, TORCHVISION])
    for key, spec in registry.models.items():
        for tag in ["", *(f".{weights.tag}" for weights in spec.weights)]:
            choice = registry.find_model(key + tag)
            assert registry.find_model(choice.shown) == choice


def test_a_tag_of_two_plugins_is_ambiguous_unless_one_is_timm():
    registry = load_registry(
        [plugin("zoo-a", models=[model("net", "x", "y")]), plugin("zoo-b", models=[model("net", "x")])]
    )
    assert registry.find_model("net.y").name == "zoo-a:net"
    with pytest.raises(UsageError, match=r"zoo-a:net\.x or zoo-b:net\.x") as caught:
        registry.find_model("net.x")
    assert caught.value.code == "ambiguous-model"


# --- errors -----------------------------------------------------------------------------------------------------------
def test_an_unknown_name_suggests_the_nearest():
    registry = load_registry([TIMM, TORCHVISION])
    with pytest.raises(UsageError, match="unknown model 'resnet81'; fix: Did you mean 'resnet18'") as caught:
        registry.find_model("resnet81")
    assert caught.value.code == "unknown-model"
    assert "`zoo list models` shows the 5 installed" in str(caught.value)
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        registry.find_model("resnet81.a1_in1k")


def test_an_unknown_tag_suggests_the_nearest():
    registry = load_registry([TIMM, TORCHVISION])
    for name, nearest in (
        ("resnet18.a3_in1k", "a2_in1k"),
        ("zoo-torchvision:resnet18.a1_in1k", "a2_in1k"),
        ("vit_tiny.a1_in1k", "'vit_tiny' without a tag"),
    ):
        with pytest.raises(UsageError, match="has no weights") as caught:
            registry.find_model(name)
        assert caught.value.code == "unknown-weights" and nearest in caught.value.fix


def test_an_unknown_plugin_qualifier_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown plugin 'zoo-tim'; fix: Did you mean 'zoo-timm'"):
        load_registry([TIMM]).find_model("zoo-tim:resnet18")


@pytest.mark.parametrize("requested", ["zoo-bad:net", "zoo-bad:net.tag", "zoo-bad", "zoo_bad", "zoo-bad:*"])
def test_requesting_a_broken_plugin_gives_the_reason(requested):
    registry = load_registry([TIMM, plugin("zoo-bad", error=ImportError("no cuda"))])
    with pytest.raises(PluginError, match=r"plugin zoo-bad 1.0 is broken: ImportError: no cuda") as caught:
        registry.match("model", requested)
    assert caught.value.exit_status == 2


def test_an_unknown_name_mentions_broken_plugins():
    registry = load_registry([plugin("zoo-medmnist", error=ImportError("no requests"))])
    with pytest.raises(UsageError) as caught:
        registry.find("dataset", "breastmnist")
    assert caught.value.code == "unknown-dataset" and "zoo-medmnist" in caught.value.fix


def test_an_unknown_hub_model_is_reported_with_its_full_name():
    with pytest.raises(UsageError, match=r"unknown model 'hf-hub:owner/name\.v2'"):
        load_registry([TIMM]).find_model("hf-hub:owner/name.v2")


# --- globs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet*", ["resnet18", "resnet50"]),
        ("*", ["resnet18", "vit_tiny", "resnet50", "vgg11"]),
        ("zoo-torchvision:*", ["zoo-torchvision:resnet18", "vgg11"]),
        ("timm/resnet1?", ["resnet18"]),
        ("resnet18.a*", ["resnet18.a1_in1k", "resnet18.a2_in1k"]),
        ("*.imagenet1k*", ["resnet18.imagenet1k_v1"]),
        (
            "zoo-torchvision:*.*",
            ["zoo-torchvision:resnet18.imagenet1k_v1", "zoo-torchvision:resnet18.a2_in1k", "vgg11.v1"],
        ),
        ("vgg11", ["vgg11"]),
        ("resnet18.imagenet1k_v1", ["resnet18.imagenet1k_v1"]),
    ],
)
def test_a_glob_matches_names_that_can_be_resolved(pattern, names):
    registry = load_registry([TIMM, TORCHVISION])
    assert registry.match("model", pattern) == names
    assert all(registry.find_model(name) for name in names)


def test_a_glob_over_clashing_names_gives_the_qualified_ones():
    registry = load_registry([plugin(name, datasets=[dataset("dots")]) for name in ("zoo-a", "zoo-b")])
    assert registry.match("dataset", "do*") == ["zoo-a:dots", "zoo-b:dots"]


@pytest.mark.parametrize("pattern", ["vgg99*", "zoo-timm:vgg*", "resnet18.zzz*", "vgg99"])
def test_a_glob_or_name_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(UsageError) as caught:
        load_registry([TIMM, TORCHVISION]).match("model", pattern)
    assert caught.value.code == "unknown-model"


# --- without plugins --------------------------------------------------------------------------------------------------
def test_a_registry_without_distributions_finds_its_specs():
    registry = Registry(models={"tiny": TINY}, datasets={"dots": dataset("dots")}, metrics={"m": metric("m")})
    choice = registry.find_model("tiny")
    assert (choice.name, choice.spec, choice.weights, choice.shown) == ("tiny", TINY, None, "tiny")
    assert registry.match("dataset", "d*") == ["dots"]
    with pytest.raises(UsageError, match="unknown metric 'n'"):
        registry.find("metric", "n")


def test_a_registry_can_be_pickled():
    registry = load_registry(
        [plugin("zoo-bench", protocols=PROTOCOLS), TIMM, TORCHVISION, plugin("bad", error=ImportError("x"))]
    )
    assert pickle.loads(pickle.dumps(registry)) == registry


@pytest.mark.integration
def test_the_cost_of_a_catalog_is_linear_in_its_models():
    def load(count):
        catalog = plugin("zoo-timm", models=[model(f"net{index}", "a", "b") for index in range(count)])
        plugins = [plugin("zoo-bench", protocols=PROTOCOLS), catalog, TORCHVISION]
        assert len(load_registry(plugins).models) == count + 2

    assert cost_ratio(lambda: load(4_000), lambda: load(400)) < 40  # 10 times the models; their square would be 100


# --- plugins with valid and invalid specs ----------------------------------------------------------------------------
def test_an_invalid_spec_does_not_remove_the_others_of_its_plugin():
    wrong = replace(TINY, name="wrong", image_size="224")
    registry = load_registry([plugin("mixed", models=[TINY, wrong], metrics=[metric("hits")])])
    assert set(registry.models) == {"tiny"} and set(registry.metrics) == {"hits"}
    (listed,) = registry.plugins
    assert listed.status == "partial" and listed.counts == {"model": 1, "metric": 1}
    assert [(broken.plugin, broken.partial) for broken in registry.broken] == [("mixed", True)]
    with pytest.raises(UsageError, match="mixed") as caught:
        registry.find("model", "wrong")
    assert caught.value.code == "unknown-model"


def test_all_mistakes_of_a_plugin_are_reported_at_once():
    specs = [replace(TINY, name="one", image_size="224"), replace(TINY, name="two", channels="3"), TINY]
    (broken,) = load_registry([plugin("mixed", models=specs)]).broken
    assert "model 'one': image_size" in broken.reason and "model 'two': channels" in broken.reason
    (broken,) = load_registry([plugin("bad", models=specs[:2])]).broken
    assert "model 'one': image_size" in broken.reason and "model 'two': channels" in broken.reason
    assert not broken.partial


def test_a_valid_spec_of_a_partial_plugin_is_found_under_its_qualified_name():
    registry = load_registry([plugin("mixed", models=[TINY, replace(TINY, name="wrong", image_size="224")])])
    assert registry.find("model", "mixed:tiny") is TINY
    assert registry.match("model", "mixed:*") == ["tiny"]


def test_an_invalid_spec_of_a_partial_plugin_is_refused_with_its_mistake():
    registry = load_registry([plugin("mixed", models=[TINY, replace(TINY, name="wrong", image_size="224")])])
    with pytest.raises(UsageError, match=r"'mixed:wrong'.*image_size") as caught:
        registry.find("model", "mixed:wrong")
    assert caught.value.code == "unknown-model"


def misspell():
    return [MetricSpec(name="hits", compute=build_nothing, boundz=(0, 1))]


@pytest.mark.parametrize(("hook", "named"), [(misspell, "'boundz'"), (lambda: 7, "type int")])
def test_a_failing_hook_does_not_remove_specs_of_other_kinds(hook, named):
    hooks = {"register_models": hookimpl(lambda: [TINY]), "register_metrics": hookimpl(lambda: hook())}
    registry = load_registry([plugin_with("mixed", **hooks)])
    assert set(registry.models) == {"tiny"}
    assert named in registry.broken[0].reason and registry.broken[0].partial


def raise_type_error():
    raise TypeError("no field at all")


def test_a_type_error_of_a_hook_has_no_circular_cause():
    with pytest.raises(TypeError) as caught:
        load_plugin(plugin_with("bad", register_models=hookimpl(raise_type_error)))
    assert caught.value.__cause__ is not caught.value
