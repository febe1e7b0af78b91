"""Assign planned runs to worker processes, each with the local files it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.auditing.external import describe_external, open_external
from zoo.data.dataset import DecodedFold, Resolution, cache_decoded, describe_fold, open_fold
from zoo.data.opening import OpenDataset, convert_failures, read_by_train
from zoo.data.references import list_readers
from zoo.data.shuffling import shuffle_labels
from zoo.data.volumes import DecodedVolumes
from zoo.errors import DataError, ZooError, dataset_subject, with_fix
from zoo.models.weights import RANDOM, InitialWeights
from zoo.registry.choices import find_choices, plugins_of
from zoo.registry.context import Context
from zoo.registry.loading import CORE
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.results.store import WEIGHTS_FILE, Result, find_done
from zoo.runner.external import ExternalTest
from zoo.runner.planning import Plan, has_weights, resolve_keep_weights
from zoo.system.machine import distributions_of
from zoo.system.progress import Console, RunName
from zoo.system.settings import KeepWeights
from zoo.tasks.task import Task
from zoo.trained.card import CARD_FILE, recorded_reading
from zoo.trained.seen import describe_images
from zoo.training.batches import plan_steps


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The input of a worker process: a run with the local files it needs, and its external validations."""

    run: Run
    dataset: DecodedFold
    dataset_facts: Mapping[str, Any]
    weights: InitialWeights
    metrics: tuple[str, ...]
    primary_metric: str
    results: Path
    cache: Path
    keep_weights: KeepWeights
    fresh: bool
    done: Result | None = None  # the run's result, if only its external validations are missing
    kept: Path | None = None  # the folder of its trained model; None: train it (again)
    external: tuple[ExternalTest, ...] = ()
    libraries: tuple[str, ...] = ()  # distributions whose versions the result records in addition to the core's
    source: Mapping[str, Any] = field(default_factory=dict)  # how images were read, for the card of a kept model
    results_of_bench: Path | None = None  # the results folder of a bench that does not share it with this machine


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding:
    """All datasets at all sizes, decoded once each; an image that cannot be decoded refuses all runs on its dataset."""

    context: Context
    faults: dict[str, DataError] = field(default_factory=dict)
    datasets: dict[tuple[str, Resolution, int], DecodedFold] = field(default_factory=dict)
    images: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # `describe_images` by dataset

    def open(
        self,
        run: Run,
        source: OpenDataset,
        open_images: Callable[[Path], DecodedFold],
        resolution: Resolution | None = None,
    ) -> DecodedFold | None:
        """Decode a dataset for a run, and open the result with `open_images`; None if an image cannot be decoded.

        `resolution` is that of the run by default.
        """
        resolution = resolution or resolution_of(run, self.context.registry)
        key = (run.data, resolution, run.fold)
        if key not in self.datasets and run.data not in self.faults:
            at = f" at {run.image_size} px" if source.spec.dims == 2 else ""
            counting = self.context.console.counting(f"decoding {run.data}{at}", "images")
            try:
                with convert_failures(), counting as progress:
                    images = cache_decoded(source, resolution, self.context.settings.cache, progress)
                    self.datasets[key] = open_images(images)
            except DataError as error:
                self.faults[run.data] = error
                self.context.console.say(refusal(run.data, error))
        return self.datasets.get(key)

    def describe(self, run: Run, source: OpenDataset) -> dict[str, Any]:
        """How the images of a run were read, for the card of its model."""
        if run.data not in self.images:
            self.images[run.data] = describe_images(source)
        return {"reading": recorded_reading(source.samples), "images": self.images[run.data]}


def resolution_of(run: Run, registry: Registry) -> Resolution:
    transforms = find_choices(run.protocol, registry).get("transforms", ())
    preparing = tuple(choice for choice in transforms if choice.spec.prepare)
    return Resolution(run.image_size, run.protocol.spacing, preparing)


def resolution_like(test: Run, dataset: DecodedFold, registry: Registry) -> Resolution:
    """The resolution of an external dataset: its volumes have the spacing of the training volumes."""
    decoded = dataset.decoded
    own = resolution_of(test, registry)
    return own._replace(spacing=decoded.spacing or ()) if isinstance(decoded, DecodedVolumes) else own


def assign_runs(runs: Sequence[Run], plan: Plan, context: Context) -> tuple[list[Assignment], dict[str, Result]]:
    """Decode each dataset once per size, and assign each run its files; external validations go with their training.

    Returns the assignments, and the results of refused runs by id: those on a dataset with an image that cannot be
    decoded.
    """
    settings, decoding = context.settings, Decoding(context=context)
    assignments = []
    requested = {run.id for run in runs}
    for run, tests in group_by_training(runs):
        source, split = plan.sources[run.dataset]
        source = read_by_train(source, split.folds[run.fold] == "train")
        dataset = decoding.open(run, source, partial(open_fold, source, split, run.fold, patch=run.image_size))
        if dataset is None:
            continue
        if run.purpose == "shuffle":
            dataset = shuffle_labels(dataset, run.seed)
        plugin = find_task_plugin(source.task, context.registry)
        facts = {**describe_fold(dataset, source, split), **({"task_plugin": plugin} if plugin else {})}
        external = tuple(open_external_tests(tests, plan, decoding, dataset, facts))
        done = None if run.id in requested else find_done(settings.results, run)
        if done and not external:
            continue
        primary = plan.primary_metric or source.task.primary_metric
        keep_weights = resolve_keep_weights(run, context)
        assignments.append(
            Assignment(
                run=run,
                dataset=dataset,
                dataset_facts=facts,
                weights=plan.weights[run.weights_digest, run.weights_tag] if run.weights_digest else RANDOM,
                metrics=tuple(dict.fromkeys([primary, *source.task.metrics, *plan.metrics])),
                primary_metric=primary,
                results=settings.results,
                cache=settings.cache,
                keep_weights=keep_weights,
                fresh=settings.fresh,
                done=done,
                kept=find_kept_model(done),
                external=external,
                libraries=(
                    *plan.libraries.get(run.model, ()),
                    *([plugin] if plugin else []),
                    *libraries_of_estimator(run, context.registry),
                    *plugins_of(find_choices(run.protocol, context.registry)),
                    *(identity.partition(":")[0] for identity in list_readers(source)),
                ),
                source={} if keep_weights == "none" else decoding.describe(run, source),
            )
        )
    report_retraining(assignments, context.console)
    faults = decoding.faults
    refused = {run.id: error for run in runs if (error := faults.get(run.dataset) or faults.get(run.data))}
    return assignments, {run.id: refuse(run, refused[run.id]) for run in runs if run.id in refused}


def libraries_of_estimator(run: Run, registry: Registry) -> list[str]:
    """The distributions that determine what a run's estimator answers."""
    if not run.estimator:
        return []
    return [
        run.estimator.partition(":")[0],
        *distributions_of(registry.find("estimator", run.protocol.estimator).imports),
    ]


def find_task_plugin(task: Task, registry: Registry) -> str:
    """The distribution that registers a task; "" for a task of the core."""
    first, *_ = registry.owners.get("task", {}).get(task.name, (CORE,))
    return "" if first == CORE else first


def open_external_tests(
    tests: Iterable[Run], plan: Plan, decoding: Decoding, dataset: DecodedFold, facts: Mapping[str, Any]
) -> Iterator[ExternalTest]:
    """Open the external datasets of a model trained on `dataset`, without those that cannot be decoded."""
    for test in tests:
        external = next(part for part in plan.externals[test.dataset] if part.hash == test.test_hash)
        opened = partial(open_external, external, dataset)
        other = decoding.open(test, external.source, opened, resolution_like(test, dataset, decoding.context.registry))
        if other is not None:
            external_facts = describe_external(external, other, dataset, facts)
            yield ExternalTest(run=test, dataset=other, facts=external_facts)


def remaining_work(assignment: Assignment) -> Assignment | None:
    """The part of an assignment that another bench has not finished since planning; None if it is all done."""
    if assignment.fresh:
        return assignment
    done = assignment.done
    if done is None:
        done = find_done(assignment.results, assignment.run)
        if done is None or not has_weights(done, assignment.run, assignment.keep_weights):
            return assignment
        assignment = replace(assignment, done=done, kept=find_kept_model(done))
    missing = tuple(test for test in assignment.external if find_done(assignment.results, test.run) is None)
    return replace(assignment, external=missing) if missing else None


def group_by_training(runs: Iterable[Run]) -> list[tuple[Run, list[Run]]]:
    """Group external validations with the run that trains their model, whether or not that run is among `runs`."""
    groups: dict[str, tuple[Run, list[Run]]] = {}
    for run in runs:
        training = run.trained_as
        tests = groups.setdefault(training.id, (training, []))[1]
        if run.tested_on:
            tests.append(run)
    return list(groups.values())


def find_kept_model(done: Result | None) -> Path | None:
    """The folder of a finished run with its model; None for frozen networks, whose head is fitted again in seconds."""
    if done is None or done.folder is None or done.run["protocol"]["method"] != "finetune":
        return None
    return done.folder if all((done.folder / name).exists() for name in (WEIGHTS_FILE, CARD_FILE)) else None


def report_retraining(assignments: Sequence[Assignment], console: Console) -> None:
    retrained = [a for a in assignments if a.done and not a.kept and a.run.protocol.method == "finetune"]
    if retrained:
        console.say(
            f"{len(retrained)} finished runs are trained again for external validation: their weights were not kept "
            "(--keep-weights all keeps them)"
        )


def longest_first(assignments: Sequence[Assignment]) -> list[Assignment]:
    """Sort assignments by estimated time, the longest first, so that no core is idle at the end."""

    def work(assignment: Assignment) -> int:
        run, protocol = assignment.run, assignment.run.protocol
        images = int((assignment.dataset.split_of == "train").sum())
        trains = protocol.method == "finetune" and not assignment.kept
        steps = plan_steps(protocol, images)[0] if trains else 0
        return int((steps * protocol.batch_size + images) * run.input_size**protocol.dims)

    return sorted(assignments, key=work, reverse=True)


def name_work(assignment: Assignment, *, with_protocol: bool = False) -> RunName:
    """The name of an assignment in the progress line."""
    run = assignment.external[0].run if assignment.done else assignment.run
    seed = f"seed {run.seed}" + (f" fold {run.fold}" if run.num_folds > 1 else "")
    model = f"{run.shown} {run.protocol.label}" if with_protocol else run.shown
    return RunName(dataset=run.data, model=model, seed=seed)


def refuse(run: Run, error: ZooError) -> Result:
    """The result of a run whose data cannot be used; it is not stored, because nothing was tried."""
    return Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status="refused",
        error=error.describe(),
    )


def refusal(name: str, error: ZooError) -> str:
    message = with_fix(error.message_below(dataset_subject(name)), error.fix)
    return f"zoo: error[{error.code}] {name}: refused: {message}"
