"""Decode images once into a cache, and read batches of them on a device."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from zoo.caches import keep_within, limit_bytes, mark_used
from zoo.devices import open_device
from zoo.errors import DataError
from zoo.files import FileMemo, folder_written_whole, hash_bytes, hash_file, locked
from zoo.images import fit_square
from zoo.samples import SPLITS, Progress, Source, find_disagreement, mixed_depth, wrong_channels
from zoo.specs import Card, DatasetSpec, Unit
from zoo.splits import Split
from zoo.system import num_cores
from zoo.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]

READER_VERSION = 2  # of the decoded cache; raised when decoding or resizing changes a pixel


# --- the decoded cache -----------------------------------------------------------------------------------------------
def cache_images(source: Source, size: int, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every image once to (N, size, size, channels) uint8 or uint16 and return the `.npy` that holds them.

    Built by threads (decoding and resizing release the interpreter), published by rename, keyed by content.
    """
    key = source.content_hash[:20]
    if source.samples.read_by is not None:  # levels of its own for every fold
        key += f"-{hash_bytes(json.dumps(dict(source.samples.reading), sort_keys=True))[:8]}"
    folder = cache / "images" / f"{key}-{size}px-{source.spec.channels}ch-v{READER_VERSION}"
    path = folder / "images.npy"
    if is_intact(folder, cache):
        mark_used(folder)
        return path
    with locked(folder.with_name(f".{folder.name}.lock")):
        if is_intact(folder, cache):  # another bench built it meanwhile
            return path
        with folder_written_whole(folder) as temporary:
            dtype = decode_all(source, size, temporary / "images.npy", progress)
            card = {"dataset": source.spec.name, "content_hash": source.content_hash, "size": size, "dtype": dtype}
            card["sha256"] = hash_file(temporary / "images.npy")
            (temporary / "card.json").write_text(json.dumps(card))
    keep_within(cache, limit_bytes())
    return path


def is_intact(folder: Path, cache: Path) -> bool:
    """Whether the cached pixels are what was decoded; the hash is remembered until the file's size or time changes."""
    memo = FileMemo(cache)
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return bool(card["sha256"] == memo(folder / "images.npy"))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not there, or damaged: it is decoded again
    finally:
        memo.close()


def decode_all(source: Source, size: int, path: Path, progress: Progress | None) -> str:
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])
    channels = source.spec.channels

    def decode(row: int) -> Array:
        pixels = fit_square(source.samples.read(images[row]), size)
        return match_channels(pixels, channels, source, row)

    first = decode(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(images), *first.shape))
    reserve(path)
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, pixels in enumerate(pool.map(decode, range(len(images)))):
            if pixels.dtype != first.dtype:
                raise mixed_depth(source, row, str(pixels.dtype), str(first.dtype))
            array[row] = pixels
            if progress:
                progress(row + 1, len(images))
    array.flush()
    return str(first.dtype)


def map_images(path: Path, mode: Literal["r", "c"] = "r") -> Array:
    """Decoded images, mapped. Raises DataError where somebody cleared the cache meanwhile."""
    try:
        images: Array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: removed since it was decoded",
            fix="leave the cache be while a bench runs; the same command decodes it again",
            code="cache-removed",
        ) from error
    return images


def reserve(path: Path) -> None:
    """Take the room of a mapped file from the disk at once: where there is too little, writing to it ends a process."""
    with open(path, "rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        except AttributeError:  # macOS, Windows
            return
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(error.errno, error.strerror, str(path)) from error


def match_channels(pixels: Array, channels: int, source: Source, row: int) -> Array:
    """Return (H, W, channels): gray repeated for a colour set; a colour file in a gray set must hold equal channels."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, :1]
    raise wrong_channels(source, row, pixels.shape[2])


# --- what a run opens ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One fold of a dataset, decoded: plain arrays and one file, so that it can be handed to another process."""

    name: str
    task: Task
    labels: tuple[str, ...]
    positive: int | None
    unit: Unit
    has_patients: bool
    symmetries: tuple[str, ...]
    intensity: tuple[float, float]
    sample_ids: Array
    patients: Array
    targets: Array
    assignment: Array  # (N,) str
    images: Path
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    scale: tuple[float, float] | None = None  # of a regression, where its models were trained on another dataset
    metadata: Mapping[str, Array] = field(default_factory=dict)  # (N,) str, "" where unknown

    def index(self, split: str) -> Array:
        """The rows of one split, in the dataset's order."""
        return np.flatnonzero(self.assignment == split)

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets of a regression; (0, 1) for every other task."""
        if self.scale is not None:
            return self.scale
        if self.task != REGRESSION:
            return 0.0, 1.0
        train = self.targets[self.index("train")]
        return float(train.mean()), float(train.std()) or 1.0

    @property
    def card(self) -> Card:
        """What scoring must know of it."""
        return Card(
            task=self.task,
            labels=self.labels,
            positive=self.positive,
            unit=self.unit,
            has_patients=self.has_patients,
        )

    @property
    def channels(self) -> int:
        return int(map_images(self.images).shape[3])

    @property
    def image_size(self) -> int:
        return int(map_images(self.images).shape[1])


def open_dataset(source: Source, split: Split, fold: int, images: Path) -> Dataset:
    """Put together what every run on one fold shares."""
    spec = source.spec
    assignment = split.folds[fold]
    return Dataset(
        name=spec.name,
        task=spec.task,
        labels=spec.labels,
        positive=positive_index(spec),
        unit=unit_of(source),
        has_patients=source.has_patients,
        symmetries=spec.symmetries,
        intensity=spec.intensity or measure_intensity(images, assignment == "train"),
        sample_ids=source.sample_ids,
        patients=source.patients,
        targets=np.asarray(source.samples.targets),
        assignment=assignment,
        images=images,
        content_hash=source.content_hash,
        split_hash=split.hash,
        fold=fold,
        num_folds=len(split.folds),
        metadata=select_metadata(source),
    )


MAX_VALUES = 50  # of a column of texts; more name the image rather than say something of it
MAX_LENGTH = 60  # of a text; longer ones are somebody's sentences
MAX_DISTINCT = 0.9  # whole numbers a known cell, or values a patient that are that one's alone; above it they are ids


def select_metadata(source: Source) -> dict[str, Array]:
    """The columns of the table that results are kept with, so that they can be scored by group: no ids, no free text.

    A column of numbers, or of at most 50 texts that several images share; "" where unknown.
    """
    table = source.samples.table
    found = {}
    for name in source.spec.metadata:
        if name not in table.columns:
            continue
        cells = table[name]
        values = cells.astype(str).where(cells.notna(), "").str.strip().to_numpy().astype(np.str_)
        if says_something(values, source.patients):
            found[name] = values
    return found


def says_something(values: Array, patients: Array) -> bool:
    """Whether a column groups images, and neither names them nor their patients."""
    values = blank_cells(values)
    known = values != ""
    distinct, codes = np.unique(values[known], return_inverse=True)
    if len(distinct) < 2 or max(map(len, distinct.tolist())) > MAX_LENGTH:
        return False
    numbers = read_numbers(distinct)
    if numbers is not None and (numbers != np.round(numbers)).any():
        return True
    owners = np.unique(patients[known], return_inverse=True)[1]
    one_patient_each = len(np.unique(codes * (owners.max() + 1) + owners)) == len(distinct)
    if one_patient_each and len(distinct) > MAX_DISTINCT * (owners.max() + 1):
        return False
    most = min(MAX_VALUES, len(codes) / 2) if numbers is None else MAX_DISTINCT * len(codes)
    return bool(len(distinct) <= most)


def read_numbers(values: Array) -> Array | None:
    """The values as float, NaN where empty; None where any is no finite number, or all are empty."""
    known = values != ""
    numbers = np.full(len(values), np.nan)
    try:
        numbers[known] = values[known].astype(np.float64)
    except ValueError:
        return None
    return numbers if known.any() and np.isfinite(numbers[known]).all() else None


NOT_KNOWN = frozenset({"na", "n/a", "nan", "none", "unknown", "?"})  # what stands in a column of numbers for no number


def blank_cells(values: Array) -> Array:
    """The values with empty cells where a column of numbers says `NA` or the like; texts stay as they are."""
    left = np.where(says_unknown(values), "", values)
    return values if read_numbers(left) is None else left


def says_unknown(values: Array) -> Array:
    """Whether each cell (N,) is empty or says that nothing is known."""
    return np.isin(np.char.lower(values), ["", *NOT_KNOWN])


def describe_dataset(dataset: Dataset, source: Source, split: Split) -> dict[str, Any]:
    """All that a board says of a dataset, as plain data: what it is, and who trains, selects and tests."""
    spec = source.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "task": spec.task.name,
        "labels": list(spec.labels),
        "positive": dataset.positive,
        "unit": dataset.unit,
        "has_patients": dataset.has_patients,
        "patient": spec.patient,
        "reference_standard": spec.reference_standard,
        "derived_from": list(spec.derived_from),
        "share_targets": spec.share_targets,
        "modality": spec.modality,
        "license": spec.license,
        "citation": spec.citation,
        "synthetic": spec.synthetic,
        "content_hash": source.content_hash,
        "split_hash": split.hash,
        "split_origin": split.origin,
        "fold": dataset.fold,
        "num_folds": dataset.num_folds,
        "notes": [*source.samples.notes, *split.notes],
        "known_issues": list(spec.known_issues),
        "splits": {name: count_split(dataset, name) for name in SPLITS},
    }


def count_split(dataset: Dataset, name: str) -> dict[str, Any]:
    rows = dataset.index(name)
    return count_images(dataset.task, dataset.labels, dataset.targets[rows], dataset.patients[rows])


def count_images(task: Task, labels: Sequence[str], targets: Array, patients: Array) -> dict[str, Any]:
    """Images and patients of one split, and images of each label: counts, or mean and deviation for a regression."""
    counts: dict[str, Any] = {"images": len(targets), "patients": len(np.unique(patients))}
    if task.classes:
        found = np.bincount(targets, minlength=len(labels))
        counts["labels"] = {label: int(n) for label, n in zip(labels, found, strict=True)}
    elif task == REGRESSION:
        counts |= {"mean": float(targets.mean()), "std": float(targets.std())}
    else:
        counts["labels"] = {label: int(n) for label, n in zip(labels, np.nansum(targets, axis=0), strict=True)}
    return counts


def positive_index(spec: DatasetSpec) -> int | None:
    """The class called positive in a binary set: the card's, else the last."""
    if spec.task.name != "binary":
        return None
    if spec.positive and spec.positive not in spec.labels:
        raise DataError(
            f"dataset {spec.name!r}: positive class {spec.positive!r} is none of {', '.join(spec.labels)}",
            fix="name one of them as `positive`",
        )
    return spec.labels.index(spec.positive) if spec.positive else 1


def unit_of(source: Source) -> Unit:
    """What is scored: the card's unit, else the patient where all images of each patient share one target."""
    if source.spec.unit != "auto":
        return cast("Unit", source.spec.unit)  # one of them: the samples were checked
    if not source.has_patients or len(np.unique(source.patients)) == len(source.patients):
        return "image"
    return "image" if find_disagreement(source.patients, source.samples.targets) else "patient"


def measure_intensity(images: Path, train: Array) -> tuple[float, float]:
    """The levels that become 0 and 1: the type's range for uint8, the .1 and 99.9 percentiles of train for uint16.

    Nothing is clipped: levels beyond them become numbers below 0 and above 1. A 12-bit image divided by 65,535 would
    use one sixteenth of the range.
    """
    array = map_images(images)
    if array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, array.shape[1] // 64)
    return find_intensity(array[:, ::step, ::step][train])


def find_intensity(levels: Array) -> tuple[float, float]:
    low, high = np.percentile(levels, [0.1, 99.9])
    return float(low), float(max(high, low + 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """The decoded images as a tensor near the device, and how they become a network's input."""

    images: Tensor  # (N, H, W, C), uint8 or the bits of uint16 as int16
    scale: tuple[float, float]
    mean: Tensor
    std: Tensor
    device: str

    @property
    def image_size(self) -> int:
        return int(self.images.shape[1])

    @property
    def input_bytes(self) -> int:
        """What a network reads for one image."""
        return 4 * self.images[0].numel()

    def gather(self, rows: Tensor) -> Tensor:
        """The stored levels of some rows (B, H, W, C), where the images are; index_select: 13 us, images[rows]: 112."""
        return self.images.index_select(0, rows)

    def scale_levels(self, levels: Tensor) -> Tensor:
        """Turn stored levels into float32 (B, C, H, W) in channels_last, 0..1 over the intensity range."""
        import torch

        if levels.dtype == torch.int16:
            levels = levels.to(torch.int32) & 0xFFFF
        low, high = self.scale
        return levels.permute(0, 3, 1, 2).float().sub_(low).div_(high - low)

    def batch(self, rows: Tensor) -> Tensor:
        """The images of some rows on the device, scaled."""
        rows = open_device(str(self.images.device)).send(rows)
        return self.scale_levels(open_device(self.device).send(self.gather(rows)))

    def normalize(self, images: Tensor) -> Tensor:
        return images.sub(self.mean).div_(self.std)


def open_pixels(dataset: Dataset, mean: Sequence[float], std: Sequence[float], device: str) -> Pixels:
    """Map the cache into memory; on a GPU keep it there where it takes less than half of what is free."""
    import torch

    array = map_images(dataset.images, "c")  # copy-on-write: torch warns about read-only arrays
    images = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    if open_device(device).holds(array.nbytes):
        images = images.to(device)
    return as_pixels(images, dataset.intensity, mean, std, device)


def random_pixels(
    count: int, image_size: int, channels: int, mean: Sequence[float], std: Sequence[float], device: str
) -> Pixels:
    """Noise where decoded images would be, to measure a network's speed on."""
    import torch

    images = torch.randint(0, 256, (count, image_size, image_size, channels), dtype=torch.uint8, device=device)
    return as_pixels(images, (0.0, 255.0), mean, std, device)


def as_pixels(
    images: Tensor, scale: tuple[float, float], mean: Sequence[float], std: Sequence[float], device: str
) -> Pixels:
    import torch

    channels = images.shape[3]
    if len(mean) != channels:  # gray: the mean of the model's channels
        mean, std = [float(np.mean(mean))] * channels, [float(np.mean(std))] * channels
    shape = (1, channels, 1, 1)
    return Pixels(
        images=images,
        scale=scale,
        mean=torch.tensor(list(mean), device=device).reshape(shape),
        std=torch.tensor(list(std), device=device).reshape(shape),
        device=device,
    )
