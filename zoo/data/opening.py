"""Open a dataset: call its plugin, check the samples and hash every image."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.checks import (
    MAKER,
    card_text,
    check_samples,
    complete_spec,
    patient_key,
    target_texts,
    unify_spellings,
)
from zoo.data.inputs import select_inputs
from zoo.data.masks import hash_mask, measure_masks
from zoo.errors import DataError, ZooError, convert_disk_errors, dataset_subject, message_of
from zoo.images.formats import split_frame
from zoo.images.text_headers import stored_files
from zoo.images.volumes import show_slice
from zoo.registry.isolation import noted_interrupts, process_unchanged
from zoo.sources.listing import one_form
from zoo.specs.dataset import DatasetSpec, ReadBy, Samples, SamplesRequest, parse_patient
from zoo.system.files import hash_bytes, hash_file
from zoo.system.memo import FileMemo, FileStamp, file_stamp
from zoo.system.progress import Progress
from zoo.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenDataset:
    """An opened and checked dataset: its spec, its samples, and the digest of each image."""

    spec: DatasetSpec
    samples: Samples
    sample_ids: Array  # (N,) str
    patients: Array  # (N,) str; the sample id where there is no patient key
    splits: Array  # (N,) str: train, val, test or ""
    digests: Array  # (N,) str
    content_hash: str
    longest_side: int | None = None  # of all images, if they have masks
    mask_digests: tuple[str, ...] = ()  # of each mask, if they have masks

    @property
    def has_patients(self) -> bool:
        return "patient" in self.samples.table.columns

    @property
    def patient_word(self) -> str:
        """What the dataset calls a patient: "patient", "lesion", "eye"."""
        return parse_patient(self.spec.patient).word

    @property
    def task(self) -> Task:
        return self.spec.task

    @cached_property
    def inputs_identity(self) -> str:
        """The columns of the second input and a hash of their cells, "age, sex 1a2b3c4d"; "" without columns.

        Raises DataError for a column that is missing.
        """
        columns = select_inputs(self.spec, self.samples)
        if not columns:
            return ""
        cells = ("".join(map(repr, each)) for each in columns.values())
        return f"{', '.join(columns)} {hash_bytes(*columns, *cells)[:8]}"


def open_dataset(
    spec: DatasetSpec, cache: Path, *, offline: bool = False, progress: Progress | None = None
) -> OpenDataset:
    """Open a dataset, check it, and hash every image; a DataError names the invalid row."""
    request = SamplesRequest(folder=cache / "datasets" / spec.name, offline=offline, progress=progress)
    with process_unchanged():
        samples = spec.samples(request)
    spec = complete_spec(spec, samples)
    mask_digests: list[str] = []
    longest_side = None
    if samples.masks is not None:
        sizes, mask_digests, longest_side = measure_masks(spec, samples, cache, progress)
        by_image = dict(zip(samples.table["image"].tolist(), mask_digests, strict=True))
        samples = replace(samples, targets=sizes, masks=SameMasks(samples.masks, spec.name, by_image))
    check_samples(spec, samples)
    samples = replace(samples, notes=(*samples.notes, *describe_spellings(samples)))
    table = samples.table
    sample_ids = table["sample_id"].to_numpy().astype(np.str_)
    patients = unify_spellings(table["patient"]) if "patient" in table.columns else sample_ids
    splits = table["split"].to_numpy().astype(np.str_) if "split" in table.columns else np.full(len(table), "")
    digests, samples = watch_images(spec, samples, cache, progress)
    texts = target_texts(samples.targets) if samples.masks is None else mask_digests
    rows = "\n".join("\t".join(row) for row in zip(sample_ids.tolist(), digests.tolist(), texts, strict=True))
    return OpenDataset(
        spec=spec,
        samples=samples,
        sample_ids=sample_ids,
        patients=patients,
        splits=splits,
        digests=digests,
        longest_side=longest_side,
        mask_digests=tuple(mask_digests),
        content_hash=hash_bytes(card_text(spec), rows, *([json.dumps(samples.reading)] if samples.reading else [])),
    )


def watch_images(spec: DatasetSpec, samples: Samples, cache: Path, progress: Progress | None) -> tuple[Array, Samples]:
    """Hash each image or volume; return the digests, and the samples with readers that notice changes.

    A slice stands for each volume wherever an image is shown or compared.
    """
    if samples.volumes is None:
        checked = replace(samples, read=partial(read_image_pixels, samples, spec.name))
        return hash_images(checked, spec.name, cache, progress)
    digests, watched = hash_images(replace(samples, read=samples.volumes), spec.name, cache, progress)
    return digests, replace(watched, volumes=watched.read, read=partial(read_slice, watched.read))


def read_slice(volumes: Callable[[Any], Array], image: Any) -> Array:
    return show_slice(volumes(image))


def describe_spellings(samples: Samples) -> tuple[str, ...]:
    """Return a note on patients whose number is spelled in several ways."""
    if "patient" not in samples.table.columns:
        return ()
    spellings: dict[str, list[str]] = {}
    for text in dict.fromkeys(one_form(str(patient)) for patient in samples.table["patient"]):
        spellings.setdefault(patient_key(text), []).append(text)
    several = [each for each in spellings.values() if len(each) > 1]
    if not several:
        return ()
    return (
        f"{len(several)} of {len(spellings)} patients are numbers spelled in several ways, such as "
        f"{', '.join(map(repr, several[0]))}: each number is taken as one patient",
    )


def read_image_pixels(samples: Samples, name: str, image: Any) -> Array:
    """Read an image; raise DataError if the dataset returns anything but valid pixels."""
    pixels = samples.read(image)
    if (
        isinstance(pixels, np.ndarray)
        and pixels.dtype in (np.uint8, np.uint16)
        and pixels.ndim in (2, 3)
        and pixels.size
    ):
        return pixels
    description = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    sample_id = samples.table["sample_id"][samples.table["image"] == image].iloc[0]
    raise DataError(
        f"{sample_id} is {description}, expected uint8 or uint16 pixels of shape (H, W) or (H, W, 3)",
        subject=dataset_subject(name),
        fix=f"correct it, or leave it out; for a plugin's dataset, {MAKER}",
        code="image",
    )


def read_by_train(source: OpenDataset, train: Array) -> OpenDataset:
    """Return the dataset of one fold: levels measured on pixels come from its train images, bool (N,)."""
    samples = source.samples
    if samples.read_by is None:
        return source
    read, reading = samples.read_by(samples.table["image"][train].tolist())
    fitted = replace(samples, read=read, reading=reading)
    return replace(source, samples=replace(fitted, read=partial(read_image_pixels, fitted, source.spec.name)))


RESPLIT = "-resplit"  # follows the name of a dataset without its official split


def discard_split(source: OpenDataset) -> OpenDataset:
    """Return the dataset under another name, without its official split; unchanged if it has none."""
    if not (source.splits == "test").any():
        return source
    samples = replace(source.samples, notes=(*source.samples.notes, "the official split is discarded: --resplit"))
    spec = replace(source.spec, name=f"{source.spec.name}{RESPLIT}", official_splits=())
    return replace(source, spec=spec, samples=samples, splits=np.full(len(source.splits), ""))


@contextmanager
def convert_failures() -> Iterator[None]:
    """Convert an unexpected exception of a dataset plugin to a one-line DataError with its place.

    A full disk affects every dataset and is a ResultsError.
    """
    try:
        with noted_interrupts() as interrupts, convert_disk_errors():
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
    """Return the error for an image whose bit depth differs from the first."""
    return DataError(
        f"{source.sample_ids[row]} is {kind}, but {source.sample_ids[0]} is {first}",
        subject=dataset_subject(source.spec.name),
        fix="give all images the same bit depth",
        code="mixed-depth",
    )


def wrong_channels(source: OpenDataset, row: int, num_channels: int) -> DataError:
    """Return the error for a color image in a gray dataset."""
    return DataError(
        f"{source.sample_ids[row]} has {num_channels} channels; expected {source.spec.channels}",
        subject=dataset_subject(source.spec.name),
        fix="convert it to gray, or leave it out",
        code="channels",
    )


def hash_images(samples: Samples, name: str, cache: Path, progress: Progress | None) -> tuple[Array, Samples]:
    """Hash each image: the SHA-256 of its file, with its frame; or of its pixels if it has no file of its own.

    Also return the samples with readers that raise DataError if an image has changed since.
    """
    images = samples.table["image"].tolist()
    if len(samples.files) != len(images):  # several images per file, or no files
        digests = [hash_pixels(samples.read(image)) for image in images]
        read = partial(read_same_pixels, samples.read, name, dict(zip(images, digests, strict=True)))
        return np.array(digests), replace(samples, read=read)
    memo, hashed = FileMemo(cache), dict[Path, tuple[str, FileStamp]]()
    try:
        digests = []
        for done, (path, image) in enumerate(zip(samples.files, images, strict=True), start=1):
            _, frame = split_frame(str(image))
            if path not in hashed:  # once for all frames of a file
                stamp = file_stamp(path)
                hashed[path] = memo(path), stamp
            digest = hashed[path][0]
            for further in further_files(samples, path, image):
                hashed[further] = memo(further), file_stamp(further)
                digest = hash_bytes(digest, hashed[further][0])
            digests.append(digest if frame is None else hash_bytes(digest, str(frame)))
            if progress:
                progress(done, len(images))
    finally:
        memo.close()
    files = {
        image: (path, *further_files(samples, path, image)) for image, path in zip(images, samples.files, strict=True)
    }
    watch = partial(refuse_changes, name=name, files=files, hashed=hashed)
    read_by = samples.read_by and partial(refuse_changes_by, samples.read_by, watch)
    return np.array(digests), replace(samples, read=watch(samples.read), read_by=read_by)


def further_files(samples: Samples, path: Path, image: Any) -> list[Path]:
    """The files of an image beside its own: those of its other channels, and the arrays of detached headers."""
    return [part for file in (path, *samples.more_files.get(image, ())) for part in stored_files(file)][1:]


def refuse_changes(
    read: Callable[[Any], Array],
    name: str,
    files: Mapping[Any, tuple[Path, ...]],
    hashed: dict[Path, tuple[str, FileStamp]],
) -> Callable[[Any], Array]:
    """Wrap a reader so that it refuses files that changed since they were hashed."""
    return partial(read_same_file, read, name, files, hashed)


def refuse_changes_by(
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


@dataclass(frozen=True, eq=False)
class SameMasks:
    """Read masks, and refuse those that changed since they were hashed."""

    read: Callable[[Any], Array]  # as the dataset gave it
    name: str
    digests: Mapping[Any, str]

    def __call__(self, image: Any) -> Array:
        mask = self.read(image)
        if hash_mask(mask) != self.digests[image]:
            raise changed(self.name, f"the mask of image {image!r}")
        return mask


def read_same_file(
    read: Callable[[Any], Array],
    name: str,
    files: Mapping[Any, tuple[Path, ...]],
    hashed: dict[Path, tuple[str, FileStamp]],
    image: Any,
) -> Array:
    """Read an image after checking that its files are unchanged, by size and times or else by content."""
    paths = files[image]
    try:
        for path in paths:
            digest, before = hashed[path]
            if (now := file_stamp(path)) != before:
                if hash_file(path) != digest:
                    raise changed(name, str(path))
                hashed[path] = digest, now  # perf: touched but not changed; do not hash it again for its other frames
        pixels = read(image)
        differ = [path for path in paths if file_stamp(path) != hashed[path][1]]
    except FileNotFoundError as error:
        raise changed(name, str(error.filename or paths[0])) from error
    if differ:
        raise changed(name, str(differ[0]))
    return pixels


def changed(name: str, what: str) -> DataError:
    return DataError(
        f"{what} was changed or removed since the dataset was opened",
        subject=dataset_subject(name),
        fix="do not change the files while a command reads them; run the same command again",
        code="changed",
    )
