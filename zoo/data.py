"""From a dataset spec to samples, to splits, to a cache of decoded pixels, to batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import DataError
from zoo.files import HashMemo, folder_written_whole, hash_bytes
from zoo.images import fit_square
from zoo.specs import Card, DatasetSpec, Samples, SamplesRequest, Unit
from zoo.system import num_cores
from zoo.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]

READER_VERSION = 1  # of the decoded cache; raised when decoding or resizing changes a pixel
SPLITS = ("train", "val", "test")


# --- samples ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A dataset opened and checked: its spec, its samples, and what each image's bytes hash to."""

    spec: DatasetSpec
    samples: Samples
    sample_ids: Array  # (N,) str
    patients: Array  # (N,) str; the sample id where there is no patient key
    splits: Array  # (N,) str: train, val, test or ""
    digests: Array  # (N,) str
    content_hash: str

    @property
    def has_patients(self) -> bool:
        return "patient" in self.samples.table.columns

    @property
    def task(self) -> Task:
        return self.spec.task


def open_source(spec: DatasetSpec, cache: Path, *, offline: bool = False, progress: Progress | None = None) -> Source:
    """Open a dataset, compare it with its card, and hash every image. Raises DataError naming the row at fault."""
    samples = spec.samples(SamplesRequest(folder=cache / "datasets" / spec.name, offline=offline, progress=progress))
    check_samples(spec, samples)
    table = samples.table
    sample_ids = table["sample_id"].to_numpy().astype(np.str_)
    patients = table["patient"].to_numpy().astype(np.str_) if "patient" in table.columns else sample_ids
    splits = table["split"].to_numpy().astype(np.str_) if "split" in table.columns else np.full(len(table), "")
    digests = hash_images(samples, cache, progress)
    texts = target_texts(samples.targets)
    rows = "\n".join("\t".join(row) for row in zip(sample_ids.tolist(), digests.tolist(), texts, strict=True))
    return Source(
        spec=spec,
        samples=samples,
        sample_ids=sample_ids,
        patients=patients,
        splits=splits,
        digests=digests,
        content_hash=hash_bytes(card_text(spec), rows),
    )


def card_text(spec: DatasetSpec) -> str:
    """What of a card a run's outcome depends on: changed, it is another dataset and no run on it is done."""
    names = ("labels", "channels", "positive", "unit", "symmetries", "intensity")
    return json.dumps({"task": spec.task.name, **{name: getattr(spec, name) for name in names}})


def target_texts(targets: Array) -> list[str]:
    """One text a target, the same on every machine."""
    targets = np.asarray(targets)
    if np.issubdtype(targets.dtype, np.integer):
        return [str(target) for target in targets.tolist()]
    return [" ".join(f"{value:.9g}" for value in row) for row in targets.reshape(len(targets), -1).tolist()]


def check_samples(spec: DatasetSpec, samples: Samples) -> None:
    """Compare samples with their card; the first thing that is wrong is a DataError with its row."""
    table, targets, name = samples.table, np.asarray(samples.targets), spec.name

    def refuse(what: str, fix: str = "") -> None:
        raise DataError(f"dataset {name!r}: {what}", fix=fix)

    if not len(table):
        refuse("it has no images")
    for column in ("sample_id", "image"):
        if column not in table.columns:
            refuse(f"its table has no column {column!r}")
    if "patient" in table.columns and table["patient"].isna().any():
        refuse(f"{table['sample_id'][table['patient'].isna()].iloc[0]!r} has no patient; the others do")
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        refuse(f"sample_id {repeated.iloc[0]!r} stands in several rows")
    if len(targets) != len(table):
        refuse(f"{len(targets)} targets for {len(table)} images")
    labels, task = len(spec.labels), spec.task
    if labels < task.min_labels or (task.max_labels and labels > task.max_labels):
        refuse(f"expected {'at least ' if labels < task.min_labels else ''}{task.min_labels} labels, got {labels}")
    if task.classes:
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            refuse(f"targets are {targets.dtype} of shape {targets.shape}, expected integers ({len(table)},)")
        wrong = np.flatnonzero((targets < 0) | (targets >= labels))
        if len(wrong):
            refuse(f"{table['sample_id'].iloc[wrong[0]]}: label {targets[wrong[0]]}, expected 0 to {labels - 1}")
        if len(np.unique(targets)) < 2:
            refuse(f"every image is {spec.labels[int(targets[0])]!r}; there is nothing to learn")
    elif task == REGRESSION:
        wrong = np.flatnonzero(~np.isfinite(targets)) if targets.ndim == 1 else np.arange(1)
        if len(wrong):
            refuse(f"{table['sample_id'].iloc[wrong[0]]}: target {targets[wrong[0]]}, expected a finite number")
    elif targets.shape != (len(table), labels):
        refuse(f"targets of shape {targets.shape}, expected {(len(table), labels)}")
    elif not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        refuse("multi-label targets must be 0, 1 or NaN for unknown")
    if "split" in table.columns:
        strange = table.loc[~table["split"].isin([*SPLITS, ""]), ["sample_id", "split"]]
        if len(strange):
            sample_id, split = str(strange.iloc[0, 0]), str(strange.iloc[0, 1])
            refuse(f"{sample_id}: split {split!r}", fix="use train, val, test, or leave it empty")


def hash_images(samples: Samples, cache: Path, progress: Progress | None) -> Array:
    """What identifies each image: the SHA-256 of its file, or of its pixels where it has no file of its own."""
    if len(samples.files) == len(samples.table):
        memo = HashMemo(cache)
        try:
            digests = []
            for done, path in enumerate(samples.files, start=1):
                digests.append(memo(path))
                if progress:
                    progress(done, len(samples.files))
        finally:
            memo.close()
        return np.array(digests)
    # Several images in one file, or none on disk.
    pixels = (samples.read(image) for image in samples.table["image"])
    return np.array([hash_bytes(str(p.dtype), str(p.shape), np.ascontiguousarray(p).tobytes()) for p in pixels])


# --- splits ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which images train, select and test: one array a fold, the same for every model and seed."""

    folds: tuple[Array, ...]  # each (N,) str: train, val, test or ""
    hash: str
    origin: str  # "official", "hold-out", "5-fold"
    notes: tuple[str, ...] = ()


SPLIT_SEED = 0
MIN_VAL_IMAGES, MIN_VAL_CLASS = 50, 5
MIN_TEST_PATIENTS, MIN_TEST_CLASS = 100, 30
SHARE = 5  # one part in five is held out, for test and for val


def draw_split(source: Source, folds: int | None = None) -> Split:
    """Decide who trains, selects and tests, by patient, from a fixed seed.

    An official test split is never drawn again. Official val is kept where it has at least 50 images, 5 of each class
    and no patient of train; else it is drawn from train. Without an official test split one fifth is held out, or,
    where that would hold under 100 patients or 30 images of a class, 5 folds by patient test each patient once.
    Whatever is drawn keeps the images of one patient, and identical files, on one side.
    """
    groups = connected_groups(source)
    strata = stratify(source)
    notes: list[str] = []
    if (source.splits == "test").any():
        if folds and folds > 1:
            raise DataError(
                f"dataset {source.spec.name!r} has an official test split, which is never drawn again",
                fix="leave --folds out, or give the data without split names",
                code="official-test",
            )
        rest = source.splits != "test"
        if not (rest & (source.splits != "")).any():
            raise DataError(f"dataset {source.spec.name!r} has a test split and no train split", code="no-train")
        notes += find_leaks(source)
        assignment = draw_val(source, source.splits.copy(), groups, strata, notes)
        return make_split(source, [assignment], "official", notes)
    num_folds = folds or default_folds(source, strata)
    everyone = np.ones(len(strata), bool)
    if num_folds == 1:
        tested = [draw_part(source, everyone, groups, strata, SHARE)[0]]
    else:
        tested = draw_part(source, everyone, groups, strata, num_folds)
    assignments = []
    for part in tested:
        assignment = np.full(len(strata), "train", dtype="<U5")
        assignment[part] = "test"
        assignments.append(draw_val(source, assignment, groups, strata, []))
    unit = source.spec.patient.partition(":")[0] if source.has_patients else "image"
    origin = "hold-out" if num_folds == 1 else f"{num_folds}-fold"
    notes.append(f"no official test split: {origin} by {unit}")
    return make_split(source, assignments, origin, notes)


def find_leaks(source: Source) -> list[str]:
    """One line for patients, and one for identical images, that stand in the official test split and outside it."""
    test = source.splits == "test"
    lines = []
    kinds = [("images", source.digests)] + ([("patients", source.patients)] if source.has_patients else [])
    for what, keys in kinds:
        shared = np.intersect1d(keys[test], keys[~test & (source.splits != "")])
        if len(shared):
            images = int(np.isin(keys[test], shared).sum())
            lines.append(
                f"LEAK: {len(shared)} {what} of test ({images} images) are in train or val too: "
                "test scores are too high"
            )
    return lines


def make_split(source: Source, assignments: Sequence[Array], origin: str, notes: Sequence[str]) -> Split:
    for assignment in assignments:
        for name in SPLITS:
            if not (assignment == name).any():
                raise DataError(
                    f"dataset {source.spec.name!r}: the {name} split is empty",
                    fix="give more images",
                    code="empty-split",
                )
        if source.task.classes and len(np.unique(np.asarray(source.samples.targets)[assignment == "train"])) < 2:
            raise DataError(f"dataset {source.spec.name!r}: train holds one class only", code="single-class")
    lines = [
        f"{i}\t{g}\t{a}" for a in assignments for i, g, a in zip(source.sample_ids, source.patients, a, strict=True)
    ]
    return Split(folds=tuple(assignments), hash=hash_bytes(*lines), origin=origin, notes=tuple(notes))


def draw_val(source: Source, assignment: Array, groups: Array, strata: Array, notes: list[str]) -> Array:
    """Keep val where it can select a model, else draw a fifth of train by patient."""
    train, val = assignment == "train", assignment == "val"
    if val.any():
        reason = val_fault(source, train, val)
        if not reason:
            return assignment
        notes.append(f"official val ({val.sum()} images) {reason}: val drawn anew from train and val")
    elif (source.splits == "test").any():
        notes.append("no official val: drawn from train")
    pool = train | val
    drawn = draw_part(source, pool, groups, strata, SHARE)[0]
    assignment = np.where(pool, "train", assignment)
    assignment[drawn] = "val"
    return assignment


def val_fault(source: Source, train: Array, val: Array) -> str:
    if val.sum() < MIN_VAL_IMAGES:
        return f"is under {MIN_VAL_IMAGES} images"
    targets = np.asarray(source.samples.targets)
    if source.task.classes:
        present = np.unique(targets[train | val])
        counts = [(targets[val] == label).sum() for label in present]
        if min(counts) < MIN_VAL_CLASS:
            return f"has under {MIN_VAL_CLASS} images of {source.spec.labels[int(present[np.argmin(counts)])]!r}"
    shared = np.intersect1d(source.patients[train], source.patients[val])
    if source.has_patients and len(shared):
        return f"shares {len(shared)} patients with train"
    return ""


def connected_groups(source: Source) -> Array:
    """Number the images such that those of one patient, and byte-identical ones, share a number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(source.sample_ids)
    _, patient = np.unique(source.patients, return_inverse=True)
    _, digest = np.unique(source.digests, return_inverse=True)
    rows = np.concatenate([np.arange(count), np.arange(count)])
    columns = np.concatenate([count + patient, count + patient.max() + 1 + digest])
    size = count + patient.max() + digest.max() + 2
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:count])


def stratify(source: Source) -> Array:
    """One number an image to balance over splits: its class, its rarest label, or the fifth of the range it lies in."""
    targets = np.asarray(source.samples.targets)
    if source.task.classes:
        return targets
    if source.task == REGRESSION:
        return np.searchsorted(np.quantile(targets, [0.2, 0.4, 0.6, 0.8]), targets)
    rarity = np.argsort(np.nansum(targets, axis=0))
    strata = np.zeros(len(targets), int)
    for label in reversed(rarity):
        strata[np.nan_to_num(targets[:, label]) > 0] = label + 1
    return strata


def default_folds(source: Source, strata: Array) -> int:
    """1 (hold-out) where a fifth holds at least 100 patients and 30 images of each class, else 5."""
    patients = len(np.unique(source.patients))
    if patients / SHARE < MIN_TEST_PATIENTS:
        return 5
    smallest = np.bincount(strata)[np.unique(strata)].min()
    return 5 if source.task.classes and smallest / SHARE < MIN_TEST_CLASS else 1


def draw_part(source: Source, pool: Array, groups: Array, strata: Array, parts: int) -> list[Array]:
    """Cut the pool into parts of like size and class balance, no group in two of them; returns index arrays."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    index = np.flatnonzero(pool)
    num_groups = len(np.unique(groups[index]))
    if num_groups < parts:
        raise DataError(
            f"dataset {source.spec.name!r}: {num_groups} patients or groups cannot be cut into {parts} parts",
            fix="--folds 2, or give a set with more patients",
            code="too-few-patients",
        )
    drawer = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=SPLIT_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than the parts: said on the card by its count
        try:
            return [index[part] for _, part in drawer.split(index, strata[index], groups[index])]
        except ValueError as error:
            raise DataError(f"dataset {source.spec.name!r}: cannot be split: {error}", code="split") from error


# --- the decoded cache -----------------------------------------------------------------------------------------------
def cache_images(source: Source, size: int, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every image once to (N, size, size, channels) uint8 or uint16 and return the `.npy` that holds them.

    Built by threads (decoding and resizing release the interpreter), published by rename, keyed by content.
    """
    from filelock import FileLock

    folder = cache / "images" / f"{source.content_hash[:20]}-{size}px-{source.spec.channels}ch-v{READER_VERSION}"
    path = folder / "images.npy"
    if path.exists():
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if path.exists():  # another bench built it meanwhile
            return path
        with folder_written_whole(folder) as temporary:
            dtype = decode_all(source, size, temporary / "images.npy", progress)
            card = {"dataset": source.spec.name, "content_hash": source.content_hash, "size": size, "dtype": dtype}
            (temporary / "card.json").write_text(json.dumps(card))
    return path


def decode_all(source: Source, size: int, path: Path, progress: Progress | None) -> str:
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])
    channels = source.spec.channels

    def decode(row: int) -> Array:
        pixels = fit_square(source.samples.read(images[row]), size)
        return match_channels(pixels, channels, source, row)

    first = decode(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(images), *first.shape))
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, pixels in enumerate(pool.map(decode, range(len(images)))):
            if pixels.dtype != first.dtype:
                raise DataError(
                    f"dataset {source.spec.name!r}: {source.sample_ids[row]} is {pixels.dtype}, "
                    f"{source.sample_ids[0]} is {first.dtype}",
                    fix="give all images the same bit depth",
                    code="mixed-depth",
                )
            array[row] = pixels
            if progress:
                progress(row + 1, len(images))
    array.flush()
    return str(first.dtype)


def match_channels(pixels: Array, channels: int, source: Source, row: int) -> Array:
    """Return (H, W, channels): gray repeated for a colour set; a colour file in a gray set must hold equal channels."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, :1]
    raise DataError(
        f"dataset {source.spec.name!r}: {source.sample_ids[row]} has {pixels.shape[2]} channels; "
        f"its card says {channels}",
        code="channels",
    )


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

    def index(self, split: str) -> Array:
        """The rows of one split, in the dataset's order."""
        return np.flatnonzero(self.assignment == split)

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets of a regression; (0, 1) for every other task."""
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
        return int(np.load(self.images, mmap_mode="r").shape[3])

    @property
    def image_size(self) -> int:
        return int(np.load(self.images, mmap_mode="r").shape[1])


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
    )


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
    """Images and patients of one split, and images of each label: counts, or mean and deviation for a regression."""
    rows = dataset.index(name)
    targets = dataset.targets[rows]
    counts: dict[str, Any] = {"images": len(rows), "patients": len(np.unique(dataset.patients[rows]))}
    if dataset.task.classes:
        found = np.bincount(targets, minlength=len(dataset.labels))
        counts["labels"] = {label: int(n) for label, n in zip(dataset.labels, found, strict=True)}
    elif dataset.task == REGRESSION:
        counts |= {"mean": float(targets.mean()), "std": float(targets.std())}
    else:
        counts["labels"] = {label: int(n) for label, n in zip(dataset.labels, np.nansum(targets, axis=0), strict=True)}
    return counts


def positive_index(spec: DatasetSpec) -> int | None:
    """The class called positive in a binary set: the card's, else the last."""
    if spec.task.name != "binary":
        return None
    if spec.positive and spec.positive not in spec.labels:
        raise DataError(f"dataset {spec.name!r}: positive class {spec.positive!r} is none of {', '.join(spec.labels)}")
    return spec.labels.index(spec.positive) if spec.positive else 1


def unit_of(source: Source) -> Unit:
    """What is scored: the card's unit, else the patient where all images of each patient share one target."""
    if source.spec.unit != "auto":
        return "patient" if source.spec.unit == "patient" else "image"
    if not source.has_patients or len(np.unique(source.patients)) == len(source.patients):
        return "image"
    targets = np.asarray(source.samples.targets, dtype=float).reshape(len(source.patients), -1)
    _, first, inverse = np.unique(source.patients, return_index=True, return_inverse=True)
    same = np.isclose(targets, targets[first][inverse], equal_nan=True).all()
    return "patient" if same else "image"


def measure_intensity(images: Path, train: Array) -> tuple[float, float]:
    """The levels that become 0 and 1: the type's range for uint8, the .1 and 99.9 percentiles of train for uint16.

    Nothing is clipped: levels beyond them become numbers below 0 and above 1. A 12-bit image divided by 65,535 would
    use one sixteenth of the range.
    """
    array = np.load(images, mmap_mode="r")
    if array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, array.shape[1] // 64)
    low, high = np.percentile(array[:, ::step, ::step][train], [0.1, 99.9])
    return float(low), float(max(high, low + 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """The decoded images as a tensor near the device, and how they become a network's input."""

    images: Tensor  # (N, H, W, C), uint8 or the bits of uint16 as int16
    scale: tuple[float, float]
    mean: Tensor
    std: Tensor
    device: str

    def batch(self, rows: Tensor) -> Tensor:
        """The images of some rows as float32 (B, C, H, W) in channels_last, 0..1 over the intensity range."""
        import torch

        # index_select: 13 us a batch against 112 us for images[rows]
        chosen = self.images.index_select(0, rows.to(self.images.device)).to(self.device, non_blocking=True)
        if chosen.dtype == torch.int16:
            chosen = chosen.to(torch.int32) & 0xFFFF
        low, high = self.scale
        return chosen.permute(0, 3, 1, 2).float().sub_(low).div_(high - low)

    def normalize(self, images: Tensor) -> Tensor:
        return images.sub(self.mean).div_(self.std)


def open_pixels(dataset: Dataset, mean: Sequence[float], std: Sequence[float], device: str) -> Pixels:
    """Map the cache into memory; on a GPU keep it there where it takes less than half of what is free."""
    import torch

    array = np.load(dataset.images, mmap_mode="c")  # copy-on-write: torch warns about read-only arrays
    channels = array.shape[3]
    images = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    if device.startswith("cuda") and array.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        images = images.to(device)
    if len(mean) != channels:  # gray: the mean of the model's channels
        mean, std = [float(np.mean(mean))] * channels, [float(np.mean(std))] * channels
    shape = (1, channels, 1, 1)
    return Pixels(
        images=images,
        scale=dataset.intensity,
        mean=torch.tensor(list(mean), device=device).reshape(shape),
        std=torch.tensor(list(std), device=device).reshape(shape),
        device=device,
    )
