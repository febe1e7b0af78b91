"""Checks of datasets. One that cannot be opened fails `dataset-opens` only."""

from __future__ import annotations

import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.datasets import (
    check_card_fields,
    check_spec_targets,
    check_stored,
    check_table,
    complete_samples,
)
from zoo.conformance.steps import check_plain_fields, expect, step
from zoo.data.checks import check_samples, unify_spellings
from zoo.errors import DataError, ZooError
from zoo.registry.isolation import network_refused
from zoo.specs.dataset import DatasetSpec, Samples, SamplesRequest
from zoo.system.files import cache_root, hash_bytes, hash_file

ABSENT = ("offline", "data-missing")  # codes of data that are not on this machine
NUM_THREADS, NUM_READ_IN_THREADS = 4, 32


def label_of(subject: CheckedSpec) -> str:
    return f"dataset {subject.spec.name!r}"


def data_request(subject: CheckedSpec) -> SamplesRequest:
    return SamplesRequest(folder=subject.folder or cache_root() / "datasets" / subject.spec.name, offline=True)


def open_here(subject: CheckedSpec) -> tuple[DatasetSpec, Samples]:
    """Open the dataset. Raises Inapplicable if that fails, which `dataset-opens` reports, or if its data are absent."""
    if subject.spec.find:
        raise Inapplicable("it stands for many datasets")
    try:
        samples = subject.spec.samples(data_request(subject))
        if isinstance(samples, Samples):
            return complete_samples(subject.spec, samples)
    except Exception as error:
        raise Inapplicable(f"it cannot be opened: {error}") from error
    raise Inapplicable("`samples` does not return Samples")


def open_checked(subject: CheckedSpec) -> tuple[DatasetSpec, Samples]:
    """Open the dataset. Raises Inapplicable if its table or targets are wrong, which other checks report."""
    spec, samples = open_here(subject)
    try:
        check_contents(spec, samples)
    except (AssertionError, ZooError) as error:
        raise Inapplicable(str(error)) from error
    return spec, samples


def check_contents(spec: DatasetSpec, samples: Samples) -> None:
    """Compare table and targets with the spec; a class without images is as the data are."""
    check_samples(spec, samples)
    check_table(spec, samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_spec_targets(spec, samples)


def read_or_skip(samples: Samples, image: Any) -> Any:
    """The pixels of an image. Raises Inapplicable if it cannot be read, which `dataset-images` reports."""
    try:
        return samples.read(image)
    except Exception as error:
        raise Inapplicable(f"an image cannot be read: {error}") from error


def check_dataset_fields(subject: CheckedSpec) -> None:
    check_plain_fields("dataset", subject.spec)
    check_card_fields(subject.spec)


def check_opens(subject: CheckedSpec) -> None:
    if subject.spec.find:
        raise Inapplicable("it stands for many datasets")
    try:
        samples = subject.spec.samples(data_request(subject))
        if isinstance(samples, Samples):
            complete_samples(subject.spec, samples)
    except DataError as error:
        if error.code in ABSENT:
            raise Inapplicable(f"it cannot be opened: {error}") from error
        raise AssertionError(f"{label_of(subject)}: opening it: {error}") from error
    except Exception as error:
        raise AssertionError(f"{label_of(subject)}: opening it raised {type(error).__name__}: {error}") from error
    kind = type(samples).__name__
    expect(isinstance(samples, Samples), f"{label_of(subject)}: `samples` returned {kind}, expected Samples")


def check_table_and_targets(subject: CheckedSpec) -> None:
    spec, samples = open_here(subject)
    with step(label_of(subject)):
        check_contents(spec, samples)


def check_declared_splits(subject: CheckedSpec) -> None:
    spec, samples = open_checked(subject)
    splits = set(splits_of(samples)) - {""}
    expect(
        splits == set(spec.official_splits),
        f"{label_of(subject)}: the spec declares official_splits = {sorted(spec.official_splits)}, the table has "
        f"{sorted(splits)}",
    )


def splits_of(samples: Samples) -> list[str]:
    return list(samples.table["split"]) if "split" in samples.table.columns else [""] * len(samples.table)


def check_all_images(subject: CheckedSpec) -> None:
    spec, samples = open_checked(subject)
    depths = Counter[str]()
    for sample, image in zip(samples.table["sample_id"], samples.table["image"], strict=True):
        with step(f"{label_of(subject)}: reading the image of {sample!r}"):
            pixels = samples.read(image)
        check_stored(f"{label_of(subject)}: {sample}", pixels, spec)
        depths[str(pixels.dtype)] += 1
    expect(
        len(depths) == 1 or spec.dims == 3,
        f"{label_of(subject)}: images are {' and '.join(sorted(depths))}; return one dtype for all",
    )


def check_threads(subject: CheckedSpec) -> None:
    _, samples = open_checked(subject)
    images = list(samples.table["image"])[:NUM_READ_IN_THREADS]
    first = [read_or_skip(samples, image) for image in images]
    with step(f"{label_of(subject)}: reading images in several threads"), ThreadPoolExecutor(NUM_THREADS) as pool:
        again = list(pool.map(samples.read, images))
    expect(
        all(np.array_equal(one, other) for one, other in zip(first, again, strict=True)),
        f"{label_of(subject)}: `read` gives different pixels when called in threads; open the file in each call",
    )


def check_stable(subject: CheckedSpec) -> None:
    (_, samples), (_, again) = open_checked(subject), open_checked(subject)
    floats = samples.targets is not None and samples.targets.dtype.kind == "f"
    expect(
        list(samples.table["sample_id"]) == list(again.table["sample_id"])
        and (samples.targets is None or np.array_equal(samples.targets, again.targets, equal_nan=floats)),
        f"{label_of(subject)}: opening it twice gives different samples or a different order; sort the files",
    )


def check_patients(subject: CheckedSpec) -> None:
    spec, samples = open_checked(subject)
    table = samples.table
    if "patient" not in table.columns or not any(splits_of(samples)):
        raise Inapplicable("it has no patients, or no official splits")
    named = table[table["split"] != ""].assign(patient=lambda rows: unify_spellings(rows["patient"]))
    shared = named.groupby("patient")["split"].nunique().loc[lambda counts: counts > 1]
    expect(
        not len(shared) or spec.known_issues,
        f"{label_of(subject)}: {len(shared)} patients are in several official splits, such as "
        f"{next(iter(shared.index), '')!r}; declare it in `known_issues`",
    )


def check_copies(subject: CheckedSpec) -> None:
    """Find equal pixels in different official splits, unless the spec declares known issues."""
    spec, samples = open_checked(subject)
    if not any(splits_of(samples)):
        raise Inapplicable("it has no official splits")
    first: dict[str, tuple[str, str]] = {}
    for sample, split, image in zip(
        samples.table["sample_id"], splits_of(samples), samples.table["image"], strict=True
    ):
        if not split:
            continue
        pixels = read_or_skip(samples, image)
        digest = hash_bytes(str(np.shape(pixels)), np.ascontiguousarray(pixels).tobytes())
        other, where = first.setdefault(digest, (sample, split))
        expect(
            where == split or spec.known_issues,
            f"{label_of(subject)}: {sample!r} of {split} has the pixels of {other!r} of {where}; declare it in "
            "`known_issues`",
        )


def check_one_class(subject: CheckedSpec) -> None:
    spec, samples = open_checked(subject)
    if not spec.task.classes:
        raise Inapplicable("its targets are not classes")
    splits = np.array(splits_of(samples))
    for split in sorted(set(splits) - {""}) or [""]:
        present = sorted(set(samples.targets[splits == split].tolist()))
        expect(
            len(present) > 1 or spec.known_issues,
            f"{label_of(subject)}: every image of {split or 'it'} is labeled {spec.labels[present[0]]!r}; no metric of "
            "classes is defined there",
        )


def check_hashes(subject: CheckedSpec) -> None:
    spec, samples = open_checked(subject)
    if not spec.checksums:
        raise Inapplicable("it declares no checksums")
    files = {path.name: path for path in (*samples.files, *samples.tables)}
    for name, expected in spec.checksums.items():
        if name in files:
            md5 = hash_file(files[name], "md5")
            expect(md5 == expected, f"{label_of(subject)}: the md5 of {name} is {md5}, the spec declares {expected}")
    unknown = sorted(spec.checksums.keys() - files.keys())
    expect(not unknown, f"{label_of(subject)}: `checksums` names files it does not read: {', '.join(unknown)}")


def check_offline(subject: CheckedSpec) -> None:
    """Open the dataset with `offline`, from its own and from an empty folder."""
    if subject.spec.find:
        raise Inapplicable("it stands for many datasets")
    with TemporaryDirectory(prefix="zoo-") as empty:
        own, absent = (open_without_network(subject, folder) for folder in (data_request(subject).folder, Path(empty)))
    if own and not isinstance(own, DataError):
        raise Inapplicable(f"it cannot be opened: {own}")
    expect(
        absent is None or isinstance(absent, DataError),
        f"{label_of(subject)}: without its data and with `offline` it raises {type(absent).__name__}: {absent}; raise "
        'zoo.DataError(..., code="offline")',
    )


def open_without_network(subject: CheckedSpec, folder: Path) -> Exception | None:
    """The error of opening a dataset in a folder. Raises AssertionError if it tries the network."""
    failure = None
    with network_refused() as hosts:
        try:
            subject.spec.samples(SamplesRequest(folder=folder, offline=True))
        except Exception as error:
            failure = error
    expect(not hosts, f"{label_of(subject)}: with `offline` it contacts {', '.join(hosts[:1])}")
    return failure


DATASET_CHECKS = (
    Check(id="dataset-fields", claim="Its fields are valid and fit each other", run=check_dataset_fields),
    Check(id="dataset-opens", claim="It can be opened", run=check_opens),
    Check(id="dataset-rows", claim="Its table and targets fit the spec", run=check_table_and_targets),
    Check(id="dataset-splits", claim="Its official splits are those it declares", run=check_declared_splits),
    Check(id="dataset-images", claim="Every image can be read", run=check_all_images),
    Check(id="dataset-threads", claim="Images can be read in several threads", run=check_threads),
    Check(id="dataset-stable", claim="Opening it twice gives the same samples", run=check_stable),
    Check(id="dataset-patients", claim="Official splits share no patient, or say so", run=check_patients),
    Check(id="dataset-copies", claim="Official splits share no image, or say so", run=check_copies),
    Check(id="dataset-classes", claim="Every official split has several classes, or says so", run=check_one_class),
    Check(id="dataset-hashes", claim="Its files have the checksums it declares", run=check_hashes),
    Check(id="dataset-offline", claim="With `offline` it uses no network", run=check_offline),
)
