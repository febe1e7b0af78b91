"""Fit the temperature of a run's probabilities on its val split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.errors import Undefined
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions, SplitPredictions
from zoo.evaluation.thresholds import decide
from zoo.specs.metric import ScoringContext
from zoo.statistics.calibration import fit_temperature

LOG_LOSS = next(spec for spec in METRICS if spec.name == "log_loss")


def find_temperature(run: SplitPredictions, card: ScoringContext) -> float | str:
    """Fit the temperature of one run, or return the reason why that is impossible."""
    val = run.get("val")
    if val is None:
        return "no predictions of val"
    targets = val.targets[~np.isnan(val.targets)]
    if len(np.unique(targets)) < 2:
        return "val holds one class only"
    request, probabilities = decide({"test": val}, card, "half").request, val.probabilities

    def loss(temperature: float) -> float:
        return LOG_LOSS.compute(replace(request, probabilities=card.task.answers.rescale(probabilities, temperature)))

    try:
        return fit_temperature(loss)
    except Undefined as reason:
        return str(reason)


def rescale(part: Predictions, temperature: float, card: ScoringContext) -> Predictions:
    """Rescale predictions to a temperature; 1 changes nothing."""
    # calibration metrics do not use log odds
    return replace(part, probabilities=card.task.answers.rescale(part.probabilities, temperature), log_odds=None)
