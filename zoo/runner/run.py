"""Execute one run in a worker process: `execute_run` calls its stages in order."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.cube_pixels import CubePixels, open_cubes
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels, open_pixels, with_metadata
from zoo.data.volume_cubes import DecodedCubes
from zoo.data.volumes import DecodedVolumes, Sides, VolumePixels, open_volumes
from zoo.evaluation.scoring import score_run, val_score
from zoo.evaluation.values import Score
from zoo.models.building import build_model, count_flops, count_parameters, spec_with_metadata
from zoo.models.features import GetFeatures, extract_features, keep_features
from zoo.models.weights import RANDOM, InitialWeights, find_model_spec
from zoo.registry.choices import find_choices
from zoo.registry.lookup import Registry
from zoo.registry.opening import open_registry
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, claim, now, save_result
from zoo.runner.assignments import Assignment, remaining_work, resolution_of
from zoo.runner.external import FittedModel, predict_external
from zoo.runner.moving import move_here
from zoo.specs.metric import MetricSpec
from zoo.specs.model import IMAGENET_MEAN, IMAGENET_STD, BuildRequest, ModelSpec
from zoo.system.devices import describe_compute, open_device
from zoo.system.machine import prepare_torch, seed_children, versions
from zoo.system.workers import Notify
from zoo.tasks.overlaps import COUNTED
from zoo.trained.keeping import Keepsake, model_files
from zoo.trained.opening import load_module
from zoo.training.checkpoints import Checkpoints, find_checkpoints
from zoo.training.fitting import FitRequest, Fitted, fit, reopen

if TYPE_CHECKING:
    from torch import nn

NOTIFY_SECONDS = 0.1


def claim_and_execute(
    assignment: Assignment, device: str, notify: Notify, *, registry: Registry | None, results: Path | None = None
) -> None:
    """Execute, in a worker process, what another bench neither executes now nor has finished since planning.

    `results` is the folder of the results on a machine that shares no folder with the bench.
    """
    if results:
        assignment = move_here(assignment, results)
    with claim(assignment.results, assignment.run) as is_ours:
        if not is_ours:
            notify({"taken": True})
        elif work := remaining_work(assignment):
            backend = open_device(device)
            backend.prepare()
            with backend.shared():
                notify({"began": True})  # waiting for the device does not count as the run's time
                execute_run(work, device, limit_rate(notify), registry=registry)


def limit_rate(notify: Notify) -> Notify:
    """Forward at most ten steps per second: a GPU takes hundreds, and the parent draws a line for each."""
    last = 0.0

    def notify_sometimes(details: dict[str, Any]) -> None:
        nonlocal last
        moment = time.monotonic()
        if "val_score" in details or "step" not in details or moment - last >= NOTIFY_SECONDS:
            last = moment
            notify(details)

    return notify_sometimes


def execute_run(assignment: Assignment, device: str, notify: Notify, *, registry: Registry | None) -> None:
    """Execute a run: build, fit, predict val and test once, score, save; then its external validations."""
    registry = registry or open_registry()  # a spawned worker does not inherit it
    run, dataset = assignment.run, assignment.dataset
    prepare_torch(run.threads)
    own = find_model_spec(run.model, registry, assignment.cache)
    spec = spec_with_metadata(own) if run.protocol.metadata else own
    metrics = {name: registry.find("metric", name) for name in assignment.metrics}
    select = partial(val_score, metric=metrics[assignment.primary_metric], card=dataset.card)

    kept = assignment.kept
    module = load_module(kept, registry, assignment.cache)[2] if kept else build(own, run, dataset, assignment.weights)
    pixels = open_input(spec, assignment, device)
    cost = measure_module_size(module, pixels)
    notify({"stored_bytes": 4 * cost["num_parameters"] if assignment.keep_weights != "none" else 0})
    checkpoints = open_checkpoints(assignment)
    if kept:
        fitted = reopen(module, pixels, run.precision)
    else:
        request = FitRequest(
            spec=spec,
            module=module,
            dataset=dataset,
            pixels=pixels,
            protocol=run.protocol,
            seed=run.seed,
            precision=run.precision,
            val_score=select,
            notify=notify,
            get_features=choose_features(assignment, pixels),
            estimator=registry.find("estimator", run.protocol.estimator) if run.estimator else None,
            choices=find_choices(run.protocol, registry),
            counts_only=assignment.primary_metric in COUNTED,
            checkpoints=checkpoints,
        )
        fitted = fit(request)
    val = fitted.predict(dataset, pixels, "val", run.precision)
    details = {
        "family": spec.family,
        "pretraining": assignment.weights.pretraining(spec),
        **describe_local(assignment.weights),
        **({"weights_derivation": spec.derivation} if run.init == "pretrained" and spec.derivation else {}),
        **(pixels.describe() if isinstance(pixels, VolumePixels | CubePixels) else {}),
        "val_score": null_if_nan(select(val)),
        "keep_weights": assignment.keep_weights,
    }
    weights = "kept" if kept else "trained again" if assignment.done else "its own"
    result = assignment.done or to_result(assignment, fitted, pixels.device, cost=cost, details=details)
    model = FittedModel(module=fitted.module, pixels=pixels, val=val, result=result, weights=weights)
    if assignment.done is None:
        finish_run(assignment, fitted, model, metrics, registry)
    checkpoints.drop()
    for test in assignment.external:
        predict_external(test, model, metrics, assignment.results)


def finish_run(
    assignment: Assignment, fitted: Fitted, model: FittedModel, metrics: Mapping[str, MetricSpec], registry: Registry
) -> None:
    """Predict test, once and only here, unless val decides between runs; save the result."""
    run, dataset, pixels = assignment.run, assignment.dataset, model.pixels
    predictions = {"val": model.val}
    scores: dict[str, dict[str, Score]] = {}
    if run.purpose != "tune":
        predictions["test"] = fitted.predict(dataset, pixels, "test", run.precision)
        scores = score_run(predictions, metrics, dataset.card, threshold=run.protocol.threshold)
    files = {}
    if assignment.keep_weights != "none":
        own = find_model_spec(run.model, registry, assignment.cache)
        steps = resolution_of(run, registry).transforms
        files = model_files(replace(keepsake(assignment, own, model, scores), transforms=steps))
    artifacts = Artifacts(
        result=model.result, predictions=predictions, scores=scores, history=fitted.history, files=files
    )
    save_result(assignment.results, run, artifacts)


def keepsake(
    assignment: Assignment, spec: ModelSpec, model: FittedModel, scores: Mapping[str, Mapping[str, Score]]
) -> Keepsake:
    """What the files of a finished run's model are made from."""
    run, details = assignment.run, model.result.details
    return Keepsake(
        run=run,
        spec=spec_with_metadata(spec) if run.protocol.metadata else spec,
        module=model.module,
        build=partial(build, spec, run, assignment.dataset, RANDOM),
        dataset=assignment.dataset,
        dataset_facts=assignment.dataset_facts,
        source=assignment.source,
        pixels=model.pixels,
        val=model.val,
        val_score=details["val_score"],
        scores={name: asdict(score) for name, score in scores.get("scores", {}).items()},
        versions=model.result.versions,
        weights={
            "init": run.init,
            "tag": run.weights_tag,
            "digest": run.weights_digest,
            "license": details.get("weights_license") or license_of(spec, run.weights_tag),
            "pretraining": details["pretraining"],
            "derivation": details.get("weights_derivation", ""),
        },
    )


def license_of(spec: ModelSpec, tag: str) -> str:
    return next((weights.license for weights in spec.weights if weights.tag == tag), "") or spec.license


def to_result(
    assignment: Assignment, fitted: Fitted, device: str, *, cost: Mapping[str, Any], details: Mapping[str, Any]
) -> Result:
    """The result of a finished run; `cost` and `details` are added to those of its training."""
    run = assignment.run
    return Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status="ok",
        dataset=assignment.dataset_facts,
        deviations=(*run.deviations, *fitted.deviations),
        details={**describe_fit(fitted, assignment), **details},
        cost={**cost, **measure_cost(fitted, device)},
        system=describe_compute(device, run.threads),
        versions=versions(*assignment.libraries),
        created=now(),
    )


def build(spec: ModelSpec, run: Run, dataset: DecodedFold, weights: InitialWeights) -> nn.Module:
    request = BuildRequest(
        num_outputs=dataset.task.head.num_outputs(len(dataset.labels)),
        channels=dataset.channels,
        image_size=run.input_size,
        weights=weights.path,
        tag=weights.build_tag,
        dims=run.protocol.dims,
        labels=dataset.labels,
        metadata=dataset.coding.num_inputs if run.protocol.metadata else 0,
    )
    return build_model(
        spec,
        request,
        stem=run.protocol.stem,
        head_std=run.protocol.head_std,
        seed=seed_children(run.seed, "init")["init"],
    )


def normalization(spec: ModelSpec, run: Run, weights: InitialWeights) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the network's input: those of the weights, or those that the protocol fixes."""
    if run.protocol.normalization == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if run.protocol.normalization == "half":
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return weights.normalization(spec)


def open_input(spec: ModelSpec, assignment: Assignment, device: str) -> Pixels | VolumePixels:
    """Open the decoded images of a run as its network reads them."""
    run, dataset = assignment.run, assignment.dataset
    if isinstance(dataset.decoded, DecodedVolumes) and dataset.volumes:
        sides = Sides(spec.size_multiple, spec.min_image_size)
        return open_volumes(dataset.decoded, dataset.volumes, device, sides=sides)
    if isinstance(dataset.decoded, DecodedCubes) and dataset.volumes:
        return open_cubes(dataset.decoded, dataset.volumes.window, device)
    pixels = open_pixels(dataset, *normalization(spec, run, assignment.weights), device, run.patch)
    return with_metadata(pixels, dataset) if run.protocol.metadata else pixels


def measure_module_size(module: nn.Module, pixels: Pixels | VolumePixels) -> dict[str, Any]:
    return {"num_parameters": count_parameters(module), "flops": count_flops(module, (1, *pixels.input_shape))}


def open_checkpoints(assignment: Assignment) -> Checkpoints:
    """The checkpoints of this run with these versions of the libraries; `--fresh` deletes them."""
    results = assignment.results_of_bench or assignment.results
    libraries = json.dumps(versions(*assignment.libraries), sort_keys=True)
    checkpoints = find_checkpoints(assignment.cache, assignment.run.id, str(results.resolve()), libraries)
    if assignment.fresh:
        checkpoints.drop()
    return checkpoints


def choose_features(assignment: Assignment, pixels: Pixels | VolumePixels) -> GetFeatures:
    """Choose how to get a frozen network's features: with pretrained weights, cache them for other seeds and folds."""
    run = assignment.run
    if run.init == "random" or isinstance(pixels, VolumePixels | CubePixels):
        return extract_features
    relevant = {"torch", *assignment.libraries}
    library_versions = {name: version for name, version in versions(*assignment.libraries).items() if name in relevant}
    identity = {
        "content": assignment.dataset.content_hash,
        "decoded": assignment.dataset.images.parent.name,  # its intensity levels may depend on the fold's train images
        "size": run.image_size,
        "scale": pixels.scale,
        "mean": pixels.mean.flatten().tolist(),
        "std": pixels.std.flatten().tolist(),
        "model": run.model,
        "network": run.network,
        "weights": run.weights_digest,
        "stem": run.protocol.stem,
        **({"inputs": run.inputs, "coding": assignment.dataset.coding.describe()} if run.inputs else {}),
        "device": run.device_kind,
        "threads": run.threads,
        **library_versions,
    }
    return keep_features(assignment.cache, json.dumps(identity, sort_keys=True))


def measure_cost(fitted: Fitted, device: str) -> dict[str, Any]:
    return {
        "train_seconds": round(fitted.train_seconds, 3),
        "images_per_second": fitted.images_per_second and round(fitted.images_per_second, 1),
        "peak_memory_bytes": open_device(device).peak_memory_bytes(),
    }


def describe_fit(fitted: Fitted, assignment: Assignment) -> dict[str, Any]:
    return {
        **fitted.details,
        "selected_step": fitted.selected_step,
        "primary_metric": assignment.primary_metric,
        "intensity": list(assignment.dataset.intensity),
        "channels": assignment.dataset.channels,
    }


def describe_local(weights: InitialWeights) -> dict[str, Any]:
    """The name and the license of a local weights file."""
    if weights.local is None or weights.path is None:
        return {}
    return {"weights_file": weights.path.name, "weights_license": weights.local.license or None}


def null_if_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None
