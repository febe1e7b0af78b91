"""Write a fold of a dataset with masks as nnU-Net's raw data, version 2 (Isensee et al. 2021)."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import WITH_UNIT
from zoo.data.decoded import match_channels
from zoo.data.opening import OpenDataset, read_by_train
from zoo.data.references import SourceMasks, name_images
from zoo.data.volumes import spacing_of
from zoo.errors import DataError, UsageError, dataset_subject
from zoo.images.formats import without_suffix
from zoo.images.label_maps import read_grid
from zoo.images.reading import suffix_of
from zoo.images.volumes import WITH_GRID
from zoo.sources.nnunet import IGNORED_LABEL, SPLITS_FILE
from zoo.system.files import folder_written_whole
from zoo.system.progress import Progress

MAX_NUMBER = 999
CASES_FILE = "cases.csv"  # nnU-Net does not read it: the image, patient and split of each case
FOLDERS = {"train": "imagesTr", "val": "imagesTr", "test": "imagesTs"}
STORED_DTYPES = (
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.float32,
    np.float64,
)  # of NIfTI and SimpleITK


@dataclass(frozen=True, kw_only=True, eq=False)
class RawFold:
    """One fold of a dataset, with the name of each of its cases. `split_of` is (N,) str: train, val, test or ""."""

    source: OpenDataset
    split_of: Array

    @cached_property
    def names(self) -> list[str]:
        return name_cases([names[0] for names in name_images(self.source).values()])

    @cached_property
    def masks(self) -> list[str]:
        """The path by which `zoo score --masks` knows the mask of each image."""
        return [f"{without_suffix(names[0])}{self.ending}" for names in name_images(self.source).values()]

    @property
    def ending(self) -> str:
        return ".nii.gz" if self.source.spec.dims == 3 else ".png"

    def cases(self, split: str) -> list[str]:
        return [self.names[row] for row in np.flatnonzero(self.split_of == split)]

    def describe(self) -> dict[str, Any]:
        """The document `dataset.json`."""
        spec = self.source.spec
        return {
            "channel_names": dict(enumerate(name_channels(spec.modality, spec.channels, spec.dims))),
            "labels": {"background": 0, **{name: number for number, name in enumerate(spec.labels, start=1)}},
            "numTraining": len(self.cases("train")) + len(self.cases("val")),
            "file_ending": self.ending,
            "name": spec.name,
            "licence": spec.license,
        }


def name_raw_folders(output: Path, name: str, number: int, count: int) -> list[Path]:
    """The folder of each fold: `Dataset900_NAME`, `Dataset901_NAME`. Raises UsageError if a number is in use."""
    numbers = range(number, number + count)
    if numbers[0] < 1 or numbers[-1] > MAX_NUMBER:
        raise UsageError(
            f"{count} folds from number {number}: nnU-Net's are 1 to {MAX_NUMBER}", fix="give another number"
        )
    for each in numbers:
        if used := next(output.glob(f"Dataset{each:03}_*"), None):
            raise UsageError(f"{used} exists", fix="give another number, or remove the folder")
    return [output / f"Dataset{each:03}_{slug_of_path(name)}" for each in numbers]


def write_raw(fold: RawFold, folder: Path, progress: Progress) -> None:
    """Write a fold: train and val with their masks and `splits_final.json`, test without masks, and `cases.csv`.

    The pixels are those that zoo's models get, before they are resized. Volumes are stored in the RAS+ order of axes.
    Raises DataError for what nnU-Net cannot represent.
    """
    source = read_by_train(fold.source, fold.split_of == "train")
    if reserved := {"background", IGNORED_LABEL}.intersection(source.spec.labels):
        raise DataError(
            f"label {min(reserved)!r} has another meaning in nnU-Net",
            subject=dataset_subject(source.spec.name),
            fix="rename it in dataset.toml",
            code="card",
        )
    require_own_masks(fold)
    masks, images = SourceMasks(source), source.samples.table["image"].tolist()
    rows = np.flatnonzero(fold.split_of != "")
    with folder_written_whole(folder) as temporary:
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (temporary / name).mkdir()
        for done, row in enumerate(rows.tolist()):
            progress(done, len(rows))
            name, split = fold.names[row], str(fold.split_of[row])
            channels = read_channels_of(source, images[row])
            affine = affine_of(source, row)
            for number, values in enumerate(channels):
                save_array(temporary / FOLDERS[split] / f"{name}_{number:04}{fold.ending}", values, affine)
            if split != "test":
                save_array(temporary / "labelsTr" / f"{name}{fold.ending}", masks[row], affine)
        splits = [{"train": fold.cases("train"), "val": fold.cases("val")}]
        write_document(temporary / "dataset.json", fold.describe())
        write_document(temporary / SPLITS_FILE, splits)
        write_cases(temporary / CASES_FILE, fold)


def require_own_masks(fold: RawFold) -> None:
    """Raise DataError if the masks of two test images would have one name, such as those of a.png and a.jpg."""
    images: dict[str, str] = {}
    for row in np.flatnonzero(fold.split_of == "test").tolist():
        image = str(fold.source.sample_ids[row])
        if images.setdefault(fold.masks[row], image) != image:
            raise DataError(
                f"{images[fold.masks[row]]} and {image}: their masks would have one name, {fold.masks[row]}",
                subject=dataset_subject(fold.source.spec.name),
                fix="rename one of them",
                code="image",
            )


def name_cases(paths: Sequence[str]) -> list[str]:
    """The names of the cases: of their files if these differ, else of their paths, if need be with a number.

    They have letters, digits, _ and -, and differ in more than case, which some file systems ignore.
    """
    short, long = [slug_of_path(posixpath.basename(path)) for path in paths], [slug_of_path(path) for path in paths]
    for names in (short, long):
        if len({name.lower() for name in names}) == len(names):
            return names
    return [f"{name}_{row}" for row, name in enumerate(long)]


def slug_of_path(path: str) -> str:
    name = without_suffix(path).removesuffix("_0000")  # the channel in a name of nnU-Net's own files
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def name_channels(modality: str, count: int, dims: int) -> Sequence[str]:
    """The names of the channels; nnU-Net chooses the normalization by them."""
    if dims == 2:
        return ("R", "G", "B") if count == 3 else ("gray",)
    names = modality.split(", ")
    if len(names) != count or not all(names):
        names = [modality or "intensity"] if count == 1 else [f"channel {number}" for number in range(count)]
    return ["CT" if WITH_UNIT.search(name) else name for name in names]  # it clips a channel "CT" to a window


def read_channels_of(source: OpenDataset, image: Any) -> list[Array]:
    """What the files of a case hold: a volume per channel, or an image with its channels."""
    samples, spec = source.samples, source.spec
    if samples.volumes is not None:
        volume = samples.volumes(image)
        return list(np.moveaxis(volume, 3, 0)) if volume.ndim == 4 else [volume]
    pixels = match_channels(samples.read(image), spec.channels)
    if pixels is None or (pixels.dtype != np.uint8 and spec.channels == 3):
        raise DataError(
            f"{image}: an image of {spec.channels} channels and 8 bits is expected",
            subject=dataset_subject(spec.name),
            fix="convert it, or leave it out",
            code="image",
        )
    return [pixels[..., 0] if spec.channels == 1 else pixels]


def affine_of(source: OpenDataset, row: int) -> Array | None:
    """The affine of a volume in the RAS+ order of axes, in mm; None for an image."""
    samples = source.samples
    if source.spec.dims == 2:
        return None
    if len(samples.files) == len(samples.table) and suffix_of(samples.files[row].name) in WITH_GRID:
        affine = read_grid(samples.files[row]).affine
        if affine is not None:
            return np.asarray(affine)
    return np.diag([*(spacing_of(source, samples.table["image"].iloc[row]) or (1.0, 1.0, 1.0)), 1.0])


def save_array(path: Path, values: Array, affine: Array | None) -> None:
    """Write pixels or labels as PNG, or a volume with its affine as NIfTI."""
    if affine is None:
        from PIL import Image

        Image.fromarray(np.ascontiguousarray(values)).save(path)
        return
    import nibabel

    if values.dtype not in STORED_DTYPES:
        values = values.astype(np.uint8 if values.dtype == bool else np.float64)
    image = nibabel.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_document(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_cases(path: Path, fold: RawFold) -> None:
    """Write the image, patient and split of each case, and the path by which `zoo score --masks` knows its mask."""
    images = [names[0] for names in name_images(fold.source).values()]
    patients = fold.source.patients if fold.source.has_patients else [""] * len(images)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["case", "image", "mask", "patient", "split"])
        for row in zip(fold.names, images, fold.masks, patients, fold.split_of, strict=True):
            if row[-1]:
                rows.writerow(row)
