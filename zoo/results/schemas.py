"""Schemas of stored runs, which validate untrusted bundles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from zoo.evaluation.methods import MethodCode
from zoo.evaluation.reasons import NUM_REASON_DETAILS, ReasonCode
from zoo.registry.opening import open_registry
from zoo.specs.dataset import Unit
from zoo.specs.deviation import NUM_DETAILS, DeviationKind
from zoo.tasks.kinds import TASKS
from zoo.tasks.names import TaskName

# Limits far above real datasets and suites: counting, resampling and rendering take time or memory for each.
MAX_LABELS = 10_000
MAX_RECORDED_FOLDS = 10_000
MAX_SEED = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Images = Annotated[int, Field(ge=0, le=10**12)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def require_plain(value: Any) -> Any:
    """Accept a scalar or a list of scalars."""
    parts = value if isinstance(value, list) else [value]
    if not all(part is None or isinstance(part, str | int | float) for part in parts):
        raise ValueError("should be text, a number, true, false, null, or a list of these")
    return value


Plain = Annotated[Any, BeforeValidator(require_plain)]


class Record(BaseModel):
    """Base of all records. Unknown fields, written by other versions of zoo, are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)


class DeviationRecord(Record):
    kind: DeviationKind
    detail: list[str | Finite | int]

    @model_validator(mode="after")
    def require_details(self) -> Self:
        if len(self.detail) != NUM_DETAILS[self.kind]:
            raise ValueError(f"{self.kind} should have {NUM_DETAILS[self.kind]} details")
        return self


class ProtocolRecord(Record):
    name: str
    version: int
    overrides: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []  # name, text
    threshold: str
    demonstration: bool = False
    stem: str = "own"
    tune: list[Any] = []


class RunRecord(Record):
    dataset: str
    content_hash: str
    split_hash: str
    fold: Count
    num_folds: Annotated[int, Field(ge=1, le=MAX_RECORDED_FOLDS)]
    model: str
    shown: str
    init: Literal["pretrained", "random", "fixed", "none"]
    weights_tag: str
    weights_digest: str = ""
    protocol: ProtocolRecord
    protocol_label: str
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    image_size: Count
    precision: str
    device_kind: str = ""
    threads: Count
    primary_metric: str = ""
    network: str = ""
    purpose: str
    num_train: Images = 0
    tested_on: str = ""
    test_hash: str = ""
    predictions: str = ""
    estimator: str = ""
    inputs: str = ""
    deviations: list[DeviationRecord] = []
    tuned: str = ""
    tuned_fields: list[str] = []
    num_tuning_runs: Count = 0


class IdentityRecord(Record):
    """The fields hashed to a run's id; extra fields must be plain values."""

    __pydantic_extra__: dict[str, Plain]
    dataset: str
    protocol: dict[str, Plain]


class SplitRecord(Record):
    images: Images
    patients: Images
    labels: dict[str, Images] | None = None
    mean: Finite | None = None
    std: Finite | None = None


class DatasetRecord(Record):
    name: str
    title: str = ""
    task: TaskName
    task_plugin: str = ""  # the distribution that registers the task; absent for a task of the core
    labels: Annotated[list[str], Field(max_length=MAX_LABELS)]
    positive: Count | None
    unit: Unit
    val_unit: Unit | None = None
    has_patients: bool
    patient: str = ""
    content_hash: str
    split_hash: str
    split_origin: str = ""
    notes: list[str] = []
    known_issues: list[str] = []
    derived_from: list[str] = []
    splits: dict[str, SplitRecord] = {}


class DetailsRecord(Record):
    primary_metric: str | None = None
    selected_by: str | None = None
    selected_step: int | None = None
    channels: Count = 1
    family: str = ""  # of the model; absent from older results
    val_score: Finite | None = None
    pretraining: list[str] | None = None
    keep_weights: str | None = None


class ErrorRecord(Record):
    code: str
    message: str
    fix: str = ""


class ResultRecord(Record):
    id: Annotated[str, Field(min_length=8)]
    run: RunRecord
    identity: IdentityRecord
    status: Literal["ok", "failed", "refused", "skipped", "timeout", "oom", "crashed"]
    error: ErrorRecord | None = None
    dataset: DatasetRecord | None = None
    deviations: list[DeviationRecord] = []
    details: DetailsRecord = DetailsRecord()
    cost: dict[str, Amount | None] = {}
    system: dict[str, str | int | float | None] = {}
    versions: dict[str, str] = {}
    created: str = ""
    checksums: dict[str, str] = {}


class ReasonRecord(Record):
    code: ReasonCode
    detail: list[str | int] = []
    sentence: str = ""

    @model_validator(mode="after")
    def require_details(self) -> Self:
        expected = NUM_REASON_DETAILS.get(self.code)
        if not self.sentence and len(self.detail) != expected:
            raise ValueError(f"{self.code} has {len(self.detail)} details, expected {expected}")
        return self


class MethodRecord(Record):
    code: MethodCode
    unit: Literal["patient", "image", ""] = ""
    count: Count = 0
    with_seeds: bool = False
    name: str = ""


class ScoreRecord(Record):
    value: Finite | None
    low: Finite | None = None
    high: Finite | None = None
    method: MethodRecord | None = None
    reason: ReasonRecord | None = None
    note: str = ""
    version: int = 1


class VersionRecord(Record):
    name: str
    content_hash: str
    split_hash: str
    targets: Literal["shared", "left out"]
    license: str = ""


class ManifestRecord(Record):
    kind: Literal["zoo-bundle"]
    zoo: str
    datasets: list[VersionRecord]
    metadata: list[str] = []
    files: dict[str, str]


@cache
def register_tasks_of_plugins() -> None:
    """Load the plugins, once in a process: a stored result may be of a task that one of them registers."""
    open_registry()


def find_schema_fault(document: Mapping[str, Any]) -> str:
    """Validate a stored run and return the first invalid field with the reason, or ""."""
    # A failed run may have no record of its dataset.
    dataset = document.get("dataset", {})
    if not dataset and document.get("status") == "ok":
        return "dataset: missing"
    if isinstance(dataset, dict) and dataset.get("task") not in (None, *TASKS):
        register_tasks_of_plugins()
    return fault_of(ResultRecord, {**document, "dataset": None if dataset == {} else dataset})


def find_fault_of_score(values: Mapping[str, Any]) -> str:
    """Validate one score; see `find_schema_fault`."""
    return fault_of(ScoreRecord, values)


def find_fault_of_manifest(document: Mapping[str, Any]) -> str:
    """Validate a bundle's manifest; see `find_schema_fault`."""
    return fault_of(ManifestRecord, document)


def fault_of(kind: type[Record], document: Mapping[str, Any]) -> str:
    try:
        kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""
