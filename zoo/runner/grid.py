"""List the runs of a suite: models x datasets x folds x seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from zoo.audit.external import External
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import UsageError
from zoo.models.identity import identify_network, nearest_size
from zoo.models.weights import InitialWeights
from zoo.registry.lookup import ModelChoice
from zoo.results.runs import LEAK_ALLOWED, NO_WEIGHTS, SHUFFLED, Run, with_protocol
from zoo.specs.protocol import BASELINE, Protocol
from zoo.specs.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The parts of a run's identity that depend on the machine."""

    device_kind: str
    threads: int
    precision: str  # the value of `auto` on this machine

    @property
    def host(self) -> Machine:
        """The CPU, for baselines: a GPU would not make them faster."""
        return replace(self, device_kind="cpu", precision="fp32")


def plan_runs(
    suite: Suite,
    protocol: Protocol,
    without_weights: Protocol,
    choices: Sequence[tuple[ModelChoice, InitialWeights]],
    sources: Sequence[tuple[OpenDataset, Split]],
    machine: Machine,
    baselines: Sequence[ModelChoice],
) -> list[Run]:
    """List all runs of a suite. A run whose protocol has a grid stands for its points until `settle` selects one."""
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
    source: OpenDataset,
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
            f"model {choice.shown!r} does not support {source.task.name} tasks (dataset {source.spec.name!r}); "
            f"it supports {', '.join(choice.spec.tasks)}",
            fix="omit the model or the dataset",
            code="wrong-task",
        )
    requested_size = protocol.image_size or source.spec.image_size or 224
    size = nearest_size(choice.spec, requested_size, small_stem=protocol.stem == "small")
    deviations = []
    if weights.fallback:
        deviations.append(NO_WEIGHTS)
    if weights.local and not weights.local.mean:
        deviations.append(
            "weights: local file, mean and std not declared; normalized as its architecture's default weights"
        )
    if size != requested_size:
        deviations.append(f"image_size: {size} instead of {requested_size}")
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


def external_runs(runs: Sequence[Run], externals: Mapping[str, Sequence[External]]) -> list[Run]:
    """List the external validations: one per run and external dataset."""
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
    """Convert runs to controls on shuffled labels, without baselines and grids: noise cannot select a grid point."""
    return [
        replace(run, protocol=as_control(run.protocol), purpose="shuffle")
        for run in runs
        if run.protocol.name != BASELINE.name
    ]


def as_control(protocol: Protocol) -> Protocol:
    return replace(protocol, tune=(), overrides=(*protocol.overrides, SHUFFLED))
