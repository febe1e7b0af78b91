"""Dataset specs, and the samples of an opened dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_type_hints

from zoo.tasks.task import Task

if TYPE_CHECKING:
    import pandas

    from zoo.arrays import Array


SPLITS = ("train", "val", "test")
PATIENT = "patient"
NO_PATIENT = "none"  # begins the `patient` field of a card without a patient key

Unit = Literal["image", "clip", "patient"]
Symmetry = Literal["hflip", "vflip", "rot90"]


class PatientKey(NamedTuple):
    """The two facts in a card's `patient` field: the noun for a patient, and whether there is none."""

    word: str
    missing: bool


def parse_patient(patient: str) -> PatientKey:
    """Parse a card's `patient` field: "lesion: one per scan" has the noun "lesion", "none: image level" is missing.

    The noun is "patient" if the field names none: a table may have a patient column that its card does not mention.
    """
    word = patient.partition(":")[0].strip()
    missing = word in ("", NO_PATIENT)
    return PatientKey(PATIENT if missing else word, missing)


@dataclass(frozen=True, kw_only=True)
class FetchRequest:
    """A request to fetch weights or data to `folder`. With `offline`, look only on this machine, else return None.

    `progress` is called with (bytes done, total bytes or None).
    """

    name: str
    tag: str = ""
    folder: Path
    offline: bool = False
    progress: Callable[[int, int | None], None] | None = None


@dataclass(frozen=True, kw_only=True)
class SamplesRequest:
    """The folder for a dataset's files, whether it may download, and a callback for progress."""

    folder: Path
    offline: bool = False
    progress: Callable[[int, int | None], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where samples were read from, so that a `dataset.toml` can be written that reads them again."""

    path: Path  # what lists the images: a folder, a table, a `dataset.toml` or an npz
    root: Path  # the folder that image paths are relative to, or the npz
    card_root: Path  # the root as written in a `dataset.toml`: in an archive, `set.zip/inner`


@dataclass(frozen=True, kw_only=True)
class AmbiguityNote:
    """A warning for `zoo audit` about something seen while reading the files that the pixels do not show."""

    check: str  # its name in docs/audit.md
    message: str
    fix: str = ""
    count: int = 0  # affected images


# The train images -> a function that reads an image, and the `reading` to record.
ReadBy = Callable[[Sequence[Any]], tuple[Callable[[Any], Any], Mapping[str, Any]]]

LEVELS_BY = "levels_by_"  # prefix of the table columns that define groups of files with different levels


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The samples of an opened dataset, one row per image.

    `table` is a pandas DataFrame of N rows with the columns
    `sample_id` (str, unique), `image` (the argument of `read`: a path, a frame "scan.dcm#12", or an index into an
    array), and optionally `split` (str: train, val, test, or empty), `patient` (str) and any metadata.
    `targets` is int64 (N,), float (N,) for regression, or float (N, L) for multi-label with NaN for unknown.
    `read(image)` returns the pixels: uint8 or uint16 (H, W) or (H, W, 3).
    `files` lists the files of the pixels (for the content hash), one per row, the same for all frames of a file;
    without it the pixels are hashed. `reading` describes how values became levels, if the files do not define that: it
    is part of the content hash and is shown on the board. `spec` is the spec completed from the files (channels,
    official splits), if they were missing when it was listed. `tables` are the files of labels, patients and splits;
    the checksums of the spec apply to them and to `files`. zoo sets `origin` and `doubts`, the uncertainties about
    labels and patients.
    `read_by`, if levels are measured on pixels, takes the train images and returns the `read` and `reading` that
    follow from them: no other image of a fold may affect how its images are read.
    `spacing(image)` returns the millimeters per pixel, of rows and of columns, or None if they are unknown.
    `frames` has the card's choice of slices and frames, by which new files are read, and `patient` its regular
    expression or tag of the patient.
    `masks(image)` returns the label map of an image, uint8 (H, W): 0 is background, k + 1 is label k. zoo then sets
    `targets`, float64 (N, L), to the pixels of each label.
    `second_masks(image)` returns the label map that a second reader drew; it raises DataError if there is none.
    `volumes(image)` returns a whole volume, if the spec has dims = 3: finite numbers (A, B, C) in the RAS+ order of
    axes. Then `masks` has the same axes, `spacing` returns three numbers, and zoo sets `read` to a slice of the volume.
    `more_files` has the files of the further channels of each image, for the content hash.
    `findings(image)` returns where each label's finding is, bool (L, H, W) of the image's own pixels, if that is known:
    `zoo explain` compares its maps with it.
    """

    table: pandas.DataFrame
    targets: Array = None  # type: ignore[assignment]  # set by zoo if there are masks
    read: Callable[[Any], Array] = None  # type: ignore[assignment]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()  # shown on the card and above the leaderboard
    reading: Mapping[str, Any] = field(default_factory=dict)
    spec: DatasetSpec | None = None
    tables: tuple[Path, ...] = ()
    origin: Origin | None = None
    doubts: tuple[AmbiguityNote, ...] = ()
    read_by: ReadBy | None = None
    spacing: Callable[[Any], tuple[float, ...] | None] | None = None
    frames: Mapping[str, Any] = field(default_factory=dict)
    patient: Mapping[str, str] = field(default_factory=dict)
    masks: Callable[[Any], Array] | None = None
    second_masks: Callable[[Any], Array] | None = None
    volumes: Callable[[Any], Array] | None = None
    more_files: Mapping[Any, tuple[Path, ...]] = field(default_factory=dict)
    findings: Callable[[Any], Array] | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A field of `DatasetSpec` that is also a key of a card, with the same value."""

    help: str
    example: str = ""  # in a written card, commented out
    recorded: bool = True  # a text in every result


def fact(help: str, *, default: Any = "", **options: Any) -> Any:
    """A field of `DatasetSpec` that is a fact; its annotation is the type of the card's key."""
    return field(default=default, metadata={"fact": Fact(help=help, **options)})


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset as plain data and one callable that opens it."""

    name: str
    task: Task
    labels: tuple[str, ...]
    samples: Callable[[SamplesRequest], Samples]
    title: str = fact("Title on the board. Default: the folder's name.")
    description: str = fact("A sentence or two.", recorded=False)
    modality: str = fact('How the images were acquired: "dermoscopy", "chest X-ray".', example='"dermoscopy"')
    license: str = fact('For example "CC BY 4.0".', example='"CC BY 4.0"')
    citation: str = fact("The paper to cite.", example='""')
    url: str = fact("Where the data come from.", example='""', recorded=False)
    reference_standard: str = fact(
        'How the labels were obtained: "biopsy", "two readers".',
        example='"biopsy"                # how the labels were obtained',
    )
    checksums: Mapping[str, str] = field(default_factory=dict)  # file name -> md5
    channels: int = 3  # of the source: 1 for gray; of volumes any number
    image_size: int | None = None  # the dataset's own, if it has one
    positive: str = ""  # binary: the positive label; default: the last
    patient: str = "none: image level"  # what `patient` means ("patient", "lesion", "eye")
    unit: Literal["auto", "image", "clip", "patient"] = fact(
        "What is scored. auto: the patient if all images of each patient share a label or have masks, else the image.",
        default="auto",
        recorded=False,
    )
    share_targets: bool = fact(
        "false: the license does not allow sharing the targets, and `zoo bundle` leaves them out.",
        default=True,
        recorded=False,
    )
    share_images: bool | None = fact(
        "Whether `zoo report --format html` may show test images. Default: only if `license` allows anybody to share "
        "them, as CC BY 4.0.",
        default=None,
        recorded=False,
    )
    derived_from: tuple[str, ...] = fact(
        'Collections that the images come from, in lower case: "ham10000". Boards mark models with weights trained on '
        "one of them.",
        default=(),
        recorded=False,
    )
    official_splits: tuple[str, ...] = ()
    symmetries: tuple[Symmetry, ...] = fact(
        "Operations that keep the label. Default: none, as left is not right in a chest.",
        default=(),
        example='["hflip"]                       # what does not change the label',
        recorded=False,
    )
    intensity: tuple[float, float] | None = None  # uint16: the levels mapped to 0..1; default: percentiles of train
    synthetic: bool = False
    metadata: tuple[str, ...] = ()  # table columns to report
    dims: Literal[2, 3] = fact(
        "3: volumes are read as a whole, with a mask of each; 2: images and slices.", default=2, recorded=False
    )
    tolerance_mm: float | None = fact(
        "Of masks: the distance in mm within which `nsd` counts two boundaries as equal, such as how far two readers "
        "differ. Default: one pixel.",
        default=None,
        recorded=False,
    )
    known_issues: tuple[str, ...] = fact("Issues to display on the board.", default=(), recorded=False)
    known_conflicts: tuple[tuple[str, str], ...] = ()  # accepted pairs of sample ids: similar images, different labels
    near_duplicates: Literal["group", "ignore"] = fact(
        "group: images that look alike stay together in every split that zoo draws.", default="group", recorded=False
    )
    folds: int | None = None  # default number of folds, if there is no official test split
    val_share: float | None = None  # of train, if val must be drawn; default: a fifth
    # label -> its name in the datasets whose models are tested on this one
    label_map: Mapping[str, str] = field(default_factory=dict)
    find: Callable[[FetchRequest], DatasetSpec] | None = None  # resolves any dataset called "NAME:..." on request


FACTS: dict[str, Fact] = {each.name: each.metadata["fact"] for each in fields(DatasetSpec) if "fact" in each.metadata}
FACT_TYPES: dict[str, Any] = {name: get_type_hints(DatasetSpec)[name] for name in FACTS}
RECORDED_FACTS = tuple(name for name, each in FACTS.items() if each.recorded)
