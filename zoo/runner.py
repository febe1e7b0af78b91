"""From a suite to results: the steps of a bench, and the steps of one run, in order."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.assignments import Assignment, assign, left_to_do, longest_first, name_work, refusal
from zoo.audit import Audit, External, audit, audit_external
from zoo.caches import in_use
from zoo.data import Dataset, Pixels, open_pixels
from zoo.elsewhere import predict_elsewhere
from zoo.errors import ResultsError, ZooError
from zoo.executor import Event, Notify, can_fork
from zoo.features import GetFeatures, extract_features, keep_features
from zoo.inference import Predictions
from zoo.models import build_model, count_flops, count_parameters
from zoo.planning import Plan, Settings, find_all_done, plan_bench, worker_devices
from zoo.progress import BenchProgress, Console, duration
from zoo.registry import Registry, open_registry
from zoo.results import (
    WEIGHTS_FILE,
    Result,
    claim,
    find_done,
    load_result,
    now,
    open_results,
    save_result,
)
from zoo.scoring import Score, score_run, val_score
from zoo.specs import IMAGENET_MEAN, IMAGENET_STD, MetricSpec, ModelSpec
from zoo.suites import LEAK_ALLOWED, Run, Suite, external_runs, settle, trained_and_tested, tuning_runs
from zoo.system import (
    describe_system,
    device_kind,
    forget_peak_memory,
    peak_memory_bytes,
    prepare_torch,
    seed_children,
    versions,
)
from zoo.timing import time_models
from zoo.training import Checkpoints, Fitted, find_checkpoints, fit, reopen
from zoo.weights import find_model_spec, import_all, imports_of

if TYPE_CHECKING:
    from torch import nn


NO_DISK = {"results-unusable", "no-room"}  # codes of errors that meet every run to come, too
WAIT_SECONDS = 0.5  # between two looks at what another bench carries out


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a bench ended: each run with its result or its failure, and the datasets that were refused."""

    plan: Plan
    runs: tuple[Run, ...]
    results: Mapping[str, Result] = field(default_factory=dict)  # by run id; failed and refused ones too
    reused: frozenset[str] = frozenset()

    @property
    def refused(self) -> dict[str, tuple[str, str]]:
        """Code and message by dataset: refused at planning, or when its images were decoded."""
        late = [r for r in self.results.values() if r.status == "refused" and r.error]
        return {name: (error.code, str(error)) for name, error in self.plan.refused} | {
            trained_and_tested(r.run): (r.error["code"], r.error["message"]) for r in late if r.error
        }


def bench(suite: Suite, registry: Registry, settings: Settings, console: Console) -> Outcome:
    """Plan, tune where the protocol says so, carry out what is not done, time the models, and keep the best weights."""
    with open_results(settings.results), in_use(settings.cache):
        plan = audit_plan(plan_bench(suite, registry, settings, console), suite, console)
        describe_plan(plan, settings, console)
        runs, left_out = tune(plan, registry, settings, console)
        runs += external_runs(runs, plan.externals)
        planned = {run.id for run in plan.runs}
        done = {**plan.done, **find_all_done([run for run in runs if run.id not in planned], settings)}
        results = carry_out(runs, done, plan, registry, settings, console)
        results = time_models(results, plan.device, registry, settings, console)
        reused = frozenset(run.id for run in runs if run.id in done)
        if settings.keep_weights == "best":
            keep_best_weights(results.values())
        return Outcome(plan=plan, runs=(*runs, *left_out), results=results, reused=reused)


def plan_only(suite: Suite, registry: Registry, settings: Settings, console: Console) -> Outcome:
    """What `bench` would do, nothing of it done."""
    plan = audit_plan(plan_bench(suite, registry, settings, console), suite, console)
    describe_plan(plan, settings, console)
    elsewhere = external_runs(plan.runs, plan.externals)
    done = {**plan.done, **find_all_done(elsewhere, settings)}
    return Outcome(plan=plan, runs=(*plan.runs, *elsewhere), results=done, reused=frozenset(done))


def claim_and_execute(assignment: Assignment, device: str, notify: Notify, *, registry: Registry | None) -> None:
    """Carry out, in a worker process, what another bench is not at and has not finished since it was planned."""
    with claim(assignment.results, assignment.run) as is_ours:
        if not is_ours:
            notify({"taken": True})
        elif left := left_to_do(assignment):
            execute_run(left, device, notify, registry=registry)


def execute_run(assignment: Assignment, device: str, notify: Notify, *, registry: Registry | None) -> None:
    """One run: build, fit, predict val and test once, score, save; then test it elsewhere."""
    registry = registry or open_registry()  # a spawned worker inherits nothing
    run, dataset = assignment.run, assignment.dataset
    prepare_torch(run.threads)
    forget_peak_memory(device)  # this worker may have served other runs
    spec = find_model_spec(run.model, registry, assignment.cache)
    metrics = {name: registry.find("metric", name) for name in assignment.metrics}
    select = partial(val_score, metric=metrics[assignment.primary_metric], card=dataset.card)

    module = build(spec, run, dataset, assignment.weights)
    cost = measure_size(module, dataset)
    notify({"stored_bytes": 4 * cost["num_parameters"] if assignment.keep_weights != "none" else 0})
    pixels = open_pixels(dataset, *normalization(spec, run), device)
    checkpoints = find_own_checkpoints(assignment)
    if assignment.kept:
        fitted = reopen(module, assignment.kept, pixels, run.precision)
    else:
        fitted = fit(
            spec,
            module,
            dataset,
            pixels,
            run.protocol,
            seed=run.seed,
            precision=run.precision,
            val_score=select,
            notify=notify,
            get_features=find_features(run, dataset, pixels, assignment.cache),
            checkpoints=checkpoints,
        )
    val = fitted.predict(dataset, pixels, "val", run.precision)
    details = {
        "pretraining": describe_pretraining(spec, run),
        "val_score": null_if_nan(select(val)),
        "keep_weights": assignment.keep_weights,
    }
    result = assignment.done or score_and_save(assignment, fitted, pixels, val, metrics, cost, details)
    checkpoints.drop()
    weights = "kept" if assignment.kept else "trained again" if assignment.done else "its own"
    for test in assignment.elsewhere:
        predict_elsewhere(test, fitted.module, val, pixels, metrics, result, assignment.results, weights=weights)


# --- the steps of a run, one level down ------------------------------------------------------------------------------
def score_and_save(
    assignment: Assignment,
    fitted: Fitted,
    pixels: Pixels,
    val: Predictions,
    metrics: Mapping[str, MetricSpec],
    cost: Mapping[str, Any],
    details: Mapping[str, Any],
) -> Result:
    """Read test once, unless the run is there to tune, and save all that the run has found."""
    run, dataset = assignment.run, assignment.dataset
    predictions: dict[str, Predictions] = {"val": val}
    scores: dict[str, dict[str, Score]] = {}
    if run.purpose != "tune":
        predictions["test"] = fitted.predict(dataset, pixels, "test", run.precision)
        scores = score_run(predictions, metrics, dataset.card, threshold=run.protocol.threshold)
    result = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status="ok",
        dataset=assignment.dataset_facts,
        deviations=(*run.deviations, *fitted.deviations),
        details={**describe_fit(fitted, assignment), **details},
        cost={**cost, **measure_cost(fitted, pixels.device)},
        system=describe_system(pixels.device, run.threads),
        versions=versions(),
        created=now(),
    )
    state = state_of(fitted.module) if assignment.keep_weights != "none" else None
    save_result(assignment.results, run, result, predictions, scores, fitted.history, state)
    return result


def build(spec: ModelSpec, run: Run, dataset: Dataset, weights: Path | None) -> nn.Module:
    return build_model(
        spec,
        num_outputs=dataset.task.num_outputs(len(dataset.labels)),
        channels=dataset.channels,
        image_size=run.image_size,
        weights=weights,
        tag=run.weights_tag,
        stem=run.protocol.stem,
        head_std=run.protocol.head_std,
        seed=seed_children(run.seed, "init")["init"],
    )


def normalization(spec: ModelSpec, run: Run) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the network's input: the weights' own, or what the protocol fixes."""
    if run.protocol.normalization == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if run.protocol.normalization == "half":
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    for weights in spec.weights:
        if run.init == "pretrained" and weights.tag == run.weights_tag:
            return weights.mean, weights.std
    return spec.mean, spec.std


def measure_size(module: nn.Module, dataset: Dataset) -> dict[str, Any]:
    shape = (1, dataset.channels, dataset.image_size, dataset.image_size)
    return {"num_parameters": count_parameters(module), "flops": count_flops(module, shape)}


def find_own_checkpoints(assignment: Assignment) -> Checkpoints:
    """Where this run's training may go on; other versions compute other bits, and `--fresh` begins anew."""
    results, computing = str(assignment.results.resolve()), json.dumps(versions(), sort_keys=True)
    checkpoints = find_checkpoints(assignment.cache, assignment.run.id, results, computing)
    if assignment.fresh:
        checkpoints.drop()
    return checkpoints


def find_features(run: Run, dataset: Dataset, pixels: Pixels, cache: Path) -> GetFeatures:
    """Where a frozen network's features come from: those of pretrained weights are kept for other seeds and folds."""
    if run.init == "random":
        return extract_features
    made_by = {name: version for name, version in versions().items() if name in {"torch", "torchvision", "timm"}}
    identity = {
        "content": dataset.content_hash,
        "size": run.image_size,
        "scale": pixels.scale,
        "mean": pixels.mean.flatten().tolist(),
        "std": pixels.std.flatten().tolist(),
        "model": run.model,
        "weights": run.weights_digest,
        "stem": run.protocol.stem,
        "device": run.device_kind,
        "threads": run.threads,
        **made_by,
    }
    return keep_features(cache, json.dumps(identity, sort_keys=True))


def measure_cost(fitted: Fitted, device: str) -> dict[str, Any]:
    return {
        "train_seconds": round(fitted.train_seconds, 3),
        "images_per_second": fitted.images_per_second and round(fitted.images_per_second, 1),
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def describe_fit(fitted: Fitted, assignment: Assignment) -> dict[str, Any]:
    return {
        **fitted.details,
        "selected_step": fitted.selected_step,
        "primary_metric": assignment.primary_metric,
        "intensity": list(assignment.dataset.intensity),
        "channels": assignment.dataset.channels,
    }


def describe_pretraining(spec: ModelSpec, run: Run) -> list[str] | None:
    """The data that its initial weights were trained on; None where nobody says, nothing for random init."""
    if run.init == "random":
        return []
    return next((list(w.pretraining) for w in spec.weights if w.tag == run.weights_tag and w.pretraining), None)


def null_if_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None


def state_of(module: nn.Module) -> dict[str, Any]:
    # Copies: safetensors refuses tensors that share memory, and channels_last ones are not contiguous.
    return {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}


# --- the steps of a bench, one level down ----------------------------------------------------------------------------
def audit_plan(plan: Plan, suite: Suite, console: Console) -> Plan:
    """The plan without the runs on datasets that leak; where that is allowed, with every such run stamped."""
    refused, stamped = dict(plan.refused), set()
    for name, (source, split) in plan.sources.items():
        with console.counting(f"auditing {name}"):
            audited = audit(source, split, plan.prints[name])
        if admit(audited, suite, refused, console):
            stamped.add(name)
    runs = [run for run in plan.runs if run.dataset not in refused]
    stamp = f"{LEAK_ALLOWED} {suite.allow_leak}"
    runs = [replace(r, deviations=(*r.deviations, stamp)) if r.dataset in stamped else r for r in runs]
    externals: dict[str, tuple[External, ...]] = {}
    for name, parts in plan.externals.items():
        for external in parts if name not in refused else ():
            audited = audit_external(name, external)
            allowed = suite.allow_leak if admit(audited, suite, refused, console) else ""
            if audited.dataset not in refused:
                externals[name] = (*externals.get(name, ()), replace(external, leak_allowed=allowed))
    return replace(plan, runs=tuple(runs), externals=externals, refused=tuple(refused.items()))


def admit(audited: Audit, suite: Suite, refused: dict[str, ZooError], console: Console) -> bool:
    """Say what an audit found, and add what it refuses to `refused`; True where that was allowed by the suite."""
    name = audited.dataset
    for finding in audited.findings:
        if finding.verdict == "warn":
            console.say(f"{name}: {finding.message}")
    error = audited.refusal()
    if error and suite.allow_leak:
        console.warn(f"{name}: leak allowed ({suite.allow_leak}): {error.message}")
    elif error:
        refused[name] = error
    return bool(error and suite.allow_leak)


def describe_plan(plan: Plan, settings: Settings, console: Console) -> None:
    """Say what will run before it does."""
    for name, error in plan.refused:
        console.say(refusal(name, error))
    for source, split in plan.sources.values():
        for note in (*source.samples.notes, *split.notes):
            console.say(f"{source.spec.name}: {note}")
    for name, externals in plan.externals.items():
        for external in externals:
            for note in (*external.source.samples.notes, *external.notes):
                console.say(f"{external.name}: {note}")
            labels = ", ".join(f"{theirs!r} as {ours!r}" for theirs, ours in external.labels.items())
            console.say(f"{name} -> {external.name}: tested on {len(external.rows)} images there too, {labels}")
    waiting = sum(run.id not in plan.done for run in plan.runs)
    reused = f", {len(plan.runs) - waiting} done already" if waiting < len(plan.runs) else ""
    models, datasets = {run.shown for run in plan.runs}, {run.dataset for run in plan.runs}
    control = any(run.purpose == "shuffle" for run in plan.runs)
    counted = f"{len(models)} models" + (" on shuffled labels" if control else " with the baselines")
    console.say(
        f"{plan.protocol.label}: {len(datasets)} dataset{'s' * (len(datasets) != 1)}, {counted}, "
        f"{len(plan.runs)} runs{reused}; device {plan.device}; results in {settings.results}"
    )


def tune(plan: Plan, registry: Registry, settings: Settings, console: Console) -> tuple[list[Run], list[Run]]:
    """Replace each run whose protocol names a grid by the run at the point its val split chose, on the tuning seed.

    Beside them the runs that cannot be settled, because every point of their grid failed.
    """
    grids = [run for run in plan.runs if run.protocol.tune]
    if not grids:
        return list(plan.runs), []
    trials = {trial.id: trial for run in grids for trial in tuning_runs(run)}
    console.say(f"tuning on val: {len(trials)} runs on one seed of their own")
    done = find_all_done(list(trials.values()), settings)
    results = carry_out(list(trials.values()), done, plan, registry, settings, console)
    scores = {i: r.details["val_score"] for i, r in results.items() if r.ok and r.details["val_score"] is not None}
    settled, left_out = [], []
    for run in plan.runs:
        if not run.protocol.tune:
            settled.append(run)
            continue
        try:
            settled.append(settle(run, scores))
        except KeyError:
            left_out.append(run)
    for shown, dataset in dict.fromkeys((run.shown, run.dataset) for run in left_out):
        console.warn(f"{shown} on {dataset}: every tuning run failed; it is left out")
    return settled, left_out


def carry_out(
    runs: Sequence[Run],
    done: Mapping[str, Result],
    plan: Plan,
    registry: Registry,
    settings: Settings,
    console: Console,
) -> dict[str, Result]:
    """Results of all runs by id: those done already, and the others carried out in worker processes now."""
    waiting = [run for run in runs if run.id not in done]
    results = {run.id: done[run.id] for run in runs if run.id in done}
    if not waiting:
        return results
    with console.counting("importing what the runs need"):
        preload(waiting, registry, settings)
    assignments, refused = assign(waiting, plan, settings, console)
    results |= refused
    decoded = {a.dataset.images for a in assignments}
    progress = BenchProgress(console, len(assignments), sum(path.stat().st_size for path in decoded))
    while assignments:
        concluded, assignments = execute_all(assignments, progress, plan.device, registry, settings)
        results |= concluded
        if settings.fail_fast and not all(result.ok for result in concluded.values()):
            break
        if assignments:
            wait_for_others(assignments, console)
    console.done()
    return results


def execute_all(
    assignments: Sequence[Assignment], progress: BenchProgress, device: str, registry: Registry, settings: Settings
) -> tuple[dict[str, Result], list[Assignment]]:
    """Results by run id of what was carried out, and what was not, because another bench is at it."""
    execute = registry.find("executor", settings.executor).execute
    events: Generator[Event[Assignment], None, None] = execute(
        longest_first(assignments),
        partial(claim_and_execute, registry=registry if can_fork() else None),
        devices=worker_devices(settings, device, len(assignments)),
        reuse=device_kind(device) != "cpu",
        timeout=settings.run_timeout,
        fail_fast=settings.fail_fast,
    )
    results: dict[str, Result] = {}
    taken: dict[str, Assignment] = {}
    with contextlib.closing(events):  # whatever goes wrong here, no worker outlives it
        for event in events:
            name = name_work(event.work)
            if event.kind == "started":
                progress.started(name)
            elif event.details.get("taken"):
                taken[event.work.run.id] = event.work
            elif event.kind == "progress":
                progress.progressed(name, event.details)
            elif event.work.run.id in taken:
                progress.put_off(name)
            else:
                found = conclude_all(event, settings)
                results |= {result.id: result for result in found}
                progress.finished(name, "; ".join(map(describe_result, found)))
    return results, list(taken.values())


def wait_for_others(assignments: Sequence[Assignment], console: Console) -> None:
    """Wait until another bench is no longer at one of these runs: it finished it, failed, or is no more."""
    count = len(assignments)
    with console.counting(f"waiting for {count} run{'s' * (count > 1)} that another bench carries out"):
        while True:
            for assignment in assignments:
                with claim(assignment.results, assignment.run) as is_free:
                    if is_free:
                        return
            time.sleep(WAIT_SECONDS)


def preload(runs: Sequence[Run], registry: Registry, settings: Settings) -> None:
    """Import once what every worker needs; a forked child inherits it.

    Nothing is computed here: the threads that torch starts for that do not survive a fork.
    """
    names = imports_of({run.model for run in runs}, registry, settings.cache)
    if any(run.protocol.method == "finetune" for run in runs):
        names.add("torch._dynamo")  # perf: the first optimizer imports it, 2 s in every child
    core = (
        "torch",
        "filelock",
        "torch.utils.flop_counter",
        "safetensors.torch",
        "sklearn.linear_model",
        "sklearn.metrics",
    )
    for name in core:
        importlib.import_module(name)
    import_all(names)


def conclude_all(event: Event[Assignment], settings: Settings) -> list[Result]:
    """What came of the run of an assignment, where it was not done before, and of its tests elsewhere."""
    work = event.work
    own = [] if work.done else [conclude(event, settings)]
    return own + [conclude_run(event, test.run, test.facts, settings) for test in work.elsewhere]


def conclude(event: Event[Assignment], settings: Settings) -> Result:
    return conclude_run(event, event.work.run, event.work.dataset_facts, settings)


def conclude_run(event: Event[Assignment], run: Run, facts: Mapping[str, Any], settings: Settings) -> Result:
    """The result of work that ended: as its worker saved it, or a record of how it failed.

    A finished result that `--fresh` was to repeat is not replaced by a failure. Of several runs in one piece of work
    those stand that were saved before it failed.
    """
    if event.status == "ok":
        return load_result(settings.results / run.folder)
    if event.code in NO_DISK:
        message, _, fix = event.message.partition("; fix: ")
        raise ResultsError(message, fix=fix, code=event.code)
    saved = find_done(settings.results, run)
    if saved and event.work.elsewhere and not settings.fresh:
        return saved
    failed = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status=event.status or "failed",
        error={"code": event.code, "message": event.message},
        dataset=facts,
        deviations=run.deviations,
        versions=versions(),
        created=now(),
    )
    with claim(settings.results, event.work.run) as is_ours:
        if is_ours and find_done(settings.results, run) is None:
            save_result(settings.results, run, failed)
    return failed


def describe_result(result: Result) -> str:
    """The end of the line that says a run is over."""
    if result.error:
        return f"{result.status.upper()}: {result.error['message']}"
    seconds = duration(result.cost["train_seconds"])
    name = result.details["primary_metric"]
    found = result.scores().get(name)
    if found is None:
        return f"done in {seconds}, val {result.details['val_score']}"
    shown = f"{name} {found.value:.3f}" if found.value is not None else f"{name} undefined ({found.reason})"
    if result.run["tested_on"]:
        return f"{shown} on {result.run['tested_on']}"
    return f"{shown}, trained in {seconds}"


def keep_best_weights(results: Iterable[Result]) -> None:
    """Keep the weights of one seed a model, dataset and protocol: the one with the best val score.

    Those of a run that `--keep-weights all` was asked for stay.
    """
    kept: dict[tuple[Path, str], list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.run["fold"], r.run["seed"])):  # of equal scores the first one's
        if result.ok and result.folder and (result.folder / WEIGHTS_FILE).exists():
            kept.setdefault((result.folder.parent, result.run["protocol_label"]), []).append(result)
    for candidates in kept.values():
        best = max(candidates, key=lambda r: -math.inf if r.details["val_score"] is None else r.details["val_score"])
        for result in candidates:
            if result is not best and result.folder and result.details.get("keep_weights") == "best":
                (result.folder / WEIGHTS_FILE).unlink(missing_ok=True)  # another bench may choose too
