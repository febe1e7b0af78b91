"""Join the files of a card to its table, one row per image."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError, nearest
from zoo.images.formats import how_to_read, kind_by_name
from zoo.sources.cards import (
    PATH_FACTS,
    Add,
    Captures,
    DatasetCard,
    card_error,
    compile_pattern,
    describe_nested,
    match_path,
    placeholders,
)
from zoo.sources.clips import Clip, fold_clips
from zoo.sources.datalist import read_datalist
from zoo.sources.headers import Headers
from zoo.sources.listing import Listing
from zoo.sources.masks import box_columns, other_task
from zoo.sources.screening import Screened, screen
from zoo.sources.segment_pairs import pair_segmentations
from zoo.sources.selection import Selection, check_labels_left, select_files
from zoo.sources.tables import ImageIndex, index_images, read_table

if TYPE_CHECKING:
    import pandas

RESERVED = ("sample_id", "image", "split", "patient")  # columns of Samples; a table's own columns cannot replace them
Find = Callable[[dict[str, Captures]], list[list[str]]]  # files -> for every row of the table, its images


@dataclass(frozen=True, eq=False)
class Joined:
    """One entry per image: its path, the placeholders in it, and its row of the table (blank cells if it has none)."""

    images: tuple[str, ...]
    files: tuple[str, ...]  # equal to `images` except for frames of a file
    captures: tuple[Captures, ...]
    cells: pandas.DataFrame  # (N, columns) text; the index is where the row is, "labels.csv line 3", or ""
    table: str
    notes: tuple[str, ...]
    has_frames: bool = False  # images are frames of files or clips
    clips: Mapping[str, Clip] = field(default_factory=dict)  # by the first frame, the only one in `images`
    names: tuple[str, ...] = ()  # sample ids, where they differ from the paths: `frames/c1#8`
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of each image that has any
    second_masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same of a second reader
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the files of each image, if several

    @property
    def sample_ids(self) -> tuple[str, ...]:
        return self.names or self.images

    def place(self, row: int) -> str:
        """Describe where row `row` comes from, for an error message."""
        place = str(self.cells.index[row])
        return f"{place} ({self.images[row]})" if place else self.images[row]


def join_table(card: DatasetCard, listing: Listing, origin: Path, headers: Headers) -> Joined:
    """Return the images that match the card's pattern, each with its row of the card's table."""
    import pandas

    table, mistakes, added = load_table(card, listing)
    keys = []
    if card.table and not card.join:
        names = placeholders(card.images)
        # if the table cannot be read, every other placeholder may be one of its columns
        keys = [n for n in names if (n not in PATH_FACTS if table is None else n in table.columns)]
    if table is not None and not card.join and not keys:
        hint = "write {COLUMN} in `images`, or set join = {column = ...}"
        mistakes.append(f"images: {card.images!r} contains no column of {card.table}; {hint}")
    selection = select_files(card, listing, frozenset(keys))
    mistakes = [*selection.mistakes, *mistakes, *missing_lists(card, listing)]
    if mistakes:
        raise card_error(origin, mistakes)
    if card.masks and card.masks.modality:
        selection = keep_segmented(card.masks.modality, selection, listing, headers)
    mask_column = card.masks.column if card.masks else ""
    mask_of_cell = find_named_masks(table, mask_column, listing) if table is not None and mask_column else {}
    named_masks = set(mask_of_cell.values())
    screened = screen({file: own for file, own in selection.files.items() if file not in named_masks}, headers)
    unread = set(listing.unread_images).intersection(selection.unread)
    lost = {file: kind_by_name(file) for file in selection.unread if file in unread} | screened.skipped
    check_labels_left(listing.root, card, screened.files.values(), lost)
    files, clips = fold_clips(card, screened.files, frozenset(keys))
    notes = [*selection.notes, *screened.notes, *added]
    if table is None:
        blank = pandas.DataFrame(index=pandas.Index([""] * len(files)))
        images = tuple(files)
        captures = tuple(files.values())
        joined = Joined(images, images, captures, blank, "", tuple(notes), clips=clips, masks=selection.masks)
        return replace(joined, second_masks=selection.second_masks, channels=selection.channels)
    if card.join and card.join.tag:
        find: Find = partial(find_by_tag, card, table, headers)
    elif card.join:
        index = index_images(listing.root, listing.images).for_cells(table[card.join.column])
        find = partial(find_by_column, card, table, index)
        if index.prefix:
            notes.append(
                f"column {card.join.column!r}: the leading folders {index.prefix} do not exist here and are ignored"
            )
        if index.start:
            notes.append(f"column {card.join.column!r}: its paths are read as relative to {index.start}")
    else:
        find = partial(find_by_keys, table, keys)
    by_row = find(files)
    if screened.spare:
        files, by_row = add_named(screened, files, by_row, find(screened.spare), notes)
    left_out = [*selection.left_out, *screened.skipped]
    skipped = find_left_out(card, keys, left_out, by_row, find)
    check_rows_read(card, table, by_row, listing)
    check_found(card, table, by_row, skipped, keys, notes)
    joined = attach(card, table, files, by_row, notes)
    masks = selection.masks
    if mask_column:
        cells = zip(joined.images, joined.cells[mask_column], strict=True)
        masks = {image: (mask_of_cell[cell],) for image, cell in cells if cell}
    return replace(joined, clips=clips, masks=masks, second_masks=selection.second_masks, channels=selection.channels)


def keep_segmented(modality: str, selection: Selection, listing: Listing, headers: Headers) -> Selection:
    """Keep the images of the series that DICOM segmentations refer to, with their segmentations."""
    masks = pair_segmentations(headers, listing.images, selection.files, modality)
    files = {image: own for image, own in selection.files.items() if image in masks}
    num_segmentations = len({name for own in masks.values() for name in own})
    notes = [*selection.notes, f"{num_segmentations} DICOM files of {modality} with masks of {len(files)} images"]
    if without := len(selection.files) - len(files) - num_segmentations:
        notes.append(f"{without} files left out: no segmentation refers to their series")
    return replace(selection, files=files, masks=masks, notes=tuple(notes))


def load_table(card: DatasetCard, listing: Listing) -> tuple[pandas.DataFrame | None, list[str], list[str]]:
    """Load the card's table; return it, the mistakes in it, and notes on the table added to it.

    The index of the table is where each row is, "labels.csv line 3".
    """
    if not card.table:
        return None, [], []
    notes: list[str] = []
    try:
        table = read_tables(listing, card.table, card.join.column if card.join else "")
    except DataError as error:
        return None, [f"table: {describe_nested(error)}"], []
    if card.add:
        try:
            table = add_columns(table, card.add, inside(listing.root, card.add.table), notes)
        except DataError as error:
            return None, [f"add: {describe_nested(error)}"], []
    return table, column_mistakes(card, list(table.columns)), notes


def read_tables(listing: Listing, name: str, image_column: str = "") -> pandas.DataFrame:
    """Read a table, or all tables that match a pattern, concatenated; the index is the place, "labels.csv line 3".

    With a pattern, the image column is relative to the folder of each table.
    """
    import pandas

    names = [name]
    if "*" in name:
        pattern = compile_pattern(name)
        names = [each for each in (*listing.tables, *listing.nested) if match_path(pattern, each) is not None]
    tables: list[pandas.DataFrame] = []
    for each in names:
        path = inside(listing.root, each)
        table = read_datalist(path) if path.suffix.lower() == ".json" else read_table(path)
        table.index = pandas.Index([f"{each} {table.index.name} {place}" for place in table.index])
        if "*" in name and image_column in table and (folder := posixpath.dirname(each)):
            table[image_column] = [f"{folder}/{cell}" if cell else "" for cell in table[image_column]]
        if tables and (differ := set(tables[0].columns) ^ set(table.columns)):
            raise DataError(
                f"{names[0]} and {each}: only one has the column {min(differ)!r}",
                fix="give all tables the same columns",
            )
        tables.append(table)
    if not tables:
        raise DataError(f"no table matches {name!r}", fix="correct the pattern, or add the table")
    return tables[0] if len(tables) == 1 else pandas.concat(tables)


def add_columns(table: pandas.DataFrame, add: Add, path: Path, notes: list[str]) -> pandas.DataFrame:
    """Add the columns of a second table, joined by a column of both.

    Rows that it lacks get blank cells and a note; if it has none of the values, raise DataError.
    """
    other = read_table(path)
    for name, columns in (("the table", table.columns), (add.table, other.columns)):
        if add.by not in columns:
            hint = nearest(add.by, list(columns)) or f"use one of {', '.join(columns)}"
            raise DataError(f"{name} has no column {add.by!r}", fix=hint)
    if both := [column for column in other.columns if column in table.columns and column != add.by]:
        raise DataError(f"column {both[0]!r} is in both tables", fix="rename or remove one")
    repeated = other[add.by].duplicated()
    if repeated.any():
        line = other.index[repeated.to_numpy()][0]
        raise DataError(
            f"{add.table} line {line}: {add.by} {other.loc[line, add.by]!r} is repeated",
            fix=f"keep one row per {add.by}",
        )
    missing = ~table[add.by].isin(set(other[add.by]) - {""}).to_numpy()
    if missing.all():
        raise DataError(
            f"no {add.by} of the table is in {add.table}: the table has {table[add.by].iloc[0]!r}, "
            f"{add.table} has {other[add.by].iloc[0]!r}",
            fix=f"write {add.by} the same way in both tables",
        )
    if missing.any():
        first = table[add.by][missing].iloc[0]
        notes.append(f"{missing.sum()} of {len(table)} rows have no row in {add.table}, first {add.by} {first!r}")
    added = other.set_index(add.by).reindex(table[add.by]).fillna("")
    return table.assign(**{column: added[column].to_numpy() for column in added.columns})


def inside(root: Path, name: str) -> Path:
    """Return the path of a file that a card names; raise DataError if it is not below the root."""
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise DataError(f"{name!r} leads out of {root.name}", fix="name a file inside the folder")
    return path


def column_mistakes(card: DatasetCard, columns: list[str]) -> list[str]:
    """Return one mistake per column that the card names and the table does not have."""
    present = set(columns)  # perf: a guessed card names every column
    return [
        f"{place}: {card.table} has no column {column!r}. {nearest(column, columns) or 'It has ' + ', '.join(columns)}"
        for place, column in card.columns().items()
        if column not in present
    ]


def missing_lists(card: DatasetCard, listing: Listing) -> list[str]:
    """Return one mistake per missing file of names in the card's `split`."""
    mistakes = []
    for place, name in card.split.lists() if card.split else []:
        try:
            if not inside(listing.root, name).is_file():
                mistakes.append(f"split.{place}: no file {name!r} in {listing.root.name}")
        except DataError as error:
            mistakes.append(f"split.{place}: {error.message}")
    return mistakes


# --- the images of a row ---------------------------------------------------------------------------------------------
def find_by_keys(table: pandas.DataFrame, keys: list[str], files: dict[str, Captures]) -> list[list[str]]:
    """Find the images of every row by the columns in the pattern."""
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image, captures in files.items():
        by_key[tuple(captures[key] for key in keys)].append(image)
    return [by_key.get(tuple(row), []) for row in table[keys].itertuples(index=False)]


def find_by_column(
    card: DatasetCard, table: pandas.DataFrame, whole: ImageIndex, files: dict[str, Captures]
) -> list[list[str]]:
    """Find the images of every row by a column with their path or name, or with that of their folder.

    `whole` is the index of all images for the column.
    """
    assert card.join is not None
    index = replace(index_images(whole.root, tuple(files)), prefix=whole.prefix, start=whole.start)
    by_row: list[list[str]] = []
    for place, cell in zip(table.index, table[card.join.column], strict=True):
        try:
            by_row.append((index.find(cell) or index.find_folder(cell)) if cell else [])
        except DataError as error:
            raise DataError(f"{place}: {error.message}", fix=error.fix) from error
    return by_row


def find_named_masks(table: pandas.DataFrame, column: str, listing: Listing) -> dict[str, str]:
    """Find the mask that each cell of a column names; a cell may be blank."""
    index = index_images(listing.root, (*listing.images, *listing.masks)).for_cells(table[column])
    masks: dict[str, str] = {}
    for place, cell in zip(table.index, table[column], strict=True):
        try:
            files = index.find(cell)
        except DataError as error:
            raise DataError(f"{place}: {column}: {error.message}", fix=error.fix, code="mask") from error
        if cell and len(files) != 1:
            problem = f"{cell!r} is ambiguous: {files[0]} or {files[1]}" if files else f"no mask {cell!r}"
            raise DataError(f"{place}: {column}: {problem}", fix="name a mask by its path", code="mask")
        if files:
            masks[cell] = files[0]
    return masks


def find_by_tag(
    card: DatasetCard, table: pandas.DataFrame, headers: Headers, files: dict[str, Captures]
) -> list[list[str]]:
    """Find the images of every row by a column with the value of a DICOM tag; a row may have all images of an exam."""
    assert card.join is not None
    by_value: dict[str, list[str]] = defaultdict(list)
    for image in files:
        if value := headers.tag(image, card.join.tag):
            by_value[value].append(image)
    return [by_value.get(cell, []) for cell in table[card.join.column]]


def add_named(
    screened: Screened,
    files: dict[str, Captures],
    by_row: list[list[str]],
    spare_by_row: list[list[str]],
    notes: list[str],
) -> tuple[dict[str, Captures], list[list[str]]]:
    """Keep a screened-out file, such as a screen capture, where it is the only image of a row."""
    both = [images or others for images, others in zip(by_row, spare_by_row, strict=True)]
    used_spares = {image for images in both for image in images if image in screened.spare}
    if used_spares:
        notes.append(f"{len(used_spares)} of these are read nevertheless: each is the only image of a row in the table")
    return files | {image: screened.spare[image] for image in screened.spare if image in used_spares}, both


def find_left_out(
    card: DatasetCard, keys: list[str], left_out: Sequence[str], by_row: list[list[str]], find: Find
) -> list[bool]:
    """For each row without an image, whether its image is left out: dropped, excluded, a mask, or without pixels."""
    compiled = compile_pattern(card.images, frozenset(keys))
    captures = {image: match_path(compiled, image) for image in left_out}
    others = find({image: capture for image, capture in captures.items() if capture is not None})
    return [not images and bool(other) for images, other in zip(by_row, others, strict=True)]


def check_rows_read(card: DatasetCard, table: pandas.DataFrame, by_row: list[list[str]], listing: Listing) -> None:
    """Refuse rows whose file exists in a format that is not read."""
    if card.join is None or card.join.tag or not listing.unread:
        return
    index = index_images(listing.root, listing.unread)
    cells = table[card.join.column]
    rows = [row for row, images in enumerate(by_row) if not images and index.finds(cells.iloc[row])]
    if rows:
        (file, *_), more = index.find(cells.iloc[rows[0]]), len(rows) - 1
        raise DataError(
            f"{table.index[rows[0]]}: {file} has a format that zoo does not read ({kind_by_name(file)})"
            + (f" (and {more} more rows)" if more else ""),
            fix=f"{how_to_read(file)}, or drop the rows",
        )


def check_found(
    card: DatasetCard,
    table: pandas.DataFrame,
    by_row: list[list[str]],
    skipped: Sequence[bool],
    keys: list[str],
    notes: list[str],
) -> None:
    """Check that every row has one image, or all of a folder or tag value.

    A row without an image is an error, unless the label comes from the path and the table only adds columns.
    """
    columns, tag = (keys, "") if card.join is None else ([card.join.column], card.join.tag)
    if any(skipped):
        notes.append(f"{sum(skipped)} of {len(by_row)} rows of {card.table} belong to images left out")
    missing = [row for row, images in enumerate(by_row) if not images and not skipped[row]]
    if missing and card.label_in_path and len(missing) < len(by_row):
        notes.append(f"{len(missing)} of {len(by_row)} rows of {card.table} name no image here")
    elif missing:
        cell = " ".join(table[columns].iloc[missing[0]])
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        what = f"no image {cell!r}" if not tag else f"no image with the {tag} {cell!r}"
        what = what if cell else "the image's name is blank"
        raise DataError(f"{table.index[missing[0]]}: {what}{more}", fix="add the file or drop the row")
    for row, images in enumerate(by_row):
        if len(images) > 1 and not tag and not share_folder(card, keys, list(table[columns].iloc[row]), images):
            raise DataError(
                f"{table.index[row]}: {' '.join(table[columns].iloc[row])!r} is ambiguous: {images[0]} or {images[1]}",
                fix="name the image by its path",
            )


def share_folder(card: DatasetCard, keys: list[str], cells: list[str], images: list[str]) -> bool:
    """Whether a row has several images because it names their folder; otherwise its image name is ambiguous."""
    if keys:
        return not set(keys) & set(placeholders(posixpath.basename(card.images)))
    folder = cells[0].replace("\\", "/").strip("/")
    return all(f"/{folder}/" in f"/{image}" for image in images)


# --- one row per image -----------------------------------------------------------------------------------------------
def attach(
    card: DatasetCard, table: pandas.DataFrame, files: dict[str, Captures], by_row: list[list[str]], notes: list[str]
) -> Joined:
    """Give each image its row; merge rows of one image that agree on label, patient and split, else raise DataError."""
    import pandas

    position_of: dict[str, int] = {}
    repeats: dict[tuple[int, int], str] = {}  # (repeated row, first row) -> the image
    for position, image in ((position, image) for position, images in enumerate(by_row) for image in images):
        if position_of.setdefault(image, position) != position:
            repeats.setdefault((position, position_of[image]), image)
    if repeats:
        table = collapse(card, table, repeats, notes)
    kept = [image for image in files if card.label_in_path or image in position_of]
    without = len(files) - len(position_of)
    if without:
        outcome = "have no row" if card.label_in_path else "left out: no row"
        notes.append(f"{without} of {len(files)} images {outcome} in {card.table}")
    positions = [position_of.get(image, -1) for image in kept]
    blank = pandas.DataFrame([[""] * table.shape[1]], columns=table.columns, index=[""], dtype=str)
    cells = pandas.concat([table, blank]).iloc[positions]  # -1 is the blank row at the end
    return Joined(tuple(kept), tuple(kept), tuple(files[image] for image in kept), cells, card.table, tuple(notes))


def collapse(
    card: DatasetCard, table: pandas.DataFrame, repeats: dict[tuple[int, int], str], notes: list[str]
) -> pandas.DataFrame:
    """Drop the columns in which rows of one image differ (boxes, say); label, patient and split must not differ."""
    repeated, first = (table.iloc[list(positions)] for positions in zip(*repeats, strict=True))
    differs = repeated.to_numpy() != first.to_numpy()
    columns = list(table.columns)
    for column in card.deciding_columns:
        rows = differs[:, columns.index(column)].nonzero()[0]
        if len(rows):
            (b, a), image = list(repeats.items())[rows[0]]
            values = [str(table[column].iloc[row]) for row in (a, b)]
            if (boxes := box_columns(columns)) and column in (card.label.column, *card.label.columns):
                raise other_task(Path(card.table), "boxes", f"every row has a box in {', '.join(boxes)}")
            raise DataError(
                f"{table.index[a]} and {table.index[b]}: {image} has {column} {values[0]!r} and {values[1]!r}",
                fix="keep one row per image",
            )
    notes.append(f"{len(repeats)} rows of {card.table} repeat an image and are merged with its first row")
    joined_by = card.join.column if card.join else ""
    varying = [c for number, c in enumerate(columns) if differs[:, number].any() and c != joined_by]
    if varying:
        notes.append(f"columns {', '.join(varying)} differ between rows of one image and are left out")
    return table.drop(columns=varying)
