"""Specs of datasets, and the samples they open to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.tasks.kinds import Task

if TYPE_CHECKING:
    import pandas

    from zoo.arrays import Array


SPLITS = ("train", "val", "test")
PATIENT = "patient"
NO_PATIENT = "none"  # begins the `patient` field of a card without a patient key

Unit = Literal["image", "clip", "patient"]


def patient_word(patient: str) -> str:
    """Return the noun in a card's `patient` field: "lesion" for "lesion: one per scan".

    The noun is "patient" if the field names none: a table may have a patient column that its card does not mention.
    """
    word = patient.partition(":")[0].strip()
    return word if word and word != NO_PATIENT else PATIENT


@dataclass(frozen=True, kw_only=True)
class FetchRequest:
    """Weights or data to bring to `folder`. With `offline`, look only on this machine; return None if not there.

    `progress` is called with (bytes done, bytes in all or None).
    """

    name: str
    tag: str = ""
    folder: Path
    offline: bool = False
    progress: Callable[[int, int | None], None] | None = None


@dataclass(frozen=True, kw_only=True)
class SamplesRequest:
    """Where a dataset may keep its files, whether it may download, and whom to tell how far it is."""

    folder: Path
    offline: bool = False
    progress: Callable[[int, int | None], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where samples were read from, so that a `dataset.toml` can be written that reads them again."""

    path: Path  # what says which images they are: a folder, a table, a `dataset.toml`, an npz
    root: Path  # the folder that images are named from, or the npz
    card_root: Path  # the same as a `dataset.toml` says it: in an archive, `set.zip/inner`


@dataclass(frozen=True, kw_only=True)
class AmbiguityNote:
    """What reading the files showed and the pixels cannot: `zoo audit` warns of it."""

    check: str  # as docs/audit.md calls it
    message: str
    fix: str = ""
    count: int = 0  # images concerned


# The images of train -> how an image is read, and the reading that stands in the record.
ReadBy = Callable[[Sequence[Any]], tuple[Callable[[Any], Any], Mapping[str, Any]]]

LEVELS_BY = "levels_by_"  # begins the columns of a table that tell groups of files apart whose levels differ


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """One row an image.

    `table` is a pandas DataFrame of N rows with the columns
    `sample_id` (str, unique), `image` (what `read` takes: a path, a frame "scan.dcm#12", or an index into an array),
    and, where they exist, `split` (str: train, val, test, or empty), `patient` (str) and any metadata.
    `targets` is int64 (N,), float (N,) for regression, or float (N, L) for multi-label with NaN for unknown.
    `read(image)` returns the pixels: uint8 or uint16 (H, W) or (H, W, 3).
    `files` lists the files the pixels come from (for the content hash), one a row, the same for all frames of a file;
    without it the pixels are hashed. `reading` says how values became levels, where that was not left to the files: it
    is part of the content hash and stands on the board. `spec` is the card completed by what the files show (channels,
    official splits), where they were not here when it was listed. `tables` are the files that labels, patients and
    splits come from; they and `files` are what the card's checksums are compared with. `origin` is set by zoo, as are
    `doubts`, what is uncertain about labels and patients.
    `read_by`, where levels are measured on pixels, takes the images of train and gives the `read` and the `reading`
    that follow from these alone: no other image of a fold may decide how its images look.
    """

    table: pandas.DataFrame
    targets: Array
    read: Callable[[Any], Array]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()  # said on the card and above the leaderboard
    reading: Mapping[str, Any] = field(default_factory=dict)
    spec: DatasetSpec | None = None
    tables: tuple[Path, ...] = ()
    origin: Origin | None = None
    doubts: tuple[AmbiguityNote, ...] = ()
    read_by: ReadBy | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A set of images with their labels, as a card of plain data and one callable that opens it."""

    name: str
    task: Task
    labels: tuple[str, ...]
    samples: Callable[[SamplesRequest], Samples]
    title: str = ""
    description: str = ""
    modality: str = ""
    license: str = ""
    citation: str = ""
    url: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)  # file name -> md5
    channels: int = 3  # of the source: 1 for gray
    image_size: int | None = None  # the set's own, where it has one
    positive: str = ""  # binary: the label called positive; default: the last
    patient: str = "none: image level"  # what `patient` means ("patient", "lesion", "eye")
    unit: str = "auto"  # "image", "clip", "patient", or "auto": patient where all images of each share a label
    share_targets: bool = True  # False: the licence keeps the targets, so `zoo bundle` leaves them out
    reference_standard: str = ""  # who or what says the label: "biopsy", "two readers"
    derived_from: tuple[str, ...] = ()  # collections its images come from, so that weights trained on them are noticed
    official_splits: tuple[str, ...] = ()
    symmetries: tuple[str, ...] = ()  # of "hflip", "vflip", "rot90"
    intensity: tuple[float, float] | None = None  # uint16: the levels mapped to 0..1; default: percentiles of train
    synthetic: bool = False
    metadata: tuple[str, ...] = ()  # columns of the table worth reporting
    known_issues: tuple[str, ...] = ()
    known_conflicts: tuple[tuple[str, str], ...] = ()  # pairs of sample ids: alike, two labels, known and accepted
    near_duplicates: str = "group"  # images that look alike stay on one side of every split drawn; or "ignore"
    folds: int | None = None  # how many are drawn where nobody says, and no test split is official
    val_share: float | None = None  # of train, where val must be drawn; default: a fifth
    label_map: Mapping[str, str] = field(
        default_factory=dict
    )  # label -> what sets call it whose models are tested here
    find: Callable[[FetchRequest], DatasetSpec] | None = None  # stands for all called "NAME:...", found when asked
