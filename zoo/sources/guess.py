"""Guess the Card of a folder or table that has none, with notes on what was guessed."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.sources.archives import is_archive_name
from zoo.sources.cards import DatasetCard, Join, Patient, SplitRule, compile_pattern, match_path, placeholders
from zoo.sources.headers import Headers
from zoo.sources.joining import RESERVED, load_table, read_tables
from zoo.sources.labeling import (
    PATIENT_NAMES,
    SPLIT_COLUMNS,
    guess_findings,
    guess_label,
    normalize_name,
    one_hot_columns,
)
from zoo.sources.levels import are_people, guess_pattern
from zoo.sources.listing import Listing, list_folder
from zoo.sources.masks import box_columns, count_masks, find_boxes, find_masks, other_task
from zoo.sources.names import guess_patient, guess_patient_folder, is_container
from zoo.sources.selection import describe_unread, select_files, split_of
from zoo.sources.tables import SPREADSHEETS, ImageIndex, index_images
from zoo.specs.dataset import AmbiguityNote

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
COHORT = "group"  # the label of BIDS' participants.tsv, where no other column is called like one
# Tables, arrays and databases that are named where nothing else labels the images
UNREAD_TABLES = tuple(".json .xls .ods .feather .arrow .mat .h5 .hdf5 .pkl .npz .xml .sqlite".split())  # noqa: SIM905
SHOWN_FILES = 5
USUAL_PATTERNS = ("{label}/**/*", "{split}/{label}/**/*")
NESTED_COLUMN = "file_name"  # what Hugging Face calls it; relative to the folder of the table
NOTHING_SAID = DatasetCard()
# DICOM tags that a column may hold, from what names one image to what names many
JOIN_TAGS = ("SOPInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyInstanceUID", "PatientID")
Tags = dict[str, dict[str, list[str]]]  # DICOM tag -> its value -> the images that have it
MANY_LABELS = 20
ENOUGH = 0.9  # of the rows must name an image here before an unusual column is believed to be the image's


@dataclass(frozen=True, eq=False)
class Guess:
    """The card, the files it speaks of, and what should be said about it."""

    card: DatasetCard
    listing: Listing
    notes: tuple[str, ...]
    doubts: tuple[AmbiguityNote, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelTable:
    """A table whose rows name images of the folder."""

    name: str
    rows: pandas.DataFrame
    image_column: str
    images_named: float  # share of the folder's images that have a row
    rows_found: float  # share of the rows that have an image
    label_columns: tuple[str, ...]  # by their names
    label_cells: tuple[str, ...]  # one-hot: the columns that hold only 0 and 1
    tag: str = ""  # the DICOM tag that the image column holds, where it is no name
    by_folder: bool = False  # the image column names folders: a row means all images in one

    @property
    def has_label(self) -> bool:
        return bool(self.label_columns) or len(self.label_cells) > 1

    @property
    def num_labels(self) -> int:
        """How many classes it tells apart; 0 where its label is a quantity."""
        values = [len(set(self.rows[column])) for column in self.label_columns] or [len(self.label_cells)]
        return max(values) if max(values) <= MANY_LABELS else 0


def guess_card(path: Path, said: DatasetCard = NOTHING_SAID) -> Guess:
    """The card of a folder, or of a table whose images lie beside or below it; `said` is what a card says of it."""
    if path.is_file():
        return guess_named_table(path, said)
    whole = descend(list_folder(path))
    check_any_image(whole)
    mask_notes: list[str] = []
    marks = find_masks(whole, mask_notes)
    listing = replace(whole, images=meant_images(whole, marks, said))
    if not listing.images:  # what is wrong with `said` is told when it is honoured
        return Guess(marks, whole, ())
    tags = index_tags(listing)
    tables, broken, strangers = study_tables(listing, tags, said.label.column)
    notes = [*mask_notes, *broken, *(f"{name} not used: no column of it names the images" for name in strangers)]
    clips = said.frames is not None
    pattern = "" if said.label.column else guess_class_folders(listing, tags, tables, clips=clips)
    if pattern:
        guess = guess_from_folders(listing, pattern, tables, notes)
    else:
        unmarked = meant_images(whole, NOTHING_SAID, said.model_copy(update={"masks": None}))
        check_task(path, replace(whole, images=unmarked), listing, tables)
        if not tables:
            raise nothing_labels(path, listing, broken, strangers)
        guess = guess_from_table(listing, choose_table(path, tables, notes), notes, path)
    if "{split}" in guess.card.images:
        check_split_folders(whole)
    by_folder = any(table.by_folder for table in tables if table.name == guess.card.table)
    guess = name_patients(guess, said, tags, by_folder=by_folder)
    card = guess.card.model_copy(update={"masks": marks.masks, "exclude": marks.exclude})
    patients = {table.name: patient_columns(table.rows) for table in tables} | strangers
    return Guess(card, whole, guess.notes, () if said.patient else doubt_unused(card, patients))


def doubt_unused(card: DatasetCard, patients: Mapping[str, list[str]]) -> tuple[AmbiguityNote, ...]:
    """The tables that may say the patient and are not used, where nothing else says it."""
    return tuple(
        AmbiguityNote(
            check="patient-unknown",
            message=f"{name} is not used, and its column {columns[0]!r} may say the patient: images of one may be in "
            "two splits",
            fix=say_in_toml("table, join and patient"),
        )
        for name, columns in patients.items()
        if columns and name != card.table and card.patient is None and "patient" not in placeholders(card.images)
    )


def guess_named_table(path: Path, said: DatasetCard) -> Guess:
    listing = list_folder(path.parent)
    check_any_image(listing)
    tags = index_tags(listing)
    table = study_table(path.name, read_tables(listing, path.name), index_images(listing.root, listing.images), tags)
    if table is None:
        raise DataError(f"{path}: no column names the images below {path.parent.name}", fix=say_in_toml("join"))
    return name_patients(guess_from_table(listing, table, [], path), said, tags, by_folder=table.by_folder)


def meant_images(listing: Listing, marks: DatasetCard, said: DatasetCard) -> tuple[str, ...]:
    """The images that neither the guess nor the card leaves out: the others say nothing of the set's shape."""
    card = said.completed_by(marks).model_copy(update={"images": "**/*"})
    return tuple(select_files(card, listing).files)


def name_patients(guess: Guess, said: DatasetCard, tags: Tags, *, by_folder: bool = False) -> Guess:
    """With the patient that is in names of files or folders, where nothing else says who it is.

    `by_folder`: a row of the table means a folder, whose images stay together anyway.
    """
    if guess.card.patient or said.patient or "{patient}" in guess.card.images:
        return guess
    notes = list(guess.notes)
    patient = guess_patient(guess.listing.images, notes)
    if patient is None and said.frames is None and not tags and not by_folder:
        images = guess.listing.images
        in_classes = "{label}" in guess.card.images
        patient = (
            guess_patient_folder(images, guess.card.images, notes) if in_classes else guess_people_folder(images, notes)
        )
    return Guess(guess.card.model_copy(update={"patient": patient}), guess.listing, tuple(notes))


def guess_people_folder(images: tuple[str, ...], notes: list[str]) -> Patient | None:
    """The folders that are called as patients are, where a table says the label."""
    folders = [image.split("/")[:-1] for image in images]
    for level in range(min(map(len, folders))):
        names = {folder[level] for folder in folders}
        if are_people(names) and len(names) < len(images):
            notes.append(f"the patient is the folder, {min(names)!r} and others: {len(names)} (guessed)")
            return Patient(regex=f"^(?:[^/]+/){{{level}}}([^/]+)/", means="patient")
    return None


def check_task(path: Path, unmarked: Listing, listing: Listing, tables: list[LabelTable]) -> None:
    """Refuse a set for segmentation or detection, which no table gives one label of each image.

    `unmarked` holds the images of `listing` and their masks.
    """
    if any(table.has_label for table in tables):
        return
    if masks := count_masks(unmarked, listing.images):
        raise other_task(path, "segmentation", masks)
    boxes = next((f"{', '.join(found)} in {t.name}" for t in tables if (found := box_columns(t.rows.columns))), "")
    if boxes := boxes or find_boxes(unmarked):
        raise other_task(path, "detection", f"boxes: {boxes}")


def nothing_labels(path: Path, listing: Listing, broken: list[str], strangers: Collection[str]) -> DataError:
    """What to say where neither a folder nor a table tells the label of the images."""
    if broken:
        return DataError(broken[0], fix="correct that table, or remove it")
    if strangers:
        return DataError(
            f"{path}: {len(listing.images)} images, and no column of {' or '.join(strangers)} names them",
            fix='write their names into a column, or say how both fit in dataset.toml: images = "{COLUMN}_*.png"',
        )
    return DataError(
        f"{path}: {len(listing.images)} images and nothing that labels them{present(listing)}",
        fix="put them into one folder a class, or a CSV with their names and labels beside them",
    )


def choose_table(path: Path, tables: list[LabelTable], notes: list[str]) -> LabelTable:
    """The one table that can hold the labels; two are an error that names both."""
    labelled = [table for table in tables if table.has_label] or tables
    if len(labelled) > 1:
        names = " and ".join(table.name for table in labelled)
        raise DataError(
            f"{path}: both {names} could hold the labels", fix=f"name one as the dataset, or {say_in_toml('table')}"
        )
    for table in tables:
        if table is not labelled[0]:
            patients = patient_columns(table.rows)
            knows = f"; its column {patients[0]!r} may say the patient" if patients else ""
            notes.append(f"{table.name} not used: no label in it{knows}")
    return labelled[0]


def is_unread_table(name: str) -> bool:
    return "/" not in name and name.lower().endswith(UNREAD_TABLES)


def present(listing: Listing) -> str:
    """What lies there and may be what is looked for: `; there are also labels.json, set.tar, which are not read`."""
    tables = [name for name in listing.tables if not listing.images]
    files = [name for name in listing.others if is_archive_name(name) or is_unread_table(name)]
    archives = any(map(is_archive_name, files))
    advice = " (name an archive itself as the dataset)" if archives else ""
    unread = [describe_unread(listing.unread)] if listing.unread else []
    shown = ", ".join([*tables, *files][:SHOWN_FILES])
    named = [f"there are also {shown}, which are not read here{advice}"] if shown else []
    return "".join(f"; {each}" for each in (*named, *unread))


def check_any_image(listing: Listing) -> None:
    if not listing.images:
        raise DataError(
            f"{listing.root}: no image files (png, jpg, tif, bmp, ...) in this folder or below it{present(listing)}",
            fix="name the folder that holds them, or an archive, CSV or npz",
        )


def say_in_toml(what: str) -> str:
    return f"say `{what}` in a dataset.toml beside the data"


def descend(listing: Listing) -> Listing:
    """The folder itself, or the only folder in it that holds images: archives often unpack to one more level."""
    while not listing.tables:
        tops = folders_of(listing.images)
        if len(tops) != 1 or any("/" not in image for image in listing.images):
            return listing
        (top,) = tops
        if split_of(top) or not any(image.count("/") > 1 for image in listing.images):
            return listing
        inner = list_folder(listing.root / top)
        if not inner.tables and folders_of(listing.unread_images) - tops:  # they may be a class, and lost
            return listing
        listing = inner
    return listing


def folders_of(files: Iterable[str]) -> set[str]:
    """The folders at the top that files lie in."""
    return {file.split("/", 1)[0] for file in files if "/" in file}


# --- class folders ---------------------------------------------------------------------------------------------------
def guess_class_folders(listing: Listing, tags: Tags, tables: list[LabelTable], *, clips: bool) -> str:
    """The pattern of class folders, or "" where there are none, or where a table says the label of what is in them."""
    unread = [file for file in listing.unread_images if "/" in file]  # a class of these is lost, and told
    files = (*listing.images, *unread)
    try:
        pattern = guess_pattern(listing.root, listing.images, clips=clips) or (
            guess_pattern(listing.root, files, clips=clips) if unread else ""
        )
    except DataError:
        if any(table.has_label for table in tables):
            return ""
        raise
    folders: dict[str, list[str]] = defaultdict(list)
    compiled = compile_pattern(pattern)
    for image in files if pattern else ():
        if captures := match_path(compiled, image):
            folders[captures["label"]].append(image)
    return pattern if len(folders) > 1 and not are_containers(folders, tags, tables) else ""


def are_containers(folders: dict[str, list[str]], tags: Tags, tables: list[LabelTable]) -> bool:
    """Whether folders are one a patient, an exam or a download, and a table says the label of what is in them."""
    labelled = [table for table in tables if table.has_label]
    if labelled and all(is_container(f) or any(f in values for values in tags.values()) for f in folders):
        return True
    shapes = {re.sub(r"\d+", "0", folder) for folder in folders}
    are_numbered = len(shapes) == 1 and "0" in min(shapes)  # P001, P002, ...: grades may be called so too
    patient_of = {image: patient for patient, images in tags.get("PatientID", {}).items() for image in images}
    have_one_patient = bool(patient_of) and all(
        len({patient_of.get(image, "") for image in images}) == 1 for images in folders.values()
    )
    if labelled:
        named = any(table.by_folder for table in labelled)
        return (named or are_numbered or have_one_patient) and len(folders) > max(t.num_labels for t in labelled)
    by_row = any((table.by_folder and are_numbered) or (table.tag and have_one_patient) for table in tables)
    return by_row and len(folders) > 2


def check_split_folders(listing: Listing) -> None:
    """Refuse the folder of a split that holds no image: half of a download, say. Another would be drawn without it."""
    filled = {image.split("/", 1)[0] for image in listing.images}
    for folder in sorted(path for path in listing.root.iterdir() if path.is_dir()):
        if split_of(folder.name) and folder.name not in filled:
            raise DataError(f"{folder}: the folder of a split, and no image in it", fix="fill it or remove it")


def guess_from_folders(listing: Listing, pattern: str, tables: list[LabelTable], notes: list[str]) -> Guess:
    """Class folders say the label (and split); a table beside them adds the patient and what else it knows."""
    card = DatasetCard(images=pattern)
    if pattern not in USUAL_PATTERNS:
        notes.append(f'folders are read as {pattern.removesuffix("/**/*")} (guessed; in dataset.toml: images = "...")')
    if not tables:
        return Guess(card, listing, tuple(notes))
    table = best_table(listing, tables, notes)
    taken = {table.image_column, *table.label_columns}
    in_splits = "{split}" in pattern
    card = add_table(card, table, notes, taken, with_split=not in_splits)
    skipped = [*table.label_columns, *(table.label_cells if len(table.label_cells) > 1 else ())]
    if skipped:
        columns = f"column{'s' * (len(skipped) > 1)} {', '.join(map(repr, skipped))}"
        notes.append(f"labels are the folders' names, not {columns} of {table.name}")
    if in_splits and (column := next((c for c in table.rows.columns if normalize_name(c) == "split"), "")):
        notes.append(f"splits are the folders', not column {column!r} of {table.name}")
    return Guess(card, listing, tuple(notes))


def best_table(listing: Listing, tables: list[LabelTable], notes: list[str]) -> LabelTable:
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


# --- tables ----------------------------------------------------------------------------------------------------------
def index_tags(listing: Listing) -> Tags:
    """The DICOM tags that tell images apart. An unreadable file is named later, unless it is left out."""
    tags: Tags = {keyword: defaultdict(list) for keyword in JOIN_TAGS}
    with Headers(listing.root) as headers:
        for image in listing.images:
            with suppress(DataError):
                for header in headers.tagged([image]).values():
                    for keyword in header.tags.keys() & tags.keys():
                        tags[keyword][header.tags[keyword]].append(image)
    return {keyword: by_value for keyword, by_value in tags.items() if len(by_value) > 1}


def study_tables(
    listing: Listing, tags: Tags, label_column: str
) -> tuple[list[LabelTable], list[str], dict[str, list[str]]]:
    """The tables that name images of the folder, what is wrong with those that cannot be read, and the others.

    Of the others, the columns that may say a patient, by the table's name.
    """
    index = index_images(listing.root, listing.images)
    tables: list[LabelTable] = []
    broken: list[str] = []
    strangers: dict[str, list[str]] = {}
    nested = dict.fromkeys(f"*/{posixpath.basename(name)}" for name in listing.nested)
    names = sorted((*listing.tables, *nested), key=is_spreadsheet)
    for name in names:
        labeled = next((table.name for table in tables if table.has_label), "")
        if labeled and is_spreadsheet(name):
            broken.append(f"{name} not used: {labeled} says the label")
            continue
        try:
            rows = read_tables(listing, name, NESTED_COLUMN)
            table = study_table(name, rows, index, tags, label_column)
        except DataError as error:
            broken.append(error.message)
            continue
        if table is None:
            strangers[name] = patient_columns(rows)
        else:
            tables.append(table)
    return tables, broken, strangers


def is_spreadsheet(name: str) -> bool:
    return name.lower().endswith(SPREADSHEETS)


def study_table(
    name: str, rows: pandas.DataFrame, index: ImageIndex, tags: Tags, label_column: str = ""
) -> LabelTable | None:
    """What a table's columns mean, or None where none of them names an image."""
    best = ("", 0, 0.0)
    for column in sorted(rows.columns, key=lambda c: rank(c, IMAGE_NAMES)):
        usual = rank(column, IMAGE_NAMES) < len(IMAGE_NAMES)
        its = index.for_cells(rows[column])
        share = sum(its.finds(cell) for cell in rows[column] if cell) / len(rows)
        # `1` may well be the stem of 1.png and a class: an unusual column must name nearly all, each once
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
    found, one_hot = len(named) / len(index.paths), one_hot_columns(rows, column)
    labels = (label_column,) if label_column in rows.columns else find_label_columns(rows, column, one_hot)
    return LabelTable(
        name, rows, column, found, share, labels, one_hot, by_tag[1] if by_tag else "", by_folder=bool(folder_column)
    )


def find_label_columns(rows: pandas.DataFrame, image_column: str, one_hot: tuple[str, ...]) -> tuple[str, ...]:
    boxes = {"x", "y"} <= set(rows.columns)  # RSNA's: y is no label there
    named = [
        c for c in rows.columns if c != image_column and normalize_name(c) in LABEL_NAMES and not (boxes and c == "y")
    ]
    cohort = [c for c in rows.columns if c != image_column and normalize_name(c) == COHORT]
    return tuple(named or (cohort if len(one_hot) < 2 else []))


def find_folder_column(rows: pandas.DataFrame, index: ImageIndex) -> str:
    """The column whose cells name folders, each one of its own, that hold at least half of the images; or ""."""
    for column in rows.columns:
        cells = list(rows[column])
        if normalize_name(column) in (*LABEL_NAMES, COHORT, *SPLIT_COLUMNS) or len(set(cells)) < max(2, len(cells)):
            continue
        its = index.for_cells(cells)
        found = [its.find_folder(cell) for cell in cells if its.prefix or is_inside(cell)]
        images = [image for folder in found for image in folder]
        is_usual = normalize_name(column) in (*IMAGE_NAMES, *PATIENT_NAMES)
        is_named = sum(map(bool, found)) >= ENOUGH * len(cells) or (is_usual and images)
        if is_named and len(set(images)) == len(images) and 2 * len(images) >= len(index.paths):
            return str(column)
    return ""


def is_inside(cell: str) -> bool:
    """Whether a cell may be a path below the folder."""
    return bool(cell) and not cell.startswith(("/", "\\")) and ".." not in cell and cell[1:2] != ":"


def find_tag_column(rows: pandas.DataFrame, tags: Tags) -> tuple[str, str] | None:
    """The column whose cells are values of a DICOM tag, nearly all of them, and at least half of the tag's values."""
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


def guess_from_table(listing: Listing, table: LabelTable, notes: list[str], path: Path) -> Guess:
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
        label = guess_label(table.rows, table.label_columns[0], notes)
        if len(table.label_cells) > 1:
            others = ", ".join(table.label_cells)
            notes.append(f"labels are column {label.column!r}, not the 0/1 columns {others} of {table.name}")
    else:
        rows = table.rows.drop(columns=table.image_column)
        label = guess_findings(rows, table.label_cells, f"{path}: {table.name}", notes)
    in_splits = all("/" in image and split_of(image.split("/", 1)[0]) for image in listing.images)
    card = DatasetCard(images="{split}/**/*" if in_splits else "**/*")
    taken = {table.image_column, *table.label_columns, *label.columns}
    card = add_table(card, table, notes, taken, with_split=True)
    return Guess(card.model_copy(update={"label": label}), listing, tuple(notes))


def add_table(
    card: DatasetCard, table: LabelTable, notes: list[str], taken: set[str], *, with_split: bool
) -> DatasetCard:
    """The card with what the table says of an image besides its label: patient, split, metadata."""
    patients = [c for c in patient_columns(table.rows) if c not in taken or c == table.image_column]
    patient = Patient(column=patients[0], means=meaning(patients[0])) if patients else None
    if len(patients) > 1:
        notes.append(f"patient is column {patients[0]!r} of {table.name}, not {', '.join(map(repr, patients[1:]))}")
    split = guess_split(table.rows, table.name, notes) if with_split else None
    taken = taken | ({patients[0]} if patients else set()) | ({split.column} if split else set())
    taken |= set(RESERVED)
    metadata = tuple(column for column in table.rows.columns if column not in taken)
    if table.by_folder:
        notes.append(
            f"column {table.image_column!r} of {table.name} names folders: each row means all images of one (guessed)"
        )
    if table.tag:
        notes.append(f"column {table.image_column!r} of {table.name} holds the DICOM tag {table.tag} (guessed)")
    join = Join(column=table.image_column, tag=table.tag)
    update = {"table": table.name, "join": join, "patient": patient, "split": split}
    return card.model_copy(update={**update, "metadata": metadata})


def patient_columns(rows: pandas.DataFrame) -> list[str]:
    named = [column for column in rows.columns if normalize_name(column) in PATIENT_NAMES]
    return sorted(named, key=lambda column: rank(column, PATIENT_NAMES))


def meaning(column: str) -> str:
    return next((word for word in ("lesion", "study", "case") if word in normalize_name(column)), "patient")


def complete_by_table(card: DatasetCard, listing: Listing) -> tuple[DatasetCard, tuple[str, ...]]:
    """The card with the split and the patient in usual columns of the table that it names, where it says neither."""
    names = placeholders(card.images)
    lacks_split = card.split is None and "split" not in names
    lacks_patient = card.patient is None and "patient" not in names
    if not lacks_split and not lacks_patient:
        return card, ()
    rows, mistakes, _ = load_table(card, listing)
    if rows is None or mistakes:  # told when the card is honored
        return card, ()
    notes: list[str] = []
    update: dict[str, object] = {}
    free = rows.drop(columns=[c for c in {card.label.column, *card.label.columns, *card.hide} if c in rows.columns])
    if lacks_split and (split := guess_split(free, card.table, notes)):
        update["split"] = split
        notes.append(f"split is column {split.column!r} of {card.table} (guessed; else say split = {{folds = 5}})")
    if lacks_patient and (columns := patient_columns(free)):
        update["patient"] = Patient(column=columns[0], means=meaning(columns[0]))
        notes.append(f'patient is column {columns[0]!r} of {card.table} (guessed; else say patient = {{none = "WHY"}})')
    return card.model_copy(update=update), tuple(notes)


def guess_split(rows: pandas.DataFrame, name: str, notes: list[str]) -> SplitRule | None:
    for column in sorted(rows.columns, key=lambda c: rank(c, SPLIT_COLUMNS)):
        if normalize_name(column) not in SPLIT_COLUMNS:
            return None
        known = {bool(split_of(text)) for text in rows[column].unique()}
        if known == {True} or (normalize_name(column) == "split" and True in known):
            return SplitRule(column=column)
        notes.append(f"column {column!r} of {name} is not read as the split: its values are not train, val, test")
    return None
