"""From a bundle that somebody else made to what can be said of it: every score computed again, every hash compared.

A bundle is a stranger's: nothing in it is believed or executed. Invented predictions cannot be told from real ones.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.archives import find_unpacked, is_archive_name
from zoo.bundles import MANIFEST, VERSION_OF_DATA, files_below, load_manifest, version_of_data
from zoo.errors import DataError, ResultsError, VerifyError, clean
from zoo.files import cache_root, hash_bytes, hash_file
from zoo.fingerprints import Fingerprints
from zoo.inference import Predictions, load_predictions
from zoo.registry import Registry
from zoo.results import Provenance, Result, find_result_folders, load_result
from zoo.samples import Source, discard_split
from zoo.scoring import Score, score_run
from zoo.sources import read_members
from zoo.splits import draw_split

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]

TOLERANCE = 1e-6
# Of a run carried out again: another processor rounds otherwise, and training makes more of it.
REPRODUCED_TOLERANCE = 1e-3
CANNOT_DETECT = (
    "predictions that were made up, or made by another model, agree with themselves: no check of a bundle finds that; "
    "run a seed again to know"
)


@dataclass(kw_only=True)
class Verification:
    """What was compared, and what came of it."""

    bundle: str  # its name and the beginning of its manifest's hash
    zoo: str  # the version that made it
    results: list[Result] = field(default_factory=list)
    num_scores: int = 0
    num_intervals: int = 0
    differences: list[tuple[str, str]] = field(default_factory=list)  # file, what
    not_recomputed: Counter[str] = field(default_factory=Counter)  # why -> scores
    datasets: list[dict[str, Any]] = field(default_factory=list)

    def differs(self, file: str, what: object) -> None:
        self.differences.append((clean(file), clean(what)))


# --- opening ---------------------------------------------------------------------------------------------------------
def open_bundle(path: Path) -> Path:
    """The folder of a bundle: itself, or a zip unpacked to the cache. ResultsError where it cannot be read."""
    if not path.exists():
        raise ResultsError(f"{path}: no such file or folder", fix="name a bundle: a folder or a .zip")
    if path.is_dir():
        return path
    if not is_archive_name(path.name):
        raise ResultsError(f"{path}: neither a folder nor a .zip", fix="name a bundle")
    try:
        return find_unpacked(path, cache_root())
    except DataError as error:
        raise ResultsError(error.message, fix="ask for the bundle again", code="bundle") from error


def load_bundle(path: Path, registry: Registry, progress: Progress) -> list[Result]:
    """The runs of a bundle once all of it is verified; ResultsError, with the first difference, where it is not."""
    found = verify(open_bundle(path), path.stem, registry, progress)
    if found.differences:
        file, what = found.differences[0]
        more = f" (and {len(found.differences) - 1} more)" if len(found.differences) > 1 else ""
        fix = f"`zoo verify {shlex.quote(clean(path))}` shows every difference"
        raise VerifyError(f"{path}: {file}: {what}{more}", fix=fix)
    return found.results


def verify(folder: Path, name: str, registry: Registry, progress: Progress) -> Verification:
    """Compare everything in a bundle's folder that can be compared; a newer schema is an error, not a difference."""
    manifest = load_manifest(folder)
    found = Verification(bundle=f"{name} {hash_file(folder / MANIFEST)[:8]}", zoo=manifest["zoo"])
    found.datasets = [{**part, "here": "not compared"} for part in manifest["datasets"]]
    check_files(folder, manifest["files"], found)
    places = list(find_result_folders(folder))
    if not places:
        found.differs(MANIFEST, "the bundle holds no runs")
    tested: dict[tuple[Any, ...], Predictions] = {}
    for done, place in enumerate(places, start=1):
        file = place.relative_to(folder).as_posix()
        try:
            verify_run(place, file, manifest, registry, tested, found)
        except ResultsError as error:
            if error.code == "newer-schema":
                raise
            found.differs(file, error.message)
        except Exception as error:  # a stranger's file may be wrong in any way
            found.differs(file, f"cannot be verified: {type(error).__name__}: {error}")
        progress(done, len(places))
    return found


def check_files(folder: Path, checksums: Mapping[str, str], found: Verification) -> None:
    """Every file is in the manifest with its checksum, and the manifest names no other."""
    there = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    there.pop(MANIFEST, None)
    for name, path in there.items():
        if path.is_symlink():
            found.differs(name, "a link, not a file")
        elif name not in checksums:
            found.differs(name, "is not in the manifest")
        elif hash_file(path) != checksums[name]:
            found.differs(name, "its checksum differs from the manifest's")
    for name in sorted(set(checksums) - set(there)):
        found.differs(name, "is in the manifest and not in the bundle")


# --- one run ---------------------------------------------------------------------------------------------------------
def verify_run(
    place: Path,
    file: str,
    manifest: Mapping[str, Any],
    registry: Registry,
    tested: dict[tuple[Any, ...], Predictions],
    found: Verification,
) -> None:
    """Compare one run with itself, with the manifest, with the other runs on its data, and with its predictions."""
    if any((place / name).is_symlink() for name in ("result.json", "scores.json", "predictions.npz")):
        return  # said already; what it leads to is not opened
    result = load_result(place)
    check_identity(result, manifest, file, found)
    if not result.ok:
        found.results.append(replace(result, bundle=found.bundle, provenance="recomputed"))
        return
    predictions = load_shared(place / "predictions.npz")
    check_predictions(result, predictions, file, found)
    check_alike(result, predictions["test"], tested, file, found)
    stored = {kind: result.read_scores(kind) for kind in ("scores", "image_scores")}
    if not stored["scores"]:
        found.differs(file, "has no scores")
    provenance: Provenance = "recomputed"
    if any(len(part.targets) == 0 for part in predictions.values()):
        provenance = "stated"
        found.not_recomputed[f"{result.run['dataset']}: its targets are not in the bundle"] += sum(
            map(len, stored.values())
        )
    else:
        compare_scores(result, predictions, stored, registry, file, found)
    found.results.append(replace(result, bundle=found.bundle, provenance=provenance))


def check_identity(result: Result, manifest: Mapping[str, Any], file: str, found: Verification) -> None:
    """The id is the hash of the identity, which says what the run and the dataset's card say; the manifest knows it."""
    if hash_bytes(json.dumps(dict(result.identity), sort_keys=True, ensure_ascii=True)) != result.id:
        found.differs(file, "its id is not the hash of its identity")
    if not file.endswith(f".{result.id[:8]}"):
        found.differs(file, f"holds the run {result.id[:8]}")
    for name in ("dataset", "content_hash", "split_hash", "fold", "model", "seed", "init", "image_size", "purpose"):
        if result.run[name] != result.identity[name]:
            found.differs(file, f"{name}: {result.run[name]!r} in the run, {result.identity[name]!r} in its identity")
    for name in ("content_hash", "split_hash"):
        if result.dataset[name] != result.run[name]:
            found.differs(file, f"{name}: {result.run[name][:8]} of the run, {result.dataset[name][:8]} of its dataset")
    if version_of_data(result) not in {tuple(part[n] for n in VERSION_OF_DATA) for part in manifest["datasets"]}:
        found.differs(file, f"its dataset or split hash is not the manifest's of {result.run['dataset']!r}")


def load_shared(path: Path) -> dict[str, Predictions]:
    """The predictions of a stranger: headers, sizes and types are checked before anything is unpacked."""
    try:
        read_members(path)
    except DataError as error:
        raise ResultsError(error.message, fix=error.fix) from error
    predictions = load_predictions(path)
    if "test" not in predictions:
        raise ResultsError(f"{path.name}: holds no predictions of test", fix="make the bundle again with `zoo bundle`")
    return predictions


def check_predictions(result: Result, predictions: Mapping[str, Predictions], file: str, found: Verification) -> None:
    """The arrays fit each other, the task and the numbers of images and patients that the dataset's card tells."""
    columns = 1 if result.dataset["task"] == "regression" else len(result.dataset["labels"])
    for split, part in predictions.items():
        rows = len(part)
        if part.probabilities.shape != (rows, columns) or part.patients.shape != (rows,):
            found.differs(file, f"{split}: {part.probabilities.shape} probabilities of {rows} samples")
        elif len(part.targets) not in (0, rows):
            found.differs(file, f"{split}: {len(part.targets)} targets of {rows} samples")
        if not np.isfinite(part.probabilities).all():
            found.differs(file, f"{split}: probabilities that are no numbers")
        if len(np.unique(part.sample_ids)) != rows:
            found.differs(file, f"{split}: a sample stands in several rows")
        told = result.dataset["splits"][split]
        counted = {"images": rows, "patients": len(np.unique(part.patients))}
        for name, count in counted.items():
            if told[name] != count:
                found.differs(file, f"{split}: {count} {name}, and {told[name]} by its card")
        if "labels" in told and len(part.targets):
            counts = count_labels(part.targets, len(result.dataset["labels"]))
            if counts != list(told["labels"].values()):
                found.differs(file, f"{split}: images of each label are {counts}, other than its card says")


def count_labels(targets: Array, num_labels: int) -> list[int]:
    if targets.ndim == 2:
        return [int(number) for number in np.nansum(targets, axis=0)]
    return [int(number) for number in np.bincount(targets, minlength=num_labels)]


def check_alike(
    result: Result, test: Predictions, tested: dict[tuple[Any, ...], Predictions], file: str, found: Verification
) -> None:
    """All runs on one fold of one version of the data were tested on the same samples with the same targets."""
    first = tested.setdefault((*version_of_data(result), result.run.get("test_hash", ""), result.run["fold"]), test)
    for name in ("sample_ids", "patients", "targets"):
        if not np.array_equal(getattr(first, name), getattr(test, name), equal_nan=name == "targets"):
            found.differs(file, f"test: other {name} than the other runs on the same split")


def compare_scores(
    result: Result,
    predictions: Mapping[str, Predictions],
    stored: Mapping[str, Mapping[str, Score]],
    registry: Registry,
    file: str,
    found: Verification,
) -> None:
    """Score the predictions again and compare values and intervals with those stored."""
    metrics = {}
    for name, score in stored["scores"].items():
        if name not in registry.metrics:
            found.not_recomputed[f"{name}: no plugin here gives it"] += 1
        elif registry.metrics[name].version != score.version:
            versions = f"version {score.version} in the bundle, {registry.metrics[name].version} here"
            found.not_recomputed[f"{name}: {versions}"] += 1
        else:
            metrics[name] = registry.metrics[name]
    again = score_run(predictions, metrics, result.card(), threshold=result.run["protocol"]["threshold"])
    for kind, scores in stored.items():
        for name in metrics.keys() & scores.keys():
            told, computed = scores[name], again[kind][name]
            parts = ["value"]
            found.num_scores += 1
            if told.method == computed.method:
                parts += ["low", "high"]
                found.num_intervals += computed.low is not None
            else:  # an older or newer zoo chose another interval: neither is wrong
                methods = f"{told.method or 'none'} in the bundle, {computed.method or 'none'} here"
                found.not_recomputed[f"interval of {name}: {methods}"] += 1
            for part in parts:
                numbers = getattr(told, part), getattr(computed, part)
                if not same(*numbers):
                    what = f"{kind}: {name} {part}: {numbers[0]} in the bundle, {numbers[1]} recomputed"
                    found.differs(f"{file}/scores.json", what)


def same(told: float | None, computed: float | None) -> bool:
    if told is None or computed is None:
        return told is computed
    return abs(told - computed) <= TOLERANCE


# --- with the data and with runs of one's own ------------------------------------------------------------------------
def compare_data(found: Verification, source: Source, prints: Fingerprints) -> None:
    """Compare the content and split hash of a dataset on this machine, and of it resplit, with those of the bundle."""
    versions = {each.spec.name: each for each in (source, discard_split(source))}
    parts = [part for part in found.datasets if part["name"] in versions]
    if not parts:
        raise ResultsError(
            f"the bundle holds no dataset {source.spec.name!r}",
            fix=f"it holds {', '.join(p['name'] for p in found.datasets)}",
        )
    for part in parts:
        name, version = part["name"], versions[part["name"]]
        part["here"] = "same"
        if part["content_hash"] != version.content_hash:
            part["here"] = "another content"
        else:
            runs = [r.run for r in found.results if r.run["content_hash"] == version.content_hash]
            folds = {run["num_folds"] for run in runs if run["split_hash"] == part["split_hash"]}
            if not any(same_split(version, prints, part["split_hash"], number) for number in folds):
                part["here"] = "another split"
        if part["here"] != "same":
            found.differs(MANIFEST, f"dataset {name}: {part['here']} than on this machine")


def same_split(source: Source, prints: Fingerprints, expected: str, num_folds: int) -> bool:
    """Whether the split is what this zoo makes of the data: an official one or as many folds, with leaks or without."""
    for folds, drop_leaks in itertools.product((None, num_folds), (False, True)):
        try:
            if draw_split(source, folds, prints, drop_leaks=drop_leaks).hash == expected:
                return True
        except DataError:  # an official split is not drawn in folds
            continue
    return False


def mark_reproduced(results: Sequence[Result], own: Sequence[Result]) -> list[Result]:
    """The bundle's results; those whose run was carried out again here, with the same predictions, are marked so."""
    here = {result.id: result for result in own if result.ok and not result.bundle}
    return [
        replace(result, provenance="reproduced")
        if result.ok and result.id in here and same_predictions(result, here[result.id])
        else result
        for result in results
    ]


def same_predictions(shared: Result, own: Result) -> bool:
    """Whether two runs predicted the same within .001, as far as that can be told without names.

    Pseudonyms hide which row is which: compared are, column by column and for each class apart, the sorted numbers.
    """
    assert shared.folder is not None
    theirs, mine = load_predictions(shared.folder / "predictions.npz")["test"], own.predictions()["test"]
    if theirs.probabilities.shape != mine.probabilities.shape or np.array_equal(theirs.sample_ids, mine.sample_ids):
        return False  # with pseudonyms of its own it is a copy of the bundle, not a run
    if len(theirs.targets) == 0:
        return close(np.sort(theirs.probabilities, axis=0), np.sort(mine.probabilities, axis=0))
    if theirs.targets.ndim == 1 and np.issubdtype(theirs.targets.dtype, np.integer):
        classes = np.unique(mine.targets)
        parts = [(theirs.probabilities[theirs.targets == c], mine.probabilities[mine.targets == c]) for c in classes]
    else:
        columns = [np.column_stack([part.targets, part.probabilities]) for part in (theirs, mine)]
        parts = [(columns[0], columns[1])]
    return all(a.shape == b.shape and close(np.sort(a, axis=0), np.sort(b, axis=0)) for a, b in parts)


def close(one: Array, other: Array) -> bool:
    return np.allclose(one, other, rtol=REPRODUCED_TOLERANCE, atol=REPRODUCED_TOLERANCE, equal_nan=True)


# --- what is shown ---------------------------------------------------------------------------------------------------
def describe_verification(found: Verification, path: Path) -> dict[str, Any]:
    """The document of `zoo verify --json`."""
    return {
        "schema": 1,
        "command": "verify",
        "bundle": str(path),
        "zoo": found.zoo,
        "runs": len(found.results),
        "recomputed": {"scores": found.num_scores, "intervals": found.num_intervals},
        "differences": [{"file": file, "what": what} for file, what in found.differences],
        "not_recomputed": [{"why": why, "scores": count} for why, count in sorted(found.not_recomputed.items())],
        "datasets": found.datasets,
        "cannot_detect": CANNOT_DETECT,
    }


def to_lines(found: Verification) -> list[str]:
    """The same for people."""
    lines = [f"difference: {file}: {what}" for file, what in found.differences]
    lines += [f"not recomputed: {count} scores: {clean(why)}" for why, count in sorted(found.not_recomputed.items())]
    for part in found.datasets:
        told = {"same": "the same content and split on this machine", "not compared": "not compared with the data"}
        hashes = f"content {part['content_hash'][:8]}, split {part['split_hash'][:8]}"
        lines.append(clean(f"dataset {part['name']}: {hashes}: {told.get(part['here'], part['here'])}"))
    counted = f"{len(found.results)} runs, {found.num_scores} scores and {found.num_intervals} intervals recomputed"
    lines.append(f"{counted}: {len(found.differences) or 'no'} difference{'s' * (len(found.differences) != 1)}")
    lines.append(f"not detected: {CANNOT_DETECT}")
    return lines
