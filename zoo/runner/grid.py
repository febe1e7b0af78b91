"""List the runs of a suite: models x datasets x folds x seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from zoo.auditing.external import External
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.data.thin_masks import has_thin_masks
from zoo.errors import UsageError
from zoo.models.baselines import TOP_HAT
from zoo.models.identity import identify_network, nearest_size
from zoo.models.weights import RANDOM, InitialWeights
from zoo.registry.lookup import ModelChoice
from zoo.results.runs import SHUFFLED, Run, with_protocol
from zoo.specs.deviation import Deviation
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import BASELINE, Protocol
from zoo.tasks.task import Task

ImageKind = tuple[Task, int]  # of a dataset: its task, and the axes of its images


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


@dataclass(frozen=True, kw_only=True)
class PlannedEstimator:
    """The estimator that a protocol names, and its identity: "zoo-bench:svm@v1"."""

    spec: EstimatorSpec
    identity: str


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model with everything that its runs on all datasets share."""

    choice: ModelChoice
    weights: InitialWeights
    protocol: Protocol
    seeds: tuple[int, ...]
    machine: Machine
    by_kind: Mapping[ImageKind, Protocol] = field(default_factory=dict)  # those that replace `protocol`
    estimator: PlannedEstimator | None = None  # of the protocol
    added: bool = False  # a baseline that nobody named: left out of datasets whose task it does not support


def plan_baselines(
    baselines: Iterable[ModelChoice],
    models: Sequence[PlannedModel],
    image_size: int | None,
    machine: Machine,
    by_kind: Mapping[ImageKind, Protocol] = MappingProxyType({}),
) -> list[PlannedModel]:
    """Plan the baselines that are not among the models: one seed each, on the CPU.

    `by_kind` has the protocols of the kinds of dataset, whose images are read in the same way for the baselines.
    """
    recipe, planned = replace(BASELINE, image_size=image_size), {model.choice.spec.name for model in models}
    own = {
        kind: replace(
            BASELINE,
            image_size=protocol.image_size,
            patch=protocol.patch,
            dims=protocol.dims,
            spacing=protocol.spacing,
        )
        for kind, protocol in by_kind.items()
    }
    return [
        PlannedModel(
            choice=choice, weights=RANDOM, protocol=recipe, seeds=(0,), machine=machine.host, by_kind=own, added=True
        )
        for choice in baselines
        if choice.spec.name not in planned
    ]


def plan_runs(
    models: Sequence[PlannedModel], sources: Iterable[tuple[OpenDataset, Split]], primary_metric: str
) -> list[Run]:
    """List all runs of a bench; `primary_metric` "" means each task's own.

    A run whose protocol has a grid stands for its points until `settle` selects one.
    """
    return [
        plan_run(model, source, split, fold, seed, primary_metric or source.task.primary_metric)
        for source, split in sources
        for model in models
        if not model.added or is_offered(model.choice.spec, source, split)
        for seed, fold in itertools.product(model.seeds, range(len(split.folds)))
    ]


def plan_run(model: PlannedModel, source: OpenDataset, split: Split, fold: int, seed: int, primary_metric: str) -> Run:
    choice, weights, machine = model.choice, model.weights, model.machine
    protocol = model.by_kind.get((source.task, source.spec.dims), model.protocol)
    if source.task.name not in choice.spec.tasks:
        raise UsageError(
            f"model {choice.shown!r} does not support {source.task.name} tasks (dataset {source.spec.name!r}); "
            f"it supports {', '.join(choice.spec.tasks)}",
            fix="omit the model or the dataset",
            code="wrong-task",
        )
    refuse_other_dims(choice, protocol, source)
    refuse_other_method(model, protocol, source)
    requested_size = find_size(protocol, source)
    if protocol.patch:
        check_patch(protocol, choice, source)
        size = requested_size
    else:
        size = nearest_size(choice.spec, requested_size, small_stem=protocol.stem == "small")
    deviations = []
    if weights.fallback:
        deviations.append(Deviation("no-weights"))
    if weights.local and not weights.local.mean:
        deviations.append(Deviation("local-weights"))
    if size != requested_size:
        deviations.append(Deviation("image-size", (size, requested_size)))
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
        estimator=model.estimator.identity if model.estimator else "",
        inputs=identify_inputs(protocol, source) if protocol.metadata else "",
        num_train=int((split.folds[fold] == "train").sum()),
        deviations=tuple(deviations),
    )
    return with_protocol(run, protocol)


def is_offered(spec: ModelSpec, source: OpenDataset, split: Split) -> bool:
    """Whether a dataset gets a baseline that nobody named. A filter of lines needs masks of thin structures."""
    is_supported = source.task.name in spec.tasks and source.spec.dims in spec.dims
    return is_supported and (spec.name != TOP_HAT.name or has_thin_masks(source, split))


def refuse_other_dims(choice: ModelChoice, protocol: Protocol, source: OpenDataset) -> None:
    """Raise UsageError for a model or a protocol of images if the dataset has volumes, or the reverse."""
    dims, spec = source.spec.dims, choice.spec
    if dims not in spec.dims:
        raise UsageError(
            f"model {choice.shown!r} is for images of {spec.dims[0]} dimensions, but dataset {source.spec.name!r} has "
            f"{dims}",
            fix=suggest_model(source),
            code="wrong-dims",
        )
    if protocol.dims != dims:
        raise UsageError(
            f"protocol {protocol.name!r} is for images of {protocol.dims} dimensions, but dataset "
            f"{source.spec.name!r} has {dims}",
            fix=suggest_protocol(source),
            code="wrong-dims",
        )


def suggest_protocol(source: OpenDataset) -> str:
    """The protocols that have a recipe for the images of a dataset."""
    names = ["finetune", "scratch", "quick", *(() if source.task.targets.spatial else ("linear-probe", "knn"))]
    return f"choose {', '.join(names[:-1])} or {names[-1]}"


def suggest_model(source: OpenDataset) -> str:
    """What to do about a model that is not for the images of a dataset."""
    if source.spec.dims == 2:
        return "choose a model of images"
    if source.task.targets.spatial:
        return "choose a model of volumes, such as unet3d"
    return "choose a model of volumes, such as resnet18_3d; with dims = 2 in dataset.toml, their slices are read"


def refuse_other_method(model: PlannedModel, protocol: Protocol, source: OpenDataset) -> None:
    """Raise UsageError for a model that the protocol's method cannot use, or an estimator of another task."""
    name, spec = model.choice.shown, model.choice.spec
    if protocol.method == "finetune" and spec.fixed:
        raise UsageError(
            f"model {name!r} has nothing to train: its features are computed by a formula",
            fix="choose a protocol of frozen features, such as linear-probe or svm",
            code="wrong-method",
        )
    if protocol.method == "zero-shot" and not spec.zero_shot:
        raise UsageError(
            f"model {name!r} does not answer without training, as protocol {protocol.name!r} requires",
            fix="choose a model whose spec has `zero_shot`, or another protocol",
            code="wrong-method",
        )
    if protocol.method == "zero-shot" and model.weights.init == "random":
        raise UsageError(
            f"model {name!r} has no weights here, so without training it answers at random",
            fix="provide its weights with --weights-dir FOLDER",
            code="wrong-method",
        )
    estimator = model.estimator
    if estimator and source.task.name not in estimator.spec.tasks:
        raise UsageError(
            f"protocol {protocol.name!r}: estimator {estimator.spec.name!r} does not support {source.task.name} tasks "
            f"(dataset {source.spec.name!r}); it supports {', '.join(estimator.spec.tasks)}",
            fix="choose another protocol, or omit the dataset",
            code="wrong-task",
        )


def identify_inputs(protocol: Protocol, source: OpenDataset) -> str:
    """The columns of the second input and a hash of their cells.

    Raises UsageError if the dataset or the protocol has no second input, and DataError for a column that is missing.
    """
    kinds = {
        "masks": source.task.targets.spatial,
        "volumes": source.spec.dims == 3,
        "answers without training": protocol.method == "zero-shot",
    }
    if what := next((kind for kind, applies in kinds.items() if applies), ""):
        raise UsageError(f"--set metadata=true: not for {what}", fix="leave it out", code="wrong-task")
    if not source.inputs_identity:
        raise UsageError(
            f"--set metadata=true: dataset {source.spec.name!r} declares no columns for it",
            fix='add `inputs = ["age", "sex"]` to its dataset.toml, or leave it out',
            code="inputs",
        )
    return source.inputs_identity


def find_size(protocol: Protocol, source: OpenDataset) -> int:
    """The size of the square that images are fitted into; at their own resolution if patches are cut from them."""
    own = source.longest_side if protocol.patch else None
    return protocol.image_size or source.spec.image_size or own or 224


def check_patch(protocol: Protocol, choice: ModelChoice, source: OpenDataset) -> None:
    """Raise UsageError for patches that the model or the dataset does not support."""
    if source.spec.dims == 3:
        raise UsageError(
            "--set patch: patches of volumes have `image_size`", fix="use --set image_size", code="wrong-dims"
        )
    if not source.task.targets.spatial:
        raise UsageError(
            f"--set patch: dataset {source.spec.name!r} has no masks, so the network needs whole images",
            fix="leave it out",
            code="wrong-task",
        )
    for length in protocol.patch_shape(2):
        fitting = nearest_size(choice.spec, length)
        if protocol.method == "finetune" and fitting != length:
            raise UsageError(
                f"model {choice.shown!r} does not accept patches of {length} pixels", fix=f"use --set patch={fitting}"
            )
    if protocol.symmetries and "rot90" in source.spec.symmetries and len(set(protocol.patch)) > 1:
        raise UsageError(
            f"--set patch: dataset {source.spec.name!r} has the symmetry rot90, so patches are rotated by 90 degrees",
            fix="use one number, or --set symmetries=false",
        )


def external_runs(runs: Sequence[Run], externals: Mapping[str, Sequence[External]]) -> list[Run]:
    """List the external validations: one per run and external dataset."""
    return [external_run(run, external) for run in runs for external in externals.get(run.dataset, ())]


def external_run(run: Run, external: External) -> Run:
    stamp = (Deviation("leak-allowed", (external.leak_allowed,)),) if external.leak_allowed else ()
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
