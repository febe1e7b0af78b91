"""From a fitted model to its result on another dataset than its own: predicted once, scored, saved as a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data import Dataset, Pixels, open_pixels
from zoo.inference import Predictions, predict
from zoo.results import Result, now, save_result
from zoo.scoring import score_run
from zoo.specs import MetricSpec
from zoo.suites import Run

if TYPE_CHECKING:
    from torch import nn


MAX_DIFFERENCE = 1e-3  # of a probability: another processor rounds otherwise, and training makes more of it


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A test on another dataset than the one trained on, with the local files it needs."""

    run: Run
    dataset: Dataset  # all of it is test
    facts: Mapping[str, Any]


def predict_elsewhere(
    test: Elsewhere,
    module: nn.Module,
    val: Predictions,
    pixels: Pixels,
    metrics: Mapping[str, MetricSpec],
    trained: Result,
    results: Path,
    *,
    weights: str,
) -> None:
    """Predict the other dataset's images once, decide at the thresholds of val, and save that beside `trained`.

    `pixels` and `val` are of the dataset trained on: the other's images are normalised as those. `weights` says where
    the module's are from: "its own", "kept", or "trained again". Where `trained` was finished before, the module must
    predict val as that did, or the result says how much it does not.
    """
    run, dataset = test.run, test.dataset
    mean, std = pixels.mean.flatten().tolist(), pixels.std.flatten().tolist()
    found = predict(module, dataset, open_pixels(dataset, mean, std, pixels.device), "test", precision=run.precision)
    predictions = {"val": val, "test": found}
    card = replace(dataset.card, val_unit=test.facts["val_unit"])
    differs = compare_val(val, trained)
    told = f"weights: {weights}, and val predicted up to {differs:.2g} otherwise than by the finished run"
    result = replace(
        trained,
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        dataset=test.facts,
        deviations=(*run.deviations, *([told] if differs > MAX_DIFFERENCE else [])),
        details={
            **trained.details,
            "intensity": list(dataset.intensity),
            "trained_run": trained.id,
            "weights": weights,
            "val_differs": differs,
        },
        created=now(),
        checksums={},
        folder=None,
    )
    scores = score_run(predictions, metrics, card, threshold=run.protocol.threshold)
    save_result(results, run, result, predictions, scores)


def compare_val(val: Predictions, trained: Result) -> float:
    """The largest difference of val's predictions from those stored; 0 where nothing was stored before."""
    if trained.folder is None:
        return 0.0
    return float(np.abs(val.probabilities - trained.predictions()["val"].probabilities).max())
