"""What the tests share: a cache of their own, tiny datasets in every layout, a plugin of tiny models, the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden import golden, pytest_addoption  # noqa: F401 (pytest finds them here)
from PIL import Image
from warm import Warm

LONG = ("test_reliability", "test_plugins", "test_mishaps", "test_audit", "test_audit_fix", "test_damaged_state")


def pytest_collection_modifyitems(items):
    """Files that take minutes go first, so that no worker is left alone with one."""
    items.sort(key=lambda item: item.path.stem not in LONG)


SPLITS = {"train": 60, "val": 60, "test": 40}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache, and none takes every core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("ZOO_WEIGHTS", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_site(tmp_path_factory):
    """A folder with zoo-tiny installed in it."""
    site = tmp_path_factory.mktemp("site")
    install_module(site, "zoo-tiny", Path(__file__).with_name("tiny_plugin.py").read_text())
    return site


def install_module(site, name, source):
    """Lay a plugin of one module down as an installer does."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo.v1]\n{name} = {module}\n")


@pytest.fixture(scope="session")
def install():
    return install_module


@pytest.fixture(scope="session")
def command():
    """The installed `zoo`, as words of a command line."""
    script = shutil.which("zoo", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "zoo"]


@pytest.fixture(scope="session")
def environment(tiny_site, own_cache):
    """The environment a command runs in: zoo-tiny installed, no color, wide lines."""

    def build(*sites, **variables):
        inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        path = os.pathsep.join(map(str, (*sites, tiny_site, *inherited)))
        return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **variables}

    return build


@pytest.fixture(scope="session")
def warm(environment, tmp_path_factory):
    """Commands that start in a blink, forked from a process that has imported what they need."""
    server = Warm(environment(), tmp_path_factory.mktemp("warm"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def zoo(request, command, environment):
    """Run the command as a user does, from an empty folder or `cwd`.

    Where it can be forked it is: importing torch anew for each would be most of what the tests do. `sites` are folders
    of other plugins; with those, or `forked=False`, it is a process of its own from the start.
    """

    def run(*arguments, sites=(), cwd=None, timeout=300, forked=sys.platform == "linux", **variables):
        words = [*command, *map(str, arguments)]
        settings = environment(*sites, **variables)
        if forked and not sites:
            warm = request.getfixturevalue("warm")
            status, out, err = warm.run(*arguments, folder=cwd or Path.cwd(), seconds=timeout, **settings)
            if status == -signal.SIGALRM:
                raise subprocess.TimeoutExpired(words, timeout, out, err)
            return subprocess.CompletedProcess(words, status, out, err)
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=settings,
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def bench(zoo):
    """Run `zoo bench --json` and return its exit status, its document and what it said on stderr."""

    def run(*arguments, **settings):
        done = zoo("bench", *arguments, "--json", **settings)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


# --- datasets --------------------------------------------------------------------------------------------------------
def draw_images(values, seed=0, shape=(16, 16)):
    """Noise whose brightness follows `values` in 0..1 by and large, so that there is something to learn, not all."""
    random = np.random.default_rng(seed)
    brightness = 80 + 60 * np.asarray(values) + random.normal(0, 30, len(values))
    noise = random.normal(0, 20, (len(values), *shape))
    return (brightness[:, None, None] + noise).clip(0, 255).astype(np.uint8)


def write_npz(path, labels, values, seed=0):
    """A file in MedMNIST's layout, with official splits."""
    images = draw_images(values, seed)
    arrays, start = {}, 0
    for split, count in SPLITS.items():
        rows = slice(start, start + count)
        arrays |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows].reshape(count, -1)}
        start += count
    np.savez_compressed(path, **arrays)


def write_table(folder, header, rows, images):
    """Images beside a CSV whose first column names them."""
    folder.mkdir()
    lines = [header]
    for number, (cells, image) in enumerate(zip(rows, images, strict=True)):
        Image.fromarray(image).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{cells}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder of tiny sets: every task, and every layout that needs no plugin."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(7)
    count = sum(SPLITS.values())
    splits = [split for split, number in SPLITS.items() for _ in range(number)]

    two = random.integers(0, 2, count)
    write_npz(root / "binary.npz", two, two)
    four = np.arange(count) % 4
    write_npz(root / "multiclass.npz", four, four / 3)

    folders = root / "folders"
    for number, (split, label, image) in enumerate(zip(splits, two, draw_images(two, 1), strict=True)):
        place = folders / split / ("clear", "nodule")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")

    rows = [f"{'abc'[label]},{split}" for label, split in zip(np.arange(count) % 3, splits, strict=True)]
    write_table(root / "table", "file,label,split", rows, draw_images(np.arange(count) % 3 / 2, 2))

    patients = 20  # of three images each; patients 0, 2, ... are healthy
    sick = np.repeat(np.arange(patients) % 2, 3)
    rows = [f"p{number // 3:02},{label}" for number, label in enumerate(sick)]
    write_table(root / "patients", "file,patient,label", rows, draw_images(sick, 3))

    flags = random.integers(0, 2, (count, 3))
    unknown = random.random((count, 3)) < 0.2
    cells = np.where(unknown, "", flags.astype(str))
    rows = [f"{','.join(row)},{split}" for row, split in zip(cells, splits, strict=True)]
    write_table(root / "multilabel", "file,mass,fluid,air,split", rows, draw_images(flags.mean(axis=1), 4))
    write_card(root / "multilabel", 'task = "multilabel"', 'label = {columns = ["mass", "fluid", "air"]}')

    grades = np.arange(count) % 3
    rows = [f"g{grade},{split}" for grade, split in zip(grades, splits, strict=True)]
    write_table(root / "ordinal", "file,grade,split", rows, draw_images(grades / 2, 5))
    write_card(root / "ordinal", 'task = "ordinal"', 'label = {column = "grade"}')

    ages = random.uniform(20, 90, count)
    rows = [f"{age:.1f},{split}" for age, split in zip(ages, splits, strict=True)]
    write_table(root / "regression", "file,age,split", rows, draw_images((ages - 20) / 70, 6))
    write_card(root / "regression", 'task = "regression"', 'label = {column = "age"}')
    return root


def write_card(folder, *lines):
    card = [*lines, 'table = "table.csv"', 'join = {column = "file"}', 'split = {column = "split"}']
    (folder / "dataset.toml").write_text("\n".join(["schema = 1", *card]) + "\n")


# --- results ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def store():
    """Store one made-up result: `store(root, model="a", seed=0, **changes)` returns what was saved."""
    return store_result


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


def store_result(root, *, model="net", seed=0, fold=0, noise=1.0, facts=None, metrics=("auroc", "accuracy"), **changes):
    """A finished binary run whose probabilities follow the targets under `noise`; `status="failed"` for a failure.

    Without noise (None) they are constant.
    """
    from dataclasses import replace

    from zoo.evaluation.metrics.catalogue import METRICS
    from zoo.evaluation.predictions import Predictions
    from zoo.evaluation.scoring import score
    from zoo.results.runs import Run
    from zoo.results.store import Result, load_result, save_result
    from zoo.specs.protocol import BASELINE, SCRATCH

    status, cost, details = changes.pop("status", "ok"), changes.pop("cost", {}), changes.pop("details", {})
    code, images_each = changes.pop("code", "diverged"), changes.pop("images_each", 1)  # a patient
    prefix, same_test = (
        changes.pop("prefix", ""),
        changes.pop("same_test", False),
    )  # of names; one test set of all folds
    metadata, own_patients = changes.pop("metadata", {}), changes.pop("patients", None)
    baseline = model in {"constant", "thumbnails"}
    run = Run(
        **{
            "dataset": "dots",
            "content_hash": "c" * 64,
            "split_hash": "5" * 64,
            "fold": fold,
            "num_folds": 1,
            "model": f"zoo-tiny:{model}",
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
    random = np.random.default_rng([seed, fold, *model.encode()])
    predictions = {}
    for split in ("val", "test"):
        targets = np.arange(40) % 2
        away = 0.0 if noise is None else targets - 0.5 + noise * random.normal(size=40)
        positive = np.broadcast_to(1 / (1 + np.exp(-away)), 40)
        part = f"{prefix}{split}{'' if same_test and split == 'test' else fold}"
        ids = np.array([f"{part}-{number}" for number in range(40)])
        patients = ids if images_each == 1 else np.array([f"p{number // images_each:02}" for number in range(40)])
        patients = patients if own_patients is None else own_patients
        predictions[split] = Predictions(
            sample_ids=ids,
            patients=patients,
            targets=targets,
            probabilities=np.stack([1 - positive, positive], axis=1),
            metadata=metadata,
        )
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
        folder = save_result(root, run, result)
    else:
        chosen = {spec.name: spec for spec in METRICS if spec.name in metrics}
        scores = {"scores": score([[predictions]], chosen, result.card(), threshold="val")}
        folder = save_result(root, run, result, predictions, scores, [{"step": 4, "loss": 0.5}])
    return load_result(folder)
