"""The checks of each kind of spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.conformance.checking import Check
from zoo.conformance.metric_claims import METRIC_CHECKS
from zoo.conformance.model_claims import MODEL_CHECKS
from zoo.conformance.spec_claims import SPEC_CHECKS
from zoo.registry.lookup import Kind

CHECKS: Mapping[Kind, Sequence[Check]] = {
    "model": (*MODEL_CHECKS, *SPEC_CHECKS),
    "metric": (*METRIC_CHECKS, *SPEC_CHECKS),
}


def checks_of(kind: Kind) -> Sequence[Check]:
    """The checks of a kind, in the order in which they are run; a kind without its own has those of every spec."""
    return CHECKS.get(kind, SPEC_CHECKS)
