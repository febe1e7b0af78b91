"""A card, the files it speaks of and its table to one row an image."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError, nearest
from zoo.sources.cards import Add, Captures, Card, card_error, compile_pattern, match, placeholders
from zoo.sources.listing import Listing
from zoo.sources.selection import Selection, select_files
from zoo.sources.tables import index_images, read_table

if TYPE_CHECKING:
    import pandas

RESERVED = ("sample_id", "image", "split", "patient")  # columns of Samples, which a table's own cannot replace
PATH_FACTS = ("label", "split", "patient")  # what a path may say of an image


@dataclass(frozen=True, eq=False)
class Joined:
    """One entry an image: its path, what its path says, and its row of the table (blank cells where it has none)."""

    images: tuple[str, ...]
    captures: tuple[Captures, ...]
    cells: pandas.DataFrame  # (N, columns) text; the index is the place of the row, "labels.csv line 3", or ""
    table: str
    notes: tuple[str, ...]
    has_frames: bool = False  # images are frames of files: `scan.dcm#12`

    def place(self, row: int) -> str:
        """Where row `row` comes from, for an error message."""
        place = str(self.cells.index[row])
        return f"{place} ({self.images[row]})" if place else self.images[row]


def join(card: Card, listing: Listing, origin: Path) -> Joined:
    """The images that the card's pattern names, each with its row of the card's table."""
    import pandas

    table, mistakes = load_table(card, listing)
    keys = []
    if card.table and not card.join:
        names = placeholders(card.images)
        # where the table cannot be read, all may be its columns
        keys = [n for n in names if (n not in PATH_FACTS if table is None else n in table.columns)]
    if table is not None and not card.join and not keys:
        hint = "write {column} in `images`, or join = {column = ...}"
        mistakes.append(f"images: {card.images!r} names no column of {card.table}; {hint}")
    selection = select_files(card, listing, frozenset(keys))
    mistakes = [*selection.mistakes, *mistakes, *missing_lists(card, listing)]
    if mistakes:
        raise card_error(origin, mistakes)
    files = selection.files
    if table is None:
        blank = pandas.DataFrame(index=pandas.Index([""] * len(files)))
        return Joined(tuple(files), tuple(files.values()), blank, "", selection.notes)
    notes = list(selection.notes)
    find_rows = row_of_keys if keys else row_of_column
    return attach(card, table, files, find_rows(card, table, selection, listing.root, notes), notes)


def load_table(card: Card, listing: Listing) -> tuple[pandas.DataFrame | None, list[str]]:
    """The card's table, each row with its place; and what is wrong with it."""
    if not card.table:
        return None, []
    try:
        table = read_tables(listing, card.table, card.join.column if card.join else "")
    except DataError as error:
        return None, [f"table: {error}"]
    if card.add:
        try:
            table = add_columns(table, card.add, inside(listing.root, card.add.table))
        except DataError as error:
            return None, [f"add: {error}"]
    return table, column_mistakes(card, list(table.columns))


def read_tables(listing: Listing, name: str, image_column: str = "") -> pandas.DataFrame:
    """A table, or all that a pattern names, one below the other; the index is the place, "labels.csv line 3".

    Of those that a pattern names, the images are relative to the folder that each lies in.
    """
    import pandas

    names = [name]
    if "*" in name:
        pattern = compile_pattern(name)
        names = [each for each in (*listing.tables, *listing.nested) if match(pattern, each) is not None]
    tables: list[pandas.DataFrame] = []
    for each in names:
        table = read_table(inside(listing.root, each))
        table.index = pandas.Index([f"{each} line {line}" for line in table.index])
        if "*" in name and image_column in table and (folder := posixpath.dirname(each)):
            table[image_column] = [f"{folder}/{cell}" if cell else "" for cell in table[image_column]]
        if tables and (differ := set(tables[0].columns) ^ set(table.columns)):
            raise DataError(f"{names[0]} and {each}: only one has the column {min(differ)!r}", fix="give all the same")
        tables.append(table)
    if not tables:
        raise DataError(f"no table is named like {name!r}")
    return tables[0] if len(tables) == 1 else pandas.concat(tables)


def add_columns(table: pandas.DataFrame, add: Add, path: Path) -> pandas.DataFrame:
    """The table with the other columns of a second one: by a column in both, blank for a row that it does not have."""
    other = read_table(path)
    for name, columns in (("the table", table.columns), (add.table, other.columns)):
        if add.by not in columns:
            raise DataError(f"{name} has no column {add.by!r}. {nearest(add.by, list(columns))}".rstrip())
    if both := [column for column in other.columns if column in table.columns and column != add.by]:
        raise DataError(f"column {both[0]!r} stands in both tables", fix="rename or remove one")
    repeated = other[add.by].duplicated()
    if repeated.any():
        line = other.index[repeated.to_numpy()][0]
        raise DataError(f"{add.table} line {line}: {add.by} {other.loc[line, add.by]!r} stands in it twice")
    added = other.set_index(add.by).reindex(table[add.by]).fillna("")
    return table.assign(**{column: added[column].to_numpy() for column in added.columns})


def inside(root: Path, name: str) -> Path:
    """The path of a file that a card names, which must lie below the root."""
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise DataError(f"{name!r} leads out of {root.name}")
    return path


def column_mistakes(card: Card, columns: list[str]) -> list[str]:
    """Every column that the card names and the table lacks."""
    return [
        f"{place}: {card.table} has no column {column!r}. {nearest(column, columns) or 'It has ' + ', '.join(columns)}"
        for place, column in card.columns().items()
        if column not in columns
    ]


def missing_lists(card: Card, listing: Listing) -> list[str]:
    """Every file of names that the card's split names and that is not there."""
    mistakes = []
    for place, name in card.split.lists() if card.split else []:
        try:
            if not inside(listing.root, name).is_file():
                mistakes.append(f"split.{place}: no file {name!r} in {listing.root.name}")
        except DataError as error:
            mistakes.append(f"split.{place}: {error.message}")
    return mistakes


# --- which image a row means -----------------------------------------------------------------------------------------
def row_of_keys(
    card: Card,
    table: pandas.DataFrame,
    selection: Selection,
    root: Path,  # noqa: ARG001  the same call as row_of_column's
    notes: list[str],
) -> list[str]:
    """The image of every row, by the columns that stand in the pattern; "" for a row of an image that is left out."""
    keys = [name for name in placeholders(card.images) if name in table.columns]
    compiled = compile_pattern(card.images, frozenset(keys))
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image, captures in selection.files.items():
        by_key[tuple(captures[key] for key in keys)].append(image)
    others = [other for image in selection.left_out if (other := match(compiled, image)) is not None]
    left_out = {tuple(captures[key] for key in keys) for captures in others}
    rows = [tuple(row) for row in table[keys].itertuples(index=False)]
    found = [by_key.get(row, []) for row in rows]
    skipped = [not images and row in left_out for images, row in zip(found, rows, strict=True)]
    return choose(card, table, found, [" ".join(row) for row in rows], skipped, notes)


def row_of_column(card: Card, table: pandas.DataFrame, selection: Selection, root: Path, notes: list[str]) -> list[str]:
    """The image of every row, by a column with its path or name; "" for a row of an image that is left out."""
    assert card.join is not None
    index = index_images(root, tuple(selection.files))
    others = index_images(root, tuple(selection.left_out))
    found: list[list[str]] = []
    cells = list(table[card.join.column])
    for place, cell in zip(table.index, cells, strict=True):
        try:
            found.append(index.find(cell) if cell else [])
        except DataError as error:
            raise DataError(f"{place}: {error.message}", fix=error.fix) from error
    skipped = [not images and bool(cell) and others.finds(cell) for images, cell in zip(found, cells, strict=True)]
    return choose(card, table, found, cells, skipped, notes)


def choose(
    card: Card,
    table: pandas.DataFrame,
    found: list[list[str]],
    cells: Sequence[str],
    skipped: Sequence[bool],
    notes: list[str],
) -> list[str]:
    """The one image of every row, or ""; none is an error, unless the table only adds to what the paths say."""
    if any(skipped):
        notes.append(f"{sum(skipped)} of {len(found)} rows of {card.table} are of images left out")
    missing = [row for row, images in enumerate(found) if not images and not skipped[row]]
    if missing and card.labelled_by_path:
        notes.append(f"{len(missing)} of {len(found)} rows of {card.table} name no image here")
    elif missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} rows more)" if len(missing) > 1 else ""
        what = f"no image {cells[first]!r}" if cells[first] else "the image's name is blank"
        raise DataError(f"{table.index[first]}: {what}{more}", fix="add the file or drop the row")
    for row, images in enumerate(found):
        if len(images) > 1:
            raise DataError(
                f"{table.index[row]}: {cells[row]!r} may be {images[0]} or {images[1]}",
                fix="name the image by its path",
            )
    return [images[0] if images else "" for images in found]


# --- one row an image ------------------------------------------------------------------------------------------------
def attach(
    card: Card, table: pandas.DataFrame, files: dict[str, Captures], row_of: list[str], notes: list[str]
) -> Joined:
    """Rows of one image collapse where they agree on label, patient and split; else they are an error naming both."""
    import pandas

    position_of: dict[str, int] = {}
    repeats: list[tuple[int, int]] = []  # a further row of an image, and its first
    for position, image in enumerate(row_of):
        if image and position_of.setdefault(image, position) != position:
            repeats.append((position, position_of[image]))
    if repeats:
        table = collapse(card, table, row_of, repeats, notes)
    kept = [image for image in files if card.labelled_by_path or image in position_of]
    without = len(files) - len(position_of)
    if without:
        fate = "have no row" if card.labelled_by_path else "left out: no row"
        notes.append(f"{without} of {len(files)} images {fate} in {card.table}")
    positions = [position_of.get(image, -1) for image in kept]
    blank = pandas.DataFrame([[""] * table.shape[1]], columns=table.columns, index=[""], dtype=str)
    cells = pandas.concat([table, blank]).iloc[positions]  # -1 is the blank row at the end
    return Joined(tuple(kept), tuple(files[image] for image in kept), cells, card.table, tuple(notes))


def collapse(
    card: Card, table: pandas.DataFrame, row_of: list[str], repeats: list[tuple[int, int]], notes: list[str]
) -> pandas.DataFrame:
    """The table without the columns in which rows of one image differ: boxes, say. What decides may not differ."""
    further, first = (table.iloc[list(positions)] for positions in zip(*repeats, strict=True))
    differs = further.to_numpy() != first.to_numpy()
    columns = list(table.columns)
    for column in card.deciding_columns:
        rows = differs[:, columns.index(column)].nonzero()[0]
        if len(rows):
            b, a = repeats[rows[0]]
            values = [str(table[column].iloc[row]) for row in (a, b)]
            raise DataError(
                f"{table.index[a]} and {table.index[b]}: {row_of[a]} has the {column} {values[0]!r} and {values[1]!r}",
                fix="keep one row an image",
            )
    notes.append(f"{len(repeats)} further rows of {card.table} repeat an image and were taken as one")
    joined_by = card.join.column if card.join else ""
    varying = [c for number, c in enumerate(columns) if differs[:, number].any() and c != joined_by]
    if varying:
        notes.append(f"columns {', '.join(varying)} differ between rows of one image and are left out")
    return table.drop(columns=varying)
