"""Select the images that a card means; report every pattern that matches nothing."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import DataError, nearest
from zoo.images.formats import kind_by_name, without_suffix
from zoo.sources.cards import Captures, Compiled, DatasetCard, compile_pattern, match_path, placeholders
from zoo.sources.listing import Listing, words_of
from zoo.sources.tables import ImageIndex, index_images

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "testset", "holdout"), "test"),
}

MOST_KINDS = 5  # named in a note
# What may stand beside it: train_data, test-images, 01_Training Set
BESIDE_SPLIT = frozenset(
    "data dataset set sets images image imgs img folder split samples files cropped png jpg".split()  # noqa: SIM905
)


def split_of(name: str) -> str:
    """train, val or test, where a folder or a cell says that and nothing else; else ""."""
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    words = [word for word in words_of(name) if not word.isdecimal() and word not in BESIDE_SPLIT]
    return SPLIT_NAMES.get(words[0], "") if len(words) == 1 else ""


@dataclass(frozen=True, eq=False)
class Selection:
    """The images of a set with what their paths say; `left_out` are no mistake where a table or a list names them."""

    files: dict[str, Captures]
    left_out: frozenset[str]  # dropped, excluded, or masks
    unread: tuple[str, ...]  # of kinds that are not read, but for those that the card excludes
    notes: tuple[str, ...]
    mistakes: tuple[str, ...]


def select_files(card: DatasetCard, listing: Listing, deep: frozenset[str] = frozenset()) -> Selection:
    """Sort every image of the folder into meant or left out; what is left out is counted, never silent.

    Placeholders in `deep` may stand for a path.
    """
    index = index_images(listing.root, listing.images)
    dropped, mistakes = find_all("drop", card.drop, index)
    compiled = compile_pattern(card.images, deep)
    excludes = compile_excludes(card)
    masks, mask_pattern = {}, compile_pattern(card.masks.path) if card.masks else None
    files: dict[str, Captures] = {}
    left_out: set[str] = set()
    counts: Counter[str] = Counter()
    used: set[str] = set()
    for image in listing.images:
        captures = match_path(compiled, image)
        excluded = matching_files(excludes, image)
        used.update(excluded)
        if mask_pattern and (found := match_path(mask_pattern, image)) is not None:
            masks[image] = found
        elif image in dropped:
            counts["named by drop"] += 1
        elif excluded:
            counts["excluded"] += 1
        elif captures is None:
            counts[f"not {card.images}"] += 1
            continue
        elif "split" in captures and "split" not in deep and not split_of(captures["split"]):
            counts[f"in {captures['split']}, which is no split"] += 1
            continue
        else:
            files[image] = captures
            continue
        left_out.add(image)
    unread: list[str] = []
    for file in listing.unread:
        excluded = matching_files(excludes, file)
        used.update(excluded)
        unread += [] if excluded else [file]
    mistakes += [f"{place}: {pattern!r} names no image" for place, pattern in places(card) if pattern not in used]
    mask_notes, mask_mistakes = describe_masks(card, files, masks)
    mistakes += mask_mistakes
    if not files:
        there = f"{len(listing.images)} images there"
        others = any(match_path(compiled, image) is not None for image in listing.images)
        what = "all images are left out" if others else f"no image is named like {card.images!r}"
        mistakes.append(f"images: {what}; {there}")
    if listing.masks:
        mask_notes.append(f"{len(listing.masks)} masks beside volumes ({listing.masks[0]}, ...) are not read as images")
    mask_notes += [describe_unread(unread)] if unread else []
    notes = [*mask_notes, *(f"{count} images left out: {reason}" for reason, count in counts.items())]
    return Selection(files, frozenset(left_out), tuple(unread), tuple(notes), tuple(mistakes))


def matching_files(excludes: Mapping[str, tuple[Compiled, bool]], file: str) -> list[str]:
    """The patterns of `compile_excludes` that match a file."""
    return [
        pattern for pattern, (each, bare) in excludes.items() if match_path(each, name_of(file, bare=bare)) is not None
    ]


def describe_unread(files: Sequence[str]) -> str:
    """`60 files are not read: 60 .heic (a/IMG_1.HEIC the first)`."""
    kinds = Counter(map(kind_by_name, files))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MOST_KINDS))
    more = f" and {len(kinds) - MOST_KINDS} kinds more" if len(kinds) > MOST_KINDS else ""
    return f"{len(files)} files are not read: {shown}{more} ({files[0]} the first)"


def check_labels_left(root: Path, card: DatasetCard, files: Iterable[Captures], lost: Mapping[str, str]) -> None:
    """Refuse folders where a label loses all its images: `lost` are the images that are not read, and why."""
    kept = {captures.get("label") for captures in files}
    compiled = compile_pattern(card.images)
    without: dict[str, list[str]] = {}
    for file in lost:
        captures = match_path(compiled, file) or {}
        if "split" in captures and not split_of(captures["split"]):  # as `select_files` leaves it out
            continue
        if "label" in captures and captures["label"] not in kept:
            without.setdefault(captures["label"], []).append(file)
    for label, its in without.items():
        reasons = ", ".join(
            f"{count} {why}" for why, count in Counter(lost[file] for file in its).most_common(MOST_KINDS)
        )
        raise DataError(
            f"{root}: label {label!r} has no image left: of its {len(its)} files none is read ({reasons}; {its[0]} the "
            "first)",
            fix=f'convert them to PNG, or leave the label out: exclude = "**/{label}/**" in dataset.toml',
            code="label-lost",
        )


def find_all(place: str, names: tuple[str, ...], index: ImageIndex) -> tuple[set[str], list[str]]:
    """The images that a list in the card names, by path or name, and a mistake for each that is not one image."""
    found: set[str] = set()
    mistakes = []
    for number, name in enumerate(names):
        try:
            found.add(index.find_one(name))
        except DataError as error:
            hint = nearest(name, index.paths) if len(index.paths) <= 10_000 else ""  # seconds beyond
            mistakes.append(f"{place}.{number}: {error.message}" + (f". {hint}" if hint else ""))
    return found, mistakes


def compile_excludes(card: DatasetCard) -> dict[str, tuple[Compiled, bool]]:
    """Pattern -> its expression, and whether it speaks of the file's name alone."""
    return {pattern: (compile_pattern(pattern), "/" not in pattern) for _, pattern in places(card)}


def places(card: DatasetCard) -> list[tuple[str, str]]:
    if isinstance(card.exclude, str):
        return [("exclude", card.exclude)]
    return [(f"exclude.{number}", pattern) for number, pattern in enumerate(card.exclude)]


def name_of(image: str, *, bare: bool) -> str:
    return image.rpartition("/")[2] if bare else image


def describe_masks(
    card: DatasetCard, files: dict[str, Captures], masks: dict[str, Captures]
) -> tuple[list[str], list[str]]:
    """What is to be said of the masks, and what is wrong with their pattern: it must name masks of these images."""
    if not card.masks:
        return [], []
    shared = [name for name in placeholders(card.masks.path) if name != "stem"]
    if strange := [name for name in shared if name not in placeholders(card.images)]:
        return [], [f"masks.path: {{{strange[0]}}} does not stand in `images`"]
    if not masks:
        return [], [f"masks.path: {card.masks.path!r} names no file"]
    owners = {
        (*(captures[name] for name in shared), stem)
        for image, captures in files.items()
        for stem in (without_suffix(posixpath.basename(image)),)
    }
    with_stem = "stem" in placeholders(card.masks.path)
    orphans = [
        mask
        for mask, captures in masks.items()
        if with_stem and (*(captures[name] for name in shared), captures["stem"]) not in owners
    ]
    if len(orphans) == len(masks):
        return [], [f"masks.path: none of the {len(masks)} files it names, like {orphans[0]}, belongs to an image"]
    notes = [f"{len(masks)} masks beside images are not read as images"]
    if orphans:
        notes.append(f"{len(orphans)} masks belong to no image: {orphans[0]} is one")
    return notes, []
