"""Verify a bundle: recompute every score and compare every hash.

A bundle is untrusted: nothing in it is executed or taken for granted. Fabricated predictions cannot be detected.
"""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.checks import find_conflict
from zoo.data.dataset import count_images
from zoo.data.fingerprints import Fingerprints
from zoo.data.masks import hash_maps
from zoo.data.opening import OpenDataset, discard_split
from zoo.data.splits import draw_split
from zoo.errors import DataError, ResultsError, Undefined, VerifyError, clean
from zoo.evaluation.predictions import Predictions, load_predictions
from zoo.evaluation.scoring import score_run
from zoo.evaluation.thresholds import ThresholdRule, decide
from zoo.evaluation.values import Score, compute
from zoo.images.formats import clips_of
from zoo.registry.lookup import Registry, split_model_name
from zoo.results.bundles import MANIFEST, VERSION_OF_DATA, bundle_name, files_below, load_manifest, version_of_data
from zoo.results.pseudonyms import without_paths
from zoo.results.runs import find_contradictions, find_undeclared, read_run
from zoo.results.soundness import expected_splits, find_faults, find_shared_samples
from zoo.results.store import Result, find_result_folders, load_result
from zoo.sources.archives import find_unpacked, is_archive_name
from zoo.sources.arrays import read_members
from zoo.specs.deviation import Deviation, read_deviations
from zoo.specs.metric import MetricSpec
from zoo.system.files import cache_root, hash_bytes, hash_file
from zoo.system.progress import Progress
from zoo.tasks.kinds import find_task

VERIFY_TOLERANCE = 1e-6
MAX_REDRAWN_FOLDS = 100  # limit for redrawing a split: the number is untrusted, and thousands take scikit-learn hours
OF_FINISHED = ("scores.json", "predictions.npz")  # failed runs have neither
# Fields of a dataset's record that are determined by the content and split hashes.
SAME_ON_SAME_DATA = ("task", "labels", "positive", "unit", "val_unit", "has_patients")
# For repeated runs: other processors round differently, and training amplifies the difference.
REPRODUCED_TOLERANCE = 1e-3
CANNOT_DETECT = (
    "fabricated predictions, or predictions of another model, are consistent in themselves: no check of a bundle "
    "detects them; run a seed again to be sure"
)


@dataclass(kw_only=True)
class Verification:
    """The outcome of a verification."""

    bundle: str  # name and first characters of the manifest's hash
    zoo: str  # the version that wrote the bundle
    results: list[Result] = field(default_factory=list)
    num_scores: int = 0
    num_intervals: int = 0
    differences: list[tuple[str, str]] = field(default_factory=list)  # file, what
    undeclared: list[tuple[str, Deviation]] = field(default_factory=list)  # file; a note, not a difference
    not_recomputed: Counter[str] = field(default_factory=Counter)  # why -> scores
    datasets: list[dict[str, Any]] = field(default_factory=list)

    def differs(self, file: str, what: object) -> None:
        self.differences.append((clean(file), clean(what)))


@dataclass(kw_only=True)
class SharedFacts:
    """Facts that runs on the same data must share, taken from the first of them."""

    cards: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    splits: dict[tuple[Any, ...], Mapping[str, Any]] = field(default_factory=dict)
    tested: dict[tuple[Any, ...], Predictions] = field(default_factory=dict)
    imported: dict[tuple[str, ...], dict[int, tuple[str, str]]] = field(default_factory=dict)  # by fold: file, hash
    # sharing: by version of the data; scored: by version of the data and of zoo, the scores of every run
    sharing: dict[tuple[str, ...], set[str]] = field(default_factory=dict)
    scored: dict[tuple[Any, ...], dict[str, set[str]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class BundledRun:
    """A finished run of a bundle, as it is stored."""

    file: str  # its folder, relative to the bundle's
    result: Result
    predictions: Mapping[str, Predictions]  # by split
    scores: Mapping[str, Mapping[str, Score]]  # by kind: scores, image_scores


def open_bundle(path: Path) -> Path:
    """Return the folder of a bundle; a zip is unpacked to the cache. Raises ResultsError if it cannot be read."""
    if not path.exists():
        raise ResultsError(f"{path}: no such file or folder", fix="choose a bundle: a folder, a .zip or a .tar.xz")
    if path.is_dir():
        return path
    if not is_archive_name(path.name):
        raise ResultsError(f"{path}: neither a folder nor an archive", fix="choose a bundle")
    try:
        return find_unpacked(path, cache_root())
    except DataError as error:
        raise ResultsError(error.message, fix="request the bundle again", code="bundle") from error


def load_bundle(path: Path, registry: Registry, progress: Progress) -> list[Result]:
    """Verify a bundle and return its runs; raises VerifyError with the first difference."""
    outcome = verify(open_bundle(path), bundle_name(path), registry, progress)
    if outcome.differences:
        file, what = outcome.differences[0]
        more = f" (and {len(outcome.differences) - 1} more)" if len(outcome.differences) > 1 else ""
        fix = f"`zoo verify {shlex.quote(clean(path))}` shows every difference"
        raise VerifyError(f"{path}: {file}: {what}{more}", fix=fix)
    return outcome.results


def verify(folder: Path, name: str, registry: Registry, progress: Progress) -> Verification:
    """Verify a bundle's folder and collect the differences; raises ResultsError for a newer schema."""
    manifest = load_manifest(folder)
    outcome = Verification(bundle=f"{name} {hash_file(folder / MANIFEST)[:8]}", zoo=manifest["zoo"])
    outcome.datasets = [{**part, "here": "not compared"} for part in manifest["datasets"]]
    check_files(folder, manifest["files"], outcome)
    places = list(find_result_folders(folder))
    if not places:
        outcome.differs(MANIFEST, "the bundle holds no runs")
    shared_facts = SharedFacts()
    for done, place in enumerate(places, start=1):
        file = place.relative_to(folder).as_posix()
        try:
            verify_run(place, file, manifest, registry, shared_facts, outcome)
        except ResultsError as error:
            if error.code == "newer-schema":
                raise
            # the other fixes are for one's own results
            outcome.differs(file, str(error) if error.code == "unknown-task" else error.message)
        except Exception as error:  # untrusted files may be invalid in any way
            outcome.differs(file, f"cannot be verified: {type(error).__name__}: {error}")
        progress(done, len(places))
    check_together(shared_facts, manifest, outcome)
    check_imported(shared_facts, outcome)
    return outcome


def check_files(folder: Path, checksums: Mapping[str, str], outcome: Verification) -> None:
    """Compare the files with the manifest: same names, same checksums."""
    paths = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    paths.pop(MANIFEST, None)
    for name, path in paths.items():
        if path.is_symlink():
            outcome.differs(name, "a link, not a file")
        elif name not in checksums:
            outcome.differs(name, "is not in the manifest")
        elif hash_file(path) != checksums[name]:
            outcome.differs(name, "its checksum differs from the manifest's")
    for name in sorted(set(checksums) - set(paths)):
        outcome.differs(name, "is in the manifest but not in the bundle")


def verify_run(
    place: Path,
    file: str,
    manifest: Mapping[str, Any],
    registry: Registry,
    shared_facts: SharedFacts,
    outcome: Verification,
) -> None:
    """Check one run's consistency with the manifest, with other runs on its data, and with its predictions."""
    if any((place / name).is_symlink() for name in (*OF_FINISHED, "result.json")):
        return  # reported by `check_files`; links are not followed
    result = load_result(place)
    check_identity(result, manifest, file, outcome)
    result = compare_with_published(result, registry, file, outcome)
    if result.dataset:
        check_dataset_record(result, shared_facts, file, outcome)
    outcome.results.append(replace(result, bundle=outcome.bundle, provenance="recomputed"))
    if not result.ok:
        for name in OF_FINISHED:
            if (place / name).exists():
                outcome.differs(f"{file}/{name}", f"unexpected file: the run has status {result.status!r}")
        return
    predictions = load_shared(place / "predictions.npz")
    faults = [what for split, part in predictions.items() for what in find_faults(result.card(), split, part)]
    if faults := [*faults, *find_shared_samples(result.run["purpose"], predictions)]:
        for what in faults:
            outcome.differs(f"{file}/predictions.npz", what)
        return  # invalid arrays must not be counted or scored
    stored = {kind: result.read_scores(kind) for kind in ("scores", "image_scores")}
    run = BundledRun(file=file, result=result, predictions=predictions, scores=stored)
    note_imported(run, shared_facts)
    check_image_counts(run, outcome)
    check_same_cases(run, shared_facts, outcome)
    check_scored(run, shared_facts, outcome)
    missing = find_missing_targets(run, outcome)
    if "test" in missing:
        outcome.results[-1] = replace(outcome.results[-1], provenance="stated")
        outcome.not_recomputed[f"{result.run['dataset']}: its targets are not in the bundle"] += sum(
            map(len, stored.values())
        )
    else:
        compare_scores(run, missing, registry, outcome)


def check_identity(result: Result, manifest: Mapping[str, Any], file: str, outcome: Verification) -> None:
    """Check that the id is the hash of the identity, and that identity, run, dataset and manifest agree."""
    if hash_bytes(json.dumps(dict(result.identity), sort_keys=True, ensure_ascii=True)) != result.id:
        outcome.differs(file, "its id is not the hash of its identity")
    if not file.endswith(f".{result.id[:8]}"):
        outcome.differs(file, f"contains run {result.id[:8]}")
    for what in find_contradictions(result.run, result.identity):
        outcome.differs(file, what)
    if not may_be_shown_as(result.run["shown"], result.run):
        outcome.differs(file, f"shown: {result.run['shown']!r} is not a name of the model {result.run['model']!r}")
    planned = read_deviations(result.run.get("deviations", ()))
    if result.deviations[: len(planned)] != planned:
        outcome.differs(file, "deviations: differ from those of its run")
    metric = result.identity.get("primary_metric")
    if result.ok and metric and result.details.get("primary_metric") != metric:
        outcome.differs(file, f"primary_metric: {result.details.get('primary_metric')!r}, {metric!r} in its identity")
    if version_of_data(result) not in {tuple(part[n] for n in VERSION_OF_DATA) for part in manifest["datasets"]}:
        outcome.differs(file, f"the manifest has other content or split hashes for {result.run['dataset']!r}")


def may_be_shown_as(shown: str, run: Mapping[str, Any]) -> bool:
    """Whether a display name belongs to the model: its short or full name, optionally with `.WEIGHTS`.

    Runs from random init may have been requested under the name of any weights.
    """
    for name in (run["model"], split_model_name(run["model"]).architecture):
        tag = shown.removeprefix(f"{name}.")
        if shown == name or (tag != shown and run["init"] == "random") or shown == f"{name}.{run['weights_tag']}":
            return True
    return False


def compare_with_published(result: Result, registry: Registry, file: str, outcome: Verification) -> Result:
    """Add a deviation if the protocol has the label of a published one but other fields.

    This is a note, not a difference: a program that uses zoo as a library may change a field without the label.
    """
    run = read_run(result.run)
    published = registry.protocols.get(run.protocol.name)
    if published is None or published.version != run.protocol.version:
        return result
    if run.protocol.demonstration != published.demonstration:
        outcome.differs(file, f"protocol.demonstration: {published.demonstration} by {published.label}")
    fields = find_undeclared(run, published)
    if not fields:
        return result
    deviation = Deviation("undeclared-fields", (run.protocol.label, ", ".join(fields)))
    outcome.undeclared.append((file, deviation))
    return replace(result, deviations=(*result.deviations, deviation))


def check_dataset_record(result: Result, shared_facts: SharedFacts, file: str, outcome: Verification) -> None:
    """Check that the dataset's record is consistent, and agrees with its run and with other runs on the same data."""
    run, record = result.run, result.dataset
    for name in ("content_hash", "split_hash"):
        if record[name] != run[name]:
            outcome.differs(file, f"{name}: {run[name][:8]} in the run, {record[name][:8]} in its dataset's record")
    if record["name"] != run["dataset"]:
        outcome.differs(file, f"dataset: {run['dataset']!r} in the run, {record['name']!r} in its dataset's record")
    if run["fold"] >= run["num_folds"]:
        outcome.differs(file, f"fold: {run['fold']} of {run['num_folds']}, counted from 0")
    if record["positive"] is not None and record["positive"] >= len(record["labels"]):
        outcome.differs(file, f"positive: label {record['positive']} of {len(record['labels'])}")
    if record["unit"] == "patient" and not record["has_patients"]:
        outcome.differs(file, "unit: patient, but the dataset has no patients")
    for split, counts in record.get("splits", {}).items():
        of_labels = counts.get("labels")
        if of_labels is not None and list(of_labels) != list(dict.fromkeys(record["labels"])):
            outcome.differs(
                file, f"{split}: counts the labels {list(of_labels)}, but the labels are {record['labels']}"
            )
        if find_task(record["task"]).classes and sum((of_labels or {}).values()) != counts["images"]:
            outcome.differs(
                file, f"{split}: {counts['images']} images, but {sum((of_labels or {}).values())} summed over labels"
            )
        if counts["patients"] > counts["images"]:
            outcome.differs(file, f"{split}: {counts['patients']} patients of {counts['images']} images")
        if split == "train" and run.get("num_train") and run["num_train"] != counts["images"]:
            outcome.differs(file, f"train: {run['num_train']} images in the run, {counts['images']} in the record")
    key = *version_of_data(result), run.get("test_hash", "")
    facts = {**{name: record.get(name) for name in SAME_ON_SAME_DATA}, "num_folds": run["num_folds"]}
    first = shared_facts.cards.setdefault(key, facts)
    for name in facts:
        if facts[name] != first[name]:
            outcome.differs(file, f"{name}: {facts[name]!r}, but {first[name]!r} in other runs on the same data")
    for split, counts in record.get("splits", {}).items():
        shuffled = run["seed"] if run["purpose"] == "shuffle" else None  # each shuffle has different counts of labels
        before = shared_facts.splits.setdefault((*key, run["fold"], shuffled, split), counts)
        if not all(same_count(counts[name], before[name]) for name in counts.keys() & before.keys()):
            outcome.differs(file, f"{split}: counts differ from other runs on the same split")
    targets = "shared" if record.get("share_targets", True) else "left out"
    shared_facts.sharing.setdefault(version_of_data(result), set()).add(targets)


def check_together(shared_facts: SharedFacts, manifest: Mapping[str, Any], outcome: Verification) -> None:
    """Check facts that need all runs: the datasets, whether their targets are shared, and the scores of each run."""
    for part in manifest["datasets"]:
        sharing = shared_facts.sharing.get(tuple(part[name] for name in VERSION_OF_DATA))
        versions = {version_of_data(result) for result in outcome.results}
        if sharing is None and tuple(part[name] for name in VERSION_OF_DATA) not in versions:
            outcome.differs(MANIFEST, f"dataset {part['name']}: the bundle has no run on it")
        elif sharing and part["targets"] not in sharing:
            outcome.differs(MANIFEST, f"dataset {part['name']}: targets {part['targets']}, unlike in its runs")
    for files in shared_facts.scored.values():
        expected = set.union(*files.values())
        for file, names in files.items():
            if missing := sorted(expected - names):
                outcome.differs(
                    f"{file}/scores.json", f"has no {', '.join(missing)}, unlike other runs on the same data"
                )


def load_shared(path: Path) -> dict[str, Predictions]:
    """Load untrusted predictions; headers, sizes and types are checked before anything is unpacked."""
    try:
        read_members(path)
    except DataError as error:
        raise ResultsError(error.message, fix=error.fix) from error
    predictions = load_predictions(path)
    if "test" not in predictions:
        raise ResultsError(
            f"{path.name}: predictions of test are missing", fix="make the bundle again with `zoo bundle`"
        )
    return predictions


def note_imported(run: BundledRun, shared_facts: SharedFacts) -> None:
    """Note the hash of imported masks for `check_imported`."""
    described = run.result.run
    if described["purpose"] == "imported":
        key = (*version_of_data(run.result), described["model"], described["predictions"])
        maps = run.predictions["test"].label_maps
        found = "" if maps is None else hash_maps(maps)
        shared_facts.imported.setdefault(key, {})[described["fold"]] = run.file, found


def check_imported(shared_facts: SharedFacts, outcome: Verification) -> None:
    """Check that the masks of all folds have the hash that is part of the runs' ids."""
    for (*_, expected), by_fold in shared_facts.imported.items():
        files, hashes = zip(*(by_fold[fold] for fold in sorted(by_fold)), strict=True)
        if hash_bytes(*hashes) != expected:
            outcome.differs(f"{files[0]}/predictions.npz", "the masks are not those of the run's id, or lack a fold")


def check_image_counts(run: BundledRun, outcome: Verification) -> None:
    """Compare the numbers of images, patients and images per label with the dataset's record."""
    result, file = run.result, run.file
    task, labels = find_task(result.dataset["task"]), result.dataset["labels"]
    for split, part in run.predictions.items():
        if len(np.unique(part.sample_ids)) != len(part):
            outcome.differs(file, f"{split}: duplicate sample ids")
        recorded = result.dataset["splits"][split]
        if len(part.targets):
            counted = count_images(task, labels, part.targets, part.patients)
        else:
            counted = {"images": len(part), "patients": len(np.unique(part.patients))}
        for name in ("images", "patients"):
            if recorded[name] != counted[name]:
                outcome.differs(file, f"{split}: {counted[name]} {name}, {recorded[name]} in the record")
        if counted.get("labels") != recorded.get("labels") and len(part.targets):
            numbers = list(counted["labels"].values())
            outcome.differs(file, f"{split}: images per label {numbers} differ from the record")
        for name in ("mean", "std"):
            if name in counted and not same_count(recorded.get(name), counted[name]):
                outcome.differs(file, f"{split}: {name} of targets {counted[name]}, {recorded.get(name)} in the record")
        unit = result.card().unit_of(split)
        owners = part.patients if unit == "patient" else clips_of(part.sample_ids)
        if unit == "clip" and np.array_equal(owners, part.sample_ids):
            outcome.differs(file, f"{split}: the unit is the clip, but no sample is a frame")
        if unit != "image" and len(part.targets) and find_conflict(task, owners, part.targets):
            outcome.differs(file, f"{split}: the unit is the {unit}, but images of one {unit} have different targets")


def same_count(recorded: object, counted: object) -> bool:
    """Compare counts exactly and means within a tolerance: their last digits depend on the order of rows."""
    if isinstance(recorded, float) and isinstance(counted, float):
        return math.isclose(recorded, counted, rel_tol=1e-5, abs_tol=VERIFY_TOLERANCE)
    return recorded == counted


def find_missing_targets(run: BundledRun, outcome: Verification) -> list[str]:
    """Return the splits without targets; a difference unless the dataset does not share them, in all splits."""
    predictions, place = run.predictions, f"{run.file}/predictions.npz"
    expected = expected_splits(run.result.run["purpose"])
    missing = [split for split in expected if split not in predictions or len(predictions[split].targets) == 0]
    shared = run.result.dataset.get("share_targets", True)
    for split in missing:
        if split not in predictions:
            outcome.differs(place, f"predictions of {split} are missing")
        elif shared or len(missing) < len(expected):
            reason = "its dataset shares them" if shared else "another split has them"
            outcome.differs(place, f"{split}: targets are missing, but {reason}")
    return missing


def check_same_cases(run: BundledRun, shared_facts: SharedFacts, outcome: Verification) -> None:
    """Check that runs on the same fold and version of the data have the same test samples and targets."""
    result, test = run.result, run.predictions["test"]
    key = *version_of_data(result), result.run.get("test_hash", ""), result.run["fold"]
    first = shared_facts.tested.setdefault(key, test)
    for name in ("sample_ids", "patients", "targets"):
        if not np.array_equal(getattr(first, name), getattr(test, name), equal_nan=name == "targets"):
            outcome.differs(run.file, f"test: {name} differ from other runs on the same split")


def check_scored(run: BundledRun, shared_facts: SharedFacts, outcome: Verification) -> None:
    """Check that the primary metric is scored, image scores exist if the unit is not the image, and collect metrics.

    The metrics of a task depend on the version of zoo, so `check_together` compares runs of the same version.
    """
    result, stored, place = run.result, run.scores, f"{run.file}/scores.json"
    names = set(stored["scores"])
    primary = result.details.get("primary_metric")
    if not names:
        outcome.differs(place, "has no scores")
    elif primary in find_task(result.dataset["task"]).metrics and primary not in names:
        outcome.differs(place, f"has no {primary}, the primary metric of its run")
    expected = names if result.dataset["unit"] != "image" else set()
    if set(stored["image_scores"]) != expected:
        outcome.differs(place, f"image_scores: {len(stored['image_scores'])}, expected {len(expected)}")
    key = *version_of_data(result), result.versions.get("zoo-bench", "")
    task_metrics = names.intersection(find_task(result.dataset["task"]).metrics)
    shared_facts.scored.setdefault(key, {})[run.file] = task_metrics


def compare_scores(run: BundledRun, missing: Sequence[str], registry: Registry, outcome: Verification) -> None:
    """Recompute the scores and compare values and intervals with those stored.

    Without the targets of val there is no threshold; then only metrics independent of decisions are compared.
    """
    metrics = {}
    result, stored = run.result, run.scores
    predictions = {split: part for split, part in run.predictions.items() if split not in missing}
    threshold: ThresholdRule = result.run["protocol"]["threshold"]
    for name, score in stored["scores"].items():
        if name not in registry.metrics:
            outcome.not_recomputed[f"{name}: no installed plugin provides it"] += 1
        elif registry.metrics[name].version != score.version:
            versions = f"version {score.version} in the bundle, {registry.metrics[name].version} here"
            outcome.not_recomputed[f"{name}: {versions}"] += 1
        elif missing and threshold == "val" and needs_threshold(registry.metrics[name], result, predictions):
            outcome.not_recomputed[f"{name}: the targets of val, which determine the threshold, are missing"] += 1
        else:
            metrics[name] = registry.metrics[name]
    recomputed = score_run(predictions, metrics, result.card(), threshold=threshold)
    for kind, scores in stored.items():
        for name in metrics.keys() & scores.keys():
            stored_score, new_score = scores[name], recomputed[kind][name]
            parts = ["value"]
            outcome.num_scores += 1
            if stored_score.method == new_score.method:
                parts += ["low", "high"]
                outcome.num_intervals += new_score.low is not None
            else:  # another version of zoo uses another method; both are right
                before, now = (each.method.text if each.method else "none" for each in (stored_score, new_score))
                methods = f"{before} in the bundle, {now} here"
                outcome.not_recomputed[f"interval of {name}: {methods}"] += 1
            for part in parts:
                numbers = getattr(stored_score, part), getattr(new_score, part)
                if not same_score(*numbers):
                    what = f"{kind}: {name} {part}: {numbers[0]} in the bundle, {numbers[1]} recomputed"
                    outcome.differs(f"{run.file}/scores.json", what)


def needs_threshold(metric: MetricSpec, result: Result, predictions: Mapping[str, Predictions]) -> bool:
    """Whether a metric depends on decisions: compare its value for all-correct and all-wrong decisions."""
    decided = decide(predictions, result.card(), "half")
    if not decided.request.task.yes_no:
        return False  # the class with the largest probability, or no decisions
    try:
        request = decided.request_of(metric)
    except Undefined:
        return False  # it has no value with any decisions
    decisions = (
        (request.targets, 1 - request.targets) if request.task.classes else (request.targets == 1, request.targets != 1)
    )
    try:
        best, worst = (compute(metric, replace(request, decisions=each)) for each in decisions)
    except (Exception, SystemExit):  # a plugin's metric may raise anything
        return True
    return best != worst


def same_score(stored: float | None, recomputed: float | None) -> bool:
    if stored is None or recomputed is None:
        return stored is recomputed
    return abs(stored - recomputed) <= VERIFY_TOLERANCE


def compare_data(outcome: Verification, source: OpenDataset, fingerprints: Fingerprints) -> None:
    """Compare the hashes of a dataset on this machine, with its official and a drawn split, with the bundle's."""
    versions = {each.spec.name: each for each in (source, discard_split(source))}
    parts = [part for part in outcome.datasets if part["name"] in versions]
    if not parts:
        raise ResultsError(
            f"the bundle has no dataset {source.spec.name!r}",
            fix=f"its datasets: {', '.join(p['name'] for p in outcome.datasets)}",
        )
    for part in parts:
        name, version = part["name"], versions[part["name"]]
        part["here"] = "same"
        if part["content_hash"] != version.content_hash:
            part["here"] = "another content"
        else:
            of_part = [r for r in outcome.results if version_of_data(r) == tuple(part[n] for n in VERSION_OF_DATA)]
            folds = {result.run["num_folds"] for result in of_part}
            labels = [without_paths(label) for label in version.spec.labels]
            if any(result.dataset and list(result.dataset["labels"]) != labels for result in of_part):
                part["here"] = "other labels"
            elif max(folds, default=0) > MAX_REDRAWN_FOLDS:
                part["here"] = f"the same content on this machine; a split in {max(folds)} folds was not redrawn"
                continue
            elif not any(same_split(version, fingerprints, part["split_hash"], number) for number in folds):
                part["here"] = "another split"
        if part["here"] != "same":
            outcome.differs(MANIFEST, f"dataset {name}: {part['here']} than on this machine")


def same_split(source: OpenDataset, fingerprints: Fingerprints, expected: str, num_folds: int) -> bool:
    """Whether this version of zoo reproduces the split: official or in folds, with leaks or without."""
    for folds, drop_leaks in itertools.product((None, num_folds), (False, True)):
        try:
            if draw_split(source, folds, fingerprints, drop_leaks=drop_leaks).hash == expected:
                return True
        except DataError:  # an official split has no folds
            continue
    return False


def mark_reproduced(results: Sequence[Result], own: Sequence[Result]) -> list[Result]:
    """Mark results of a bundle whose run was repeated on this machine with the same predictions as "reproduced"."""
    local = {result.id: result for result in own if result.ok and not result.bundle}
    return [
        replace(result, provenance="reproduced")
        if result.ok and result.id in local and same_predictions(result, local[result.id])
        else result
        for result in results
    ]


def same_predictions(shared: Result, own: Result) -> bool:
    """Whether two runs have equal predictions within .001.

    Pseudonyms hide which rows correspond, so the sorted values are compared, by column and by class.
    """
    assert shared.folder is not None
    bundled, local = load_predictions(shared.folder / "predictions.npz")["test"], own.predictions()["test"]
    if bundled.probabilities.shape != local.probabilities.shape or np.array_equal(bundled.sample_ids, local.sample_ids):
        return False  # local results with the same pseudonyms are a copy of the bundle
    if len(bundled.targets) == 0:
        return values_close(np.sort(bundled.probabilities, axis=0), np.sort(local.probabilities, axis=0))
    if bundled.targets.ndim == 1 and np.issubdtype(bundled.targets.dtype, np.integer):
        classes = np.unique(local.targets)
        parts = [
            (bundled.probabilities[bundled.targets == c], local.probabilities[local.targets == c]) for c in classes
        ]
    else:
        columns = [np.column_stack([part.targets, part.probabilities]) for part in (bundled, local)]
        parts = [(columns[0], columns[1])]
    return all(a.shape == b.shape and values_close(np.sort(a, axis=0), np.sort(b, axis=0)) for a, b in parts)


def values_close(one: Array, other: Array) -> bool:
    return np.allclose(one, other, rtol=REPRODUCED_TOLERANCE, atol=REPRODUCED_TOLERANCE, equal_nan=True)
