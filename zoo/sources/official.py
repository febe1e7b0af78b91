"""Read the official split: from folders, a column, or lists of names."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import DataError
from zoo.images.formats import split_frame
from zoo.sources.cards import DatasetCard
from zoo.sources.joining import Joined
from zoo.sources.listing import Listing
from zoo.sources.selection import split_of
from zoo.sources.tables import decode_text, index_images


def find_official_splits(card: DatasetCard, joined: Joined, listing: Listing) -> tuple[list[str], list[str]]:
    """Return train, val, test or "" per image, or an empty list without an official split; and notes."""
    by_folder = [split_of(c["split"]) for c in joined.captures if "split" in c]
    if card.split and card.split.column:
        splits = read_column(card, joined)
        for row, (split, folder) in enumerate(zip(splits, by_folder, strict=False)):
            if split != folder:
                raise DataError(
                    f"{joined.place(row)}: its {card.split.column} is {split}, but its folder is {folder}",
                    fix="correct one, or set `images` without {split} in dataset.toml",
                )
        return splits, []
    if card.split and card.split.lists():
        return read_lists(card, joined, listing)
    return by_folder, []


def read_column(card: DatasetCard, joined: Joined) -> list[str]:
    assert card.split is not None
    meanings = card.split.meanings()
    texts = list(joined.cells[card.split.column])
    splits = [meanings.get(text, "") if meanings else split_of(text) for text in texts]
    for row, split in enumerate(splits):
        if not split:
            expected = ", ".join(map(repr, meanings)) or "train, val, test"
            raise DataError(
                f"{joined.place(row)}: unknown split {texts[row]!r} in column {card.split.column!r}; "
                f"expected {expected}",
                fix="correct it, or set the values in dataset.toml: split = {column = ..., train = ...}",
            )
    for value, split in meanings.items():
        if value not in texts:
            raise DataError(
                f"split.{split}: no image has {card.split.column} {value!r} in {joined.table}",
                fix="correct the value in dataset.toml",
            )
    return splits


def read_lists(card: DatasetCard, joined: Joined, listing: Listing) -> tuple[list[str], list[str]]:
    """Assign every image the split of the list that names it; names of excluded images are ignored."""
    assert card.split is not None
    used = index_images(listing.root, joined.images)
    everything = index_images(listing.root, listing.images)
    split_and_place: dict[str, tuple[str, str]] = {}  # by image; the place is "test.txt line 3"
    for key, file in card.split.lists():
        split = "train" if key == "rest" else key
        lines = read_list(listing.root / file)
        used, everything = (index.for_cells([name for _, name in lines]) for index in (used, everything))
        for line, name in lines:
            place = f"{file} line {line}"
            try:
                image = (used if used.find(name) else everything).find_one(name)
            except DataError as error:
                raise DataError(f"{place}: {error.message}", fix="add the file or remove the line") from error
            other = split_and_place.setdefault(image, (split, place))
            if other[0] != split:
                raise DataError(
                    f"{place}: {image} is in {split} here and in {other[0]} by {other[1]}",
                    fix="keep it in one of the lists",
                )
    # a list names a file, whose frames are separate images
    splits = [
        split_and_place.get(image, split_and_place.get(split_frame(image)[0], ("", "")))[0] for image in joined.images
    ]
    unlisted = splits.count("")
    if unlisted == len(splits):
        raise DataError(
            f"split: no image is named in {', '.join(file for _, file in card.split.lists())}",
            fix="write the names of the images as in the folder",
        )
    return splits, [f"{unlisted} images are in no list of the split and are not used"] if unlisted else []


def read_list(path: Path) -> list[tuple[int, str]]:
    """Return (line number, name) for every name in a file, one name per line."""
    lines = [(number, line.strip()) for number, line in enumerate(decode_text(path).splitlines(), start=1)]
    names = [(number, line) for number, line in lines if line]
    if not names:
        raise DataError(f"{path}: the list is empty", fix="write one name per line, or remove the file from `split`")
    return names
