"""A card, the files it speaks of and its table to one row an image."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError, nearest
from zoo.sources.cards import Captures, Card, card_error, compile_pattern, match, placeholders
from zoo.sources.listing import Listing
from zoo.sources.tables import index_images, read_table

if TYPE_CHECKING:
    import pandas

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "testset", "holdout"), "test"),
}
RESERVED = ("sample_id", "image", "split", "patient")  # columns of Samples, which a table's own cannot replace
PATH_FACTS = ("label", "split", "patient")  # what a path may say of an image


@dataclass(frozen=True, eq=False)
class Joined:
    """One entry an image: its path, what its path says, and its row of the table (blank cells where it has none)."""

    images: tuple[str, ...]
    captures: tuple[Captures, ...]
    cells: pandas.DataFrame  # (N, columns) text; the index is the line in the table, 0 for none
    table: str
    notes: tuple[str, ...]
    has_frames: bool = False  # images are frames of files: `scan.dcm#12`

    def place(self, row: int) -> str:
        """Where row `row` comes from, for an error message."""
        line = int(self.cells.index[row])
        return f"{self.table} line {line} ({self.images[row]})" if line else self.images[row]


def join(card: Card, listing: Listing, origin: Path) -> Joined:
    """The images that the card's pattern names, each with its row of the card's table."""
    import pandas

    table = read_table(listing.root / card.table) if card.table else None
    if table is not None:
        check_columns(card, list(table.columns), origin)
    keys = [] if table is None or card.join else [name for name in placeholders(card.images) if name in table.columns]
    if table is not None and not card.join and not keys:
        hint = "write {column} in `images`, or join = {column = ...}"
        raise card_error(origin, [f"images: {card.images!r} names no column of {card.table}; {hint}"])
    files, notes = match_files(card, listing, frozenset(keys))
    if table is None:
        blank = pandas.DataFrame(index=pandas.Index([0] * len(files)))
        return Joined(tuple(files), tuple(files.values()), blank, "", tuple(notes))
    row_of = row_of_keys(card, table, files, keys) if keys else row_of_column(card, table, files, listing.root, notes)
    return attach(card, table, files, row_of, notes)


def check_columns(card: Card, columns: list[str], origin: Path) -> None:
    """Every column the card names must be in the table; all that are not are told at once."""
    mistakes = [
        f"{place}: {card.table} has no column {column!r}. {nearest(column, columns) or 'It has ' + ', '.join(columns)}"
        for place, column in card.columns().items()
        if column not in columns
    ]
    if mistakes:
        raise card_error(origin, mistakes)


def match_files(card: Card, listing: Listing, deep: frozenset[str]) -> tuple[dict[str, Captures], list[str]]:
    """The images the pattern names, with what it captures; what is left out is counted, never silent."""
    compiled = compile_pattern(card.images, deep)
    excluded = [
        compile_pattern(pattern) for pattern in ([card.exclude] if isinstance(card.exclude, str) else card.exclude)
    ]
    by_name = ["/" not in pattern for pattern in ([card.exclude] if isinstance(card.exclude, str) else card.exclude)]
    files: dict[str, Captures] = {}
    left_out: Counter[str] = Counter()
    for image in listing.images:
        captures = match(compiled, image)
        name = image.rpartition("/")[2]
        if any(match(each, name if bare else image) is not None for each, bare in zip(excluded, by_name, strict=True)):
            left_out["excluded"] += 1
        elif captures is None:
            left_out[f"not {card.images}"] += 1
        elif "split" in captures and "split" not in deep and captures["split"].lower() not in SPLIT_NAMES:
            left_out[f"in {captures['split']}, which is no split"] += 1
        else:
            files[image] = captures
    if not files:
        raise DataError(f"{listing.root}: no image is named like {card.images!r}; {len(listing.images)} images there")
    notes = [f"{count} images left out: {reason}" for reason, count in left_out.items()]
    if listing.masks:
        notes.append(f"{len(listing.masks)} masks beside volumes ({listing.masks[0]}, ...) are not read as images")
    return files, notes


def row_of_keys(card: Card, table: pandas.DataFrame, files: dict[str, Captures], keys: list[str]) -> list[str]:
    """The image of every row, by the columns that stand in the pattern."""
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image, captures in files.items():
        by_key[tuple(captures[key] for key in keys)].append(image)
    found = [by_key.get(tuple(row), []) for row in table[keys].itertuples(index=False)]
    cells = [" ".join(row) for row in table[keys].itertuples(index=False)]
    check_found(card, table, found, cells)
    return [images[0] for images in found]


def row_of_column(
    card: Card, table: pandas.DataFrame, files: dict[str, Captures], root: Path, notes: list[str]
) -> list[str]:
    """The image of every row, by a column with its path or name; "" for a row that only adds to images of others."""
    assert card.join is not None
    index = index_images(root, tuple(files))
    found: list[list[str]] = []
    cells = list(table[card.join.column])
    for line, cell in zip(table.index, cells, strict=True):
        try:
            found.append(index.find(cell) if cell else [])
        except DataError as error:
            raise DataError(f"{card.table} line {line}: {error.message}", fix=error.fix) from error
    labelled_by_path = not card.label.column and not card.label.columns
    if labelled_by_path and (missing := sum(not images for images in found)):
        notes.append(f"{missing} of {len(found)} rows of {card.table} name no image here")
    check_found(card, table, found, cells, may_be_missing=labelled_by_path)
    return [images[0] if images else "" for images in found]


def check_found(
    card: Card, table: pandas.DataFrame, found: list[list[str]], cells: list[str], *, may_be_missing: bool = False
) -> None:
    missing = [position for position, images in enumerate(found) if not images]
    if missing and not may_be_missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} rows more)" if len(missing) > 1 else ""
        what = f"no image {cells[first]!r}" if cells[first] else "the image's name is blank"
        raise DataError(f"{card.table} line {table.index[first]}: {what}{more}", fix="add the file or drop the row")
    for position, images in enumerate(found):
        if len(images) > 1:
            raise DataError(
                f"{card.table} line {table.index[position]}: {cells[position]!r} may be {images[0]} or {images[1]}",
                fix="name the image by its path",
            )


def attach(
    card: Card, table: pandas.DataFrame, files: dict[str, Captures], row_of: list[str], notes: list[str]
) -> Joined:
    """One row an image: equal rows of one image collapse, rows that disagree are an error naming both."""
    import pandas

    deciding = [*card.label.columns, card.label.column, card.patient.column if card.patient else ""]
    deciding = list(dict.fromkeys(column for column in [*deciding, card.split.column if card.split else ""] if column))
    decisions = list(table[deciding].itertuples(index=False)) if deciding else [()] * len(table)
    position_of: dict[str, int] = {}
    for position, image in enumerate(row_of):
        if not image:
            continue
        first = position_of.setdefault(image, position)
        if decisions[first] != decisions[position]:
            column = next(c for c, a, b in zip(deciding, decisions[first], decisions[position], strict=True) if a != b)
            values = [str(table[column].iloc[at]) for at in (first, position)]
            raise DataError(
                f"{card.table} lines {table.index[first]} and {table.index[position]}: {image} has the "
                f"{column} {values[0]!r} and {values[1]!r}",
                fix="keep one row an image",
            )
    if (doubled := sum(map(bool, row_of)) - len(position_of)) > 0:
        notes.append(f"{doubled} further rows of {card.table} repeat an image and were taken as one")
    labelled_by_path = not card.label.column and not card.label.columns
    kept = [image for image in files if labelled_by_path or image in position_of]
    without = len(files) - len(position_of)
    if without:
        fate = "have no row" if labelled_by_path else "left out: no row"
        notes.append(f"{without} of {len(files)} images {fate} in {card.table}")
    positions = [position_of.get(image, -1) for image in kept]
    blank = pandas.DataFrame([[""] * table.shape[1]], columns=table.columns, index=[0], dtype=str)
    cells = pandas.concat([table, blank]).iloc[positions]  # -1 is the blank row at the end
    return Joined(tuple(kept), tuple(files[image] for image in kept), cells, card.table, tuple(notes))
