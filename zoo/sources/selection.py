"""Select the images of a card; report every pattern that matches no file."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import DataError, nearest
from zoo.images.formats import how_to_read, kind_by_name, without_suffix
from zoo.sources.cards import Captures, Compiled, DatasetCard, compile_pattern, match_path, placeholders
from zoo.sources.channels import find_channels
from zoo.sources.listing import Listing, natural_key, words_of
from zoo.sources.tables import ImageIndex, index_images
from zoo.tasks.kinds import find_task

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "testset", "holdout"), "test"),
}

MOST_KINDS = 5  # named in a note
# Words that a split folder may have besides the split: train_data, test-images, 01_Training Set
BESIDE_SPLIT = frozenset(
    "data dataset set sets images image imgs img folder split samples files cropped png jpg".split()  # noqa: SIM905
)


def split_of(name: str) -> str:
    """Return train, val or test if a folder or cell names a split and nothing else, else ""."""
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    words = [word for word in words_of(name) if not word.isdecimal() and word not in BESIDE_SPLIT]
    return SPLIT_NAMES.get(words[0], "") if len(words) == 1 else ""


@dataclass(frozen=True, eq=False)
class Selection:
    """The images of a dataset with the placeholders of their paths.

    A table or list may name files in `left_out` without a mistake.
    """

    files: dict[str, Captures]
    left_out: frozenset[str]  # dropped, excluded, or masks
    unread: tuple[str, ...]  # in formats that are not read, without those that the card excludes
    notes: tuple[str, ...]
    mistakes: tuple[str, ...]
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of each image that has any
    second_masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same of a second reader
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the files of each image, if several


@dataclass(frozen=True, eq=False)
class SortedFiles:
    """The files of a folder by what the patterns of a card make of them."""

    files: dict[str, Captures]
    masks: dict[str, dict[str, Captures]]  # by the key of their pattern
    left_out: set[str]
    unread: tuple[str, ...]
    counts: Counter[str]  # images left out, by reason
    mistakes: list[str]


def select_files(card: DatasetCard, listing: Listing, deep: frozenset[str] = frozenset()) -> Selection:
    """Select the images of the folder; count those left out, by reason.

    Placeholders in `deep` may match a path.
    """
    contents = sort_files(card, listing, deep)
    channels = find_channels(card.channels, contents.files)
    counts = contents.counts + channels.left_out
    files = {image: contents.files[image] for image in channels.files}
    pairs, notes, mask_mistakes = pair_all_masks(card, files, contents.masks)
    mistakes = [*contents.mistakes, *channels.mistakes, *mask_mistakes]
    if not files:
        compiled = compile_pattern(card.images, deep)
        others = any(match_path(compiled, image) is not None for image in listing.images)
        what = "all images are left out" if others else f"{card.images!r} matches no image"
        unread = f"; {describe_unread(contents.unread)}: {how_to_read(contents.unread[0])}" if contents.unread else ""
        mistakes.append(f"images: {what}; the folder has {len(listing.images)}{unread}")
    if listing.masks and card.dims != 3:
        notes.append(f"{len(listing.masks)} masks beside volumes ({listing.masks[0]}, ...) are not read as images")
    notes += [describe_unread(contents.unread)] if contents.unread else []
    notes += [f"{count} images left out: {reason}" for reason, count in counts.items()]
    return Selection(
        files=files,
        left_out=frozenset(contents.left_out | (contents.files.keys() - channels.files.keys())),
        unread=contents.unread,
        notes=tuple(notes),
        mistakes=tuple(mistakes),
        masks=pairs.get("path", {}),
        second_masks=pairs.get("second", {}),
        channels=channels.several,
    )


def sort_files(card: DatasetCard, listing: Listing, deep: frozenset[str]) -> SortedFiles:
    """Match each file of the folder with the patterns of the card."""
    dropped, mistakes = find_all("drop", card.drop, index_images(listing.root, listing.images))
    compiled = compile_pattern(card.images, deep)
    excludes = compile_excludes(card)
    patterns = mask_patterns(card)
    masks: dict[str, dict[str, Captures]] = {place: {} for place in patterns}
    files: dict[str, Captures] = {}
    left_out: set[str] = set()
    counts: Counter[str] = Counter()
    used: set[str] = set()
    for image in listing.images:
        captures = match_path(compiled, image)
        excluded = matching_files(excludes, image)
        used.update(excluded)
        if own := match_masks(patterns, image):
            for place, mask_captures in own.items():
                masks[place][image] = mask_captures
            left_out.add(image)
        elif image in dropped or excluded:
            counts["listed in drop" if image in dropped else "excluded"] += 1
            left_out.add(image)
        elif captures is None:
            counts[f"do not match {card.images}"] += 1
        elif "split" in captures and "split" not in deep and not split_of(captures["split"]):
            counts[f"in {captures['split']}, which is not a split"] += 1
        else:
            files[image] = captures
    for image in listing.masks if card.dims == 3 else ():
        for place, mask_captures in match_masks(patterns, image).items():
            masks[place][image] = mask_captures
    excluded_by_file = {file: matching_files(excludes, file) for file in listing.unread}
    used.update(*excluded_by_file.values())
    mistakes += [f"{place}: {pattern!r} matches no image" for place, pattern in places(card) if pattern not in used]
    unread = tuple(file for file, excluded in excluded_by_file.items() if not excluded)
    return SortedFiles(files, masks, left_out, unread, counts, mistakes)


def pair_all_masks(
    card: DatasetCard, files: dict[str, Captures], masks: Mapping[str, dict[str, Captures]]
) -> tuple[dict[str, dict[str, tuple[str, ...]]], list[str], list[str]]:
    """Return the masks of each image by the key of their pattern, notes on them, and mistakes."""
    pairs: dict[str, dict[str, tuple[str, ...]]] = {}
    notes: list[str] = []
    mistakes: list[str] = []
    for place, own in masks.items():
        pairs[place], its_notes, its_mistakes = pair_masks(card, place, files, own)
        notes += its_notes
        mistakes += its_mistakes
    return pairs, notes, mistakes + find_shared_masks(pairs)


def mask_patterns(card: DatasetCard) -> dict[str, Compiled]:
    """The patterns of a card that match masks, by their key: path, second."""
    texts = {key: getattr(card.masks, key) for key in ("path", "second")} if card.masks else {}
    return {key: compile_pattern(text) for key, text in texts.items() if text}


def match_masks(patterns: Mapping[str, Compiled], image: str) -> dict[str, Captures]:
    """The placeholders in the path of a mask, by the pattern that matches it."""
    matches = {key: match_path(pattern, image) for key, pattern in patterns.items()}
    return {key: captures for key, captures in matches.items() if captures is not None}


def matching_files(excludes: Mapping[str, tuple[Compiled, bool]], file: str) -> list[str]:
    """Return the patterns of `compile_excludes` that match a file."""
    return [
        pattern for pattern, (each, bare) in excludes.items() if match_path(each, name_of(file, bare=bare)) is not None
    ]


def describe_unread(files: Sequence[str]) -> str:
    """Return "60 files are not read: 60 .heic (first a/IMG_1.HEIC)"."""
    kinds = Counter(map(kind_by_name, files))
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MOST_KINDS))
    more = f" and {len(kinds) - MOST_KINDS} more formats" if len(kinds) > MOST_KINDS else ""
    return f"{len(files)} files are not read: {counts}{more} (first {files[0]})"


def check_labels_left(root: Path, card: DatasetCard, files: Iterable[Captures], lost: Mapping[str, str]) -> None:
    """Refuse folders in which a label loses all its images; `lost` maps each image that is not read to the reason."""
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
            f"{root}: label {label!r} has no image: none of its {len(its)} files is read ({reasons}; first {its[0]})",
            fix=f'{how_to_read(its[0])}, or leave the label out: exclude = "**/{label}/**" in dataset.toml',
            code="label-lost",
        )


def find_all(place: str, names: tuple[str, ...], index: ImageIndex) -> tuple[set[str], list[str]]:
    """Return the images in a list of the card, by path or name, and a mistake per entry that is not one image."""
    images: set[str] = set()
    mistakes = []
    for number, name in enumerate(names):
        try:
            images.add(index.find_one(name))
        except DataError as error:
            hint = nearest(name, index.paths) if len(index.paths) <= 10_000 else ""  # perf: takes seconds for more
            mistakes.append(f"{place}.{number}: {error.message}" + (f". {hint}" if hint else ""))
    return images, mistakes


def compile_excludes(card: DatasetCard) -> dict[str, tuple[Compiled, bool]]:
    """Map each pattern to its expression, and to whether it applies to the file name only."""
    return {pattern: (compile_pattern(pattern), "/" not in pattern) for _, pattern in places(card)}


def places(card: DatasetCard) -> list[tuple[str, str]]:
    if isinstance(card.exclude, str):
        return [("exclude", card.exclude)]
    return [(f"exclude.{number}", pattern) for number, pattern in enumerate(card.exclude)]


def name_of(image: str, *, bare: bool) -> str:
    return image.rpartition("/")[2] if bare else image


def pair_masks(
    card: DatasetCard, place: str, files: dict[str, Captures], masks: dict[str, Captures]
) -> tuple[dict[str, tuple[str, ...]], list[str], list[str]]:
    """Return the masks of each image, notes on them, and mistakes in their pattern, which must match some.

    `place` is the key of the pattern in `masks`.
    """
    pattern: str = getattr(card.masks, place)
    names = placeholders(pattern)
    shared = [name for name in names if name != "stem"]
    if unknown := [name for name in shared if name not in placeholders(card.images)]:
        return {}, [], [f"masks.{place}: {{{unknown[0]}}} is not in `images`"]
    if not masks:
        return {}, [], [f"masks.{place}: {pattern!r} matches no file"]

    def key(captures: Captures, stem: str) -> tuple[str, ...]:
        return (*(captures[name] for name in shared), stem if "stem" in names else "")

    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    stem_by_image = {image: stem_of(image).removesuffix(first_ending(card)) for image in files}
    owners = {image: key(captures, stem_by_image[image]) for image, captures in files.items()}
    stems, several = set(stem_by_image.values()), has_several_stems(pattern)
    for mask, captures in masks.items():
        stem = captures.get("stem", "")
        by_key[key(captures, longest_stem(pattern, mask, stems) or stem if several else stem)].append(mask)
    pairs = {image: tuple(sorted(by_key[own], key=natural_key)) for image, own in owners.items() if own in by_key}
    orphans = [mask for own in by_key.keys() - set(owners.values()) for mask in by_key[own]]
    if len(orphans) == len(masks):
        first = min(orphans, key=natural_key)
        mistake = f"masks.{place}: none of the {len(masks)} files that it matches belongs to an image, first {first}"
        return {}, [], [mistake]
    if place == "second":
        notes = [f"{len(pairs)} of {len(files)} images have masks of a second reader"]
    else:
        notes = [] if is_of_masks(card) else [f"{len(masks)} masks beside images are not read as images"]
    if orphans:
        notes.append(f"{len(orphans)} masks belong to no image, first {min(orphans, key=natural_key)}")
    return pairs, notes, []


def find_shared_masks(pairs: Mapping[str, Mapping[str, tuple[str, ...]]]) -> list[str]:
    """Return a mistake for files that both readers have: the first reader's masks would contain the second's."""
    first, second = ({file for own in pairs.get(key, {}).values() for file in own} for key in ("path", "second"))
    shared = sorted(first & second, key=natural_key)
    return [f"masks: path and second match the same {len(shared)} files, first {shared[0]}"] if shared else []


def has_several_stems(pattern: str) -> bool:
    """Whether {stem} can match several texts of one file name: another wildcard is in the same part of the path."""
    part = next((part for part in pattern.split("/") if "{stem}" in part), "")
    return bool(set("*?{") & set(part.replace("{stem}", "")))


def longest_stem(pattern: str, mask: str, stems: Collection[str]) -> str:
    """The longest name of an image with which a pattern matches a mask; "" without one."""
    name = posixpath.basename(mask)
    parts = {name[start:end] for start in range(len(name)) for end in range(start + 1, len(name) + 1)}
    for stem in sorted(parts.intersection(stems), key=len, reverse=True):
        if match_path(compile_pattern(pattern.replace("{stem}", stem)), mask) is not None:
            return stem
    return ""


def stem_of(image: str) -> str:
    return posixpath.basename(without_suffix(image))


def first_ending(card: DatasetCard) -> str:
    """What the names of all images end with, before their suffix; mostly ""."""
    return card.channels[0] if card.channels else ""


def is_of_masks(card: DatasetCard) -> bool:
    """Whether the targets are masks."""
    return bool(card.task) and find_task(card.task).targets.spatial
