"""Move an assignment to a machine that shares no folder with the bench: what it needs is found, and checked, there."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo.data.dataset import DecodedFold, Resolution, cache_decoded
from zoo.data.decoded import is_intact
from zoo.data.opening import RESPLIT, open_dataset, read_by_train
from zoo.errors import RunError, UsageError, ZooError, with_fix
from zoo.models.weights import InitialWeights, weights_folder
from zoo.registry.lookup import Registry
from zoo.registry.opening import open_registry
from zoo.runner.assignments import Assignment, resolution_of
from zoo.specs.dataset import DatasetSpec
from zoo.system.caches import mark_used
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo


def move_here(assignment: Assignment, results: Path) -> Assignment:
    """The assignment with the decoded images and the weights of this machine.

    A finished run whose external validations are missing is carried out again, because its result is not here. Raises
    RunError with the code "other-data" if images or weights are missing here, or are not the same.
    """
    registry, cache = open_registry(), cache_root().resolve()
    find = partial(find_images, registry=registry, origin=assignment.cache)
    return replace(
        assignment,
        dataset=find(assignment.dataset, resolution_of(assignment.run, registry)),
        weights=find_weights(assignment.weights, assignment.cache, cache),
        results=results,
        results_of_bench=assignment.results,
        cache=cache,
        done=None,
        kept=None,
        external=tuple(replace(test, dataset=find(test.dataset, None)) for test in assignment.external),
    )


def find_images(fold: DecodedFold, resolution: Resolution | None, *, registry: Registry, origin: Path) -> DecodedFold:
    """The fold with the decoded images in the cache here; they are decoded first if the dataset has a name here.

    The folder of decoded images is named by the content of the dataset, so the same name has the same images. Without
    a resolution nothing is decoded: an external dataset is a part of one, with a hash of its own.
    """
    cache = cache_root().resolve()
    name = fold.images.relative_to(origin)
    folder = cache / name.parent
    if resolution is not None and not is_intact(folder, cache, set()):
        decode_here(fold, resolution, registry, cache)
    if not is_intact(folder, cache, {name.name}):
        raise other_data(f"no decoded images {name.parent} in {cache}", f"copy that folder from {origin}")
    mark_used(folder)
    return replace(fold, images=cache / name)


def decode_here(fold: DecodedFold, resolution: Resolution, registry: Registry, cache: Path) -> None:
    """Decode a dataset of this machine. Raises RunError if it is missing, or another one of that name."""
    try:
        source = open_dataset(find_dataset(fold.name, registry), cache, offline=True)
    except ZooError as error:
        fix = f"install the dataset there, or copy {fold.images.parent} to the same place in its cache, {cache}"
        raise other_data(f"no dataset {fold.name!r}: {with_fix(error.message, error.fix)}", fix) from error
    if source.content_hash != fold.content_hash:
        raise other_data(
            f"another {fold.name!r}, with the content {source.content_hash[:8]} instead of {fold.content_hash[:8]}",
            "use the same files on every machine",
        )
    cache_decoded(read_by_train(source, fold.split_of == "train"), resolution, cache)


def find_dataset(name: str, registry: Registry) -> DatasetSpec:
    """The dataset of this machine that a fold is of; its images are the same without its official split."""
    try:
        return registry.find("dataset", name)
    except UsageError:
        if not name.endswith(RESPLIT):
            raise
        return registry.find("dataset", name.removesuffix(RESPLIT))


def find_weights(weights: InitialWeights, origin: Path, cache: Path) -> InitialWeights:
    """The weights with their file here: at the same place in the cache, at the same path, or in `$ZOO_WEIGHTS`."""
    if weights.path is None:
        return weights
    folder, places = weights_folder(None), [weights.path]
    if weights.path.is_relative_to(origin):
        places.insert(0, cache / weights.path.relative_to(origin))
    if folder:
        places.append(folder / weights.path.name)
    memo = FileMemo(cache)
    try:
        for place in places:
            if place.is_file() and memo(place) == weights.digest:
                return replace(weights, path=place)
    finally:
        memo.close()
    raise other_data(
        f"no weights {weights.path.name} with the SHA-256 {weights.digest[:8]}",
        f"copy {weights.path} to {places[0]} there",
    )


def other_data(message: str, fix: str) -> RunError:
    return RunError(f"{platform.node()} has {message}", fix=fix, code="other-data")
