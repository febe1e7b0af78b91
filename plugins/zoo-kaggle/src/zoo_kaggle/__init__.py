"""Datasets on Kaggle, `kaggle:owner/name` or `kaggle:competition`, with cards for well-known ones.

`cards/owner--name.toml` describes the dataset `owner/name`, `cards/name.toml` the competition `name`.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo import (
    MULTICLASS,
    DataError,
    DatasetSpec,
    FetchRequest,
    Samples,
    SamplesRequest,
    card_dataset,
    find_source,
    hookimpl,
)
from zoo_kaggle.fetching import check_handle, fetch_folder, find_root, page_of

PREFIX = "kaggle:"
CARDS = Path(__file__).with_name("cards")


def fetch_described(card: Path, request: SamplesRequest) -> Path:
    """Return the folder to which the patterns of a card apply; download it if necessary."""
    handle = handle_of(card)
    folder = fetch_folder(handle, request.folder.parent, offline=request.offline, progress=request.progress)
    return find_root(folder, tomllib.loads(card.read_text(encoding="utf-8"))["images"], handle)


def handle_of(card: Path) -> str:
    return card.stem.replace("--", "/")


def describe(card: Path) -> DatasetSpec:
    return card_dataset(card, folder=partial(fetch_described, card))


def find(request: FetchRequest) -> DatasetSpec:
    """Resolve `kaggle:...`: by its card, or else download it and guess its layout like that of any folder."""
    handle = check_handle(request.name.removeprefix(PREFIX))
    stem = handle.lower().replace("/", "--")
    card = CARDS / f"{stem}.toml"
    if card.is_file():
        return describe(card)
    folder = fetch_folder(handle, request.folder, offline=request.offline, progress=request.progress)
    spec = find_source(folder)
    return replace(spec, name=stem, title=handle, url=spec.url or page_of(handle))


def open_family(request: SamplesRequest) -> Samples:  # noqa: ARG001
    raise DataError("dataset 'kaggle' needs a name", fix="kaggle:owner/name or kaggle:competition")


FAMILY = DatasetSpec(
    name="kaggle",
    title="any image dataset on Kaggle: kaggle:owner/name or kaggle:competition",
    task=MULTICLASS,
    labels=(),
    samples=open_family,
    license="differs by dataset",
    url="https://www.kaggle.com/datasets",
    find=find,
)


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [FAMILY, *(describe(card) for card in sorted(CARDS.glob("*.toml")))]
