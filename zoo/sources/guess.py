"""Guess the DatasetCard of a folder or table that has none, with notes on every guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.errors import DataError
from zoo.images.formats import how_to_read, is_volume_name, kind_by_name, without_suffix
from zoo.sources.archives import is_archive_name
from zoo.sources.cards import DatasetCard, Join, Patient, compile_pattern, match_path, placeholders
from zoo.sources.datalist import is_datalist, read_json_object
from zoo.sources.descriptions import Description, find_description, guess_described
from zoo.sources.joining import RESERVED, load_table, read_tables
from zoo.sources.label_tables import (
    LabelTable,
    Tags,
    guess_split,
    index_tags,
    meaning,
    patient_columns,
    study_table,
    study_tables,
)
from zoo.sources.labeling import (
    SPLIT_COLUMNS,
    guess_findings,
    guess_label,
    may_be_patient,
    normalize_name,
)
from zoo.sources.levels import are_people, guess_pattern
from zoo.sources.listing import COMPANION_NAMES, TABLE_SUFFIXES, Listing, list_folder
from zoo.sources.mask_layouts import check_annotations, lay_out_segmentations, lay_out_volumes
from zoo.sources.mask_targets import guess_masks
from zoo.sources.masks import find_masks
from zoo.sources.msd import read_label_fields
from zoo.sources.names import guess_patient, guess_patient_folder, is_container
from zoo.sources.segment_pairs import list_segmentations
from zoo.sources.selection import describe_unread, is_of_masks, select_files, split_of
from zoo.sources.tables import index_images
from zoo.specs.dataset import AmbiguityNote
from zoo.tasks.kinds import mask_task

# Tables, arrays and databases that zoo does not read; an error without labels mentions them
UNREAD_TABLES = tuple(".csv.gz .tsv.gz .json .xls .ods .feather .arrow .mat .h5 .hdf5 .pkl .npz .xml .sqlite".split())  # noqa: SIM905
SHOWN_FILES = 5
USUAL_PATTERNS = ("{label}/**/*", "{split}/{label}/**/*")
EMPTY_CARD = DatasetCard()


@dataclass(frozen=True, eq=False)
class Guess:
    """A guessed card, the files it describes, and notes on the guesses."""

    card: DatasetCard
    listing: Listing
    notes: tuple[str, ...]
    doubts: tuple[AmbiguityNote, ...] = ()


@dataclass(frozen=True, eq=False)
class Contents:
    """What the names, tables and headers of a folder show before a layout is chosen."""

    outer: Listing  # of the folder that was given
    whole: Listing  # of the folder below it that has the images
    listing: Listing  # the images to label: no masks, no segmentations, none that the card leaves out
    segmentations: Mapping[str, str]
    masks: DatasetCard  # masks and excluded files, found by name
    beside: tuple[str, ...]  # images that would be labeled if they were no masks
    tags: Tags
    tables: list[LabelTable]
    errors: list[DataError]  # of tables that were not read
    unmatched: dict[str, list[str]]
    notes: list[str]

    @property
    def has_label(self) -> bool:
        return any(table.has_label for table in self.tables)


def guess_card(path: Path, card: DatasetCard = EMPTY_CARD) -> Guess:
    """Guess the card of a folder, or of a table with images beside or below it; fields set in `card` are respected."""
    if path.suffix.lower() == ".json" and path.is_file():
        return guess_by_description(Description(path, read_json_object(path)), list_folder(path.parent), card)
    if path.is_file():
        return guess_named_table(path, card)
    outer = list_folder(path)
    whole = descend(outer)
    description = find_description(outer) or find_description(whole)
    if description and description.lists_files and (is_of_masks(card) or not card.task):
        return guess_by_description(description, outer if description.path.parent == outer.root else whole, card)
    check_any_image(whole)
    contents = list_contents(outer, whole, card)
    if not contents.listing.images:  # applying the card reports why no image is left
        return Guess(contents.masks, whole, ())
    return guess_segmentations(contents, card) or guess_labels_or_masks(path, contents, card, description)


def list_contents(outer: Listing, whole: Listing, card: DatasetCard) -> Contents:
    """Tell images from masks by name, and read the tables that name images."""
    segmentations = list_segmentations(whole.root, whole.images)
    plain = replace(whole, images=tuple(image for image in whole.images if image not in segmentations))
    notes: list[str] = []
    masks = find_masks(plain, notes)
    listing = replace(whole, images=selected_images(plain, masks, card))
    tags: Tags = {}
    tables: list[LabelTable] = []
    errors: list[DataError] = []
    unmatched: dict[str, list[str]] = {}
    if listing.images:
        tags = index_tags(listing)
        tables, errors, unmatched = study_tables(listing, tags, card.label.column, notes)
    notes += [f"{name} not used: none of its columns names the images" for name in unmatched]
    beside = selected_images(plain, EMPTY_CARD, card.model_copy(update={"masks": None}))
    return Contents(outer, whole, listing, segmentations, masks, beside, tags, tables, errors, unmatched, notes)


def guess_segmentations(contents: Contents, card: DatasetCard) -> Guess | None:
    """Lay out segmentations in DICOM that refer to their images, if nothing else labels the images."""
    if card.label.column or card.masks or contents.has_label or (card.task and not is_of_masks(card)):
        return None
    images = selected_images(contents.whole, EMPTY_CARD, card)
    segmented = lay_out_segmentations(contents.segmentations.get(image, "") for image in images)
    if not segmented:
        return None
    return Guess(EMPTY_CARD.model_copy(update=segmented), contents.whole, tuple(contents.notes))


def guess_labels_or_masks(path: Path, contents: Contents, card: DatasetCard, description: Description | None) -> Guess:
    """Guess volumes with masks, masks beside 2-D images, folders named like classes or a table, in this order."""
    pattern = ""
    if not card.label.column:
        pattern = guess_class_folders(contents.listing, contents.tags, contents.tables, clips=card.frames is not None)
    labeled = bool(pattern) or contents.has_label
    volumes = contents.whole.masks and (card.dims == 3 or "dims" not in card.model_fields_set)
    if volumes and (is_of_masks(card) or not labeled):
        described = read_label_fields(description.path, description.document) if description else {}
        return guess_volumes(contents.whole, contents.listing, contents.notes, card, described)
    return complete_guess(guess_layout(path, contents, card, pattern), contents, card)


def guess_layout(path: Path, contents: Contents, card: DatasetCard, pattern: str) -> Guess:
    """Guess masks beside 2-D images, folders named like classes (`pattern`) or a table with labels, in this order."""
    listing, notes = contents.listing, contents.notes
    mask_files = sorted(mask for mask in set(contents.beside) - set(listing.images) if not is_volume_name(mask))
    if is_of_masks(card) or (mask_files and not (pattern or contents.has_label)):
        masks = card.masks or guess_masks(contents.whole.root, listing.images, mask_files)
        guess = guess_from_folders(listing, split_pattern(listing.images), contents.tables, notes)
        return replace(guess, card=guess.card.model_copy(update={"task": str(mask_task()), "masks": masks}))
    if pattern:
        return guess_from_folders(listing, pattern, contents.tables, notes)
    if not contents.has_label:
        columns = {table.name: list(table.rows.columns) for table in contents.tables}
        check_annotations(contents.outer, replace(contents.whole, images=contents.beside), listing.images, columns)
    if not contents.tables:
        raise missing_labels(path, replace(listing, others=contents.outer.others), contents.errors, contents.unmatched)
    return guess_from_table(listing, choose_table(path, contents.tables, notes), notes, path)


def complete_guess(guess: Guess, contents: Contents, card: DatasetCard) -> Guess:
    """Add patients, the masks found by name and notes on lists of files to a guessed layout."""
    if "{split}" in guess.card.images:
        check_split_folders(contents.whole)
    by_folder = any(table.by_folder for table in contents.tables if table.name == guess.card.table)
    guess = name_patients(guess, card, contents.tags, by_folder=by_folder)
    masks = guess.card.masks or contents.masks.masks
    guessed = guess.card.model_copy(update={"masks": masks, "exclude": contents.masks.exclude})
    notes = guess.notes
    if guessed.split is None and card.split is None and "split" not in placeholders(guessed.images):
        notes = (*notes, *filter(None, [describe_lists(contents.whole)]))
    patients = {table.name: patient_columns(table.rows) for table in contents.tables} | contents.unmatched
    doubts = () if card.patient else (*doubt_unused(guessed, patients), *doubt_keys(guessed, contents.tables))
    return Guess(guessed, contents.whole, notes, doubts)


def guess_by_description(description: Description, listing: Listing, card: DatasetCard) -> Guess:
    """Take the card from a JSON file that lists images and masks. Raises DataError if it does not."""
    if not description.lists_files and not is_datalist(description.document):
        raise DataError(
            f"{description.path}: neither a datalist of MONAI nor a dataset.json of nnU-Net",
            fix="name the folder of the data as the dataset",
        )
    check_any_image(listing)
    guessed, notes = guess_described(description, listing, card)
    return Guess(guessed, listing, tuple(notes))


def guess_volumes(
    whole: Listing, listing: Listing, notes: list[str], card: DatasetCard, described: Mapping[str, object]
) -> Guess:
    """Guess the card of volumes with a mask each; folders in which no volume has one are left out."""
    layout = lay_out_volumes(whole, listing.images, card, described)
    kept = replace(listing, images=layout.images)
    guess = guess_from_folders(kept, split_pattern(kept.images), [], [*notes, *layout.notes])
    guess = name_patients(replace(guess, listing=kept), card, {})
    return Guess(guess.card.model_copy(update=dict(layout.fields)), whole, guess.notes)


def split_pattern(images: Sequence[str]) -> str:
    """The pattern of images that have no class folders: their first folder is the split, or nothing."""
    return "{split}/**/*" if all("/" in image and split_of(image.split("/")[0]) for image in images) else "**/*"


def describe_lists(listing: Listing) -> str:
    """Return a note on files such as train.txt and test.txt, which may list the images of a split; "" without them."""
    files = {split_of(Path(name).stem): name for name in listing.others if re.fullmatch(r"[^/]+\.(txt|lst)", name)}
    files.pop("", None)
    if not {"train", "test"} <= files.keys():
        return ""
    lists = ", ".join(f'{split} = "{file}"' for split, file in sorted(files.items()))
    return f"{' and '.join(sorted(files.values()))} are not used: if they list the split, set split = {{{lists}}}"


def doubt_unused(card: DatasetCard, patients: Mapping[str, list[str]]) -> tuple[AmbiguityNote, ...]:
    """Return a note per unused table that may give the patient, if nothing else does."""
    return tuple(
        AmbiguityNote(
            check="patient-unknown",
            message=f"{name} is not used, and its column {columns[0]!r} may be the patient: images of one patient may "
            "be in two splits",
            fix=set_in_toml("table, join and patient"),
        )
        for name, columns in patients.items()
        if columns and name != card.table and card.patient is None and "patient" not in placeholders(card.images)
    )


def doubt_keys(card: DatasetCard, tables: Sequence[LabelTable]) -> tuple[AmbiguityNote, ...]:
    """Return a note per column of the used table that may give the patient, if nothing else does."""
    if card.patient or "patient" in placeholders(card.images):
        return ()
    rows = next((table.rows for table in tables if table.name == card.table), None)
    columns = [] if rows is None else [c for c in card.metadata if c in rows and may_be_patient(rows[c], c)]
    return tuple(
        AmbiguityNote(
            check="patient-unknown",
            message=f"column {column!r} of {card.table} may be the patient: its values repeat, and images of one "
            "patient may be in two splits",
            fix=set_in_toml(f'patient = {{column = "{column}"}}'),
        )
        for column in columns
    )


def guess_named_table(path: Path, card: DatasetCard) -> Guess:
    listing = list_folder(path.parent)
    if not listing.images:
        raise DataError(
            f"{path}: no images in the folder of the table or below it",
            fix="name a folder that contains the table and the images, and "
            + set_in_toml('table = "FOLDER/TABLE.csv", join and label'),
        )
    tags = index_tags(listing)
    table = study_table(path.name, read_tables(listing, path.name), index_images(listing.root, listing.images), tags)
    if table is None:
        raise DataError(f"{path}: no column names the images below {path.parent.name}", fix=set_in_toml("join"))
    guess = name_patients(guess_from_table(listing, table, [], path), card, tags, by_folder=table.by_folder)
    return replace(guess, doubts=() if card.patient else doubt_keys(guess.card, [table]))


def selected_images(listing: Listing, masks: DatasetCard, card: DatasetCard) -> tuple[str, ...]:
    """Return the images that neither the guess nor the card leaves out; only these show the layout of the dataset."""
    completed = card.completed_by(masks).model_copy(update={"images": "**/*"})
    return tuple(select_files(completed, listing).files)


def name_patients(guess: Guess, card: DatasetCard, tags: Tags, *, by_folder: bool = False) -> Guess:
    """Add the patient from names of files or folders, if nothing else gives it.

    `by_folder`: a row of the table applies to a folder, whose images stay together anyway.
    """
    if guess.card.patient or card.patient or "{patient}" in guess.card.images:
        return guess
    notes = list(guess.notes)
    patient = guess_patient(guess.listing.images, notes)
    if patient is None and card.frames is None and not tags and not by_folder:
        images = guess.listing.images
        in_classes = "{label}" in guess.card.images
        patient = (
            guess_patient_folder(images, guess.card.images, notes) if in_classes else guess_people_folder(images, notes)
        )
    return Guess(guess.card.model_copy(update={"patient": patient}), guess.listing, tuple(notes))


def guess_people_folder(images: tuple[str, ...], notes: list[str]) -> Patient | None:
    """Guess the patient from folders named like patients, for images labeled by a table."""
    folders = [image.split("/")[:-1] for image in images]
    for level in range(min(map(len, folders))):
        names = {folder[level] for folder in folders}
        if are_people(names) and len(names) < len(images):
            notes.append(f"the patient is the folder, such as {min(names)!r}: {len(names)} patients (guessed)")
            return Patient(regex=f"^(?:[^/]+/){{{level}}}([^/]+)/", means="patient")
    return None


def missing_labels(path: Path, listing: Listing, errors: list[DataError], unmatched: Collection[str]) -> DataError:
    """Return the error for images that neither folders nor a table label; `errors` are those of tables."""
    if errors:
        return DataError(errors[0].message, fix=errors[0].fix or "correct that table, or remove it")
    if unmatched:
        return DataError(
            f"{path}: no column of {' or '.join(unmatched)} names any of the {len(listing.images)} images",
            fix="add a column with their names, or write how a column and the names match in dataset.toml: "
            'images = "{COLUMN}_*.png"',
        )
    below = next((name for name in listing.others if "/" in name and is_unread_table(name)), "")
    keys = f'table = "{below}"; join = {{column = "FILE"}}; label = {{column = "LABEL"}}'
    return DataError(
        f"{path}: nothing labels the {len(listing.images)} images{describe_unread_files(listing)}",
        fix=f"put the table beside the folder of the images, or {set_in_toml(keys)}"
        if below
        else "put them into one folder per class, or add a CSV with their names and labels",
    )


def choose_table(path: Path, tables: list[LabelTable], notes: list[str]) -> LabelTable:
    """Return the only table that can contain the labels; raise DataError if there are two."""
    labeled = [table for table in tables if table.has_label] or tables
    if len(labeled) > 1:
        names = " and ".join(table.name for table in labeled)
        raise DataError(
            f"{path}: several tables could contain the labels: {names}",
            fix=f"name one as the dataset, or {set_in_toml('table')}",
        )
    for table in tables:
        if table is not labeled[0]:
            patients = patient_columns(table.rows)
            hint = f"; its column {patients[0]!r} may be the patient" if patients else ""
            notes.append(f"{table.name} not used: it has no label column{hint}")
    return labeled[0]


def is_unread_table(name: str) -> bool:
    """Whether a file may contain the labels: a table in another format or in a subfolder, or a text at the top."""
    if "/" in name:
        return kind_by_name(name) in TABLE_SUFFIXES
    is_list = kind_by_name(name) == ".txt" and without_suffix(name).lower() not in COMPANION_NAMES
    return name.lower().endswith(UNREAD_TABLES) or is_list


def describe_unread_files(listing: Listing) -> str:
    """Name files that may be what is missing: `; there are also labels.json, set.tar, which are not read here`."""
    tables = [name for name in listing.tables if not listing.images]
    files = [name for name in listing.others if is_archive_name(name) or is_unread_table(name)]
    archives = any(map(is_archive_name, files))
    advice = " (name an archive itself as the dataset)" if archives else ""
    unread = [describe_unread(listing.unread)] if listing.unread else []
    names = ", ".join([*tables, *files][:SHOWN_FILES])
    hints = [f"there are also {names}, which are not read here{advice}"] if names else []
    return "".join(f"; {each}" for each in (*hints, *unread))


def check_any_image(listing: Listing) -> None:
    if not listing.images:
        raise DataError(
            f"{listing.root}: no image files (png, jpg, tif, bmp, ...) in this folder or below it"
            f"{describe_unread_files(listing)}",
            fix="name the folder that contains them, or an archive, CSV or npz"
            + (f"; else {how_to_read(listing.unread[0])}" if listing.unread else ""),
        )


def set_in_toml(what: str) -> str:
    return f"set `{what}` in a dataset.toml beside the data"


def descend(listing: Listing) -> Listing:
    """Return the folder, or the only folder in it that contains images: archives often unpack to one more level."""
    while not listing.tables:
        tops = folders_of(listing.images)
        if len(tops) != 1 or any("/" not in image for image in listing.images):
            return listing
        (top,) = tops
        if split_of(top) or not any(image.count("/") > 1 for image in listing.images):
            return listing
        inner = list_folder(listing.root / top)
        if not inner.tables and folders_of(listing.unread_images) - tops:  # unread folders beside it may be classes
            return listing
        listing = inner
    return listing


def folders_of(files: Iterable[str]) -> set[str]:
    """Return the top-level folders of the files."""
    return {file.split("/", 1)[0] for file in files if "/" in file}


# --- class folders ---------------------------------------------------------------------------------------------------
def guess_class_folders(listing: Listing, tags: Tags, tables: list[LabelTable], *, clips: bool) -> str:
    """Return the pattern of class folders; "" if there are none, or if a table labels the images in them."""
    unread = [file for file in listing.unread_images if "/" in file]  # a class of only these is an error later
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
    """Whether folders are patients, exams or parts of a download, and a table labels the images in them."""
    labeled = [table for table in tables if table.has_label]
    if labeled and all(is_container(f) or any(f in values for values in tags.values()) for f in folders):
        return True
    shapes = {re.sub(r"\d+", "0", folder) for folder in folders}
    are_numbered = len(shapes) == 1 and "0" in min(shapes)  # P001, P002, ...: grades may have such names too
    patient_of = {image: patient for patient, images in tags.get("PatientID", {}).items() for image in images}
    have_one_patient = bool(patient_of) and all(
        len({patient_of.get(image, "") for image in images}) == 1 for images in folders.values()
    )
    if labeled:
        in_table = any(table.by_folder for table in labeled)
        return (in_table or are_numbered or have_one_patient) and len(folders) > max(t.num_labels for t in labeled)
    by_row = any((table.by_folder and are_numbered) or (table.tag and have_one_patient) for table in tables)
    return by_row and len(folders) > 2


def check_split_folders(listing: Listing) -> None:
    """Refuse a split folder without images (an incomplete download, say); without it another split would be drawn."""
    filled = {image.split("/", 1)[0] for image in listing.images}
    for folder in sorted(path for path in listing.root.iterdir() if path.is_dir()):
        if split_of(folder.name) and folder.name not in filled:
            raise DataError(f"{folder}: this split folder contains no image", fix="add its images, or remove it")


def guess_from_folders(listing: Listing, pattern: str, tables: list[LabelTable], notes: list[str]) -> Guess:
    """Read label (and split) from class folders; a table beside them adds the patient and other columns."""
    card = DatasetCard(images=pattern)
    if pattern not in USUAL_PATTERNS:
        notes.append(f'folders are read as {pattern.removesuffix("/**/*")} (guessed; in dataset.toml: images = "...")')
    if archives := [name for name in listing.others if is_archive_name(name)]:
        names = ", ".join(archives[:SHOWN_FILES])
        notes.append(f"archives are not read: {names}; unpack them if they contain images of a class")
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
    """Return the table that names the largest share of the images, then the one with the fewest other rows."""
    best = max(tables, key=lambda table: (table.images_named, table.rows_found))
    equals = [t.name for t in tables if (t.images_named, t.rows_found) == (best.images_named, best.rows_found)]
    if len(equals) > 1:
        raise DataError(
            f"{listing.root}: several tables describe the images equally well: {' and '.join(equals)}",
            fix=set_in_toml("table"),
        )
    notes += [
        f"{table.name} not used: {table.rows_found:.0%} of its rows name images, {best.name}'s {best.rows_found:.0%}"
        for table in tables
        if table is not best
    ]
    return best


# --- tables ----------------------------------------------------------------------------------------------------------
def guess_from_table(listing: Listing, table: LabelTable, notes: list[str], path: Path) -> Guess:
    """Read the label from a column of the table, or from 0/1 columns."""
    if len(table.label_columns) > 1:
        raise DataError(
            f"{path}: several columns of {table.name} could be the label: "
            f"{' and '.join(map(repr, table.label_columns))}",
            fix=set_in_toml('label = {column = "NAME"}'),
        )
    if not table.has_label:
        raise DataError(
            f"{path}: {table.name} has no column named label, class, target, diagnosis or similar; its columns are "
            f"{', '.join(table.rows.columns)}",
            fix=set_in_toml('label = {column = "NAME"}'),
        )
    if table.label_columns:
        label = guess_label(table.rows, table.label_columns[0], notes)
        if len(table.label_cells) > 1:
            unused = ", ".join(table.label_cells)
            notes.append(f"labels are column {label.column!r}, not the 0/1 columns {unused} of {table.name}")
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
    """Add the table's patient, split and metadata columns to the card."""
    patients = [c for c in patient_columns(table.rows) if c not in taken or c == table.image_column]
    patient = Patient(column=patients[0], means=meaning(patients[0])) if patients else None
    if len(patients) > 1:
        notes.append(f"patient is column {patients[0]!r} of {table.name}, not {', '.join(map(repr, patients[1:]))}")
    free = table.rows.drop(columns=[column for column in table.rows.columns if column in taken])
    split = guess_split(free, table.name, notes) if with_split else None
    if split and normalize_name(split.column) not in SPLIT_COLUMNS:
        notes.append(f"split is column {split.column!r} of {table.name} (guessed)")
    taken = taken | ({patients[0]} if patients else set()) | ({split.column} if split else set())
    taken |= set(RESERVED)
    metadata = tuple(column for column in table.rows.columns if column not in taken)
    if table.by_folder:
        notes.append(
            f"column {table.image_column!r} of {table.name} names folders: a row applies to all images in one (guessed)"
        )
    if table.tag:
        notes.append(f"column {table.image_column!r} of {table.name} holds the DICOM tag {table.tag} (guessed)")
    join = Join(column=table.image_column, tag=table.tag)
    update = {"table": table.name, "join": join, "patient": patient, "split": split}
    return card.model_copy(update={**update, "metadata": metadata})


def complete_by_table(card: DatasetCard, listing: Listing) -> tuple[DatasetCard, tuple[str, ...]]:
    """Add split and patient from columns with usual names to a card that sets neither."""
    names = placeholders(card.images)
    needs_split = card.split is None and "split" not in names
    needs_patient = card.patient is None and "patient" not in names
    if not needs_split and not needs_patient:
        return card, ()
    rows, mistakes, _ = load_table(card, listing)
    if rows is None or mistakes:  # reported when the card is applied
        return card, ()
    notes: list[str] = []
    update: dict[str, object] = {}
    free = rows.drop(columns=[c for c in {card.label.column, *card.label.columns, *card.hide} if c in rows.columns])
    if needs_split and (split := guess_split(free, card.table, notes)):
        update["split"] = split
        notes.append(f"split is column {split.column!r} of {card.table} (guessed; else set split = {{folds = 5}})")
    if needs_patient and (columns := patient_columns(free)):
        update["patient"] = Patient(column=columns[0], means=meaning(columns[0]))
        notes.append(f'patient is column {columns[0]!r} of {card.table} (guessed; else set patient = {{none = "WHY"}})')
    return card.model_copy(update=update), tuple(notes)
