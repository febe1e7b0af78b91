"""Open a dataset: call its plugin, check the samples and hash every image."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.checks import (
    MAKER,
    card_text,
    check_samples,
    complete_spec,
    composed,
    in_one_form,
    patient_key,
    target_texts,
)
from zoo.errors import DataError, ZooError, message_of, room_needed
from zoo.images.formats import split_frame
from zoo.registry.isolation import noted_interrupts, process_unchanged
from zoo.specs.dataset import DatasetSpec, ReadBy, Samples, SamplesRequest, patient_word
from zoo.system.files import hash_bytes, hash_file
from zoo.system.memo import FileMemo, FileStamp, file_stamp
from zoo.system.progress import Progress
from zoo.tasks.kinds import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenDataset:
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
    def patient_word(self) -> str:
        """What the dataset calls a patient: "patient", "lesion", "eye"."""
        return patient_word(self.spec.patient)

    @property
    def task(self) -> Task:
        return self.spec.task


def open_dataset(
    spec: DatasetSpec, cache: Path, *, offline: bool = False, progress: Progress | None = None
) -> OpenDataset:
    """Open a dataset, compare it with its card, and hash every image. Raises DataError naming the row at fault."""
    request = SamplesRequest(folder=cache / "datasets" / spec.name, offline=offline, progress=progress)
    with process_unchanged():
        samples = spec.samples(request)
    spec = complete_spec(spec, samples)
    check_samples(spec, samples)
    samples = replace(samples, notes=(*samples.notes, *describe_spellings(samples)))
    samples = replace(samples, read=partial(read_image_pixels, samples, spec.name))
    table = samples.table
    sample_ids = table["sample_id"].to_numpy().astype(np.str_)
    patients = in_one_form(table["patient"]) if "patient" in table.columns else sample_ids
    splits = table["split"].to_numpy().astype(np.str_) if "split" in table.columns else np.full(len(table), "")
    digests, samples = hash_images(samples, spec.name, cache, progress)
    texts = target_texts(samples.targets)
    rows = "\n".join("\t".join(row) for row in zip(sample_ids.tolist(), digests.tolist(), texts, strict=True))
    return OpenDataset(
        spec=spec,
        samples=samples,
        sample_ids=sample_ids,
        patients=patients,
        splits=splits,
        digests=digests,
        content_hash=hash_bytes(card_text(spec), rows, *([json.dumps(samples.reading)] if samples.reading else [])),
    )


def describe_spellings(samples: Samples) -> tuple[str, ...]:
    """Note on the patients whose number is spelled in several ways."""
    if "patient" not in samples.table.columns:
        return ()
    spellings: dict[str, list[str]] = {}
    for text in dict.fromkeys(map(composed, samples.table["patient"])):
        spellings.setdefault(patient_key(text), []).append(text)
    several = [each for each in spellings.values() if len(each) > 1]
    if not several:
        return ()
    return (
        f"{len(several)} of {len(spellings)} patients are numbers spelled in several ways, "
        f"{', '.join(map(repr, several[0]))}: each number is taken as one patient",
    )


def read_image_pixels(samples: Samples, name: str, image: Any) -> Array:
    """What a dataset gives as an image, if it is one: a DataError names it where it is not."""
    pixels = samples.read(image)
    if (
        isinstance(pixels, np.ndarray)
        and pixels.dtype in (np.uint8, np.uint16)
        and pixels.ndim in (2, 3)
        and pixels.size
    ):
        return pixels
    found = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    sample_id = samples.table["sample_id"][samples.table["image"] == image].iloc[0]
    raise DataError(
        f"dataset {name!r}: {sample_id} is {found}, expected uint8 or uint16 pixels of shape (H, W) or (H, W, 3)",
        fix=f"correct it, or leave it out; of a plugin's dataset: {MAKER}",
        code="image",
    )


def read_by_train(source: OpenDataset, train: Array) -> OpenDataset:
    """The source as one fold sees it: levels that are measured on pixels are those of its train images, bool (N,)."""
    samples = source.samples
    if samples.read_by is None:
        return source
    read, reading = samples.read_by(samples.table["image"][train].tolist())
    fitted = replace(samples, read=read, reading=reading)
    return replace(source, samples=replace(fitted, read=partial(read_image_pixels, fitted, source.spec.name)))


def discard_split(source: OpenDataset) -> OpenDataset:
    """The same images under another name, their official split forgotten; as it is where there is none."""
    if not (source.splits == "test").any():
        return source
    samples = replace(source.samples, notes=(*source.samples.notes, "the official split is discarded: --resplit"))
    spec = replace(source.spec, name=f"{source.spec.name}-resplit", official_splits=())
    return replace(source, spec=spec, samples=samples, splits=np.full(len(source.splits), ""))


@contextmanager
def failures_told() -> Iterator[None]:
    """What a dataset plugin raises that it should not have is a DataError of one line, with its place.

    A disk without room is not its fault, and meets every other dataset too: that is a ResultsError.
    """
    try:
        with noted_interrupts() as interrupts, room_needed():
            yield
    except ZooError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and interrupts:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {message_of(error)} ({Path(place.filename).name}:{place.lineno})"
        raise DataError(what, fix=MAKER, code="dataset-failed") from error


def mixed_depth(source: OpenDataset, row: int, kind: str, first: str) -> DataError:
    """An image of another depth than the set's first."""
    return DataError(
        f"dataset {source.spec.name!r}: {source.sample_ids[row]} is {kind}, {source.sample_ids[0]} is {first}",
        fix="give all images the same bit depth",
        code="mixed-depth",
    )


def wrong_channels(source: OpenDataset, row: int, found: int) -> DataError:
    """A colour image in a set whose card says gray."""
    return DataError(
        f"dataset {source.spec.name!r}: {source.sample_ids[row]} has {found} channels; its card says "
        f"{source.spec.channels}",
        fix="convert it to gray, or leave it out",
        code="channels",
    )


def hash_images(samples: Samples, name: str, cache: Path, progress: Progress | None) -> tuple[Array, Samples]:
    """What identifies each image: the SHA-256 of its file, and its frame there; or of its pixels where it has none.

    And the samples, which from now on read nothing else: what changed since is a DataError that names it.
    """
    images = samples.table["image"].tolist()
    if len(samples.files) != len(images):  # several images in one file, or none on disk
        digests = [hash_pixels(samples.read(image)) for image in images]
        read = partial(read_same_pixels, samples.read, name, dict(zip(images, digests, strict=True)))
        return np.array(digests), replace(samples, read=read)
    memo, known = FileMemo(cache), dict[Path, tuple[str, FileStamp]]()
    try:
        digests = []
        for done, (path, image) in enumerate(zip(samples.files, images, strict=True), start=1):
            _, frame = split_frame(str(image))
            if path not in known:  # once for all frames of a file
                stamp = file_stamp(path)
                known[path] = memo(path), stamp
            digest = known[path][0]
            digests.append(digest if frame is None else hash_bytes(digest, str(frame)))
            if progress:
                progress(done, len(images))
    finally:
        memo.close()
    watch = partial(watched, name=name, files=dict(zip(images, samples.files, strict=True)), known=known)
    read_by = samples.read_by and partial(watched_read_by, samples.read_by, watch)
    return np.array(digests), replace(samples, read=watch(samples.read), read_by=read_by)


def watched(
    read: Callable[[Any], Array], name: str, files: Mapping[Any, Path], known: dict[Path, tuple[str, FileStamp]]
) -> Callable[[Any], Array]:
    """The same reader, which reads no file that changed since it was hashed."""
    return partial(read_same_file, read, name, files, known)


def watched_read_by(
    read_by: ReadBy, watch: Callable[[Callable[[Any], Array]], Callable[[Any], Array]], images: Sequence[Any]
) -> tuple[Callable[[Any], Array], Mapping[str, Any]]:
    read, reading = read_by(images)
    return watch(read), reading


def hash_pixels(pixels: Array) -> str:
    return hash_bytes(str(pixels.dtype), str(pixels.shape), np.ascontiguousarray(pixels).tobytes())


def read_same_pixels(read: Callable[[Any], Array], name: str, digests: Mapping[Any, str], image: Any) -> Array:
    pixels = read(image)
    if hash_pixels(pixels) != digests[image]:
        raise changed(name, f"image {image!r}")
    return pixels


def read_same_file(
    read: Callable[[Any], Array],
    name: str,
    files: Mapping[Any, Path],
    known: dict[Path, tuple[str, FileStamp]],
    image: Any,
) -> Array:
    """Read an image whose file is the one that was hashed: its size and times say so, or its content does."""
    path = files[image]
    digest, then = known[path]
    try:
        now = file_stamp(path)
        if now != then:
            if hash_file(path) != digest:
                raise changed(name, str(path))
            known[path] = digest, now  # perf: touched, not changed; its other frames need no second look
        pixels = read(image)
        if file_stamp(path) != now:
            raise changed(name, str(path))
    except FileNotFoundError as error:
        raise changed(name, str(path)) from error
    return pixels


def changed(name: str, what: str) -> DataError:
    return DataError(
        f"dataset {name!r}: {what} was changed or removed since the set was opened",
        fix="leave its files be while a command reads them; the same command then reads them anew",
        code="changed",
    )
