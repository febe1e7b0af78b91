"""Measure how many artificially flipped labels `zoo audit --label-noise` detects in a real dataset.

python benchmarks/audit/label_noise.py DATA/breastmnist.npz --features MODEL --weights-dir WEIGHTS
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.auditing.examine import choose_backbone
from zoo.auditing.label_noise import find_label_noise
from zoo.data.fingerprints import take_fingerprints
from zoo.data.lookup import SplitDataset
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.registry.context import Context
from zoo.registry.opening import open_registry
from zoo.sources.opening import find_source
from zoo.system.progress import Console
from zoo.system.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--features", default="")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--share", type=float, default=0.05, help="share of labels to flip")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings, console = Settings(offline=True), Console()
    context = Context(registry=open_registry(), settings=settings, console=console)
    backbone = choose_backbone(arguments.features, arguments.weights_dir, context)
    source = open_dataset(find_source(arguments.dataset), settings.cache)
    fingerprints = take_fingerprints(source, settings.cache)
    split = draw_split(source, fingerprints=fingerprints)
    print(f"{source.spec.name}: {len(source.sample_ids)} images, {backbone.shown}")
    for seed in range(arguments.seeds):
        random = np.random.default_rng(seed)
        targets, labels = np.asarray(source.samples.targets).copy(), len(source.spec.labels)
        rows = random.choice(len(targets), round(arguments.share * len(targets)), replace=False)
        targets[rows] = (targets[rows] + random.integers(1, labels, len(rows))) % labels
        wrong = set(source.sample_ids[rows].tolist())
        noisy = replace(source, samples=replace(source.samples, targets=targets))
        dataset = SplitDataset(source=noisy, split=split, fingerprints=fingerprints)
        finding = find_label_noise(dataset, backbone, cache=settings.cache, device="cpu", console=console)
        suspects = [suspect.sample for suspect in finding.suspects]
        hits = len(wrong & set(suspects))
        first = np.mean([sample in wrong for sample in suspects[: len(wrong)]]) if suspects else float("nan")
        print(
            f"seed {seed}: {len(wrong)} flipped, {len(suspects)} suspects, recall {hits / len(wrong):.2f}, "
            f"precision {hits / max(1, len(suspects)):.2f}, of the first {len(wrong)} {first:.2f}  ({finding.message})"
        )


if __name__ == "__main__":
    main()
