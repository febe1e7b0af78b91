"""Measure zoo against what people would do without it, side by side on this machine, and write the table of README.md.

python benchmarks/speed/speed.py [S1 S3 G1 ...] [--rounds 3] [--quick]

Peers are installed into a virtual environment of their own below ZOO_SPEED_FOLDER (default: a folder in the system's
temporary one). Rounds that other programs disturb are void. `--quick` shrinks the work: it shows that the scripts run,
its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

from timing import Ratio, run, run_json, seconds_of, take_turns

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("ZOO_SPEED_FOLDER", Path(tempfile.gettempdir()) / "zoo-speed"))
ZOO = Path(sys.executable).with_name("zoo")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: what, the ratio that was found, and the one that is wanted."""

    name: str
    what: str
    found: Ratio
    wanted: float
    at_most: bool = False  # the ratio is to stay below what is wanted

    @property
    def met(self) -> bool:
        return self.found.ratio <= self.wanted if self.at_most else self.found.ratio >= self.wanted


@dataclass(frozen=True)
class Asked:
    rounds: int
    quick: bool

    def compare(
        self, ours: Callable[[], float], theirs: Callable[[], float], *, faster: Literal["share", "lower"]
    ) -> Ratio:
        return take_turns(ours, theirs, self.rounds, faster=faster, any_machine=self.quick)

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full


# --- what they work on -----------------------------------------------------------------------------------------------
def make_images(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    """A folder of class folders of gray PNG images: a blob on a gradient, as large as a radiograph's file is.

    Sets of different seeds have different images, and names, or a bench would take them for one.
    """
    import numpy as np
    from PIL import Image

    root = folder / f"images-{count}-{side}-{seed}"
    if (root / "done").exists():
        return root
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        for number in range(round(count * share)):
            label = number % 2
            center = random.uniform(0.3, 0.7, 2)
            blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (0.01 + 0.02 * label))
            coarse = random.normal(0, 1, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
            pixels = 90 + 60 * x + 70 * blob + 6 * coarse + random.normal(0, 2, (side, side))
            path = root / split / ("large" if label else "small") / f"{split}-{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    (root / "done").touch()
    return root


def make_weights(model: str) -> Path:
    """A folder with weights of the model: no hub is needed, and a probe's speed does not depend on their values."""
    folder = FOLDER / "weights"
    folder.mkdir(exist_ok=True)
    path = folder / f"{model}.pth"
    if not path.exists():
        import timm
        import torch

        torch.save(timm.create_model(model, pretrained=False).state_dict(), path)
    return folder


def radiographs(asked: Asked) -> Path:
    return make_images(FOLDER, asked.of(1000, 100), asked.of(512, 64))


def peers() -> Path:
    """The Python of the virtual environment that Lightning is in: this one's packages, and Lightning on top."""
    python = FOLDER / "peers" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run([sys.executable, "-m", "venv", "--system-site-packages", FOLDER / "peers"])
        # a virtual environment of a virtual environment sees the system's packages, not ours
        site = next((FOLDER / "peers").rglob("site-packages"))
        ours = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
        (site / "ours.pth").write_text(f"{ours}\n")
        run([python, "-m", "pip", "install", "-q", "lightning"])
    return python


def zoo_bench(*arguments: object) -> list[dict[str, Any]]:
    """The runs of `zoo bench --json` in a new results folder, with a cache that is kept between calls."""
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as results:
        command = [ZOO, "bench", *map(str, arguments), "--results", results, "--json", "--offline"]
        document = json.loads(run(command, {"ZOO_CACHE": str(FOLDER / "cache")}))
    return [item for item in document["runs"] if item["protocol"] != "baseline@1"]


def cost(name: str, *arguments: object) -> float:
    """One column of what the runs of a bench cost, summed."""
    return sum(float(item["cost"][name]) for item in zoo_bench(*arguments))


def figure(which: str, name: str, *arguments: object, python: Path | None = None, threads: int | None = None) -> float:
    """One figure that a contender prints."""
    environment = {"OMP_NUM_THREADS": str(threads or CORES)}
    command = [python or sys.executable, HERE / "contenders.py", name, *map(str, arguments)]
    return float(run_json(command, environment)[which])


SPEED, EVALUATION, MEMORY = "images_per_second", "inference_images_per_second", "peak_memory_bytes"
CORES = os.cpu_count() or 1


def short_run(data: Path, model: str, size: int, steps: int, *others: object) -> tuple[object, ...]:
    """The arguments of a bench that fine-tunes one model from scratch for some steps, one run at a time."""
    chosen = ("-m", model, "-d", data, "--weights", "none", "--seeds", 1, "--workers", 1)
    return (*chosen, "--set", f"steps={steps}", "--set", "rounds=1", "--set", f"image_size={size}", *others)


# --- the table -------------------------------------------------------------------------------------------------------
def s1(asked: Asked) -> Iterator[Line]:
    data = radiographs(asked)
    for model, enough in (("resnet18", 40), ("mobilenetv3_small_100", 120), ("efficientnet_b0", 15)):
        steps = asked.of(enough, 4)
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
            found = asked.compare(
                partial(cost, SPEED, *short_run(data, model, 128, steps, *others)),
                partial(figure, SPEED, *bare, threads=1),
                faster="share",
            )
            told = f"{model} at 128 px, augmentation {augmentation}"
            yield Line(name="S1", what=f"step in a run / bare step, {told}", found=found, wanted=wanted)


def s2(asked: Asked) -> Iterator[Line]:
    for model, size, wanted in (
        ("resnet18", 128, 2.0),
        ("resnet18", 224, 2.3),
        ("mobilenetv3_small_100", 128, 1.5),
        ("efficientnet_b0", 128, 1.5),
    ):
        bare = ("bare", "--model", model, "--size", size, "--threads", 1, "--steps", asked.of(20, 2))
        found = asked.compare(
            partial(figure, SPEED, *bare, threads=1),
            partial(figure, SPEED, *bare, "--settings", "default", threads=1),
            faster="share",
        )
        yield Line(
            name="S2", what=f"bare step, our settings / defaults, {model} at {size} px", found=found, wanted=wanted
        )


def best_workers(asked: Asked, *common: object) -> int:
    """The number of loader workers with which the tutorial script is fastest here."""
    if asked.quick:
        return 0
    speeds = {number: figure(SPEED, "tutorial", *common, "--workers", number) for number in (0, 1, 2, 4)}
    return max(speeds, key=lambda number: speeds[number])


def s3(asked: Asked) -> Iterator[Line]:
    data, steps = radiographs(asked), asked.of(25, 3)
    for size, wanted in ((128, {SPEED: 2.3, EVALUATION: 3.3, MEMORY: 1.0}), (224, {SPEED: 2.5})):
        common = ("--data", data, "--size", size, "--steps", steps, "--augment", "flip")
        workers = best_workers(asked, *common)
        ours = short_run(data, "resnet18", size, steps, "--threads", CORES)
        zoo_bench(*ours)  # the cache is warm from here on
        for which, ratio in wanted.items():
            found = asked.compare(
                partial(cost, which, *ours),
                partial(figure, which, "tutorial", *common, "--workers", workers),
                faster="share",
            )
            what = {SPEED: "training", EVALUATION: "evaluation", MEMORY: "peak memory"}[which]
            yield Line(
                name="S10" if which == MEMORY else "S3",
                what=f"{what} / tutorial script with {workers} loader workers, resnet18 at {size} px, {CORES} threads",
                found=found,
                wanted=ratio,
                at_most=which == MEMORY,
            )


def s4(asked: Asked) -> Iterator[Line]:
    data, steps = radiographs(asked), asked.of(25, 3)
    common = ("--data", data, "--size", 128, "--steps", steps, "--augment", "flip", "--workers", asked.of(CORES, 0))
    ours = short_run(data, "resnet18", 128, steps, "--threads", CORES)
    zoo_bench(*ours)
    for name, python in (("timm", None), ("lightning", peers())):
        found = asked.compare(
            partial(cost, SPEED, *ours),
            partial(figure, SPEED, name, *common, python=python),
            faster="share",
        )
        yield Line(
            name="S4", what=f"training / {name}, bf16 and channels_last, resnet18 at 128 px", found=found, wanted=1.3
        )


GRID = ("resnet18", "mobilenetv3_small_100", "efficientnet_b0", "regnetx_002")
EPOCH = 5  # steps: zoo draws val anew from the 192 images that are not test, and trains on 154 in batches of 32


def grid(asked: Asked) -> tuple[list[Path], tuple[object, ...]]:
    sets = [make_images(FOLDER, 240, 64, seed) for seed in (1, 2)]
    models = GRID if not asked.quick else GRID[:1]
    chosen = ("-m", ",".join(models), "-d", ",".join(map(str, sets)), "--weights", "none", "--seeds", asked.of(3, 1))
    sizes = ("epochs=1", "rounds=1", "image_size=64", "min_steps=1")
    return sets, (*chosen, *(part for size in sizes for part in ("--set", size)))


def bench_seconds(*arguments: object) -> float:
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as results:
        command = [ZOO, "bench", *map(str, arguments), "--results", results, "--offline", "--keep-weights", "none"]
        return seconds_of(command, {"ZOO_CACHE": str(FOLDER / "cache")})


def one_by_one(asked: Asked, sets: list[Path]) -> float:
    """The grid's work as people do it: the tutorial script, started anew for every model, set and seed; seconds."""
    total = 0.0
    for model in GRID[: asked.of(4, 1)]:
        for data in sets:
            command = [sys.executable, HERE / "contenders.py", "tutorial", "--data", data, "--model", model]
            command += ["--size", "64", "--steps", str(EPOCH), "--warm-up", "0", "--augment", "flip"]
            total += sum(seconds_of(command, {"OMP_NUM_THREADS": str(CORES)}) for _ in range(asked.of(3, 1)))
    return total


def s5(asked: Asked) -> Iterator[Line]:
    sets, arguments = grid(asked)
    bench_seconds(*arguments)
    ours, theirs = partial(bench_seconds, *arguments), partial(one_by_one, asked, sets)
    found = asked.compare(ours, theirs, faster="lower")
    what = "a grid of 4 models x 2 sets x 3 seeds / one script a run"
    yield Line(name="S5", what=f"{what}, wall", found=found, wanted=7.0)
    imports = median(seconds_of([sys.executable, "-c", "import torch, torchvision, timm"]) for _ in range(3))
    launches = asked.of(len(GRID) * len(sets) * 3, len(sets))
    beyond = found.without(median(seconds_to_first_step(*arguments) for _ in range(3)), launches * imports)
    yield Line(name="S5", what=f"{what}, beyond start-up", found=beyond, wanted=3.5)


def s6(asked: Asked) -> Iterator[Line]:
    _, arguments = grid(asked)
    found = asked.compare(
        partial(bench_seconds, *arguments, "--threads", 1, "--workers", CORES),
        partial(bench_seconds, *arguments, "--threads", CORES, "--workers", 1),
        faster="share",
    )
    what = f"that grid, {CORES} workers of 1 thread / 1 worker of {CORES}, wall"
    yield Line(name="S6", what=what, found=found, wanted=0.90, at_most=True)


def s7(asked: Asked) -> Iterator[Line]:
    torch = [sys.executable, "-c", "import torch"]
    run(torch)
    for arguments, wanted in ((("--help",), 0.08), (("list", "models"), 0.5)):
        command = [ZOO, *arguments]
        run(command)
        ours, theirs = partial(seconds_of, command), partial(seconds_of, torch)
        found = asked.compare(ours, theirs, faster="share")
        what = f"`zoo {' '.join(arguments)}` / `import torch`"
        yield Line(name="S7", what=what, found=found, wanted=wanted, at_most=True)


# `zoo` with its first training step noted by the clock that all processes share.
NOTED = """
import os, sys, time
note = sys.argv.pop(1)
from zoo import cli, training
step = training.Training.take_step
def noting(self, *arguments):
    if self.step == 0 and not os.path.exists(note):
        open(note, "w").write(str(time.monotonic()))
    step(self, *arguments)
training.Training.take_step = noting
cli.main()
"""


def seconds_to_first_step(*arguments: object) -> float:
    """From the start of `zoo bench ...` to its first training step."""
    with tempfile.TemporaryDirectory(prefix="zoo-speed-") as folder:
        note = Path(folder, "note")
        command = [sys.executable, "-c", NOTED, note, "bench", *map(str, arguments), "--results", Path(folder, "r")]
        begun = time.monotonic()
        run([*command, "--offline", "--keep-weights", "none"], {"ZOO_CACHE": str(FOLDER / "cache")})
        return float(note.read_text()) - begun


def s8(asked: Asked) -> Iterator[Line]:
    arguments = short_run(make_images(FOLDER, 240, 64), "resnet18", 64, 1)
    bench_seconds(*arguments)
    pattern = str(FOLDER / "cache" / "images" / "*" / "images.npy")
    opened = f"import glob, numpy, torch, timm; numpy.load(glob.glob({pattern!r})[0], mmap_mode='r')[:32].copy()"
    ours, theirs = partial(seconds_to_first_step, *arguments), partial(seconds_of, [sys.executable, "-c", opened])
    found = asked.compare(ours, theirs, faster="share")
    what = "from the start of `zoo bench` to its first training step / `import torch, timm` and opening the cache"
    yield Line(name="S8", what=what, found=found, wanted=1.15, at_most=True)


def cold_probe(*arguments: object) -> float:
    """Seconds that the seeds of a linear probe take, the features computed once in them."""
    shutil.rmtree(FOLDER / "cache" / "features", ignore_errors=True)
    return cost("train_seconds", *arguments)


def s9(asked: Asked) -> Iterator[Line]:
    data, penalties, seeds = radiographs(asked), asked.of(16, 2), asked.of(3, 1)
    chosen = ",".join(f"{10.0 ** (-8 + i / 2):.3g}" for i in range(penalties))
    ours = ("-m", "resnet18", "-d", data, "--weights-dir", make_weights("resnet18"), "--seeds", seeds, "--workers", 1)
    ours += ("--protocol", "linear-probe", "--set", f"regularizations={chosen}", "--set", "image_size=128")
    ours += ("--threads", CORES)  # as many as theirs
    naive = ("--data", data, "--size", 128, "--penalties", penalties, "--seeds", seeds)
    zoo_bench(*ours)
    found = asked.compare(
        partial(cold_probe, *ours),
        partial(figure, "seconds", "naive_probe", *naive),
        faster="lower",
    )
    what = f"linear probe, {penalties} penalties x {seeds} seeds / the images through the network for each"
    yield Line(name="S9", what=what, found=found, wanted=100.0)


# --- the table of a GPU ----------------------------------------------------------------------------------------------
CUDA = ("--device", "cuda")


def on_gpu(data: Path, size: int, batch: int, steps: int) -> tuple[object, ...]:
    """The arguments of a bench that fine-tunes a resnet18 on a GPU, with flips and nothing else."""
    return short_run(data, "resnet18", size, steps, *CUDA, "--set", f"batch_size={batch}", "--set", "augmentation=none")


def g1(asked: Asked) -> Iterator[Line]:
    data, steps = radiographs(asked), asked.of(400, 4)
    for batch, size in ((256, 224), (32, 128)):
        bare = ("bare", "--channels", 1, "--batch", batch, "--size", size, "--steps", steps, *CUDA)
        found = asked.compare(
            partial(cost, SPEED, *on_gpu(data, size, batch, steps)), partial(figure, SPEED, *bare), faster="share"
        )
        what = f"step in a run / bare step, resnet18 at {size} px, batches of {batch}"
        yield Line(name="G1", what=what, found=found, wanted=0.97)


def g2(asked: Asked) -> Iterator[Line]:
    data, steps = radiographs(asked), asked.of(100, 3)
    for workers, wanted in ((CORES, 2.0), (0, 20.0)):
        common = ("--data", data, "--size", 224, "--batch", 64, "--augment", "flip", "--workers", workers, *CUDA)
        found = asked.compare(
            partial(cost, SPEED, *on_gpu(data, 224, 64, asked.of(400, 3))),
            partial(figure, SPEED, "tutorial", *common, "--steps", steps if workers else asked.of(20, 3)),
            faster="share",
        )
        what = f"training / tutorial script with {workers} loader workers, resnet18 at 224 px"
        yield Line(name="G2", what=what, found=found, wanted=wanted)


def g3(asked: Asked) -> Iterator[Line]:
    data = radiographs(asked)
    common = ("--data", data, "--size", 224, "--batch", 64, "--augment", "flip", "--workers", CORES, "--compile", *CUDA)
    found = asked.compare(
        partial(cost, SPEED, *on_gpu(data, 224, 64, asked.of(400, 3))),
        partial(figure, SPEED, "timm", *common, "--warm-up", 20, "--steps", asked.of(100, 3)),
        faster="share",
    )
    yield Line(
        name="G3", what="training / timm, bf16, channels_last, compiled, resnet18 at 224 px", found=found, wanted=1.5
    )


def g4(asked: Asked) -> Iterator[Line]:
    ours = on_gpu(radiographs(asked), 224, 256, asked.of(400, 3))
    found = asked.compare(partial(cost, SPEED, *ours), lambda: 18_000.0, faster="share")
    yield Line(name="G4", what="training, resnet18 at 224 px / 18,000 images a second", found=found, wanted=1.0)


GPU_TABLE: dict[str, Callable[[Asked], Iterator[Line]]] = {"G1": g1, "G2": g2, "G3": g3, "G4": g4}
TABLE: dict[str, Callable[[Asked], Iterator[Line]]] = {
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


README, HEAD, FOOT = HERE / "README.md", "<!-- measured -->\n", "<!-- end -->"
COLUMNS = ("", "what", "found", "lowest to highest", "wanted", "met", "ours, theirs", "rounds", "others used", "on")


def to_row(line: Line) -> str:
    """A line of the table in markdown."""
    found = line.found
    cells = [line.name, line.what, f"{found.ratio:.2f}", f"{min(found.ratios):.2f} to {max(found.ratios):.2f}"]
    cells += [f"{'at most' if line.at_most else 'at least'} {line.wanted:g}", "yes" if line.met else "NO"]
    cells += [f"{found.ours:.4g}, {found.theirs:.4g}", str(len(found.pairs)), f"{found.foreign:.0%}"]
    return f"| {' | '.join(cells)} | {time.strftime('%Y-%m-%d')} |"


def name_of(row: str) -> str:
    """The name of the line that a row of the table tells."""
    return row.split("|")[1].strip()


def note(rows: list[str]) -> None:
    """Put rows into README.md's table, in the place of those of the same names that are there."""
    before, _, rest = README.read_text().partition(HEAD)
    table, _, after = rest.partition(FOOT)
    names = {name_of(row) for row in rows}
    kept = [row for row in table.splitlines()[2:] if name_of(row) not in names]
    kept = sorted([*kept, *rows], key=lambda row: (name_of(row)[0] != "S", int(name_of(row)[1:])))
    head = [f"|{'|'.join(f' {column} ' for column in COLUMNS)}|", "|" + "---|" * len(COLUMNS)]
    README.write_text(before + HEAD + "\n".join([*head, *kept]) + "\n" + FOOT + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="S1", help=f"of {', '.join([*TABLE, *GPU_TABLE])}; all S where none is given"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--note", action="store_true", help="write the lines into README.md's table")
    asked = parser.parse_args()
    tables = TABLE | GPU_TABLE
    unknown = [name for name in asked.names if name not in tables]
    if unknown:
        parser.error(f"{unknown[0]}: not one of {', '.join(tables)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    from zoo.system import describe_system, versions

    print(json.dumps({**describe_system("cpu", 1), **versions()}))
    print(f"|{'|'.join(f' {column} ' for column in COLUMNS)}|")
    for name in asked.names or TABLE:
        rows = []
        for line in tables[name](Asked(asked.rounds, asked.quick)):
            rows.append(to_row(line))
            print(rows[-1], flush=True)
        if asked.note:
            note(rows)


if __name__ == "__main__":
    main()
