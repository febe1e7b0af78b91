"""Read a `.npz` of images and labels in MedMNIST's layout, without unpickling; large arrays are streamed."""

from __future__ import annotations

import math
import os
import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.specs.dataset import SPLITS, DatasetSpec, Origin, Samples, SamplesRequest
from zoo.tasks.kinds import default_task
from zoo.tasks.task import Task

# perf: one block holds a whole split of the 28 px sets, which can then be read in any order; pathmnist_224 (16 GB) is
# streamed
BLOCK_BYTES = 256 << 20
NUM_BLOCKS = 3
MAX_LABELS_BYTES = 1 << 30
ONE_HOT = "labels are {} columns with exactly one 1 per row: read as classes"
MAX_NPZ_RATIO = 500  # deflate reaches 1032 on zeros; real images stay below 20


@dataclass(frozen=True)
class Member:
    """The header of one array of an npz."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


class NpzImages:
    """Images of an npz by split and row, read in blocks.

    The last few blocks are kept, so that reading in order is one pass. Thread-safe. Only the path is pickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.members: dict[str, Member] = {}
        self.streams: dict[str, tuple[IO[bytes], int]] = {}
        self.blocks: OrderedDict[tuple[str, int], Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self.forget()

    def __call__(self, image: str) -> Array:
        """Return the pixels of the image "train/12", or "images/12" where the file has no splits."""
        if self.process != os.getpid():  # a forked child shares the position in the parent's open file
            self.forget()
        key, _, row = image.rpartition("/")
        name = "images" if key == "images" else f"{key}_images"
        with self.lock:
            if name not in self.members:
                self.members[name] = read_members(self.path)[name]
            member = self.members[name]
            num_rows = max(1, BLOCK_BYTES // max(1, math.prod(member.shape[1:]) * member.dtype.itemsize))
            block = self.block(member, int(row) // num_rows, num_rows)
            # a copy: a view would keep the whole block alive
            pixels: Array = block[int(row) % num_rows].copy()
        return pixels

    def block(self, member: Member, number: int, num_rows: int) -> Array:
        if (member.name, number) in self.blocks:
            self.blocks.move_to_end((member.name, number))
            return self.blocks[member.name, number]
        stream, position = self.streams.get(member.name, (None, 0))
        if stream is None or position > number:
            stream, position = open_member(self.path, member), 0
        bytes_per_row = math.prod(member.shape[1:]) * member.dtype.itemsize
        while True:
            count = min(num_rows, member.shape[0] - position * num_rows)
            data = read_exactly(stream, count * bytes_per_row, self.path, member.name)
            position += 1
            if position > number:
                break
        self.streams[member.name] = (stream, position)
        block = np.frombuffer(data, member.dtype).reshape(count, *member.shape[1:])
        self.blocks[member.name, number] = block
        if len(self.blocks) > NUM_BLOCKS:
            self.blocks.popitem(last=False)
        return block


def read_exactly(stream: IO[bytes], size: int, path: Path, name: str) -> bytes:
    try:
        data = stream.read(size)
    except Exception as error:  # zlib, zipfile and the file system each raise their own classes
        raise broken(path, f"{name}: {error}") from error
    if len(data) != size:
        raise broken(path, f"{name} ends early: {len(data)} of {size} bytes")
    return data


def broken(path: Path, cause: str) -> DataError:
    return DataError(f"{path}: {cause}", fix="copy or download it again", code="npz")


def open_member(path: Path, member: Member) -> IO[bytes]:
    """Open the data of an array, behind its header."""
    archive = zipfile.ZipFile(path)  # closed with the stream, which keeps its file
    stream = archive.open(f"{member.name}.npy")
    read_npy_header(stream, member.name)
    return stream


def read_npy_header(stream: IO[bytes], name: str) -> Member:
    """Parse the `.npy` header of a member, without evaluating it."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return Member(name, shape, dtype, fortran)


def read_members(path: Path) -> dict[str, Member]:
    """Return every array header by name; refuse wrong sizes, Python objects and bombs before unpacking anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    member = read_npy_header(stream, name)
                    header_bytes = stream.tell()
                if member.dtype.hasobject:
                    raise DataError(
                        f"{path}: {name} contains Python objects, which could run code when they are read",
                        fix="save it as an array of numbers",
                        code="npz",
                    )
                expected = header_bytes + math.prod(member.shape) * member.dtype.itemsize
                if info.file_size != expected:
                    raise broken(
                        path,
                        f"{name}: expected {expected} bytes for {member.shape} {member.dtype}, got {info.file_size}",
                    )
                if info.file_size > BLOCK_BYTES and info.file_size > MAX_NPZ_RATIO * max(1, info.compress_size):
                    raise broken(
                        path,
                        f"{name}: {info.compress_size} bytes unpack to {info.file_size} (limit: {MAX_NPZ_RATIO} times)",
                    )
                members[name] = member
            return members
    except DataError:
        raise
    except Exception as error:
        raise broken(path, f"not a readable .npz: {error}") from error


def load_array(path: Path, member: Member) -> Array:
    """Load a small array into memory."""
    size = math.prod(member.shape) * member.dtype.itemsize
    if size > MAX_LABELS_BYTES:
        raise broken(path, f"{member.name}: labels of {size} bytes, at most {MAX_LABELS_BYTES} are read")
    with open_member(path, member) as stream:
        data = read_exactly(stream, size, path, member.name)
    return np.frombuffer(data, member.dtype).reshape(member.shape, order="F" if member.fortran else "C")


# --- layout ----------------------------------------------------------------------------------------------------------
def find_npz_splits(path: Path, members: dict[str, Member]) -> dict[str, tuple[Member, Member]]:
    """Return the checked (images, labels) of every split; arrays called `images` and `labels` are one unsplit set."""
    splits: dict[str, tuple[Member, Member]] = {}
    for split in (*SPLITS, ""):
        prefix = f"{split}_" if split else ""
        present = [name for name in (f"{prefix}images", f"{prefix}labels") if name in members]
        if not present:
            continue
        if len(present) == 1:
            missing = f"{prefix}labels" if present[0].endswith("images") else f"{prefix}images"
            raise DataError(
                f"{path}: {present[0]} is there, {missing} is missing",
                fix="save both: numpy.savez(path, train_images=..., train_labels=..., ...)",
            )
        images, labels = members[f"{prefix}images"], members[f"{prefix}labels"]
        check_images(path, images)
        if not labels.shape or images.shape[0] != labels.shape[0]:
            raise DataError(
                f"{path}: {images.name} has {images.shape[0]} rows, {labels.name} has shape {labels.shape}",
                fix="save as many labels as images, in the same order",
            )
        splits[split] = (images, labels)
    if not splits:
        raise DataError(
            f"{path}: expected the arrays train_images, train_labels, val_..., test_...; "
            f"got {', '.join(sorted(members)[:10]) or 'no array'}",
            fix="save it with numpy.savez(path, train_images=..., train_labels=..., ...)",
            code="npz",
        )
    if "" in splits and len(splits) > 1:
        raise DataError(
            f"{path}: contains both `images` and arrays of splits", fix="keep either images and labels, or the splits"
        )
    shapes = {images.shape[1:] for images, _ in splits.values()}
    if len(shapes) > 1:
        raise DataError(
            f"{path}: the splits have images of different shapes: {', '.join(sorted(map(str, shapes)))}",
            fix="resize them to one shape",
        )
    return splits


def check_images(path: Path, images: Member) -> None:
    gray_or_rgb = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] == 3)
    if not gray_or_rgb or images.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: {images.name} is {images.dtype} {images.shape}; "
            "expected uint8 or uint16, (N, H, W) or (N, H, W, 3)",
            fix="convert the images, and save them again",
        )
    if images.fortran:
        raise DataError(f"{path}: {images.name} is in Fortran order", fix="save numpy.ascontiguousarray(...)")


def check_labels(path: Path, name: str, values: Array) -> Array:
    """Return labels as (N,) or (N, L); MedMNIST ships (N, 1), and float64 in places."""
    if values.dtype.kind not in "buif" or values.ndim > 2:
        raise DataError(
            f"{path}: {name} is {values.dtype} {values.shape}; expected numbers, (N,), (N, 1) or (N, L)",
            fix="number the labels from 0",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all() and (values.ndim == 1 or values.shape[1] == 1):
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise DataError(f"{path}: {name}[{row}] is {values.reshape(len(values), -1)[row][0]}", fix="save whole numbers")
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


@dataclass(frozen=True, eq=False)
class Labels:
    """Task, label names and targets of all splits together."""

    task: Task
    names: tuple[str, ...]
    targets: Array
    notes: tuple[str, ...] = ()


def understand_labels(path: Path, parts: dict[str, Array], task: Task | None, names: tuple[str, ...]) -> Labels:
    """Derive task, label names and targets from the label arrays by name; given `task` and `names` take precedence."""
    if len({values.shape[1:] for values in parts.values()}) > 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in parts.items())
        raise DataError(
            f"{path}: the label arrays differ in shape: {shapes}", fix="save the same label columns for all splits"
        )
    together = np.concatenate(list(parts.values()))
    if together.ndim == 2:
        return understand_columns(path, parts, together.astype(float), task, names)
    form = task.targets.form if task else ""
    if form == "flags":
        raise DataError(
            f"{path}: {next(iter(parts))} has one number per image; task = {str(task)!r} needs one column per label",
            fix="save labels of shape (N, L), or set another task",
        )
    if form == "number" or (task is None and bool((together % 1 != 0).any())):
        return Labels(task or default_task("number"), names or ("value",), together.astype(float))
    values = np.unique(together)
    if not names:
        check_unknown(path, parts, values)
        if len(values) < 2:
            raise DataError(
                f"{path}: expected at least 2 different labels, got {len(values)}", fix="add images of another class"
            )
        return Labels(
            task or default_task("class", len(values)),
            tuple(str(int(value)) for value in values),
            np.searchsorted(values, together).astype(np.int64),
        )
    for name, part in parts.items():
        wrong = np.flatnonzero((part < 0) | (part >= len(names)) | (part % 1 != 0))
        if len(wrong):
            raise DataError(
                f"{path}: {name}[{wrong[0]}] is {part[wrong[0]]}; expected 0 to {len(names) - 1}",
                fix="correct the label, or name every label",
            )
    return Labels(task or default_task("class", len(names)), names, together.astype(np.int64))


def check_unknown(path: Path, parts: dict[str, Array], values: Array) -> None:
    """Refuse -1 or 255 beside the labels 0 to k: it usually means unknown."""
    for unknown in (-1, 255):
        rest = values[values != unknown]
        if 1 < len(rest) < len(values) and np.array_equal(rest, np.arange(len(rest))) and len(rest) != unknown:
            name, row = next((name, int(np.argmax(part == unknown))) for name, part in parts.items() if unknown in part)
            raise DataError(
                f"{path}: {name}[{row}] is {unknown} beside labels 0 to {len(rest) - 1}: it may mean unknown",
                fix="leave these images out, or number all labels from 0",
            )


def understand_columns(
    path: Path, parts: dict[str, Array], together: Array, task: Task | None, names: tuple[str, ...]
) -> Labels:
    """Read columns of 0 and 1 (N, L): classes where every row has exactly one 1, else several labels per image."""
    several = default_task("flags")
    if task and task.targets.form == "number":
        raise DataError(
            f"{path}: labels have {together.shape[1]} columns; task = {str(task)!r} needs one number per image",
            fix="save labels of shape (N,)",
        )
    if names and len(names) != together.shape[1]:
        raise DataError(
            f"{path}: labels have {together.shape[1]} columns, expected {len(names)}", fix="name every column"
        )
    names = names or tuple(str(index) for index in range(together.shape[1]))
    one_each = True
    for name, part in parts.items():
        values = part.astype(float)
        rows = np.flatnonzero(~np.isin(values, (0.0, 1.0)) & ~np.isnan(values))
        if len(rows):
            row, column = divmod(int(rows[0]), part.shape[1])
            raise DataError(
                f"{path}: {name}[{row}, {column}] is {part[row, column]}; expected 0, 1 or NaN",
                fix="save NaN where a label is unknown",
            )
        not_one = np.flatnonzero(values.sum(axis=1) != 1)
        one_each &= len(not_one) == 0
        if task and task.targets.form != "flags" and len(not_one):
            raise DataError(
                f"{path}: {name}[{not_one[0]}] is {part[not_one[0]].tolist()}; task = {str(task)!r} needs one 1",
                fix=f'set task = "{several}", or correct the labels',
            )
    if task is None and one_each:
        task = default_task("class", len(names))
    if task is None or not task.classes:
        return Labels(task or several, names, together)
    return Labels(task, names, together.argmax(axis=1).astype(np.int64), notes=(ONE_HOT.format(len(names)),))


@dataclass(frozen=True, eq=False)
class NpzFile:
    """The layout and labels of an npz; its images are not read."""

    path: Path
    labels: Labels
    counts: dict[str, int]  # images of each split; "" for an unsplit set
    image_shape: tuple[int, ...]


def understand_npz(path: Path, task: Task | None = None, labels: tuple[str, ...] = ()) -> NpzFile:
    """Read the headers and labels of an npz, not its images."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file" if not path.exists() else f"{path}: not a regular file", fix="correct the path"
        )
    splits = find_npz_splits(path, read_members(path))
    parts = {member.name: check_labels(path, member.name, load_array(path, member)) for _, member in splits.values()}
    return NpzFile(
        path=path,
        labels=understand_labels(path, parts, task, labels),
        counts={split: images.shape[0] for split, (images, _) in splits.items()},
        image_shape=next(iter(splits.values()))[0].shape[1:],
    )


def read_npz_samples(path: Path, *, task: Task | None = None, labels: tuple[str, ...] = ()) -> Samples:
    """Return the Samples of a `.npz` in MedMNIST's layout, with the `task` and `labels` of its card, if any.

    Sample ids are "train/12" for row 12 of train_images.
    """
    import pandas

    npz = understand_npz(path, task, labels)
    images = [f"{split or 'images'}/{row}" for split, count in npz.counts.items() for row in range(count)]
    columns: dict[str, Any] = {"sample_id": images, "image": images}
    if "" not in npz.counts:
        columns["split"] = [split for split, count in npz.counts.items() for _ in range(count)]
    return Samples(
        table=pandas.DataFrame(columns),
        targets=npz.labels.targets,
        read=NpzImages(path),
        files=(path,),
        notes=npz.labels.notes,
        origin=Origin(path=path, root=path, card_root=path),
    )


def open_npz(path: Path, request: SamplesRequest) -> Samples:  # noqa: ARG001  the file is already here
    samples, labels = read_npz_samples(path), understand_npz(path).labels
    if not labels.task.targets.has_positive:
        return samples
    # The numbers do not show which class is the disease: in breastmnist 0 is malignant
    return replace(samples, notes=(*samples.notes, f"positive label: {labels.names[1]} (guessed)"))


def find_npz(path: Path, name: str) -> DatasetSpec:
    """Return the DatasetSpec of an npz without a card."""
    return describe_npz(understand_npz(path), name)


def describe_npz(npz: NpzFile, name: str) -> DatasetSpec:
    path = npz.path
    height, width = npz.image_shape[:2]
    return DatasetSpec(
        name=name,
        title=path.name,
        task=npz.labels.task,
        labels=npz.labels.names,
        positive=npz.labels.names[1] if npz.labels.task.targets.has_positive else "",
        samples=partial(open_npz, path),
        channels=3 if len(npz.image_shape) == 3 else 1,
        image_size=max(height, width),
        official_splits=tuple(split for split in npz.counts if split),
    )
