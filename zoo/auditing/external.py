"""Match an external test set to a training set: labels, channels and levels as the trained models expect them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import Finding
from zoo.data.checks import target_texts
from zoo.data.dataset import DecodedFold, count_split, open_fold, unit_of
from zoo.data.decoded import find_intensity, map_images
from zoo.data.fingerprints import Fingerprints, select_rows
from zoo.data.inputs import texts_of
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import DataError, UsageError, dataset_subject, nearest
from zoo.specs.dataset import RECORDED_FACTS
from zoo.system.files import hash_bytes

OFFICIAL_TEST = ":test"  # suffix of a dataset name: use only its official test split


@dataclass(frozen=True, kw_only=True, eq=False)
class External:
    """An external test set: the images of one dataset on which models trained on another are tested."""

    name: str  # "dots", or "dots:test"
    source: OpenDataset  # only the test images, with the labels and channels of the training set
    fingerprints: Fingerprints  # of the test images
    rows: Array  # (n,) their rows in their own dataset
    labels: Mapping[str, str]  # label of the test set -> label of the training set
    left_out: Mapping[str, int]  # label without a counterpart -> images
    content_hash: str  # of the whole dataset
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()  # of the overlap with train and val
    inputs: tuple[str, ...] = ()  # the columns that models of the training set may take beside the image
    leak_allowed: str = ""  # the reason given with --allow-leak

    @property
    def hash(self) -> str:
        """Hash of the test images, their matched labels, and how they are read."""
        return self.source.content_hash


def match_datasets(
    trained: OpenDataset, tested: OpenDataset, fingerprints: Fingerprints, label_map: Mapping[str, str], *, name: str
) -> External:
    """Select the images of `tested` whose label exists in `trained`, in the form its models expect.

    Raises DataError if there are none or if the tasks differ.
    """
    labels = match_labels(trained, tested, label_map)
    check_axes(trained, tested)
    rows, targets, left_out = translate(trained, tested, labels)
    if name.endswith(OFFICIAL_TEST):
        if not (tested.splits == "test").any():
            raise DataError(
                "no official test split",
                subject=dataset_subject(tested.spec.name),
                fix=f"remove {OFFICIAL_TEST} from the name",
            )
        is_test = tested.splits[rows] == "test"
        rows, targets = rows[is_test], targets[is_test]
    if not len(rows):
        raise no_label_in_common(trained, tested)
    is_spatial = trained.task.targets.spatial
    if is_spatial:
        tested = relabel_masks(trained, tested, labels)
    source = restrict(trained, tested, rows, targets)
    notes = []
    if left_out:
        counts = ", ".join(f"{label!r} ({count} images)" for label, count in left_out.items())
        became = "background" if is_spatial else "left out"
        notes.append(f"without a counterpart in {trained.spec.name}, {became}: {counts}")
    missing = [label for label in trained.spec.labels if label not in labels.values()] if is_spatial else []
    if missing:
        notes.append(f"without a counterpart in {name}, not scored: {', '.join(map(repr, missing))}")
    return External(
        name=name,
        source=source,
        fingerprints=select_rows(fingerprints, rows),
        rows=rows,
        labels=labels,
        left_out=left_out,
        content_hash=tested.content_hash,
        inputs=trained.spec.inputs,
        notes=(*notes, *compare_reading(trained, tested)),
    )


def keep(external: External, mask: Array, note: str) -> External:
    """Restrict an external test set to the images where `mask`, bool (n,), is true."""
    source, rows = external.source, np.flatnonzero(mask)
    if not len(rows):
        raise DataError(
            f"{note}, which leaves no image",
            subject=dataset_subject(external.name),
            fix="choose a dataset that overlaps less with the training set",
            code="no-test",
        )
    return replace(
        external,
        source=subset(source, rows, np.asarray(source.samples.targets)[rows], external.inputs),
        fingerprints=select_rows(external.fingerprints, rows),
        rows=external.rows[rows],
        notes=(*external.notes, note),
    )


def check_axes(trained: OpenDataset, tested: OpenDataset) -> None:
    """Raise DataError for volumes and images, and for volumes of other channels."""
    if trained.spec.dims != tested.spec.dims:
        raise DataError(
            f"it has images of {tested.spec.dims} dimensions, {trained.spec.name!r} has {trained.spec.dims}",
            subject=dataset_subject(tested.spec.name),
            fix="leave it out of --test-on",
            code="wrong-dims",
        )
    if trained.spec.dims == 3 and trained.spec.channels != tested.spec.channels:
        raise DataError(
            f"its volumes have {tested.spec.channels} channels, those of {trained.spec.name!r} {trained.spec.channels}",
            subject=dataset_subject(tested.spec.name),
            fix="leave it out of --test-on",
            code="channels",
        )


def require_inputs(trained: OpenDataset, tested: OpenDataset) -> None:
    """Raise DataError if a column that the models take beside the image is missing."""
    columns = tested.samples.table.columns
    for name in trained.spec.inputs:
        if name not in columns:
            raise DataError(
                f"no column {name!r}, which models of {trained.spec.name!r} take beside the image",
                subject=dataset_subject(tested.spec.name),
                fix=f"{nearest(name, map(str, columns))} Add the column; its cells may be empty where the value is "
                "unknown".strip(),
                code="inputs",
            )


# --- labels ----------------------------------------------------------------------------------------------------------
def match_labels(trained: OpenDataset, tested: OpenDataset, label_map: Mapping[str, str]) -> dict[str, str]:
    """Map labels of `tested` to labels of `trained`, by `label_map`, else by its card, else by equal names.

    Names are equal if they differ only in case, spaces, hyphens and underscores. A label mapped to "" is left out.
    """
    train_labels, test_labels = trained.spec.labels, tested.spec.labels
    if trained.task.name != tested.task.name and not (trained.task.classes and tested.task.classes):
        raise DataError(
            f"the task of {trained.spec.name!r} is {trained.task}, that of {tested.spec.name!r} is {tested.task}: "
            "models of one cannot be tested on the other",
            fix="choose a dataset with the same task",
            code="wrong-task",
        )
    for label, target in label_map.items():
        if label not in test_labels:
            fix = nearest(label, test_labels) or f"its labels: {', '.join(test_labels)}"
            raise UsageError(f"--label-map {label}={target}: {tested.spec.name!r} has no label {label!r}", fix=fix)
        if target and target not in train_labels:
            fix = nearest(target, train_labels) or f"its labels: {', '.join(train_labels)}"
            raise UsageError(f"--label-map {label}={target}: {trained.spec.name!r} has no label {target!r}", fix=fix)
    simplified = {simplify(label): label for label in train_labels}
    matches = {}
    for label in test_labels:
        name = tested.spec.label_map.get(label, label)
        target = label_map.get(label, name if name in train_labels else simplified.get(simplify(name), ""))
        if target:
            matches[label] = target
    return matches


def simplify(label: str) -> str:
    return "".join(character for character in label.casefold() if character not in " -_")


def translate(
    trained: OpenDataset, tested: OpenDataset, labels: Mapping[str, str]
) -> tuple[Array, Array, dict[str, int]]:
    """Return the rows of `tested` with a matched label, their translated targets, and image counts of other labels."""
    train_labels, test_labels = trained.spec.labels, tested.spec.labels
    targets = np.asarray(tested.samples.targets)
    if tested.task.classes:
        index = np.array([train_labels.index(labels[label]) if label in labels else -1 for label in test_labels])
        rows = np.flatnonzero(index[targets] >= 0)
        lost = np.bincount(targets[index[targets] < 0], minlength=len(test_labels))
        left_out = {label: int(n) for label, n in zip(test_labels, lost, strict=True) if n}
        return rows, index[targets[rows]], left_out
    if trained.task.targets.spatial:  # the pixels of each label
        sizes = np.zeros((len(targets), len(train_labels)))
        for column, label in enumerate(test_labels):
            if label in labels:
                sizes[:, train_labels.index(labels[label])] += targets[:, column]
        images = (targets > 0).sum(axis=0)
        left_out = {label: int(n) for label, n in zip(test_labels, images, strict=True) if n and label not in labels}
        return np.arange(len(targets) if labels else 0), sizes, left_out
    if targets.ndim == 1:  # regression
        return np.arange(len(targets) if labels else 0), targets if labels else targets[:0], {}
    sources = [[i for i, label in enumerate(test_labels) if labels.get(label) == name] for name in train_labels]
    joined = np.stack([any_of(targets[:, columns]) for columns in sources], axis=1)
    rows = np.flatnonzero(~np.isnan(joined).all(axis=1))
    lost = np.nansum(targets, axis=0)
    left_out = {label: int(n) for label, n in zip(test_labels, lost, strict=True) if label not in labels}
    return rows, joined[rows], left_out


def any_of(columns: Array) -> Array:
    """Logical OR of label columns (N, L): 1 if any is 1, else NaN if any is NaN or there are no columns, else 0."""
    unknown = np.isnan(columns).any(axis=1) | (columns.shape[1] == 0)
    combined: Array = np.where((columns == 1).any(axis=1), 1.0, np.where(unknown, np.nan, 0.0))
    return combined


def no_label_in_common(trained: OpenDataset, tested: OpenDataset) -> DataError:
    return DataError(
        f"no image of {tested.spec.name!r} has a label of {trained.spec.name!r}; labels of {tested.spec.name!r}: "
        f"{', '.join(tested.spec.labels)}; labels of {trained.spec.name!r}: {', '.join(trained.spec.labels)}",
        fix="--label-map TEST_LABEL=TRAINING_LABEL,...",
        code="no-label-in-common",
    )


def relabel_masks(trained: OpenDataset, tested: OpenDataset, labels: Mapping[str, str]) -> OpenDataset:
    """Give the labels in the masks of `tested` the numbers of `trained`; those without a counterpart are background."""
    numbers = np.zeros(256, np.uint8)
    for number, label in enumerate(tested.spec.labels, start=1):
        if label in labels:
            numbers[number] = trained.spec.labels.index(labels[label]) + 1
    assert tested.samples.masks is not None
    samples = replace(tested.samples, masks=partial(read_relabeled, tested.samples.masks, numbers))
    digests = tuple(hash_bytes(digest, numbers.tobytes()) for digest in tested.mask_digests)
    return replace(tested, samples=samples, mask_digests=digests)


def read_relabeled(masks: Callable[[Any], Array], numbers: Array, image: Any) -> Array:
    """The mask of an image, with the new number of each of its values."""
    relabeled: Array = numbers[masks(image)]
    return relabeled


# --- images ----------------------------------------------------------------------------------------------------------
def restrict(trained: OpenDataset, tested: OpenDataset, rows: Array, targets: Array) -> OpenDataset:
    """Select rows of `tested` with translated targets, in the channels of `trained`."""
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
    opened = replace(tested, spec=spec, samples=replace(tested.samples, read=read))
    return subset(opened, rows, targets, trained.spec.inputs)


def subset(source: OpenDataset, rows: Array, targets: Array, inputs: Sequence[str]) -> OpenDataset:
    """Make a dataset of some rows of another, with new targets; all its images are test.

    Its hash covers images, patients, targets, how they are read, and the cells of the columns `inputs`.
    """
    samples, spec = source.samples, source.spec
    selected = replace(
        samples,
        table=samples.table.iloc[rows].reset_index(drop=True),
        targets=targets,
        files=tuple(samples.files[row] for row in rows) if samples.files else (),
    )
    masks = tuple(source.mask_digests[row] for row in rows) if source.mask_digests else ()
    texts = masks or target_texts(targets)
    parts = (source.sample_ids[rows], source.patients[rows], source.digests[rows], texts)
    lines = ("\t".join(map(str, cells)) for cells in zip(*parts, strict=True))
    # Only with a second input, so that other tests keep the hash they had before there was one.
    columns = [
        f"{name} {list(texts_of(samples.table[name])[rows])}" for name in inputs if name in samples.table.columns
    ]
    facts = (spec.task.name, *spec.labels, str(spec.channels), str(dict(samples.reading)), *columns)
    if spec.tolerance_mm is not None:  # other datasets keep the hash they had before there was one
        facts += (f"tolerance_mm {spec.tolerance_mm}",)
    content = hash_bytes(*facts, *lines)
    return replace(
        source,
        samples=selected,
        sample_ids=source.sample_ids[rows],
        patients=source.patients[rows],
        splits=np.full(len(rows), "test"),
        digests=source.digests[rows],
        mask_digests=masks,
        content_hash=content,
    )


def read_gray(read: Callable[[Any], Array], image: Any) -> Array:
    """Convert a color image to luminance (ITU-R BT.601), keeping its dtype."""
    pixels = read(image)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels
    gray: Array = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)
    return gray


def compare_reading(trained: OpenDataset, tested: OpenDataset) -> list[str]:
    """Return notes on how the pixels of the two datasets differ according to their cards."""
    names = trained.spec.name, tested.spec.name
    notes = []
    if trained.spec.channels != tested.spec.channels:
        conversion = "converted to gray (luminance)" if trained.spec.channels == 1 else "repeated to three channels"
        kinds = ("gray", "color") if tested.spec.channels == 3 else ("color", "gray")
        notes.append(f"images of {names[0]} are {kinds[0]}, those of {names[1]} are {kinds[1]} and are {conversion}")
    readings = [dict(source.samples.reading) for source in (trained, tested)]
    if readings[0] != readings[1]:
        parts = [f"{name}: {reading or 'unchanged'}" for name, reading in zip(names, readings, strict=True)]
        notes.append(f"levels are read differently; {'; '.join(parts)}")
    return notes


# --- runs ------------------------------------------------------------------------------------------------------------
def open_external(external: External, trained: DecodedFold, images: Path) -> DecodedFold:
    """Open the decoded test images with the levels, or the window of volumes, that the models of `trained` expect."""
    source = external.source
    split = Split(folds=(source.splits,), hash=trained.split_hash, origin="external")
    intensity, _ = find_levels(external, trained, images)
    ready = replace(source, spec=replace(source.spec, intensity=intensity))
    opened = open_fold(ready, split, 0, images)
    table = ready.samples.table
    inputs = {name: texts_of(table[name]) for name in trained.inputs if name in table.columns}
    return replace(opened, scale=trained.target_scale, volumes=trained.volumes, inputs=inputs, coded_as=trained)


def find_levels(external: External, trained: DecodedFold, images: Path) -> tuple[tuple[float, float], str]:
    """Return the levels mapped to 0 and 1, and a note: those of train if both datasets have equal bit depths.

    Of volumes, return the window of train: their values have no bit depth.
    """
    if trained.volumes:
        return trained.intensity, ""
    array, own = map_images(images), map_images(trained.images)
    if array.dtype == own.dtype:
        return trained.intensity, ""
    bits = f"{8 * array.itemsize}-bit images, {trained.name}'s are {8 * own.itemsize}-bit"
    if array.dtype == np.uint8:
        return (0.0, 255.0), f"{bits}: 0 and 255 are mapped to 0 and 1"
    if external.source.spec.intensity:
        return external.source.spec.intensity, f"{bits}: the levels of its card are mapped to 0 and 1"
    step = max(1, array.shape[1] // 64)
    return find_intensity(array[:, ::step, ::step]), f"{bits}: its own .1 and 99.9 percentiles are mapped to 0 and 1"


def describe_external(
    external: External, dataset: DecodedFold, trained: DecodedFold, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the training set's `facts` with the test set's test split, unit and notes, for the result and the board."""
    spec, source = external.source.spec, external.source
    _, note = find_levels(external, trained, dataset.images)
    names = facts["name"], external.name
    collections = (*facts.get("derived_from", ()), *spec.derived_from, facts["name"], spec.name)
    return {
        **facts,
        **{name: join_distinct(facts[name], getattr(spec, name)) for name in RECORDED_FACTS if name in facts},
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
        **({"boundaries": dataset.boundary_rule._asdict()} if "boundaries" in facts else {}),
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


def join_distinct(one: str, other: str) -> str:
    return "; ".join(dict.fromkeys(text for text in (one, other) if text))
