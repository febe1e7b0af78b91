"""Open a dataset as a benchmark does, and compare its table, targets, splits and images with its spec."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.conformance.steps import check_spec_fields, expect, step
from zoo.data.checks import check_samples, complete_spec, unify_spellings
from zoo.data.masks import measure_masks
from zoo.data.volumes import check_values
from zoo.specs.dataset import DatasetSpec, Samples, SamplesRequest, parse_patient
from zoo.system.files import cache_root

NUM_READ = 16  # images of a dataset to read


def check_dataset(spec: DatasetSpec, folder: Path, *, offline: bool = True) -> None:
    """Open the dataset in `folder`; compare its table, targets, splits and some images with its spec.

    Official splits that share patients only give a warning, because they are as published.
    """
    check_dataset_spec(spec)
    samples, again = (open_samples(spec, folder, offline) for _ in range(2))
    spec, samples = complete_samples(spec, samples)
    _, again = complete_samples(spec, again)
    check_dataset_spec(spec)
    with step(f"dataset {spec.name!r}"):
        check_samples(spec, samples)
    check_table(spec, samples)
    check_spec_targets(spec, samples)
    check_splits(spec, samples)
    check_pixels(spec, samples)
    expect(
        list(samples.table["sample_id"]) == list(again.table["sample_id"])
        and np.array_equal(samples.targets, again.targets, equal_nan=samples.targets.dtype.kind == "f"),
        f"dataset {spec.name!r}: opening it twice gives different samples or a different order; sort the files",
    )


def complete_samples(spec: DatasetSpec, samples: Samples) -> tuple[DatasetSpec, Samples]:
    """The spec completed from the files, the targets from masks, and whole volumes as images, if there are any."""
    spec = complete_spec(spec, samples)
    if samples.masks is not None:
        samples = replace(samples, targets=measure_masks(spec, samples, cache_root()).sizes)
    if samples.volumes is not None:
        samples = replace(samples, read=samples.volumes)
    return spec, samples


def check_dataset_spec(spec: DatasetSpec) -> None:
    check_spec_fields("dataset", spec)
    check_card_fields(spec)


def check_card_fields(spec: DatasetSpec) -> None:
    name = f"dataset {spec.name!r}"
    expect(all(label.strip() for label in spec.labels), f"{name}: a label's name is empty")
    expect(
        not spec.positive or (spec.task.targets.has_positive and spec.positive in spec.labels),
        f"{name}: `positive` is {spec.positive!r}; expected a label of a binary task: {', '.join(spec.labels)}",
    )
    expect(spec.license, f"{name}: `license` is empty; write 'unknown' if it is not known")


def open_samples(spec: DatasetSpec, folder: Path, offline: bool) -> Samples:
    with step(f"dataset {spec.name!r}: opening it in {folder}"):
        samples = spec.samples(SamplesRequest(folder=folder, offline=offline))
    kind = type(samples).__name__
    expect(isinstance(samples, Samples), f"dataset {spec.name!r}: `samples` returned {kind}, expected Samples")
    return samples


def check_table(spec: DatasetSpec, samples: Samples) -> None:
    name, table = f"dataset {spec.name!r}", samples.table
    for column in {"sample_id", "split", "patient"} & set(table.columns):
        invalid = [value for value in table[column] if not isinstance(value, str)]
        expect(not invalid, f"{name}: column {column!r} holds {invalid[:1]}, expected str ('' for no official split)")
    has_patients = not parse_patient(spec.patient).missing
    expect(
        has_patients == ("patient" in table.columns),
        f"{name}: the spec declares patient = {spec.patient!r} but the table has "
        f"{'a' if 'patient' in table.columns else 'no'} column 'patient'",
    )
    if has_patients:
        expect(all(table["patient"]), f"{name}: a row has no patient; give a single image its own patient id")
    missing = [column for column in spec.metadata if column not in table.columns]
    expect(not missing, f"{name}: `metadata` names columns that are not in the table: {', '.join(missing)}")
    absent = [path for path in samples.files if not path.is_file()]
    expect(not absent, f"{name}: {len(absent)} of `files` do not exist, such as {absent[:1]}")


def check_spec_targets(spec: DatasetSpec, samples: Samples) -> None:
    """Check the dtype of the targets; `check_samples` compares their values with the labels."""
    name, dtype, expected = f"dataset {spec.name!r}", np.asarray(samples.targets).dtype, spec.task.targets.generic
    expect(
        isinstance(samples.targets, np.ndarray) and dtype.kind == expected.kind,
        f"{name}: targets are {dtype}, expected {'int64' if expected.kind == 'i' else 'a float'} array",
    )
    if not spec.task.classes:
        return
    counts = np.bincount(samples.targets, minlength=len(spec.labels))
    for label, count in zip(spec.labels, counts, strict=True):
        if count == 0:
            warnings.warn(f"{name}: no image is labeled {label!r}", stacklevel=3)


def check_splits(spec: DatasetSpec, samples: Samples) -> None:
    name, table = f"dataset {spec.name!r}", samples.table
    splits = {split for split in table["split"] if split} if "split" in table.columns else set()
    expect(
        splits == set(spec.official_splits),
        f"{name}: the spec declares official_splits = {sorted(spec.official_splits)}, the table has {sorted(splits)}",
    )
    if "patient" not in table.columns or not splits:
        return
    named = table[table["split"] != ""]
    named = named.assign(patient=unify_spellings(named["patient"]))
    shared = named.groupby("patient")["split"].nunique().loc[lambda counts: counts > 1]
    if len(shared):
        warnings.warn(
            f"{name}: {len(shared)} patients are in several official splits, such as {shared.index[0]!r}; "
            "document this in `known_issues`",
            stacklevel=3,
        )


def check_pixels(spec: DatasetSpec, samples: Samples) -> None:
    """Read images spread over the table, one by one and then in threads, as the image cache does."""
    name, images = f"dataset {spec.name!r}", list(samples.table["image"])
    chosen = sorted({int(row) for row in np.linspace(0, len(images) - 1, NUM_READ)})
    pixels = []
    for row in chosen:
        with step(f"{name}: reading the image of {samples.table['sample_id'].iloc[row]!r}"):
            pixels.append(samples.read(images[row]))
        check_stored(f"{name}: {samples.table['sample_id'].iloc[row]}", pixels[-1], spec)
    depths = sorted({str(image.dtype) for image in pixels})
    expect(len(depths) == 1 or spec.dims == 3, f"{name}: images are {' and '.join(depths)}; return one dtype for all")
    with step(f"{name}: reading images in several threads"), ThreadPoolExecutor(4) as pool:
        again = list(pool.map(samples.read, [images[row] for row in chosen]))
    equal = all(np.array_equal(first, second) for first, second in zip(pixels, again, strict=True))
    expect(equal, f"{name}: `read` gives different pixels when called in threads; open the file in each call")


def check_stored(name: str, stored: object, spec: DatasetSpec) -> None:
    """Check an image, or a volume."""
    if spec.dims == 2:
        check_image(name, stored, spec.channels)
        return
    with step(name):
        check_values(stored, name)


def check_image(name: str, pixels: object, channels: int) -> None:
    expect(isinstance(pixels, np.ndarray), f"{name}: `read` returned {type(pixels).__name__}, expected an array")
    assert isinstance(pixels, np.ndarray)
    shape = pixels.shape
    expect(pixels.dtype in (np.uint8, np.uint16), f"{name}: pixels are {pixels.dtype}, expected uint8 or uint16")
    expect(
        len(shape) == 2 or (len(shape) == 3 and shape[2] == 3),
        f"{name}: pixels of shape {shape}, expected (height, width) or (height, width, 3)",
    )
    expect(min(shape) > 0, f"{name}: pixels of shape {shape}: the image is empty")
    gray = len(shape) == 2 or bool((pixels == pixels[:, :, :1]).all())
    expect(channels == 3 or gray, f"{name}: a color image, but the spec declares channels = 1")
