"""Open the samples of a dataset, compare them with its card, and hash every image."""

from __future__ import annotations

import json
import re
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError, ZooError, message_of, room_needed
from zoo.fields import find_fault
from zoo.files import FileMemo, FileStamp, file_stamp, hash_bytes, hash_file
from zoo.images import clips_of, split_frame
from zoo.specs import DatasetSpec, ReadBy, Samples, SamplesRequest
from zoo.system import noted_interrupts, process_unchanged
from zoo.tasks import REGRESSION, Task

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]

SPLITS = ("train", "val", "test")
MAX_TARGET = 1e30  # of a regression: the squares of larger ones are no numbers any more
# How a table may write the whole number 12: also 0012, "12.0" or "1.2e+1" of a column that held a blank, "12,0".
# 1,000 and 1.000 may be a thousand
WHOLE_NUMBER = re.compile(r"\d+([.,](?!000\Z)0*)?|\d([.,]\d+)?[eE]\+\d{1,2}")
MAKER = "report it to whoever made the plugin"


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
    request = SamplesRequest(folder=cache / "datasets" / spec.name, offline=offline, progress=progress)
    with process_unchanged():
        samples = spec.samples(request)
    spec = complete(spec, samples)
    check_samples(spec, samples)
    samples = replace(samples, notes=(*samples.notes, *describe_spellings(samples)))
    samples = replace(samples, read=partial(read_pixels, samples, spec.name))
    table = samples.table
    sample_ids = table["sample_id"].to_numpy().astype(np.str_)
    patients = in_one_form(table["patient"]) if "patient" in table.columns else sample_ids
    splits = table["split"].to_numpy().astype(np.str_) if "split" in table.columns else np.full(len(table), "")
    digests, samples = hash_images(samples, spec.name, cache, progress)
    texts = target_texts(samples.targets)
    rows = "\n".join("\t".join(row) for row in zip(sample_ids.tolist(), digests.tolist(), texts, strict=True))
    return Source(
        spec=spec,
        samples=samples,
        sample_ids=sample_ids,
        patients=patients,
        splits=splits,
        digests=digests,
        content_hash=hash_bytes(card_text(spec), rows, *([json.dumps(samples.reading)] if samples.reading else [])),
    )


def in_one_form(patients: Iterable[object]) -> Array:
    """Names of patients (N,), each in its first spelling: those with equal keys are one person."""
    texts = [composed(patient) for patient in patients]
    first: dict[str, str] = {}
    spelling = {text: first.setdefault(patient_key(text), text) for text in dict.fromkeys(texts)}
    return np.array([spelling[text] for text in texts], dtype=np.str_)


def composed(patient: object) -> str:
    """A patient's name in Unicode's composed form: `é` of one character and of two are one person's."""
    return unicodedata.normalize("NFC", str(patient))


def patient_key(patient: str) -> str:
    """Return the same text for all spellings of one number (12, 0012, 12.0), and any other name as it is."""
    text = patient.strip()
    if not WHOLE_NUMBER.fullmatch(text):
        return patient
    number = Decimal(text.replace(",", "."))
    return str(int(number)) if number == int(number) else patient


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


def read_pixels(samples: Samples, name: str, image: Any) -> Array:
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


def read_by_train(source: Source, train: Array) -> Source:
    """The source as one fold sees it: levels that are measured on pixels are those of its train images, bool (N,)."""
    samples = source.samples
    if samples.read_by is None:
        return source
    read, reading = samples.read_by(samples.table["image"][train].tolist())
    fitted = replace(samples, read=read, reading=reading)
    return replace(source, samples=replace(fitted, read=partial(read_pixels, fitted, source.spec.name)))


def complete(spec: DatasetSpec, samples: Samples) -> DatasetSpec:
    """The card as the files complete it, where it was listed without them."""
    return spec if samples.spec is None else replace(samples.spec, name=spec.name, samples=spec.samples)


def discard_split(source: Source) -> Source:
    """The same images under another name, their official split forgotten; as it is where there is none."""
    if not (source.splits == "test").any():
        return source
    samples = replace(source.samples, notes=(*source.samples.notes, "the official split is discarded: --resplit"))
    spec = replace(source.spec, name=f"{source.spec.name}-resplit", official_splits=())
    return replace(source, spec=spec, samples=samples, splits=np.full(len(source.splits), ""))


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

    def refuse(what: str, fix: str) -> None:
        raise DataError(f"dataset {name!r}: {what}", fix=fix)

    if fault := find_fault(spec, DatasetSpec):
        refuse(fault, MAKER)
    if not len(table):
        refuse("it has no images", "give it some")
    for column in ("sample_id", "image"):
        if column not in table.columns:
            refuse(f"its table has no column {column!r}", MAKER)
    if "patient" in table.columns and table["patient"].isna().any():
        refuse(
            f"{table['sample_id'][table['patient'].isna()].iloc[0]!r} has no patient; the others do",
            "fill it, or drop the row",
        )
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        refuse(f"sample_id {repeated.iloc[0]!r} stands in several rows", "give each row an id of its own")
    if len(targets) != len(table):
        refuse(f"{len(targets)} targets for {len(table)} images", MAKER)
    check_targets(spec, samples, refuse)
    check_unit(spec, samples, refuse)
    if "split" in table.columns:
        strange = table.loc[~table["split"].isin([*SPLITS, ""]), ["sample_id", "split"]]
        if len(strange):
            sample_id, split = str(strange.iloc[0, 0]), str(strange.iloc[0, 1])
            refuse(f"{sample_id}: split {split!r}", fix="use train, val, test, or leave it empty")


def check_targets(spec: DatasetSpec, samples: Samples, refuse: Callable[..., None]) -> None:
    """What is asked of an image is of the task's kind, within its labels, and not the same of all."""
    table, targets = samples.table, np.asarray(samples.targets)
    labels, task = len(spec.labels), spec.task
    if labels < task.min_labels or (task.max_labels and labels > task.max_labels):
        refuse(
            f"expected {'at least ' if labels < task.min_labels else ''}{task.min_labels} labels, got {labels}",
            "correct `labels` or `task`",
        )
    if task.classes:
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            refuse(f"targets are {targets.dtype} of shape {targets.shape}, expected integers ({len(table)},)", MAKER)
        wrong = np.flatnonzero((targets < 0) | (targets >= labels))
        if len(wrong):
            refuse(
                f"{table['sample_id'].iloc[wrong[0]]}: label {targets[wrong[0]]}, expected 0 to {labels - 1}",
                "correct it, or drop the row",
            )
        if len(np.unique(targets)) < 2:
            refuse(
                f"every image is {spec.labels[int(targets[0])]!r}; there is nothing to learn",
                "give images of another class, or say where the label is",
            )
    elif task == REGRESSION:
        wrong = np.flatnonzero(~(np.abs(targets) <= MAX_TARGET)) if targets.ndim == 1 else np.arange(1)
        if len(wrong):
            refuse(
                f"{table['sample_id'].iloc[wrong[0]]}: target {targets[wrong[0]]}, expected a finite number of at most "
                f"{MAX_TARGET:g}",
                "correct it, drop the row, or give all in a larger unit",
            )
    elif targets.shape != (len(table), labels):
        refuse(f"targets of shape {targets.shape}, expected {(len(table), labels)}", MAKER)
    elif not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        refuse("multi-label targets must be 0, 1 or NaN for unknown", "correct them")


def check_unit(spec: DatasetSpec, samples: Samples, refuse: Callable[..., None]) -> None:
    """Where patients or clips are scored, all images of each must share their target, and a clip its patient."""
    table, sample_ids = samples.table, samples.table["sample_id"].to_numpy().astype(np.str_)
    if spec.unit in ("auto", "image"):
        return
    if spec.unit == "patient":
        if "patient" not in table.columns:
            refuse(
                "unit is the patient, and nothing says whose each image is", fix="name the patient, or the unit image"
            )
        owners = in_one_form(table["patient"])
    else:
        owners = clips_of(sample_ids)
        if (owners == sample_ids).all():
            refuse(
                "unit is the clip, and no image is a frame of one", fix="say frames = {every = 1}, or the unit image"
            )
    if rows := find_disagreement(owners, samples.targets):
        first, second = (sample_ids[row] for row in rows)
        refuse(
            f"unit is the {spec.unit}, and {first} and {second} of {owners[rows[0]]} have different labels",
            "correct one, or name the unit image",
        )
    if spec.unit == "clip" and "patient" in table.columns:
        numbers = np.unique(in_one_form(table["patient"]), return_inverse=True)[1]
        if rows := find_disagreement(owners, numbers):
            first, second = (sample_ids[row] for row in rows)
            refuse(
                f"unit is the clip, and {first} and {second} have different patients",
                "correct one, or name the unit image",
            )


def find_disagreement(owners: Array, targets: Any) -> tuple[int, int] | None:
    """Two rows of one owner with different targets; None where all agree. Unknown is the same as unknown."""
    values = np.asarray(targets, dtype=float).reshape(len(owners), -1)
    _, first, inverse = np.unique(owners, return_index=True, return_inverse=True)
    same = np.isclose(values, values[first][inverse], equal_nan=True).all(axis=1)
    row = int(np.argmin(same))
    return None if same[row] else (int(first[inverse[row]]), row)


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


def mixed_depth(source: Source, row: int, kind: str, first: str) -> DataError:
    """An image of another depth than the set's first."""
    return DataError(
        f"dataset {source.spec.name!r}: {source.sample_ids[row]} is {kind}, {source.sample_ids[0]} is {first}",
        fix="give all images the same bit depth",
        code="mixed-depth",
    )


def wrong_channels(source: Source, row: int, found: int) -> DataError:
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
