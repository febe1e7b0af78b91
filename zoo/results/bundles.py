"""Write results as a bundle that can be shared: the runs under pseudonyms, and a manifest of every file.

A bundle is laid out like a results folder. Its scores are computed again from its own predictions: the bootstrap draws
patients in the order of their names, so that other names give slightly other intervals.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zoo.errors import ResultsError, UsageError, clean
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score_run
from zoo.evaluation.values import Score
from zoo.images.formats import clips_of, frame_name
from zoo.registry.lookup import Registry
from zoo.results.pseudonyms import MIN_NAME_LENGTH, Pseudonyms, replace_texts, without_names, without_paths
from zoo.results.schemas import find_fault_of_manifest
from zoo.results.store import Result, find_result_folders, read_result_document, write_result
from zoo.specs.dataset import Unit
from zoo.system.files import SEAL, folder_written_whole, hash_file, read_regular, write_sealed, written_whole
from zoo.system.machine import versions

BUNDLE_SCHEMA = 1
BUNDLE_KIND = "zoo-bundle"
ARCHIVES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz"}  # somebody who names one wants one
MANIFEST = "manifest.json"
# Of a result, what zoo's own words and a board's arithmetic are in: only paths are looked for. All else is free text.
TECHNICAL = ("details", "cost", "system", "versions")
TECHNICAL_OF_DATASET = {
    *("name", "title", "task", "labels", "unit", "modality", "license", "citation", "reference_standard"),
    "derived_from",
    "val_unit",
    "external",
    *("content_hash", "split_hash", "split_origin", "splits"),
}
FREE_OF_RUN = {"deviations", "tuned"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What was written, and what was left out of it."""

    path: Path
    num_runs: int
    left_out: tuple[str, ...]
    names: tuple[str, ...]  # of datasets, and their titles: they go along as they are


def is_bundle(path: Path) -> bool:
    """Whether a folder or a zip is to be read as a bundle; whether it is one, and sound, is another question."""
    return (path / MANIFEST).is_file() or (path.suffix.lower() == ".zip" and zipfile.is_zipfile(path))


def may_be_replaced(path: Path) -> bool:
    """Whether a folder or a zip is a bundle by its manifest: a stranger's may have a file of that name, too."""
    try:
        if path.is_dir():
            return bool(load_manifest(path))
        if path.suffix.lower() != ".zip" or not path.is_file():
            return False
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            archive.extract(MANIFEST, folder)
            return bool(load_manifest(Path(folder)))
    except Exception:  # what a damaged archive makes zipfile and zlib raise cannot be listed
        return False


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle's folder, its parts of the types they should have."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ResultsError(f"{folder}: no bundle: it holds no {MANIFEST}", fix="`zoo bundle` makes one")
    manifest, sealed = read_result_document(path, newest=BUNDLE_SCHEMA)
    if fault := find_fault_of_manifest(manifest):
        raise ResultsError(f"{path}: not the manifest of a bundle: {fault}", fix="ask for the bundle again")
    if not sealed and any(is_sealed(place / "result.json") for place in find_result_folders(folder)):
        raise ResultsError(f"{path}: is not what was written: its seal is missing", fix="ask for the bundle again")
    return manifest


def is_sealed(path: Path) -> bool:
    """Whether a document has a seal; those written before seals existed have none."""
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and SEAL in document


VERSION_OF_DATA = ("name", "content_hash", "split_hash")


# --- making ----------------------------------------------------------------------------------------------------------
def make_bundle(
    results: Sequence[Result],
    root: Path,
    output: Path,
    key: bytes,
    registry: Registry,
    progress: Callable[[int, int | None], None],
    metadata: Sequence[str] = (),
) -> Bundle:
    """Write the runs below `root` to `output`, a folder or a `.zip`, whole or not at all.

    Tuning runs are left out: they have seen no test image. Of metadata only the columns that are named come along, as
    they are. The same results and key give the same bytes.
    """
    if output.suffix.lower() in ARCHIVES:
        raise UsageError(f"{output}: a bundle is a folder or a .zip", fix="name it so")
    if output.exists() and not may_be_replaced(output):
        raise UsageError(f"{output}: exists, and is no bundle", fix="name a new folder or .zip")
    chosen = sorted((r for r in results if r.run["purpose"] != "tune"), key=lambda r: str(r.folder))
    if not chosen:
        raise ResultsError(f"{root}: no runs that could be shared", fix="run `zoo bench` first")
    check_columns(chosen, metadata)
    try:
        if output.suffix.lower() != ".zip":
            with folder_written_whole(output) as temporary:
                return fill_bundle(temporary, output, chosen, root, key, registry, progress, metadata)
        with written_whole(output) as temporary, tempfile.TemporaryDirectory() as folder:
            bundle = fill_bundle(Path(folder), output, chosen, root, key, registry, progress, metadata)
            write_zip(Path(folder), temporary)
            return bundle
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror or error}", fix="name a place that can be written to") from error


def fill_bundle(
    folder: Path,
    output: Path,
    results: Sequence[Result],
    root: Path,
    key: bytes,
    registry: Registry,
    progress: Callable[[int, int | None], None],
    metadata: Sequence[str],
) -> Bundle:
    ids = ids_of_datasets(results)
    left_out: list[str] = []
    for done, result in enumerate(results, start=1):
        assert result.folder is not None
        place = folder / result.folder.relative_to(root)
        place.mkdir(parents=True)
        write_run(place, result, ids[result.run["dataset"]], Pseudonyms(key), registry, metadata, left_out)
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
    return Bundle(path=output, num_runs=len(results), left_out=tuple(dict.fromkeys(left_out)), names=tuple(names))


def files_below(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder, in the order of names; links to folders are not followed."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def describe_datasets(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every version of the data that was benchmarked."""
    found = {}
    for result in results:
        facts = result.dataset
        targets = "shared" if facts.get("share_targets", True) else "left out"
        found[version_of_data(result)] = {"targets": targets, "license": without_paths(facts.get("license", ""))}
    return [{**dict(zip(VERSION_OF_DATA, key, strict=True)), **found[key]} for key in sorted(found)]


def version_of_data(result: Result) -> tuple[str, ...]:
    return result.run["dataset"], result.run["content_hash"], result.run["split_hash"]


def ids_of_datasets(results: Sequence[Result]) -> dict[str, set[str]]:
    """By dataset every sample and patient that was predicted, whole and without folder and suffix."""
    found: dict[str, set[str]] = {}
    for result in results:
        ids = found.setdefault(result.run["dataset"], set())
        if result.ok:
            for part in result.predictions().values():
                names = {str(name) for array in (part.sample_ids, part.patients) for name in array}
                stems = {stem for name in names for stem in (PurePosixPath(name).name, PurePosixPath(name).stem)}
                ids |= {name for name in names | stems if len(name) >= MIN_NAME_LENGTH}
    return found


def write_run(
    place: Path,
    result: Result,
    ids: set[str],
    pseudonyms: Pseudonyms,
    registry: Registry,
    metadata: Sequence[str],
    left_out: list[str],
) -> None:
    """One run's folder in the bundle: predictions under pseudonyms, scores computed from those, no weights."""
    shared = shareable(result, ids)
    if not result.ok:
        write_result(place, shared, None, None, [])
        return
    stored = result.predictions()
    units = {split: result.card().unit_of(split) for split in stored}
    predictions = {split: rename(part, pseudonyms, metadata, units[split]) for split, part in stored.items()}
    if kept_back := sorted({name for part in stored.values() for name in part.metadata} - set(metadata)):
        left_out.append(f"metadata of {result.run['dataset']}: {clean(', '.join(kept_back))} (--metadata shares them)")
    metrics = {name: registry.metrics[name] for name in result.scores() if name in registry.metrics}
    left_out += [f"scores of {name}: no plugin here gives it" for name in result.scores() if name not in metrics]
    scores = score_run(predictions, metrics, result.card(), threshold=result.run["protocol"]["threshold"])
    free = partial(without_names, ids=ids, kept=kept_words(result))
    scores = {kind: {name: scrub(score, free) for name, score in part.items()} for kind, part in scores.items()}
    if not result.dataset.get("share_targets", True):
        left_out.append(f"targets of {result.run['dataset']}: its licence keeps them")
        predictions = {split: replace(part, targets=part.targets[:0]) for split, part in predictions.items()}
    write_result(place, shared, predictions, scores, read_history(result))


def check_columns(results: Sequence[Result], metadata: Sequence[str]) -> None:
    """UsageError where no result has a column that is asked for."""
    if not metadata:
        return
    known = {name for r in results if r.ok for part in r.predictions().values() for name in part.metadata}
    for name in metadata:
        if name not in known:
            there = clean(", ".join(sorted(known))) or "none"
            raise UsageError(f"--metadata: no result has a column {name!r}", fix=f"there are: {there}")


def rename(part: Predictions, pseudonyms: Pseudonyms, metadata: Sequence[str], unit: Unit) -> Predictions:
    """The rows under pseudonyms and in the order of these: their old order would tell who is who.

    Where clips are scored their frames keep one name, each with a number that is a pseudonym, too.
    """
    sample_ids = np.array([pseudonyms(str(name)) for name in part.sample_ids])
    if unit == "clip":
        clips = [pseudonyms(str(name)) for name in clips_of(part.sample_ids)]
        sample_ids = np.array([frame_name(*pair) for pair in zip(clips, (int(n, 16) for n in sample_ids), strict=True)])
    patients = np.array([pseudonyms(str(name)) for name in part.patients])
    columns = {name: part.metadata[name] for name in sorted(metadata) if name in part.metadata}
    return replace(part, sample_ids=sample_ids, patients=patients, metadata=columns).take(np.argsort(sample_ids))


def read_history(result: Result) -> list[dict[str, Any]]:
    """The numbers of every round."""
    assert result.folder is not None
    path = result.folder / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [{name: value for name, value in row.items() if not isinstance(value, str | list | dict)} for row in rows]


# --- texts -----------------------------------------------------------------------------------------------------------
def shareable(result: Result, ids: set[str]) -> Result:
    """The result with every free text scrubbed and every error's message left out; ids and hashes stay."""
    free = partial(without_names, ids=ids, kept=kept_words(result))

    def split(part: Mapping[str, Any], is_free: Callable[[str], bool]) -> dict[str, Any]:
        return {name: replace_texts(value, free if is_free(name) else without_paths) for name, value in part.items()}

    technical: dict[str, Any] = {name: replace_texts(getattr(result, name), without_paths) for name in TECHNICAL}
    error = result.error and {"code": result.error["code"], "message": f"{result.error['code']} (message left out)"}
    return replace(
        result,
        **technical,
        error=error,
        run=split(result.run, lambda name: name in FREE_OF_RUN),
        dataset=split(result.dataset, lambda name: name not in TECHNICAL_OF_DATASET),
        deviations=tuple(map(free, result.deviations)),
    )


def kept_words(result: Result) -> set[str]:
    """Words that look like ids and are none: labels, and the names of the run's own parts."""
    run = result.run
    return {*result.dataset.get("labels", ()), run["dataset"], run["model"], run["shown"], run["weights_tag"]}


def scrub(score: Score, free: Callable[[str], str]) -> Score:
    return replace(score, reason=score.reason and free(score.reason), note=free(score.note))


# --- zip -------------------------------------------------------------------------------------------------------------
def write_zip(folder: Path, path: Path) -> None:
    """The files of a folder as a zip of the same bytes every time: in order, and without times."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in files_below(folder):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # its time is 1980-01-01
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # else it differs on Windows
            with open(file, "rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)
