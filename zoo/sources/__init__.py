"""A path that a person has (class folders, a table beside images, dataset.toml, .npz) to a DatasetSpec."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.sources.arrays import find_npz, read_npz_samples
from zoo.sources.listing import TABLE_SUFFIXES, list_folder
from zoo.specs import DatasetSpec, Samples, SamplesRequest

if TYPE_CHECKING:
    from zoo.sources.assembly import Assembled

__all__ = ["card_schema", "find_source", "read_npz_samples"]

CARD_NAME = "dataset.toml"


def find_source(path: Path) -> DatasetSpec:
    """The dataset at a path: its files listed, its labels read, no pixel decoded; DataError, in one line, if it cannot.

    A folder of class folders, with or without train, val and test above them; a table beside images, or a folder with
    one; a `dataset.toml`, or a folder with one; a `.npz` in MedMNIST's layout.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", code="data")
    if path.suffix.lower() == ".npz":
        return find_npz(path, safe_name(path.stem))
    return replace(understand(path).spec, samples=partial(open_source, path))


def open_source(path: Path, request: SamplesRequest) -> Samples:  # noqa: ARG001  the files are already here
    """The Samples of a folder, table or card; looked up again, so that a worker process needs the path alone."""
    return understand(path).samples


def understand(path: Path) -> Assembled:
    """A card, said or guessed, and the files it speaks of, put together."""
    from zoo.sources.assembly import assemble
    from zoo.sources.cards import read_card
    from zoo.sources.guess import guess_card

    card_path = path / CARD_NAME if path.is_dir() else path
    if card_path.suffix == ".toml" and card_path.is_file():
        card = read_card(card_path)
        root = card_path.parent / Path(card.root).expanduser()
        if not root.is_dir():
            raise DataError(f"{card_path}: root: no folder {root}")
        name = safe_name(card_path.parent.name)
        if not card.leaves_files_open:
            return assemble(card, list_folder(root), card_path, name)
        guess = guess_card(root, label_column=card.label.column)
        return assemble(card.completed_by(guess.card), guess.listing, card_path, name, guess.notes)
    if path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: not a folder, .csv, .tsv, .npz or {CARD_NAME}", fix="name one of these as the dataset"
        )
    guess = guess_card(path)
    name = safe_name(path.name if path.is_dir() else f"{path.parent.name}-{path.stem}")
    return assemble(guess.card, guess.listing, path, name, guess.notes)


def safe_name(text: str) -> str:
    """Lower case, with only a-z, 0-9, "_", "." and "-": it becomes the name of a folder of results."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.\-]+", "_", plain).strip("._-") or "dataset"


def card_schema() -> dict[str, object]:
    """The JSON schema of `dataset.toml`."""
    from zoo.sources import cards

    return cards.card_schema()
