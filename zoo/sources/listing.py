"""A folder to the image files and tables in it: sorted, regular, inside it, and nothing an operating system left."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import DataError
from zoo.images import is_ignored, is_image_name, is_unnamed_image, is_volume_name, without_suffix

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
# What Hugging Face's image folders keep beside the images of each split
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl"})
NOT_TABLES = re.compile(r"sample_?submission.*", re.IGNORECASE)  # Kaggle's: an answer sheet, its labels invented
MASK_STEM = re.compile(r".+[-_](d?seg|segmentation|mask|labels?)([-_]?\d+)?", re.IGNORECASE)
MASK_FOLDER = re.compile(r"(labels?|masks?|segs?|segmentations?)(Tr|Ts|Val)?", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """What lies below `root`: posix paths relative to it, images anywhere, tables at its top.

    `nested` are the tables in folders one below that are called as Hugging Face's image folders call them.
    """

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    masks: tuple[str, ...] = ()  # volumes that mark something in another one: no images
    nested: tuple[str, ...] = ()


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts "grade2" before "grade10"."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts)


def one_form(text: str) -> str:
    """A name in Unicode's composed form: `é` of one character and of two, as a Mac writes it, are one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def list_folder(root: Path) -> Listing:
    """Every image below `root`, every table at its top; a link out of it or an odd file is an error that names it."""
    root = root.resolve()
    images: list[str] = []
    tables: list[str] = []
    seen: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(root / folder)
        if real in seen:  # a link back to a folder above or beside it
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"{root / folder}: cannot be listed: {error.strerror}", fix="make the folder readable, or remove it"
            ) from error
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if is_ignored(entry.name) or not matters(entry, relative.count("/")):
                continue
            check_entry(root, relative, entry)
            if entry.is_dir():
                pending.append(relative)
            elif Path(entry.name).suffix.lower() in TABLE_SUFFIXES:
                tables.append(relative)
            else:
                images.append(relative)
    masks = find_volume_masks(images)
    images = sorted((image for image in images if image not in masks), key=natural_key)
    return Listing(
        root,
        images=tuple(images),
        tables=tuple(sorted(table for table in tables if "/" not in table)),
        masks=tuple(sorted(masks, key=natural_key)),
        nested=tuple(sorted(table for table in tables if "/" in table)),
    )


def find_volume_masks(images: list[str]) -> frozenset[str]:
    """Volumes named as the mask of one beside them: `labelsTr/a.nii.gz` of `imagesTr/a.nii.gz`, `a_seg.nii`."""
    volumes = [image for image in images if is_volume_name(image)]
    parts = [posixpath.split(without_suffix(volume)) for volume in volumes]
    plain = {folder for folder, stem in parts if not MASK_STEM.fullmatch(stem)}
    folders: dict[str, set[str]] = defaultdict(set)
    for folder, stem in parts:
        for name in (stem, stem.removesuffix("_0000")):  # nnU-Net numbers the channels of a volume
            folders[name].add(folder)
    return frozenset(
        volume
        for volume, (folder, stem) in zip(volumes, parts, strict=True)
        if (MASK_STEM.fullmatch(stem) and folder in plain)
        or (MASK_FOLDER.fullmatch(posixpath.basename(folder)) and folders[stem] != {folder})
    )


def matters(entry: os.DirEntry[str], depth: int) -> bool:
    if is_image_name(entry.name) or is_folder(entry):
        return True
    name = Path(entry.name)
    if name.suffix.lower() not in TABLE_SUFFIXES:
        return entry.is_file() and is_unnamed_image(Path(entry.path))
    if depth == 1:
        return entry.name in METADATA_NAMES
    return depth == 0 and not NOT_TABLES.fullmatch(name.stem)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def check_entry(root: Path, relative: str, entry: os.DirEntry[str]) -> None:
    """Refuse a name that cannot be shown, a link out of the root, and what is neither a folder nor a regular file."""
    path = root / relative
    if not entry.name.isascii() or not entry.name.isprintable():
        check_name(path, entry.name)
    if entry.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            raise DataError(
                f"{path}: a link out of {root.name}, to {target}",
                fix="copy the file there, or point zoo to the folder where it lies",
            )
        if not target.exists():
            raise DataError(f"{path}: a link to {target}, which does not exist", fix="remove it")
    if not entry.is_dir() and not entry.is_file():
        raise DataError(f"{path}: neither a folder nor a regular file", fix="remove it")


def check_name(path: Path, name: str) -> None:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise DataError(f"{path}: a control character or undecodable byte in a file name", fix="rename it")
