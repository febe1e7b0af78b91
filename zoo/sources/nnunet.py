"""Read `dataset.json` of nnU-Net's raw data, version 2 (Isensee et al. 2021): its channels, labels and cases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.images.formats import is_image_name, is_volume_name
from zoo.images.text_headers import DETACHED_SUFFIXES
from zoo.sources.cards import DatasetCard, Masks
from zoo.sources.listing import Listing, natural_key
from zoo.tasks.kinds import mask_task

TRAIN_IMAGES, TRAIN_MASKS = "imagesTr/", "labelsTr/"
IGNORED_LABEL = "ignore"  # its name is fixed in nnU-Net
SPLITS_FILE = "splits_final.json"


def is_nnunet(document: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` is that of nnU-Net, version 2."""
    return "channel_names" in document


def read_nnunet(path: Path, document: Mapping[str, Any], listing: Listing, card: DatasetCard) -> DatasetCard:
    """Return the card of nnU-Net's raw data. Raises DataError for files without their counterpart.

    `card` has the fields that a user has set: with its `labels`, those of the document are not read.
    """
    ending = document.get("file_ending")
    if not isinstance(ending, str) or not is_image_name(f"image{ending}") or ending in DETACHED_SUFFIXES:
        raise wrong(
            path, f"file_ending is {ending!r}, which zoo does not read in this layout", "convert to .nii.gz or .png"
        )
    if "dataset" in document:
        raise wrong(path, "its key `dataset` lists files elsewhere", "copy them to imagesTr and labelsTr")
    names = document["channel_names"]
    if not isinstance(names, dict) or not names:
        raise wrong(path, "channel_names is empty", 'write "channel_names": {"0": "CT"}')
    is_volume = is_volume_name(f"image{ending}")
    files = {*listing.images, *listing.masks, *listing.others}
    endings = check_cases(path, files, ending, len(names), is_volume=is_volume)
    num_declared, num_cases = document.get("numTraining"), sum(file.startswith(TRAIN_MASKS) for file in files)
    if num_declared is not None and num_declared != num_cases:
        raise wrong(
            path, f"numTraining is {num_declared}, but labelsTr has {num_cases} files", "copy all files, or correct it"
        )
    fields: dict[str, Any] = {
        "task": str(mask_task()),
        "dims": 3 if is_volume else 2,
        "images": f"{TRAIN_IMAGES}*{ending}",
        "channels": endings,
        "masks": Masks(path=f"{TRAIN_MASKS}{{stem}}{ending}", merge="none"),
        "modality": ", ".join(str(names[number]) for number in sorted(names, key=natural_key)) if is_volume else "",
        "license": str(document.get("licence", document.get("license", ""))),
    }
    if not card.labels:
        fields["labels"] = read_label_values(path, document.get("labels"))
    return DatasetCard().model_copy(update=fields)


def describe_nnunet(root: Path, card: DatasetCard) -> list[str]:
    """Notes on what was read and on what is not used."""
    notes = [f"read as nnU-Net's raw data: {len(card.channels)} channel{'s' * (len(card.channels) > 1)} per case"]
    if (root / SPLITS_FILE).is_file():
        notes.append(f"{SPLITS_FILE} is not used: zoo draws its own folds, by patient")
    return notes


def check_cases(path: Path, files: set[str], ending: str, num_channels: int, *, is_volume: bool) -> tuple[str, ...]:
    """Return the endings of the files of each case, after checking that every case has all channels and a mask."""
    root = path.parent
    expression = re.compile(rf"{TRAIN_IMAGES}([^/]+)_(\d{{4}}){re.escape(ending)}")
    cases: dict[str, set[str]] = {}
    for file in sorted((file for file in files if file.startswith(TRAIN_IMAGES)), key=natural_key):
        match = expression.fullmatch(file)
        if match is None:
            raise DataError(
                f"{root / file}: no image of nnU-Net, whose names are CASE_0000{ending}",
                fix="rename it, or remove it",
                code="image",
            )
        cases.setdefault(match[1], set()).add(match[2])
    masks = {file.removeprefix(TRAIN_MASKS).removesuffix(ending) for file in files if file.startswith(TRAIN_MASKS)}
    if not cases:
        raise wrong(path, f"no files imagesTr/CASE_0000{ending}", "copy them there")
    if without := sorted(cases.keys() - masks, key=natural_key):
        raise no_counterpart(
            root / f"{TRAIN_IMAGES}{without[0]}_0000{ending}", f"{TRAIN_MASKS}{without[0]}{ending}", len(without)
        )
    if orphans := sorted(masks - cases.keys(), key=natural_key):
        raise no_counterpart(
            root / f"{TRAIN_MASKS}{orphans[0]}{ending}", f"{TRAIN_IMAGES}{orphans[0]}_0000{ending}", len(orphans)
        )
    is_one_file = not is_volume and all(numbers == {"0000"} for numbers in cases.values())  # with all its channels
    expected = [f"{number:04}" for number in range(1 if is_one_file else num_channels)]
    for case, numbers in cases.items():
        if odd := sorted(numbers.symmetric_difference(expected)):
            verb = "is missing" if odd[0] in expected else "is not in channel_names"
            raise DataError(
                f"{root / TRAIN_IMAGES}/{case}_{odd[0]}{ending} {verb}, which has {num_channels} channels",
                fix="give every case the channels of dataset.json",
                code="channels",
            )
    if not is_volume and not is_one_file:
        raise wrong(
            path,
            f"{num_channels} files per image; an image of 2 dimensions is read from one file",
            "join its channels as a color PNG",
        )
    return tuple(f"_{number}" for number in expected)


def no_counterpart(path: Path, counterpart: str, count: int) -> DataError:
    more = f" (and {count - 1} more files without theirs)" if count > 1 else ""
    return DataError(f"{path}: {counterpart} is missing{more}", fix="add it, or remove the file", code="mask")


def read_label_values(path: Path, labels: object) -> dict[str, str]:
    """Return the name of each value of a mask, without the background."""
    if not isinstance(labels, dict):
        raise wrong(path, "labels is missing", 'write "labels": {"background": 0, "tumor": 1}')
    names: dict[int, str] = {}
    listed = (value if isinstance(value, list) else [value] for value in labels.values())
    parts = sorted({part for each in listed for part in each if isinstance(part, int) and part > 0})
    to_name = ", ".join(f'{part} = "NAME"' for part in parts)
    for name, value in labels.items():
        if isinstance(value, list):
            raise wrong(
                path,
                f"label {name!r} is a region of several values, {list(value)}, which overlaps others; zoo reads and "
                "scores one label per voxel",
                f"name the parts in dataset.toml: labels = {{{to_name}}}",
            )
        if name == IGNORED_LABEL:
            raise wrong(
                path,
                f"label {name!r} marks voxels without a label, which zoo cannot leave out of a score",
                "remove it and the cases that have it",
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value in names:
            raise wrong(path, f"label {name!r} has the value {value!r}", "give each label its own whole number")
        names[value] = str(name)
    return {str(value): names[value] for value in sorted(names) if value}


def wrong(path: Path, problem: str, fix: str) -> DataError:
    return DataError(f"{path}: {problem}", fix=fix, code="card")
