"""Plan a bench: models with their weights, datasets opened and split, and every run with its id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo.auditing.external import External
from zoo.data.fingerprints import Fingerprints
from zoo.data.lookup import SplitDataset, open_and_split, require_two_names
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError, ResultsError, UsageError, ZooError
from zoo.models.baselines import BASELINES
from zoo.models.identity import identify_estimator
from zoo.models.weights import InitialWeights, find_all_weights, weights_folder
from zoo.registry.choices import shorten_setting
from zoo.registry.context import Context
from zoo.registry.lookup import ModelChoice, Registry
from zoo.results.memo import SoundRuns
from zoo.results.runs import Run, safe_name
from zoo.results.store import WEIGHTS_FILE, Result, find_done, read_result_document, share_records
from zoo.runner.choices import record_choices
from zoo.runner.external import plan_externals
from zoo.runner.grid import (
    ImageKind,
    Machine,
    PlannedEstimator,
    PlannedModel,
    as_control,
    as_controls,
    plan_baselines,
    plan_runs,
)
from zoo.runner.precision import choose_precisions
from zoo.runner.selection import choose_datasets, choose_metrics, choose_models
from zoo.runner.weight_checks import check_weights
from zoo.specs.dataset import DatasetSpec
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.protocol import Protocol, override, refuse_foreign, uses_setting
from zoo.specs.suite import Suite
from zoo.system.caches import open_cache
from zoo.system.devices import device_kind, resolve_device, resolve_precision
from zoo.system.machine import distributions_of
from zoo.system.progress import Progress
from zoo.system.settings import KeepWeights, Settings
from zoo.trained.opening import facts_but_seed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a bench will do."""

    runs: tuple[Run, ...]
    done: Mapping[str, Result]  # finished results by run id; these runs are not executed
    sources: Mapping[str, tuple[OpenDataset, Split]]  # by dataset name
    fingerprints: Mapping[str, Fingerprints]  # by dataset name
    externals: Mapping[str, tuple[External, ...]]  # by dataset name: the external datasets of its models
    weights: Mapping[tuple[str, str], InitialWeights]  # by digest and tag
    metrics: Mapping[str, MetricSpec]
    primary_metric: str  # "": each task's own
    protocols: tuple[Protocol, ...]
    refused: tuple[tuple[str, ZooError], ...]  # dataset, reason
    device: str
    libraries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model: distributions to record


def plan_bench(suite: Suite, context: Context) -> Plan:
    """Resolve all names, find all weights, open and split all datasets, and list the runs.

    A wrong name or missing weights raise an error; a dataset that cannot be used is refused, and the others still run.
    """
    registry, settings, console = context.registry, context.settings, context.console
    open_cache(settings.cache)
    if settings.weights_dir:
        weights_folder(settings.weights_dir)  # report a missing folder before importing anything
    registry.find("executor", settings.executor)
    for observer in settings.observers:
        registry.find("observer", observer)
    protocols = choose_protocols(suite, registry)
    metrics = choose_metrics(suite, registry)
    choices = choose_models(suite, context)
    specs = choose_datasets(suite, context)
    if all(isinstance(spec, tuple) for spec in specs):
        choices = []  # nothing will run, and missing weights would hide the errors of the datasets
    with console.counting("checking the device"):  # imports torch
        device = resolve_device(settings.device)
        machine = describe_machine(device, settings)
    candidates = find_initial_weights(choices, protocols, suite, context)
    opened, refused = open_sources(specs, suite, context)
    externals, unmatched = plan_externals(opened, suite, protocols, context)
    sources = {name: (dataset.source, dataset.split) for name, dataset in opened.items()}
    kinds = list(dict.fromkeys((source.task, source.spec.dims) for source, _ in sources.values()))
    if any(task.targets.spatial for task, _ in kinds):
        refuse_for_masks(protocols, suite)
    models = plan_models(candidates, protocols, kinds, machine, suite, registry)
    if kinds:
        named = [recipes_of_kinds(protocol, kinds, suite, registry) for protocol in protocols]
        protocols = list(dict.fromkeys(own[kind] for kind in kinds for own in named))
    runs = plan_runs(models, sources.values(), suite.primary_metric)
    runs = record_choices(runs, sources, registry)
    runs = choose_precisions(runs, sources, context)
    if suite.shuffle_labels:
        runs, protocols = as_controls(runs), [as_control(protocol) for protocol in protocols]
    runs = list({run.id: run for run in runs}.values())
    with console.counting("looking for finished runs", "runs") as progress:
        done = find_all_done(runs, context, progress)
    weights_by_digest = {(weights.digest, weights.tag): weights for own in candidates.values() for _, weights in own}
    check_weights([run for run in runs if run.id not in done], weights_by_digest, sources, context)
    report_unkept(runs, context)
    return Plan(
        runs=tuple(runs),
        done=done,
        sources=sources,
        fingerprints={name: dataset.fingerprints for name, dataset in opened.items()},
        externals=externals,
        weights=weights_by_digest,
        metrics=metrics,
        primary_metric=suite.primary_metric,
        protocols=tuple(protocols),
        refused=(*refused, *unmatched),
        device=device,
        libraries={choice.name: find_libraries(choice) for choice in choices},
    )


def plan_models(
    candidates: Mapping[str, Sequence[tuple[ModelChoice, InitialWeights]]],
    protocols: Sequence[Protocol],
    kinds: Sequence[ImageKind],
    machine: Machine,
    suite: Suite,
    registry: Registry,
) -> list[PlannedModel]:
    """Plan each model under each protocol, then the baselines. `candidates` are by `Protocol.weights`."""
    models = []
    for protocol in protocols:
        fallback = find_fallback(protocol, suite, registry)
        for choice, weights in candidates[protocol.weights]:
            recipe = fallback if weights.fallback else protocol
            own = recipes_of_kinds(recipe, kinds, suite, registry)
            planned = plan_model(choice, weights, recipe, suite, machine)
            models.append(replace(planned, by_kind=own, estimator=plan_estimator(recipe, registry)))
    own = recipes_of_kinds(protocols[0], kinds, suite, registry)
    return models + plan_baselines(list_baselines(), models, protocols[0].image_size, machine, own)


def choose_protocols(suite: Suite, registry: Registry) -> list[Protocol]:
    """The requested protocols, with the settings that their methods use. Raises UsageError for one that none uses."""
    recipes = [registry.find("protocol", name) for name in dict.fromkeys(suite.protocols)]
    names = [name for name, _ in suite.settings]
    refuse_foreign(recipes[0], [name for name in names if not any(uses_setting(recipe, name) for recipe in recipes)])
    return [apply_settings(recipe, suite, registry) for recipe in recipes]


def apply_settings(recipe: Protocol, suite: Suite, registry: Registry) -> Protocol:
    settings = {name: text for name, text in suite.settings if uses_setting(recipe, name)}
    return override(recipe, {name: shorten_setting(name, text, registry) for name, text in settings.items()})


def find_fallback(protocol: Protocol, suite: Suite, registry: Registry) -> Protocol:
    """The protocol of models whose pretrained weights were not found."""
    if not protocol.without_weights:
        return protocol
    return apply_settings(registry.find("protocol", protocol.without_weights), suite, registry)


def refuse_for_masks(protocols: Iterable[Protocol], suite: Suite) -> None:
    """Raise UsageError for options that datasets of masks do not support."""
    if suite.shuffle_labels:
        raise UsageError("--shuffle-labels: masks are not shuffled", fix="leave it out", code="wrong-task")
    for protocol in protocols:
        if protocol.method != "finetune":
            raise UsageError(
                f"--protocol {protocol.name}: a head on frozen features cannot draw masks",
                fix="choose finetune, scratch or quick",
                code="wrong-task",
            )


def recipes_of_kinds(
    protocol: Protocol, kinds: Iterable[ImageKind], suite: Suite, registry: Registry
) -> dict[ImageKind, Protocol]:
    """The protocol of each kind of dataset: its own in place of `protocol`, or that one."""
    names = {(task, dims): task.recipe(protocol.name, dims) for task, dims in kinds}
    return {
        kind: protocol if name == protocol.name else apply_settings(registry.find("protocol", name), suite, registry)
        for kind, name in names.items()
    }


def plan_model(
    choice: ModelChoice, weights: InitialWeights, protocol: Protocol, suite: Suite, machine: Machine
) -> PlannedModel:
    """Plan a model under one protocol, with one run if every seed has the same outcome."""
    once = protocol.is_deterministic(weights.init) and not suite.shuffle_labels
    seeds = (0,) if once else suite.seeds
    return PlannedModel(choice=choice, weights=weights, protocol=protocol, seeds=seeds, machine=machine)


def plan_estimator(protocol: Protocol, registry: Registry) -> PlannedEstimator | None:
    """The estimator that a protocol names. Raises UsageError if it is unknown, or depends on the seed undeclared."""
    if protocol.method != "estimator":
        return None
    spec: EstimatorSpec = registry.find("estimator", protocol.estimator)
    if spec.seeded != protocol.seeded:
        fact = "depends on the seed" if spec.seeded else "has the same outcome for every seed"
        raise UsageError(
            f"protocol {protocol.name!r}: seeded is {str(protocol.seeded).lower()}, but estimator {spec.name!r} {fact}",
            fix=f"add --set seeded={str(spec.seeded).lower()}",
            code="bad-protocol",
        )
    qualified = registry.qualified("estimator", protocol.estimator)
    return PlannedEstimator(spec=spec, identity=identify_estimator(spec, qualified, registry))


def find_initial_weights(
    choices: Sequence[ModelChoice], protocols: Sequence[Protocol], suite: Suite, context: Context
) -> dict[str, list[tuple[ModelChoice, InitialWeights]]]:
    """Find the initial weights of each model, by `Protocol.weights`."""
    settings = context.settings
    candidates: dict[str, list[tuple[ModelChoice, InitialWeights]]] = {}
    for kind in dict.fromkeys(protocol.weights for protocol in protocols):
        with context.console.counting("weights", "bytes") as progress:
            initial = find_all_weights(
                choices,
                "none" if kind == "none" else suite.weights,
                weights_dir=settings.weights_dir,
                cache=settings.cache,
                offline=settings.offline,
                progress=progress,
            )
        warn_of_fallbacks(choices, initial, context)
        candidates[kind] = list(zip(choices, initial, strict=True))
    return candidates


def find_libraries(choice: ModelChoice) -> tuple[str, ...]:
    """The distributions that define a network: the plugin, and those of the modules that its spec imports."""
    return tuple(dict.fromkeys([choice.name.partition(":")[0], *distributions_of(choice.spec.imports)]))


def list_baselines() -> list[ModelChoice]:
    return [ModelChoice(name=f"zoo-bench:{spec.name}", spec=spec, weights=None, shown=spec.name) for spec in BASELINES]


def describe_machine(device: str, settings: Settings) -> Machine:
    kind = device_kind(device)
    return Machine(
        device_kind=kind,
        threads=settings.threads if kind == "cpu" else 0,  # on other devices the host's threads do not change results
        precision=resolve_precision("auto", device),
    )


def open_sources(
    specs: Sequence[DatasetSpec | tuple[str, ZooError]], suite: Suite, context: Context
) -> tuple[dict[str, SplitDataset], list[tuple[str, ZooError]]]:
    """Open and split each dataset; also return those that cannot be used, with the reason."""
    opened: dict[str, SplitDataset] = {}
    refused: list[tuple[str, ZooError]] = []
    for spec in specs:
        if isinstance(spec, tuple):
            refused.append(spec)
            continue
        try:
            dataset = open_and_split(
                spec,
                context.settings,
                context.console,
                folds=suite.folds,
                resplit=suite.resplit,
                drop_leaks=suite.drop_leaks,
            )
        except DataError as error:  # go on with the other datasets
            refused.append((spec.name, error))
            continue
        name = dataset.source.spec.name
        if name in opened:
            require_two_names(opened[name].source, dataset.source)
        opened[name] = dataset
    return opened, refused


def find_all_done(runs: Sequence[Run], context: Context, progress: Progress | None = None) -> dict[str, Result]:
    """Find finished results by run id; with `--fresh`, or without the requested weights, a run is not done."""
    settings = context.settings
    if settings.fresh:
        return {}
    done: dict[str, Result] = {}
    last = None
    with SoundRuns(settings.cache, settings.results) as sound:
        for number, run in enumerate(runs, start=1):
            result = find_done(settings.results, run, sound.check)
            if result and has_weights(result, run, resolve_keep_weights(run, context)):
                done[run.id] = last = share_records(result, last)
            if progress:
                progress(number, len(runs))
    return done


def resolve_keep_weights(run: Run, context: Context) -> KeepWeights:
    """Resolve `--keep-weights` for a run: weights of baselines, tuning runs and controls are not kept.

    Nor are estimators without a `state`.
    """
    is_left_out = run.protocol.name == "baseline" or run.purpose != "score"
    return "none" if is_left_out or has_no_state(run, context.registry) else context.settings.keep_weights


def has_no_state(run: Run, registry: Registry) -> bool:
    """Whether the run's estimator cannot be stored as arrays."""
    return run.estimator != "" and registry.find("estimator", run.protocol.estimator).state is None


def report_unkept(runs: Iterable[Run], context: Context) -> None:
    """Name the estimators whose models are not kept although that was requested."""
    if context.settings.keep_weights == "none":
        return
    for name in dict.fromkeys(run.protocol.estimator for run in runs if has_no_state(run, context.registry)):
        context.console.say(
            f"estimator {name!r}: its models are not kept, because its spec has no `state` of arrays; `zoo predict` "
            "and `zoo export` cannot use them"
        )


def has_weights(result: Result, run: Run, keep_weights: KeepWeights) -> bool:
    """Whether the weights that are kept of a run exist: its own or, with `best`, those of any of its seeds."""
    if keep_weights == "none":
        return True
    assert result.folder is not None
    if (result.folder / WEIGHTS_FILE).exists():
        return True
    seeds = f"{safe_name(run.protocol.label)}.seed*/{WEIGHTS_FILE}"
    return keep_weights == "best" and any(
        is_other_seed(path.parent, result) for path in result.folder.parent.glob(seeds)
    )


def is_other_seed(folder: Path, result: Result) -> bool:
    """Whether a folder holds a seed of the same recipe: a choice's other version, say, has the same label."""
    try:
        document, _ = read_result_document(folder / "result.json")
    except ResultsError:
        return False
    return facts_but_seed(document) == facts_but_seed({"identity": result.identity, "run": result.run})


def warn_of_fallbacks(choices: Sequence[ModelChoice], initial: Sequence[InitialWeights], context: Context) -> None:
    """Warn once of the models that start from random init although pretrained weights were requested."""
    names = [choice.shown for choice, weights in zip(choices, initial, strict=True) if weights.fallback]
    if names:
        folder = weights_folder(context.settings.weights_dir)
        place = f"not in {folder}, " if folder else ""
        context.console.warn(
            f"NO PRETRAINED WEIGHTS for {', '.join(names)}: {place}not in the caches and not downloadable; "
            "random init instead, marked on every row (provide them with --weights-dir FOLDER)"
        )
