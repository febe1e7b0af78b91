"""Maps of the test images that a page shows, by the models whose weights were kept, with the numbers about the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.contact_sheet import Thumbnail
from zoo.data.opening import OpenDataset
from zoo.errors import ZooError, clean
from zoo.evaluation.predictions import load_predictions
from zoo.explaining.choosing import open_explainer
from zoo.explaining.collecting import MapCollection
from zoo.explaining.explainer import GRAD_CAM
from zoo.explaining.explanations import ExplainedImage, ImageExplainer, Request
from zoo.explaining.outputs import check_explainable
from zoo.explaining.sampling import TestedImages, sample_ids_of
from zoo.leaderboard.tables import ScoredRow
from zoo.registry.lookup import Registry
from zoo.report.html import small_picture
from zoo.report.map_statements import (
    NO_EVIDENCE,
    list_numbers,
    name_explained,
    name_output,
    name_positions,
    state_numbers,
)
from zoo.report.overlays import as_shares, gray_or_color, lay_over, shown_part
from zoo.results.store import WEIGHTS_FILE
from zoo.system.devices import resolve_device
from zoo.system.progress import Progress
from zoo.trained.card import CARD_FILE
from zoo.trained.opening import best_of, open_model


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """A map over its image as a `data:` URI, what it explains, the layer, and which of the kept models."""

    uri: str
    output: str
    layer: str
    model: str


@dataclass(frozen=True, kw_only=True)
class RowMaps:
    """The maps of a row's images by sample id and the numbers about its maps, or the reason why there are none."""

    pictures: Mapping[str, MapPicture] = field(default_factory=dict)
    model: str = ""  # the seed, the layer and its positions
    statements: tuple[str, ...] = ()
    table: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class MapSource:
    """What is needed to explain rows: the opened dataset and where models are built from."""

    dataset: OpenDataset
    registry: Registry
    cache: Path


def explain_row(row: ScoredRow, sample_ids: Sequence[str], source: MapSource, progress: Progress) -> RowMaps:
    """The maps of some images by the row's kept models: of each fold, the one that did not train on them."""
    kept = [
        folder
        for seed in row.folders
        for folder in seed
        if (folder / WEIGHTS_FILE).is_file() and (folder / CARD_FILE).is_file()
    ]
    if not kept:
        return RowMaps(reason="no weights of its runs are kept here (zoo bench --keep-weights best)")
    try:
        return explain_kept(kept, sample_ids, source, progress)
    except ZooError as error:
        return RowMaps(reason=clean(error.message))


def explain_kept(kept: Sequence[Path], sample_ids: Sequence[str], source: MapSource, progress: Progress) -> RowMaps:
    """The maps and numbers of the best of some kept models, with the maps of what only other folds tested."""
    best, pictures, maps = best_of(kept), dict[str, MapPicture](), RowMaps()
    for folder in (best, *(each for each in kept if each != best)):
        test = load_predictions(folder / "predictions.npz")["test"]
        tested = set(test.sample_ids.tolist()) - pictures.keys()
        shown = TestedImages(source.dataset, np.array([name for name in sample_ids if name in tested], dtype=np.str_))
        if folder != best and not len(shown.sample_ids):
            continue
        model = open_model(folder, source.registry, source.cache, resolve_device("auto"))
        check_explainable(model.card, "", GRAD_CAM)
        if model.card.dims == 3:
            return RowMaps(reason="a page shows slices; `zoo explain` maps whole volumes")
        find_mask = shown.find_mask if shown.has_masks else None
        explaining = open_explainer([model], Request(method=GRAD_CAM, find_mask=find_mask))
        for explained in explaining.explain_images(shown.list_images()):
            if explained.explanations:
                pictures[explained.answer.name] = draw_map(explained, explaining)
        if folder == best:
            maps = measure_tested(explaining, TestedImages(source.dataset, sample_ids_of(test)), progress)
    return replace(maps, pictures=pictures)


def measure_tested(explaining: ImageExplainer, tested: TestedImages, progress: Progress) -> RowMaps:
    """The numbers about the maps of some test images, without pictures."""
    if not explaining.has_maps:
        return RowMaps(reason=NO_EVIDENCE)
    collected = MapCollection(len(tested.sample_ids), tested.patient_of)
    for explained in explaining.explain_images(tested.list_images()):
        collected.add(explained)
    numbers, explainer = collected.measure(explaining.explainer, progress), explaining.explainer
    if explainer is None or explainer.layer is None:
        return RowMaps(reason="no test image has a map")
    layer, card = explainer.layer, explaining.model.card
    return RowMaps(
        model=f"{name_explained(card)}: Grad-CAM of {layer.name}, {name_positions(layer)} positions",
        statements=tuple(state_numbers(numbers, layer.grid)),
        table=tuple(list_numbers(numbers)),
    )


def draw_map(explained: ExplainedImage, explaining: ImageExplainer) -> MapPicture:
    """The first map of an image, over it."""
    assert explained.square is not None and explained.placement is not None
    assert explaining.explainer is not None and explaining.explainer.layer is not None
    first, card = explained.explanations[0], explaining.model.card
    image = gray_or_color(shown_part(explained.square, explained.placement), card.intensity)
    overlay = lay_over(image, as_shares(shown_part(first.map, explained.placement)))
    return MapPicture(
        uri=small_picture(Thumbnail(pixels=np.asarray(overlay)), (0.0, 255.0)),
        output=name_output(first.output),
        layer=explaining.explainer.layer.name,
        model=name_explained(card),
    )
