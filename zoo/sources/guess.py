"""A folder or table that nobody described to the Card its owner would have written, with notes on what was guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.images import without_suffix
from zoo.sources.cards import Card, Join, Label, Patient, Split
from zoo.sources.joining import RESERVED
from zoo.sources.listing import Listing, list_folder
from zoo.sources.selection import SPLIT_NAMES
from zoo.sources.tables import ImageIndex, index_images, read_table

if TYPE_CHECKING:
    import pandas

# Column names as people write them, lower case, other characters as "_"; the earlier wins where two fit as well.
IMAGE_NAMES = tuple(
    "path image_path filepath file_path file filename file_name image_file image image_id imageid image_name "  # noqa: SIM905
    "image_index img img_id img_path img_name id_code id uid name patientid".split()
)
LABEL_NAMES = tuple(
    "label labels class classes class_name class_label category target targets diagnosis dx finding findings "  # noqa: SIM905
    "finding_label finding_labels grade severity level disease pathology condition classification outcome "
    "ground_truth y".split()
)
PATIENT_NAMES = tuple(
    "patient patient_id patientid patient_no patient_number pid subject subject_id subjectid participant_id mrn case "  # noqa: SIM905
    "case_id caseid study study_id lesion lesion_id lesionid".split()
)
SPLIT_COLUMNS = ("split", "set", "partition", "subset", "fold", "dataset")
NO_FINDING = ("No Finding", "no finding", "No finding", "No Findings", "none", "None")
SEPARATOR = "|"
# Names of folders that hold images and say nothing about them: images_001, HAM10000_images_part_1, train_images
CONTAINER_WORDS = frozenset(
    "image images img imgs picture pictures photo photos part parts batch chunk data raw "  # noqa: SIM905
    "png jpg jpeg tif tiff bmp".split()
)
MASK = re.compile(r"(?P<image>.+?)_mask(_?\d+)?")
ENOUGH = 0.9  # of the rows must name an image here before an unusual column is believed to be the image's


@dataclass(frozen=True, eq=False)
class Guess:
    """The card, the files it speaks of, and what should be said about it."""

    card: Card
    listing: Listing
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose rows name images of the folder."""

    name: str
    rows: pandas.DataFrame
    image_column: str
    images_named: float  # share of the folder's images that have a row
    rows_found: float  # share of the rows that have an image
    label_columns: tuple[str, ...]  # by their names
    label_cells: tuple[str, ...]  # one-hot: the columns that hold only 0 and 1

    @property
    def has_label(self) -> bool:
        return bool(self.label_columns) or len(self.label_cells) > 1


def normalise(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def guess_card(path: Path, label_column: str = "") -> Guess:
    """The card of a folder, or of a table whose images lie beside or below it; `label_column` is known, if any."""
    if path.is_file():
        listing = list_folder(path.parent)
        check_any_image(listing)
        index = index_images(listing.root, listing.images)
        table = study_table(path.name, read_table(path), index)
        if table is None:
            raise DataError(f"{path}: no column names the images below {path.parent.name}", fix=say_in_toml("join"))
        return guess_from_table(listing, table, [], path)
    listing = descend(list_folder(path))
    check_any_image(listing)
    index = index_images(listing.root, listing.images)
    tables, broken = study_tables(listing, index, label_column)
    masks = guess_masks(listing)
    labelled_by_table = any(table.has_label for table in tables)
    pattern = "" if label_column else guess_class_folders(listing, labelled_by_table=labelled_by_table)
    if pattern:
        return guess_from_folders(listing, pattern, tables, [*broken, *masks.notes], masks.exclude)
    if not tables and broken:
        raise DataError(broken[0])
    labelled = [table for table in tables if table.has_label] or tables
    if len(labelled) > 1:
        names = " and ".join(table.name for table in labelled)
        raise DataError(
            f"{path}: both {names} could hold the labels", fix=f"name one as the dataset, or {say_in_toml('table')}"
        )
    if not labelled:
        raise DataError(
            f"{path}: {len(listing.images)} images and nothing that labels them",
            fix="put them into one folder a class, or a CSV with their names and labels beside them",
        )
    return guess_from_table(listing, labelled[0], [*broken, *masks.notes], path, masks.exclude)


def check_any_image(listing: Listing) -> None:
    if not listing.images:
        raise DataError(f"{listing.root}: no image files (png, jpg, tif, bmp, ...) in this folder or below it")


def say_in_toml(what: str) -> str:
    return f"say `{what}` in a dataset.toml beside the data"


def descend(listing: Listing) -> Listing:
    """The folder itself, or the only folder in it that holds images: archives often unpack to one more level."""
    while not listing.tables:
        tops = {image.split("/", 1)[0] for image in listing.images if "/" in image}
        if len(tops) != 1 or any("/" not in image for image in listing.images):
            return listing
        (top,) = tops
        if top.lower() in SPLIT_NAMES or not any(image.count("/") > 1 for image in listing.images):
            return listing
        listing = list_folder(listing.root / top)
    return listing


# --- class folders ---------------------------------------------------------------------------------------------------
def guess_class_folders(listing: Listing, *, labelled_by_table: bool) -> str:
    """The pattern of class folders, with or without split folders above them, or "" where there are none."""
    parts = [image.split("/") for image in listing.images]
    inside_splits = {part[1] for part in parts if len(part) > 2 and part[0].lower() in SPLIT_NAMES}
    tops = {part[0] for part in parts if len(part) > 1 and part[0].lower() not in SPLIT_NAMES}
    for folders, pattern in ((inside_splits, "{split}/{label}/**/*"), (tops, "{label}/**/*")):
        containers = labelled_by_table and all(is_container(folder) for folder in folders)
        if len(folders) > 1 and not containers:
            return pattern
    return ""


def is_container(folder: str) -> bool:
    return folder.isdecimal() or bool(CONTAINER_WORDS & set(re.split(r"[^a-z]+", folder.lower())))


def guess_from_folders(
    listing: Listing, pattern: str, tables: list[Table], notes: list[str], exclude: tuple[str, ...]
) -> Guess:
    """Class folders say the label (and split); a table beside them adds the patient and what else it knows."""
    card = Card(images=pattern, exclude=exclude)
    if not tables:
        return Guess(card, listing, tuple(notes))
    table = best_table(listing, tables, notes)
    taken = {table.image_column, *table.label_columns}
    card = add_table(card, table, notes, taken, with_split="{split}" not in pattern)
    if table.label_columns:
        notes.append(f"labels are the folders' names, not column {table.label_columns[0]!r} of {table.name}")
    return Guess(card, listing, tuple(notes))


def best_table(listing: Listing, tables: list[Table], notes: list[str]) -> Table:
    """The table that knows these images best: all of them, and little else."""
    best = max(tables, key=lambda table: (table.images_named, table.rows_found))
    equals = [t.name for t in tables if (t.images_named, t.rows_found) == (best.images_named, best.rows_found)]
    if len(equals) > 1:
        raise DataError(f"{listing.root}: both {' and '.join(equals)} describe the images", fix=say_in_toml("table"))
    notes += [
        f"{table.name} not used: {table.rows_found:.0%} of its rows name images, {best.name}'s {best.rows_found:.0%}"
        for table in tables
        if table is not best
    ]
    return best


@dataclass(frozen=True)
class Masks:
    exclude: tuple[str, ...]
    notes: tuple[str, ...]


def guess_masks(listing: Listing) -> Masks:
    """Whether `x_mask.png` lies beside `x.png`: masks are no further images."""
    stems = {without_suffix(image) for image in listing.images}
    masks = [stem for stem in stems if "_mask" in stem and (found := MASK.fullmatch(stem)) and found["image"] in stems]
    return (
        Masks(("*_mask*",), (f"{len(masks)} masks beside images are not read as images",)) if masks else Masks((), ())
    )


# --- tables ----------------------------------------------------------------------------------------------------------
def study_tables(listing: Listing, index: ImageIndex, label_column: str) -> tuple[list[Table], list[str]]:
    """The tables that name images of the folder, and one note for each that cannot be read."""
    tables: list[Table] = []
    broken: list[str] = []
    for name in listing.tables:
        try:
            table = study_table(name, read_table(listing.root / name), index, label_column)
        except DataError as error:
            broken.append(error.message)
            continue
        if table is not None:
            tables.append(table)
    return tables, broken


def study_table(name: str, rows: pandas.DataFrame, index: ImageIndex, label_column: str = "") -> Table | None:
    """What a table's columns mean, or None where none of them names an image."""
    best = ("", 0, 0.0)
    for column in sorted(rows.columns, key=lambda c: rank(c, IMAGE_NAMES)):
        usual = rank(column, IMAGE_NAMES) < len(IMAGE_NAMES)
        share = sum(index.finds(cell) for cell in rows[column] if cell) / len(rows)
        # `1` may well be the stem of 1.png and a class: an unusual column must name nearly all, each once
        if share > best[2] and (usual or (share >= ENOUGH and rows[column].is_unique)):
            best = (column, 0, share)
    column, _, share = best
    if not column:
        return None
    named = {image for cell in rows[column] if cell and index.finds(cell) for image in index.find(cell)}
    labels = tuple(c for c in rows.columns if normalise(c) in LABEL_NAMES and c != column)
    if label_column in rows.columns:
        labels = (label_column,)
    return Table(name, rows, column, len(named) / len(index.paths), share, labels, one_hot_columns(rows, column))


def rank(column: str, names: tuple[str, ...]) -> int:
    name = normalise(column)
    return names.index(name) if name in names else len(names)


def one_hot_columns(rows: pandas.DataFrame, image_column: str) -> tuple[str, ...]:
    known = {*PATIENT_NAMES, *SPLIT_COLUMNS, "sex", "gender", "age", "smoker", "view", "laterality"}
    return tuple(
        column
        for column in rows.columns
        if column != image_column
        and normalise(column) not in known
        and set(rows[column].unique()) <= {"0", "1", "0.0", "1.0", ""}
    )


def guess_from_table(
    listing: Listing, table: Table, notes: list[str], path: Path, exclude: tuple[str, ...] = ()
) -> Guess:
    """The label from a column of the table, or from 0/1 columns."""
    if len(table.label_columns) > 1:
        raise DataError(
            f"{path}: columns {' and '.join(map(repr, table.label_columns))} of {table.name} could each be the label",
            fix=say_in_toml('label = {column = "NAME"}'),
        )
    if not table.has_label:
        raise DataError(
            f"{path}: no column of {table.name} is called label, class, target, diagnosis or the like; it has "
            f"{', '.join(table.rows.columns)}",
            fix=say_in_toml('label = {column = "NAME"}'),
        )
    if table.label_columns:
        label = guess_label(table.rows, table.label_columns[0])
    else:
        label = Label(columns=table.label_cells)
        notes.append(f"labels are the 0/1 columns {', '.join(table.label_cells)}")
    in_splits = all(image.split("/", 1)[0].lower() in SPLIT_NAMES and "/" in image for image in listing.images)
    card = Card(images="{split}/**/*" if in_splits else "**/*", exclude=exclude)
    taken = {table.image_column, *table.label_columns, *label.columns}
    card = add_table(card, table, notes, taken, with_split=True)
    return Guess(card.model_copy(update={"label": label}), listing, tuple(notes))


def guess_label(rows: pandas.DataFrame, column: str) -> Label:
    texts = set(rows[column].unique())
    if not any(SEPARATOR in text for text in texts):
        return Label(column=column)
    none = next((text for text in NO_FINDING if text in texts), "")
    return Label(column=column, separator=SEPARATOR, none=none)


def add_table(card: Card, table: Table, notes: list[str], taken: set[str], *, with_split: bool) -> Card:
    """The card with what the table says of an image besides its label: patient, split, metadata."""
    patients = sorted(
        (c for c in table.rows.columns if normalise(c) in PATIENT_NAMES), key=lambda c: rank(c, PATIENT_NAMES)
    )
    patients = [c for c in patients if c not in taken or c == table.image_column]
    patient = Patient(column=patients[0], means=meaning(patients[0])) if patients else None
    if len(patients) > 1:
        notes.append(f"patient is column {patients[0]!r} of {table.name}, not {', '.join(map(repr, patients[1:]))}")
    split = guess_split(table, notes) if with_split else None
    taken = taken | ({patients[0]} if patients else set()) | ({split.column} if split else set())
    metadata = tuple(column for column in table.rows.columns if column not in taken and column not in RESERVED)
    update = {"table": table.name, "join": Join(column=table.image_column), "patient": patient, "split": split}
    return card.model_copy(update={**update, "metadata": metadata})


def meaning(column: str) -> str:
    return next((word for word in ("lesion", "study", "case") if word in normalise(column)), "patient")


def guess_split(table: Table, notes: list[str]) -> Split | None:
    for column in sorted(table.rows.columns, key=lambda c: rank(c, SPLIT_COLUMNS)):
        if normalise(column) not in SPLIT_COLUMNS:
            return None
        known = {text.lower() in SPLIT_NAMES for text in table.rows[column].unique()}
        if known == {True} or (normalise(column) == "split" and True in known):
            return Split(column=column)
        notes.append(f"column {column!r} of {table.name} is not read as the split: its values are not train, val, test")
    return None
