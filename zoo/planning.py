"""Plan a bench: models with their weights, datasets opened and split, and every run with its id."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zoo.audit import OFFICIAL_TEST, External, check_overlap, match
from zoo.baselines import BASELINES
from zoo.caches import KINDS
from zoo.devices import count_sharing, device_kind, list_devices, resolve_device, resolve_precision
from zoo.errors import DataError, UsageError, ZooError
from zoo.files import cache_root, hash_bytes, read_regular, sweep, write_json
from zoo.fingerprints import Fingerprints, take_fingerprints
from zoo.precision import WORTHWHILE, Network, find_precisions
from zoo.progress import Console
from zoo.protocol import Protocol, override
from zoo.registry import HUB, ModelChoice, Registry
from zoo.results import WEIGHTS_FILE, Result, find_done
from zoo.samples import Progress, Source, discard_split, failures_told, open_source
from zoo.sources import find_recognized
from zoo.specs import BuildRequest, DatasetSpec, FetchRequest, MetricSpec
from zoo.splits import Split, draw_split
from zoo.suites import MODEL_SETS, Machine, Run, Suite, as_control, as_controls, plan_runs, safe_name
from zoo.system import distributions_of, num_cores
from zoo.training import plan_steps
from zoo.weights import (
    InitialWeights,
    Trial,
    find_all_weights,
    find_hub_model,
    find_model_spec,
    import_all,
    refuse_misfits,
    weights_folder,
)

KeepWeights = Literal["best", "all", "none"]

CACHE_DEPTH = 2  # unpacked/KEY/NAME, datasets/NAME/FILE: what is written whole lies no deeper


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a bench is told beside its suite; none of it changes what a run gives, but device and threads."""

    results: Path = Path("results")
    cache: Path = field(default_factory=cache_root)
    weights_dir: Path | None = None
    keep_weights: KeepWeights = "best"
    device: str = "auto"
    threads: int = 1
    workers: int | None = None
    executor: str = "local"
    run_timeout: float | None = None
    offline: bool = False
    fresh: bool = False
    fail_fast: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a bench will do, nothing of it done yet."""

    runs: tuple[Run, ...]
    done: Mapping[str, Result]  # run id -> the finished result that makes it unnecessary
    sources: Mapping[str, tuple[Source, Split]]  # by dataset name
    prints: Mapping[str, Fingerprints]  # the same
    externals: Mapping[str, tuple[External, ...]]  # by dataset name: what its models are tested on beside
    weights: Mapping[tuple[str, str], InitialWeights]  # by digest and tag
    metrics: Mapping[str, MetricSpec]
    primary_metric: str  # "": each task's own
    protocol: Protocol
    refused: tuple[tuple[str, ZooError], ...]  # dataset, why
    device: str
    libraries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by model: whose versions are recorded


def plan_bench(suite: Suite, registry: Registry, settings: Settings, console: Console) -> Plan:
    """Look up every name, find every file of weights, open and split every dataset, and list the runs.

    A wrong name or missing weights is an error; a dataset that cannot be used is refused and the others stand.
    """
    open_cache(settings.cache)
    if settings.weights_dir:
        weights_folder(settings.weights_dir)  # a folder that is not there is said before anything is imported
    registry.find("executor", settings.executor)
    protocol = override(registry.find("protocol", suite.protocol), dict(suite.settings))
    metrics = choose_metrics(suite, registry)
    choices = choose_models(suite, registry, settings)
    specs = choose_datasets(suite, registry, settings, console)
    if all(isinstance(spec, tuple) for spec in specs):
        choices = []  # nothing will run: what weights lack would hide what the data lack
    with console.counting("asking for the device"):  # which imports torch
        device = resolve_device(settings.device)
        machine = describe_machine(device, settings)
    with console.counting("weights", "bytes") as progress:
        initial = find_all_weights(
            choices,
            "none" if protocol.weights == "none" else suite.weights,
            weights_dir=settings.weights_dir,
            cache=settings.cache,
            offline=settings.offline,
            progress=progress,
        )
    say_fallbacks(choices, initial, settings, console)
    opened, refused = open_sources(specs, suite, settings, console)
    externals, unmatched = plan_externals(opened, suite, registry, settings, console)
    sources = {name: (source, split) for name, (source, split, _) in opened.items()}
    other = protocol
    if protocol.without_weights:
        other = override(registry.find("protocol", protocol.without_weights), dict(suite.settings))
    starts = list(zip(choices, initial, strict=True))
    runs = plan_runs(suite, protocol, other, starts, list(sources.values()), machine, list_baselines())
    runs = choose_precisions(runs, sources, registry, settings, console)
    if suite.shuffle_labels:
        runs, protocol = as_controls(runs), as_control(protocol)
    runs = list({run.id: run for run in runs}.values())
    with console.counting("looking for finished runs", "runs") as progress:
        done = find_all_done(runs, settings, progress)
    weights = {(weights.digest, weights.tag): weights for weights in initial}
    check_weights([run for run in runs if run.id not in done], weights, sources, registry, settings, console)
    return Plan(
        runs=tuple(runs),
        done=done,
        sources=sources,
        prints={name: prints for name, (_, _, prints) in opened.items()},
        externals=externals,
        weights=weights,
        metrics=metrics,
        primary_metric=suite.primary_metric,
        protocol=protocol,
        refused=(*refused, *unmatched),
        device=device,
        libraries={choice.name: find_libraries(choice) for choice in choices},
    )


def find_libraries(choice: ModelChoice) -> tuple[str, ...]:
    """The distributions that a network comes from: the plugin, and those of the modules that its spec imports."""
    return tuple(dict.fromkeys([choice.name.partition(":")[0], *distributions_of(choice.spec.imports)]))


def list_baselines() -> list[ModelChoice]:
    return [ModelChoice(name=f"zoo-bench:{spec.name}", spec=spec, weights=None, shown=spec.name) for spec in BASELINES]


def check_weights(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[Source, Split]],
    registry: Registry,
    settings: Settings,
    console: Console,
) -> None:
    """Refuse weights that do not fit their model before anything starts."""
    trials = list_trials(runs, weights, sources, registry, settings.cache)
    with console.counting("importing what the models need"):
        import_all(name for trial in trials for name in ("torch", *trial.spec.imports))
    with console.counting("trying weights", "models", alone=False) as progress:
        refuse_misfits(trials, registry, settings.cache, progress)


def choose_precisions(
    runs: Sequence[Run],
    sources: Mapping[str, tuple[Source, Split]],
    registry: Registry,
    settings: Settings,
    console: Console,
) -> list[Run]:
    """On a CPU that computes bf16, train each network in the precision in which it is faster."""

    def network(run: Run) -> Network | None:
        protocol = run.protocol
        chosen = protocol.precision == "auto" and protocol.method == "finetune" and run.num_train
        if not chosen or run.device_kind != "cpu" or run.precision != "bf16":
            return None
        if plan_steps(protocol, run.num_train)[0] * protocol.batch_size < WORTHWHILE:
            return None
        return Network(
            model=run.model,
            stem=run.protocol.stem,
            channels=sources[run.dataset][0].spec.channels,
            image_size=run.image_size,
            threads=run.threads,
        )

    networks = [network(run) for run in runs]
    with console.counting("timing bf16 and fp32 on this processor", "models", alone=False) as progress:
        found = find_precisions([each for each in networks if each], registry, settings.cache, progress)
    return [
        replace(run, precision=found.get(each, run.precision)) if each else run
        for run, each in zip(runs, networks, strict=True)
    ]


def open_cache(folder: Path) -> None:
    """Make the cache folder, and remove what killed processes left half-written in it."""
    try:
        for kind in ("", *KINDS):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        sweep(folder, depth=CACHE_DEPTH)
    except OSError as error:
        raise UsageError(
            f"cache folder {error.filename or folder}: {error.strerror}",
            fix="set ZOO_CACHE to a folder that can be written to",
            code="cache-unusable",
        ) from error


def describe_machine(device: str, settings: Settings) -> Machine:
    kind = device_kind(device)
    return Machine(
        device_kind=kind,
        threads=settings.threads if kind == "cpu" else 0,  # elsewhere the host's threads change no bit
        precision=resolve_precision("auto", device),
    )


def choose_models(suite: Suite, registry: Registry, settings: Settings) -> list[ModelChoice]:
    """Every model asked for, sets and globs expanded, each once."""
    choices = []
    for asked in [name for model in suite.models for name in MODEL_SETS.get(model, (model,))]:
        if asked.startswith(HUB):
            choices.append(find_hub_model(asked, registry, settings.cache, offline=settings.offline))
            continue
        matched = [registry.find_model(name) for name in registry.match("model", asked)]
        choices += [choice for choice in matched if choice.spec.find is None or len(matched) == 1]
    return list({(choice.name, choice.weights and choice.weights.tag): choice for choice in choices}.values())


def choose_metrics(suite: Suite, registry: Registry) -> dict[str, MetricSpec]:
    """The metrics asked for beside the tasks' own; the primary one among them."""
    asked = [*suite.metrics, *([suite.primary_metric] if suite.primary_metric else [])]
    names = [name for pattern in asked for name in registry.match("metric", pattern)]
    return {name: registry.find("metric", name) for name in names}


def choose_datasets(
    suite: Suite, registry: Registry, settings: Settings, console: Console
) -> list[DatasetSpec | tuple[str, ZooError]]:
    """Every dataset asked for: by name, prefix or path. One of the latter that cannot be had is refused, not raised."""
    if not suite.datasets:
        raise UsageError("nothing selected: no dataset", fix="--datasets NAME or PATH")
    chosen: list[DatasetSpec | tuple[str, ZooError]] = []
    for asked in suite.datasets:
        try:
            with console.counting(f"bringing {asked}", "bytes") as progress:
                chosen += find_datasets(asked, registry, settings.cache, offline=settings.offline, progress=progress)
        except DataError as error:
            chosen.append((asked, error))
    return chosen


def find_datasets(
    asked: str, registry: Registry, cache: Path, *, offline: bool = False, progress: Progress | None = None
) -> list[DatasetSpec]:
    """What a dataset's name means: that of a spec, a glob over names, `PREFIX:name`, or a path."""
    if (family := registry.find_family(asked)) and family.find:
        request = FetchRequest(name=asked, folder=cache / "datasets", offline=offline, progress=progress)
        return [family.find(request)]
    if is_path(asked, registry):
        return [find_recognized(Path(asked), registry.datasets.values(), progress)]
    matched = [registry.find("dataset", name) for name in registry.match("dataset", asked)]
    return [spec for spec in matched if spec.find is None or len(matched) == 1]


def open_named(asked: str, registry: Registry, console: Console) -> list[tuple[Source, Fingerprints]]:
    """The datasets that a name, glob or path means, opened with nothing downloaded, and what their images are."""
    settings = Settings(offline=True)
    specs = find_datasets(asked, registry, settings.cache, offline=True)
    return [open_and_compare(spec, settings, console) for spec in specs]


def is_path(asked: str, registry: Registry) -> bool:
    """Whether a dataset is meant as a path: a name that is known wins over a folder of that name."""
    if asked in registry.datasets:
        return False
    # os.path: for a name longer than a file system takes, Path.exists raises
    return "/" in asked or "\\" in asked or asked.startswith(".") or os.path.exists(asked)  # noqa: PTH110


Opened = tuple[Source, Split, Fingerprints]


def open_sources(
    specs: Sequence[DatasetSpec | tuple[str, ZooError]], suite: Suite, settings: Settings, console: Console
) -> tuple[dict[str, Opened], list[tuple[str, ZooError]]]:
    """Open and split each dataset; those that cannot be used are returned beside, with the reason."""
    opened: dict[str, Opened] = {}
    refused: list[tuple[str, ZooError]] = []
    for spec in specs:
        if isinstance(spec, tuple):
            refused.append(spec)
            continue
        try:
            source, split, prints = open_and_split(
                spec, settings, console, folds=suite.folds, resplit=suite.resplit, drop_leaks=suite.drop_leaks
            )
        except DataError as error:  # the other datasets stand
            refused.append((spec.name, error))
            continue
        if source.spec.name in opened:
            require_two_names(opened[source.spec.name][0], source)
        opened[source.spec.name] = (source, split, prints)
    return opened, refused


def require_two_names(one: Source, other: Source) -> None:
    """Raise where two datasets have one name."""
    if one.spec.name == other.spec.name and one.content_hash != other.content_hash:
        raise UsageError(
            f"two datasets are called {one.spec.name!r}",
            fix="give one another name in its dataset.toml, or run each alone",
        )


@failures_told()
def open_and_split(
    spec: DatasetSpec,
    settings: Settings,
    console: Console,
    *,
    folds: int | None = None,
    resplit: bool = False,
    drop_leaks: bool = False,
) -> Opened:
    """Open a dataset, decode every image, compare each with all others, and split the set."""
    source, prints = open_and_compare(spec, settings, console)
    if resplit:
        source = discard_split(source)
    with console.counting(f"splitting {spec.name}"):
        split = draw_split(source, folds, prints, drop_leaks=drop_leaks)
    return source, split, prints


@failures_told()
def open_and_compare(spec: DatasetSpec, settings: Settings, console: Console) -> tuple[Source, Fingerprints]:
    with console.counting(f"reading {spec.name}") as progress:
        source = open_source(spec, settings.cache, offline=settings.offline, progress=progress)
    with console.counting(f"comparing the images of {spec.name}", "images") as progress:
        return source, take_fingerprints(source, settings.cache, progress)


Tested = tuple[str, Source, Fingerprints]  # the name asked for with


def plan_externals(
    opened: Mapping[str, Opened], suite: Suite, registry: Registry, settings: Settings, console: Console
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
) -> tuple[list[Tested], list[tuple[str, ZooError]]]:
    """Open each dataset of `--test-on`; it is not split, since all of it is tested on."""
    opened: list[Tested] = []
    refused: list[tuple[str, ZooError]] = []
    for asked in suite.test_on:
        ending = OFFICIAL_TEST if asked.endswith(OFFICIAL_TEST) else ""
        named = replace(suite, datasets=(asked.removesuffix(ending),))
        for spec in choose_datasets(named, registry, settings, console):
            if isinstance(spec, tuple):
                refused.append(spec)
                continue
            try:
                source, prints = open_and_compare(spec, settings, console)
            except DataError as error:  # the other datasets stand
                refused.append((spec.name, error))
                continue
            opened.append((f"{source.spec.name}{ending}", source, prints))
    return opened, refused


def match_and_compare(own: Opened, other: Tested, suite: Suite, settings: Settings, console: Console) -> External:
    """One dataset as the models of another can be tested on it, with what the two share."""
    (trained, split, prints), (name, tested, others) = own, other
    external = match(trained, tested, others, dict(suite.label_map), name=name)
    with console.counting(f"comparing {trained.spec.name} with {name}", "images") as progress:
        return check_overlap(
            trained,
            split,
            prints,
            external,
            settings.cache,
            drop=suite.drop_leaks,
            distinct_patients=suite.distinct_patients,
            progress=progress,
        )


def find_all_done(runs: Sequence[Run], settings: Settings, progress: Progress | None = None) -> dict[str, Result]:
    """The runs that need not be carried out again: none with `--fresh`, and none without the weights asked for."""
    if settings.fresh:
        return {}
    done = {}
    for number, run in enumerate(runs, start=1):
        result = find_done(settings.results, run)
        if result and has_weights(result, run, settings.keep_weights):
            done[run.id] = result
        if progress:
            progress(number, len(runs))
    return done


def kept_of(run: Run, keep_weights: KeepWeights) -> KeepWeights:
    """What `--keep-weights` means for a run: nothing of a baseline, a tuning run or a control."""
    return "none" if run.protocol.name == "baseline" or run.purpose != "score" else keep_weights


def has_weights(result: Result, run: Run, keep_weights: KeepWeights) -> bool:
    """Whether the weights that `--keep-weights` wants are there: of this run, or under `best` of any of its seeds."""
    if kept_of(run, keep_weights) == "none":
        return True
    assert result.folder is not None
    if (result.folder / WEIGHTS_FILE).exists():
        return True
    seeds = f"{safe_name(run.protocol.label)}.seed*/{WEIGHTS_FILE}"
    return keep_weights == "best" and any(result.folder.parent.glob(seeds))


def list_trials(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[Source, Split]],
    registry: Registry,
    cache: Path,
) -> list[Trial]:
    """Each way in which these runs put a model and a file of weights together, once."""
    trials: dict[tuple[Path, str], Trial] = {}
    for run in runs:
        if not run.weights_digest:
            continue
        initial = weights[run.weights_digest, run.weights_tag]
        assert initial.path is not None
        card = sources[run.dataset][0].spec
        request = BuildRequest(
            num_outputs=card.task.num_outputs(len(card.labels)),
            channels=card.channels,
            image_size=run.image_size,
            weights=initial.path,
            tag=initial.build_tag,
        )
        spec = find_model_spec(run.model, registry, cache)
        trial = Trial(model=run.model, spec=spec, path=initial.path, request=request)
        trials.setdefault((initial.path, trial.key), trial)
    return list(trials.values())


def say_fallbacks(
    choices: Sequence[ModelChoice], initial: Sequence[InitialWeights], settings: Settings, console: Console
) -> None:
    """Say once, loudly, which models start from random init although pretrained weights were wanted."""
    names = [choice.shown for choice, weights in zip(choices, initial, strict=True) if weights.fallback]
    if names:
        brought = weights_folder(settings.weights_dir)
        looked = f"not in {brought}, " if brought else ""
        console.warn(
            f"NO PRETRAINED WEIGHTS for {', '.join(names)}: {looked}not on this machine and not reachable; "
            "random init instead, marked on every row (--weights-dir FOLDER gives them)"
        )


def worker_devices(settings: Settings, device: str, kinds: Sequence[str]) -> list[str]:
    """The device of each worker: as many as `settings` say, else one per `threads` cores, or a few per GPU.

    `kinds` has the kind of device of each run. `cuda` without a number means all GPUs of the machine, each with runs of
    its own. Beside a GPU, one worker takes the runs that are made on the CPU.
    """
    devices, kind = list_devices(device), device_kind(device)
    own = sum(each == kind for each in kinds)
    count = settings.workers
    if count is None and kind == "cuda":
        count = len(devices) * count_sharing(device)
    elif count is None:
        count = num_cores() // settings.threads if kind == "cpu" else 1
    count = max(1, min(own, count)) if own else 0
    return [devices[number % len(devices)] for number in range(count)] + ["cpu"] * (own < len(kinds))


# --- the last plan, for `zoo why` ------------------------------------------------------------------------------------
def plan_path(results: Path) -> Path:
    """Where the identities of the last plan for a results folder are kept: in the cache, a dry run leaves no folder."""
    return cache_root() / "plans" / f"{hash_bytes(str(results.resolve()))[:16]}.json"


def save_plan(runs: Sequence[Run], results: Path) -> None:
    """Keep it where that is possible: what was done does not depend on it."""
    with suppress(OSError):
        write_json(plan_path(results), {run.id: run.identity for run in runs})


def load_plan(results: Path) -> dict[str, dict[str, Any]]:
    """The identities of the last plan by run id; empty where there is none."""
    try:
        plan = json.loads(read_regular(plan_path(results)))
    except (OSError, ValueError, RecursionError):
        return {}
    return {run: known for run, known in plan.items() if isinstance(known, dict)} if isinstance(plan, dict) else {}
