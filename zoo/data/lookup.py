"""Resolve dataset names and paths to specs, and open, compare and split what they denote."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.data.fingerprints import Fingerprints, take_fingerprints
from zoo.data.opening import OpenDataset, discard_split, failures_told, open_dataset
from zoo.data.splits import Split, draw_split
from zoo.errors import UsageError
from zoo.registry.lookup import Registry
from zoo.sources.opening import find_recognized
from zoo.specs.dataset import DatasetSpec, FetchRequest
from zoo.system.progress import Console, Progress
from zoo.system.settings import Settings


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


def open_named(asked: str, registry: Registry, console: Console) -> list[tuple[OpenDataset, Fingerprints]]:
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


SplitDataset = tuple[OpenDataset, Split, Fingerprints]


def require_two_names(one: OpenDataset, other: OpenDataset) -> None:
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
) -> SplitDataset:
    """Open a dataset, decode every image, compare each with all others, and split the set."""
    source, fingerprints = open_and_compare(spec, settings, console)
    if resplit:
        source = discard_split(source)
    with console.counting(f"splitting {spec.name}"):
        split = draw_split(source, folds, fingerprints, drop_leaks=drop_leaks)
    return source, split, fingerprints


@failures_told()
def open_and_compare(spec: DatasetSpec, settings: Settings, console: Console) -> tuple[OpenDataset, Fingerprints]:
    with console.counting(f"reading {spec.name}") as progress:
        source = open_dataset(spec, settings.cache, offline=settings.offline, progress=progress)
    with console.counting(f"comparing the images of {spec.name}", "images") as progress:
        return source, take_fingerprints(source, settings.cache, progress)
