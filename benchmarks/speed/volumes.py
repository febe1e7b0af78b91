"""Measure the training step of the 3-D U-Net inside a run beside its bare step, in CPU seconds.

    python benchmarks/speed/volumes.py [--augmentation none] [--rounds 7] [--steps 6] [--profile]

The volumes are 30 NIfTI files of noise, shaped as those of the MSD hippocampus set; the patch, the batch and the
optimizer are those of `segment3d-quick@1`. A step in a run draws, cuts, normalizes and augments its patches. A bare
step is forward, loss, backward, clipping and update on one fixed batch, with the same precision. Both run in turns in
one process, on one thread. `--profile` lists what the step in a run spends its time on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

SHAPE, SPREAD = (35, 50, 36), 4  # of a volume, and how much its sides vary
COUNT = 30


def write_volumes(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(COUNT):
        shape = np.array(SHAPE) + random.integers(-SPREAD, SPREAD + 1, 3)
        mask = np.zeros(shape, np.uint8)
        mask[10:20, 15:30, 12:24] = 1
        mask[20:28, 15:30, 12:24] = 2
        values = (random.normal(100, 20, shape) + 30 * mask).astype(np.float32)
        for part, array in (("imagesTr", values), ("labelsTr", mask)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"v_{number:02}.nii.gz")
    return folder


def make_steps(root: Path, augmentation: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The step in a run, and the bare step."""
    import torch

    import zoo
    from zoo.data.dataset import Resolution, cache_decoded, open_fold
    from zoo.data.splits import draw_split
    from zoo.data.volumes import Sides, open_volumes
    from zoo.models.building import build_model
    from zoo.models.layout import place
    from zoo.specs.model import BuildRequest
    from zoo.specs.protocol import SEGMENT3D_QUICK
    from zoo.system.devices import open_device, resolve_precision
    from zoo.system.machine import prepare_torch, seed_children
    from zoo.training.batches import Feed
    from zoo.training.fitting import USES
    from zoo.training.loop import Training
    from zoo.training.optimizer import build_optimizer
    from zoo.training.selection import BestRound
    from zoo.training.volume_batches import VolumeBatches
    from zoo_segmentation import plain_unet_3d

    prepare_torch(1)
    protocol, spec = replace(SEGMENT3D_QUICK, augmentation=augmentation, steps=10_000), plain_unet_3d()
    precision = resolve_precision("auto", "cpu")
    source = zoo.open_dataset(write_volumes(root / "set"))
    images = cache_decoded(source, Resolution(48, None), root / "cache")
    fold = open_fold(source, draw_split(source), 0, images, patch=48)
    assert fold.volumes is not None
    pixels = open_volumes(fold.decoded, fold.volumes, "cpu", sides=Sides(spec.size_multiple, spec.min_image_size))
    request = BuildRequest(num_outputs=3, channels=1, image_size=48, dims=3)

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        module = place(build_model(spec, request), "cpu", precision, 48).train()
        return module, build_optimizer(spec, module, protocol)

    module, optimizer = build()
    training = Training(
        module=module,
        task=source.task,
        precision=precision,
        feed=Feed(VolumeBatches(fold, pixels, protocol, seed_children(0, *USES)), optimizer, protocol, protocol.steps),
        keeper=BestRound(module, select_last=True),
    )
    bare, bare_optimizer = build()
    batch = torch.randn(protocol.batch_size, *pixels.input_shape)
    masks = torch.randint(0, 3, (protocol.batch_size, *pixels.patch))
    parameters = list(bare.parameters())

    def take_bare_step() -> None:
        with open_device("cpu").autocast(precision):
            logits = bare(batch)
        loss = source.task.head.loss(logits.float(), masks)
        bare_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, protocol.clip_norm)
        bare_optimizer.step()

    print(f"{precision}, batches of {protocol.batch_size} patches of {' x '.join(map(str, pixels.patch))} voxels")
    return training.take_step, take_bare_step


def seconds_a_step(step: Callable[[], None], steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def show_profile(step: Callable[[], None], steps: int) -> None:
    from torch.profiler import profile

    with profile() as profiled:
        for _ in range(steps):
            step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--augmentation", choices=("none", "one-of"), default="one-of")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="of each side in a round")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        in_run, bare = make_steps(Path(folder), options.augmentation)
        seconds_a_step(in_run, 3), seconds_a_step(bare, 3)  # the first ones allocate
        if options.profile:
            show_profile(in_run, options.steps)
            return
        pairs = [
            (seconds_a_step(in_run, options.steps), seconds_a_step(bare, options.steps)) for _ in range(options.rounds)
        ]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(other / mine for mine, other in pairs)
    print(f"step in a run {ours:.3f} CPU s, bare step {theirs:.3f} CPU s")
    print(f"speed in a run / bare {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
