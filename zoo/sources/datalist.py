"""Read a datalist of MONAI: `{"training": [{"image": "a.nii.gz", "label": "b.nii.gz", "fold": 0}, ...]}`.

It is a table with one row per image: the columns `image`, `label` and, if the file has them, `fold` and `section`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, nearest
from zoo.images.formats import is_volume_name
from zoo.sources.cards import DatasetCard, Join, Masks, SplitRule
from zoo.sources.channels import channel_files, endings_of
from zoo.sources.msd import read_label_fields
from zoo.sources.tables import decode_text
from zoo.tasks.kinds import mask_task

if TYPE_CHECKING:
    import pandas

ENTRY = "entry"  # name of the index: "training 3"
FIX_ENTRY = 'write {"image": "a.nii.gz", "label": "b.nii.gz"}'
SPLIT_OF_SECTION = {"training": "train", "validation": "val", "testing": "test", "test": "test"}
ENTRY_KEYS = ("image", "label", "fold")
OTHER_KEYS = frozenset(
    "name description reference licence license release modality labels numTraining numTest tensorImageSize".split()  # noqa: SIM905
)


def is_datalist(document: Mapping[str, Any]) -> bool:
    """Whether a JSON document is a datalist: entries with an image."""
    entries = document.get("training")
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "image" in entries[0]


def read_datalist(path: Path) -> pandas.DataFrame:
    """Read the entries that have a label as a table of text. Unknown keys are errors."""
    import pandas

    rows = labeled_entries(path, read_json_object(path))
    table = pandas.DataFrame(list(rows.values()), index=pandas.Index(list(rows), name=ENTRY))
    table["image"] = [names[0] for names in table["image"]]
    return table.drop(columns=[column for column in ("fold", "section") if table[column].nunique() == 1]).astype(str)


def guess_datalist(path: Path, document: Mapping[str, Any]) -> tuple[DatasetCard, list[str]]:
    """Return the card of a datalist, and notes on what is not used."""
    rows = labeled_entries(path, document)
    sections, folds = ({row[key] for row in rows.values()} for key in ("section", "fold"))
    fields: dict[str, Any] = {
        "task": str(mask_task()),
        "dims": 3 if all(is_volume_name(row["image"][0]) for row in rows.values()) else 2,
        "table": path.name,
        "join": Join(column="image"),
        "masks": Masks(column="label", merge="none"),
        "channels": find_endings(path, rows),
        "split": SplitRule(column="section") if len(sections) > 1 else None,
        **(read_label_fields(path, document) if "labels" in document else {}),
    }
    notes = [f"read as a datalist of MONAI: {len(rows)} images with a mask"]
    if without := len(list_image_entries(path, document)) - len(rows):
        notes.append(f"{without} entries of {path.name} are left out: they have no label")
    if len(folds) > 1:
        notes.append(f"fold of {path.name} ({len(folds)} folds) is not used: zoo draws its own folds, by patient")
    return DatasetCard().model_copy(update=fields), notes


def labeled_entries(path: Path, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries with a label by their place."""
    rows = {place: row for place, row in list_image_entries(path, document) if row["label"]}
    if not rows:
        raise DataError(f"{path}: no entry has a label", fix=FIX_ENTRY, code="card")
    return rows


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    text = decode_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: invalid JSON: {error}", fix="correct it", code="card") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a JSON object", fix='write {"training": [...]}', code="card")
    return document


def list_image_entries(path: Path, document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the place and the cells of each entry; `image` is a list of names."""
    known = (*SPLIT_OF_SECTION, *OTHER_KEYS)
    if unknown := [key for key in document if key not in known]:
        raise unknown_key(path, unknown[0], known)
    rows = []
    for section in SPLIT_OF_SECTION:
        entries = document.get(section, [])
        if not isinstance(entries, list):
            raise DataError(f"{path}: {section} is not a list", fix=f'write "{section}": [...]', code="card")
        for number, entry in enumerate(entries):
            place = f"{section} {number}"
            entry = {"image": entry} if isinstance(entry, str) else entry  # MSD lists its test images so
            if not isinstance(entry, dict):
                raise DataError(f"{path}: {place} is {entry!r}", fix=FIX_ENTRY, code="card")
            if unknown := [key for key in entry if key not in ENTRY_KEYS]:
                raise unknown_key(f"{path}: {place}", unknown[0], ENTRY_KEYS)
            images = entry.get("image")
            images = [images] if isinstance(images, str) else images
            label = entry.get("label", "")
            if not isinstance(images, list) or not images or not all(isinstance(name, str) for name in images):
                raise DataError(f"{path}: {place} has no image", fix=FIX_ENTRY, code="card")
            if not isinstance(label, str):
                raise DataError(
                    f"{path}: {place}: its label is {json.dumps(label)}, expected the name of a mask",
                    fix=FIX_ENTRY,
                    code="card",
                )
            fold = str(entry.get("fold", ""))
            rows.append((place, {"image": images, "label": label, "fold": fold, "section": SPLIT_OF_SECTION[section]}))
    return rows


def unknown_key(place: Path | str, key: str, known: tuple[str, ...]) -> DataError:
    return DataError(
        f"{place}: unknown key {key!r}. {nearest(key, known)}".rstrip(". ") + ".",
        fix=f"use {', '.join(ENTRY_KEYS)} in an entry",
        code="card",
    )


def find_endings(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the endings of the files of every image; () if it is one file. They must be equal for all images."""
    endings: tuple[str, ...] | None = None
    for place, row in rows.items():
        names = row["image"]
        own = endings_of(names)
        if own != (own if endings is None else endings) or (own and list(channel_files(names[0], own)) != names):
            raise DataError(
                f"{path}: {place}: the files of its channels are {', '.join(names)}; expected names that differ in "
                "the same endings for all images",
                fix="name the files of an image alike: a_t1.nii.gz, a_t2.nii.gz",
                code="channels",
            )
        endings = own
    return endings or ()
