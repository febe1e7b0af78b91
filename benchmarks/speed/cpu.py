"""The lines for CPUs: S1 to S10."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from table import Line
from timing import run, seconds_of
from work import (
    CACHE,
    CORES,
    EVALUATION,
    FOLDER,
    HERE,
    MEMORY,
    SPEED,
    ZOO,
    Settings,
    bench_runs,
    bench_seconds,
    cost,
    figure,
    make_images,
    radiographs,
    short_run,
)


def make_weights(model: str) -> Path:
    """Make a folder with random weights of the model; a probe's speed does not depend on their values."""
    folder = FOLDER / "weights"
    folder.mkdir(exist_ok=True)
    path = folder / f"{model}.pth"
    if not path.exists():
        import timm
        import torch

        torch.save(timm.create_model(model, pretrained=False).state_dict(), path)
    return folder


def peers() -> Path:
    """The Python of a virtual environment with this one's packages and Lightning."""
    python = FOLDER / "peers" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run([sys.executable, "-m", "venv", "--system-site-packages", FOLDER / "peers"])
        # a virtual environment inside another one sees the system's packages, not ours
        site = next((FOLDER / "peers").rglob("site-packages"))
        ours = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
        (site / "ours.pth").write_text(f"{ours}\n")
        run([python, "-m", "pip", "install", "-q", "lightning"])
    return python


def s1(settings: Settings) -> Iterator[Line]:
    data = radiographs(settings)
    for model, enough in (("resnet18", 40), ("mobilenetv3_small_100", 120), ("efficientnet_b0", 15)):
        steps = settings.pick(enough, 4)
        for augmentation, wanted in (("none", 0.97), ("one-of", 0.90)):
            others = ("--threads", 1, "--set", f"augmentation={augmentation}", "--set", "symmetries=false")
            bare = (
                "bare",
                "--model",
                model,
                "--channels",
                1,
                "--threads",
                1,
                "--steps",
                steps,
                "--warm-up",
                0,
            )  # as ours
            ratio = settings.compare(
                partial(cost, SPEED, *short_run(data, model, 128, steps, *others)),
                partial(figure, SPEED, *bare, threads=1),
                faster="share",
            )
            what = f"step in a run / bare step, {model} at 128 px, augmentation {augmentation}"
            yield Line(name="S1", what=what, measurement=ratio, wanted=wanted)


def s2(settings: Settings) -> Iterator[Line]:
    for model, size, wanted in (
        ("resnet18", 128, 2.0),
        ("resnet18", 224, 2.3),
        ("mobilenetv3_small_100", 128, 1.5),
        ("efficientnet_b0", 128, 1.5),
    ):
        bare = ("bare", "--model", model, "--size", size, "--threads", 1, "--steps", settings.pick(20, 2))
        ratio = settings.compare(
            partial(figure, SPEED, *bare, threads=1),
            partial(figure, SPEED, *bare, "--settings", "default", threads=1),
            faster="share",
        )
        yield Line(
            name="S2",
            what=f"bare step, our settings / defaults, {model} at {size} px",
            measurement=ratio,
            wanted=wanted,
        )


def best_workers(settings: Settings, *common: object) -> int:
    """The number of loader workers with which the tutorial script is fastest on this machine."""
    if settings.quick:
        return 0
    speeds = {number: figure(SPEED, "tutorial", *common, "--workers", number) for number in (0, 1, 2, 4)}
    return max(speeds, key=lambda number: speeds[number])


def s3(settings: Settings) -> Iterator[Line]:
    data, steps = radiographs(settings), settings.pick(25, 3)
    for size, targets in ((128, {SPEED: 2.3, EVALUATION: 3.3, MEMORY: 1.0}), (224, {SPEED: 2.5})):
        common = ("--data", data, "--size", size, "--steps", steps, "--augment", "flip")
        workers = best_workers(settings, *common)
        ours = short_run(data, "resnet18", size, steps, "--threads", CORES)
        bench_runs(*ours)  # the cache is warm from here on
        for which, wanted in targets.items():
            ratio = settings.compare(
                partial(cost, which, *ours),
                partial(figure, which, "tutorial", *common, "--workers", workers),
                faster="share",
            )
            what = {SPEED: "training", EVALUATION: "evaluation", MEMORY: "peak memory"}[which]
            yield Line(
                name="S10" if which == MEMORY else "S3",
                what=f"{what} / tutorial script with {workers} loader workers, resnet18 at {size} px, {CORES} threads",
                measurement=ratio,
                wanted=wanted,
                at_most=which == MEMORY,
            )


def s4(settings: Settings) -> Iterator[Line]:
    data, steps = radiographs(settings), settings.pick(25, 3)
    common = (
        "--data",
        data,
        "--size",
        128,
        "--steps",
        steps,
        "--augment",
        "flip",
        "--workers",
        settings.pick(CORES, 0),
    )
    ours = short_run(data, "resnet18", 128, steps, "--threads", CORES)
    bench_runs(*ours)
    for name, python in (("timm", None), ("lightning", peers())):
        ratio = settings.compare(
            partial(cost, SPEED, *ours),
            partial(figure, SPEED, name, *common, python=python),
            faster="share",
        )
        yield Line(
            name="S4",
            what=f"training / {name}, bf16 and channels_last, resnet18 at 128 px",
            measurement=ratio,
            wanted=1.3,
        )


GRID = ("resnet18", "mobilenetv3_small_100", "efficientnet_b0", "regnetx_002")
EPOCH = 5  # steps: zoo draws val anew from the 192 images that are not test, and trains on 154 in batches of 32


def grid(settings: Settings) -> tuple[list[Path], tuple[object, ...]]:
    sets = [make_images(FOLDER, 240, 64, seed) for seed in (1, 2)]
    models = GRID if not settings.quick else GRID[:1]
    chosen = (
        "-m",
        ",".join(models),
        "-d",
        ",".join(map(str, sets)),
        "--weights",
        "none",
        "--seeds",
        settings.pick(3, 1),
    )
    sizes = ("epochs=1", "rounds=1", "image_size=64", "min_steps=1")
    return sets, (*chosen, *(part for size in sizes for part in ("--set", size)))


def one_by_one(settings: Settings, sets: list[Path]) -> float:
    """Seconds of the grid with the tutorial script, started once per model, dataset and seed."""
    total = 0.0
    for model in GRID[: settings.pick(4, 1)]:
        for data in sets:
            command = [sys.executable, HERE / "contenders.py", "tutorial", "--data", data, "--model", model]
            command += ["--size", "64", "--steps", str(EPOCH), "--warm-up", "0", "--augment", "flip"]
            total += sum(seconds_of(command, {"OMP_NUM_THREADS": str(CORES)}) for _ in range(settings.pick(3, 1)))
    return total


def s5(settings: Settings) -> Iterator[Line]:
    sets, arguments = grid(settings)
    bench_seconds(*arguments)
    ours, theirs = partial(bench_seconds, *arguments), partial(one_by_one, settings, sets)
    ratio = settings.compare(ours, theirs, faster="lower")
    what = "a grid of 4 models x 2 sets x 3 seeds / one script a run"
    yield Line(name="S5", what=f"{what}, wall", measurement=ratio, wanted=7.0)
    imports = median(seconds_of([sys.executable, "-c", "import torch, torchvision, timm"]) for _ in range(3))
    launches = settings.pick(len(GRID) * len(sets) * 3, len(sets))
    beyond = ratio.without(median(seconds_to_first_step(*arguments) for _ in range(3)), launches * imports)
    yield Line(name="S5", what=f"{what}, beyond start-up", measurement=beyond, wanted=3.5)


def s6(settings: Settings) -> Iterator[Line]:
    _, arguments = grid(settings)
    ratio = settings.compare(
        partial(bench_seconds, *arguments, "--threads", 1, "--workers", CORES),
        partial(bench_seconds, *arguments, "--threads", CORES, "--workers", 1),
        faster="share",
    )
    what = f"that grid, {CORES} workers of 1 thread / 1 worker of {CORES}, wall"
    yield Line(name="S6", what=what, measurement=ratio, wanted=0.90, at_most=True)


def s7(settings: Settings) -> Iterator[Line]:
    torch = [sys.executable, "-c", "import torch"]
    run(torch)
    for arguments, wanted in ((("--help",), 0.08), (("list", "models"), 0.5)):
        command = [ZOO, *arguments]
        run(command)
        ours, theirs = partial(seconds_of, command), partial(seconds_of, torch)
        ratio = settings.compare(ours, theirs, faster="share")
        what = f"`zoo {' '.join(arguments)}` / `import torch`"
        yield Line(name="S7", what=what, measurement=ratio, wanted=wanted, at_most=True)


# `zoo` that prints the time of its first training step by the clock that all processes share.
NOTED = """
import os, sys, time
note = sys.argv.pop(1)
from zoo import cli
from zoo.training.loop import Training
step = Training.take_step
def noting(self, *arguments):
    if self.step == 0 and not os.path.exists(note):
        open(note, "w").write(str(time.monotonic()))
    step(self, *arguments)
Training.take_step = noting
cli.main()
"""


def seconds_to_first_step(*arguments: object) -> float:
    """Seconds from the start of `zoo bench ...` to its first training step."""
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as folder:
        note = Path(folder, "note")
        command = [sys.executable, "-c", NOTED, note, "bench", *map(str, arguments), "--results", Path(folder, "r")]
        begun = time.monotonic()
        run([*command, "--offline", "--keep-weights", "none"], {"ZOO_CACHE": str(CACHE)})
        return float(note.read_text()) - begun


def s8(settings: Settings) -> Iterator[Line]:
    arguments = short_run(make_images(FOLDER, 240, 64), "resnet18", 64, 1)
    bench_seconds(*arguments)
    pattern = str(CACHE / "images" / "*" / "images.npy")
    opened = f"import glob, numpy, torch, timm; numpy.load(glob.glob({pattern!r})[0], mmap_mode='r')[:32].copy()"
    ours, theirs = partial(seconds_to_first_step, *arguments), partial(seconds_of, [sys.executable, "-c", opened])
    ratio = settings.compare(ours, theirs, faster="share")
    what = "from the start of `zoo bench` to its first training step / `import torch, timm` and opening the cache"
    yield Line(name="S8", what=what, measurement=ratio, wanted=1.15, at_most=True)


def cold_probe(*arguments: object) -> float:
    """Seconds of all seeds of a linear probe, with the features computed once."""
    shutil.rmtree(CACHE / "features", ignore_errors=True)
    return cost("train_seconds", *arguments)


def s9(settings: Settings) -> Iterator[Line]:
    data, penalties, seeds = radiographs(settings), settings.pick(16, 2), settings.pick(3, 1)
    chosen = ",".join(f"{10.0 ** (-8 + i / 2):.3g}" for i in range(penalties))
    ours = ("-m", "resnet18", "-d", data, "--weights-dir", make_weights("resnet18"), "--seeds", seeds, "--workers", 1)
    ours += ("--protocol", "linear-probe", "--set", f"regularizations={chosen}", "--set", "image_size=128")
    ours += ("--threads", CORES)  # as many as theirs
    naive = ("--data", data, "--size", 128, "--penalties", penalties, "--seeds", seeds)
    bench_runs(*ours)
    ratio = settings.compare(
        partial(cold_probe, *ours),
        partial(figure, "seconds", "naive_probe", *naive),
        faster="lower",
    )
    what = f"linear probe, {penalties} penalties x {seeds} seeds / the images through the network for each"
    yield Line(name="S9", what=what, measurement=ratio, wanted=100.0)


TABLE: dict[str, Callable[[Settings], Iterator[Line]]] = {
    "S1": s1,
    "S2": s2,
    "S3": s3,
    "S4": s4,
    "S5": s5,
    "S6": s6,
    "S7": s7,
    "S8": s8,
    "S9": s9,
}
