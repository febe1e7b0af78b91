"""Find labels that do not fit their images, by what a frozen network learns from the other images.

The probabilities of every image come from a linear head fitted on other patients; confident learning (Northcutt et al.,
JAIR 70, 2021; cleanlab) tells by them which labels given are likely to be wrong. No model is chosen by any of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.audit.leaks import MOST_NAMED, Finding, Suspect, note
from zoo.data.dataset import open_fold
from zoo.data.decoded import cache_images
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset, read_by_train
from zoo.data.pixels import open_pixels
from zoo.data.splits import Split, connected_groups
from zoo.errors import UsageError
from zoo.models.building import build_model, feature_extractor
from zoo.models.features import cached_features
from zoo.models.identity import nearest_size
from zoo.models.weights import InitialWeights
from zoo.specs.model import ModelSpec
from zoo.tasks.kinds import BINARY, MULTICLASS, REGRESSION
from zoo.training.probes import solve_linear

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.system.progress import Console


CHECK = "label-noise"
NOISE_FOLDS = 5
MIN_IMAGES = 10  # of a class: fewer teach nothing, and their labels are not judged
MIN_AUROC = 0.75  # below it a network doubts more than it knows: 364 of 1,000 chest X-rays at .6
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.01)  # of the head: the one whose out-of-fold log loss is least
MIN_PROBABILITY = (
    128  # px: smaller images are enlarged, a network sees too little in 28; on BreastMNIST .02 AUROC over 64
)
NOT_MENDED = "look at them: a rare finding is no wrong label; --fix leaves none of them out"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network whose features are used as they are."""

    shown: str
    spec: ModelSpec
    weights: InitialWeights
    network: str = ""  # suites.identify_network


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelDoubt:
    """Of one question of a set (its class; or whether a label applies) what is given and what the others teach."""

    rows: Array  # (n,) of the samples
    label: str  # "" where the question is the class
    names: tuple[str, ...]  # of the answers
    given: Array  # (n,) int64
    probabilities: Array  # (n, answers), out of fold

    @property
    def auroc(self) -> float:
        """How well the answers are told apart, the mean over them."""
        from sklearn.metrics import roc_auc_score

        areas = [
            roc_auc_score(self.given == answer, self.probabilities[:, answer]) for answer in range(len(self.names))
        ]
        return float(np.mean(areas))


def find_label_noise(
    source: OpenDataset,
    split: Split,
    fingerprints: Fingerprints,
    backbone: Backbone,
    *,
    cache: Path,
    device: str,
    console: Console,
) -> Finding:
    """The labels in doubt, of all splits, the least fitting first; or why none was looked for."""
    if source.task == REGRESSION:
        return note(CHECK, "not looked for: the targets are quantities")
    questions = list_questions(source)
    if not questions:
        return note(CHECK, f"not looked for: under {MIN_IMAGES} images of two answers teach nothing")
    features = compute_features(source, split, backbone, cache, device, console)
    groups, _ = connected_groups(source, fingerprints)
    doubts = []
    with console.counting(f"fitting heads on {source.spec.name}", "heads") as progress:
        for number, (rows, label, names, given) in enumerate(questions, start=1):
            probabilities = predict_out_of_fold(features[rows], given, groups[rows])
            doubts.append(LabelDoubt(rows=rows, label=label, names=names, given=given, probabilities=probabilities))
            progress(number, len(questions))
    return summarize_doubts(doubts, source, backbone)


def summarize_doubts(doubts: list[LabelDoubt], source: OpenDataset, backbone: Backbone) -> Finding:
    """What the features can judge, and which labels they doubt."""
    judged = [doubt for doubt in doubts if doubt.auroc >= MIN_AUROC]
    how = f"{backbone.shown}, out of fold" + (" by patient" if source.has_patients else "")
    if not judged:
        best = max(doubt.auroc for doubt in doubts)
        return note(
            CHECK, f"not judged: {how}, tell the labels apart too little, AUROC {best:.2f}; try other --features"
        )
    suspects = sorted((s for doubt in judged for s in name_suspects(doubt, source)), key=lambda suspect: suspect.score)
    samples = tuple(dict.fromkeys(suspect.sample for suspect in suspects))
    unjudged = (
        f"; not judged: {len(doubts) - len(judged)} labels of under {MIN_AUROC}" if len(judged) < len(doubts) else ""
    )
    return Finding(
        check=CHECK,
        verdict="warn" if suspects else "ok",
        splits=(),
        samples=samples[:MOST_NAMED],
        count=len(suspects),
        message=f"{len(suspects)} of {sum(len(doubt.rows) for doubt in judged)} labels, of {len(samples)} images, are "
        f"in doubt: {how}, AUROC {np.mean([doubt.auroc for doubt in judged]):.2f}{unjudged}",
        fix=NOT_MENDED if suspects else "",
        suspects=tuple(suspects),
    )


def require_cleanlab() -> None:
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--label-noise needs cleanlab", fix='pip install "zoo-bench[noise]"', code="cleanlab-missing"
        ) from error


# --- features --------------------------------------------------------------------------------------------------------
def compute_features(
    source: OpenDataset, split: Split, backbone: Backbone, cache: Path, device: str, console: Console
) -> Array:
    """Features float64 (N, D) of every image, each column with mean 0 and deviation 1; kept in the cache."""
    spec, weights = backbone.spec, backbone.weights
    source = read_by_train(source, split.folds[0] == "train")
    size = nearest_size(spec, max(MIN_PROBABILITY, source.spec.image_size or spec.image_size))
    with console.counting(f"decoding {source.spec.name} at {size} px", "images") as progress:
        images = cache_images(source, size, cache, progress)
    dataset = open_fold(source, split, 0, images)
    mean, std = weights.normalization(spec)
    module = build_model(
        spec,
        num_outputs=2,
        channels=dataset.channels,
        image_size=size,
        weights=weights.path,
        tag=weights.build_tag,
    )
    module = module.eval().to(device)
    pixels = open_pixels(dataset, mean, std, device)
    identity = [spec.name, weights.digest, source.content_hash, size, dataset.channels, list(dataset.intensity)]
    identity += [list(mean), list(std), device, backbone.network]
    with console.counting(f"{source.spec.name}: {backbone.shown}", "images") as progress:
        extract = counted(feature_extractor(spec, module), len(source.sample_ids), progress)
        found = cached_features(extract, pixels, "fp32", cache=cache, identity=("label-noise", json.dumps(identity)))
    values = found.values.numpy().astype(np.float64)
    spread = values.std(axis=0)
    values = values[:, spread > 1e-8]
    standard: Array = (values - values.mean(axis=0)) / spread[spread > 1e-8]
    return standard


def counted(
    extract: Callable[[Tensor], Tensor], total: int, progress: Callable[[int, int | None], None]
) -> Callable[[Tensor], Tensor]:
    done = 0

    def extract_and_count(images: Tensor) -> Tensor:
        nonlocal done
        found = extract(images)
        done += len(images)
        progress(done, total)
        return found

    return extract_and_count


# --- what the other images teach -------------------------------------------------------------------------------------
def list_questions(source: OpenDataset) -> list[tuple[Array, str, tuple[str, ...], Array]]:
    """The questions that labels answer: rows, label, names of the answers, answers given. Rare answers are left out."""
    targets, labels = np.asarray(source.samples.targets), source.spec.labels
    if not source.task.classes:
        known = [np.flatnonzero(~np.isnan(targets[:, label])) for label in range(len(labels))]
        asked = [
            (rows, labels[label], ("absent", "present"), targets[rows, label].astype(np.int64))
            for label, rows in enumerate(known)
        ]
        return [each for each in asked if np.bincount(each[3], minlength=2).min() >= MIN_IMAGES]
    present = np.flatnonzero(np.bincount(targets, minlength=len(labels)) >= MIN_IMAGES)
    if len(present) < 2:
        return []
    rows = np.flatnonzero(np.isin(targets, present))
    return [(rows, "", tuple(labels[label] for label in present), np.searchsorted(present, targets[rows]))]


def predict_out_of_fold(features: Array, given: Array, groups: Array) -> Array:
    """Probabilities (n, answers) of every image by a head fitted on other patients, and on no copy of it."""
    from scipy.special import log_softmax
    from sklearn.model_selection import StratifiedGroupKFold
    from threadpoolctl import threadpool_limits

    num_answers = int(given.max()) + 1
    task = BINARY if num_answers == 2 else MULTICLASS
    num_folds = min(NOISE_FOLDS, len(np.unique(groups)))
    folds = list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=0).split(given, given, groups))
    best: tuple[float, Array] | None = None
    with threadpool_limits(1):  # scikit-learn's BLAS and torch fight over the cores
        for penalty in PENALTIES:
            logs = np.zeros((len(given), num_answers))
            for fitted, tested in folds:
                weight, bias = solve_linear(task, features[fitted], given[fitted], penalty, num_answers)
                logs[tested] = log_softmax(features[tested] @ weight.T + bias, axis=1)
            loss = -float(logs[np.arange(len(given)), given].mean())
            if best is None or loss < best[0]:
                best = (loss, np.exp(logs))
    assert best is not None
    return best[1]


def name_suspects(doubt: LabelDoubt, source: OpenDataset) -> list[Suspect]:
    """The answers that confident learning finds wrong: as many as it counts, those of the lowest margin.

    With 5 % of labels flipped at random that was the most precise of cleanlab's filters (docs/audit.md).
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    wrong = find_label_issues(doubt.given, doubt.probabilities, filter_by="low_normalized_margin", n_jobs=1)
    scores = get_label_quality_scores(doubt.given, doubt.probabilities)
    suggested = doubt.probabilities.argmax(axis=1)
    return [
        Suspect(
            sample=str(source.sample_ids[doubt.rows[row]]),
            label=doubt.label,
            given=doubt.names[doubt.given[row]],
            suggested=doubt.names[suggested[row]],
            score=round(float(scores[row]), 4),
        )
        for row in np.flatnonzero(wrong & (suggested != doubt.given)).tolist()
    ]
