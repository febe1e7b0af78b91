"""Plan external validations, and test a fitted model on another dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.auditing.external import OFFICIAL_TEST, External, match_datasets, require_inputs
from zoo.auditing.overlap import OverlapRequest, check_overlap
from zoo.data.cube_pixels import open_cubes
from zoo.data.dataset import DecodedFold
from zoo.data.fingerprints import Fingerprints
from zoo.data.lookup import SplitDataset, open_and_compare, require_two_names
from zoo.data.opening import OpenDataset
from zoo.data.pixels import Pixels, open_pixels, with_metadata
from zoo.data.volume_cubes import DecodedCubes
from zoo.data.volumes import DecodedVolumes, VolumePixels, open_volumes
from zoo.errors import DataError, UsageError, ZooError
from zoo.evaluation.predict import predict
from zoo.evaluation.predictions import Predictions, prediction_difference
from zoo.evaluation.scoring import score_run
from zoo.registry.context import Context
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, now, save_result
from zoo.runner.selection import choose_datasets
from zoo.specs.deviation import Deviation
from zoo.specs.metric import MetricSpec
from zoo.specs.protocol import Protocol
from zoo.specs.suite import Suite

if TYPE_CHECKING:
    from torch import nn

# Of a probability, or of the pixels of a mask: processors round differently, and training amplifies the difference.
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class ExternalTest:
    """A test on another dataset than the one trained on, with the local files it needs."""

    run: Run
    dataset: DecodedFold  # all images are test images
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedModel:
    """A model after its run, with the training dataset's pixels and predictions of val."""

    module: nn.Module
    pixels: Pixels | VolumePixels
    val: Predictions
    result: Result
    weights: str  # their origin: "its own", "kept", or "trained again"


def predict_external(test: ExternalTest, model: FittedModel, metrics: Mapping[str, MetricSpec], results: Path) -> None:
    """Predict and score the images of an external dataset at the thresholds of val, and save the result.

    The external images are normalized like those of the training dataset. If the model's run was finished by another
    bench, the module should predict val as that run did; a larger difference becomes a deviation of the result.
    """
    run, dataset, trained, pixels, val = test.run, test.dataset, model.result, model.pixels, model.val
    images = open_alike(dataset, pixels)
    predictions = {"val": val, "test": predict(model.module, dataset, images, "test", precision=run.precision)}
    card = replace(dataset.card, val_unit=test.facts["val_unit"])
    difference = compare_val(val, trained)
    deviations = run.deviations
    if difference > MAX_DIFFERENCE:
        deviations += (Deviation("other-predictions", (model.weights, difference)),)
    result = replace(
        trained,
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        dataset=test.facts,
        deviations=deviations,
        details={
            **trained.details,
            "intensity": list(dataset.intensity),
            "trained_run": trained.id,
            "weights": model.weights,
            "val_differs": difference,
        },
        created=now(),
        checksums={},
        folder=None,
    )
    scores = score_run(predictions, metrics, card, threshold=run.protocol.threshold)
    save_result(results, run, Artifacts(result=result, predictions=predictions, scores=scores))


def open_alike(dataset: DecodedFold, pixels: Pixels | VolumePixels) -> Pixels | VolumePixels:
    """Open the images of an external dataset as the network reads those of training."""
    if isinstance(dataset.decoded, DecodedCubes) and dataset.volumes:
        return open_cubes(dataset.decoded, dataset.volumes.window, pixels.device)
    if isinstance(pixels, Pixels):
        mean, std = pixels.mean.flatten().tolist(), pixels.std.flatten().tolist()
        images = open_pixels(dataset, mean, std, pixels.device, pixels.patch)
        return images if pixels.metadata is None else with_metadata(images, dataset)
    assert isinstance(dataset.decoded, DecodedVolumes)
    assert dataset.volumes is not None
    opened = open_volumes(dataset.decoded, dataset.volumes, pixels.device, sides=pixels.sides)
    return replace(opened, patch=pixels.patch)  # not that of the median of these volumes


def compare_val(val: Predictions, trained: Result) -> float:
    """`prediction_difference` of val's predictions and the stored ones; 0 for a run that was trained just now."""
    return 0.0 if trained.folder is None else prediction_difference(val, trained.predictions()["val"])


OpenExternal = tuple[str, OpenDataset, Fingerprints]  # the name as in `--test-on`


def plan_externals(
    opened: Mapping[str, SplitDataset], suite: Suite, protocols: Sequence[Protocol], context: Context
) -> tuple[dict[str, tuple[External, ...]], list[tuple[str, ZooError]]]:
    """Plan the external datasets of each training dataset; also return those that cannot be used, with the reason."""
    if not suite.test_on:
        if suite.label_map:
            raise UsageError("--label-map needs --test-on", fix="add --test-on DATASET, or omit --label-map")
        if suite.distinct_patients:
            raise UsageError(
                "--distinct-patients needs --test-on", fix="add --test-on DATASET, or omit --distinct-patients"
            )
        return {}, []
    if suite.shuffle_labels:
        raise UsageError("--shuffle-labels cannot be combined with --test-on", fix="omit one of them")
    others, refused = open_external_datasets(suite, context)
    pairs = [
        (own, other) for own in opened.values() for other in others if own.source.content_hash != other[1].content_hash
    ]
    if opened and others and not pairs:
        raise UsageError(
            f"--test-on {','.join(suite.test_on)}: this is the training dataset, whose own test split is used anyway",
            fix="name another dataset",
        )
    for own, other in pairs:
        require_two_names(own.source, other[1])
    by_dataset: dict[str, list[External]] = {}
    for own, other in pairs:
        name = own.source.spec.name
        try:
            if any(protocol.metadata for protocol in protocols):
                require_inputs(own.source, other[1])
            by_dataset.setdefault(name, []).append(match_and_compare(own, other, suite, context))
        except DataError as error:
            refused.append((f"{name} -> {other[0]}", error))
    return {name: tuple(externals) for name, externals in by_dataset.items()}, refused


def open_external_datasets(suite: Suite, context: Context) -> tuple[list[OpenExternal], list[tuple[str, ZooError]]]:
    """Open the datasets of `--test-on`, without splitting them: all their images are test images."""
    opened: list[OpenExternal] = []
    refused: list[tuple[str, ZooError]] = []
    for name in suite.test_on:
        suffix = OFFICIAL_TEST if name.endswith(OFFICIAL_TEST) else ""
        selection = replace(suite, datasets=(name.removesuffix(suffix),))
        for spec in choose_datasets(selection, context):
            if isinstance(spec, tuple):
                refused.append(spec)
                continue
            try:
                source, fingerprints = open_and_compare(spec, context.settings, context.console)
            except DataError as error:  # go on with the other datasets
                refused.append((spec.name, error))
                continue
            opened.append((f"{source.spec.name}{suffix}", source, fingerprints))
    return opened, refused


def match_and_compare(own: SplitDataset, other: OpenExternal, suite: Suite, context: Context) -> External:
    """Match the labels of an external dataset to those of the training dataset, and check their overlap."""
    trained, (name, tested, others) = own.source, other
    external = match_datasets(trained, tested, others, dict(suite.label_map), name=name)
    with context.console.counting(f"comparing {trained.spec.name} with {name}", "images") as progress:
        request = OverlapRequest(
            dataset=own,
            external=external,
            distinct_patients=suite.distinct_patients,
            cache=context.settings.cache,
            progress=progress,
        )
        return check_overlap(request, drop=suite.drop_leaks)
