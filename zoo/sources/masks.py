"""Find masks and box annotations among the files of a folder."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.formats import is_volume_name, read_header, read_values, without_suffix
from zoo.sources.cards import DatasetCard, Masks
from zoo.sources.listing import Listing, has_mask_word, mask_key
from zoo.tasks.kinds import mask_task

MASK = re.compile(r"(?P<image>.+?)_mask(_?\d+)?")
MASK_FOLDER = re.compile(
    r"masks?|gt|ground_?truths?|segmentations?|annotations?|labels?|masken?|masques?|m[aá]scaras?|maschere|segmentierung(en)?",
    re.IGNORECASE,
)
SEPARATOR = re.compile(r"[-_ .(]+")
MAX_KINDS = 6  # of files per image: the image, and a mask of each rater or region
NUM_DECODED = 8  # files decoded per folder or ending, evenly spread
MAX_MASK_VALUES = 16  # in a mask; JPEG blurs edges, so alternatively a few values that cover nearly all of it
MOST_FREQUENT, MOSTLY = 4, 0.95
MAX_MASK_PIXELS = 100_000  # counted per image, evenly spread
MIN_PAIRS = 3
MAX_READ = 100_000  # bytes per annotation file
BOX_COLUMNS = ({"xmin", "ymin"}, {"x", "y", "width", "height"}, {"x_min", "y_min"}, {"x1", "y1", "x2", "y2"}, {"bbox"})

OUTLINE_COLUMN = re.compile("encodedpixels|rle|rlemask|maskrle|segmentation")


@dataclass(frozen=True)
class MaskPairs:
    """Files that may be masks, with their images."""

    masks: tuple[str, ...]
    images: tuple[str, ...]  # one per mask; empty where names do not pair them
    pattern: str  # for the card's `exclude`
    named: bool  # whether the names contain a word for masks


def find_masks(listing: Listing, notes: list[str]) -> DatasetCard:
    """Return a card that leaves out masks: files named as masks of others, or with few values unlike the others."""
    stems = {without_suffix(image) for image in listing.images}
    beside = any("_mask" in s and (match := MASK.fullmatch(s)) and match["image"] in stems for s in stems)
    folders = named_folders(listing)
    rest = [image for image in listing.images if not set(posixpath.dirname(image).split("/")) & set(folders)]
    if beside:
        rest = [image for image in rest if not MASK.fullmatch(posixpath.basename(without_suffix(image)))]
    exclude = [f"**/{folder}/**" for folder in folders]
    for pairs in (*pair_folders(rest), *pair_endings(rest), *pair_names(rest)):
        kept = set(rest) - set(pairs.masks)
        if kept and set(pairs.masks) & set(rest) and are_masks(listing.root, pairs, sorted(kept)):
            exclude.append(pairs.pattern)
            notes.append(f"{len(pairs.masks)} files {pairs.pattern} are masks: they have only a few values (guessed)")
            rest = [image for image in rest if image in kept]
    return DatasetCard(masks=Masks(path="**/{stem}_mask*") if beside else None, exclude=tuple(exclude))


def named_folders(listing: Listing) -> list[str]:
    """Return the folders named `masks` or similar in which every file has the name of an image outside them."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    names = set()
    for image in listing.images:
        *folders, _ = image.split("/")
        stem = posixpath.basename(without_suffix(image))
        folder = next((folder for folder in folders if MASK_FOLDER.fullmatch(folder)), "")
        if folder:
            match = MASK.fullmatch(stem)
            by_folder[folder].append(match["image"] if match else stem)
        else:
            names.add(stem)
    return [folder for folder, stems in by_folder.items() if names.issuperset(stems)]


def pair_folders(images: Sequence[str]) -> list[MaskPairs]:
    """Return the folders that may contain masks of the images beside them, those named like masks first."""
    inside: dict[str, list[str]] = defaultdict(list)
    # (folder, mask key) -> each entry of the folder, and a file below it with this key
    below: dict[tuple[str, tuple[str, ...]], dict[str, str]] = defaultdict(dict)
    keys = {image: mask_key(posixpath.basename(without_suffix(image))) for image in images}
    for image, key in keys.items():
        parts = image.split("/")
        for level, part in enumerate(parts):
            below["/".join(parts[:level]), key].setdefault(part if level < len(parts) - 1 else "", image)
        for folder in set(parts[:-1]):
            inside[folder].append(image)
    pairs = []
    for folder, files in inside.items():
        named = has_mask_word(folder)
        if len(files) == len(images) or not (named or is_frequent(files, images)) or set("*?{}") & set(folder):
            continue
        partners = []
        for image in files:
            above = "/".join(image.split("/")[: image.split("/").index(folder)])
            others = below[above, keys[image]]
            partners.append(next((other for part, other in others.items() if part != folder), ""))
        if named or all(partners):
            pairs.append(MaskPairs(tuple(files), tuple(partners) if all(partners) else (), f"**/{folder}/**", named))
    return sorted(pairs, key=lambda each: not each.named)


def is_frequent(files: Sequence[object], images: Sequence[str]) -> bool:
    """Whether files without a mask name are frequent enough to decode some of them."""
    return len(files) >= MIN_PAIRS and MAX_KINDS * len(files) >= len(images)


def pair_endings(images: Sequence[str]) -> list[MaskPairs]:
    """Return the endings and beginnings that may mark masks.

    Examples are `a_seg.png` beside `a.png` or `a_t1.png`, and `mask_a.png` beside `a.png` or `image_a.png`.
    """
    by_stem = {without_suffix(image): image for image in images}
    parts = [(image, *posixpath.split(stem), each) for stem, image in by_stem.items() for each in find_separators(stem)]
    alike: dict[tuple[str, str, bool], list[str]] = defaultdict(list)  # images with an equal beginning or ending
    for image, folder, name, separator in parts:
        alike[folder, name[: separator.start()], True].append(image)
        alike[folder, name[separator.end() :], False].append(image)
    by_pattern: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image, folder, name, separator in parts:
        head, tail = name[: separator.start()], name[separator.end() :]
        ending, start = name[separator.start() :], name[: separator.end()]
        beside = by_stem.get(posixpath.join(folder, head)) or choose_partner(image, tail, alike[folder, head, True])
        if beside:
            by_pattern[f"*{ending}.*"].append((image, beside))
        whole = by_stem.get(posixpath.join(folder, tail)) if has_mask_word(start) else None
        if beside := whole or choose_partner(image, head, alike[folder, tail, False]):
            by_pattern[f"{start}*"].append((image, beside))
    return to_pairs(by_pattern, images)


def find_separators(stem: str) -> list[re.Match[str]]:
    return list(SEPARATOR.finditer(posixpath.basename(stem)))


def choose_partner(image: str, kind: str, files: Sequence[str]) -> str | None:
    """Return a file of a case that may be the image of the mask `image`, or None.

    If `kind`, the mask's own part of the name, is a number, the files are slices, of which the first may be blank.
    """
    if not 2 <= len(files) <= MAX_KINDS or not re.search(r"[^\W\d]", kind):
        return None
    return next((file for file in files if file != image and not has_mask_word(posixpath.basename(file))), None)


def pair_names(images: Sequence[str]) -> list[MaskPairs]:
    """Return the names that may be masks, such as `mask.png` beside `image.png` in a folder per case."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_folder[posixpath.dirname(image)].append(image)
    by_pattern: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for files in by_folder.values():
        for image in files if 2 <= len(files) <= MAX_KINDS else ():
            name = posixpath.basename(image)
            plain = [other for other in files if other != image and not has_mask_word(posixpath.basename(other))]
            if plain:
                by_pattern[f"**/{name}"].append((image, plain[0]))
    return to_pairs(by_pattern, images)


def to_pairs(by_pattern: dict[str, list[tuple[str, str]]], images: Sequence[str]) -> list[MaskPairs]:
    """Return the groups of (mask, image) worth decoding, those named like masks first."""
    pairs = [
        MaskPairs(tuple(mask for mask, _ in each), tuple(image for _, image in each), pattern, has_mask_word(pattern))
        for pattern, each in by_pattern.items()
        if (has_mask_word(pattern) or is_frequent(each, images)) and not set("?{}") & set(pattern)
    ]
    return sorted(pairs, key=lambda each: not each.named)


def are_masks(root: Path, pairs: MaskPairs, others: Sequence[str]) -> bool:
    """Whether a sample of the files has few values, and their images, or `others`, have many.

    Files named as masks of images need only the first; files without a mask word must also have the shape of the image,
    whatever its scale.
    """
    rows = range(0, len(pairs.masks), max(1, -(-len(pairs.masks) // NUM_DECODED)))
    partners = [pairs.images[row] for row in rows] if pairs.images else others[:: max(1, len(others) // NUM_DECODED)]
    try:
        shapes = []
        for row in rows:
            mask = mask_pixels(root / pairs.masks[row])
            if not has_few_values(mask):
                return False
            shapes.append(mask.shape[:2])
        if pairs.named and pairs.images:
            return True
        images = [mask_pixels(root / partner) for partner in partners]
    except DataError:
        return False
    same_shape = pairs.named or all(is_scaled(a, b.shape[:2]) for a, b in zip(shapes, images, strict=True))
    return same_shape and 2 * sum(map(has_few_values, images)) < len(images)


def is_scaled(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two (H, W) differ only in scale, up to a pixel."""
    scale = max(b) / max(a)
    return all(abs(y - x * scale) <= max(1.0, scale) for x, y in zip(a, b, strict=True))


def mask_pixels(path: Path) -> Array:
    frames = read_header(path).frames
    return read_values(path, None if frames is None else frames // 2)


def has_few_values(pixels: Array) -> bool:
    """Whether an image has at most 16 values or colors, or 4 that make up 95 % of it."""
    flat = pixels.reshape(-1, pixels.shape[2]) if pixels.ndim == 3 else pixels.reshape(-1, 1)
    flat = flat[:: -(-len(flat) // MAX_MASK_PIXELS)]  # perf: np.unique of 12 Mpx in color takes seconds
    if (flat == flat[:, :1]).all():
        flat = flat[:, :1]
    counts = np.sort(np.unique(flat, axis=0, return_counts=True)[1])[::-1]
    return len(counts) <= MAX_MASK_VALUES or counts[:MOST_FREQUENT].sum() >= MOSTLY * len(flat)


# --- boxes -----------------------------------------------------------------------------------------------------------
def find_annotations(listing: Listing) -> tuple[str, str]:
    """Return "boxes" or "outlines" and a file of them; both "" if there is none.

    An example is `Annotations/a.xml` of an image `a`.
    """
    stems = {posixpath.basename(without_suffix(image)) for image in listing.images}
    for other in listing.others:
        suffix = posixpath.splitext(other)[1].lower()
        of_image = posixpath.basename(posixpath.splitext(other)[0]) in stems
        if (of_image and suffix in {".xml", ".txt", ".json"}) or suffix == ".json":
            with open(listing.root / other, "rb") as stream:
                text = stream.read(MAX_READ)
            if kind := annotated_task(suffix, text):
                return kind, other
    return "", ""


def annotated_task(suffix: str, text: bytes) -> str:
    """Return "boxes", "outlines" or ""."""
    if suffix == ".txt":  # YOLO, one object per line: its class, then center and size or the corners of a polygon
        lines = [line.split() for line in text.splitlines()[:10] if line.strip()]
        sizes = {len(line) for line in lines if len(line) >= 5 and len(line) % 2 and all(map(is_number, line))}
        is_yolo = bool(lines) and all(len(line) in sizes for line in lines)
        return "" if not is_yolo else "boxes" if sizes == {5} else "outlines"
    if (b"<bndbox>" if suffix == ".xml" else b'"bbox"') in text:
        return "boxes"
    is_outline = b'"segmentation"' in text or (b'"shapes"' in text and b'"points"' in text)  # COCO, LabelMe
    return "outlines" if suffix == ".json" and is_outline else ""


def is_number(text: bytes) -> bool:
    return bool(re.fullmatch(rb"\d+(\.\d+)?([eE]-?\d+)?", text))


def box_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of a table that are boxes."""
    names = {column.lower(): column for column in columns}
    return next(([names[name] for name in sorted(boxes)] for boxes in BOX_COLUMNS if boxes <= set(names)), [])


def outline_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of a table that are masks, run-length encoded."""
    return [column for column in columns if OUTLINE_COLUMN.fullmatch(column.lower().replace("_", ""))]


def other_task(root: Path, kind: str, evidence: str) -> DataError:
    """Return the error for annotations of a kind that is not read, without image labels.

    The kinds are "boxes", "outlines" and "volume-masks".
    """
    if kind == "volume-masks":
        return DataError(
            f"{root}: looks like volumes with masks ({evidence}), but no file or folder is named like a mask",
            fix="name the folders images and labels, with the same file names in both, or write into dataset.toml "
            f'task = "{mask_task()}"; dims = 3; images = "DIR/*.nii.gz"; masks = {{path = "DIR/{{stem}}.nii.gz"}}',
            code=kind,
        )
    return DataError(
        f"{root}: looks annotated with {kind} ({evidence}), which are not read, and nothing labels the images",
        fix="write a table with a label per image, and set `table` and `label` in dataset.toml; masks are read from "
        "PNG or TIFF files, and from volumes",
        code=kind,
    )


def count_masks(listing: Listing, images: Sequence[str]) -> str:
    """Return "260 masks beside 260 images", or "" without masks. `listing` contains both."""
    masks = len(listing.masks) + len(listing.images) - len(images)
    kind = "volumes" if images and all(map(is_volume_name, images)) else "images"
    return f"{masks} masks beside {len(images)} {kind}" if masks else ""
