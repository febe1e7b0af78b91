"""The card of a trained model: how a new file is read, and how outputs become an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from zoo.data.coding import MetadataCoding, read_coding
from zoo.errors import ResultsError, message_of
from zoo.images.reading import AS_STORED, Reading
from zoo.results.pseudonyms import without_names
from zoo.results.store import modified_file, read_document
from zoo.specs.dataset import Samples
from zoo.system.files import json_text, seal
from zoo.tasks.kinds import find_task
from zoo.tasks.task import Task

CARD_FILE = "card.json"
CARD_SCHEMA = 1
NOTICE = "research use only; not a medical device"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is needed to read a new file as in training and to answer as on the test split; plain data.

    `volumes` has what a model of volumes also needs: `patch` in voxels, which is the whole cube unless the model
    predicts masks; `spacing` in mm that volumes are resampled to, None if that of a training volume is unknown or, of
    cubes, if the longest side of each volume fills them; `window` of the values that become -2 and 2, None if each
    volume is standardized by itself; `sides`, the smallest and largest of the training volumes along each axis, in mm
    if `in_mm`, else in voxels; and `endings`, the ends of the names of the files of channels.
    `reading` has the fields of a `Reading` that differ from the default; None if a plugin's code read the images, so
    that new files are read as they are stored. `thresholds` are probabilities, `cuts` the same on the scale of the log
    odds; both are None for tasks without thresholds.
    """

    run: str
    model: str  # distribution:architecture
    shown: str
    network: str
    protocol: str
    method: str
    protocol_fields: Mapping[str, Any]
    seed: int
    fold: int
    layout: str  # "plain": the architecture's own keys; "joined": `backbone.` and `head.`
    task: str
    labels: tuple[str, ...]
    positive: int | None
    unit: str
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    intensity: tuple[float, float]  # the levels that become 0 and 1
    target_scale: tuple[float, float]
    precision: str
    reading: Mapping[str, Any] | None
    seen: Mapping[str, Any]  # `describe_images`
    thresholds: tuple[float, ...] | None
    cuts: tuple[float, ...] | None
    temperature: float | None
    temperature_missing: str | None  # why there is none
    outside: Mapping[str, Any] | None  # {"neighbors": k, "limit": d}; None without features
    dataset: Mapping[str, Any]  # the description in the result
    val_score: float | None  # of the primary metric; higher is better
    scores: Mapping[str, Any]
    versions: Mapping[str, str]
    weights: Mapping[str, Any] = field(default_factory=dict)  # the initial ones: tag, digest, license, pretraining
    inputs: tuple[Mapping[str, Any], ...] = ()  # `MetadataCoding.describe`, of a model with a second input
    estimator: str = ""  # name and version, of the method "estimator"
    # The preprocessing steps, in order, applied before an image is resized: plugin, name, version, options of each
    transforms: tuple[Mapping[str, Any], ...] = ()
    weights_sha256: str = ""  # of model.safetensors; "" in older cards
    volumes: Mapping[str, Any] | None = None  # of a model of volumes
    notice: str = NOTICE

    @property
    def task_kind(self) -> Task:
        return find_task(self.task)

    @property
    def dims(self) -> int:
        """The axes of an input: 2 of images, 3 of volumes."""
        return 3 if self.volumes else 2

    @property
    def coding(self) -> MetadataCoding | None:
        """How columns become the second input; None without one."""
        return read_coding(self.inputs) if self.inputs else None

    @property
    def name(self) -> str:
        return f"{self.dataset['name']}/{self.shown}"

    @property
    def file_reading(self) -> Reading:
        return Reading(**{name: tuple_of(value) for name, value in (self.reading or {}).items()})


def transform_texts(card: ModelCard) -> list[str]:
    """The preprocessing steps of a card: `clahe@1 of zoo-bench (clip=2, tiles=8)`."""
    texts = []
    for each in card.transforms:
        options = ", ".join(f"{name}={value:g}" for name, value in each["options"].items())
        texts.append(f"{each['name']}@{each['version']} of {each['plugin']}" + (f" ({options})" if options else ""))
    return texts


def tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def recorded_reading(samples: Samples) -> dict[str, Any] | None:
    """The `reading` of a card; None if a plugin's code read the images."""
    known = {each.name for each in fields(AS_STORED)}
    is_ours = samples.origin is not None and set(samples.reading) <= known
    return dict(samples.reading) if is_ours else None


def file_metadata(card: ModelCard) -> dict[str, str]:
    """What the files of weights and graphs say about themselves."""
    return {"card": CARD_FILE, "model": card.model, "task": card.task, "run": card.run, "notice": NOTICE}


def card_bytes(card: ModelCard) -> bytes:
    """The sealed file of a card."""
    document = json.loads(json_text({"schema": CARD_SCHEMA, **asdict(card)}))  # tuples as lists, as they are read
    return json_text(seal(document)).encode()


def shareable_card(card: ModelCard) -> ModelCard:
    """The card for an exported folder: the notes on its dataset name no file and no patient."""
    return replace(card, dataset={**card.dataset, "notes": shareable_notes(card.dataset)})


def shareable_notes(dataset: Mapping[str, Any]) -> list[str]:
    """The notes of a dataset's description without names of files and patients."""
    kept = {*dataset.get("labels", ()), dataset.get("name", "")}
    return [without_names(note, ids=(), kept=kept) for note in dataset.get("notes", ())]


def read_model_card(folder: Path) -> ModelCard:
    """Read the card in a folder. Raises ResultsError if it is missing, changed, or of a newer version."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise ResultsError(
            f"{folder}: {CARD_FILE} is missing, so this is not a trained model, or one of an older zoo",
            fix="run the bench again with --fresh",
            code="no-card",
        )
    document, sealed = read_document(path, newest=CARD_SCHEMA)
    if not sealed:
        raise modified_file(path)
    document.pop("schema")
    tuples = ("labels", "mean", "std", "intensity", "target_scale", "thresholds", "cuts", "transforms")
    try:
        document["transforms"] = document.get("transforms", ())  # missing in older cards
        return ModelCard(**{**document, **{name: tuple_of(document[name]) for name in tuples}})
    except (KeyError, TypeError) as error:
        raise ResultsError(
            f"{path}: its fields are not those of a model card: {message_of(error)}", fix="export the model again"
        ) from error
