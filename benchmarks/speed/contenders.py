"""What zoo is measured against, each as a program of its own that prints one JSON line: python contenders.py NAME ...

`bare` is the step itself; `tutorial` is the script that every tutorial ends with; `timm` is the loop of timm's training
script (which is not in its wheel) written after its documentation, with its best flags; `lightning` is Lightning's
Trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def build(model: str, channels: int = 3, classes: int = 2) -> Any:
    import timm

    return timm.create_model(model, pretrained=False, num_classes=classes, in_chans=channels)


def bare(asked: argparse.Namespace) -> dict[str, float]:
    """Forward, backward and update on one batch that is there already; ours are the settings of a zoo run."""
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    module = build(asked.model, asked.channels)
    images = torch.randn(asked.batch, asked.channels, asked.size, asked.size)
    if asked.settings == "zoo":
        from zoo.models import keep_depthwise_fp32
        from zoo.system import resolve_precision, tune_allocator

        tune_allocator()
        precision = resolve_precision("auto", asked.device)
        if precision == "bf16" and asked.device == "cpu":
            keep_depthwise_fp32(module)
        module = module.to(asked.device, memory_format=torch.channels_last)
        images = images.to(asked.device).contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    else:
        precision = "fp32"
        module, images = module.to(asked.device), images.to(asked.device)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    targets = torch.randint(0, 2, (asked.batch,), device=asked.device)
    module.train()
    for step in range(asked.warm_up + asked.steps):
        if step == asked.warm_up:
            wait(asked.device)
            start = time.perf_counter()
        with torch.autocast(asked.device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = module(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    wait(asked.device)
    return {"images_per_second": asked.steps * asked.batch / (time.perf_counter() - start)}


def wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def loaders(asked: argparse.Namespace) -> tuple[Any, Any]:
    """Train and test of a folder of class folders, as torchvision's documentation loads them."""
    import torch
    from torchvision import datasets, transforms

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = [transforms.Resize((asked.size, asked.size)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    flips = [transforms.RandomHorizontalFlip()] if asked.augment == "flip" else []
    affine = [transforms.RandomAffine(30, (0.1, 0.1), (0.8, 1.2))] if asked.augment == "affine" else []
    sets = [
        datasets.ImageFolder(str(asked.data / split), transforms.Compose([*extra, *resize]))
        for split, extra in (("train", [*flips, *affine]), ("test", []))
    ]
    keep = {"persistent_workers": asked.workers > 0, "num_workers": asked.workers, "pin_memory": asked.device != "cpu"}
    return (
        torch.utils.data.DataLoader(sets[0], batch_size=asked.batch, shuffle=True, drop_last=True, **keep),
        torch.utils.data.DataLoader(sets[1], batch_size=64, **keep),
    )


def tutorial(asked: argparse.Namespace) -> dict[str, float]:
    """torchvision's ImageFolder, a DataLoader, float32, SGD: the loop of pytorch.org's transfer learning tutorial."""
    import torch

    module = build(asked.model).to(asked.device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001, momentum=0.9)
    return train_and_test(asked, module, optimizer, *loaders(asked), contextlib.nullcontext, channels_last=False)


def timm_loop(asked: argparse.Namespace) -> dict[str, float]:
    """timm's training loop with `--amp --amp-dtype bfloat16 --channels-last`, its optimizer factory and its loss."""
    import torch
    from timm.optim import create_optimizer_v2

    module = build(asked.model).to(asked.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(module, opt="adamw", lr=1e-4, weight_decay=0.05)
    if asked.compile:
        module = torch.compile(module)

    def amp() -> Any:
        return torch.autocast(asked.device, dtype=torch.bfloat16)

    return train_and_test(asked, module, optimizer, *loaders(asked), amp, channels_last=True)


def train_and_test(
    asked: argparse.Namespace,
    module: Any,
    optimizer: Any,
    train: Any,
    test: Any,
    precision: Any,
    *,
    channels_last: bool,
) -> dict[str, float]:
    import torch

    def moved(images: Any) -> Any:
        kind = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(asked.device, non_blocking=True).contiguous(memory_format=kind)

    def endless() -> Iterator[Any]:
        for _ in itertools.count():
            yield from train

    module.train()
    batches = endless()
    for step in range(asked.warm_up + asked.steps):
        if step == asked.warm_up:
            wait(asked.device)
            start = time.perf_counter()
        images, targets = next(batches)
        optimizer.zero_grad()
        with precision():
            loss = torch.nn.functional.cross_entropy(module(moved(images)), targets.to(asked.device))
        loss.backward()
        optimizer.step()
        loss.item()  # as the tutorials print it
    wait(asked.device)
    trained = asked.steps * asked.batch / (time.perf_counter() - start)
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


def lightning(asked: argparse.Namespace) -> dict[str, float]:
    """Lightning's Trainer with `precision="bf16-mixed"`, nothing logged, no checkpoints."""
    import logging

    import lightning
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = build(asked.model).to(memory_format=torch.channels_last)

        def training_step(self, batch: Any, _: int) -> Any:
            images, targets = batch
            images = images.contiguous(memory_format=torch.channels_last)
            return torch.nn.functional.cross_entropy(self.module(images), targets)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    class Clock(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == asked.warm_up:
                self.start = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=asked.warm_up + asked.steps,
        precision="bf16-mixed",
        accelerator="cpu" if asked.device == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(Classifier(), loaders(asked)[0])
    return {"images_per_second": asked.steps * asked.batch / clock.seconds}


def naive_probe(asked: argparse.Namespace) -> dict[str, float]:
    """A linear probe as scripts do it: for every penalty and seed the images go through the network again."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    module = build(asked.model).eval()
    module.reset_classifier(0)
    train, _ = loaders(asked)
    start = time.perf_counter()
    fits = 0
    for penalty, _seed in itertools.product(np.logspace(-4, 4, asked.penalties), range(asked.seeds)):
        features, targets = [], []
        with torch.no_grad():
            for images, labels in train:
                features.append(module(images).numpy())
                targets.append(labels.numpy())
        LogisticRegression(C=penalty, max_iter=500).fit(np.concatenate(features), np.concatenate(targets))
        fits += 1
        if time.perf_counter() - start > asked.seconds:
            break
    return {"seconds": (time.perf_counter() - start) / fits * asked.penalties * asked.seeds, "fits": fits}


CONTENDERS = {
    "bare": bare,
    "tutorial": tutorial,
    "timm": timm_loop,
    "lightning": lightning,
    "naive_probe": naive_probe,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", choices=["zoo", "default"], default="zoo")
    parser.add_argument("--augment", choices=["none", "flip", "affine"], default="none")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--penalties", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    print(json.dumps(CONTENDERS[asked.name](asked)))


if __name__ == "__main__":
    main()
