"""Store each run's result in one folder, written atomically, and load it with its checksums verified."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from zoo.errors import ResultsError, clean
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.predictions import Predictions, load_predictions, save_predictions
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.results.runs import Run
from zoo.results.schema1 import upgrade
from zoo.results.schema2 import upgrade_from_2
from zoo.results.schemas import find_fault_of_score, find_schema_fault
from zoo.results.soundness import find_faults_of_run
from zoo.specs.deviation import Deviation, read_deviations
from zoo.specs.metric import ScoringContext
from zoo.system.files import SEAL, folder_written_whole, hash_file, read_regular, sweep, unseal, write_sealed
from zoo.system.locks import locked
from zoo.tasks.kinds import TASKS, find_task

RESULT_SCHEMA = 3
PREDICTIONS_FILE = "predictions.npz"
WEIGHTS_FILE = "model.safetensors"
REFERENCE_FILE = "reference.safetensors"  # features of val
DELETABLE = (WEIGHTS_FILE, REFERENCE_FILE)  # only the best seed keeps them
TIMING_FILE = "timing.json"
TIMINGS = ("latency_seconds", "inference_images_per_second")
Status = Literal["ok", "failed", "refused", "skipped", "timeout", "oom", "crashed"]
# For results of a bundle: scores recomputed from its predictions; run repeated on this machine; or not verifiable.
Provenance = Literal["", "recomputed", "reproduced", "stated"]
# Errors caused by the model: the run counts as a failure of the model instead of being left out.
MODEL_FAULTS = ("diverged", "oom", "wrong-output")
RUN_DEPTH = 3  # folders between a results folder and the files of a run
SHARED = ("dataset", "versions", "system", "deviations")  # fields that are equal in many results
NOT_STORED = ("folder", "bundle", "provenance")  # set when a result is loaded


@dataclass(frozen=True, kw_only=True)
class Result:
    """The record of one run. `result.json` is immutable; scores are stored beside it and can be recomputed."""

    id: str
    run: Mapping[str, Any]  # Run.describe()
    identity: Mapping[str, Any]
    status: Status
    error: Mapping[str, str] | None = None  # code, message, fix
    dataset: Mapping[str, Any] = field(default_factory=dict)  # describe_fold
    deviations: tuple[Deviation, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    bundle: str = ""  # name of its bundle; "" for a local run
    provenance: Provenance = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def is_models_fault(self) -> bool:
        """Whether the model caused the failure, not the machine, the plugin's code or a time limit."""
        return self.error is not None and self.error["code"] in MODEL_FAULTS

    def predictions(self) -> dict[str, Predictions]:
        """The stored predictions of val and test."""
        if self.folder is None or not self.ok:
            raise ResultsError(
                f"run {self.id[:8]} has no predictions", fix="run it again: only finished runs have predictions"
            )
        predictions = load_predictions(self.folder / PREDICTIONS_FILE)
        if any(len(part.targets) < len(part) for part in predictions.values()):
            raise ResultsError(
                f"{self.folder}: the bundle does not include its targets",
                fix="ask the author of the bundle, or put the dataset beside it",
                code="no-targets",
            )
        return predictions

    def card(self) -> ScoringContext:
        """Return the facts about the dataset that scoring needs."""
        return ScoringContext(
            task=find_task(self.dataset["task"]),
            labels=tuple(self.dataset["labels"]),
            positive=self.dataset["positive"],
            unit=self.dataset["unit"],
            has_patients=self.dataset["has_patients"],
            val_unit=self.dataset.get("val_unit"),
        )

    def scores(self) -> Mapping[str, Score]:
        """Return the stored scores, or {} if there are none."""
        return self._scores

    @cached_property
    def _scores(self) -> Mapping[str, Score]:
        """perf: a board needs them four times; `save_scores` removes them."""
        return self.read_scores("scores")

    def read_scores(self, kind: str) -> dict[str, Score]:
        if self.folder is None or not (self.folder / "scores.json").exists():
            return {}
        path = self.folder / "scores.json"
        try:
            document, sealed = read_result_document(path)
            if document.get("run", self.id) != self.id:  # missing in the earliest documents
                raise TypeError("of another run")
            if not sealed and not predates_seals(document):
                raise TypeError("not sealed")
            return {name: parse_score(values) for name, values in document.get(kind, {}).items()}
        except (TypeError, AttributeError, ResultsError) as error:
            if isinstance(error, ResultsError) and error.code == "newer-schema":
                raise
            raise ResultsError(f"{path}: cannot be read", fix="recompute it with `zoo score`", code="scores") from error


def parse_score(values: Mapping[str, Any]) -> Score:
    """Parse a score of `scores.json`; raises TypeError for an invalid field."""
    if fault := find_fault_of_score(values):
        raise TypeError(fault)
    method, reason = values.get("method"), values.get("reason")
    parsed = {
        "method": method and IntervalMethod(**method),
        "reason": reason and Reason(**{**reason, "detail": tuple(reason.get("detail", ()))}),
    }
    return Score(**{**values, **parsed})


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifacts:
    """Everything that a run leaves in its folder; a failed run leaves only its result."""

    result: Result
    predictions: Mapping[str, Predictions] = field(default_factory=dict)  # by split
    compact: bool = False  # store no probabilities where log odds determine them
    scores: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)  # by kind: scores, image_scores
    history: Sequence[Mapping[str, Any]] = ()  # one row per round
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the trained model, by name


# --- one run, one process --------------------------------------------------------------------------------------------
@contextmanager
def claim(root: Path, run: Run) -> Iterator[bool]:
    """Lock a run for this process until the block ends; yields False if another process holds the lock.

    The operating system releases the lock of a killed process; there is no timeout.
    """
    from filelock import Timeout

    folder = root / run.folder
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.with_name(f".{folder.name}.lock"), timeout=0))
        except Timeout:
            yield False
            return
        except OSError as error:
            raise unusable(root, error, f" ({folder.parent}/.{folder.name}.lock)") from error
        yield True


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def save_result(root: Path, run: Run, artifacts: Artifacts) -> Path:
    """Write one run's folder atomically: temporary folder, fsync, rename. It is durable on return."""
    folder = root / run.folder
    try:
        with folder_written_whole(folder) as temporary:
            write_artifacts(temporary, artifacts)
    except OSError as error:
        raise unusable(root, error) from error
    return folder


def write_artifacts(folder: Path, artifacts: Artifacts) -> None:
    """Write the files of one run; `result.json` holds the checksums of all files except the scores."""
    result = artifacts.result
    for name, content in artifacts.files.items():
        (folder / name).write_bytes(content)
    if artifacts.predictions:
        save_predictions(folder / PREDICTIONS_FILE, dict(artifacts.predictions), compact=artifacts.compact)
    if artifacts.history:
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in artifacts.history]
        (folder / "history.jsonl").write_text("".join(lines), encoding="utf-8")
    checksums = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    if artifacts.scores:
        write_sealed(folder / "scores.json", scores_document(result, artifacts.scores))
    document = {"schema": RESULT_SCHEMA, **asdict(result), "checksums": checksums}
    for name in NOT_STORED:
        document.pop(name)
    write_sealed(folder / "result.json", document)


def scores_document(result: Result, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Any]:
    return {
        "schema": RESULT_SCHEMA,
        "run": result.id,
        **{kind: {n: asdict(s) for n, s in part.items()} for kind, part in scores.items()},
    }


def save_scores(result: Result, scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Replace the scores of a result atomically."""
    assert result.folder is not None
    vars(result).pop("_scores", None)
    try:
        write_sealed(result.folder / "scores.json", scores_document(result, scores))
    except OSError as error:
        raise unusable(result.folder, error) from error


def save_timing(folder: Path, timing: Mapping[str, Any]) -> None:
    """Store the latency and throughput of a run's model, measured after the run; of volumes, with the timed patch.

    `not_timed` lists the parts of the model that the measurement leaves out: "head", "inputs".
    """
    try:
        write_sealed(folder / TIMING_FILE, {"schema": RESULT_SCHEMA, "timing": dict(timing)})
    except OSError as error:
        raise unusable(folder, error) from error


def read_timing(folder: Path | None) -> dict[str, float]:
    """Read the stored timing; {} if it is missing or invalid, and must be measured again."""
    if folder is None or not (folder / TIMING_FILE).exists():
        return {}
    try:
        document, sealed = read_result_document(folder / TIMING_FILE)
        values = document["timing"] if sealed else {}
        timing = {name: float(values[name]) for name in TIMINGS}
        return timing if all(0 < value < math.inf for value in timing.values()) else {}
    except (KeyError, TypeError, ValueError, ResultsError):
        return {}


def read_result_document(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a document of a run in the current schema; see `read_document`."""
    document, sealed = read_document(path, newest=RESULT_SCHEMA)
    return upgrade_from_2(upgrade(document)), sealed


def read_document(path: Path, newest: int) -> tuple[dict[str, Any], bool]:
    """Read a document and return it with whether it had a seal; the caller handles a missing seal.

    Raises ResultsError for a damaged document, with code "newer-schema" if its schema is newer than `newest`.
    """
    try:
        document = json.loads(read_regular(path))
    except PermissionError as error:
        raise unreadable_result(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}", fix="delete its folder and run again") from error
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise ResultsError(f"{path}: the field 'schema' is missing", fix="delete its folder and run again")
    if document["schema"] > newest:
        raise ResultsError(
            f"{path}: has schema {document['schema']}; this version of zoo reads up to {newest}",
            fix="upgrade zoo-bench",
            code="newer-schema",
        )
    sealed = SEAL in document
    if not unseal(document):
        raise modified_file(path)
    return document, sealed


def modified_file(path: Path) -> ResultsError:
    return ResultsError(f"{path}: changed after it was written", fix="delete its folder and run again")


def predates_seals(document: Mapping[str, Any]) -> bool:
    """Whether a document predates seals, because it lacks a field introduced before them.

    For manifests see `load_manifest`.
    """
    if "scores" in document:
        return "run" not in document
    return "num_tuning_runs" not in document["run"]


def load_result(folder: Path) -> Result:
    """Load one run's folder. Raises ResultsError if it is damaged."""
    document, sealed = read_result_document(folder / "result.json")
    document.pop("schema")
    if fault := find_schema_fault(document):
        raise invalid_result(folder / "result.json", document, fault)
    if not sealed and not predates_seals(document):
        raise modified_file(folder / "result.json")
    try:
        result = Result(**{**document, "deviations": read_deviations(document.get("deviations", ())), "folder": folder})
    except TypeError as error:
        raise ResultsError(f"{folder}/result.json: {error}", fix="delete the folder and run again") from error
    for name, checksum in result.checksums.items():
        path = folder / name
        try:
            is_whole = hash_file(path) == checksum
        except PermissionError as error:
            raise unreadable_result(path) from error
        except OSError:
            is_whole = name in DELETABLE and not path.exists()
        if not is_whole:
            raise modified_file(path)
    return replace(result, cost={**result.cost, **read_timing(folder)})


def invalid_result(path: Path, document: Mapping[str, Any], fault: str) -> ResultsError:
    """Return the error for a result that does not fit the schema, which may be because a plugin is not installed."""
    dataset = document["dataset"] if isinstance(document.get("dataset"), dict) else {}
    task = dataset.get("task")
    if not isinstance(task, str) or task in TASKS:
        return ResultsError(f"{path}: {fault}", fix="delete its folder and run again")
    plugin = dataset.get("task_plugin") or "the plugin that registers it"
    return ResultsError(
        f"{path}: dataset.task: the task {task!r} is not installed", fix=f"install {plugin}", code="unknown-task"
    )


FaultSearch = Callable[[Result, Callable[[], str]], str]  # memo.SoundRuns.check


def check_each(_: Result, find_fault: Callable[[], str]) -> str:
    return find_fault()


def load_sound_result(folder: Path, check: FaultSearch = check_each) -> Result:
    """Load a result and check its predictions. Raises ResultsError for invalid ones.

    `check` may know the result and then does not call the function that reads the predictions and finds their fault.
    """
    result = load_result(folder)
    if result.ok and (fault := check(result, partial(find_fault_of_predictions, result))):
        path = folder / PREDICTIONS_FILE
        raise ResultsError(f"{path}: {fault}", fix="delete its folder and run again", code="damaged")
    return result


def find_fault_of_predictions(result: Result) -> str:
    """The first fault in the stored predictions of a finished run, or ""."""
    assert result.folder is not None
    predictions = load_predictions(result.folder / PREDICTIONS_FILE)
    return next(find_faults_of_run(result.card(), result.run["purpose"], result.dataset, predictions), "")


def unreadable_result(path: Path) -> ResultsError:
    """Return the error for missing permissions: the result may be intact and must not be overwritten."""
    return ResultsError(f"{path}: permission denied", fix="make it readable: `chmod -R u+rwX`", code="unreadable")


def find_result_folders(root: Path, depth: int = RUN_DEPTH) -> Iterator[Path]:
    """Yield the run folders below a results folder, sorted; unfinished ones begin with a dot and are skipped.

    An unreadable parent folder is yielded itself. A missing or just deleted folder yields nothing.
    """
    try:
        if depth == 0:
            if (root / "result.json").exists():
                yield root
            return
        below = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return
    except PermissionError:
        yield root
        return
    for path in below:
        yield from find_result_folders(path, depth - 1)


def load_results(root: Path, load: Callable[[Path], Result] = load_sound_result) -> tuple[list[Result], list[str]]:
    """Load all readable results below `root`; return them with one message per damaged one.

    Raises ResultsError for a newer schema.
    """
    results: dict[str, Result] = {}
    damaged, last = [], None
    for folder in find_result_folders(root):
        try:
            result = load(folder)
            if not folder.name.endswith(f".{result.id[:8]}"):
                raise ResultsError(f"{folder}: contains run {result.id[:8]}", fix="move it back, or run again")
            if result.id in results:
                raise ResultsError(f"{folder}: duplicate of {results[result.id].folder}", fix="delete one of them")
            results[result.id] = last = share_records(result, last)
        except ResultsError as error:
            if error.code == "newer-schema":
                raise
            damaged.append(str(error))
    return list(results.values()), damaged


def load_scored_runs(root: Path) -> list[dict[str, Any]]:
    """Return `Run.describe()` of every finished run below `root` from `result.json` only; skips damaged ones."""
    runs = []
    for folder in find_result_folders(root):
        try:
            document, _ = read_result_document(folder / "result.json")
        except ResultsError:
            continue
        if document.get("status") == "ok" and not find_schema_fault(document):
            runs.append(document["run"])
    return runs


def share_records(result: Result, other: Result | None) -> Result:
    """Replace the records that equal those of another result by the other's.

    perf: memory; thousands of runs have few different records.
    """
    if other is None:
        return result
    shared = {name: getattr(other, name) for name in SHARED if getattr(other, name) == getattr(result, name)}
    for name in ("run", "identity"):
        record, protocol = getattr(result, name), getattr(other, name)["protocol"]
        if record["protocol"] == protocol:
            shared[name] = {**record, "protocol": protocol}
    return replace(result, **shared)


def find_done(root: Path, run: Run, check: FaultSearch = check_each) -> Result | None:
    """Return the finished, undamaged result of this run, or None. `check` is that of `load_sound_result`."""
    folder = root / run.folder
    if not (folder / "result.json").exists():
        return None
    try:
        result = load_sound_result(folder, check)
        result.scores()
    except ResultsError as error:
        if error.code in ("newer-schema", "unreadable"):
            raise
        return None
    return result if result.ok and result.id == run.id else None


@contextmanager
def open_results(root: Path) -> Iterator[None]:
    """Create the results folder and test writing to it; before and after, remove leftovers of killed processes."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root, RUN_DEPTH)
        with TemporaryFile(dir=root) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise unusable(root, error) from error
    try:
        yield
    finally:
        sweep(root, RUN_DEPTH)


def unusable(root: Path, error: OSError, place: str = "") -> ResultsError:
    return ResultsError(
        f"results folder {clean(root)}: {error.strerror or error}{place}",
        fix="choose a writable folder with free space: --results FOLDER",
        code="results-unusable",
    )
