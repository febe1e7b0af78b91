"""From a suite to results: the steps of a bench, and the steps of one run, in order."""

from zoo.runner.benching import Outcome, bench, keep_best_weights, plan_only, tune
from zoo.runner.carrying import carry_out, conclude
from zoo.runner.running import claim_and_execute, execute_run

__all__ = [
    "Outcome",
    "bench",
    "carry_out",
    "claim_and_execute",
    "conclude",
    "execute_run",
    "keep_best_weights",
    "plan_only",
    "tune",
]
