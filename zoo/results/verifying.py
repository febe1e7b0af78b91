"""Verify a bundle: compute every score again and compare every hash.

A bundle is a stranger's: nothing in it is believed or executed. Invented predictions cannot be told from real ones.
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
from zoo.data.checks import find_disagreement
from zoo.data.dataset import count_images
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset, discard_split
from zoo.data.splits import draw_split
from zoo.errors import DataError, ResultsError, VerifyError, clean
from zoo.evaluation.predictions import STORED_SPLITS, Predictions, load_predictions
from zoo.evaluation.scoring import score_run
from zoo.evaluation.thresholds import ThresholdRule, decide
from zoo.evaluation.values import Score, compute
from zoo.images.formats import clips_of
from zoo.registry.lookup import Registry, split_model_name
from zoo.results.bundles import MANIFEST, VERSION_OF_DATA, files_below, load_manifest, version_of_data
from zoo.results.pseudonyms import without_paths
from zoo.results.runs import find_contradictions, find_unnamed, read_run
from zoo.results.soundness import find_faults
from zoo.results.store import Result, find_result_folders, load_result
from zoo.sources.archives import find_unpacked, is_archive_name
from zoo.sources.arrays import read_members
from zoo.specs.metric import MetricSpec
from zoo.system.files import cache_root, hash_bytes, hash_file
from zoo.system.progress import Progress
from zoo.tasks.kinds import MULTILABEL, find_task

VERIFY_TOLERANCE = 1e-6
MAX_REDRAWN_FOLDS = 100  # that are drawn anew: scikit-learn needs hours for thousands, and the bundle says how many
OF_FINISHED = ("scores.json", "predictions.npz")  # a run that failed has neither
# Of a card, what follows from the hashes of content and split, and decides what is scored.
SAME_ON_SAME_DATA = ("task", "labels", "positive", "unit", "val_unit", "has_patients")
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
    notes: list[str] = field(default_factory=list)  # what is no difference, and must be known
    not_recomputed: Counter[str] = field(default_factory=Counter)  # why -> scores
    datasets: list[dict[str, Any]] = field(default_factory=list)

    def differs(self, file: str, what: object) -> None:
        self.differences.append((clean(file), clean(what)))


@dataclass(kw_only=True)
class NeighborImages:
    """What runs on the same data must have in common, as the first of them has it."""

    cards: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    splits: dict[tuple[Any, ...], Mapping[str, Any]] = field(default_factory=dict)
    tested: dict[tuple[Any, ...], Predictions] = field(default_factory=dict)
    # by version of the data, whether targets are shared; by that and zoo's version, the scores of every run
    sharing: dict[tuple[str, ...], set[str]] = field(default_factory=dict)
    scored: dict[tuple[Any, ...], dict[str, set[str]]] = field(default_factory=dict)


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
    neighbours = NeighborImages()
    for done, place in enumerate(places, start=1):
        file = place.relative_to(folder).as_posix()
        try:
            verify_run(place, file, manifest, registry, neighbours, found)
        except ResultsError as error:
            if error.code == "newer-schema":
                raise
            found.differs(file, error.message)
        except Exception as error:  # a stranger's file may be wrong in any way
            found.differs(file, f"cannot be verified: {type(error).__name__}: {error}")
        progress(done, len(places))
    check_together(neighbours, manifest, found)
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


def verify_run(
    place: Path,
    file: str,
    manifest: Mapping[str, Any],
    registry: Registry,
    neighbours: NeighborImages,
    found: Verification,
) -> None:
    """Compare one run with itself, with the manifest, with the other runs on its data, and with its predictions."""
    if any((place / name).is_symlink() for name in (*OF_FINISHED, "result.json")):
        return  # said already; what it leads to is not opened
    result = load_result(place)
    check_identity(result, manifest, file, found)
    result = compare_with_published(result, registry, file, found)
    if result.dataset:
        check_dataset_record(result, neighbours, file, found)
    found.results.append(replace(result, bundle=found.bundle, provenance="recomputed"))
    if not result.ok:
        for name in OF_FINISHED:
            if (place / name).exists():
                found.differs(f"{file}/{name}", f"its run is {result.status!r}: a run that did not finish has none")
        return
    predictions = load_shared(place / "predictions.npz")
    if faults := [what for split, part in predictions.items() for what in find_faults(result.card(), split, part)]:
        for what in faults:
            found.differs(f"{file}/predictions.npz", what)
        return  # nothing is counted or scored of arrays that are none of what they may be
    check_image_counts(result, predictions, file, found)
    check_same_cases(result, predictions["test"], neighbours, file, found)
    stored = {kind: result.read_scores(kind) for kind in ("scores", "image_scores")}
    check_scored(result, stored, neighbours, file, found)
    missing = find_missing_targets(result, predictions, file, found)
    if "test" in missing:
        found.results[-1] = replace(found.results[-1], provenance="stated")
        found.not_recomputed[f"{result.run['dataset']}: its targets are not in the bundle"] += sum(
            map(len, stored.values())
        )
    else:
        compare_scores(result, predictions, missing, stored, registry, file, found)


def check_identity(result: Result, manifest: Mapping[str, Any], file: str, found: Verification) -> None:
    """The id is the hash of the identity, which says what the run and the dataset's card say; the manifest knows it."""
    if hash_bytes(json.dumps(dict(result.identity), sort_keys=True, ensure_ascii=True)) != result.id:
        found.differs(file, "its id is not the hash of its identity")
    if not file.endswith(f".{result.id[:8]}"):
        found.differs(file, f"holds the run {result.id[:8]}")
    for what in find_contradictions(result.run, result.identity):
        found.differs(file, what)
    if not may_be_shown_as(result.run["shown"], result.run):
        found.differs(file, f"shown: {result.run['shown']!r}, which is no name of the model {result.run['model']!r}")
    told = tuple(result.run["deviations"])
    if result.deviations[: len(told)] != told:
        found.differs(file, "deviations: other than its run's own")
    asked = result.identity.get("primary_metric")
    if result.ok and asked and result.details.get("primary_metric") != asked:
        found.differs(file, f"primary_metric: {result.details.get('primary_metric')!r}, {asked!r} in its identity")
    if version_of_data(result) not in {tuple(part[n] for n in VERSION_OF_DATA) for part in manifest["datasets"]}:
        found.differs(file, f"its dataset or split hash is not the manifest's of {result.run['dataset']!r}")


def may_be_shown_as(shown: str, run: Mapping[str, Any]) -> bool:
    """Whether the name on the board is one that planning makes of the model's: short or whole, its weights after a dot.

    Random init has no weights, and may still have been asked for under the name of some.
    """
    for name in (run["model"], split_model_name(run["model"]).architecture):
        tag = shown.removeprefix(f"{name}.")
        if shown == name or (tag != shown and run["init"] == "random") or shown == f"{name}.{run['weights_tag']}":
            return True
    return False


def compare_with_published(result: Result, registry: Registry, file: str, found: Verification) -> Result:
    """The result, with a deviation where its protocol is called as a published one and is another.

    Its fields are its identity's; the overrides in its label are only said, so that some may be missing. No difference:
    whoever calls zoo as a library may change a field and not the label.
    """
    run = read_run(result.run)
    published = registry.protocols.get(run.protocol.name)
    if published is None or published.version != run.protocol.version:
        return result
    if run.protocol.demonstration != published.demonstration:
        found.differs(file, f"protocol.demonstration: {published.demonstration} by {published.label}")
    other = find_unnamed(run, published)
    if not other:
        return result
    told = f"protocol: called {run.protocol.label}, which has another {', '.join(other)}"
    found.notes.append(f"{file}: {told}")
    return replace(result, deviations=(*result.deviations, told))


def check_dataset_record(result: Result, neighbours: NeighborImages, file: str, found: Verification) -> None:
    """The dataset's card fits itself, its run, and the cards of the other runs on the same data."""
    run, card = result.run, result.dataset
    for name in ("content_hash", "split_hash"):
        if card[name] != run[name]:
            found.differs(file, f"{name}: {run[name][:8]} of the run, {card[name][:8]} of its dataset")
    if card["name"] != run["dataset"]:
        found.differs(file, f"dataset: {run['dataset']!r} of the run, {card['name']!r} of its card")
    if run["fold"] >= run["num_folds"]:
        found.differs(file, f"fold: {run['fold']} of {run['num_folds']}, counted from 0")
    if card["positive"] is not None and card["positive"] >= len(card["labels"]):
        found.differs(file, f"positive: label {card['positive']} of {len(card['labels'])}")
    if card["unit"] == "patient" and not card["has_patients"]:
        found.differs(file, "unit: the patient, and its card knows no patients")
    for split, told in card.get("splits", {}).items():
        of_labels = told.get("labels")
        if of_labels is not None and list(of_labels) != list(dict.fromkeys(card["labels"])):
            found.differs(file, f"{split}: counts the labels {list(of_labels)}, and its card has {card['labels']}")
        if find_task(card["task"]).classes and sum((of_labels or {}).values()) != told["images"]:
            found.differs(file, f"{split}: {told['images']} images, of its labels {sum((of_labels or {}).values())}")
        if told["patients"] > told["images"]:
            found.differs(file, f"{split}: {told['patients']} patients of {told['images']} images")
        if split == "train" and run.get("num_train") and run["num_train"] != told["images"]:
            found.differs(file, f"train: {run['num_train']} images of the run, and {told['images']} by its card")
    key = *version_of_data(result), run.get("test_hash", "")
    facts = {**{name: card.get(name) for name in SAME_ON_SAME_DATA}, "num_folds": run["num_folds"]}
    first = neighbours.cards.setdefault(key, facts)
    for name in facts:
        if facts[name] != first[name]:
            found.differs(file, f"{name}: {facts[name]!r}, and {first[name]!r} of other runs on the same data")
    for split, told in card.get("splits", {}).items():
        shuffled = run["seed"] if run["purpose"] == "shuffle" else None  # each shuffle counts labels of its own
        before = neighbours.splits.setdefault((*key, run["fold"], shuffled, split), told)
        if not all(same_count(told[name], before[name]) for name in told.keys() & before.keys()):
            found.differs(file, f"{split}: other counts than of other runs on the same split")
    targets = "shared" if card.get("share_targets", True) else "left out"
    neighbours.sharing.setdefault(version_of_data(result), set()).add(targets)


def check_together(neighbours: NeighborImages, manifest: Mapping[str, Any], found: Verification) -> None:
    """What only all runs tell: which data there are, whether their targets are shared, and which scores each has."""
    for part in manifest["datasets"]:
        sharing = neighbours.sharing.get(tuple(part[name] for name in VERSION_OF_DATA))
        versions = {version_of_data(result) for result in found.results}
        if sharing is None and tuple(part[name] for name in VERSION_OF_DATA) not in versions:
            found.differs(MANIFEST, f"dataset {part['name']}: the bundle holds no run on it")
        elif sharing and part["targets"] not in sharing:
            found.differs(MANIFEST, f"dataset {part['name']}: targets {part['targets']}, by its card otherwise")
    for files in neighbours.scored.values():
        asked = set.union(*files.values())
        for file, names in files.items():
            if missing := sorted(asked - names):
                found.differs(f"{file}/scores.json", f"has no {', '.join(missing)}, which its task asks for")


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


def check_image_counts(result: Result, predictions: Mapping[str, Predictions], file: str, found: Verification) -> None:
    """The numbers of images, patients and images of each label are what the dataset's card tells."""
    task, labels = find_task(result.dataset["task"]), result.dataset["labels"]
    for split, part in predictions.items():
        if len(np.unique(part.sample_ids)) != len(part):
            found.differs(file, f"{split}: a sample stands in several rows")
        told = result.dataset["splits"][split]
        if len(part.targets):
            counted = count_images(task, labels, part.targets, part.patients)
        else:
            counted = {"images": len(part), "patients": len(np.unique(part.patients))}
        for name in ("images", "patients"):
            if told[name] != counted[name]:
                found.differs(file, f"{split}: {counted[name]} {name}, and {told[name]} by its card")
        if counted.get("labels") != told.get("labels") and len(part.targets):
            numbers = list(counted["labels"].values())
            found.differs(file, f"{split}: images of each label are {numbers}, other than its card says")
        for name in ("mean", "std"):
            if name in counted and not same_count(told.get(name), counted[name]):
                found.differs(file, f"{split}: {name} of its targets {counted[name]}, and {told.get(name)} by its card")
        unit = result.card().unit_of(split)
        owners = part.patients if unit == "patient" else clips_of(part.sample_ids)
        if unit == "clip" and np.array_equal(owners, part.sample_ids):
            found.differs(file, f"{split}: the unit is the clip, and no sample is a frame of one")
        if unit != "image" and len(part.targets) and find_disagreement(owners, part.targets):
            found.differs(file, f"{split}: the unit is the {unit}, and images of one have different targets")


def same_count(told: object, counted: object) -> bool:
    """Whether two counts are one, or two means of the same targets: their last digits hang on the order of the rows."""
    if isinstance(told, float) and isinstance(counted, float):
        return math.isclose(told, counted, rel_tol=1e-5, abs_tol=VERIFY_TOLERANCE)
    return told == counted


def find_missing_targets(
    result: Result, predictions: Mapping[str, Predictions], file: str, found: Verification
) -> list[str]:
    """The splits without targets: a difference unless the card says that they stay at home, and then all of them do."""
    missing = [split for split in STORED_SPLITS if split not in predictions or len(predictions[split].targets) == 0]
    shared = result.dataset.get("share_targets", True)
    for split in missing:
        if split not in predictions:
            found.differs(f"{file}/predictions.npz", f"holds no predictions of {split}")
        elif shared or len(missing) < len(STORED_SPLITS):
            why = "its card says that they are shared" if shared else "another split has them"
            found.differs(f"{file}/predictions.npz", f"{split}: its targets are missing, and {why}")
    return missing


def check_same_cases(
    result: Result, test: Predictions, neighbours: NeighborImages, file: str, found: Verification
) -> None:
    """All runs on one fold of one version of the data were tested on the same samples with the same targets."""
    key = *version_of_data(result), result.run.get("test_hash", ""), result.run["fold"]
    first = neighbours.tested.setdefault(key, test)
    for name in ("sample_ids", "patients", "targets"):
        if not np.array_equal(getattr(first, name), getattr(test, name), equal_nan=name == "targets"):
            found.differs(file, f"test: other {name} than the other runs on the same split")


def check_scored(
    result: Result,
    stored: Mapping[str, Mapping[str, Score]],
    neighbours: NeighborImages,
    file: str,
    found: Verification,
) -> None:
    """The run's primary metric is scored; images as well where the unit is another; the task's metrics as by its likes.

    Which metrics a task asks for is another matter in another version of zoo, so runs of one version are compared.
    """
    place, names = f"{file}/scores.json", set(stored["scores"])
    primary = result.details.get("primary_metric")
    if not names:
        found.differs(place, "has no scores")
    elif primary in find_task(result.dataset["task"]).metrics and primary not in names:
        found.differs(place, f"has no {primary}, by which its run was selected")
    beside = names if result.dataset["unit"] != "image" else set()
    if set(stored["image_scores"]) != beside:
        found.differs(place, f"image_scores: {len(stored['image_scores'])}, expected {len(beside)}")
    key = *version_of_data(result), result.versions.get("zoo-bench", "")
    asked = names.intersection(find_task(result.dataset["task"]).metrics)
    neighbours.scored.setdefault(key, {})[file] = asked


def compare_scores(
    result: Result,
    predictions: Mapping[str, Predictions],
    missing: Sequence[str],
    stored: Mapping[str, Mapping[str, Score]],
    registry: Registry,
    file: str,
    found: Verification,
) -> None:
    """Score the predictions again and compare values and intervals with those stored.

    Where the targets of val are missing no threshold is known: only metrics that look at no decision are compared.
    """
    metrics = {}
    predictions = {split: part for split, part in predictions.items() if split not in missing}
    threshold: ThresholdRule = result.run["protocol"]["threshold"]
    for name, score in stored["scores"].items():
        if name not in registry.metrics:
            found.not_recomputed[f"{name}: no plugin here gives it"] += 1
        elif registry.metrics[name].version != score.version:
            versions = f"version {score.version} in the bundle, {registry.metrics[name].version} here"
            found.not_recomputed[f"{name}: {versions}"] += 1
        elif missing and threshold == "val" and needs_threshold(registry.metrics[name], result, predictions):
            found.not_recomputed[f"{name}: the targets of val, by which decisions are made, are missing"] += 1
        else:
            metrics[name] = registry.metrics[name]
    again = score_run(predictions, metrics, result.card(), threshold=threshold)
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
                if not same_score(*numbers):
                    what = f"{kind}: {name} {part}: {numbers[0]} in the bundle, {numbers[1]} recomputed"
                    found.differs(f"{file}/scores.json", what)


def needs_threshold(metric: MetricSpec, result: Result, predictions: Mapping[str, Predictions]) -> bool:
    """Whether other decisions give another score: tried with those that are all right, and all wrong."""
    request = decide(predictions, result.card(), "half").request
    if request.task.name not in ("binary", "multilabel"):
        return False  # the largest probability decides, or nothing is decided
    right = request.targets == 1
    decisions = (right, ~right) if request.task == MULTILABEL else (request.targets, 1 - request.targets)
    try:
        best, worst = (compute(metric, replace(request, decisions=each)) for each in decisions)
    except (Exception, SystemExit):  # whatever a metric raises of such decisions
        return True
    return best != worst


def same_score(told: float | None, computed: float | None) -> bool:
    if told is None or computed is None:
        return told is computed
    return abs(told - computed) <= VERIFY_TOLERANCE


def compare_data(found: Verification, source: OpenDataset, fingerprints: Fingerprints) -> None:
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
            of_part = [r for r in found.results if version_of_data(r) == tuple(part[n] for n in VERSION_OF_DATA)]
            folds = {result.run["num_folds"] for result in of_part}
            labels = [without_paths(label) for label in version.spec.labels]
            if any(result.dataset and list(result.dataset["labels"]) != labels for result in of_part):
                part["here"] = "other labels"
            elif max(folds, default=0) > MAX_REDRAWN_FOLDS:
                part["here"] = f"the same content on this machine; a split in {max(folds)} folds is not drawn again"
                continue
            elif not any(same_split(version, fingerprints, part["split_hash"], number) for number in folds):
                part["here"] = "another split"
        if part["here"] != "same":
            found.differs(MANIFEST, f"dataset {name}: {part['here']} than on this machine")


def same_split(source: OpenDataset, fingerprints: Fingerprints, expected: str, num_folds: int) -> bool:
    """Whether the split is what this zoo makes of the data: an official one or as many folds, with leaks or without."""
    for folds, drop_leaks in itertools.product((None, num_folds), (False, True)):
        try:
            if draw_split(source, folds, fingerprints, drop_leaks=drop_leaks).hash == expected:
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
        return values_close(np.sort(theirs.probabilities, axis=0), np.sort(mine.probabilities, axis=0))
    if theirs.targets.ndim == 1 and np.issubdtype(theirs.targets.dtype, np.integer):
        classes = np.unique(mine.targets)
        parts = [(theirs.probabilities[theirs.targets == c], mine.probabilities[mine.targets == c]) for c in classes]
    else:
        columns = [np.column_stack([part.targets, part.probabilities]) for part in (theirs, mine)]
        parts = [(columns[0], columns[1])]
    return all(a.shape == b.shape and values_close(np.sort(a, axis=0), np.sort(b, axis=0)) for a, b in parts)


def values_close(one: Array, other: Array) -> bool:
    return np.allclose(one, other, rtol=REPRODUCED_TOLERANCE, atol=REPRODUCED_TOLERANCE, equal_nan=True)


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
        "notes": [clean(note) for note in found.notes],
        "datasets": found.datasets,
        "cannot_detect": CANNOT_DETECT,
    }
