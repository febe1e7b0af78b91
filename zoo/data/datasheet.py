"""Describe an opened, split dataset: counts, sizes, depths, and a sheet of ten images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.contact_sheet import Thumbnail, draw_contact_sheet
from zoo.data.dataset import count_images, index_of_positive, unit_of
from zoo.data.decoded import find_intensity
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import clean
from zoo.images.resizing import fit_square
from zoo.specs.dataset import SPLITS, parse_patient

NUM_THUMBNAILS = 10
MAX_MEASURED = 256  # train images, evenly spread, whose levels determine how 16 bits are displayed
MEASURED_SIZE = 64
SIDES = ("width", "height")


def describe_source(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> dict[str, Any]:
    """Return facts as plain data; with several folds, those of the first."""
    spec = source.spec
    targets, split_of = np.asarray(source.samples.targets), split.folds[0]
    positive = index_of_positive(spec)
    counts = {}
    for name in SPLITS:
        rows = split_of == name
        counts[name] = count_images(spec.task, spec.labels, targets[rows], source.patients[rows])
        if not source.has_patients:
            counts[name]["patients"] = None
    return {
        "images": len(source.sample_ids),
        "patient": spec.patient if source.has_patients else missing_patient(spec.patient),
        "patients": len(np.unique(source.patients)) if source.has_patients else None,
        "unit": unit_of(source),
        "positive": None if positive is None else spec.labels[positive],
        "split": split.origin,
        "folds": len(split.folds),
        "splits": counts,
        "left_out_of_splits": int((split_of == "").sum()),
        "sizes": describe_sizes(fingerprints),
        "bits": {int(bits): int((fingerprints.bits == bits).sum()) for bits in np.unique(fingerprints.bits)},
        "channels": {
            "read_as": spec.channels,
            "of_volumes": spec.dims == 3,
            "gray_files": int((fingerprints.channels == 1).sum()),
            "colour_files": int((fingerprints.channels == 3).sum()),
            "colour_files_that_are_gray": int((fingerprints.gray & (fingerprints.channels == 3)).sum()),
        },
        "notes": [*source.samples.notes, *split.notes],
        "known_issues": list(spec.known_issues),
        "content_hash": source.content_hash,
        "split_hash": split.hash,
    }


def missing_patient(meaning: str) -> str:
    return meaning if parse_patient(meaning).missing and meaning else "none: image level"


def describe_sizes(fingerprints: Fingerprints) -> dict[str, Any]:
    sizes = Counter(zip(fingerprints.widths.tolist(), fingerprints.heights.tolist(), strict=True))
    (width, height), images = sizes.most_common(1)[0]
    return {
        "width": spread(fingerprints.widths),
        "height": spread(fingerprints.heights),
        "different": len(sizes),
        "most_common": {"width": width, "height": height, "images": images},
    }


def spread(values: Array) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def to_readable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the facts to text for people: one line per split, size and note."""
    sizes, channels = facts["sizes"], facts["channels"]
    width, height = (" / ".join(str(sizes[side][key]) for key in ("min", "median", "max")) for side in SIDES)
    gray, equal = channels["gray_files"], channels["colour_files_that_are_gray"]
    has_reason = facts["patient"] != missing_patient("")
    no_patient = facts["patient"].replace("none", "NONE", 1) + "; every image counts as one patient"
    no_patient += "" if has_reason else " (if that is wrong, set `patient` in dataset.toml)"
    folds = f"{facts['split']}; the first of {facts['folds']} folds:" if facts["folds"] > 1 else facts["split"]
    levels = f"; black is {facts['shown_from_to'][0]:g}, white {facts['shown_from_to'][1]:g}"
    readable = {
        **facts,
        "patient": facts["patient"] if facts["patients"] is not None else no_patient,
        "split": folds,
        "splits": {name: describe_counts(counts) for name, counts in facts["splits"].items()},
        "sizes": f"width {width}, height {height} (min / median / max); {describe_variety(sizes['different'])}",
        "bits": ", ".join(f"{count} images of {bits}" for bits, count in facts["bits"].items()),
        "channels": f"{channels['read_as']} per volume"
        if channels["of_volumes"]
        else f"{gray} gray files, {channels['colour_files']} color files"
        + (f", {equal} of them with equal channels" if equal else "")
        + f"; read as {'gray' if channels['read_as'] == 1 else 'color'}",
        "sheet": f"{facts['sheet']} ({len(facts['shown'])} images{levels if 16 in facts['bits'] else ''})",
    }
    left_out = [name for name, value in facts.items() if value in (None, [], 0) or name.startswith("shown")]
    return {name: value for name, value in readable.items() if name not in left_out}


def describe_variety(num_sizes: int) -> str:
    return "all of one size" if num_sizes == 1 else f"{num_sizes} sizes"


def describe_counts(counts: Mapping[str, Any]) -> str:
    patients = f", {counts['patients']} patients" if counts["patients"] is not None else ""
    if "labels" not in counts:
        return f"{counts['images']} images{patients}; mean {counts['mean']:.4g}, deviation {counts['std']:.4g}"
    labels = ", ".join(f"{clean(label)} {count}" for label, count in counts["labels"].items())
    return f"{counts['images']} images{patients}; {labels}"


# --- the contact sheet -----------------------------------------------------------------------------------------------
def draw_sheet(source: OpenDataset, split: Split, fingerprints: Fingerprints, path: Path) -> dict[str, Any]:
    """Write ten thumbnails, evenly over the classes and without randomness; return the path and the images."""
    rows = choose_rows(source)
    images = list(source.samples.table["image"])
    labels = [label_text(source, row) for row in rows]
    intensity = set_intensity(source, split) if fingerprints.bits[0] > 8 else (0.0, 255.0)
    samples = source.samples
    thumbnails = [
        Thumbnail(
            pixels=samples.read(images[row]), label=label, mask=samples.masks(images[row]) if samples.masks else None
        )
        for row, label in zip(rows, labels, strict=True)
    ]
    draw_contact_sheet(thumbnails, intensity, path)
    shown = [{"sample_id": str(source.sample_ids[r]), "label": text} for r, text in zip(rows, labels, strict=True)]
    return {"sheet": str(path), "shown": shown, "shown_from_to": list(intensity)}


def choose_rows(source: OpenDataset) -> list[int]:
    """Choose ten rows: evenly over the classes and within each; for a regression, evenly from least to greatest."""
    targets = np.asarray(source.samples.targets)
    flags = source.task.targets.to_flags(targets, len(source.spec.labels))
    if flags is None:
        order = np.argsort(source.task.targets.sizes(targets), kind="stable")
        return [int(row) for row in order[evenly(len(order), NUM_THUMBNAILS)]]
    none = np.flatnonzero(np.nansum(flags, axis=1) == 0)
    members = [*(np.flatnonzero(column == 1) for column in flags.T), none]
    members = [rows for rows in members if len(rows)]
    members = [members[index] for index in evenly(len(members), NUM_THUMBNAILS)]
    chosen: list[int] = []
    for number, rows in enumerate(members):
        share = NUM_THUMBNAILS // len(members) + (number < NUM_THUMBNAILS % len(members))
        unused = rows[~np.isin(rows, chosen)]  # an image with several labels has several classes
        chosen += unused[evenly(len(unused), share)].tolist()
    return chosen


def evenly(count: int, wanted: int) -> Array:
    """Return at most `wanted` indices below `count`, as far apart as possible."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)) if count else np.arange(0)


def label_text(source: OpenDataset, row: int) -> str:
    """The target of an image as text."""
    targets = source.task.targets
    describe = targets.describe_volume if source.spec.dims == 3 else targets.describe
    return describe(np.asarray(source.samples.targets)[row], source.spec.labels)


def set_intensity(source: OpenDataset, split: Split) -> tuple[float, float]:
    """Return the card's intensity, else the percentiles of train as in a bench, from small copies of some images."""
    if source.spec.intensity:
        return source.spec.intensity
    train = np.flatnonzero(split.folds[0] == "train")
    images = source.samples.table["image"]
    read = (source.samples.read(images.iloc[row]) for row in train[evenly(len(train), MAX_MEASURED)])
    return find_intensity(np.concatenate([fit_square(pixels, MEASURED_SIZE).ravel() for pixels in read]))
