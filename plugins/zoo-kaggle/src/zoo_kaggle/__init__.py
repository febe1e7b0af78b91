"""Kaggle's image sets to DatasetSpecs: `kaggle:owner/name` or `kaggle:competition`, and cards of well-known ones.

`cards/owner--name.toml` describes the set `owner/name`, `cards/name.toml` the competition `name`.
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
from zoo_kaggle.fetching import bring, check_handle, page_of, settle

PREFIX = "kaggle:"
CARDS = Path(__file__).with_name("cards")


def bring_described(card: Path, request: SamplesRequest) -> Path:
    """The folder in which the patterns of a card hold, brought here if need be."""
    handle = handle_of(card)
    folder = bring(handle, request.folder.parent, offline=request.offline, progress=request.progress)
    return settle(folder, tomllib.loads(card.read_text(encoding="utf-8"))["images"], handle)


def handle_of(card: Path) -> str:
    return card.stem.replace("--", "/")


def describe(card: Path) -> DatasetSpec:
    return card_dataset(card, folder=partial(bring_described, card))


def find(request: FetchRequest) -> DatasetSpec:
    """The set called `kaggle:...`: as its card says where it has one, else brought here and guessed like any folder."""
    handle = check_handle(request.name.removeprefix(PREFIX))
    stem = handle.lower().replace("/", "--")
    card = CARDS / f"{stem}.toml"
    if card.is_file():
        return describe(card)
    folder = bring(handle, request.folder, offline=request.offline, progress=request.progress)
    spec = find_source(folder)
    return replace(spec, name=stem, title=handle, url=spec.url or page_of(handle))


def open_family(request: SamplesRequest) -> Samples:  # noqa: ARG001
    raise DataError("dataset 'kaggle': say which", fix="kaggle:owner/name or kaggle:competition")


FAMILY = DatasetSpec(
    name="kaggle",
    title="any image set of Kaggle: kaggle:owner/name or kaggle:competition",
    task=MULTICLASS,
    labels=(),
    samples=open_family,
    license="each its own",
    url="https://www.kaggle.com/datasets",
    find=find,
)


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [FAMILY, *(describe(card) for card in sorted(CARDS.glob("*.toml")))]
