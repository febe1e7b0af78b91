"""Audit a dataset by name, as text and as a card that leaves out what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.audit.exclusions import Exclusions, choose_exclusions
from zoo.audit.label_noise import Backbone, find_label_noise
from zoo.audit.leaks import Audit, audit, refused_audit
from zoo.data.fingerprints import Fingerprints
from zoo.data.lookup import find_datasets, open_and_split
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError, UsageError
from zoo.models.baselines import THUMBNAILS
from zoo.models.identity import identify_network
from zoo.models.weights import RANDOM, InitialWeights, find_all_weights
from zoo.registry.lookup import ModelChoice, Registry
from zoo.registry.model_sets import STARTER
from zoo.sources.opening import find_source, write_card_without
from zoo.specs.dataset import DatasetSpec
from zoo.system.caches import open_cache
from zoo.system.devices import resolve_device
from zoo.system.progress import Console
from zoo.system.settings import Settings


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """An audit, and what it was made of where the dataset could be opened."""

    audit: Audit
    source: OpenDataset | None = None
    split: Split | None = None
    fingerprints: Fingerprints | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixed:
    """A card written without what was wrong, audited in its turn."""

    path: Path | None  # None: there was nothing to leave out
    exclusions: Exclusions
    audit: Audit


def examine_named(asked: str, registry: Registry, console: Console, settings: Settings) -> list[Examined]:
    """The datasets that a name, glob or path means, each audited; one that cannot be opened is refused."""
    open_cache(settings.cache)
    try:
        with console.counting(f"bringing {asked}", "bytes") as progress:
            specs = find_datasets(asked, registry, settings.cache, offline=settings.offline, progress=progress)
    except DataError as error:
        return [Examined(audit=refused_audit(asked, error))]
    return [examine_dataset(spec, console, settings) for spec in specs]


def examine_dataset(spec: DatasetSpec, console: Console, settings: Settings) -> Examined:
    try:
        source, split, fingerprints = open_and_split(spec, settings, console)
        return Examined(audit=audit(source, split, fingerprints), source=source, split=split, fingerprints=fingerprints)
    except DataError as error:
        return Examined(audit=refused_audit(spec.name, error))


def choose_backbone(
    asked: str, weights_dir: Path | None, registry: Registry, console: Console, settings: Settings
) -> Backbone:
    """The network asked for, whose weights must be had; else the first of `starter` that has some, else thumbnails."""
    find = partial(find_all_weights, weights_dir=weights_dir, cache=settings.cache)
    with console.counting("weights", "bytes") as progress:
        if asked:
            choice = registry.find_model(asked)
            (found,) = find([choice], "pretrained", offline=settings.offline, progress=progress)
            return as_backbone(choice, found)
        choices = [registry.find_model(name) for name in STARTER if name in registry.models]
        here = find(choices, "auto", offline=True)
        if not any(found.path for found in here) and not settings.offline:
            here[:1] = find(choices[:1], "auto", offline=False, progress=progress)
    for choice, found in zip(choices, here, strict=True):
        if found.path:
            return as_backbone(choice, found)
    console.warn(
        "NO PRETRAINED WEIGHTS here and none reachable: labels are judged by 8x8 thumbnails, which see little "
        "(--features MODEL --weights-dir FOLDER gives more)"
    )
    return Backbone(shown="8x8 thumbnails, for want of weights", spec=THUMBNAILS, weights=RANDOM)


def as_backbone(choice: ModelChoice, found: InitialWeights) -> Backbone:
    shown = f"features of {choice.spec.name}.{found.tag}" if found.path else f"features of {choice.shown}, random init"
    return Backbone(shown=shown, spec=choice.spec, weights=found, network=identify_network(choice, found))


def add_label_noise(examined: Examined, backbone: Backbone, console: Console, settings: Settings) -> Examined:
    """With the labels in doubt among the findings."""
    if examined.source is None or examined.split is None or examined.fingerprints is None:
        return examined
    finding = find_label_noise(
        examined.source,
        examined.split,
        examined.fingerprints,
        backbone,
        cache=settings.cache,
        device=resolve_device(settings.device),
        console=console,
    )
    return replace(examined, audit=examined.audit.with_finding(finding))


def fix(examined: Examined, target: Path, console: Console, settings: Settings) -> Fixed:
    """Write a card that leaves out what makes the split untrustworthy, read it back, and audit what it reads."""
    source, fingerprints = examined.source, examined.fingerprints
    if source is None or fingerprints is None:
        finding = examined.audit.findings[0]
        raise DataError(f"{examined.audit.dataset}: cannot be opened: {finding.message}", fix=finding.fix, code="data")
    exclusions = choose_exclusions(source, fingerprints)
    if not exclusions.sample_ids:
        return Fixed(path=None, exclusions=exclusions, audit=examined.audit)
    written = write_card_without(source.spec, source.samples, exclusions.sample_ids, target)
    try:
        again = examine_dataset(find_source(written), console, settings)
        if again.source is not None:
            check_rest(source, again.source, exclusions)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    return Fixed(path=written, exclusions=exclusions, audit=again.audit)


def check_rest(source: OpenDataset, rest: OpenDataset, exclusions: Exclusions) -> None:
    """What the card reads must be the set without what is left out (a volume or clip whole), with the same labels."""
    row_of = {sample_id: row for row, sample_id in enumerate(source.sample_ids.tolist())}
    strange = [sample_id for sample_id in rest.sample_ids.tolist() if sample_id not in row_of]
    rows = [row_of.get(sample_id, 0) for sample_id in rest.sample_ids.tolist()]
    targets, others = (np.asarray(s.samples.targets, dtype=float) for s in (source, rest))
    same = (
        not strange and source.spec.labels == rest.spec.labels and np.array_equal(targets[rows], others, equal_nan=True)
    )
    if not same or exclusions.sample_ids & set(rest.sample_ids.tolist()):
        raise UsageError(
            f"dataset {source.spec.name!r}: a dataset.toml does not read the images that its plugin reads",
            fix="`zoo bench --drop-leaks` leaves the copies out",
            code="no-card",
        )


def describe_fixed(fixed: Fixed) -> dict[str, Any]:
    return {
        "path": str(fixed.path) if fixed.path else None,
        "left_out": sorted(fixed.exclusions.sample_ids),
        "notes": list(fixed.exclusions.notes),
        "audit": fixed.audit.describe(),
    }
