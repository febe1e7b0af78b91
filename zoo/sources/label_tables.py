"""Find the tables that label a folder's images, and what their columns mean."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.sources.cards import SplitRule
from zoo.sources.headers import Headers
from zoo.sources.joining import read_tables
from zoo.sources.labeling import SPLIT_COLUMNS, normalize_name, one_hot_columns, patient_rank
from zoo.sources.listing import Listing, words_of
from zoo.sources.selection import split_of
from zoo.sources.tables import SPREADSHEETS, ImageIndex, index_images, to_flag

if TYPE_CHECKING:
    import pandas

# Column names in lower case, other characters as "_"; the earlier one wins where two fit equally well.
IMAGE_NAMES = tuple(
    "path image_path filepath file_path file filename file_name image_file image image_id imageid image_name "  # noqa: SIM905
    "image_index img img_id img_path img_name id_code id uid name patientid".split()
)
LABEL_NAMES = tuple(
    "label labels class classes class_name class_label category target targets diagnosis dx finding findings "  # noqa: SIM905
    "finding_label finding_labels grade severity level disease pathology condition classification outcome "
    "ground_truth y befund diagnose klasse diagnostic classe diagnostico clase etiqueta diagnosi etichetta".split()
)
SPLIT_WORDS = frozenset({"split", "splits", "partition", "subset", "fold", "folds", "usage"})
COHORT = "group"  # the label in BIDS' participants.tsv, where no other column is named like a label
SLASH = re.compile(r"[/\\]")
NESTED_COLUMN = "file_name"  # Hugging Face's image column, relative to the folder of the table
# DICOM tags that a column may hold, from those of one image to those of many
JOIN_TAGS = ("SOPInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyInstanceUID", "PatientID")
Tags = dict[str, dict[str, list[str]]]  # DICOM tag -> its value -> the images that have it
MANY_LABELS = 20
SHOWN_CELLS = 5
ENOUGH = 0.9  # of the rows must name an image for a column with an unusual name to be the image column


@dataclass(frozen=True, eq=False)
class LabelTable:
    """A table whose rows name images of the folder."""

    name: str
    rows: pandas.DataFrame
    image_column: str
    images_named: float  # share of the folder's images that have a row
    rows_found: float  # share of the rows that have an image
    label_columns: tuple[str, ...]  # columns named like a label
    label_cells: tuple[str, ...]  # columns that contain only 0 and 1
    tag: str = ""  # the DICOM tag in the image column, if it holds no names
    by_folder: bool = False  # the image column names folders: a row applies to all images in one

    @property
    def has_label(self) -> bool:
        return bool(self.label_columns) or len(self.label_cells) > 1

    @property
    def num_labels(self) -> int:
        """Return the number of classes; 0 where the label is a quantity."""
        values = [len(set(self.rows[column])) for column in self.label_columns] or [len(self.label_cells)]
        return max(values) if max(values) <= MANY_LABELS else 0


def index_tags(listing: Listing) -> Tags:
    """Index the images by the DICOM tags in which they differ. An unreadable file is reported later, if it is used."""
    tags: Tags = {keyword: defaultdict(list) for keyword in JOIN_TAGS}
    with Headers(listing.root) as headers:
        for image in listing.images:
            with suppress(DataError):
                for header in headers.tagged([image]).values():
                    for keyword in header.tags.keys() & tags.keys():
                        tags[keyword][header.tags[keyword]].append(image)
    return {keyword: by_value for keyword, by_value in tags.items() if len(by_value) > 1}


def study_tables(
    listing: Listing, tags: Tags, label_column: str, notes: list[str]
) -> tuple[list[LabelTable], list[DataError], dict[str, list[str]]]:
    """Return the tables that name images of the folder, the errors of those not read, and the others.

    The others are a dict from the table's name to its columns that may be the patient. Tables not read are noted.
    """
    index = index_images(listing.root, listing.images)
    tables: list[LabelTable] = []
    errors: list[DataError] = []
    unmatched: dict[str, list[str]] = {}
    nested = dict.fromkeys(f"*/{posixpath.basename(name)}" for name in listing.nested)
    names = sorted((*listing.tables, *nested), key=is_spreadsheet)
    for name in names:
        labeled = next((table.name for table in tables if table.has_label), "")
        if labeled and is_spreadsheet(name):
            notes.append(f"{name} not used: {labeled} has the labels")
            continue
        try:
            rows = read_tables(listing, name, NESTED_COLUMN)
            table = study_table(name, rows, index, tags, label_column)
        except DataError as error:
            notes.append(error.message)
            errors.append(error)
            continue
        if table is None:
            unmatched[name] = patient_columns(rows)
            errors += find_foreign_paths(name, rows, index)
        else:
            tables.append(table)
    return tables, errors, unmatched


def find_foreign_paths(name: str, rows: pandas.DataFrame, index: ImageIndex) -> list[DataError]:
    """Return an error if a column has paths of which only the file names exist here, such as those of two machines."""
    for column in rows.columns:
        paths = [cell.replace("\\", "/") for cell in rows[column]]
        if all("/" in path for path in paths) and all(index.finds(posixpath.basename(path)) for path in paths):
            message = f"{name}: column {column!r} has paths that do not exist here, such as {rows[column].iloc[0]!r}"
            return [DataError(message, fix="write paths relative to the folder, or file names only")]
    return []


def is_spreadsheet(name: str) -> bool:
    return name.lower().endswith(SPREADSHEETS)


def study_table(
    name: str, rows: pandas.DataFrame, index: ImageIndex, tags: Tags, label_column: str = ""
) -> LabelTable | None:
    """Find the meaning of a table's columns; None if no column names an image."""
    best = ("", 0, 0.0)
    for column in sorted(rows.columns, key=lambda c: rank(c, IMAGE_NAMES)):
        usual = rank(column, IMAGE_NAMES) < len(IMAGE_NAMES)
        its = index.for_cells(rows[column])
        share = sum(its.finds(cell) for cell in rows[column] if cell) / len(rows)
        # `1` may be the stem of 1.png and also a class: an unusual column must name nearly all images, each once
        if share > best[2] and (usual or (share >= ENOUGH and rows[column].is_unique)):
            best, index = (column, 0, share), its
    column, _, share = best
    by_tag = find_tag_column(rows, tags) if share < ENOUGH else None
    folder_column = find_folder_column(rows, index) if share < ENOUGH and not by_tag else ""
    if by_tag:
        column, tag = by_tag
        share = sum(cell in tags[tag] for cell in rows[column]) / len(rows)
        named = {image for cell in rows[column] for image in tags[tag].get(cell, [])}
    elif folder_column:
        column, share = folder_column, 1.0
        named = {image for cell in rows[column] for image in index.find_folder(cell)}
    elif column:
        named = {image for cell in rows[column] if cell and index.finds(cell) for image in index.find(cell)}
    else:
        return None
    share_of_images, one_hot = len(named) / len(index.paths), one_hot_columns(rows, column)
    labels = (label_column,) if label_column in rows.columns else find_label_columns(rows, column, one_hot)
    return LabelTable(
        name,
        rows,
        column,
        share_of_images,
        share,
        labels,
        one_hot,
        by_tag[1] if by_tag else "",
        by_folder=bool(folder_column),
    )


def find_label_columns(rows: pandas.DataFrame, image_column: str, one_hot: tuple[str, ...]) -> tuple[str, ...]:
    boxes = {"x", "y"} <= set(rows.columns)  # as in RSNA's table, where y is not a label
    named = [
        c for c in rows.columns if c != image_column and normalize_name(c) in LABEL_NAMES and not (boxes and c == "y")
    ]
    cohort = [c for c in rows.columns if c != image_column and normalize_name(c) == COHORT]
    return tuple(named or (cohort if len(one_hot) < 2 else []))


def find_folder_column(rows: pandas.DataFrame, index: ImageIndex) -> str:
    """Return the column whose cells name different folders with at least half of the images; "" if there is none."""
    for column in rows.columns:
        cells = list(rows[column])
        if normalize_name(column) in (*LABEL_NAMES, COHORT, *SPLIT_COLUMNS) or len(set(cells)) < max(2, len(cells)):
            continue
        its = index.for_cells(cells)
        folders = [its.find_folder(cell) for cell in cells if its.prefix or is_inside(cell)]
        images = [image for folder in folders for image in folder]
        is_usual = normalize_name(column) in IMAGE_NAMES or patient_rank(column) is not None
        is_named = sum(map(bool, folders)) >= ENOUGH * len(cells) or (is_usual and images)
        if is_named and len(set(images)) == len(images) and 2 * len(images) >= len(index.paths):
            return str(column)
    return ""


def is_inside(cell: str) -> bool:
    """Whether a cell may be a path below the folder."""
    return bool(cell) and not cell.startswith(("/", "\\")) and ".." not in cell and cell[1:2] != ":"


def find_tag_column(rows: pandas.DataFrame, tags: Tags) -> tuple[str, str] | None:
    """Return (column, tag) if nearly all cells are values of a DICOM tag and cover at least half of its values."""
    for tag, by_value in tags.items():
        for column in rows.columns:
            cells = set(rows[column]) & by_value.keys()
            share = sum(cell in cells for cell in rows[column]) / len(rows)
            if share >= ENOUGH and 2 * len(cells) >= len(by_value) and normalize_name(column) not in LABEL_NAMES:
                return column, tag
    return None


def rank(column: str, names: tuple[str, ...]) -> int:
    name = normalize_name(column)
    return names.index(name) if name in names else len(names)


def patient_columns(rows: pandas.DataFrame) -> list[str]:
    ranks = {column: patient_rank(column) for column in rows.columns}
    return sorted((c for c, place in ranks.items() if place is not None), key=lambda c: ranks[c] or 0)


def meaning(column: str) -> str:
    return next((word for word in ("lesion", "study", "case") if word in normalize_name(column)), "patient")


def guess_split(rows: pandas.DataFrame, name: str, notes: list[str]) -> SplitRule | None:
    """Choose the column that is the split by its name or cells; note each other column that may be the split."""
    usual = sorted(
        (c for c in rows.columns if normalize_name(c) in SPLIT_COLUMNS), key=lambda c: rank(c, SPLIT_COLUMNS)
    )
    for column in usual:
        are_splits = {bool(split_of(text)) for text in rows[column].unique()}
        if are_splits == {True} or (normalize_name(column) == "split" and True in are_splits):
            return SplitRule(column=column)
    others = [column for column in rows.columns if column not in usual and not any(map(SLASH.search, rows[column]))]
    rules = [rule for column in others if (rule := split_by_cells(column, list(rows[column].unique())))]
    if len(rules) == 1:
        return rules[0]
    for column in (*usual, *others):
        cells = list(rows[column].unique())
        if column in usual or may_be_split(column, cells):
            notes.append(
                f"column {column!r} of {name} is not read as the split: its values are not train, val and test "
                f'({", ".join(cells[:SHOWN_CELLS])}; in dataset.toml: split = {{column = "{column}", train = ..., '
                "test = ...})"
            )
    return None


def split_by_cells(column: str, cells: Sequence[str]) -> SplitRule | None:
    """Return the split if all cells are train, val or test, or 0 and 1 in a column named is_test; else None."""
    splits = {split_of(cell) for cell in cells}
    if "train" in splits and "" not in splits and len(splits) > 1:
        return SplitRule(column=column)
    zeros, ones = ([cell for cell in cells if to_flag(cell) == value] for value in (0, 1))
    is_flag = len(zeros) == len(ones) == 1 and len(cells) == 2
    if is_flag and re.fullmatch(r"(is|in)_test(_set)?", normalize_name(column)):
        return SplitRule(column=column, train=zeros[0], test=ones[0])
    return None


def may_be_split(column: str, cells: Sequence[str]) -> bool:
    """Whether a column is named like a split, is 0/1 and named like a part, or has the names of two parts as cells."""
    words = words_of(column)
    is_part = bool(split_of("_".join(word for word in words if word not in {"is", "in"})))
    flags = len(cells) == 2 and {to_flag(cell) for cell in cells} == {0, 1}
    return bool(SPLIT_WORDS & set(words)) or (is_part and flags) or len({split_of(cell) for cell in cells} - {""}) > 1
