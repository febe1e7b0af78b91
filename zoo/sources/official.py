"""Find the split that a set came with: in folders, a column, or lists of names."""

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
    """train, val or test for every image ("": in none), or nothing where nobody says; and notes."""
    by_folder = [split_of(c["split"]) for c in joined.captures if "split" in c]
    if card.split and card.split.column:
        splits = read_column(card, joined)
        for row, (split, folder) in enumerate(zip(splits, by_folder, strict=False)):
            if split != folder:
                raise DataError(
                    f"{joined.place(row)}: its {card.split.column} says {split}, its folder {folder}",
                    fix="correct one, or say `split` in dataset.toml",
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
            known = ", ".join(map(repr, meanings)) or "train, val, test"
            raise DataError(
                f"{joined.place(row)}: unknown split {texts[row]!r}; expected {known}",
                fix="correct it, or say in dataset.toml what the values mean: split = {column = ..., train = ...}",
            )
    for value, split in meanings.items():
        if value not in texts:
            raise DataError(
                f"split.{split}: no image has the {card.split.column} {value!r} in {joined.table}",
                fix="correct the value in dataset.toml",
            )
    return splits


def read_lists(card: DatasetCard, joined: Joined, listing: Listing) -> tuple[list[str], list[str]]:
    """Every image by the list it stands in. Names of images that are left out are no mistake; unknown ones are."""
    assert card.split is not None
    here = index_images(listing.root, joined.images)
    everywhere = index_images(listing.root, listing.images)
    found: dict[str, tuple[str, str]] = {}  # image -> split, where it says so
    for key, file in card.split.lists():
        split = "train" if key == "rest" else key
        lines = read_list(listing.root / file)
        here, everywhere = (index.for_cells([name for _, name in lines]) for index in (here, everywhere))
        for line, name in lines:
            place = f"{file} line {line}"
            try:
                image = (here if here.find(name) else everywhere).find_one(name)
            except DataError as error:
                raise DataError(f"{place}: {error.message}", fix="add the file or remove the line") from error
            other = found.setdefault(image, (split, place))
            if other[0] != split:
                raise DataError(
                    f"{place}: {image} is in {split}, and in {other[0]} by {other[1]}",
                    fix="name it in one of them only",
                )
    # a list names a file; its frames are images of their own
    splits = [found.get(image, found.get(split_frame(image)[0], ("", "")))[0] for image in joined.images]
    unlisted = splits.count("")
    if unlisted == len(splits):
        raise DataError(
            f"split: no image stands in {', '.join(file for _, file in card.split.lists())}",
            fix="write the images' names as they are in the folder",
        )
    return splits, [f"{unlisted} images stand in no list of the split: not used"] if unlisted else []


def read_list(path: Path) -> list[tuple[int, str]]:
    """The names in a file, one a line, each with its line."""
    lines = [(number, line.strip()) for number, line in enumerate(decode_text(path).splitlines(), start=1)]
    names = [(number, line) for number, line in lines if line]
    if not names:
        raise DataError(f"{path}: no names in it", fix="write one name a line, or leave the file out of `split`")
    return names
