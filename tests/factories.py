"""Factories for what many tests need: decoded folds, samples, predictions, stored results."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas

from zoo import BINARY
from zoo.data.dataset import DecodedFold
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, load_result, save_result
from zoo.specs.dataset import DatasetSpec, Samples
from zoo.specs.protocol import BASELINE, SCRATCH
from zoo.statistics.roc import delong_covariance, z_test

NUM_LABELS = {"binary": 2, "regression": 1}  # of the tasks that do not have three here


def number_ids(count, prefix="s"):
    return np.array([f"{prefix}{number}" for number in range(count)])


def make_labels(task):
    return tuple("abc"[: NUM_LABELS.get(task.name, 3)])


# --- datasets --------------------------------------------------------------------------------------------------------
def make_samples(images, targets, *, ids=None, patients=None, splits=None, read=None):
    """Samples in memory: an array of images, or as many rows as a number says, and where given what a table has."""
    count = images if isinstance(images, int) else len(images)
    table = pandas.DataFrame({"sample_id": number_ids(count) if ids is None else ids, "image": range(count)})
    if patients is not None:
        table["patient"] = [f"p{patient}" for patient in patients]
    if splits is not None:
        table["split"] = list(splits)
    return Samples(table=table, targets=np.asarray(targets), read=read or (lambda row: images[row]))


def make_dataset_spec(samples, task=BINARY, **fields):
    """The spec of a dataset whose samples are these."""
    fields = {"name": "dots", "task": task, "labels": make_labels(task), **fields}
    return DatasetSpec(**{"samples": lambda _: samples, **fields})


def split_in_order(count):
    """The first 60 % train, then 20 % val and 20 % test."""
    return np.repeat(["train", "val", "test"], [count * 3 // 5, count // 5, count // 5])


def make_fold(targets, *, task=BINARY, ids=None, patients=None, split_of=None, **fields):
    """A decoded fold without a file of images: tests that need pixels give them to what reads them."""
    count = len(targets)
    ids = number_ids(count) if ids is None else np.asarray(ids)
    fields = {
        "name": "dots",
        "labels": make_labels(task),
        "positive": None,
        "unit": "image",
        "has_patients": patients is not None,
        "symmetries": (),
        "intensity": (0.0, 255.0),
        "images": Path("none.npy"),
        "content_hash": "",
        "split_hash": "",
        "fold": 0,
        "num_folds": 1,
        **fields,
    }
    return DecodedFold(
        task=task,
        sample_ids=ids,
        patients=ids if patients is None else np.asarray(patients),
        targets=np.asarray(targets),
        split_of=split_in_order(count) if split_of is None else np.asarray(split_of),
        **fields,
    )


def draw_images(values, seed=0, shape=(16, 16)):
    """Noise whose brightness follows `values` in 0..1 by and large, so that there is something to learn, not all."""
    random = np.random.default_rng(seed)
    brightness = 80 + 60 * np.asarray(values) + random.normal(0, 30, len(values))
    noise = random.normal(0, 20, (len(values), *shape))
    return (brightness[:, None, None] + noise).clip(0, 255).astype(np.uint8)


# --- predictions -----------------------------------------------------------------------------------------------------
def make_predictions(targets, probabilities, *, ids=None, patients=None, prefix="s", **fields):
    """Predictions of a split; one probability per image is that of the second of two classes."""
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=float)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    ids = number_ids(len(targets), prefix) if ids is None else np.asarray(ids)
    return Predictions(
        sample_ids=ids,
        patients=ids if patients is None else np.asarray(patients),
        targets=targets,
        probabilities=probabilities,
        **fields,
    )


# --- results ---------------------------------------------------------------------------------------------------------
FACTS = {
    "name": "dots",
    "title": "",
    "task": "binary",
    "labels": ["clear", "nodule"],
    "positive": 1,
    "unit": "image",
    "has_patients": False,
    "patient": "none: image level",
    "reference_standard": "",
    "share_targets": True,
    "modality": "",
    "license": "",
    "citation": "",
    "synthetic": False,
    "content_hash": "c" * 64,
    "split_hash": "5" * 64,
    "split_origin": "official",
    "fold": 0,
    "num_folds": 1,
    "notes": [],
    "known_issues": [],
    "splits": {
        name: {"images": 40, "patients": 40, "labels": {"clear": 20, "nodule": 20}} for name in ("train", "val", "test")
    },
}


@dataclass(frozen=True)
class Outcome:
    """What the predictions of a stored run depend on."""

    model: str
    seed: int
    fold: int
    noise: float | None
    images_each: int  # per patient
    prefix: str  # of the sample ids
    same_test: bool  # one test split of all folds
    one_class: bool = False


def draw_predictions(outcome):
    random = np.random.default_rng([outcome.seed, outcome.fold, *outcome.model.encode()])
    predictions = {}
    for split in ("val", "test"):
        targets = np.arange(40) % 2 * (not outcome.one_class)
        away = 0.0 if outcome.noise is None else targets - 0.5 + outcome.noise * random.normal(size=40)
        positive = np.broadcast_to(1 / (1 + np.exp(-away)), 40)
        fold = "" if outcome.same_test and split == "test" else outcome.fold
        ids = number_ids(40, f"{outcome.prefix}{split}{fold}-")
        patients = None if outcome.images_each == 1 else [f"p{row // outcome.images_each:02}" for row in range(40)]
        predictions[split] = make_predictions(targets, positive, ids=ids, patients=patients)
    return predictions


@cache  # perf: 0.3 s, and many tests store the same outcome in folders of their own
def score_outcome(outcome, metrics, card):
    chosen = {spec.name: spec for spec in METRICS if spec.name in metrics}
    return score([[draw_predictions(outcome)]], chosen, card, threshold="val")


def store_result(root, *, model="net", seed=0, fold=0, noise=1.0, facts=None, metrics=("auroc", "accuracy"), **changes):
    """A finished binary run whose probabilities follow the targets under `noise`; `status="failed"` for a failure.

    Without noise (None) they are constant.
    """
    status, cost, details = changes.pop("status", "ok"), changes.pop("cost", {}), changes.pop("details", {})
    code, images_each = changes.pop("code", "diverged"), changes.pop("images_each", 1)
    prefix, same_test = changes.pop("prefix", ""), changes.pop("same_test", False)
    plugin, one_class = changes.pop("plugin", "zoo-tiny"), changes.pop("one_class", False)
    metadata, patients = changes.pop("metadata", {}), changes.pop("patients", None)  # patients: (40,) of each split
    baseline = model in {"constant", "thumbnails"}
    given = changes.pop("predictions", None)  # by split, instead of drawn ones
    run = Run(
        **{
            "dataset": "dots",
            "content_hash": "c" * 64,
            "split_hash": "5" * 64,
            "fold": fold,
            "num_folds": 1,
            "model": f"{plugin}:{model}",
            "shown": model,
            "init": "random",
            "weights_tag": "",
            "weights_digest": "",
            "protocol": BASELINE if baseline else replace(SCRATCH, epochs=None, steps=4),
            "seed": seed,
            "image_size": 28,
            "precision": "fp32",
            "device_kind": "cpu",
            "threads": 1,
            **changes,
        }
    )
    facts = {**FACTS, "fold": fold, "num_folds": run.num_folds, **(facts or {})}
    facts |= {"content_hash": run.content_hash, "split_hash": run.split_hash, "name": run.dataset}
    outcome = Outcome(model, seed, fold, noise, images_each, prefix, same_test, one_class)
    predictions = {split: replace(part, metadata=metadata) for split, part in draw_predictions(outcome).items()}
    if patients is not None:
        predictions = {split: replace(part, patients=patients) for split, part in predictions.items()}
    result = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status=status,
        error=None if status == "ok" else {"code": code, "message": "the loss is nan"},
        dataset=facts,
        deviations=run.deviations,
        details={"primary_metric": metrics[0], "val_score": 0.5 + seed / 100, **details},
        cost={"train_seconds": 1.0, "images_per_second": 100.0, "num_parameters": 1234, **cost},
        system={"processor": "abacus", "threads": 1},
        versions={"torch": "2.11.0", "zoo-bench": "0.1.0"},
        created="2025-01-01T00:00:00+00:00",
    )
    if status != "ok":
        folder = save_result(root, run, Artifacts(result=result))
    else:
        scores = {"scores": dict(score_outcome(outcome, tuple(metrics), result.card()))} if given is None else {}
        if given is not None:
            predictions, chosen = given, {spec.name: spec for spec in METRICS if spec.name in metrics}
            scores = {"scores": score([[given]], chosen, result.card(), threshold="val")}
        history = [{"step": 4, "loss": 0.5}]
        artifacts = Artifacts(result=result, predictions=predictions, scores=scores, history=history)
        folder = save_result(root, run, artifacts)
    return load_result(folder)


def paired_delong(positives, first, second):
    """DeLong's test of two areas on the same units, as `pairwise.test_scores` computes it."""
    areas, covariance = delong_covariance(positives, np.stack([first, second]))
    return z_test(areas[0] - areas[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
