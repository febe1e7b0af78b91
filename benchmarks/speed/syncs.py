"""Count how often the host waits for the GPU in an epoch of a real training, and print the counts as one JSON line.

A synchronization is an operation of which `torch.cuda.set_sync_debug_mode("warn")` warns, or an explicit call of
`synchronize`, which that mode does not detect. Counts run from the first step of an epoch to the last but one, without
the end of the epoch (loss, val), and without the first epoch, which includes one-time costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

EPOCHS, BATCH, SIDE = 3, 16, 64


def make_data(steps: int) -> tuple[Any, Any]:
    """A dataset of gray images that are bright where the target is 1, and its pixels in the host's memory."""
    import numpy as np
    import torch

    from zoo.data.dataset import DecodedFold
    from zoo.data.pixels import Pixels
    from zoo.tasks.kinds import BINARY

    random = np.random.default_rng(0)
    sizes = {"train": steps * BATCH, "val": 64, "test": 64}
    count = sum(sizes.values())
    targets = random.integers(0, 2, count)
    images = random.integers(0, 128, (count, SIDE, SIDE, 1)) + 64 * targets[:, None, None, None]
    ids = np.array([f"s{number}" for number in range(count)])
    dataset = DecodedFold(
        name="dots",
        task=BINARY,
        labels=("dark", "bright"),
        positive=None,
        unit="image",
        has_patients=False,
        symmetries=("hflip", "rot90"),
        intensity=(0.0, 255.0),
        sample_ids=ids,
        patients=ids,
        targets=targets,
        split_of=np.repeat(list(sizes), list(sizes.values())),
        images=Path("none.npy"),
        content_hash="",
        split_hash="",
        fold=0,
        num_folds=1,
    )
    half = torch.full((1, 1, 1, 1), 0.5)
    pixels = torch.from_numpy(images.astype(np.uint8))
    return dataset, Pixels(images=pixels, scale=(0.0, 255.0), mean=half, std=half / 2, device="cpu")


def place_pixels(pixels: Any, device: str, *, resident: bool) -> Any:
    """Place pixels as in a run on the device, with the images on the device or in the host's memory."""
    images = pixels.images.to(device) if resident else pixels.images
    return replace(pixels, images=images, mean=pixels.mean.to(device), std=pixels.std.to(device), device=device)


def train(dataset: Any, pixels: Any, notify: Callable[[dict[str, Any]], None]) -> None:
    """Fine-tune a resnet18 with zoo's full augmentation."""
    from zoo.models.building import build_model
    from zoo.registry.opening import open_registry
    from zoo.specs.model import BuildRequest
    from zoo.specs.protocol import FINETUNE
    from zoo.training.fitting import FitRequest, fit

    spec = open_registry().find("model", "resnet18")
    num_outputs = dataset.task.num_outputs(len(dataset.labels))
    module = build_model(spec, BuildRequest(num_outputs=num_outputs, channels=1, image_size=SIDE))
    protocol = replace(FINETUNE, epochs=EPOCHS, rounds=EPOCHS, min_steps=0, batch_size=BATCH, image_size=SIDE)
    precision = "fp32" if pixels.device == "cpu" else "bf16"
    request = FitRequest(
        spec=spec,
        module=module,
        dataset=dataset,
        pixels=pixels,
        protocol=protocol,
        seed=0,
        precision=precision,
        val_score=lambda _: 0.0,
        notify=notify,
    )
    fit(request)


class Waits:
    """A counter of the host's waits for the GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.explicit = 0
        self.caught: list[warnings.WarningMessage] = []

    @property
    def count(self) -> int:
        return self.explicit + sum("synchronizing CUDA operation" in str(each.message) for each in self.caught)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the waits within the block."""
        import torch

        owners: tuple[Any, ...] = (torch.cuda, torch.cuda.Event, torch.cuda.Stream)
        originals = [owner.synchronize for owner in owners]
        with warnings.catch_warnings(record=True) as self.caught:
            warnings.simplefilter("always")
            for owner, original in zip(owners, originals, strict=True):
                owner.synchronize = self.counting(original)
            if self.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                if self.device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
                for owner, original in zip(owners, originals, strict=True):
                    owner.synchronize = original

    def counting(self, synchronize: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to count its calls."""

        def count_and_wait(*arguments: Any, **named: Any) -> Any:
            self.explicit += 1
            return synchronize(*arguments, **named)

        return count_and_wait


def count_syncs(device: str, steps: int, *, resident: bool) -> int:
    """The largest number of synchronizations in an epoch, without the first epoch."""
    dataset, pixels = make_data(steps)
    waits, counts = Waits(device), dict[int, int]()

    def note(row: dict[str, Any]) -> None:
        counts[row["step"]] = waits.count

    with waits.watching():
        train(dataset, place_pixels(pixels, device, resident=resident), note)
    return max(counts[start + steps - 1] - counts[start + 1] for start in range(steps, EPOCHS * steps, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=60, help="of an epoch")
    options = parser.parse_args()
    kinds = ("resident", "streamed")
    counts = {kind: count_syncs(options.device, options.steps, resident=kind == "resident") for kind in kinds}
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
