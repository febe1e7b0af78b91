"""Checks of suites: what they name is installed, and their settings fit."""

from __future__ import annotations

from zoo.auditing.external import OFFICIAL_TEST
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, expect
from zoo.data.lookup import is_path
from zoo.errors import ZooError
from zoo.registry.choices import find_choices
from zoo.registry.lookup import Kind, Registry
from zoo.registry.opening import open_registry
from zoo.specs.protocol import override
from zoo.specs.suite import Suite


def check_suite_fields(subject: CheckedSpec) -> None:
    check_plain_fields("suite", subject.spec)
    expect(subject.spec.models, f"suite {subject.spec.name!r}: `models` is empty")


def check_suite_names(subject: CheckedSpec) -> None:
    suite: Suite = subject.spec
    registry = open_registry()
    names = {
        "model": [name for name in suite.models if name not in registry.suites],
        "dataset": [*suite.datasets, *(name.removesuffix(OFFICIAL_TEST) for name in suite.test_on)],
        "metric": [*suite.metrics, *([suite.primary_metric] if suite.primary_metric else [])],
        "protocol": suite.protocols,
    }
    for kind, each in names.items():
        for name in each:
            try:
                if not needs_no_spec(kind, name, registry):
                    registry.match(kind, name)
            except ZooError as error:
                raise AssertionError(f"suite {suite.name!r}: {error}") from error


def needs_no_spec(kind: Kind, name: str, registry: Registry) -> bool:
    """Whether a name is a path, or one of a family's, such as `hf-hub:owner/name`."""
    if kind == "model":
        return registry.find_family("model", name) is not None
    if kind == "dataset":
        return is_path(name, registry) or registry.find_family("dataset", name) is not None
    return False


def check_suite_settings(subject: CheckedSpec) -> None:
    suite: Suite = subject.spec
    registry = open_registry()
    if not suite.settings:
        raise Inapplicable("it has no settings")
    for name in suite.protocols:
        if name not in registry.protocols:
            raise Inapplicable(f"protocol {name!r} is not installed")
        try:
            find_choices(override(registry.protocols[name], dict(suite.settings)), registry)
        except ZooError as error:
            raise AssertionError(f"suite {suite.name!r}: `settings`: {error}") from error


SUITE_CHECKS = (
    Check(id="suite-fields", claim="Its fields are valid", run=check_suite_fields),
    Check(id="suite-names", claim="All that it names is installed", run=check_suite_names),
    Check(id="suite-settings", claim="Its settings fit its protocols", run=check_suite_settings),
)
