"""Audit datasets by name or path, and write a card without the images that leak or conflict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.auditing.audit import run_audit
from zoo.auditing.exclusions import Exclusions, choose_exclusions
from zoo.auditing.findings import Audit, refused_audit
from zoo.auditing.label_noise import Backbone, find_label_noise
from zoo.data.lookup import SplitDataset, find_datasets, open_and_split
from zoo.data.opening import OpenDataset
from zoo.errors import DataError, UsageError, dataset_subject
from zoo.models.baselines import THUMBNAILS
from zoo.models.identity import identify_network
from zoo.models.weights import RANDOM, InitialWeights, find_all_weights
from zoo.registry.context import Context
from zoo.registry.lookup import ModelChoice
from zoo.sources.opening import find_source, write_card_without
from zoo.specs.dataset import DatasetSpec
from zoo.system.caches import open_cache
from zoo.system.devices import resolve_device


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedDataset:
    """An audit with its dataset; None if it could not be opened."""

    audit: Audit
    dataset: SplitDataset | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedCard:
    """A card written without leaking or conflicting images, and the audit of that card."""

    path: Path | None  # None if no image had to be left out
    exclusions: Exclusions
    audit: Audit


def examine_named(requested: str, context: Context) -> list[AuditedDataset]:
    """Audit every dataset that a name, glob or path matches; one that cannot be opened is refused."""
    registry, settings = context.registry, context.settings
    open_cache(settings.cache)
    try:
        with context.console.counting(f"fetching {requested}", "bytes") as progress:
            specs = find_datasets(requested, registry, settings.cache, offline=settings.offline, progress=progress)
    except DataError as error:
        return [AuditedDataset(audit=refused_audit(requested, error))]
    return [examine_dataset(spec, context) for spec in specs]


def examine_dataset(spec: DatasetSpec, context: Context) -> AuditedDataset:
    try:
        dataset = open_and_split(spec, context.settings, context.console)
        report = run_audit(dataset.source, dataset.split, dataset.fingerprints)
        return AuditedDataset(audit=report, dataset=dataset)
    except DataError as error:
        return AuditedDataset(audit=refused_audit(spec.name, error))


def choose_backbone(requested: str, weights_dir: Path | None, context: Context) -> Backbone:
    """Choose the feature extractor for label noise.

    A requested model must have weights. Without a request: the first model of `starter` with weights, else thumbnails.
    """
    registry, settings, console = context.registry, context.settings, context.console
    find = partial(find_all_weights, weights_dir=weights_dir, cache=settings.cache)
    with console.counting("weights", "bytes") as progress:
        if requested:
            choice = registry.find_model(requested)
            (weights,) = find([choice], "pretrained", offline=settings.offline, progress=progress)
            return as_backbone(choice, weights)
        choices = [registry.find_model(name) for name in registry.expand_models("starter") if name in registry.models]
        candidates = find(choices, "auto", offline=True)
        if not any(weights.path for weights in candidates) and not settings.offline:
            candidates[:1] = find(choices[:1], "auto", offline=False, progress=progress)
    for choice, weights in zip(choices, candidates, strict=True):
        if weights.path:
            return as_backbone(choice, weights)
    console.warn(
        "NO PRETRAINED WEIGHTS available: labels are judged by 8x8 thumbnails, which are less precise "
        "(use --features MODEL --weights-dir FOLDER)"
    )
    return Backbone(display_name="8x8 thumbnails, no weights available", spec=THUMBNAILS, weights=RANDOM)


def as_backbone(choice: ModelChoice, weights: InitialWeights) -> Backbone:
    name = f"{choice.spec.name}.{weights.tag}" if weights.path else f"{choice.shown}, random init"
    network = identify_network(choice, weights)
    return Backbone(display_name=f"features of {name}", spec=choice.spec, weights=weights, network=network)


def add_label_noise(examined: AuditedDataset, backbone: Backbone, context: Context) -> AuditedDataset:
    """Add the finding of probably wrong labels."""
    if examined.dataset is None:
        return examined
    finding = find_label_noise(
        examined.dataset,
        backbone,
        cache=context.settings.cache,
        device=resolve_device(context.settings.device),
        console=context.console,
    )
    return replace(examined, audit=examined.audit.with_finding(finding))


def fix(examined: AuditedDataset, target: Path, context: Context) -> FixedCard:
    """Write a card without leaking or conflicting images, then open and audit it."""
    if examined.dataset is None:
        finding = examined.audit.findings[0]
        raise DataError(f"{examined.audit.dataset}: cannot be opened: {finding.message}", fix=finding.fix, code="data")
    source = examined.dataset.source
    exclusions = choose_exclusions(source, examined.dataset.fingerprints)
    if not exclusions.sample_ids:
        return FixedCard(path=None, exclusions=exclusions, audit=examined.audit)
    card = write_card_without(source.spec, source.samples, exclusions.sample_ids, target)
    try:
        again = examine_dataset(find_source(card), context)
        if again.dataset is not None:
            check_remaining(source, again.dataset.source, exclusions)
    except BaseException:
        card.unlink(missing_ok=True)
        raise
    return FixedCard(path=card, exclusions=exclusions, audit=again.audit)


def check_remaining(source: OpenDataset, remaining: OpenDataset, exclusions: Exclusions) -> None:
    """Raise UsageError unless the card reads the remaining images (whole volumes and clips) with the same labels."""
    row_of = {sample_id: row for row, sample_id in enumerate(source.sample_ids.tolist())}
    unexpected = [sample_id for sample_id in remaining.sample_ids.tolist() if sample_id not in row_of]
    rows = [row_of.get(sample_id, 0) for sample_id in remaining.sample_ids.tolist()]
    targets, remaining_targets = (np.asarray(s.samples.targets, dtype=float) for s in (source, remaining))
    same = (
        not unexpected
        and source.spec.labels == remaining.spec.labels
        and np.array_equal(targets[rows], remaining_targets, equal_nan=True)
    )
    if not same or exclusions.sample_ids & set(remaining.sample_ids.tolist()):
        raise UsageError(
            "a dataset.toml cannot describe it: its plugin reads other images",
            subject=dataset_subject(source.spec.name),
            fix="use `zoo bench --drop-leaks`, which removes the copies",
            code="no-card",
        )


def describe_fixed(fixed: FixedCard) -> dict[str, Any]:
    return {
        "path": str(fixed.path) if fixed.path else None,
        "left_out": sorted(fixed.exclusions.sample_ids),
        "notes": list(fixed.exclusions.notes),
        "audit": fixed.audit.describe(),
    }
