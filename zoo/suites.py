"""Suites, and the runs they consist of, each with its identity."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from zoo.audit import External
from zoo.errors import UsageError, clean, nearest, unknown
from zoo.files import hash_bytes, parse_toml
from zoo.protocol import BASELINE, Protocol, override, resolved_fields
from zoo.registry import ModelChoice
from zoo.samples import Source
from zoo.specs import ModelSpec
from zoo.splits import Split
from zoo.weights import InitialWeights, Policy

ID_VERSION = 2  # raised when what a run id is made of, or how runs are carried out, changes
NUM_SHUFFLES = 20  # of the control with shuffled labels
SHUFFLED = "shuffled"  # how the control's protocol is marked: finetune@1+shuffled
MAX_SEEDS = 10_000
TUNING_SEED = 10_007  # no published suite uses it as a seed
LEAK_ALLOWED = "leak allowed:"  # how the deviation of a run begins whose dataset is not refused though it leaks
STARTER = (
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "vit_small_patch14_dinov2",
)
MODEL_SETS = {"starter": STARTER}


# --- suites ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is benchmarked with what: names only, nothing looked up yet."""

    name: str
    version: int = 1
    title: str = ""
    models: tuple[str, ...] = STARTER
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()  # beside the task's own
    primary_metric: str = ""  # default: the task's
    protocol: str = "finetune"
    settings: tuple[tuple[str, str], ...] = ()  # --set
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: int | None = None
    weights: Policy = "pretrained"
    allow_leak: str = ""  # why a dataset whose split leaks is benchmarked as it is; stamped on every result
    drop_leaks: bool = False  # leave the copies of test images out of train and val
    resplit: bool = False  # discard official splits and draw others
    shuffle_labels: bool = False  # the control: labels of train and val shuffled, once a seed
    test_on: tuple[str, ...] = ()  # other datasets that the models are tested on
    label_map: tuple[tuple[str, str], ...] = ()  # label of those -> that of the dataset trained on; "": none
    distinct_patients: bool = False  # patients of the same name there are other people

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


def list_suites() -> list[str]:
    """The names of the suites that come with zoo."""
    folder = resources.files("zoo") / "benchmarks"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Read a suite by name or from a TOML file; every mistake in it is reported at once with its place."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"suite {name}: no such file",
                fix="correct the path; `zoo list suites` shows what comes with zoo",
                code="bad-suite",
            )
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # editors on Windows put a mark in front
    elif name in list_suites():
        text = (resources.files("zoo") / "benchmarks" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise unknown("suite", name, list_suites())
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise UsageError(f"suite {name}: {error}", fix="correct that line", code="bad-suite") from error
    return parse_suite(document, name)


def parse_suite(document: Mapping[str, Any], origin: str) -> Suite:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class SuiteFile(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

        schema_version: Literal[1] = Field(alias="schema")
        name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
        version: int = Field(default=1, ge=1)
        title: str = ""
        models: list[str] = Field(default=list(STARTER), min_length=1)
        datasets: list[str] = Field(min_length=1)
        metrics: list[str] = []
        primary_metric: str = ""
        protocol: str = "finetune"
        seeds: int | list[int] = 3
        folds: int | None = Field(default=None, ge=1)
        weights: Literal["pretrained", "auto", "none"] = "pretrained"
        allow_leak: str = ""
        drop_leaks: bool = False
        resplit: bool = False
        test_on: list[str] = []
        label_map: dict[str, str] = {}
        distinct_patients: bool = False
        set: dict[str, str | int | float | bool] = {}

    try:
        parsed = SuiteFile.model_validate(dict(document))
    except ValidationError as error:
        known = [field.alias or name for name, field in SuiteFile.model_fields.items()]
        faults = []
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"])
            hint = nearest(place, known) if fault["type"] == "extra_forbidden" else ""
            faults.append(f"{place}: {fault['msg']} {hint}".strip())
        raise UsageError(
            f"suite {clean(origin)}: {'; '.join(faults)}", fix="correct these", code="bad-suite"
        ) from error
    return Suite(
        name=parsed.name,
        version=parsed.version,
        title=parsed.title,
        models=tuple(parsed.models),
        datasets=tuple(parsed.datasets),
        metrics=tuple(parsed.metrics),
        primary_metric=parsed.primary_metric,
        protocol=parsed.protocol,
        settings=tuple((name, str(value)) for name, value in sorted(parsed.set.items())),
        seeds=parse_seeds(parsed.seeds),
        folds=parsed.folds,
        weights=parsed.weights,
        allow_leak=parsed.allow_leak,
        drop_leaks=parsed.drop_leaks,
        resplit=parsed.resplit,
        test_on=tuple(parsed.test_on),
        label_map=tuple(parsed.label_map.items()),
        distinct_patients=parsed.distinct_patients,
    )


def parse_seeds(seeds: int | Sequence[int] | str) -> tuple[int, ...]:
    """`3` means seeds 0, 1, 2; `4,7` means those two."""
    if isinstance(seeds, str):
        try:
            numbers = [int(part) for part in seeds.split(",")]
        except ValueError:
            raise UsageError(f"--seeds {seeds}: expected a number, or seeds separated by commas") from None
        seeds = numbers if "," in seeds else numbers[0]
    if isinstance(seeds, int) and seeds > MAX_SEEDS:
        raise UsageError(f"seeds {str(seeds)[:40]}: expected at most {MAX_SEEDS}", fix="`--seeds 7,` names one seed")
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if len(found) > MAX_SEEDS or any(seed >= 2**63 for seed in found):
        raise UsageError(
            f"seeds {str(seeds)[:40]}: expected at most {MAX_SEEDS}, each below 2**63", fix="name smaller ones"
        )
    if not found or min(found) < 0 or len(set(found)) != len(found) or TUNING_SEED in found:
        raise UsageError(f"seeds {seeds!r}: expected at least one, each different and not negative")
    return found


# --- runs ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Run:
    """One model x dataset fold x protocol x seed, everything that decides its outcome looked up. The id is their hash.

    Not in the id: paths, how many runs go at once, the device's number, the names a reader sees.
    """

    dataset: str
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    model: str  # distribution:architecture
    shown: str  # what the leaderboard calls it
    init: Literal["pretrained", "random"]
    weights_tag: str
    weights_digest: str
    protocol: Protocol
    seed: int
    image_size: int
    precision: str
    device_kind: str
    threads: int
    primary_metric: str = ""  # by which val selects
    network: str = ""  # `identify_network`; not recorded by the first results
    purpose: Literal["score", "tune", "shuffle", "external"] = "score"
    tested_on: str = ""  # external: the dataset that the model is tested on in place of its own test split
    test_hash: str = ""  # external: of those images and their labels
    num_train: int = 0  # images of train
    deviations: tuple[str, ...] = ()
    tuned: str = ""  # which grid was tried and what won; the winner itself stands in the protocol
    num_tuning_runs: int = 0  # that chose it

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Field by field what makes this run the same as another."""
        return {
            "id_version": ID_VERSION,
            "dataset": self.dataset,
            "content_hash": self.content_hash,
            "split_hash": self.split_hash,
            "fold": self.fold,
            "model": self.model,
            "network": self.network,
            "init": self.init,
            "weights_digest": self.weights_digest,
            "protocol": resolved_fields(self.protocol),
            "seed": self.seed,
            "image_size": self.image_size,
            "precision": self.precision,
            "device_kind": self.device_kind,
            "threads": self.threads,
            "primary_metric": self.primary_metric,
            "purpose": self.purpose,
            # Left out where they are nothing special: those runs keep the id they have always had.
            **({"batch_size": self.shrunk_batch} if self.shrunk_batch else {}),
            **({"tested_on": self.tested_on, "test_hash": self.test_hash} if self.tested_on else {}),
        }

    @property
    def shrunk_batch(self) -> int | None:
        """The images of train, where they are fewer than the protocol's batch; None where they are enough."""
        if self.protocol.method != "finetune" or self.num_train >= self.protocol.batch_size:
            return None
        return self.num_train or None

    @cached_property
    def id(self) -> str:
        return hash_bytes(json.dumps(self.identity, sort_keys=True, ensure_ascii=True))

    @property
    def folder(self) -> Path:
        """Where its result is kept, below the results folder."""
        fold = f".fold{self.fold}" if self.num_folds > 1 else ""
        protocol = f"{self.protocol.label}.tuning" if self.purpose == "tune" else self.protocol.label
        start = self.weights_tag if self.init == "pretrained" else "random"
        model = self.shown if self.shown.endswith(f".{start}") else f"{self.shown}.{start}"
        name = f"{safe_name(protocol)}.seed{self.seed}{fold}.{self.id[:8]}"
        return Path(safe_name(self.data.replace(" -> ", ".to."))) / safe_name(model) / name

    @property
    def data(self) -> str:
        return trained_and_tested({"dataset": self.dataset, "tested_on": self.tested_on})

    @property
    def tuned_fields(self) -> set[str]:
        """The fields of the protocol that were chosen on val, as `settle` notes them."""
        return set(re.findall(r"\btuned (\w+):", self.tuned))

    @property
    def trained_as(self) -> Run:
        """The run whose model this one tests elsewhere; itself where it tests its own."""
        return replace(self, purpose="score", tested_on="", test_hash="") if self.tested_on else self

    def describe(self) -> dict[str, Any]:
        """The run as plain data, as it stands in `result.json`."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "protocol": dataclasses.asdict(self.protocol),
            "protocol_label": self.protocol.label,
            "deviations": list(self.deviations),
        }


def read_run(described: Mapping[str, Any]) -> Run:
    """The run that `Run.describe` told of; fields that another version of zoo knows are left out."""
    protocol = Protocol(**known_fields(Protocol, described["protocol"]))
    unrecorded = {"weights_digest": "", "device_kind": ""}  # by the first results
    return Run(**{**unrecorded, **known_fields(Run, described), "protocol": protocol})


def known_fields(kind: type[Run | Protocol], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: as_tuples(value) for name, value in values.items() if name in names}


def as_tuples(value: object) -> object:
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def find_contradictions(described: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Where a stored run (`Run.describe`) is another than the one its id was made of, field by field.

    What follows from a run is made of it again, so that nothing need be listed here. A field that only one of the two
    knows, since another version of zoo wrote or reads it, is no contradiction.
    """
    run = read_run(described)
    again = run.identity
    found = compare_fields("", again, identity, described)
    found += compare_fields("protocol.", again["protocol"], identity["protocol"], described["protocol"])
    if described["protocol_label"] != run.protocol.label:
        found.append(f"protocol_label: {described['protocol_label']!r}, and its protocol is {run.protocol.label}")
    if (run.init == "random") != (run.weights_digest == "") or (run.init == "random" and run.weights_tag):
        found.append(f"init: {run.init!r}, with weights {run.weights_tag!r} ({run.weights_digest[:8] or 'no file'})")
    return found + find_wrong_overrides(run)


def compare_fields(
    prefix: str, again: Mapping[str, Any], identity: Mapping[str, Any], described: Mapping[str, Any]
) -> list[str]:
    found = []
    for name in sorted({*again, *identity} - {"id_version", "protocol"}):
        unrecorded = name not in identity and name not in described and name != "batch_size"
        if unrecorded or (name not in again and name not in described):
            continue
        told, hashed = again.get(name, described.get(name)), identity.get(name)
        if json.dumps(told, sort_keys=True) != json.dumps(hashed, sort_keys=True):
            found.append(f"{prefix}{name}: {told!r} in the run, {hashed!r} in its identity")
    return found


def find_wrong_overrides(run: Run) -> list[str]:
    """Where the overrides in a protocol's label are not what the run was carried out with."""
    try:
        told = resolved_fields(override(run.protocol, settings_of(run.protocol)))
    except UsageError as error:
        return [f"protocol.overrides: {error.message}"]
    fields = resolved_fields(run.protocol)
    wrong = [name for name in fields if told[name] != fields[name] and name not in run.tuned_fields]
    return [f"protocol.overrides: {name}={told[name]}, and its protocol has {fields[name]}" for name in wrong]


def find_unnamed(run: Run, published: Protocol) -> list[str]:
    """The fields in which a run's protocol is another than the published one, though neither overridden nor tuned."""
    fields = resolved_fields(run.protocol)
    expected = resolved_fields(override(published, settings_of(run.protocol)))
    planned = {"image_size"} if published.name == BASELINE.name else set()  # that of the models beside them
    others = fields.keys() - run.tuned_fields - planned
    return [name for name in sorted(others) if fields[name] != expected[name]]


def settings_of(protocol: Protocol) -> dict[str, str]:
    """What was given by `--set`, as the protocol's label says."""
    return dict(text.split("=", 1) for text in protocol.overrides if "=" in text)


def trained_and_tested(run: Mapping[str, Any]) -> str:
    """What a run (`Run.describe()`) was trained and tested on, in one name; older results do not say the latter."""
    return f"{run['dataset']} -> {run['tested_on']}" if run.get("tested_on") else str(run["dataset"])


def safe_name(name: str) -> str:
    """`name` as one folder name on every file system: other characters become `_`, a long name is cut and hashed."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "@+=._-") else "_" for c in name).lstrip(".") or "_"
    return safe if len(safe) <= 80 else f"{safe[:70]}-{hash_bytes(name)[:8]}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine adds to a run's identity."""

    device_kind: str
    threads: int
    precision: str  # what `auto` means here

    @property
    def host(self) -> Machine:
        """The CPU, on which baselines are made: they gain nothing from a GPU, and leave it to the others."""
        return replace(self, device_kind="cpu", precision="fp32")


def plan_runs(
    suite: Suite,
    protocol: Protocol,
    without_weights: Protocol,
    choices: Sequence[tuple[ModelChoice, InitialWeights]],
    sources: Sequence[tuple[Source, Split]],
    machine: Machine,
    baselines: Sequence[ModelChoice],
) -> list[Run]:
    """List every run of a suite: the grid of fields to tune stands for its runs until `settle` has chosen."""
    runs = []
    for source, split in sources:
        metric = suite.primary_metric or source.task.primary_metric
        for choice, weights in choices:
            recipe = without_weights if weights.fallback else protocol
            runs += [
                plan_run(source, split, fold, choice, weights, recipe, seed, machine, metric)
                for seed, fold in itertools.product(suite.seeds, range(len(split.folds)))
            ]
        controls = replace(BASELINE, image_size=protocol.image_size)
        runs += [
            plan_run(source, split, fold, choice, InitialWeights(init="random"), controls, 0, machine.host, metric)
            for choice, fold in itertools.product(baselines, range(len(split.folds)))
            if choice.spec.name not in {c.spec.name for c, _ in choices}
        ]
    return runs


def plan_run(
    source: Source,
    split: Split,
    fold: int,
    choice: ModelChoice,
    weights: InitialWeights,
    protocol: Protocol,
    seed: int,
    machine: Machine,
    primary_metric: str,
) -> Run:
    if source.task.name not in choice.spec.tasks:
        raise UsageError(
            f"model {choice.shown!r} does not do {source.task.name} (dataset {source.spec.name!r}); "
            f"it does {', '.join(choice.spec.tasks)}",
            fix="leave one of the two out",
            code="wrong-task",
        )
    asked = protocol.image_size or source.spec.image_size or 224
    size = nearest_size(choice.spec, asked, small_stem=protocol.stem == "small")
    deviations = []
    if weights.fallback:
        deviations.append("weights: none found, random init")
    if weights.local and not weights.local.mean:
        deviations.append(
            "weights: local file, mean and std not declared; normalized as its architecture's default weights"
        )
    if size != asked:
        deviations.append(f"image_size: {size} instead of {asked}")
    run = Run(
        dataset=source.spec.name,
        content_hash=source.content_hash,
        split_hash=split.hash,
        fold=fold,
        num_folds=len(split.folds),
        model=choice.name,
        shown=choice.shown,
        init=weights.init,
        weights_tag=weights.tag,
        weights_digest=weights.digest,
        protocol=protocol,
        seed=seed,
        image_size=size,
        precision=machine.precision if protocol.precision == "auto" else protocol.precision,
        device_kind=machine.device_kind,
        threads=machine.threads,
        primary_metric=primary_metric,
        network=identify_network(choice, weights),
        num_train=int((split.folds[fold] == "train").sum()),
        deviations=tuple(deviations),
    )
    return with_protocol(run, protocol)


def identify_network(choice: ModelChoice, weights: InitialWeights) -> str:
    """What a plugin decides of a network: the version of its spec, else of the plugin, and a hash of the spec's fields.

    The hash covers the fields that the core builds, feeds and trains the network by. Titles, licenses and citations
    are not among them, so that correcting one repeats no run.
    """
    spec = choice.spec
    mean, std = weights.normalization(spec)
    fields = {
        "channels": spec.channels,
        "mean": mean,
        "std": std,
        "classifier": spec.classifier,
        "first_conv": spec.first_conv,
        "features": spec.features is not None,
        "layer_groups": spec.layer_groups is not None,
    }
    release = f"v{spec.version}" if spec.version else choice.release
    return "-".join(filter(None, (release, hash_bytes(json.dumps(fields, sort_keys=True))[:12])))


def external_runs(runs: Sequence[Run], externals: Mapping[str, Sequence[External]]) -> list[Run]:
    """The tests elsewhere of the models of some runs: one a run and each dataset that goes with the run's own."""
    return [external_run(run, external) for run in runs for external in externals.get(run.dataset, ())]


def external_run(run: Run, external: External) -> Run:
    stamp = (f"{LEAK_ALLOWED} {external.leak_allowed}",) if external.leak_allowed else ()
    return replace(
        run,
        purpose="external",
        tested_on=external.name,
        test_hash=external.hash,
        deviations=(*run.deviations, *stamp),
    )


def as_controls(runs: Sequence[Run]) -> list[Run]:
    """The same runs on shuffled labels. Baselines are left out, and so is a grid: on noise nothing can be chosen."""
    return [
        replace(run, protocol=as_control(run.protocol), purpose="shuffle")
        for run in runs
        if run.protocol.name != BASELINE.name
    ]


def as_control(protocol: Protocol) -> Protocol:
    return replace(protocol, tune=(), overrides=(*protocol.overrides, SHUFFLED))


def with_protocol(run: Run, protocol: Protocol, **changes: Any) -> Run:
    """The run under another protocol, its batch compared with train anew."""
    run = replace(run, protocol=protocol, **changes)
    others = tuple(deviation for deviation in run.deviations if not deviation.startswith("batch_size:"))
    if run.shrunk_batch:
        others += (f"batch_size: {run.shrunk_batch} instead of {protocol.batch_size}",)
    return replace(run, deviations=others)


def nearest_size(spec: ModelSpec, asked: int, *, small_stem: bool = False) -> int:
    """The size closest to `asked` that the model takes. A small stem leaves out two halvings: a quarter is enough."""
    if spec.fixed_size:
        return spec.image_size
    smallest = -(-spec.min_image_size // 4) if small_stem else spec.min_image_size
    size = max(asked, smallest)
    step = spec.size_multiple
    rounded = max(step, round(size / step) * step)
    return rounded if rounded >= smallest else rounded + step


# --- tuning ----------------------------------------------------------------------------------------------------------
def tuning_runs(run: Run) -> list[Run]:
    """The runs on the tuning seed that decide the tuned fields of `run`: one for each point of its grid."""
    names = [name for name, _ in run.protocol.tune]
    return [
        with_protocol(
            run,
            replace(run.protocol, **dict(zip(names, point, strict=True)), tune=()),
            seed=TUNING_SEED,
            purpose="tune",
        )
        for point in itertools.product(*(values for _, values in run.protocol.tune))
    ]


def settle(run: Run, val_scores: Mapping[str, float]) -> Run:
    """Put the point of the grid with the best val score (higher is better) in place; `val_scores` is by run id.

    Ties go to the earlier point. Raises KeyError where no tuning run has a score.
    """
    candidates = [candidate for candidate in tuning_runs(run) if candidate.id in val_scores]
    if not candidates:
        raise KeyError(run.id)
    winner = max(candidates, key=lambda candidate: val_scores[candidate.id])
    notes = []
    for name, values in run.protocol.tune:
        chosen = getattr(winner.protocol, name)
        ordered = len(values) > 1 and all(type(value) in (int, float) for value in values)
        edge = " (winner at the edge)" if ordered and chosen in (min(values), max(values)) else ""
        notes.append(f"tuned {name}: {short(chosen)} of {', '.join(map(short, values))}{edge}")
    return with_protocol(run, winner.protocol, tuned="; ".join(notes), num_tuning_runs=len(tuning_runs(run)))


def short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
