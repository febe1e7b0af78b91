"""Find labels that are probably wrong by confident learning (Northcutt et al., JAIR 70, 2021; cleanlab).

The out-of-fold probabilities come from a linear head on frozen features, fitted on other patients. They are not used
to choose a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import MOST_NAMED, Finding, Suspect, note
from zoo.auditing.scope import not_applicable
from zoo.data.dataset import open_fold
from zoo.data.decoded import cache_images
from zoo.data.lookup import SplitDataset
from zoo.data.opening import OpenDataset, read_by_train
from zoo.data.pixels import open_pixels
from zoo.data.splits import Split, connected_groups
from zoo.errors import UsageError
from zoo.models.building import build_model, feature_extractor
from zoo.models.features import cached_features
from zoo.models.identity import nearest_size
from zoo.models.weights import InitialWeights
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.tasks.linear import solve_softmax

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.system.progress import Console


CHECK = "label-noise"
NOISE_FOLDS = 5
MIN_IMAGES = 10  # per class; labels of smaller classes are not judged
MIN_AUROC = 0.75  # below it too many labels are flagged: 364 of 1,000 chest X-rays at .6
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.01)  # of the head; the lowest out-of-fold log loss wins
MIN_SIZE = 128  # px; smaller images are enlarged: on BreastMNIST (28 px) .02 AUROC more than at 64
SUSPECTS_FIX = "look at the images: a rare finding is not a wrong label; --fix does not leave them out"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen feature extractor."""

    display_name: str
    spec: ModelSpec
    weights: InitialWeights
    network: str = ""  # identify_network


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelColumn:
    """One column of labels: the class, or presence of one label of a multi-label task."""

    rows: Array  # (n,) rows of the samples
    label: str  # "" for the class
    names: tuple[str, ...]  # (C,) class names, or "absent" and "present"
    given: Array  # (n,) int64


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedColumn(LabelColumn):
    """A column of labels with the out-of-fold probabilities that judge it."""

    probabilities: Array  # (n, C)

    @property
    def auroc(self) -> float:
        """AUROC of the probabilities, macro over classes."""
        from sklearn.metrics import roc_auc_score

        areas = [roc_auc_score(self.given == i, self.probabilities[:, i]) for i in range(len(self.names))]
        return float(np.mean(areas))


def find_label_noise(
    dataset: SplitDataset, backbone: Backbone, *, cache: Path, device: str, console: Console
) -> Finding:
    """Report probably wrong labels of all splits, lowest score first, or why they were not judged."""
    source = dataset.source
    if not source.task.labeled:
        return note(CHECK, f"not checked: {not_applicable(source)}")
    columns = list_label_columns(source)
    if not columns:
        return note(CHECK, f"not checked: no two classes with {MIN_IMAGES} images each")
    features = compute_features(source, dataset.split, backbone, cache, device, console)
    groups, _ = connected_groups(source, dataset.fingerprints)
    judged = []
    with console.counting(f"fitting heads on {source.spec.name}", "heads") as progress:
        for number, column in enumerate(columns, start=1):
            probabilities = predict_out_of_fold(features[column.rows], column.given, groups[column.rows])
            judged.append(JudgedColumn(**vars(column), probabilities=probabilities))
            progress(number, len(columns))
    return summarize_suspects(judged, source, backbone)


def summarize_suspects(columns: list[JudgedColumn], source: OpenDataset, backbone: Backbone) -> Finding:
    """Build the finding from the columns that the features predict with at least MIN_AUROC."""
    judged = [column for column in columns if column.auroc >= MIN_AUROC]
    method = f"{backbone.display_name}, out of fold" + (" by patient" if source.has_patients else "")
    if not judged:
        best = max(column.auroc for column in columns)
        return note(
            CHECK, f"not checked: {method}, predict the labels too poorly, AUROC {best:.2f}; try other --features"
        )
    suspects = sorted((s for column in judged for s in find_suspects(column, source)), key=lambda s: s.score)
    samples = tuple(dict.fromkeys(suspect.sample for suspect in suspects))
    num_unjudged = len(columns) - len(judged)
    unjudged = f"; not checked: {num_unjudged} labels with AUROC under {MIN_AUROC}" if num_unjudged else ""
    return Finding(
        check=CHECK,
        verdict="warn" if suspects else "ok",
        splits=(),
        samples=samples[:MOST_NAMED],
        count=len(suspects),
        message=f"{len(suspects)} of {sum(len(column.rows) for column in judged)} labels, on {len(samples)} images, "
        f"are probably wrong: {method}, AUROC {np.mean([column.auroc for column in judged]):.2f}{unjudged}",
        fix=SUSPECTS_FIX if suspects else "",
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
    """Compute standardized features, float64 (N, D), of every image; cached."""
    spec, weights = backbone.spec, backbone.weights
    source = read_by_train(source, split.folds[0] == "train")
    size = nearest_size(spec, max(MIN_SIZE, source.spec.image_size or spec.image_size))
    with console.counting(f"decoding {source.spec.name} at {size} px", "images") as progress:
        images = cache_images(source, size, cache, progress)
    dataset = open_fold(source, split, 0, images)
    mean, std = weights.normalization(spec)
    request = BuildRequest(
        num_outputs=2, channels=dataset.channels, image_size=size, weights=weights.path, tag=weights.build_tag
    )
    module = build_model(spec, request).eval().to(device)
    pixels = open_pixels(dataset, mean, std, device)
    identity = [spec.name, weights.digest, source.content_hash, size, dataset.channels, list(dataset.intensity)]
    identity += [list(mean), list(std), device, backbone.network]
    with console.counting(f"{source.spec.name}: {backbone.display_name}", "images") as progress:
        extract = with_progress(feature_extractor(spec, module), len(source.sample_ids), progress)
        features = cached_features(extract, pixels, "fp32", cache=cache, identity=("label-noise", json.dumps(identity)))
    values = features.values.numpy().astype(np.float64)
    spread = values.std(axis=0)
    values = values[:, spread > 1e-8]
    standard: Array = (values - values.mean(axis=0)) / spread[spread > 1e-8]
    return standard


def with_progress(
    extract: Callable[[Tensor], Tensor], total: int, progress: Callable[[int, int | None], None]
) -> Callable[[Tensor], Tensor]:
    done = 0

    def extract_and_count(images: Tensor) -> Tensor:
        nonlocal done
        features = extract(images)
        done += len(images)
        progress(done, total)
        return features

    return extract_and_count


# --- judging labels --------------------------------------------------------------------------------------------------
def list_label_columns(source: OpenDataset) -> list[LabelColumn]:
    """Return the columns with at least two classes of MIN_IMAGES images; rarer classes are left out."""
    targets, labels = np.asarray(source.samples.targets), source.spec.labels
    if not source.task.classes:
        known = [np.flatnonzero(~np.isnan(targets[:, label])) for label in range(len(labels))]
        columns = [
            LabelColumn(
                rows=rows,
                label=labels[label],
                names=("absent", "present"),
                given=targets[rows, label].astype(np.int64),
            )
            for label, rows in enumerate(known)
        ]
        return [column for column in columns if np.bincount(column.given, minlength=2).min() >= MIN_IMAGES]
    present = np.flatnonzero(np.bincount(targets, minlength=len(labels)) >= MIN_IMAGES)
    if len(present) < 2:
        return []
    rows = np.flatnonzero(np.isin(targets, present))
    names = tuple(labels[label] for label in present)
    return [LabelColumn(rows=rows, label="", names=names, given=np.searchsorted(present, targets[rows]))]


def predict_out_of_fold(features: Array, given: Array, groups: Array) -> Array:
    """Probabilities (n, C) of every image by a head fitted on other patients and without copies of the image."""
    from scipy.special import log_softmax
    from sklearn.model_selection import StratifiedGroupKFold
    from threadpoolctl import threadpool_limits

    num_classes = int(given.max()) + 1
    num_folds = min(NOISE_FOLDS, len(np.unique(groups)))
    folds = list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=0).split(given, given, groups))
    best: tuple[float, Array] | None = None
    with threadpool_limits(1):  # BLAS and torch would compete for the cores
        for penalty in PENALTIES:
            logs = np.zeros((len(given), num_classes))
            for fitted, tested in folds:
                weight, bias = solve_softmax(features[fitted], given[fitted], penalty, num_classes)
                logs[tested] = log_softmax(features[tested] @ weight.T + bias, axis=1)
            loss = -float(logs[np.arange(len(given)), given].mean())
            if best is None or loss < best[0]:
                best = (loss, np.exp(logs))
    assert best is not None
    return best[1]


def find_suspects(column: JudgedColumn, source: OpenDataset) -> list[Suspect]:
    """Return the labels that confident learning flags, by the lowest normalized margin.

    With 5 % of labels flipped at random this was the most precise of cleanlab's filters (docs/audit.md).
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    wrong = find_label_issues(column.given, column.probabilities, filter_by="low_normalized_margin", n_jobs=1)
    scores = get_label_quality_scores(column.given, column.probabilities)
    suggested = column.probabilities.argmax(axis=1)
    return [
        Suspect(
            sample=str(source.sample_ids[column.rows[row]]),
            label=column.label,
            given=column.names[column.given[row]],
            suggested=column.names[suggested[row]],
            score=round(float(scores[row]), 4),
        )
        for row in np.flatnonzero(wrong & (suggested != column.given)).tolist()
    ]
