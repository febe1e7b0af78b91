"""The specs that plugins register: models, datasets, metrics and executors as small frozen records.

Everything a list or a report needs is plain data, importable without torch or pandas; the callables import what is
heavy when they are called. Every callable takes one frozen request, so that requests can grow without breaking plugins.
All records are keyword-only and new fields have defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.tasks import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from torch import Tensor, nn

    Array = np.ndarray[Any, Any]

Unit = Literal["image", "clip", "patient"]
CLASSIFICATION = ("binary", "multiclass", "ordinal", "multilabel", "regression")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# --- models ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of pretrained weights of a model, as plain data."""

    tag: str  # "a1_in1k"
    url: str = ""  # where `fetch_weights` would download from; its host is what the reachability probe asks
    file_names: tuple[str, ...] = ()  # other names a local file may have, without folder
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224  # the size the weights were trained at
    license: str = ""
    pretraining: tuple[str, ...] = ()  # dataset names, so that overlap with a benchmark can be matched


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a model is built for. `weights` is a local file, or None for random init."""

    num_outputs: int
    channels: int
    image_size: int
    weights: Path | None = None
    tag: str = ""


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
class ModelSpec:
    """A model that can be built for any number of outputs and channels.

    `build` returns the architecture with its weights loaded. Where `classifier` and `first_conv` name submodules
    ("fc", "conv1"; dotted), the core replaces the head (`num_outputs`) and sums the first convolution's weights
    (`channels`), the same way for every plugin, and `build` may ignore those two fields of the request. Where they are
    empty, `build` itself must return a module of `num_outputs` outputs; without `first_conv` gray images are repeated
    to `channels`. The module maps images float32 (N, channels, H, W) to logits (N, num_outputs).
    """

    name: str
    build: Callable[[BuildRequest], nn.Module]
    title: str = ""
    family: str = ""
    tasks: tuple[str, ...] = CLASSIFICATION
    image_size: int = 224
    fixed_size: bool = False  # True: `image_size` is the only one taken
    size_multiple: int = 1
    min_image_size: int = 1
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    weights: tuple[Weights, ...] = ()  # the first is what the bare name means
    license: str = ""
    citation: str = ""
    version: int = 0  # of the network: raise it when `build` makes another one; 0: every release of the plugin does
    imports: tuple[str, ...] = ()  # modules `build` needs, imported once before workers are forked
    classifier: str = ""
    first_conv: str = ""
    fetch_weights: Callable[[FetchRequest], Path | None] | None = None
    features: Callable[[nn.Module, Tensor], Tensor] | None = None  # (module, images) -> (N, D); default: head removed
    layer_groups: Callable[[nn.Module], list[list[nn.Parameter]]] | None = None  # stem first, head last
    find: Callable[[FetchRequest], ModelSpec] | None = None  # stands for all models called "NAME:...", found when asked


# --- datasets --------------------------------------------------------------------------------------------------------
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
class Doubt:
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
    doubts: tuple[Doubt, ...] = ()
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


# --- metrics ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class MetricRequest:
    """What a metric is computed from. L labels, N units (images or patients).

    `targets` and `probabilities` as in `zoo.tasks.Task`; `decisions` is int64 (N,), or bool (N, L) for multi-label,
    taken at thresholds chosen on val; None for regression. `positive` is the index of the positive class (binary).
    `log_odds`, log p/(1 - p) of the probabilities, are what to rank by where they are not None: probabilities of
    logits above 37 are all 1.
    """

    task: Task
    labels: tuple[str, ...]
    targets: Array
    probabilities: Array
    decisions: Array | None
    positive: int | None = None
    log_odds: Array | None = None

    def take(self, rows: Array) -> MetricRequest:
        """The request with these rows, in this order."""
        return replace(
            self,
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
        )


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A number that says how good predictions are. `compute` raises `Undefined(reason)` where it does not exist.

    `resample`, optional, computes the metric for B resamples at once: (request, weights float (B, N)) -> (B,), NaN
    where undefined; without it the interval calls `compute` once a resample. `counts` gives (successes, trials) where
    the metric is a proportion, so that its interval can be Wilson's; it raises `Undefined` for a task where it is none.
    `curve` gives (positives, scores), both (N,), where it is one area under the ROC curve, so that its interval can be
    DeLong's; it raises `Undefined` where it is a mean of several.
    `influence`, optional, gives how fast the metric moves, times N, with the weight of each unit: (N,); without it the
    tests between models take that derivative through `resample`, or leave every unit out once.
    `noise`, optional, is for a metric that chance can only raise, as a sum of errors over bins: what chance alone makes
    of it in B resamples, (request, weights) -> (B,). Percentiles of `resample` would miss what such a metric estimates.
    `note`, optional, says what a reader must know of a value that is defined ("macro over 6 of 7 labels"), or "".
    """

    name: str
    compute: Callable[[MetricRequest], float]
    title: str = ""
    tasks: tuple[str, ...] = CLASSIFICATION
    higher_is_better: bool = True
    version: int = 1
    bounds: tuple[float | None, float | None] = (0.0, 1.0)
    citation: str = ""
    resample: Callable[[MetricRequest, Array], Array] | None = None
    counts: Callable[[MetricRequest], tuple[int, int]] | None = None
    curve: Callable[[MetricRequest], tuple[Array, Array]] | None = None
    note: Callable[[MetricRequest], str] | None = None
    influence: Callable[[MetricRequest], Array] | None = None
    noise: Callable[[MetricRequest, Array], Array] | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What scoring must know of a dataset."""

    task: Task
    labels: tuple[str, ...]
    positive: int | None = None  # binary: the index of the positive class
    unit: Unit = "image"
    has_patients: bool = False  # a patient key exists; else every image is its own
    val_unit: Unit | None = None  # of val, by which thresholds are chosen, where it is of another dataset than test

    def unit_of(self, split: str) -> Unit:
        """What is scored of a split: val's own where test is another dataset's."""
        return self.val_unit if split == "val" and self.val_unit else self.unit


# --- executors -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """Where runs are carried out. Provisional until a second executor ships.

    `execute(works, carry_out, devices=..., reuse=..., timeout=..., fail_fast=..., fits=..., more=...)`, whose arguments
    `zoo.executor.execute` describes, yields a `zoo.executor.Event` for all that happens to the works, and one with
    nothing to tell where a second has passed without; a failed work is an event, not an exception. It is a generator:
    closing it ends all.
    """

    name: str
    execute: Callable[..., Any]
    title: str = ""
