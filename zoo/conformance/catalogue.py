"""The checks of each kind of spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.conformance.checking import Check
from zoo.conformance.choice_claims import LOSS_CHECKS, SAMPLING_CHECKS, TRANSFORM_CHECKS
from zoo.conformance.dataset_claims import DATASET_CHECKS
from zoo.conformance.estimator_claims import ESTIMATOR_CHECKS
from zoo.conformance.executor_claims import EXECUTOR_CHECKS
from zoo.conformance.metric_claims import METRIC_CHECKS
from zoo.conformance.model_claims import MODEL_CHECKS
from zoo.conformance.observer_claims import OBSERVER_CHECKS
from zoo.conformance.protocol_claims import PROTOCOL_CHECKS
from zoo.conformance.reader_claims import READER_CHECKS
from zoo.conformance.section_claims import SECTION_CHECKS
from zoo.conformance.spec_claims import SPEC_CHECKS
from zoo.conformance.suite_claims import SUITE_CHECKS
from zoo.conformance.task_claims import TASK_CHECKS
from zoo.registry.lookup import Kind

CHECKS: Mapping[Kind, Sequence[Check]] = {
    "model": (*MODEL_CHECKS, *SPEC_CHECKS),
    "dataset": (*DATASET_CHECKS, *SPEC_CHECKS),
    "metric": (*METRIC_CHECKS, *SPEC_CHECKS),
    "protocol": (*PROTOCOL_CHECKS, *SPEC_CHECKS),
    "suite": (*SUITE_CHECKS, *SPEC_CHECKS),
    "executor": (*EXECUTOR_CHECKS, *SPEC_CHECKS),
    "observer": (*OBSERVER_CHECKS, *SPEC_CHECKS),
    "task": (*TASK_CHECKS, *SPEC_CHECKS),
    "estimator": (*ESTIMATOR_CHECKS, *SPEC_CHECKS),
    "loss": (*LOSS_CHECKS, *SPEC_CHECKS),
    "sampling": (*SAMPLING_CHECKS, *SPEC_CHECKS),
    "transform": (*TRANSFORM_CHECKS, *SPEC_CHECKS),
    "reader": (*READER_CHECKS, *SPEC_CHECKS),
    "section": (*SECTION_CHECKS, *SPEC_CHECKS),
}


def checks_of(kind: Kind) -> Sequence[Check]:
    """The checks of a kind, in the order in which they are run; a kind without its own has those of every spec."""
    return CHECKS.get(kind, SPEC_CHECKS)
