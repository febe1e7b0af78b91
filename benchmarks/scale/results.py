"""Measure planning and reporting with 10,000 stored results.

    python benchmarks/scale/results.py FOLDER

Writes 10 datasets of 500 images and a result of every run of a bench (50 networks, 20 seeds, and the baselines) with
zoo's own writer into FOLDER, unless they are there. No network is trained: the predictions are drawn at random around
the targets. Then `zoo bench --dry-run` plans the same bench and finds all runs done, and `zoo report` builds the
boards: first with an empty cache (unless FOLDER/cache is there), then with what it kept, then as a page. At last
`zoo list runs` lists the results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.api import compose_suite, make_context
from zoo.data.dataset import DecodedFold, describe_fold, fields_of_fold
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score_run
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, now, save_result
from zoo.runner.planning import plan_bench
from zoo.system.devices import describe_compute
from zoo.system.machine import versions
from zoo.system.settings import Settings

NUM_DATASETS, NUM_IMAGES, SIDE = 10, 500, 16
NUM_MODELS, NUM_SEEDS = 50, 20


def write_datasets(folder: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"set{number}" for number in range(NUM_DATASETS)]
    for path in paths:
        for number in range(0 if path.exists() else NUM_IMAGES):
            place = path / ("finding" if number % 2 else "normal")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(place / f"{number:03}.png")
    return paths


def open_folds(source: OpenDataset, split: Split) -> list[DecodedFold]:
    return [
        DecodedFold(**fields_of_fold(source, split, fold), symmetries=(), intensity=(0.0, 255.0), images=Path("none"))
        for fold in range(len(split.folds))
    ]


def draw_predictions(run: Run, fold: DecodedFold, split: str) -> Predictions:
    """Log odds around the targets; the better a model, the less noise."""
    rows = fold.index(split)
    random = np.random.default_rng([run.seed, *run.model.encode(), *run.dataset.encode()])
    noise = 0.5 + sum(run.model.encode()) % 50 / 25
    positive = 1 / (1 + np.exp(-(fold.targets[rows] - 0.5 + noise * random.normal(size=len(rows)))))
    return Predictions(
        sample_ids=fold.sample_ids[rows],
        patients=fold.patients[rows],
        targets=fold.targets[rows],
        probabilities=np.stack([1 - positive, positive], axis=1),
    )


def store_all(folder: Path, results: Path) -> tuple[list[str], list[Path]]:
    """Store a result of every run; return the names of the models and the datasets."""
    suite = write_datasets(folder)
    known = sorted(make_context().registry.models.items())
    models = [name for name, spec in known if name.startswith("resnet") and 2 in spec.dims][:NUM_MODELS]
    context = make_context(Settings(results=results, device="cpu", offline=True, keep_weights="none"))
    options = {"models": tuple(models), "datasets": tuple(map(str, suite)), "seeds": NUM_SEEDS, "weights": "none"}
    plan = plan_bench(compose_suite("", {**options, "settings": {"precision": "fp32"}}, context.registry), context)
    folds = {name: open_folds(*sources) for name, sources in plan.sources.items()}
    facts = {name: [describe_fold(fold, *plan.sources[name]) for fold in each] for name, each in folds.items()}
    metrics = {"auroc": context.registry.metrics["auroc"]}
    for number, run in enumerate(plan.runs, start=1):
        if run.id in plan.done:
            continue
        fold = folds[run.dataset][run.fold]
        predictions = {split: draw_predictions(run, fold, split) for split in ("val", "test")}
        result = Result(
            id=run.id,
            run=run.describe(),
            identity=run.identity,
            status="ok",
            dataset=facts[run.dataset][run.fold],
            deviations=run.deviations,
            details={"primary_metric": "auroc", "val_score": 0.5, "selected_step": 100, "channels": 1},
            cost={"train_seconds": 60.0, "images_per_second": 100.0, "num_parameters": 1_000_000},
            system=describe_compute("cpu", 1),
            versions=versions(*plan.libraries.get(run.shown, ())),
            created=now(),
        )
        scores = score_run(predictions, metrics, fold.card, threshold=run.protocol.threshold)
        history = [{"step": step, "loss": 1 / step, "val_score": 0.5} for step in range(1, 31)]
        save_result(results, run, Artifacts(result=result, predictions=predictions, scores=scores, history=history))
        if number % 1000 == 0:
            print(f"{number} of {len(plan.runs)} results stored", flush=True)
    return models, suite


def measure(*words: str) -> None:
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "zoo", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall, seconds, peak = time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3
    costs = f"{seconds:.1f} CPU seconds in {wall:.1f} s, peak memory of a process {peak:.0f} MB"
    print(f"zoo {words[0]}: exit status {status >> 8}, {costs}", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    results = folder / "results"
    os.environ["ZOO_CACHE"] = str(folder / "cache")
    # In a process of its own: the peak memory of a child is at least that of the process that started it
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        models, datasets = pool.submit(store_all, folder, results).result()
    flags = ["--results", str(results)]
    named = ["--models", ",".join(models), "--datasets", ",".join(map(str, datasets)), "--seeds", str(NUM_SEEDS)]
    recipe = ["--weights", "none", "--keep-weights", "none", "--set", "precision=fp32", "--device", "cpu", "--offline"]
    measure("bench", *named, *recipe, "--dry-run", *flags)
    measure("report", *flags)
    measure("report", *flags)
    measure("report", *flags, "--output", str(folder / "board.html"))
    measure("list", "runs", *flags)


if __name__ == "__main__":
    main()
