"""Suite files to suites to runs: every mistake with its place, and an id that changes with whatever matters."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from factories import make_dataset_spec, make_samples

from zoo.cli.bench import bench_command
from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import UsageError
from zoo.models.baselines import BASELINES
from zoo.models.identity import identify_network, nearest_size
from zoo.models.weights import InitialWeights, LocalCard
from zoo.registry.lookup import ModelChoice
from zoo.results.runs import Run, safe_name
from zoo.runner.grid import Machine, PlannedModel, plan_baselines, plan_runs
from zoo.runner.suites import TUNING_SEED, list_suites, load_suite, parse_seeds, parse_suite
from zoo.runner.tuning import settle, tuning_runs
from zoo.specs.deviation import Deviation
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import BASELINE, FINETUNE, QUICK, SCRATCH, TUNED, override
from zoo.specs.suite import Suite, suite_keys

RUN = Run(
    dataset="dots",
    content_hash="c" * 64,
    split_hash="d" * 64,
    fold=0,
    num_folds=1,
    model="zoo-timm:resnet18",
    shown="resnet18",
    init="pretrained",
    weights_tag="a1_in1k",
    weights_digest="e" * 64,
    protocol=FINETUNE,
    seed=0,
    image_size=224,
    precision="fp32",
    device_kind="cpu",
    threads=1,
    primary_metric="auroc",
)
DOCUMENT = {"schema": 1, "name": "mine", "datasets": ["dots"]}
CPU = Machine(device_kind="cpu", threads=1, precision="bf16")


# --- suite files -----------------------------------------------------------------------------------------------------
def test_a_file_becomes_a_suite(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'schema = 1\nname = "mine"\nversion = 2\ndatasets = ["dots", "x.npz"]\nmodels = ["resnet*"]\nseeds = [4, 7]\n'
        'protocol = "quick"\nweights = "auto"\nprimary_metric = "mcc"\nfolds = 3\n'
        "[set]\nsteps = 9\nlearning_rate = 0.001\n"
    )
    assert load_suite(str(tmp_path / "mine.toml")) == Suite(
        name="mine",
        version=2,
        models=("resnet*",),
        datasets=("dots", "x.npz"),
        primary_metric="mcc",
        protocol="quick",
        settings=(("learning_rate", "0.001"), ("steps", "9")),
        seeds=(4, 7),
        folds=3,
        weights="auto",
    )


def test_a_suite_names_one_protocol_or_several():
    assert parse_suite({**DOCUMENT, "protocol": "knn"}, "mine.toml").protocols == ("knn",)
    several = parse_suite({**DOCUMENT, "protocol": ["knn", "finetune"]}, "mine.toml")
    assert several.protocols == ("knn", "finetune") == Suite(name="s", protocol=("knn", "finetune")).protocols
    for wrong in ([], "", 7, [7]):
        with pytest.raises(UsageError, match="protocol"):
            parse_suite({**DOCUMENT, "protocol": wrong}, "mine.toml")


def test_what_a_file_does_not_say_is_the_default():
    suite = parse_suite(DOCUMENT, "mine.toml")
    assert (suite.models, suite.protocol, suite.seeds, suite.weights) == (
        ("starter",),
        "finetune",
        (0, 1, 2),
        "pretrained",
    )
    assert suite.label == "mine@1"


def test_a_file_saved_on_windows_is_read(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b'\xef\xbb\xbfschema = 1\r\nname = "mine"\r\ndatasets = ["dots"]\r\n')
    assert load_suite(str(tmp_path / "mine.toml")).name == "mine"


def test_all_mistakes_are_reported_at_once_with_their_places():
    document = {**DOCUMENT, "modls": ["x"], "seeds": "many", "folds": 0, "weights": "some", "name": "My Suite"}
    with pytest.raises(UsageError, match=r"suite mine\.toml: ") as caught:
        parse_suite(document, "mine.toml")
    message = str(caught.value)
    for part in ("modls: ", "Did you mean 'models'", "seeds", "folds: ", "weights: ", "name: "):
        assert part in message


@pytest.mark.parametrize("missing", ["schema", "name", "datasets"])
def test_what_must_be_said_is_asked_for(missing):
    with pytest.raises(UsageError, match=f"{missing}: Field required"):
        parse_suite({key: value for key, value in DOCUMENT.items() if key != missing}, "mine.toml")


def test_a_newer_schema_is_refused():
    with pytest.raises(UsageError, match="schema: Input should be 1"):
        parse_suite({**DOCUMENT, "schema": 2}, "mine.toml")


@pytest.mark.parametrize("content", [b"schema = ", b"\xff\xfe", b"schema = 1\nschema = 1\n"])
def test_a_file_that_is_no_toml_is_one_line(tmp_path, content):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.toml: "):
        load_suite(str(tmp_path / "mine.toml"))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UsageError, match="unknown suite 'quickstrat'; fix: Did you mean 'quickstart'"):
        load_suite("quickstrat")
    with pytest.raises(UsageError, match=r"suite none\.toml: no such file"):
        load_suite("none.toml")


def test_every_suite_that_comes_with_zoo_can_be_read():
    assert "quickstart" in list_suites()
    assert [load_suite(name).name for name in list_suites()] == list_suites()


@pytest.mark.parametrize(
    ("given", "seeds"), [(3, (0, 1, 2)), ("3", (0, 1, 2)), ("4,7", (4, 7)), ([5], (5,)), ("5,6", (5, 6))]
)
def test_seeds_are_a_number_of_them_or_their_list(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize("given", [0, "0", "-1", "1,1", "a", "", "1,", [-3, 2], [TUNING_SEED], []])
def test_seeds_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match=r"seeds .*: expected"):
        parse_seeds(given)


# --- the id of a run -------------------------------------------------------------------------------------------------
CHANGES = {
    "dataset": "other",
    "content_hash": "0" * 64,
    "split_hash": "0" * 64,
    "fold": 1,
    "model": "zoo-torchvision:resnet18",
    "network": "0.2.0-000000000000",
    "init": "random",
    "weights_digest": "0" * 64,
    "protocol": replace(FINETUNE, batch_size=16),
    "seed": 1,
    "image_size": 192,
    "precision": "bf16",
    "device_kind": "cuda",
    "threads": 2,
    "primary_metric": "mcc",
    "purpose": "tune",
}


@pytest.mark.parametrize("field", CHANGES)
def test_whatever_decides_the_outcome_changes_the_id(field):
    assert replace(RUN, **{field: CHANGES[field]}).id != RUN.id


def network(release="0.1.0", **changes):
    return identify_network(choice(model(**changes), release=release), InitialWeights(init="random"))


def test_another_release_of_the_plugin_is_another_network():
    assert network("0.1.0") != network("0.2.0")


def test_releases_with_the_same_declared_version_of_the_network_are_one_network():
    assert network("0.1.0", version=1) == network("0.2.0", version=1) != network("0.2.0", version=2)


@pytest.mark.parametrize(
    "change", [{"mean": (0.5,) * 3}, {"std": (1.0,) * 3}, {"channels": 1}, {"classifier": "fc"}, {"first_conv": "conv"}]
)
def test_a_field_that_the_core_builds_or_feeds_a_network_by_makes_another_network(change):
    assert network(**change) != network()


def test_a_title_license_or_citation_makes_no_other_network():
    assert network(title="new", license="MIT", citation="us") == network()


def test_the_normalization_that_a_local_file_declares_makes_another_network():
    def network_of(card):
        return identify_network(choice(model()), InitialWeights(init="pretrained", tag="local-1", local=card))

    assert network_of(LocalCard(mean=(0.5,) * 3, std=(0.5,) * 3)) != network_of(LocalCard())


def test_every_field_of_the_identity_is_tried_above():
    assert set(RUN.identity) == {*CHANGES, "id_version"}


@pytest.mark.parametrize(
    "change",
    [
        {"shown": "timm/resnet18"},
        {"weights_tag": "another_name"},
        {"deviations": (Deviation("image-size", (224, 225)),)},
        {"protocol": replace(FINETUNE, title="other words", overrides=(("epochs", "20"),))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_reader_sees_does_not_change_the_id(change):
    assert replace(RUN, **change).id == RUN.id


@pytest.mark.parametrize("field", ["steps", "epochs", "learning_rate", "clip_norm", "head_std", "select_by"])
def test_every_recipe_field_changes_the_id(field):
    changed = {"select_by": "last", "steps": 7, "epochs": 3}.get(field, 0.5)
    fields = {"steps": None, "epochs": None} if field in {"steps", "epochs"} else {}
    assert replace(RUN, protocol=replace(FINETUNE, **{**fields, field: changed})).id != RUN.id


def test_the_identity_is_plain_data_and_the_id_its_hash():
    assert json.loads(json.dumps(RUN.identity))["seed"] == 0
    assert len(RUN.id) == 64
    assert replace(RUN).id == RUN.id


def test_a_runs_description_can_be_written_as_json():
    described = json.loads(json.dumps(RUN.describe()))
    assert described["protocol_label"] == "finetune@1"
    assert described["protocol"]["learning_rate"] == 3e-4


# --- folders ---------------------------------------------------------------------------------------------------------
def test_a_run_has_a_folder_that_says_what_it_is():
    assert RUN.folder.as_posix() == f"dots/{RUN.folder.parts[1]}/finetune@1.seed0.{RUN.id[:8]}"
    assert RUN.folder.parts[1].startswith("resnet18")
    fold = replace(RUN, fold=2, num_folds=5)
    assert fold.folder.name == f"finetune@1.seed0.fold2.{fold.id[:8]}"


def test_pretrained_random_and_tuning_runs_have_folders_of_their_own():
    runs = [RUN, replace(RUN, init="random", weights_tag="", weights_digest=""), replace(RUN, purpose="tune")]
    assert len({run.folder.parent / run.folder.name.rpartition(".")[0] for run in runs}) == 3


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("finetune@1+epochs=3", "finetune@1+epochs=3"),
        ("hf-hub:owner/name", "hf-hub_owner_name"),
        ("../up", "_up"),
        ("..", "_"),
        ("a\\b\0c", "a_b_c"),
        ("Grün 🩻", "Gr_n__"),
    ],
)
def test_a_name_becomes_one_folder_name(name, safe):
    assert safe_name(name) == safe


def test_long_names_are_cut_and_stay_apart():
    one, other = safe_name("a" * 300), safe_name("a" * 301)
    assert one != other
    assert max(len(one), len(other)) <= 80


# --- a train split smaller than the batch ----------------------------------------------------------------------------
def test_a_batch_larger_than_train_is_a_deviation_and_another_run(tmp_path):
    def planned(count, protocol=FINETUNE):
        return plan([data(tmp_path, count=count)], [(choice(model()), PRETRAINED)], protocol=protocol, baselines=[])[0]

    small, large = planned(30), planned(60)  # 16 and 32 of them train
    assert small.deviations == (Deviation("batch-size", (16, 32)),)
    assert small.identity["batch_size"] == 16
    assert (large.deviations, "batch_size" in large.identity) == ((), False)
    assert replace(small, num_train=20).id != small.id
    assert planned(30, replace(FINETUNE, batch_size=16)).deviations == ()
    assert planned(30, replace(FINETUNE, method="probe")).deviations == ()


def test_a_tuned_batch_is_compared_with_train_at_each_point(tmp_path):
    protocol = override(FINETUNE, {"batch_size": "8,64"})
    (run,) = plan(
        [data(tmp_path, count=30)], [(choice(model()), PRETRAINED)], protocol=protocol, baselines=[], seeds=[0]
    )
    small, large = tuning_runs(run)
    assert (small.deviations, large.deviations) == ((), (Deviation("batch-size", (16, 64)),))
    assert settle(run, {small.id: 0.1, large.id: 0.9}).deviations == (Deviation("batch-size", (16, 64)),)
    assert settle(run, {small.id: 0.9, large.id: 0.1}).deviations == ()


# --- the plan --------------------------------------------------------------------------------------------------------
def model(name="tiny", **change):
    return ModelSpec(name=name, build=lambda _: None, **change)


def choice(spec, **changes):
    return ModelChoice(name=f"plugin:{spec.name}", spec=spec, weights=None, shown=spec.name, **changes)


def data(tmp_path, *, count=60, official=True, image_size=None):
    """A dataset in memory and its split: one fold where the split is official, else five."""
    splits = ["test" if i % 3 == 0 else "train" for i in range(count)] if official else None
    read = lambda row: np.full((2, 2), row, np.uint8)  # noqa: E731
    samples = make_samples(count, np.arange(count) // 3 % 2, splits=splits, read=read)
    spec = make_dataset_spec(samples, image_size=image_size)
    source = open_dataset(spec, tmp_path)
    return source, draw_split(source)


PRETRAINED = InitialWeights(init="pretrained", digest="e" * 64, tag="in1k")
FALLBACK = InitialWeights(init="random", fallback=True)
BASES = [choice(spec) for spec in BASELINES]


def plan(sources, choices, *, protocol=FINETUNE, seeds=(0, 1), baselines=BASES, primary_metric=""):
    models = [
        PlannedModel(
            choice=choice,
            weights=weights,
            protocol=SCRATCH if weights.fallback else protocol,
            seeds=tuple(seeds),
            machine=CPU,
        )
        for choice, weights in choices
    ]
    models += plan_baselines(baselines, models, protocol.image_size, CPU)
    return plan_runs(models, sources, primary_metric)


def test_a_plan_is_every_model_seed_and_fold_and_each_baseline_once_a_fold(tmp_path):
    source, split = data(tmp_path, official=False)
    runs = plan([(source, split)], [(choice(model("one")), PRETRAINED), (choice(model("two")), PRETRAINED)])
    assert len(split.folds) == 5
    counts = {name: sum(run.shown == name for run in runs) for name in ("one", "two", "constant", "thumbnails")}
    assert counts == {"one": 10, "two": 10, "constant": 5, "thumbnails": 5}
    assert len({run.id for run in runs}) == len(runs) == 30


def test_a_baseline_is_a_run_of_its_own_protocol_at_the_suites_size(tmp_path):
    runs = plan([data(tmp_path)], [(choice(model()), PRETRAINED)], protocol=QUICK)
    for run in runs[-2:]:
        assert (run.model, run.seed, run.init, run.image_size) == (f"plugin:{run.shown}", 0, "random", 64)
        assert run.protocol == replace(BASELINE, image_size=64)


def test_a_baseline_asked_for_as_a_model_is_not_planned_twice(tmp_path):
    runs = plan([data(tmp_path)], [(choice(BASELINES[0]), InitialWeights(init="random"))])
    assert [run.shown for run in runs] == ["constant", "constant", "thumbnails"]


def test_a_model_without_its_weights_runs_the_recipe_for_random_init_and_says_so(tmp_path):
    runs = plan([data(tmp_path)], [(choice(model("one")), PRETRAINED), (choice(model("two")), FALLBACK)], baselines=[])
    assert [(run.shown, run.protocol.name, run.init, run.deviations) for run in runs[::2]] == [
        ("one", "finetune", "pretrained", ()),
        ("two", "scratch", "random", (Deviation("no-weights"),)),
    ]


def test_random_init_that_was_asked_for_is_no_deviation(tmp_path):
    (run,) = plan([data(tmp_path)], [(choice(model()), InitialWeights(init="random"))], seeds=(0,), baselines=[])
    assert (run.protocol.name, run.deviations) == ("finetune", ())


def test_the_precision_is_the_machines_where_the_protocol_leaves_it(tmp_path):
    sources, models = [data(tmp_path)], [(choice(model()), PRETRAINED)]
    assert plan(sources, models)[0].precision == "bf16"
    assert plan(sources, models, protocol=replace(FINETUNE, precision="fp32"))[0].precision == "fp32"


def test_val_selects_by_the_suites_metric_else_by_the_tasks(tmp_path):
    sources, models = [data(tmp_path)], [(choice(model()), PRETRAINED)]
    default, same, other = (plan(sources, models, primary_metric=name)[0] for name in ("", "auroc", "mcc"))
    assert default.id == same.id != other.id


def test_a_model_that_does_not_do_the_task_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'tiny' .* binary .*'dots'.* regression") as caught:
        plan([data(tmp_path)], [(choice(model(tasks=("regression",))), PRETRAINED)])
    assert caught.value.code == "wrong-task"


@pytest.mark.parametrize(
    ("protocol_size", "dataset_size", "planned"), [(96, 28, 96), (None, 28, 28), (None, None, 224)]
)
def test_the_size_is_the_protocols_else_the_datasets_else_224(tmp_path, protocol_size, dataset_size, planned):
    protocol = replace(FINETUNE, image_size=protocol_size)
    runs = plan([data(tmp_path, image_size=dataset_size)], [(choice(model()), PRETRAINED)], protocol=protocol)
    assert {run.image_size for run in runs} == {planned}


def test_a_size_the_model_does_not_take_is_recorded(tmp_path):
    spec = model(fixed_size=True, image_size=518)
    run = plan([data(tmp_path)], [(choice(spec), PRETRAINED)])[0]
    assert (run.image_size, run.deviations) == (518, (Deviation("image-size", (518, 224)),))


@pytest.mark.parametrize(
    ("card", "asked", "size"),
    [
        ({}, 225, 225),
        ({"size_multiple": 14}, 224, 224),
        ({"size_multiple": 14}, 64, 70),
        ({"size_multiple": 32}, 28, 32),
        ({"size_multiple": 32}, 5, 32),
        ({"min_image_size": 75}, 64, 75),
        ({"min_image_size": 33, "size_multiple": 32}, 10, 64),
        ({"fixed_size": True, "image_size": 256}, 224, 256),
    ],
)
def test_the_nearest_size_is_one_the_model_takes(card, asked, size):
    assert nearest_size(model(**card), asked) == size


def test_a_small_stem_takes_images_a_quarter_as_large():
    """Published MedMNIST rows are of 28 px; with its own stem a ResNet wants 32."""
    card = model(min_image_size=32)
    assert (nearest_size(card, 28), nearest_size(card, 28, small_stem=True)) == (32, 28)
    assert nearest_size(card, 4, small_stem=True) == 8


# --- tuning ----------------------------------------------------------------------------------------------------------
TUNED_RUN = replace(RUN, protocol=TUNED)


def settled(values, run=TUNED_RUN):
    """The run settled by the scores of its grid's points; None for a point that failed."""
    pairs = zip(tuning_runs(run), values, strict=True)
    return settle(run, {trial.id: value for trial, value in pairs if value is not None})


def test_a_grid_is_tried_on_a_seed_of_its_own_and_never_sees_test():
    trials = tuning_runs(TUNED_RUN)
    assert [trial.protocol.learning_rate for trial in trials] == [1e-4, 3e-4, 9e-4]
    assert {(trial.seed, trial.purpose, trial.protocol.tune) for trial in trials} == {(TUNING_SEED, "tune", ())}
    assert len({trial.id for trial in [*trials, TUNED_RUN]}) == 4


def test_a_grid_of_two_fields_is_tried_at_every_pair():
    run = replace(RUN, protocol=override(FINETUNE, {"learning_rate": "1e-4,3e-4", "weight_decay": "0,0.1,0.5"}))
    assert len({trial.id for trial in tuning_runs(run)}) == 6


def test_a_grid_of_budgets_can_be_tried():
    run = replace(RUN, protocol=override(FINETUNE, {"steps": "10,20"}))
    assert [(trial.protocol.steps, trial.protocol.epochs) for trial in tuning_runs(run)] == [(10, None), (20, None)]


def test_the_point_with_the_best_val_score_wins_and_all_seeds_run_at_it():
    found = settled([0.7, 0.9, 0.8])
    assert (found.protocol.learning_rate, found.protocol.tune) == (3e-4, ())
    assert (found.seed, found.purpose) == (0, "score")
    assert found.tuned == "tuned learning_rate: 0.0003 of 0.0001, 0.0003, 0.0009"
    assert found.tuned_fields == ("learning_rate",)
    assert found.protocol.label == "tuned@1"


@pytest.mark.parametrize(("values", "winner"), [([0.9, 0.7, 0.8], 1e-4), ([0.7, 0.8, 0.9], 9e-4)])
def test_a_winner_at_the_edge_is_said(values, winner):
    found = settled(values)
    assert found.protocol.learning_rate == winner
    assert found.tuned.endswith("(winner at the edge)")


def test_ties_go_to_the_earlier_point():
    assert settled([0.7, 0.9, 0.9]).protocol.learning_rate == 3e-4


def test_a_point_that_failed_cannot_win_and_without_any_there_is_no_winner():
    assert settled([0.7, None, 0.1]).protocol.learning_rate == 1e-4
    with pytest.raises(KeyError):
        settled([None, None, None])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clip_norm": "none,1"}, "tuned clip_norm: None of None, 1"),
        ({"optimizer": "sgd,adam"}, "tuned optimizer: sgd of sgd, adam"),
        ({"symmetries": "true,false"}, "tuned symmetries: True of True, False"),
        ({"batch_size": "8,16"}, "tuned batch_size: 8 of 8, 16 (winner at the edge)"),
    ],
)
def test_only_numbers_have_an_edge(settings, said):
    assert settled([0.9, 0.1], replace(RUN, protocol=override(FINETUNE, settings))).tuned == said


def test_a_settled_run_is_the_one_that_the_winning_value_alone_would_be():
    grid = replace(RUN, protocol=override(FINETUNE, {"learning_rate": "1e-4,3e-4"}))
    alone = replace(RUN, protocol=override(FINETUNE, {"learning_rate": "1e-4"}))
    assert settled([0.9, 0.1], grid).id == alone.id


# --- one field per flag and key --------------------------------------------------------------------------------------
def test_every_field_of_a_suite_has_a_flag_or_a_key():
    keys = suite_keys()
    assert list(keys) == [part.name for part in fields(Suite)]
    assert all(key.help and (key.flags or key.key is not None) for key in keys.values())


@pytest.mark.parametrize("name", [name for name, key in suite_keys().items() if key.flags])
def test_a_flag_is_an_option_of_bench_with_its_help(name):
    (option,) = [param for param in bench_command.params if param.name == name]
    assert tuple(option.opts) == suite_keys()[name].flags and option.help == suite_keys()[name].help


def test_the_kit_refuses_a_suite_whose_settings_name_a_missing_loss():
    (check,) = (each for each in checks_of("suite") if each.id == "suite-settings")
    check.run(CheckedSpec(spec=Suite(name="two", models=("constant",), settings=(("loss", "focal"),))))
    with pytest.raises(AssertionError, match="`settings`: unknown loss 'no_such'"):
        check.run(CheckedSpec(spec=Suite(name="two", models=("constant",), settings=(("loss", "no_such"),))))
