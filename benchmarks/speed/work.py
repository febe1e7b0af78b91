"""Settings, images and commands shared by the lines of both tables."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timing import MeasurementError, Ratio, complete, failure, run_json, seconds_of, take_turns

from zoo.system.machine import num_cores

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("ZOO_SPEED_FOLDER", Path(tempfile.gettempdir()) / "zoo-speed"))
ZOO = Path(sys.executable).with_name("zoo")
CACHE = FOLDER / "cache"
CORES = num_cores()
SPEED, EVALUATION, MEMORY = "images_per_second", "inference_images_per_second", "peak_memory_bytes"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the lines are measured."""

    rounds: int = 3  # of ABAB, for the lines of a CPU
    repeats: int = 3  # seeds of a bench and timed regions of a contender, for the lines of a GPU
    quick: bool = False
    device: Literal["cuda", "cpu"] = "cuda"  # of the lines of a GPU

    def compare(
        self, ours: Callable[[], float], theirs: Callable[[], float], *, faster: Literal["share", "lower"]
    ) -> Ratio:
        return take_turns(ours, theirs, self.rounds, faster=faster, any_machine=self.quick)

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


# --- images ----------------------------------------------------------------------------------------------------------
def make_images(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    """Make a folder of class folders with gray PNG images, a blob on a gradient, with the file size of a radiograph.

    Different seeds give different images and names; otherwise a bench would take two datasets for one.
    """
    root = folder / f"images-{count}-{side}-{seed}"
    if (root / "done").exists():
        return root
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    names = [f"{split}-{number:05}" for split, share in shares.items() for number in range(round(count * share))]
    # perf: 1,000 images of 512 px take 50 s on one core, while a GPU waits whose time is limited
    with ProcessPoolExecutor(CORES) as pool:
        for _ in pool.map(make_image, *zip(*((root, name, side, seed) for name in names), strict=True), chunksize=16):
            pass
    (root / "done").touch()
    return root


def make_image(root: Path, name: str, side: int, seed: int) -> None:
    """Write one image into the folder of its split and class."""
    import numpy as np
    from PIL import Image

    split, _, number = name.partition("-")
    label = int(number) % 2
    random = np.random.default_rng([seed, int(number), *split.encode()])
    y, x = np.mgrid[:side, :side] / side
    center = random.uniform(0.3, 0.7, 2)
    blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (0.01 + 0.02 * label))
    coarse = random.normal(0, 1, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
    pixels = 90 + 60 * x + 70 * blob + 6 * coarse + random.normal(0, 2, (side, side))
    path = root / split / ("large" if label else "small") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def radiographs(settings: Settings) -> Path:
    return make_images(FOLDER, settings.pick(1000, 100), settings.pick(512, 64))


# --- zoo's side ------------------------------------------------------------------------------------------------------
def bench_command(arguments: Sequence[object], results: str) -> list[object]:
    return [ZOO, "bench", *arguments, "--results", results, "--offline", "--keep-weights", "none"]


def bench_runs(*arguments: object) -> list[dict[str, Any]]:
    """The runs of `zoo bench --json` without baselines, including failed ones; with new results and a kept cache.

    Raises MeasurementError without any run.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as results:
        done = complete([*bench_command(arguments, results), "--json"], {"ZOO_CACHE": str(CACHE)})
    try:
        document = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise failure(done) from None
    if not document["runs"]:
        raise MeasurementError(f"zoo refused: {document['refused']}")
    return [item for item in document["runs"] if item["protocol"] != "baseline@1"]


def costs(name: str, runs: Sequence[dict[str, Any]]) -> list[float]:
    """One cost of each run. Raises MeasurementError if a run failed."""
    for item in runs:
        if item["status"] != "ok":
            raise MeasurementError(f"zoo, {item['model']}, seed {item['seed']}: {item['status']}: {item['error']}")
    return [float(item["cost"][name]) for item in runs]


def cost(name: str, *arguments: object) -> float:
    """One cost, summed over the runs of a bench."""
    return sum(costs(name, bench_runs(*arguments)))


def bench_seconds(*arguments: object) -> float:
    """Wall seconds of a whole `zoo bench`, which must succeed."""
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as results:
        return seconds_of(bench_command(arguments, results), {"ZOO_CACHE": str(CACHE)})


def whole_bench(*arguments: object, environment: dict[str, str] | None = None) -> tuple[float, int]:
    """Wall seconds of a whole `zoo bench`, and its number of ok runs. Raises MeasurementError if there are none."""
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as results:
        start = time.perf_counter()
        done = complete(bench_command(arguments, results), {"ZOO_CACHE": str(CACHE), **(environment or {})})
        seconds = time.perf_counter() - start
        documents = [json.loads(path.read_text()) for path in Path(results).rglob("result.json")]
    num_ok = sum(document["status"] == "ok" for document in documents)
    if not num_ok:
        raise failure(done)
    return seconds, num_ok


def short_run(data: Path, model: str, size: int, steps: int, *others: object) -> tuple[object, ...]:
    """The arguments of a bench that fine-tunes one model from random init for `steps` steps, one run at a time."""
    chosen = ("-m", model, "-d", data, "--weights", "none", "--seeds", 1, "--workers", 1)
    return (*chosen, "--set", f"steps={steps}", "--set", "rounds=1", "--set", f"image_size={size}", *others)


# --- the other side --------------------------------------------------------------------------------------------------
def figure(which: str, name: str, *arguments: object, python: Path | None = None, threads: int | None = None) -> float:
    """One figure that a contender prints."""
    environment = {"OMP_NUM_THREADS": str(threads or CORES)}
    command = [python or sys.executable, HERE / "contenders.py", name, *arguments]
    return float(run_json(command, environment)[which])


def many_contenders(configurations: Sequence[Sequence[object]]) -> list[dict[str, Any]]:
    """The output of contenders measured one after the other in one process; `error` for a contender that failed."""
    texts = [" ".join(map(str, configuration)) for configuration in configurations]
    done = complete([sys.executable, HERE / "contenders.py", "many", *texts], {"OMP_NUM_THREADS": str(CORES)})
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    missing = len(configurations) - len(printed)  # after one that ended the process
    return printed + [{"error": str(failure(done))}] * missing
