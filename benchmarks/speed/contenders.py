"""The programs that zoo is compared with; each prints one JSON line: python contenders.py NAME ...

`contenders.py many 'bare --model resnet18' 'bare --model resnet50' ...` measures several in one process and prints one
line each, because on a GPU imports and first-use costs take longer than a measurement. A program that fails prints its
`error`.

`bare` is the training step alone; `tutorial` is the usual tutorial script; `timm` is the loop of timm's training script
(which is not in its wheel), written after its documentation, with its best flags; `lightning` is Lightning's Trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import math
import resource
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any


def build(model: str, channels: int = 3, classes: int = 2) -> Any:
    import timm

    return timm.create_model(model, pretrained=False, num_classes=classes, in_chans=channels)


def bare(options: argparse.Namespace) -> dict[str, Any]:
    """Time forward, backward and update on one fixed batch, with the settings of a zoo run or torch's defaults."""
    if options.capture and options.device == "cpu":
        raise SystemExit("contenders.py: --capture needs --device cuda: only a GPU replays graphs")
    step = build_step(options)
    if options.capture:
        step = capture(step)
    for _ in range(options.warm_up):
        step()
    speeds = [options.batch / seconds_a_step(step, options) for _ in range(options.repeats)]
    return {"images_per_second": statistics.median(speeds), "repeats": speeds}


def seconds_a_step(step: Callable[[], None], options: argparse.Namespace) -> float:
    wait(options.device)
    start = time.perf_counter()
    for _ in range(options.steps):
        step()
    wait(options.device)
    seconds = time.perf_counter() - start
    return seconds / float(options.steps)


def build_step(options: argparse.Namespace) -> Callable[[], None]:
    """Build the step on one fixed batch; on a GPU the step never waits for the device."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    module, optimizer, precision = prepare(options)
    images = torch.randn(options.batch, options.channels, options.size, options.size, device=options.device)
    if options.settings == "zoo":
        images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 2, (options.batch,), device=options.device)
    parameters = list(module.parameters())
    network = torch.compile(module) if options.compile else module
    foreach = True if options.device == "cuda" else None  # None: torch's default
    autocast = partial(
        torch.autocast,
        options.device,
        dtype=torch.bfloat16,
        enabled=precision == "bf16",
        cache_enabled=not options.capture,  # a graph must cast the weights again in each step
    )

    def step() -> None:
        with autocast():
            logits = network(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=foreach)
        optimizer.step()

    return step


def prepare(options: argparse.Namespace) -> tuple[Any, Any, str]:
    """The module in training mode, its optimizer and the precision: zoo's settings, or torch's defaults."""
    import torch

    module = build(options.model, options.channels).train()
    if options.settings == "default":
        module = module.to(options.device)
        return module, torch.optim.AdamW(module.parameters(), lr=1e-4), "fp32"
    if options.device == "cuda":
        module = module.to("cuda", memory_format=torch.channels_last)
        rate = torch.tensor(1e-4, device="cuda")
        return module, torch.optim.AdamW(module.parameters(), lr=rate, fused=True, capturable=True), "bf16"
    from zoo.models.layout import in_float32, wrap_depthwise
    from zoo.system.devices import resolve_precision
    from zoo.system.machine import tune_allocator

    tune_allocator()
    precision = resolve_precision("auto", "cpu")
    if precision == "bf16":
        wrap_depthwise(module, in_float32)
    module = module.to(memory_format=torch.channels_last)
    return module, torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True), precision


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """Capture a step as one CUDA graph, after three warm-up steps on a side stream, and return its replay."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def loaders(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load train and test of a folder of class folders as in torchvision's documentation."""
    import torch
    from torchvision import datasets, transforms

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = [transforms.Resize((options.size, options.size)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    flips = [transforms.RandomHorizontalFlip()] if options.augment == "flip" else []
    affine = [transforms.RandomAffine(30, (0.1, 0.1), (0.8, 1.2))] if options.augment == "affine" else []
    sets = [
        datasets.ImageFolder(str(options.data / split), transforms.Compose([*extra, *resize]))
        for split, extra in (("train", [*flips, *affine]), ("test", []))
    ]
    keep = {
        "persistent_workers": options.workers > 0,
        "num_workers": options.workers,
        "pin_memory": options.device != "cpu",
    }
    order: dict[str, Any] = {"shuffle": True}
    if options.endless:
        total = (options.warm_up + options.steps) * options.batch
        order = {"sampler": torch.utils.data.RandomSampler(sets[0], replacement=True, num_samples=total)}
    return (
        torch.utils.data.DataLoader(sets[0], batch_size=options.batch, drop_last=True, **order, **keep),
        torch.utils.data.DataLoader(sets[1], batch_size=64, **keep),
    )


def tutorial(options: argparse.Namespace) -> dict[str, Any]:
    """torchvision's ImageFolder, a DataLoader, float32, SGD: the loop of pytorch.org's transfer learning tutorial."""
    import torch

    module = build(options.model).to(options.device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001, momentum=0.9)
    return train_and_test(options, module, optimizer, *loaders(options), contextlib.nullcontext, channels_last=False)


def timm_loop(options: argparse.Namespace) -> dict[str, Any]:
    """timm's training loop with `--amp --amp-dtype bfloat16 --channels-last`, its optimizer factory and its loss."""
    import torch
    from timm.optim import create_optimizer_v2

    module = build(options.model).to(options.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(module, opt="adamw", lr=1e-4, weight_decay=0.05)
    if options.compile:
        module = torch.compile(module)

    def amp() -> Any:
        return torch.autocast(options.device, dtype=torch.bfloat16)

    return train_and_test(options, module, optimizer, *loaders(options), amp, channels_last=True)


def train_and_test(
    options: argparse.Namespace,
    module: Any,
    optimizer: Any,
    train: Any,
    test: Any,
    precision: Any,
    *,
    channels_last: bool,
) -> dict[str, Any]:
    import torch

    def moved(images: Any) -> Any:
        kind = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(options.device, non_blocking=True).contiguous(memory_format=kind)

    def endless() -> Iterator[Any]:
        for _ in itertools.count():
            yield from train

    module.train()
    batches = endless()
    start, steps = time.perf_counter(), 0
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up:
            wait(options.device)
            start = time.perf_counter()
        images, targets = next(batches)
        optimizer.zero_grad()
        with precision():
            loss = torch.nn.functional.cross_entropy(module(moved(images)), targets.to(options.device))
        loss.backward()
        optimizer.step()
        loss.item()  # the tutorials print it
        steps = step + 1 - options.warm_up
        if steps > 0 and time.perf_counter() - start > options.limit:
            break
    wait(options.device)
    trained = steps * options.batch / (time.perf_counter() - start)
    if options.train_only:
        return {"images_per_second": trained, "repeats": [trained]}
    module.eval()
    tested, start = 0, time.perf_counter()
    with torch.no_grad(), precision():
        for images, _ in test:
            module(moved(images)).float().softmax(dim=1).cpu()
            tested += len(images)
    return {
        "images_per_second": trained,
        "inference_images_per_second": tested / (time.perf_counter() - start),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def lightning(options: argparse.Namespace) -> dict[str, float]:
    """Lightning's Trainer with `precision="bf16-mixed"`, without logging and checkpoints."""
    import logging

    import lightning
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = build(options.model).to(memory_format=torch.channels_last)

        def training_step(self, batch: Any, _: int) -> Any:
            images, targets = batch
            images = images.contiguous(memory_format=torch.channels_last)
            return torch.nn.functional.cross_entropy(self.module(images), targets)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    class Clock(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == options.warm_up:
                self.start = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=options.warm_up + options.steps,
        precision="bf16-mixed",
        accelerator="cpu" if options.device == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(Classifier(), loaders(options)[0])
    return {"images_per_second": options.steps * options.batch / clock.seconds}


def naive_probe(options: argparse.Namespace) -> dict[str, float]:
    """A linear probe as in common scripts: compute the features again for each penalty and seed."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    module = build(options.model).eval()
    module.reset_classifier(0)
    train, _ = loaders(options)
    start = time.perf_counter()
    fits = 0
    for penalty, _seed in itertools.product(np.logspace(-4, 4, options.penalties), range(options.seeds)):
        features, targets = [], []
        with torch.no_grad():
            for images, labels in train:
                features.append(module(images).numpy())
                targets.append(labels.numpy())
        LogisticRegression(C=penalty, max_iter=500).fit(np.concatenate(features), np.concatenate(targets))
        fits += 1
        if time.perf_counter() - start > options.seconds:
            break
    return {"seconds": (time.perf_counter() - start) / fits * options.penalties * options.seeds, "fits": fits}


CONTENDERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "bare": bare,
    "tutorial": tutorial,
    "timm": timm_loop,
    "lightning": lightning,
    "naive_probe": naive_probe,
}


def many(configurations: Sequence[str]) -> None:
    """Measure contenders one after the other, and print the line of each at once."""
    parser = build_parser()
    for options in [parser.parse_args(shlex.split(configuration)) for configuration in configurations]:
        try:
            line = CONTENDERS[options.name](options)
        except Exception as error:  # go on with the others
            traceback.print_exc()
            line = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(line), flush=True)
        forget(options.device)


def forget(device: str) -> None:
    """Free a contender's device memory and compiled code; otherwise the next one compiles for any batch size."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.compiler.reset()
        torch.cuda.empty_cache()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="timed regions of the bare step")
    parser.add_argument("--limit", type=float, default=math.inf, help="end the timed steps after this many seconds")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument(
        "--endless", action="store_true", help="draw with replacement: no worker waits for an epoch's end"
    )
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--settings", choices=["zoo", "default"], default="zoo")
    parser.add_argument("--augment", choices=["none", "flip", "affine"], default="none")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true", help="the bare step as one CUDA graph")
    parser.add_argument("--penalties", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    return parser


def main() -> None:
    if sys.argv[1:2] == ["many"]:
        many(sys.argv[2:])
        return
    options = build_parser().parse_args()
    print(json.dumps(CONTENDERS[options.name](options)))


if __name__ == "__main__":
    main()
