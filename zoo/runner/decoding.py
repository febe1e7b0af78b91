"""Decode the datasets of a bench in another process, while a GPU already trains on the first one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from zoo.data.dataset import Resolution, cache_decoded
from zoo.data.opening import OpenDataset, read_by_train
from zoo.registry.context import Context
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.runner.assignments import resolution_of
from zoo.runner.planning import Plan
from zoo.system.settings import Settings
from zoo.system.workers import end_with


def split_by_dataset(runs: Sequence[Run], plan: Plan) -> list[list[Run]]:
    """Group runs by dataset, the one with the fewest images first, because its runs can start first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.dataset, []).append(run)
    return sorted(groups.values(), key=lambda group: len(plan.sources[group[0].dataset][0].sample_ids))


class Ahead:
    """A child process that decodes the images of groups of runs and counts the finished groups."""

    def __init__(self, groups: Sequence[Sequence[Run]], plan: Plan, context: Context) -> None:
        processes = multiprocessing.get_context("fork")
        self.count: Any = processes.Value("i", 0)
        sources = [list_sources(group, plan, context.registry) for group in groups]
        self.process = processes.Process(
            target=decode_datasets, args=(sources, context.settings, self.count, os.getpid()), daemon=True
        )
        self.process.start()

    def is_ready(self, number: int) -> bool:
        """Whether group `number` is decoded, or the process has ended; then it is decoded when it is needed."""
        return self.count.value > number or not self.process.is_alive()

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


@contextmanager
def decoding_ahead(groups: Sequence[Sequence[Run]], plan: Plan, context: Context) -> Iterator[Ahead | None]:
    """Decode the images of groups of runs, one group after the other, while the block runs."""
    if not groups:
        yield None
        return
    ahead = Ahead(groups, plan, context)
    try:
        yield ahead
    finally:
        ahead.end()


def list_sources(runs: Sequence[Run], plan: Plan, registry: Registry) -> list[tuple[OpenDataset, Resolution]]:
    """The datasets that the runs on one dataset read, each with a resolution."""
    source, split = plan.sources[runs[0].dataset]
    folds = sorted({run.fold for run in runs})
    own = [read_by_train(source, split.folds[fold] == "train") for fold in folds]
    others = [external.source for external in plan.externals.get(runs[0].dataset, ()) if external.source.spec.dims == 2]
    resolutions = dict.fromkeys(resolution_of(run, registry) for run in sorted(runs, key=lambda run: run.image_size))
    return [(each, resolution) for resolution in resolutions for each in (*own, *others)]


def decode_datasets(
    groups: Sequence[Sequence[tuple[OpenDataset, Resolution]]], settings: Settings, count: Any, parent: int
) -> None:
    """Decode groups of datasets; errors are ignored here, and reported when the bench needs the images."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for sources in groups:
        for source, resolution in sources:
            with suppress(Exception):
                cache_decoded(source, resolution, settings.cache)
        count.value += 1
