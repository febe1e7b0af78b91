"""External validation: plan it, and test a fitted model on another dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels, open_pixels
from zoo.evaluation.predict import predict
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score_run
from zoo.results.runs import Run
from zoo.results.store import Result, now, save_result
from zoo.specs.metric import MetricSpec

if TYPE_CHECKING:
    from torch import nn
from zoo.audit.external import OFFICIAL_TEST, External, match_datasets
from zoo.audit.overlap import check_overlap
from zoo.data.fingerprints import Fingerprints
from zoo.data.lookup import SplitDataset, open_and_compare, require_two_names
from zoo.data.opening import OpenDataset
from zoo.errors import DataError, UsageError, ZooError
from zoo.registry.lookup import Registry
from zoo.runner.selection import choose_datasets
from zoo.runner.suites import Suite
from zoo.system.progress import Console
from zoo.system.settings import Settings

MAX_DIFFERENCE = 1e-3  # of a probability: another processor rounds otherwise, and training makes more of it


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A test on another dataset than the one trained on, with the local files it needs."""

    run: Run
    dataset: DecodedFold  # all of it is test
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


OpenExternal = tuple[str, OpenDataset, Fingerprints]  # the name asked for with


def plan_externals(
    opened: Mapping[str, SplitDataset], suite: Suite, registry: Registry, settings: Settings, console: Console
) -> tuple[dict[str, tuple[External, ...]], list[tuple[str, ZooError]]]:
    """What the models of each dataset are tested on beside; what cannot be is returned beside, with the reason."""
    if not suite.test_on:
        if suite.label_map:
            raise UsageError("--label-map is for --test-on", fix="say --test-on DATASET too, or leave it out")
        if suite.distinct_patients:
            raise UsageError("--distinct-patients is for --test-on", fix="say --test-on DATASET too, or leave it out")
        return {}, []
    if suite.shuffle_labels:
        raise UsageError("--shuffle-labels is a control of one dataset", fix="leave --test-on out")
    others, refused = open_tested(suite, registry, settings, console)
    pairs = [
        (own, other) for own in opened.values() for other in others if own[0].content_hash != other[1].content_hash
    ]
    if opened and others and not pairs:
        raise UsageError(
            f"--test-on {','.join(suite.test_on)}: it is what is trained on, and tested on its own test split anyway",
            fix="name another dataset",
        )
    for own, other in pairs:
        require_two_names(own[0], other[1])
    found: dict[str, list[External]] = {}
    for own, other in pairs:
        trained = own[0].spec.name
        try:
            found.setdefault(trained, []).append(match_and_compare(own, other, suite, settings, console))
        except DataError as error:
            refused.append((f"{trained} -> {other[0]}", error))
    return {name: tuple(externals) for name, externals in found.items()}, refused


def open_tested(
    suite: Suite, registry: Registry, settings: Settings, console: Console
) -> tuple[list[OpenExternal], list[tuple[str, ZooError]]]:
    """Open each dataset of `--test-on`; it is not split, since all of it is tested on."""
    opened: list[OpenExternal] = []
    refused: list[tuple[str, ZooError]] = []
    for asked in suite.test_on:
        ending = OFFICIAL_TEST if asked.endswith(OFFICIAL_TEST) else ""
        named = replace(suite, datasets=(asked.removesuffix(ending),))
        for spec in choose_datasets(named, registry, settings, console):
            if isinstance(spec, tuple):
                refused.append(spec)
                continue
            try:
                source, fingerprints = open_and_compare(spec, settings, console)
            except DataError as error:  # the other datasets stand
                refused.append((spec.name, error))
                continue
            opened.append((f"{source.spec.name}{ending}", source, fingerprints))
    return opened, refused


def match_and_compare(
    own: SplitDataset, other: OpenExternal, suite: Suite, settings: Settings, console: Console
) -> External:
    """One dataset as the models of another can be tested on it, with what the two share."""
    (trained, split, fingerprints), (name, tested, others) = own, other
    external = match_datasets(trained, tested, others, dict(suite.label_map), name=name)
    with console.counting(f"comparing {trained.spec.name} with {name}", "images") as progress:
        return check_overlap(
            trained,
            split,
            fingerprints,
            external,
            settings.cache,
            drop=suite.drop_leaks,
            distinct_patients=suite.distinct_patients,
            progress=progress,
        )
