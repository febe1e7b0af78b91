"""A path that a person has (class folders, a table beside images, dataset.toml, .npz) to a DatasetSpec."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.archives import find_unpacked, is_archive_name
from zoo.errors import DataError
from zoo.files import cache_root
from zoo.sources.arrays import find_npz, read_members, read_npz_samples
from zoo.sources.listing import TABLE_SUFFIXES, list_folder
from zoo.sources.synopsis import read_document, read_synopsis, said_root
from zoo.specs import DatasetSpec, Samples, SamplesRequest

if TYPE_CHECKING:
    from zoo.sources.assembly import Assembled

__all__ = ["card_dataset", "card_schema", "find_data", "find_source", "read_members", "read_npz_samples"]

Progress = Callable[[int, int | None], None]

CARD_NAME = "dataset.toml"


# --- data that somebody has ------------------------------------------------------------------------------------------
def find_source(path: Path, progress: Progress | None = None) -> DatasetSpec:
    """The dataset at a path: its files listed, its labels read, no pixel decoded; DataError, in one line, if it cannot.

    A folder of class folders, with or without train, val and test above them; a table beside images, or a folder with
    one; a `dataset.toml`, or a folder with one; a `.npz` in MedMNIST's layout; a zip or tar of any of these.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", code="data")
    if is_archive_name(path.name) and not path.is_dir():
        path = find_unpacked(path, cache_root(), progress)
    if path.suffix.lower() == ".npz":
        return find_npz(path, safe_name(path.stem))
    return replace(understand(path).spec, samples=partial(open_source, path))


def open_source(path: Path, request: SamplesRequest) -> Samples:
    """The Samples of a folder, table or card; looked up again, so that a worker process needs the path alone."""
    from zoo.sources.colour import settle_colour

    return settle_colour(understand(path), request.progress)


def understand(path: Path, root: Path | None = None) -> Assembled:
    """A card, said or guessed, and the files it speaks of, put together; `root` overrules where it says they lie."""
    from zoo.sources.assembly import assemble
    from zoo.sources.cards import read_card
    from zoo.sources.guess import guess_card

    card_path = path / CARD_NAME if path.is_dir() else path
    if card_path.suffix == ".toml" and card_path.is_file():
        card = read_card(card_path)
        root = root or said_root(card_path, card.root)
        if not root.is_dir():
            raise DataError(f"{card_path}: root: no folder {root}")
        name = safe_name(card_path.parent.name)
        if not card.leaves_files_open:
            return assemble(card, list_folder(root), card_path, name)
        guess = guess_card(root, card)
        return assemble(card.completed_by(guess.card), guess.listing, card_path, name, guess.notes)
    if path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: not a folder, .csv, .tsv, .npz, .zip or {CARD_NAME}", fix="name one of these as the dataset"
        )
    guess = guess_card(path)
    name = safe_name(path.name if path.is_dir() else f"{path.parent.name}-{path.stem}")
    return assemble(guess.card, guess.listing, path, name, guess.notes)


# --- data that a card describes --------------------------------------------------------------------------------------
def card_dataset(card: Path, *, folder: Callable[[SamplesRequest], Path] | None = None, name: str = "") -> DatasetSpec:
    """The dataset that a card file describes, listed without its data; they are looked for when it is opened.

    `folder(request)` returns the folder where they lie, and may bring them there. Without it they lie at the card's
    `root`, in `$ZOO_DATA/NAME`, or in zoo's own data folder, `request.folder`; each may be a zip of that name instead.
    """
    spec = read_synopsis(card)
    return replace(spec, name=name or spec.name, samples=partial(open_card, card, name or spec.name, folder))


def open_card(
    card: Path, name: str, folder: Callable[[SamplesRequest], Path] | None, request: SamplesRequest
) -> Samples:
    """The Samples of a card's data, with the card as they complete it. It must have said the task and labels found."""
    from zoo.sources.colour import settle_colour

    said = read_synopsis(card)
    root = folder(request) if folder else find_card_data(card, name, request)
    found = understand(card, root)
    for what in ("task", "labels"):
        if (a := getattr(said, what)) != (b := getattr(found.spec, what)):
            raise DataError(f"{card}: {what}: {show(a)}, but the data in {root} give {show(b)}", code="card")
    samples = settle_colour(found, request.progress)
    return replace(samples, spec=replace(samples.spec or found.spec, name=name))


def show(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def find_card_data(card: Path, name: str, request: SamplesRequest) -> Path:
    document = read_document(card)
    places = [said_root(card, document["root"])] if document.get("root") else []
    if os.environ.get("ZOO_DATA"):
        places.append(Path(os.environ["ZOO_DATA"]).expanduser() / name)
    places.append(request.folder)
    if found := find_data(places, request.progress):
        return found
    come_from = f"; they come from {document['url']}" if document.get("url") else ""
    raise DataError(
        f"dataset {name!r}: no data in {' or '.join(map(str, places))}",
        fix=f"put them into {places[0]}, or {places[0].name}.zip beside it{come_from}",
        code="data-missing",
    )


def find_data(places: list[Path], progress: Progress | None = None) -> Path | None:
    """The first place that is a folder with something in it, or has a zip of its name beside it, unpacked; or None."""
    for place in places:
        if place.is_dir() and any(True for _ in place.iterdir()):
            return place
        archive = place.with_name(f"{place.name}.zip")
        if archive.is_file():
            return find_unpacked(archive, cache_root(), progress)
    return None


# --- names -----------------------------------------------------------------------------------------------------------
def safe_name(text: str) -> str:
    """Lower case, with only a-z, 0-9, "_", "." and "-": it becomes the name of a folder of results."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.\-]+", "_", plain).strip("._-") or "dataset"


def card_schema() -> dict[str, object]:
    """The JSON schema of `dataset.toml`."""
    from zoo.sources import cards

    return cards.card_schema()
