"""Numbers about the maps of some images, each beside that of a map of the center."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.explaining.explainer import Explainer
from zoo.explaining.faithfulness import follow_pixels
from zoo.explaining.inputs import normalize_squares
from zoo.explaining.locating import Location, center_map
from zoo.explaining.randomizing import RANDOMIZED_SHARES, compare_randomized
from zoo.images.placement import Placement
from zoo.statistics.intervals import bootstrap_weights, percentile_interval
from zoo.statistics.units import resampled_means
from zoo.system.progress import Progress

MEASURED_MAPS = 24  # images: insertion and deletion take 30 forward passes of each
CURVES_COST = 10  # of the curves of an image, as a multiple of that of its map, to show progress
MIN_COMPARED = 10  # patients, to say whether maps beat the center; maps with a value, to say whether they survive
SURVIVES = 0.5  # a rank correlation above this after full randomization counts as survival


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredMap:
    """A map with what the numbers are computed from."""

    owner: str  # the patient, by which intervals are resampled
    column: int
    square: Array
    placement: Placement | None  # None of a volume
    map: Array
    decided: Array | None = None  # the label map whose region the map explains


@dataclass(frozen=True, kw_only=True)
class CenterComparison:
    """The mean of a number over maps beside that of the center, and their difference with its 95 % interval."""

    images: int
    patients: int
    map: float
    center: float
    better: float  # the difference, above 0 if the maps are better than the center
    low: float | None  # None: one patient only, or all differences are equal
    high: float | None

    @property
    def beats_center(self) -> bool | None:
        """Whether the interval is above 0; None with too few patients."""
        if self.patients < MIN_COMPARED:
            return None
        return self.better > 0 if self.low is None else self.low > 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The similarity of maps to those of a network of which some layers are randomized, from the head down."""

    layers: int
    last: str
    spearman: float
    low: float | None
    high: float | None
    ssim: float


@dataclass(frozen=True, kw_only=True)
class MapNumbers:
    """What was measured about the maps of one model; None where it is not defined or there is no mask."""

    maps: int
    empty: int  # maps of zeros
    num_layers: int = 0
    comparisons: dict[str, CenterComparison | None] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @property
    def survives(self) -> bool | None:
        """Whether maps stay alike when every layer is randomized; None with too few maps that are not empty."""
        if not self.stages or self.maps - self.empty < MIN_COMPARED:
            return None
        return self.stages[-1].spearman > SURVIVES


def measure_maps(
    explainer: Explainer, measured: Sequence[MeasuredMap], locations: dict[str, list[Location]], progress: Progress
) -> MapNumbers:
    """Measure some maps of one model; `locations` has those of all maps with a mask, by patient."""
    comparisons = compare_locations(locations)
    if not measured:
        return MapNumbers(maps=0, empty=0, comparisons=comparisons)
    total = len(measured) * (CURVES_COST + len(RANDOMIZED_SHARES))
    if explainer.card.task_kind.decisions is not None and explainer.card.dims == 2:
        comparisons |= compare_curves(explainer, measured, lambda done: progress(CURVES_COST * done, total))
    done = count(len(measured) * CURVES_COST)

    def explain_again() -> Array:
        maps = []
        for each in measured:
            maps += list(explainer.explain(each.square[None], np.array([each.column]), each.decided))
            progress(next(done), total)
        return np.stack(maps)

    owners = np.array([each.owner for each in measured])
    num_layers, similarities = compare_randomized(
        explainer.model.tap,
        normalize_squares(explainer.model, measured[0].square[None]),
        np.stack([each.map for each in measured]),
        explain_again,
    )
    stages = []
    for each in similarities:
        low, high = interval_of(each.spearman, owners)
        stages.append(
            Stage(
                layers=each.layers,
                last=each.last,
                spearman=float(each.spearman.mean()),
                low=low,
                high=high,
                ssim=float(each.ssim.mean()),
            )
        )
    return MapNumbers(
        maps=len(measured),
        empty=sum(not each.map.any() for each in measured),
        num_layers=num_layers,
        comparisons=comparisons,
        stages=tuple(stages),
    )


def compare_locations(locations: dict[str, list[Location]]) -> dict[str, CenterComparison | None]:
    owners = np.array([owner for owner, each in locations.items() for _ in each])
    rows = [location for each in locations.values() for location in each]
    return {
        name: compare(values_of(rows, name), values_of(rows, f"center_{name}"), owners) for name in ("pointing", "mass")
    }


def values_of(records: Sequence[Any], name: str) -> Array:
    return np.array([getattr(each, name) for each in records])


def compare_curves(
    explainer: Explainer, measured: Sequence[MeasuredMap], report: Callable[[int], None]
) -> dict[str, CenterComparison | None]:
    owners, ours, center = np.array([each.owner for each in measured]), [], []
    for done, each in enumerate(measured, start=1):
        assert each.placement is not None
        maps = [each.map, center_map(len(each.map), each.placement)]
        of_map, of_center = follow_pixels(explainer, each.square, each.column, maps)
        ours.append(of_map)
        center.append(of_center)
        report(done)
    return {
        name: compare(values_of(ours, name), values_of(center, name), owners, sign)
        for name, sign in (("insertion", 1), ("deletion", -1))
    }


def compare(ours: Array, center: Array, owners: Array, sign: int = 1) -> CenterComparison | None:
    """Compare numbers (N,) of maps with those of the center; `sign` is -1 if lower is better. None without maps."""
    if not len(ours):
        return None
    better = sign * (ours - center)
    low, high = interval_of(better, owners)
    return CenterComparison(
        images=len(ours),
        patients=len(np.unique(owners)),
        map=float(ours.mean()),
        center=float(center.mean()),
        better=float(better.mean()),
        low=low,
        high=high,
    )


def interval_of(values: Array, owners: Array) -> tuple[float | None, float | None]:
    """The 95 % bootstrap interval of a mean over patients, or (None, None)."""
    if len(np.unique(owners)) < 2:
        return None, None
    interval = percentile_interval(resampled_means(values[:, None], bootstrap_weights(owners)))
    return interval.low, interval.high


def describe_numbers(numbers: MapNumbers) -> dict[str, Any]:
    """The numbers as plain data, with what follows from them."""
    from dataclasses import asdict

    document = asdict(numbers)
    for name, each in numbers.comparisons.items():
        if each is not None:
            document["comparisons"][name]["beats_center"] = each.beats_center
    return {**document, "survives_randomization": numbers.survives, "survival_limit": SURVIVES}
