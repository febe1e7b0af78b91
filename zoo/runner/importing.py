"""Import masks of another tool: score them as the predictions of a model, and store them as finished runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.auditing.audit import run_audit
from zoo.data.dataset import describe_fold
from zoo.data.lookup import SplitDataset
from zoo.data.masks import hash_maps
from zoo.data.opening import OpenDataset
from zoo.data.references import ReferenceFold, find_mask_reader, name_images, open_references
from zoo.errors import DataError, UsageError, ZooError
from zoo.evaluation.predict_masks import collect_masks
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score_run
from zoo.registry.context import Context
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, load_result, now, open_results, save_result
from zoo.runner.assignments import find_task_plugin
from zoo.runner.audit_gate import report_findings
from zoo.runner.planning import open_sources
from zoo.runner.selection import choose_datasets
from zoo.sources.imported_masks import Expected, match_images, read_imported
from zoo.sources.label_map_pairs import LabelMapFiles
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import IMPORTED, Protocol
from zoo.specs.suite import Suite
from zoo.system.caches import in_use, open_cache
from zoo.system.files import hash_bytes
from zoo.system.machine import versions
from zoo.system.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """The name of a row, the files of its masks, and the value of each label in them; None: as in the dataset."""

    name: str
    files: LabelMapFiles
    labels: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Import:
    """The stored runs, one per fold, or the files that cannot be used: then nothing is stored."""

    results: tuple[Result, ...]
    refused: tuple[DataError, ...]
    num_predicted: int = 0  # of the test images
    num_tested: int = 0
    unmatched: tuple[Path, ...] = ()  # files that have the name of no image
    not_tested: tuple[Path, ...] = ()  # files of train and val images


def import_masks(request: ImportRequest, suite: Suite, context: Context) -> Import:
    """Score the masks of the test images of the suite's dataset, and store one run per fold.

    Raises an error for a dataset that cannot be used.
    """
    settings = context.settings
    open_cache(settings.cache)
    with open_results(settings.results), in_use(settings.cache):
        dataset, stamps = open_audited(suite, context)
        source, split = dataset.source, dataset.split
        matched = match_images(request.files, name_images(source))
        rows_of = {name: row for row, name in enumerate(source.sample_ids.tolist())}
        masks = MaskFiles(
            paths={rows_of[name]: path for name, path in matched.by_image.items()},
            values=choose_values(source, request.labels),
        )
        folds = [open_references(source, split, fold) for fold in range(len(split.folds))]
        tested = {row for fold in folds for row in fold.index("test").tolist()}
        with context.console.counting("comparing", "images") as progress:
            predicted = [collect_masks(fold, fold.index("test"), masks.read(fold, progress)) for fold in folds]
        digest, results = hash_predictions(predicted), []
        for fold, part in zip(folds, predicted, strict=True):
            if not masks.refused:
                deviations = (*masks.describe(fold), *stamps)
                run = replace(plan_import(f"imported:{request.name}", fold, digest), deviations=deviations)
                results.append(store_import(fold, part, run, context))
    return Import(
        results=tuple(results),
        refused=tuple(masks.refused),
        num_predicted=len(tested & masks.paths.keys()),
        num_tested=len(tested),
        unmatched=matched.unmatched,
        not_tested=tuple(path for row, path in masks.paths.items() if row not in tested),
    )


def open_audited(suite: Suite, context: Context) -> tuple[SplitDataset, tuple[Deviation, ...]]:
    """Open, split and audit the suite's dataset as a bench does. Raises its error if it is refused."""
    opened, refused = open_sources(choose_datasets(suite, context), suite, context)
    if refused:
        raise refused[0][1]
    if len(opened) != 1:
        raise UsageError(f"{len(opened)} datasets, expected one", fix="name one dataset", code="data")
    (dataset,) = opened.values()
    source = dataset.source
    if not source.task.targets.spatial:
        raise UsageError(
            f"dataset {source.spec.name!r} has no masks: its task is {source.task.name}",
            fix="name a dataset of images and masks",
            code="wrong-task",
        )
    for note in (*source.samples.notes, *dataset.split.notes):
        context.console.say(f"{source.spec.name}: {note}")
    leaks: dict[str, ZooError] = {}
    report = run_audit(source, dataset.split, dataset.fingerprints)
    is_stamped = report_findings(report, suite, leaks, context.console)
    for error in leaks.values():
        raise error
    return dataset, ((Deviation("leak-allowed", (suite.allow_leak,)),) if is_stamped else ())


def choose_values(source: OpenDataset, labels: Mapping[str, int] | None) -> tuple[int, ...]:
    """The value of each label in the masks: those of the dataset's own masks, unless they are named."""
    reader, own = find_mask_reader(source), source.spec.labels
    if labels is None:
        return tuple(range(1, len(own) + 1)) if reader is None else reader.values
    if set(labels) != set(own):
        raise UsageError(
            f"--labels names {', '.join(labels)}; the labels of {source.spec.name} are {', '.join(own)}",
            fix="give the value of each: --labels " + ",".join(f"{name}={n}" for n, name in enumerate(own, start=1)),
        )
    return tuple(labels[name] for name in own)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFiles:
    """The files of predicted masks by row, and the errors of those that cannot be used."""

    paths: Mapping[int, Path]
    values: tuple[int, ...]
    refused: list[DataError] = field(default_factory=list)

    def read(self, fold: ReferenceFold, progress: Progress) -> Iterator[Array]:
        """Yield the mask of each test image, one at a time; an empty one if it has none."""
        reader = find_mask_reader(fold.source)
        rows = fold.index("test").tolist()
        for done, row in enumerate(rows):
            progress(done, len(rows))
            image = fold.source.samples.table["image"].iloc[row]
            shape = fold.label_maps[row].shape
            expected = Expected(
                shape=shape,
                spacing=fold.spacings[row],
                reference=reader.paths(image)[0] if reader else None,
            )
            mask = np.zeros(shape, np.uint8)
            if row in self.paths:
                try:
                    mask = read_imported(self.paths[row], self.values, expected)
                except DataError as error:
                    self.refused.append(error)
            yield mask

    def describe(self, fold: ReferenceFold) -> tuple[Deviation, ...]:
        """The deviations of a fold's run."""
        rows = fold.index("test").tolist()
        missing = sum(row not in self.paths for row in rows)
        return (Deviation("imported"), *([Deviation("unpredicted", (missing, len(rows)))] if missing else []))


def hash_predictions(folds: Sequence[Predictions]) -> str:
    """Hash the masks of all folds."""
    return hash_bytes(*(hash_maps(part.label_maps) for part in folds if part.label_maps is not None))


def plan_import(model: str, fold: ReferenceFold, digest: str, protocol: Protocol = IMPORTED) -> Run:
    """The run of imported predictions. What describes training is empty."""
    return Run(
        dataset=fold.name,
        content_hash=fold.content_hash,
        split_hash=fold.split_hash,
        fold=fold.fold,
        num_folds=fold.num_folds,
        model=model,
        shown=model.partition(":")[2],
        init="none",
        weights_tag="",
        weights_digest="",
        protocol=protocol,
        seed=0,
        image_size=0,
        precision="",
        device_kind="",
        threads=0,
        primary_metric=fold.task.primary_metric,
        purpose="imported",
        predictions=digest,
    )


def store_import(fold: ReferenceFold, test: Predictions, run: Run, context: Context) -> Result:
    """Score and store one fold's predictions."""
    registry, task = context.registry, fold.task
    metrics = {name: registry.find("metric", name) for name in dict.fromkeys([task.primary_metric, *task.metrics])}
    plugin = find_task_plugin(task, registry)
    predictions = {"test": test}
    result = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status="ok",
        dataset={**describe_fold(fold, fold.source, fold.split), **({"task_plugin": plugin} if plugin else {})},
        deviations=run.deviations,
        details={"primary_metric": task.primary_metric},
        versions=versions(),
        created=now(),
    )
    artifacts = Artifacts(
        result=result,
        predictions=predictions,
        scores=score_run(predictions, metrics, fold.card, threshold=run.protocol.threshold),
    )
    return load_result(save_result(context.settings.results, run, artifacts))
