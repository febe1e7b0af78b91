"""The lines for GPUs: G1 to G7. One process measures all configurations of a program, because its start is slow."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from table import Failure, Line
from timing import Figure, MeasurementError, Ratio, Watched, run_json, watched
from work import CORES, HERE, SPEED, Settings, bench_runs, costs, many_contenders, radiographs, whole_bench

LIMIT = 10  # maximum seconds of the timed steps of a loop with a loader
PREFETCHED = 2  # batches that a loader worker has ready; they are consumed before the timing

# Ten families that train at 64 px.
MODELS = (
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "densenet121",
    "convnext_tiny",
    "regnety_008",
    "vit_tiny_patch16_224",
    "repvgg_a0",
    "ghostnet_100",
)
DATASETS = ("breastmnist", "pneumoniamnist", "retinamnist")
BASELINES = 2  # runs that a bench adds for each dataset


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of both sides: models, image size, batch size and number of steps, on gray images."""

    models: tuple[str, ...]
    size: int
    batch: int
    steps: int
    augmentation: str

    def bench(self, settings: Settings) -> tuple[object, ...]:
        """The arguments of `zoo bench`, one run at a time."""
        fields = {
            "steps": self.steps,
            "rounds": 1,
            "image_size": self.size,
            "batch_size": self.batch,
            "augmentation": self.augmentation,
        }
        chosen = ("-m", ",".join(self.models), "-d", radiographs(settings), "--weights", "none", "--workers", 1)
        changes = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
        return (*chosen, "--seeds", settings.repeats, "--device", settings.device, *changes)

    def bare(self, model: str, settings: Settings, way: str) -> tuple[object, ...]:
        """The arguments of the bare step, captured or compiled on a GPU."""
        sizes = ("--size", self.size, "--batch", self.batch, "--channels", 1, "--device", settings.device)
        times = ("--warm-up", settings.pick(5, 1), "--steps", self.steps, "--repeats", settings.repeats)
        return ("bare", "--model", model, *sizes, *times, *((way,) if settings.device == "cuda" else ()))

    def loop(self, name: str, settings: Settings, workers: int) -> tuple[object, ...]:
        """The arguments of a loop with a loader, without ends of epochs, where workers would wait."""
        warm_up = settings.pick(workers * PREFETCHED + 5, 1)
        steps = settings.pick(100_000 if workers else 20, 3)
        sizes = ("--size", self.size, "--batch", self.batch, "--steps", steps, "--warm-up", warm_up, "--limit", LIMIT)
        loader = (
            "--data",
            radiographs(settings),
            "--augment",
            "flip",
            "--workers",
            workers,
            "--endless",
            "--train-only",
        )
        return (name, "--model", self.models[0], *sizes, *loader, "--device", settings.device)


def captured_training(settings: Settings, size: int) -> Training:
    """The training of G1 at one image size; each run takes 1 to 5 s on an H200."""
    models = {64: ("resnet18",), 224: ("resnet18", "efficientnet_b0", "vit_small_patch16_224")}
    return Training(
        models=models[size],
        size=size,
        batch=settings.pick(32, 2),
        steps=settings.pick({64: 1000, 224: 300}[size], 2),
        augmentation="one-of",
    )


def flipped_training(settings: Settings, batch: int) -> Training:
    """The training of G2 to G4: a resnet18 at 224 px with flips only."""
    return Training(
        models=("resnet18",),
        size=settings.pick(224, 32),
        batch=settings.pick(batch, 4),
        steps=settings.pick({32: 500, 256: 100}[batch], 2),
        augmentation="none",
    )


@cache
def watched_runs(training: Training, settings: Settings) -> Watched[list[dict[str, Any]]]:
    """Zoo's runs of a training, shared by lines with the same training."""
    return watched(partial(bench_runs, *training.bench(settings)))


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target of a ratio of speeds."""

    name: str
    what: str
    wanted: float


def compare(
    target: Target,
    model: str,
    training: Training,
    settings: Settings,
    theirs: Watched[dict[str, Any]],
) -> Line | Failure:
    """The steady speed of a model's runs / that of a contender. Raises MeasurementError if a side failed."""
    try:
        if "error" in theirs.value:
            raise MeasurementError(f"the other side: {theirs.value['error']}")
        ours = watched_runs(training, settings)
        speeds = costs(SPEED, [item for item in ours.value if item["model"] == model])
        if not speeds:
            raise MeasurementError(f"zoo planned no run of {model}")
    except MeasurementError as error:
        return Failure(name=target.name, what=target.what, reason=str(error))
    pairs = tuple(zip(speeds, itertools.cycle(theirs.value["repeats"]), strict=False))
    ratio = Ratio(pairs=pairs, gain=False, foreign=max(ours.foreign, theirs.foreign))
    return Line(name=target.name, what=target.what, measurement=ratio, wanted=target.wanted)


def watched_contenders(configurations: Sequence[Sequence[object]]) -> list[Watched[dict[str, Any]]]:
    """The output of contenders measured in one process, with one share of other programs for all."""
    printed = watched(partial(many_contenders, configurations))
    return [Watched(value=value, foreign=printed.foreign) for value in printed.value]


def g1(settings: Settings) -> Iterator[Line | Failure]:
    trainings = [captured_training(settings, size) for size in (64, 224)]
    pairs = [(training, model) for training in trainings for model in training.models]
    bare = [training.bare(model, settings, "--capture") for training, model in pairs]
    theirs = watched_contenders(bare)
    for (training, model), speed in zip(pairs, theirs, strict=True):
        what = f"step in a run / captured bare step, {model} at {training.size} px, batches of 32, augmentation one-of"
        target = Target(name="G1", what=what, wanted=0.85)
        yield compare(target, model, training, settings, speed)


def g2(settings: Settings) -> Iterator[Line | Failure]:
    training = flipped_training(settings, 32)
    workers = (settings.pick(CORES, 1), 0)
    theirs = watched_contenders([training.loop("tutorial", settings, number) for number in workers])
    for number, speed, wanted in zip(workers, theirs, (4.0, 20.0), strict=True):
        what = (
            f"training / tutorial script with {number} loader workers, resnet18 at 224 px, 512 px PNGs, batches of 32"
        )
        target = Target(name="G2", what=what, wanted=wanted)
        yield compare(target, "resnet18", training, settings, speed)


def g3(settings: Settings) -> Iterator[Line | Failure]:
    batches = (32, 256)
    trainings = [flipped_training(settings, batch) for batch in batches]
    compiled = ("--compile",) if settings.device == "cuda" else ()
    loops = [(*training.loop("timm", settings, settings.pick(CORES, 1)), *compiled) for training in trainings]
    theirs = watched_contenders(loops)
    for batch, training, speed, wanted in zip(batches, trainings, theirs, (2.5, 1.0), strict=True):
        what = f"training / timm's loop, bf16, channels_last, compiled, resnet18 at 224 px, batches of {batch}"
        target = Target(name="G3", what=what, wanted=wanted)
        yield compare(target, "resnet18", training, settings, speed)


def g4(settings: Settings) -> Iterator[Line | Failure]:
    training = flipped_training(settings, 256)
    theirs = watched_contenders([training.bare("resnet18", settings, "--compile")])
    what = "training / compiled bare step, resnet18 at 224 px, batches of 256"
    target = Target(name="G4", what=what, wanted=0.9)
    yield compare(target, "resnet18", training, settings, theirs[0])


def g5(settings: Settings) -> Iterator[Line | Failure]:
    models = ("resnet18", "efficientnet_b0")
    once = ("-m", models[0], "--set", "steps=1", "--seeds", 1)
    whole_bench(*once, "--device", "cpu")  # decodes the images before the measurement
    shorter = ("--set", "steps=2", "--seeds", 1) if settings.quick else ()
    bench = ("-m", ",".join(models), "--device", settings.device, *shorter)
    num_runs = len(models) * settings.pick(3, 1) + BASELINES
    yield from whole_lines("G5", "quickstart, 8 runs", num_runs, 40.0, partial(whole_bench, *bench))


def g6(settings: Settings) -> Iterator[Line | Failure]:
    models, datasets = MODELS[: settings.pick(len(MODELS), 2)], DATASETS[: settings.pick(len(DATASETS), 1)]
    seeds, steps = settings.pick(3, 1), settings.pick(500, 2)
    fields = ("--set", f"steps={steps}", "--set", "image_size=64")
    bench = ("-m", ",".join(models), "-d", ",".join(datasets), "--weights", "none", "--seeds", seeds, *fields)
    run = partial(
        whole_bench, *bench, "--device", settings.device, environment={"MEDMNIST_ROOT": str(find_data(datasets))}
    )
    num_runs = (len(models) * seeds + BASELINES) * len(datasets)
    yield from whole_lines("G6", "10 models x 3 MedMNIST sets x 3 seeds, 500 steps at 64 px", num_runs, 600.0, run)


def whole_lines(
    name: str, what: str, num_runs: int, wanted: float, run: Callable[[], tuple[float, int]]
) -> Iterator[Line]:
    """Two lines of a whole command: its wall seconds, and its number of failed runs."""
    measured = watched(run)
    seconds, num_ok = measured.value
    wall = Figure(values=(seconds,), unit="s", foreign=measured.foreign)
    yield Line(name=name, what=f"{what}, whole command", measurement=wall, wanted=wanted, at_most=True)
    failed = Figure(values=(num_runs - num_ok,), unit="", foreign=measured.foreign)
    yield Line(name=name, what=f"{what}, failed runs", measurement=failed, wanted=0, at_most=True)


def find_data(datasets: tuple[str, ...]) -> Path:
    """The first folder with the files of all datasets: $ZOO_DATA, ../shared/data or .gpu/data of the checkout."""
    root = HERE.parents[1]
    folders = [root.parent / "shared" / "data", root / ".gpu" / "data"]
    if os.environ.get("ZOO_DATA"):
        folders.insert(0, Path(os.environ["ZOO_DATA"]))
    for folder in folders:
        if all((folder / f"{name}.npz").exists() for name in datasets):
            return folder.resolve()
    names = " and ".join(f"{name}.npz" for name in datasets)
    raise MeasurementError(f"{names}: in none of {', '.join(map(str, folders))}; set ZOO_DATA to their folder")


def g7(settings: Settings) -> Iterator[Line | Failure]:
    steps = settings.pick(60, 4)
    counts = run_json([sys.executable, HERE / "syncs.py", "--device", settings.device, "--steps", steps])
    for kind, what in (("resident", "images on the GPU"), ("streamed", "images in the host's memory")):
        yield Line(
            name="G7",
            what=f"host synchronizations per epoch of 60 steps, {what}",
            measurement=Figure(values=(float(counts[kind]),), unit="", foreign=0.0),
            wanted=2,
            at_most=True,
        )


TABLE: dict[str, Callable[[Settings], Iterator[Line | Failure]]] = {
    "G1": g1,
    "G2": g2,
    "G3": g3,
    "G4": g4,
    "G5": g5,
    "G6": g6,
    "G7": g7,
}
