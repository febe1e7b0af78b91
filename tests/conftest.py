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
from factories import draw_images, store_result
from golden import golden, pytest_addoption  # noqa: F401 (pytest finds them here)
from loaded_plugins import load_once
from PIL import Image
from warm import Warm

from zoo.registry import loading

# Files that take a minute, the longest first; before them one whose children cannot be forked after a backward pass.
LONG = (
    "test_precision",
    "test_reliability",
    "test_end_to_end",
    "test_plugins",
    "test_cli",
    "test_explain",
    "test_zoo_timm",
    "test_runner",
    "test_predict",
    "test_verifying",
    "test_export",
    "test_checkpoints",
    "test_external",
    "test_bad_scans",
    "test_mishaps",
    "test_audit",
)


def pytest_collection_modifyitems(items):
    """Long files go first, so that no worker is left alone with one."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


SPLITS = {"train": 60, "val": 60, "test": 40}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache, and none takes every core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")  # where a command sets more, its threads wait without taking a core
        patch.delenv("ZOO_WEIGHTS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """This process does not wait for the disk; the commands that tests start do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def plugins_loaded_once():
    """Commands in this process share what the installed plugins register."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_plugin", load_once)
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
    of other plugins, first on the path. With `forked=False` it is a process of its own from the start.
    """

    def run(*arguments, sites=(), cwd=None, timeout=300, forked=sys.platform == "linux", **variables):
        words = [*command, *map(str, arguments)]
        settings = environment(*sites, **variables)
        if forked:
            warm, first = request.getfixturevalue("warm"), f"sys.path[:0] = {list(map(str, sites))}"
            status, out, err = warm.run(*arguments, first=first, folder=cwd or Path.cwd(), seconds=timeout, **settings)
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


@pytest.fixture
def main(capsys, monkeypatch, tmp_path):
    """Run a command that starts no process in this process, from an empty folder: its status, stdout and stderr."""
    from zoo.cli.process import run

    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.system.machine.num_cores", lambda: 1)  # perf: threads wait for each other on small images

    def call(*words):
        status = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="session")
def output_of(zoo):
    """Run a command that succeeds and return its stdout."""

    def run(*arguments, **settings):
        done = zoo(*arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

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
