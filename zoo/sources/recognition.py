"""Recognize an npz at a path as a published dataset's file by its checksum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo.sources.arrays import read_npz_samples
from zoo.sources.targets import guess_positive, guessed_positive
from zoo.specs.dataset import FACTS, DatasetSpec, Samples, SamplesRequest
from zoo.system.files import cache_root, hash_file
from zoo.system.memo import FileMemo

# Spec fields taken from the published dataset
DESCRIBED = (
    *FACTS,
    *("task", "labels", "positive", "checksums", "patient", "unit", "share_targets", "share_images"),
    *("derived_from", "symmetries", "known_issues"),
)


def recognize(spec: DatasetSpec, path: Path, published: Iterable[DatasetSpec]) -> DatasetSpec:
    """Describe an npz by the published dataset with its md5; add a note if only the file name is the same."""
    candidates = [each for each in published if any(name.endswith(".npz") for name in each.checksums)]
    if not candidates:
        return spec
    memo = FileMemo(cache_root(), what="md5", find=partial(hash_file, algorithm="md5"))
    try:
        md5 = memo(path)
    finally:
        memo.close()
    official = next((each for each in candidates if md5 in each.checksums.values()), None)
    if official:
        described = {name: getattr(official, name) for name in DESCRIBED}
        return replace(spec, **described, samples=partial(open_official, path, official))
    same_name = {name.lower(): each for each in candidates for name in each.checksums}.get(path.name.lower())
    if same_name is None:
        return spec
    md5_of = {name.lower(): md5 for name, md5 in same_name.checksums.items()}
    note = f"{path.name} is not the file published as {same_name.name}: its md5 is not {md5_of[path.name.lower()]}"
    return replace(spec, checksums=same_name.checksums, samples=partial(open_noted, spec, note))


def open_official(path: Path, official: DatasetSpec, request: SamplesRequest) -> Samples:  # noqa: ARG001  the file is already here
    """Return the samples of a published file, with the task and labels of its dataset."""
    samples = read_npz_samples(path, task=official.task, labels=official.labels)
    notes = [f"recognized as {official.name} by its checksum: using that dataset's task, labels and license"]
    if official.task.targets.has_positive and not official.positive:
        notes.append(guessed_positive(guess_positive(official.labels)))
    return replace(samples, notes=(*samples.notes, *notes))


def open_noted(spec: DatasetSpec, note: str, request: SamplesRequest) -> Samples:
    samples = spec.samples(request)
    return replace(samples, notes=(*samples.notes, note))
