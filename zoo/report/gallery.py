"""Galleries: test images chosen by rule, for a board's page.

Results hold no images. The page opens the dataset again, by the name in the results or by a path, and shows images only
if the dataset has the content hash of the results and its card or license allows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.contact_sheet import Thumbnail
from zoo.data.decoded import find_intensity
from zoo.data.lookup import find_datasets
from zoo.data.opening import OpenDataset, convert_failures, open_dataset
from zoo.errors import ZooError, clean, with_fix
from zoo.images.resizing import fit_square
from zoo.leaderboard.boards import Board, request_sections
from zoo.leaderboard.pictures import PICTURES_PER_RULE, ChosenImage, choose_images
from zoo.leaderboard.tables import ReportOptions
from zoo.registry.lookup import Registry
from zoo.report.html import small_picture
from zoo.report.row_maps import MapSource, RowMaps, explain_row
from zoo.specs.dataset import DatasetSpec
from zoo.system.progress import Console

MAX_PICTURES = 24  # of a board
# Licenses that allow anybody to share the images: not those that forbid changes or commercial use.
OPEN_LICENSE = re.compile(
    r"(cc0|cc by( sa)?|public domain|pddl|odc by|apache|mit|bsd)( \d[\d.]*)?( clause| license| international)*"
)
NOT_AT_HAND = "the dataset was not at hand when this page was made"
LEVELS_SIZE = 64  # pixels of a side, to measure the levels of 16 bits


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chosen image and its pixels as a `data:` URI."""

    chosen: ChosenImage
    uri: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The pictures of a board, or the reason why it has none."""

    pictures: tuple[Picture, ...] = ()
    reason: str = ""  # for readers of the page
    hint: str = ""  # for whoever makes the page: how to get them
    maps: Mapping[str, RowMaps] = field(default_factory=dict)  # by row, if maps were requested


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where the images of boards are looked for: installed datasets, and paths."""

    registry: Registry
    cache: Path
    paths: Sequence[str] = ()
    explain: bool = False  # also make maps with the models whose weights were kept


def make_galleries(boards: Sequence[Board], source: ImageSource) -> list[Gallery]:
    """The gallery of each board. Raises ZooError for a path that cannot be opened."""
    given = [dataset for path in source.paths for dataset in open_offline(path, source)]
    opened: dict[str, OpenDataset | Gallery] = {dataset.content_hash: dataset for dataset in given}
    return [make_gallery(board, source, opened) for board in boards]


def make_gallery(board: Board, source: ImageSource, opened: dict[str, OpenDataset | Gallery]) -> Gallery:
    """The gallery of a board. `opened` holds, by content hash, each dataset or the empty gallery that says why not."""
    chosen = choose_for_board(board)
    if not chosen:
        return Gallery(reason="this task has no rule by which images are chosen")
    name, content_hash = tested_data(board.facts)
    if content_hash not in opened:
        opened[content_hash] = open_by_name(name, content_hash, source)
    found = opened[content_hash]
    if isinstance(found, Gallery):
        return found
    if objection := find_objection(found.spec):
        return objection
    row_of = {sample_id: row for row, sample_id in enumerate(found.sample_ids.tolist())}
    if not all(image.sample_id in row_of for image in chosen):
        return Gallery(reason="the results hold pseudonyms in place of the names of images")
    try:
        uris = draw_pictures(found, [(row_of[image.sample_id], image.mask) for image in chosen])
    except ZooError as error:
        return Gallery(reason="they could not be read", hint=with_fix(error.message, error.fix))
    return Gallery(
        pictures=tuple(Picture(chosen=c, uri=uri) for c, uri in zip(chosen, uris, strict=True)),
        maps=make_maps(board, chosen, MapSource(dataset=found, registry=source.registry, cache=source.cache))
        if source.explain
        else {},
    )


def make_maps(board: Board, chosen: Sequence[ChosenImage], source: MapSource) -> dict[str, RowMaps]:
    """The maps of each row's chosen images, which are of the dataset that the row was trained on."""
    if board.is_external:
        return {image.row: RowMaps(reason=f"maps are made on the board of {board.facts['name']}") for image in chosen}
    maps = {}
    rows = {row.label: row for row in request_sections(board, ReportOptions()).rows}
    for label in dict.fromkeys(image.row for image in chosen):
        names = list(dict.fromkeys(image.sample_id for image in chosen if image.row == label))
        with Console().counting(f"explaining {label}") as progress:
            maps[label] = explain_row(rows[label], names, source, progress)
    return maps


def choose_for_board(board: Board) -> list[ChosenImage]:
    """The images of the best models, as many models as fit."""
    rules = board.card.task.presentation.pictures
    if not rules:
        return []
    request = request_sections(board, ReportOptions())
    most = MAX_PICTURES // (PICTURES_PER_RULE * len(rules))
    models = [row for row in request.rows if not row.baseline][:most]
    return [image for row in models for image in choose_images(row, request)]


def tested_data(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Name and content hash of the dataset that the board's test images are from."""
    external = facts.get("external")
    return (external["dataset"], external["content_hash"]) if external else (facts["name"], facts["content_hash"])


# --- the images ------------------------------------------------------------------------------------------------------
def open_by_name(name: str, content_hash: str, source: ImageSource) -> OpenDataset | Gallery:
    """Open the installed dataset of a name, or return the empty gallery that says why its images cannot be shown."""
    registry, by_path = source.registry, f"name its folder by --data to show those of {name}"
    if name not in registry.datasets and not registry.find_family("dataset", name):  # never a path: names are untrusted
        return Gallery(reason=NOT_AT_HAND, hint=by_path)
    try:
        if objection := next(filter(None, map(find_objection, find_specs(name, source))), None):
            return objection
        found = open_offline(name, source)
    except ZooError as error:
        return Gallery(reason=NOT_AT_HAND, hint=with_fix(error.message, error.fix))
    matching = (dataset for dataset in found if dataset.content_hash == content_hash)
    other = Gallery(reason="the dataset at hand is not the one of these results (another content hash)", hint=by_path)
    return next(matching, other)


def open_offline(requested: str, source: ImageSource) -> list[OpenDataset]:
    """Open the datasets of a name or a path without downloading."""
    datasets = []
    for spec in find_specs(requested, source):
        with Console().counting(f"reading {spec.name}") as progress, convert_failures():
            datasets.append(open_dataset(spec, source.cache, offline=True, progress=progress))
    return datasets


@convert_failures()
def find_specs(requested: str, source: ImageSource) -> list[DatasetSpec]:
    return find_datasets(requested, source.registry, source.cache, offline=True)


def find_objection(spec: DatasetSpec) -> Gallery | None:
    """The empty gallery that says why the images of a dataset may not be shown; None if they may."""
    if spec.share_images is not None:
        return None if spec.share_images else Gallery(reason="the dataset's card forbids it (share_images = false)")
    if not spec.share_targets:
        return Gallery(reason="the dataset's license does not allow sharing its targets")
    if spec.synthetic or is_open_license(spec.license):
        return None
    license_text = (
        f"license ({clean(spec.license)}) is not known to allow it" if spec.license else "card has no license"
    )
    hint = f"set share_images = true in its dataset.toml if those of {spec.name} may be shown"
    return Gallery(reason=f"the dataset's {license_text}", hint=hint)


def is_open_license(text: str) -> bool:
    return bool(OPEN_LICENSE.fullmatch(re.sub(r"[\s\-_]+", " ", text.lower()).strip()))


def draw_pictures(dataset: OpenDataset, rows: Sequence[tuple[int, Array | None]]) -> list[str]:
    """Thumbnails of rows and their predicted masks as `data:` URIs, each at the best quality that fits."""
    samples, images = dataset.samples, dataset.samples.table["image"]
    pixels = {row: samples.read(images.iloc[row]) for row in sorted({row for row, _ in rows})}
    intensity = dataset.spec.intensity or (0.0, 255.0)
    if dataset.spec.intensity is None and any(each.dtype != np.uint8 for each in pixels.values()):
        intensity = find_intensity(np.concatenate([fit_square(each, LEVELS_SIZE).ravel() for each in pixels.values()]))
    thumbnails = [
        Thumbnail(
            pixels=pixels[row], mask=samples.masks(images.iloc[row]) if samples.masks else None, predicted=predicted
        )
        for row, predicted in rows
    ]
    return [small_picture(thumbnail, intensity) for thumbnail in thumbnails]
