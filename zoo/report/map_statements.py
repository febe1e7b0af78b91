"""The numbers about maps as sentences and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from zoo.explaining.layers import SpatialLayer
from zoo.explaining.numbers import MIN_COMPARED, SURVIVES, MapNumbers
from zoo.explaining.outputs import ExplainedOutput
from zoo.leaderboard.formatting import number
from zoo.trained.card import ModelCard

TITLES = {
    "pointing": "pointing game: the maximum lies in the mask",
    "mass": "share of the map inside the mask",
    "insertion": "insertion: area under the probability",
    "deletion": "deletion: the same, lower is better",
}
SHORT_TITLES = {
    "pointing": "pointing game",
    "mass": "share inside the mask",
    "insertion": "insertion",
    "deletion": "deletion (lower is better)",
}
COARSE = 4  # positions of a side
# Below the pictures of a page, by what is explained.
LEGENDS = {
    "image": "On the left is the image as the network gets it, on the right the evidence for the output: bright where "
    "there is most, unchanged where there is none.",
    "mask": "From left to right: the image as the network gets it; the predicted mask, filled, and the outline of the "
    "reference if there is one; the entropy of the probabilities, from 0 (sure) to 1 (all labels equally probable); "
    "with several seeds their disagreement, from 0 to 1 (half of them sure of one label, half of another); and the "
    "evidence for each label.",
    "volume": "From left to right: the middle slice of the volume as the network gets it, and the evidence for the "
    "output in it; the same for the slice with most evidence.",
}
NO_EVIDENCE = "No maps of evidence: the network takes patches, and evidence within a patch is not that of the image."


def name_explained(card: ModelCard) -> str:
    """Which of the kept models the maps explain."""
    folds = card.dataset["num_folds"]
    return f"seed {card.seed}, fold {card.fold + 1} of {folds}" if folds > 1 else f"seed {card.seed}"


def name_positions(layer: SpatialLayer) -> str:
    """The positions of a layer: "7 x 7"."""
    return " x ".join([str(layer.grid)] * layer.axes)


def name_output(output: ExplainedOutput) -> str:
    """What a map explains: "nodule .62", "lesion 60 px"."""
    value = f"{output.value:,.0f} px" if output.measure == "pixels" else number(output.value, 2)
    return f"{output.label} {value}"


def state_numbers(numbers: MapNumbers, grid: int | None) -> list[str]:
    """What follows from the numbers, in sentences."""
    return [
        *state_comparisons(numbers, ("pointing", "mass"), "the maps show the findings"),
        *state_comparisons(numbers, ("insertion", "deletion"), "the network uses the pixels that the maps rank first"),
        *state_randomization(numbers),
        *state_restrictions(numbers, grid),
    ]


def state_comparisons(numbers: MapNumbers, names: Sequence[str], meaning: str) -> Iterator[str]:
    """Whether the maps beat the center, in numbers that answer the same question."""
    known = {name: each for name in names if (each := numbers.comparisons.get(name))}
    for verdict, words in (
        (True, "The maps beat the center of the image"),
        (False, f"The maps do not beat the center of the image, so it is not shown that {meaning}"),
        (None, f"Too few patients, under {MIN_COMPARED}, to say whether {meaning}"),
    ):
        values = [
            f"{SHORT_TITLES[name]} {number(each.map, 2)}, center {number(each.center, 2)}"
            for name, each in known.items()
            if each.beats_center is verdict
        ]
        if values:
            yield f"{words}: {'; '.join(values)}."


def state_randomization(numbers: MapNumbers) -> Iterator[str]:
    if not numbers.stages:
        return
    value = number(numbers.stages[-1].spearman, 2)
    facts = f"with all {numbers.num_layers} layers randomized the rank correlation is {value}"
    if numbers.survives is None:
        yield f"Too few maps that are not empty, under {MIN_COMPARED}, to test them by randomization: {facts}."
    elif numbers.survives:
        yield f"The maps survive randomization, so they do not show what the network learned: {facts}."
    else:
        yield f"The maps change when the network is randomized: {facts}; {number(SURVIVES, 1)} would be too alike."


def state_restrictions(numbers: MapNumbers, grid: int | None) -> Iterator[str]:
    if not numbers.comparisons.get("pointing"):
        yield "No masks: whether the maps show the findings was not tested."
    if numbers.empty:
        yield f"{numbers.empty} of {numbers.maps} maps are empty: no position of the layer is evidence for the output."
    if grid is not None and grid <= COARSE:
        yield f"The layer has {grid} positions to a side, too few to point at a small finding; larger inputs give more."


def list_numbers(numbers: MapNumbers) -> list[dict[str, Any]]:
    """The table of numbers, one row each."""
    rows: list[dict[str, Any]] = [
        {
            "number": TITLES[name],
            "maps": number(each.map),
            "center": number(each.center),
            "better by": with_bounds(each.better, each.low, each.high),
            "of": each.images,
        }
        for name, each in numbers.comparisons.items()
        if each is not None
    ]
    for stage in numbers.stages:
        rows.append(
            {
                "number": f"rank correlation, {stage.layers} of {numbers.num_layers} randomized",
                "maps": with_bounds(stage.spearman, stage.low, stage.high),
                "center": None,
                "better by": None,
                "of": numbers.maps,
            }
        )
    return rows


def with_bounds(value: float, low: float | None, high: float | None) -> str:
    return number(value) if low is None or high is None else f"{number(value)} [{number(low)} {number(high)}]"
