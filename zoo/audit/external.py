"""From two datasets to the images of one in the terms of the other: what its models can be tested on there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.audit.leaks import Finding
from zoo.data.checks import target_texts
from zoo.data.dataset import DecodedFold, count_split, open_fold, unit_of
from zoo.data.decoded import find_intensity, map_images
from zoo.data.fingerprints import Fingerprints, select_rows
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError, UsageError, nearest
from zoo.system.files import hash_bytes

OFFICIAL_TEST = ":test"  # behind a dataset's name: its official test split alone


@dataclass(frozen=True, kw_only=True, eq=False)
class External:
    """The images of one dataset that the models of another are tested on, and what was found of the two together."""

    name: str  # "dots", or "dots:test"
    source: OpenDataset  # those images alone, with the labels and channels of the other dataset
    fingerprints: Fingerprints  # of those images
    rows: Array  # (n,) where they stand in their own dataset
    labels: Mapping[str, str]  # its label -> the other's
    left_out: Mapping[str, int]  # label without a counterpart -> images
    content_hash: str  # of its own dataset
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()  # of overlap with train and val
    leak_allowed: str = ""  # why it is tested on although that overlap refuses it

    @property
    def hash(self) -> str:
        """What is tested on: the images, their labels in the other's words, and how they are read."""
        return self.source.content_hash


def match_datasets(
    trained: OpenDataset, tested: OpenDataset, fingerprints: Fingerprints, label_map: Mapping[str, str], *, name: str
) -> External:
    """Choose the images of `tested` that have a label of `trained`, and read them as its models expect.

    Raises DataError where there are none, or where the two ask different questions.
    """
    labels = match_labels(trained, tested, label_map)
    rows, targets, left_out = translate(trained, tested, labels)
    if name.endswith(OFFICIAL_TEST):
        if not (tested.splits == "test").any():
            raise DataError(
                f"dataset {tested.spec.name!r} has no official test split", fix=f"leave {OFFICIAL_TEST} out"
            )
        chosen = tested.splits[rows] == "test"
        rows, targets = rows[chosen], targets[chosen]
    if not len(rows):
        raise no_label_in_common(trained, tested)
    source = restrict(trained, tested, rows, targets)
    notes = []
    if left_out:
        counts = ", ".join(f"{label!r} ({count} images)" for label, count in left_out.items())
        notes.append(f"without a counterpart in {trained.spec.name}, left out: {counts}")
    return External(
        name=name,
        source=source,
        fingerprints=select_rows(fingerprints, rows),
        rows=rows,
        labels=labels,
        left_out=left_out,
        content_hash=tested.content_hash,
        notes=(*notes, *compare_reading(trained, tested)),
    )


def keep(external: External, kept: Array, note: str) -> External:
    """The same with some of its images only; `kept` is bool (n,)."""
    source, rows = external.source, np.flatnonzero(kept)
    if not len(rows):
        raise DataError(
            f"dataset {external.name!r}: {note}, and none is left",
            fix="name a dataset that shares less with the one trained on",
            code="no-test",
        )
    return replace(
        external,
        source=subset(source, rows, np.asarray(source.samples.targets)[rows]),
        fingerprints=select_rows(external.fingerprints, rows),
        rows=external.rows[rows],
        notes=(*external.notes, note),
    )


# --- labels ----------------------------------------------------------------------------------------------------------
def match_labels(trained: OpenDataset, tested: OpenDataset, label_map: Mapping[str, str]) -> dict[str, str]:
    """Label of `tested` -> that of `trained`: as the user says, else as its card says, else the same name.

    Names are the same where they differ in case, spaces, hyphens and underscores only. Mapped to "" a label has none.
    """
    ours, theirs = trained.spec.labels, tested.spec.labels
    if trained.task.name != tested.task.name and not (trained.task.classes and tested.task.classes):
        raise DataError(
            f"{trained.spec.name!r} is {trained.task}, {tested.spec.name!r} is {tested.task}: models of one cannot be "
            "tested on the other",
            fix="name a dataset of the same kind of answer",
            code="wrong-task",
        )
    for label, wanted in label_map.items():
        if label not in theirs:
            fix = nearest(label, theirs) or f"its labels: {', '.join(theirs)}"
            raise UsageError(f"--label-map {label}={wanted}: {tested.spec.name!r} has no label {label!r}", fix=fix)
        if wanted and wanted not in ours:
            fix = nearest(wanted, ours) or f"its labels: {', '.join(ours)}"
            raise UsageError(f"--label-map {label}={wanted}: {trained.spec.name!r} has no label {wanted!r}", fix=fix)
    plain = {simplify(label): label for label in ours}
    found = {}
    for label in theirs:
        known_as = tested.spec.label_map.get(label, label)
        wanted = label_map.get(label, known_as if known_as in ours else plain.get(simplify(known_as), ""))
        if wanted:
            found[label] = wanted
    return found


def simplify(label: str) -> str:
    return "".join(character for character in label.casefold() if character not in " -_")


def translate(
    trained: OpenDataset, tested: OpenDataset, labels: Mapping[str, str]
) -> tuple[Array, Array, dict[str, int]]:
    """The rows of `tested` with a label of `trained`, their targets in its labels, and the images left out by label."""
    ours, theirs = trained.spec.labels, tested.spec.labels
    targets = np.asarray(tested.samples.targets)
    if tested.task.classes:
        index = np.array([ours.index(labels[label]) if label in labels else -1 for label in theirs])
        rows = np.flatnonzero(index[targets] >= 0)
        lost = np.bincount(targets[index[targets] < 0], minlength=len(theirs))
        left_out = {label: int(n) for label, n in zip(theirs, lost, strict=True) if n}
        return rows, index[targets[rows]], left_out
    if targets.ndim == 1:  # a regression: one number, or none in common
        return np.arange(len(targets) if labels else 0), targets if labels else targets[:0], {}
    columns = [[i for i, label in enumerate(theirs) if labels.get(label) == wanted] for wanted in ours]
    joined = np.stack([any_of(targets[:, found]) for found in columns], axis=1)
    rows = np.flatnonzero(~np.isnan(joined).all(axis=1))
    lost = np.nansum(targets, axis=0)
    left_out = {label: int(n) for label, n in zip(theirs, lost, strict=True) if label not in labels}
    return rows, joined[rows], left_out


def any_of(columns: Array) -> Array:
    """1 where any of several labels is there, unknown where none is and one is unknown; unknown without any column."""
    unknown = np.isnan(columns).any(axis=1) | (columns.shape[1] == 0)
    found: Array = np.where((columns == 1).any(axis=1), 1.0, np.where(unknown, np.nan, 0.0))
    return found


def no_label_in_common(trained: OpenDataset, tested: OpenDataset) -> DataError:
    return DataError(
        f"no image of {tested.spec.name!r} has a label of {trained.spec.name!r}: it has "
        f"{', '.join(tested.spec.labels)}; the other has {', '.join(trained.spec.labels)}",
        fix="--label-map ITS_LABEL=OTHER_LABEL,...",
        code="no-label-in-common",
    )


# --- images ----------------------------------------------------------------------------------------------------------
def restrict(trained: OpenDataset, tested: OpenDataset, rows: Array, targets: Array) -> OpenDataset:
    """Some images of `tested`, read and labelled as `trained` has them."""
    read = tested.samples.read
    if trained.spec.channels == 1 and tested.spec.channels == 3:
        read = partial(read_gray, read)
    spec = replace(
        tested.spec,
        task=trained.task,
        labels=trained.spec.labels,
        positive=trained.spec.positive,
        channels=trained.spec.channels,
    )
    return subset(replace(tested, spec=spec, samples=replace(tested.samples, read=read)), rows, targets)


def subset(source: OpenDataset, rows: Array, targets: Array) -> OpenDataset:
    """Some images of a dataset with other targets, as a dataset of its own."""
    samples, spec = source.samples, source.spec
    few = replace(
        samples,
        table=samples.table.iloc[rows].reset_index(drop=True),
        targets=targets,
        files=tuple(samples.files[row] for row in rows) if samples.files else (),
    )
    parts = (source.sample_ids[rows], source.patients[rows], source.digests[rows], target_texts(targets))
    lines = ("\t".join(map(str, cells)) for cells in zip(*parts, strict=True))
    content = hash_bytes(spec.task.name, *spec.labels, str(spec.channels), str(dict(samples.reading)), *lines)
    return replace(
        source,
        samples=few,
        sample_ids=source.sample_ids[rows],
        patients=source.patients[rows],
        splits=np.full(len(rows), "test"),
        digests=source.digests[rows],
        content_hash=content,
    )


def read_gray(read: Callable[[Any], Array], image: Any) -> Array:
    """A colour image as its luminance (ITU-R 601), in the levels it has."""
    pixels = read(image)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels
    gray: Array = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)
    return gray


def compare_reading(trained: OpenDataset, tested: OpenDataset) -> list[str]:
    """How the pixels of the two differ, as far as their cards tell."""
    names = trained.spec.name, tested.spec.name
    notes = []
    if trained.spec.channels != tested.spec.channels:
        how = "made gray (luminance)" if trained.spec.channels == 1 else "repeated to three channels"
        what = "in colour" if tested.spec.channels == 3 else "gray"
        notes.append(f"images of {names[1]} are {what}, those of {names[0]} are not: they are {how}")
    readings = [dict(source.samples.reading) for source in (trained, tested)]
    if readings[0] != readings[1]:
        told = [f"{name}: {reading or 'as they are'}" for name, reading in zip(names, readings, strict=True)]
        notes.append(f"levels are read differently; {'; '.join(told)}")
    return notes


# --- what a run opens ------------------------------------------------------------------------------------------------
def open_external(external: External, trained: DecodedFold, images: Path) -> DecodedFold:
    """The images tested on, decoded, as the models of `trained` expect them: all of them are test."""
    source = external.source
    split = Split(folds=(source.splits,), hash=trained.split_hash, origin="external")
    intensity, _ = find_levels(external, trained, images)
    ready = replace(source, spec=replace(source.spec, intensity=intensity))
    return replace(open_fold(ready, split, 0, images), scale=trained.target_scale)


def find_levels(external: External, trained: DecodedFold, images: Path) -> tuple[tuple[float, float], str]:
    """The levels that become 0 and 1, and what must be said of them: those of train, where both have as many bits."""
    array, own = map_images(images), map_images(trained.images)
    if array.dtype == own.dtype:
        return trained.intensity, ""
    bits = f"{8 * array.itemsize}-bit images, {trained.name}'s are {8 * own.itemsize}-bit"
    if array.dtype == np.uint8:
        return (0.0, 255.0), f"{bits}: 0 and 255 become 0 and 1"
    if external.source.spec.intensity:
        return external.source.spec.intensity, f"{bits}: the levels of its card become 0 and 1"
    step = max(1, array.shape[1] // 64)
    return find_intensity(array[:, ::step, ::step]), f"{bits}: its own .1 and 99.9 percentiles become 0 and 1"


def describe_external(
    external: External, dataset: DecodedFold, trained: DecodedFold, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that a board says: `facts` of the dataset trained on, with the test split and the unit of the other."""
    spec, source = external.source.spec, external.source
    _, note = find_levels(external, trained, dataset.images)
    names = facts["name"], external.name
    collections = (*facts.get("derived_from", ()), *spec.derived_from, facts["name"], spec.name)
    return {
        **facts,
        **{key: both(facts[key], getattr(spec, key)) for key in ("title", "modality", "license", "citation")},
        "unit": unit_of(source),
        "val_unit": facts["unit"],
        "has_patients": source.has_patients,
        "patient": spec.patient,
        "reference_standard": spec.reference_standard,
        "derived_from": list(dict.fromkeys(collections)),
        "share_targets": facts["share_targets"] and spec.share_targets,
        "synthetic": facts["synthetic"] or spec.synthetic,
        "fold": 0,
        "num_folds": 1,
        "notes": [
            *(f"{names[0]}: {text}" for text in facts["notes"]),
            *(f"{names[1]}: {text}" for text in (*source.samples.notes, *external.notes, *([note] if note else []))),
        ],
        "known_issues": [
            *(f"{names[0]}: {text}" for text in facts["known_issues"]),
            *(f"{names[1]}: {text}" for text in spec.known_issues),
        ],
        "splits": {**facts["splits"], "test": count_split(dataset, "test")},
        "external": {
            "dataset": external.name,
            "content_hash": external.content_hash,
            "test_hash": external.hash,
            "labels": dict(external.labels),
            "left_out": dict(external.left_out),
            "folds": trained.num_folds,
        },
    }


def both(one: str, other: str) -> str:
    return "; ".join(dict.fromkeys(text for text in (one, other) if text))
