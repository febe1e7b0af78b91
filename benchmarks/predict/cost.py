"""Measure `zoo predict`: its speed beside evaluation in the bench, and its memory for many images and a large volume.

    python benchmarks/predict/cost.py speed      # resnet18 at 224 px, PNG files of 224 px
    python benchmarks/predict/cost.py memory     # resnet10t at 32 px, 1,000 and 10,000 PNG files of 64 px
    python benchmarks/predict/cost.py volume     # unet3d, 4 outputs, patches of 128 voxels; 512 x 512 x 400 voxels

Speed: images per CPU second of all cores, in turns in one process. The other side is what a bench does to evaluate the
same files: read and resize each (`decode_into`), then the network's forward passes (`forward`). Opening the model and
the dataset is before the clock on both sides. Memory: the peak of the whole command.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROUNDS = 5
SPEED_IMAGES = 192
TRAINED_VOLUMES = 12
LARGE_VOLUME = (512, 512, 400)


def write_images(folder: Path, count: int, size: int) -> Path:
    """Class folders of smooth random images, which compress about as photographs do."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + random.integers(-4, 5, smooth.shape)).clip(0, 255).astype(np.uint8)
        place = folder / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place / f"{number:05}.png")
    return folder


def train(root: Path, model: str, size: int, images: Path) -> str:
    """Keep a model after one step of training; the quality does not matter."""
    budget = [part for each in ("steps=1", "rounds=1", f"image_size={size}") for part in ("--set", each)]
    words = ["bench", "-m", model, "-d", str(images), "--protocol", "quick", "--weights", "none", "--seeds", "1"]
    call_zoo(*words, *budget, "--results", str(root / "results"))
    return f"{images.name}/{model.rpartition(':')[2]}"


def call_zoo(*words: str) -> tuple[float, float]:
    """Run a command; return its peak memory in MB and its CPU seconds."""
    process = subprocess.Popen([sys.executable, "-m", "zoo", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said)
    return usage.ru_maxrss / 1e3, usage.ru_utime + usage.ru_stime


def measure_speed(root: Path) -> None:
    import torch

    import zoo
    from zoo.data.decoded import decode_into, map_images
    from zoo.data.pixels import as_pixels
    from zoo.evaluation.predict import forward
    from zoo.system.devices import open_device
    from zoo.system.machine import num_cores, prepare_torch

    images = write_images(root / "set", SPEED_IMAGES, 224)
    name = train(root, "resnet18", 224, images)
    prepare_torch(num_cores())
    model = zoo.load_model(name, results=root / "results", device="cpu")
    opened, card = model.models[0], model.card
    source = zoo.open_dataset(images)

    def predict() -> int:
        return len(model.predict(images))

    def evaluate() -> int:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            decode_into(source, card.image_size, Path(folder), None)
            array = map_images(Path(folder) / "images.npy", "c")
            pixels = as_pixels(torch.from_numpy(array), card.intensity, card.mean, card.std, "cpu")
            batch = open_device("cpu").prediction_batch(pixels.input_bytes)
            return len(forward(opened.module, pixels, np.arange(len(array)), batch, precision=card.precision))

    predict(), evaluate()
    pairs = [(rate(predict), rate(evaluate)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(mine / other for mine, other in pairs)
    print(f"zoo predict {ours:.1f} images per CPU second, evaluation with reading {theirs:.1f}")
    print(f"ratio {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f} in {ROUNDS} rounds")


def rate(work: Callable[[], int]) -> float:
    start = time.process_time()
    return work() / (time.process_time() - start)


def measure_memory(root: Path) -> None:
    name = train(root, "zoo-timm:resnet10t", 32, write_images(root / "set", 100, 64))
    for count in (1_000, 10_000):
        images = write_images(root / f"new{count}", count, 64)
        words = ["predict", name, str(images), "-o", str(root / "out.csv"), "--device", "cpu"]
        peak, seconds = call_zoo(*words, "--results", str(root / "results"))
        lines = len((root / "out.csv").read_text().splitlines()) - 1
        print(f"{lines} images: peak {peak:.0f} MB, {seconds:.0f} CPU seconds")


def write_volumes(folder: Path, count: int, shape: tuple[int, ...]) -> Path:
    """NIfTI volumes of noise in 16 bits, each with a mask of three labels."""
    import nibabel

    random = np.random.default_rng(0)
    for number in range(count):
        name = f"volume_{number:03}.nii.gz"
        values = random.integers(-1000, 2000, shape, dtype=np.int16)
        mask = np.zeros(shape, np.uint8)
        for label in (1, 2, 3):
            mask[16 * label : 16 * label + 12, 16:64, 16:64] = label
        for part, array in (("imagesTr", values), ("labelsTr", mask)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / name)
    return folder


def measure_volume(root: Path) -> None:
    name = train(root, "unet3d", 128, write_volumes(root / "set", TRAINED_VOLUMES, (128, 128, 128)))
    volume = write_volumes(root / "new", 1, LARGE_VOLUME) / "imagesTr"
    words = ["predict", name, str(volume), "-o", str(root / "masks"), "--device", "cpu"]
    peak, seconds = call_zoo(*words, "--results", str(root / "results"))
    print(f"a volume of {' x '.join(map(str, LARGE_VOLUME))} voxels: peak {peak:.0f} MB, {seconds:.0f} CPU seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "volume"))
    with tempfile.TemporaryDirectory() as folder:
        {"speed": measure_speed, "memory": measure_memory, "volume": measure_volume}[parser.parse_args().what](
            Path(folder)
        )


if __name__ == "__main__":
    main()
