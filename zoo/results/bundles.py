"""Write results as a bundle for sharing: runs with pseudonyms and a manifest of all files.

A bundle has the layout of a results folder. Its scores are recomputed from its own predictions: the bootstrap draws
patients in the order of their names, so pseudonyms change the intervals slightly.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zoo.errors import ResultsError, UsageError, ZooError, clean
from zoo.evaluation.predictions import Predictions, from_log_odds
from zoo.evaluation.reasons import Reason
from zoo.evaluation.scoring import score_run
from zoo.evaluation.values import Score
from zoo.images.formats import clips_of, frame_name
from zoo.registry.lookup import Registry
from zoo.results.pseudonyms import MIN_NAME_LENGTH, Pseudonyms, replace_texts, without_names, without_paths
from zoo.results.runs import read_run
from zoo.results.schemas import find_fault_of_manifest
from zoo.results.store import Artifacts, Result, find_result_folders, read_document, write_artifacts
from zoo.sources.archives import unpack
from zoo.specs.dataset import RECORDED_FACTS, Unit
from zoo.specs.deviation import Deviation
from zoo.system.files import SEAL, folder_written_whole, hash_file, read_regular, write_sealed, written_whole
from zoo.system.machine import versions
from zoo.system.progress import Progress

BUNDLE_SCHEMA = 2  # from 2 on, predictions are compact
BUNDLE_KIND = "zoo-bundle"
ARCHIVES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz"}  # others than WRITERS: not used as a folder name
MANIFEST = "manifest.json"
# Fields of a result written by zoo itself: only paths are removed. All other fields are treated as free text.
TECHNICAL = ("details", "cost", "system", "versions")
TECHNICAL_OF_DATASET = {
    *RECORDED_FACTS,
    *("name", "task", "labels", "unit"),
    "derived_from",
    "val_unit",
    "external",
    *("content_hash", "split_hash", "split_origin", "splits"),
}
FREE_OF_RUN = {"tuned"}


@dataclass(frozen=True, kw_only=True)
class BundleRequest:
    """What to share, and where to write it."""

    results: Sequence[Result]
    root: Path  # their results folder
    output: Path  # a folder, a `.zip` or a `.tar.xz`
    key: bytes  # of the pseudonyms
    registry: Registry
    metadata: Sequence[str] = ()  # columns to include unchanged


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Summary of a written bundle."""

    path: Path
    num_runs: int
    left_out: tuple[str, ...]
    names: tuple[str, ...]  # names and titles of datasets, which are not pseudonymized


def is_bundle(path: Path) -> bool:
    """Whether to read a path as a bundle: a folder with a manifest, or any zip or `.tar.xz`."""
    return (path / MANIFEST).is_file() or (
        find_writer(path) is not None and path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    )


def may_be_replaced(path: Path) -> bool:
    """Whether an existing path is a bundle with a valid manifest, which a new bundle may replace."""
    try:
        if path.is_dir():
            return bool(load_manifest(path))
        if find_writer(path) is None:
            return False
        with tempfile.TemporaryDirectory() as folder:
            return bool(load_manifest(unpack(path, Path(folder) / "bundle")))
    except ZooError:
        return False


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read and validate the manifest of a bundle's folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ResultsError(f"{folder}: not a bundle: {MANIFEST} is missing", fix="make a bundle with `zoo bundle`")
    manifest, sealed = read_document(path, newest=BUNDLE_SCHEMA)
    if fault := find_fault_of_manifest(manifest):
        raise ResultsError(f"{path}: invalid manifest: {fault}", fix="request the bundle again")
    if not sealed and any(is_sealed(place / "result.json") for place in find_result_folders(folder)):
        raise ResultsError(f"{path}: changed after it was written: its seal is missing", fix="request the bundle again")
    return manifest


def is_sealed(path: Path) -> bool:
    """Whether a document has a seal; documents written before seals existed have none."""
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and SEAL in document


VERSION_OF_DATA = ("name", "content_hash", "split_hash")


# --- writing ---------------------------------------------------------------------------------------------------------
def make_bundle(request: BundleRequest, progress: Progress) -> Bundle:
    """Write a bundle atomically. The same results and key give the same bytes.

    Tuning runs are left out: they have no test predictions.
    """
    output = request.output
    write = find_writer(output)
    if write is None and output.suffix.lower() in ARCHIVES:
        raise UsageError(
            f"{output}: a bundle is a folder, a .zip or a .tar.xz",
            fix="choose a path that ends in .zip or .tar.xz, or a folder",
        )
    if output.exists() and not may_be_replaced(output):
        raise UsageError(f"{output}: exists and is not a bundle", fix="choose a new folder, .zip or .tar.xz")
    selected = sorted((r for r in request.results if r.run["purpose"] != "tune"), key=lambda r: str(r.folder))
    if not selected:
        raise ResultsError(f"{request.root}: no runs to share", fix="run `zoo bench` first")
    check_columns(selected, request.metadata)
    request = replace(request, results=selected)
    try:
        if write is None:
            with folder_written_whole(output) as temporary:
                return fill_bundle(temporary, request, progress)
        with written_whole(output) as temporary, tempfile.TemporaryDirectory() as folder:
            bundle = fill_bundle(Path(folder), request, progress)
            write(Path(folder), temporary)
            return bundle
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror or error}", fix="choose a writable path") from error


def fill_bundle(folder: Path, request: BundleRequest, progress: Progress) -> Bundle:
    results, metadata = request.results, request.metadata
    ids = ids_of_datasets(results)
    left_out: list[str] = []
    for done, result in enumerate(results, start=1):
        assert result.folder is not None
        place = folder / result.folder.relative_to(request.root)
        place.mkdir(parents=True)
        left_out += write_run(place, result, ids[result.run["dataset"]], request)
        progress(done, len(results))
    manifest = {
        "schema": BUNDLE_SCHEMA,
        "kind": BUNDLE_KIND,
        "zoo": versions().get("zoo-bench", ""),
        "datasets": describe_datasets(results),
        **({"metadata": sorted(metadata)} if metadata else {}),
        "files": {path.relative_to(folder).as_posix(): hash_file(path) for path in files_below(folder)},
    }
    write_sealed(folder / MANIFEST, manifest)
    facts = [str(r.dataset.get(name, "")) for r in results for name in ("name", "title")]
    facts += [r.run[name] for r in results for name in ("dataset", "tested_on") if name in r.run]
    names = sorted({text for text in facts if text})
    return Bundle(
        path=request.output, num_runs=len(results), left_out=tuple(dict.fromkeys(left_out)), names=tuple(names)
    )


def files_below(folder: Path) -> list[Path]:
    """List all files and links below a folder, sorted; links to folders are not followed."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def describe_datasets(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Describe each benchmarked version of each dataset."""
    facts_of = {}
    for result in results:
        facts = result.dataset
        targets = "shared" if facts.get("share_targets", True) else "left out"
        facts_of[version_of_data(result)] = {"targets": targets, "license": without_paths(facts.get("license", ""))}
    return [{**dict(zip(VERSION_OF_DATA, key, strict=True)), **facts_of[key]} for key in sorted(facts_of)]


def version_of_data(result: Result) -> tuple[str, ...]:
    return result.run["dataset"], result.run["content_hash"], result.run["split_hash"]


def ids_of_datasets(results: Sequence[Result]) -> dict[str, set[str]]:
    """Return all sample and patient ids by dataset, also without folder and suffix."""
    ids_of: dict[str, set[str]] = {}
    for result in results:
        ids = ids_of.setdefault(result.run["dataset"], set())
        if result.ok:
            for part in result.predictions().values():
                names = {str(name) for array in (part.sample_ids, part.patients) for name in array}
                stems = {stem for name in names for stem in (PurePosixPath(name).name, PurePosixPath(name).stem)}
                ids |= {name for name in names | stems if len(name) >= MIN_NAME_LENGTH}
    return ids_of


def write_run(place: Path, result: Result, ids: set[str], request: BundleRequest) -> list[str]:
    """Write one run's folder: pseudonymized predictions and scores recomputed from them, without weights.

    Returns what is left out of the bundle.
    """
    shared = shareable(result, ids)
    if not result.ok:
        write_artifacts(place, Artifacts(result=shared))
        return []
    left_out: list[str] = []
    pseudonyms, metadata, installed = Pseudonyms(request.key), request.metadata, request.registry.metrics
    stored = result.predictions()
    units = {split: result.card().unit_of(split) for split in stored}
    predictions = {
        split: from_log_odds(rename(part, pseudonyms, metadata, units[split])) for split, part in stored.items()
    }
    if excluded := sorted({name for part in stored.values() for name in part.metadata} - set(metadata)):
        left_out.append(f"metadata of {result.run['dataset']}: {clean(', '.join(excluded))} (include with --metadata)")
    metrics = {name: installed[name] for name in result.scores() if name in installed}
    left_out += [
        f"scores of {name}: no installed plugin provides it" for name in result.scores() if name not in metrics
    ]
    scores = score_run(predictions, metrics, result.card(), threshold=result.run["protocol"]["threshold"])
    free = partial(without_names, ids=ids, kept=kept_words(result))
    scores = {kind: {name: scrub(score, free) for name, score in part.items()} for kind, part in scores.items()}
    if not result.dataset.get("share_targets", True):
        if result.card().task.targets.spatial:
            raise UsageError(
                f"{result.run['dataset']}: the statistics of masks tell the sizes of the references, which its license "
                "does not allow to share",
                fix="leave this dataset out of the results folder that is bundled",
            )
        left_out.append(f"targets of {result.run['dataset']}: not shared because of its license")
        predictions = {split: replace(part, targets=part.targets[:0]) for split, part in predictions.items()}
    history = read_history(result)
    artifacts = Artifacts(result=shared, predictions=predictions, compact=True, scores=scores, history=history)
    write_artifacts(place, artifacts)
    return left_out


def check_columns(results: Sequence[Result], metadata: Sequence[str]) -> None:
    """Raise UsageError if a requested metadata column exists in no result."""
    if not metadata:
        return
    columns = {name for r in results if r.ok for part in r.predictions().values() for name in part.metadata}
    for name in metadata:
        if name not in columns:
            available = clean(", ".join(sorted(columns))) or "none"
            raise UsageError(f"--metadata: no result has a column {name!r}", fix=f"available columns: {available}")


def rename(part: Predictions, pseudonyms: Pseudonyms, metadata: Sequence[str], unit: Unit) -> Predictions:
    """Replace sample and patient ids by pseudonyms and sort by them, because the old order could identify rows.

    With unit "clip", frames keep a common clip name; their frame numbers are pseudonyms, too.
    """
    sample_ids = np.array([pseudonyms(str(name)) for name in part.sample_ids])
    if unit == "clip":
        clips = [pseudonyms(str(name)) for name in clips_of(part.sample_ids)]
        sample_ids = np.array([frame_name(*pair) for pair in zip(clips, (int(n, 16) for n in sample_ids), strict=True)])
    patients = np.array([pseudonyms(str(name)) for name in part.patients])
    columns = {name: part.metadata[name] for name in sorted(metadata) if name in part.metadata}
    return replace(part, sample_ids=sample_ids, patients=patients, metadata=columns).take(np.argsort(sample_ids))


def read_history(result: Result) -> list[dict[str, Any]]:
    """Read the numeric fields of each training round."""
    assert result.folder is not None
    path = result.folder / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [{name: value for name, value in row.items() if not isinstance(value, str | list | dict)} for row in rows]


# --- texts -----------------------------------------------------------------------------------------------------------
def shareable(result: Result, ids: set[str]) -> Result:
    """Remove names from all free text and the message from an error; ids and hashes are kept."""
    free = partial(without_names, ids=ids, kept=kept_words(result))

    def split(part: Mapping[str, Any], is_free: Callable[[str], bool]) -> dict[str, Any]:
        return {name: replace_texts(value, free if is_free(name) else without_paths) for name, value in part.items()}

    technical: dict[str, Any] = {name: replace_texts(getattr(result, name), without_paths) for name in TECHNICAL}
    error = result.error and {
        "code": result.error["code"],
        "message": f"{result.error['code']} (message left out)",
        "fix": "",
    }
    return replace(
        result,
        **technical,
        error=error,
        run=split(result.run, lambda name: name in FREE_OF_RUN)
        | {"deviations": [scrub_deviation(each, free).describe() for each in read_run(result.run).deviations]},
        dataset=split(result.dataset, lambda name: name not in TECHNICAL_OF_DATASET),
        deviations=tuple(scrub_deviation(deviation, free) for deviation in result.deviations),
    )


def kept_words(result: Result) -> set[str]:
    """Return words to keep although they may look like ids: labels, dataset, model and weights."""
    run = result.run
    return {*result.dataset.get("labels", ()), run["dataset"], run["model"], run["shown"], run["weights_tag"]}


def scrub_deviation(deviation: Deviation, free: Callable[[str], str]) -> Deviation:
    return replace(deviation, detail=tuple(free(part) if isinstance(part, str) else part for part in deviation.detail))


def scrub(score: Score, free: Callable[[str], str]) -> Score:
    return replace(score, reason=score.reason and scrub_reason(score.reason, free), note=free(score.note))


def scrub_reason(reason: Reason, free: Callable[[str], str]) -> Reason:
    detail = tuple(free(part) if isinstance(part, str) else part for part in reason.detail)
    return replace(reason, detail=detail, sentence=free(reason.sentence))


# --- archives --------------------------------------------------------------------------------------------------------
def write_zip(folder: Path, path: Path) -> None:
    """Write the files of a folder as a zip with reproducible bytes: sorted, with a fixed time."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in files_below(folder):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # default time: 1980-01-01
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # the default differs on Windows
            with open(file, "rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)


def write_tar(folder: Path, path: Path) -> None:
    """Write the files of a folder as a `.tar.xz` with reproducible bytes; runs share the bytes of equal arrays."""
    with tarfile.open(path, "w:xz") as archive:
        for file in files_below(folder):
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())  # defaults: time 0, no owner
            entry.size = file.stat().st_size
            with open(file, "rb") as source:
                archive.addfile(entry, source)


WRITERS = {".zip": write_zip, ".tar.xz": write_tar}


def bundle_name(path: Path) -> str:
    """The name of a bundle's file or folder without the suffix."""
    suffix = next((suffix for suffix in WRITERS if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def find_writer(path: Path) -> Callable[[Path, Path], None] | None:
    """The function that writes a path's kind of archive, or None."""
    return next((write for suffix, write in WRITERS.items() if path.name.lower().endswith(suffix)), None)
