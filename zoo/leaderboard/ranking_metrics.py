"""Which metrics can rank the models of a board."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.errors import Undefined, clean
from zoo.evaluation.predictions import SplitPredictions
from zoo.evaluation.thresholds import ThresholdRule, decide
from zoo.registry.isolation import process_unchanged
from zoo.specs.metric import MetricSpec, ScoringContext


@process_unchanged()
def find_rank_fault(metric: MetricSpec, run: SplitPredictions, card: ScoringContext, rule: ThresholdRule) -> str:
    """Explain why a metric cannot rank models on this test set; "" if it can.

    The tests between models need the influence of each patient. It follows from `resample` or from leaving units out,
    unless the metric refuses by its `influence`. A metric may also read a column that is not stored.
    """
    if card.task.name not in metric.tasks:
        return f"not a metric of {card.task} tasks"
    if metric.influence is None and not metric.metadata:
        return ""
    try:
        request = decide(run, card, rule).request_of(metric)
        if metric.influence is not None:
            metric.influence(request)
    except Undefined as reason:
        return clean(reason)
    except (Exception, SystemExit):
        return ""  # of this run; the rows of the board report it
    return ""


def list_ranking_metrics(
    metrics: Mapping[str, MetricSpec], run: SplitPredictions, card: ScoringContext, rule: ThresholdRule
) -> list[str]:
    """The names of the metrics that can rank models on this test set."""
    return sorted(name for name, metric in metrics.items() if not find_rank_fault(metric, run, card, rule))
