"""Measure the cost of an audit: milliseconds per image, and seconds to compare 20,000 images with 20,000.

    python benchmarks/audit/cost.py DATA/ham10000_mel_nv

Times are wall time and the CPU time of all cores; other work on the machine does not lengthen the latter. For the
pairs, the hashes and thumbnails of the dataset are repeated with a few changed bits and levels until there are 20,000,
so there are at least as many near neighbors as in a dataset of that kind.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas  # noqa: F401  this and the next two are imported before the clock starts: 2 s for any dataset
import scipy.fft  # noqa: F401
import sklearn.model_selection  # noqa: F401

from zoo.auditing.audit import run_audit
from zoo.data.fingerprints import find_alike, fingerprint_all, take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source
from zoo.system.machine import num_cores


class Watch:
    """Wall seconds and CPU seconds since the last call of `look`."""

    def __init__(self) -> None:
        self.seconds = self.core_seconds = 0.0
        self.look()

    def look(self) -> tuple[float, float]:
        now, cores = time.perf_counter(), time.process_time()
        passed = now - self.seconds, cores - self.core_seconds
        self.seconds, self.core_seconds = now, cores
        return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--pairs", type=int, default=20_000)
    arguments = parser.parse_args()
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        cache, watch = Path(folder), Watch()
        source = open_dataset(find_source(arguments.dataset), cache)
        steps["opened and hashed"] = watch.look()
        fingerprints = take_fingerprints(source, cache)
        steps["decoded and compared"] = watch.look()
        split = draw_split(source, fingerprints=fingerprints)
        steps["split"] = watch.look()
        findings = run_audit(source, split, fingerprints).findings
        steps[f"checked, {len(findings)} findings"] = watch.look()
    count, width, height = len(source.sample_ids), np.median(fingerprints.widths), np.median(fingerprints.heights)
    print(f"{source.spec.name}: {count} images of {width:.0f} x {height:.0f}, {num_cores()} cores; ms per image")
    steps["all"] = tuple(np.sum(list(steps.values()), axis=0))
    for name, (seconds, core_seconds) in steps.items():
        print(f"  {name:24} {1000 * seconds / count:6.2f}, CPU {1000 * core_seconds / count:6.2f}")

    _, hashes, thumbnails = fingerprint_all(source, None)
    random = np.random.default_rng(0)
    rows = np.arange(arguments.pairs) % count
    flips = np.left_shift(np.uint64(1), random.integers(0, 64, (arguments.pairs, 4)).astype(np.uint64))
    many = hashes[rows] ^ np.bitwise_xor.reduce(flips, axis=1)
    noise = random.integers(-12, 13, (arguments.pairs, thumbnails.shape[1]), dtype=np.int16)
    small = (thumbnails[rows] + noise).clip(0, 255).astype(np.uint8)
    watch = Watch()
    alike = sum(map(len, find_alike(many, small)))
    seconds, core_seconds = watch.look()
    pairs = f"{arguments.pairs:,} x {arguments.pairs:,}"
    print(f"{pairs} compared in {seconds:.1f} s, CPU {core_seconds:.1f} s; {alike:,} similar pairs")


if __name__ == "__main__":
    main()
