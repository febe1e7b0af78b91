"""Protocols, and their overrides by `--set`."""

import json
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from zoo.errors import UsageError
from zoo.specs.protocol import (
    BASELINE,
    FINETUNE,
    KNN,
    LINEAR_PROBE,
    MAX_VALUES,
    MEDMNIST,
    PROTOCOLS,
    QUICK,
    TUNED,
    TUTORIAL,
    Method,
    Protocol,
    list_settings,
    override,
    refuse_foreign,
    resolved_fields,
)
from zoo.specs.validation import find_spec_fault


# --- names -----------------------------------------------------------------------------------------------------------
def test_a_protocol_label_has_name_and_version():
    assert FINETUNE.label == "finetune@1"


def test_an_override_changes_the_label():
    assert override(FINETUNE, {"epochs": "3"}).label == "finetune@1+epochs=3"


def test_the_order_of_the_settings_does_not_change_the_name():
    one = override(FINETUNE, {"epochs": "3", "batch_size": "8"})
    other = override(FINETUNE, {"batch_size": "8", "epochs": "3"})
    assert one.label == other.label == "finetune@1+batch_size=8+epochs=3"


def test_no_override_leaves_the_protocol_unchanged():
    assert override(FINETUNE, {}) == FINETUNE


def test_names_of_protocols_are_unique():
    assert len({protocol.label for protocol in PROTOCOLS}) == len(PROTOCOLS)


# --- values ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("batch_size", "8", 8),
        ("clip_norm", "none", None),
        ("clip_norm", "0.5", 0.5),
        ("image_size", "None", None),
        ("image_size", "96", 96),
        ("image_size", "8192", 8192),
        ("steps", "1000000000", 1_000_000_000),
        ("max_steps", "none", None),
        ("symmetries", "false", False),
        ("symmetries", "True", True),
        ("optimizer", "sgd", "sgd"),
        ("milestones", "0.3,0.6", (0.3, 0.6)),
        ("regularizations", "1", (1.0,)),
        ("warmup", "0", 0.0),
        ("rounds", "0", 0),
    ],
)
def test_a_text_becomes_the_type_of_its_field(field, text, value):
    parsed = getattr(override(FINETUNE, {field: text}), field)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("epoch", "3", "--set epoch=3: no such field; fix: Did you mean 'epochs'"),
        ("zzz", "3", "no such field; fix: steps, epochs"),
        ("name", "mine", "no such field"),
        ("method", "knn", "no such field"),
        ("tune", "1", "no such field"),
        ("overrides", "x", "no such field"),
        ("batch_size", "0", "--set batch_size=0: expected a whole number above 0"),
        ("batch_size", "-1", "expected a whole number above 0"),
        ("batch_size", "8.5", "expected a whole number above 0"),
        ("steps", "0", "expected a whole number above 0"),
        ("temperature", "0", "expected a number above 0"),
        ("learning_rate", "fast", "--set learning_rate=fast: expected a number, 0 or more"),
        ("learning_rate", "-1e-3", "expected a number, 0 or more"),
        ("learning_rate", "nan", "expected a number, 0 or more"),
        ("learning_rate", "inf", "expected a number, 0 or more"),
        ("learning_rate", "1e-4,", "expected a number, 0 or more"),
        ("learning_rate", "none", "expected a number, 0 or more"),
        ("symmetries", "yes", "--set symmetries=yes: expected"),
        ("optimizer", "lion", "--set optimizer=lion: .*adamw, adam, sgd"),
        ("milestones", "0.5,x", "--set milestones=0.5,x|--set milestones=x"),
        ("image_size", "64,128", "expected one value"),
        ("image_size", "1000000", "--set image_size=1000000: expected at most 8192; fix: "),
        ("image_size", "8193", "expected at most 8192"),
        ("warmup", "2", "--set warmup=2: expected at most 1, a share of the budget; fix: "),
        ("milestones", "0.5,1.5", "--set milestones=1.5: expected at most 1, a share of the budget"),
        ("momentum", "1", "expected at most 0.9999"),
        ("clip_norm", "0", "expected a number above 0 or none"),
        ("max_steps", "0", "expected a whole number above 0 or none"),
        ("min_steps", "20000", "--set min_steps=20000: more than max_steps=10000"),
        ("steps", "10000000000", "expected at most 1000000000"),
        ("epochs", "1" + "0" * 400, "expected at most 1000000000"),
        ("learning_rate", "1e-3,0.001", "learning_rate=1e-3,0.001: repeated value"),
        ("optimizer", "sgd,adam,sgd", "repeated value"),
        ("precision", "bf16,fp32", "expected one value"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_name_and_text(field, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        override(FINETUNE, {field: text})
    assert f"--set {field}=" in str(caught.value)


# --- the budget ------------------------------------------------------------------------------------------------------
def test_requested_epochs_override_the_limits_on_steps():
    protocol = override(FINETUNE, {"epochs": "3"})
    assert (protocol.epochs, protocol.steps, protocol.min_steps, protocol.max_steps) == (3, None, 0, None)


def test_requested_steps_replace_epochs_and_the_reverse():
    steps = override(FINETUNE, {"steps": "40"})
    assert (steps.steps, steps.epochs) == (40, None)
    epochs = override(QUICK, {"epochs": "2"})
    assert (epochs.steps, epochs.epochs) == (None, 2)


@pytest.mark.parametrize("settings", [{"steps": "40", "epochs": "2"}, {"epochs": "none"}])
def test_a_budget_in_both_units_or_neither_is_refused(settings):
    with pytest.raises(UsageError, match="exactly one of steps, epochs"):
        override(FINETUNE, settings)


def test_a_protocol_without_a_budget_is_refused():
    with pytest.raises(UsageError, match="protocol 'mine': set exactly one of steps, epochs"):
        Protocol(name="mine")


# --- grids -----------------------------------------------------------------------------------------------------------
def test_several_values_are_a_grid_to_choose_from_on_val():
    protocol = override(FINETUNE, {"learning_rate": "1e-4,3e-4", "weight_decay": "0"})
    assert protocol.tune == (("learning_rate", (1e-4, 3e-4)),)
    assert protocol.weight_decay == 0
    assert protocol.label == "finetune@1+learning_rate=1e-4,3e-4+weight_decay=0"


def test_one_value_ends_the_tuning_of_its_field():
    assert override(TUNED, {"learning_rate": "1e-3"}).tune == ()
    assert override(TUNED, {"epochs": "2"}).tune == TUNED.tune


def test_a_grid_of_budgets_has_one_unit_at_every_point():
    protocol = override(FINETUNE, {"steps": "10,20"})
    assert protocol.tune == (("steps", (10, 20)),)
    assert (protocol.steps, protocol.epochs) == (10, None)


# --- identity --------------------------------------------------------------------------------------------------------
def test_titles_are_not_part_of_the_identity():
    assert "title" not in resolved_fields(FINETUNE)
    assert "overrides" not in resolved_fields(FINETUNE)


def test_a_field_set_to_its_own_value_keeps_the_identity():
    assert resolved_fields(override(FINETUNE, {"batch_size": "32"})) == resolved_fields(FINETUNE)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.label)
def test_the_identity_of_every_protocol_can_be_written_as_json(protocol):
    assert json.loads(json.dumps(resolved_fields(protocol)))["name"] == protocol.name


def test_the_recipes_are_the_published_ones():
    assert (FINETUNE.optimizer, FINETUNE.learning_rate, FINETUNE.weight_decay) == ("adamw", 3e-4, 0.05)
    assert (FINETUNE.epochs, FINETUNE.min_steps, FINETUNE.max_steps, FINETUNE.batch_size) == (20, 500, 10_000, 32)
    assert TUNED.tune[0][1] == pytest.approx((3e-4 / 3, 3e-4, 3e-4 * 3))
    assert (TUTORIAL.optimizer, TUTORIAL.learning_rate, TUTORIAL.momentum, TUTORIAL.epochs) == ("sgd", 1e-3, 0.9, 10)
    assert (MEDMNIST.optimizer, MEDMNIST.batch_size, MEDMNIST.image_size, MEDMNIST.stem) == ("adam", 128, 28, "small")
    assert MEDMNIST.milestones == (0.5, 0.75)
    assert (LINEAR_PROBE.method, KNN.method, BASELINE.method) == ("probe", "knn", "probe")


def test_every_number_of_a_protocol_has_a_range():
    numbers = {name for name, kind in get_type_hints(Protocol).items() if {int, float} & {kind, *get_args(kind)}}
    assert numbers - {"version"} == set(MAX_VALUES)


@pytest.mark.parametrize("field", sorted(MAX_VALUES))
def test_a_number_beyond_its_range_is_refused_from_the_command_line_and_from_a_plugin(field):
    beyond = 2 * MAX_VALUES[field]
    with pytest.raises(UsageError, match="expected at most"):
        override(FINETUNE, {field: f"{beyond:g}" if isinstance(beyond, float) else str(int(beyond))})
    kind = type(getattr(FINETUNE, field))
    value = (float(beyond),) if kind is tuple else beyond
    changes = {"epochs": None} if field == "steps" else {}
    assert find_spec_fault(replace(FINETUNE, **{field: value}, **changes), Protocol).startswith(f"{field} is ")


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_the_recipes_are_within_their_ranges(protocol):
    assert find_spec_fault(protocol, Protocol) == ""


# --- fields by method ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("protocol", "field"),
    [(KNN, "momentum"), (KNN, "regularizations"), (LINEAR_PROBE, "steps"), (QUICK, "neighbors")],
)
def test_a_field_of_another_method_is_refused_with_the_fields_there_are(protocol, field):
    with pytest.raises(UsageError, match=f"--set {field}: protocol '{protocol.name}' does not use it") as caught:
        refuse_foreign(protocol, [field])
    assert set(list_settings(protocol.method)) == set(caught.value.fix.removeprefix("choose from ").split(", "))


@pytest.mark.parametrize(("protocol", "field"), [(KNN, "neighbors"), (KNN, "image_size"), (FINETUNE, "momentum")])
def test_a_field_of_its_method_or_of_all_methods_can_be_set(protocol, field):
    refuse_foreign(protocol, [field])


def test_every_field_belongs_to_a_method_or_to_all():
    methods = {method: set(list_settings(method)) for method in get_args(Method)}
    assert set().union(*methods.values()) == set(list_settings())
    assert set.intersection(*methods.values()) >= {"image_size", "normalization", "precision", "threshold"}
