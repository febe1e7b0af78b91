"""List the image files and tables of a folder: sorted, regular files inside it, without those of the system."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo.errors import DataError
from zoo.images.formats import (
    is_ignored,
    is_image_name,
    is_unnamed_image,
    is_unread_image,
    is_volume_name,
    kind_by_name,
    without_suffix,
)
from zoo.images.text_headers import DETACHED_SUFFIXES, stored_files

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"})
LIST_SUFFIXES = TABLE_SUFFIXES | {".json"}  # of files that list images
# The tables beside the images of each split in Hugging Face's image folders
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl"})
NOT_TABLES = re.compile(r"sample_?submission.*", re.IGNORECASE)  # Kaggle's submission template with made-up labels
# Suffixes of files that often lie beside images: texts, code, weights, archives, tables
COMPANIONS = frozenset(
    ".txt .md .rst .pdf .html .htm .json .xml .yaml .yml .toml .ini .cfg .doc .docx .ppt .pptx .odt .rtf .tex "  # noqa: SIM905
    ".bib .log .url .lnk .py .ipynb .r .m .sh .bat .js .css .sql .db .sqlite .md5 .sha1 .sha256 .sum .asc .sig "
    ".zip .tar .gz .tgz .tar.gz .bz2 .xz .7z .rar .pth .pt .ckpt .onnx .safetensors .pkl .pickle .joblib "
    ".csv .tsv .jsonl .csv.gz .tsv.gz .xls .xlsx .ods .parquet .feather .arrow .bval .bvec .cff .lock .tmp "
    ".part .bak .inf .exe .dll .jar .ico .cab .msi".split()
)
ARRAY_SUFFIXES = frozenset({".npz", ".mat"})  # an image each where a folder has several
MIN_ARRAYS = 5
COMPANION_NAMES = frozenset("license licence readme changelog notice citation authors copying version makefile".split())  # noqa: SIM905
MASK_WORDS = frozenset(
    "mask masks msk seg segs dseg segmentation segmentations segmented label labels gt truth groundtruth annotation "  # noqa: SIM905
    "annotations annot contour contours delineation manual roi rois "
    "maske masken masque masques mascara mascaras maschera maschere segmentierung segmentierungen".split()
)
# Words in image names that a mask replaces by its own: `volume-0` and `segmentation-0`
IMAGE_WORDS = frozenset(
    "volume vol image images img imaging scan ct mr mri orig original raw tr ts ground bild bilder imagen".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Listing:
    """The files below `root` as posix paths relative to it: images at any depth, tables at its top.

    `nested` are tables one folder below, named as in Hugging Face's image folders.
    """

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    masks: tuple[str, ...] = ()  # volumes that are masks of others
    nested: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # files read neither as images nor as tables

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """The unread files that may belong to the dataset: no texts, code, weights or archives."""
        return tuple(
            other
            for other in self.others
            if kind_by_name(other) not in COMPANIONS and posixpath.basename(other).lower() not in COMPANION_NAMES
        )

    @cached_property
    def unread_images(self) -> tuple[str, ...]:
        """The unread files in an image format that zoo recognizes, or folders of arrays: these may be a class."""
        arrays = [file for file in self.unread if kind_by_name(file) in ARRAY_SUFFIXES]
        folders = Counter(folder for file in arrays if not has_mask_word(folder := posixpath.dirname(file)))
        may_be_class = {file for file in arrays if folders[posixpath.dirname(file)] >= MIN_ARRAYS}
        return tuple(file for file in self.unread if file in may_be_class or is_unread_image(self.root / file))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Key to sort "grade2" before "grade10"."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts)


def one_form(text: str) -> str:
    """Normalize to Unicode's composed form: `é` may be one character or, as on a Mac, two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def raise_error(_: str, error: DataError) -> None:
    raise error


def list_folder(root: Path, refuse: Callable[[str, DataError], None] = raise_error) -> Listing:
    """List every image below `root` and every table at its top.

    `refuse` is called with the relative path of each link out of it, irregular file or unreadable folder.
    """
    root = root.resolve()
    images: list[str] = []
    tables: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(root / folder)
        if real in seen:  # a link to a folder already listed
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            problem = f"{root / folder}: cannot be listed: {error.strerror}"
            refuse(folder, DataError(problem, fix="make the folder readable, or remove it"))
            continue
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if is_ignored(entry.name):
                continue
            if not matters(entry, relative.count("/")):
                others += [relative] if entry.is_file() else []
                continue
            try:
                check_entry(root, relative, entry)
            except DataError as error:
                refuse(relative, error)
                continue
            if entry.is_dir():
                pending.append(relative)
            elif Path(entry.name).suffix.lower() in TABLE_SUFFIXES:
                tables.append(relative)
            else:
                images.append(relative)
    arrays, broken = find_arrays(root, images, refuse)
    images = [image for image in images if image not in arrays | broken]
    masks = find_volume_masks(images)
    images = sorted((image for image in images if image not in masks), key=natural_key)
    return Listing(
        root,
        images=tuple(images),
        tables=tuple(sorted(table for table in tables if "/" not in table)),
        masks=tuple(sorted(masks, key=natural_key)),
        nested=tuple(sorted(table for table in tables if "/" in table)),
        others=tuple(sorted((other for other in others if other not in arrays), key=natural_key)),
    )


def find_arrays(
    root: Path, images: Sequence[str], refuse: Callable[[str, DataError], None]
) -> tuple[set[str], set[str]]:
    """The files of the arrays of detached headers, and the headers whose array is refused."""
    arrays: set[str] = set()
    broken: set[str] = set()
    for image in (image for image in images if image.lower().endswith(DETACHED_SUFFIXES)):
        for array in stored_files(root / image)[1:]:
            relative = array.relative_to(root).as_posix()
            arrays.add(relative)
            try:
                check_entry(root, relative, array)
            except DataError as error:
                broken.add(image)
                refuse(image, error)
    return arrays, broken


def words_of(name: str) -> list[str]:
    """Return the words and numbers in a name, in lower case: `TrainData_01` has three."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def has_mask_word(name: str) -> bool:
    """Whether a file or folder is named like masks: `a_seg`, `lung masks`, `Ground Truth`, `labelsTr`."""
    return bool(MASK_WORDS & set(words_of(name)))


def mask_key(stem: str) -> tuple[str, ...]:
    """Return the words that an image and its mask share: those that mean neither image nor mask."""
    return tuple(word for word in words_of(stem) if word not in MASK_WORDS and word not in IMAGE_WORDS)


def find_volume_masks(images: list[str]) -> frozenset[str]:
    """Find volumes named as masks of others: `labelsTr/a.nii.gz` of `imagesTr/a.nii.gz`, `a_gt.nii` of `a.nii`."""
    volumes = [image for image in images if is_volume_name(image)]
    parts = [posixpath.split(without_suffix(volume).removesuffix("_0000")) for volume in volumes]  # nnU-Net's channel
    named = [(has_mask_word(posixpath.basename(folder)), has_mask_word(stem)) for folder, stem in parts]
    plain = [part for part, has_word in zip(parts, named, strict=True) if not any(has_word)]
    folders = {folder for folder, _ in plain}
    keys = {mask_key(stem) for _, stem in plain}
    described = list(zip(volumes, parts, named, strict=True))
    masks = {
        volume
        for volume, (folder, stem), (by_folder, by_stem) in described
        if (by_stem and folder in folders) or ((by_folder or by_stem) and mask_key(stem) in keys)
    }
    # The others in a folder of masks are masks whose image is missing
    mask_folders = {
        posixpath.dirname(volume) for volume, _, (by_folder, _) in described if by_folder and volume in masks
    }
    return frozenset(masks | {volume for volume in volumes if posixpath.dirname(volume) in mask_folders})


def matters(entry: os.DirEntry[str], depth: int) -> bool:
    if is_image_name(entry.name) or is_folder(entry):
        return True
    name = Path(entry.name)
    if name.suffix.lower() not in TABLE_SUFFIXES:
        # perf: opening a file takes 20 us, and there may be a text beside each image
        return kind_by_name(entry.name) not in COMPANIONS and entry.is_file() and is_unnamed_image(Path(entry.path))
    if depth == 1:
        return entry.name in METADATA_NAMES
    return depth == 0 and not NOT_TABLES.fullmatch(name.stem)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def check_entry(root: Path, relative: str, entry: os.DirEntry[str] | Path) -> None:
    """Refuse a name that cannot be displayed, a link out of the root, and irregular files."""
    path = root / relative
    if not entry.name.isascii() or not entry.name.isprintable():
        check_file_name(path, entry.name)
    if entry.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            raise DataError(
                f"{path}: a link to {target}, outside {root.name}",
                fix="copy the file into the folder, or name the folder that contains it",
            )
        if not target.exists():
            raise DataError(f"{path}: a link to {target}, which does not exist", fix="remove it")
    if not entry.is_dir() and not entry.is_file():
        raise DataError(f"{path}: neither a folder nor a regular file", fix="remove it")


def check_file_name(path: Path, name: str) -> None:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise DataError(f"{path}: its name contains a control character or an undecodable byte", fix="rename it")
