"""Resolve dataset names and paths to specs; open, compare and split these datasets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zoo.data.fingerprints import Fingerprints, take_fingerprints
from zoo.data.opening import OpenDataset, convert_failures, discard_split, open_dataset
from zoo.data.splits import Split, draw_split
from zoo.errors import UsageError
from zoo.registry.lookup import Registry
from zoo.sources.opening import find_recognized
from zoo.specs.dataset import DatasetSpec, FetchRequest
from zoo.system.progress import Console, Progress
from zoo.system.settings import Settings


def find_datasets(
    requested: str, registry: Registry, cache: Path, *, offline: bool = False, progress: Progress | None = None
) -> list[DatasetSpec]:
    """Resolve a requested dataset: a spec's name, a glob over names, `PREFIX:name`, or a path."""
    if (family := registry.find_family("dataset", requested)) and family.find:
        request = FetchRequest(name=requested, folder=cache / "datasets", offline=offline, progress=progress)
        return [family.find(request)]
    if is_path(requested, registry):
        return [find_recognized(Path(requested), registry.datasets.values(), progress)]
    matched = [registry.find("dataset", name) for name in registry.match("dataset", requested)]
    return [spec for spec in matched if spec.find is None or len(matched) == 1]


def open_named(requested: str, registry: Registry, console: Console) -> list[tuple[OpenDataset, Fingerprints]]:
    """Open the datasets of a name, glob or path without downloading, and fingerprint their images."""
    settings = Settings(offline=True)
    specs = find_datasets(requested, registry, settings.cache, offline=True)
    return [open_and_compare(spec, settings, console) for spec in specs]


def is_path(requested: str, registry: Registry) -> bool:
    """Whether a requested dataset is a path: a registered name takes precedence over a folder of that name."""
    if requested in registry.datasets:
        return False
    # os.path: Path.exists raises for a name longer than the file system allows
    return "/" in requested or "\\" in requested or requested.startswith(".") or os.path.exists(requested)  # noqa: PTH110


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitDataset:
    """An opened dataset with its split and the fingerprints of its images."""

    source: OpenDataset
    split: Split
    fingerprints: Fingerprints


def require_two_names(one: OpenDataset, other: OpenDataset) -> None:
    """Raise UsageError if two different datasets have the same name."""
    if one.spec.name == other.spec.name and one.content_hash != other.content_hash:
        raise UsageError(
            f"two datasets are named {one.spec.name!r}",
            fix="rename one in its dataset.toml, or run each separately",
        )


@convert_failures()
def open_and_split(
    spec: DatasetSpec,
    settings: Settings,
    console: Console,
    *,
    folds: int | None = None,
    resplit: bool = False,
    drop_leaks: bool = False,
) -> SplitDataset:
    """Open a dataset, decode all images and compare them with each other, and split the dataset."""
    source, fingerprints = open_and_compare(spec, settings, console)
    if resplit:
        source = discard_split(source)
    with console.counting(f"splitting {spec.name}"):
        split = draw_split(source, folds, fingerprints, drop_leaks=drop_leaks)
    return SplitDataset(source=source, split=split, fingerprints=fingerprints)


@convert_failures()
def open_and_compare(spec: DatasetSpec, settings: Settings, console: Console) -> tuple[OpenDataset, Fingerprints]:
    with console.counting(f"reading {spec.name}") as progress:
        source = open_dataset(spec, settings.cache, offline=settings.offline, progress=progress)
    with console.counting(f"comparing the images of {spec.name}", "images") as progress:
        return source, take_fingerprints(source, settings.cache, progress)
