"""List and read new images: files, folders, archives and npz; what cannot be read is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from zoo.arrays import Array
from zoo.data.decoded import match_channels
from zoo.errors import DataError, UsageError, ZooError, clean, message_of
from zoo.images.formats import (
    frame_name,
    has_tags,
    how_to_read,
    is_image_name,
    is_unnamed_image,
    is_volume_name,
    read_header,
    read_image,
    read_tag,
    split_frame,
)
from zoo.images.placement import Placement
from zoo.images.reading import Header, check_regular
from zoo.images.resizing import fit_with_placement
from zoo.sources.archives import find_unpacked, is_archive_name
from zoo.sources.arrays import NpzImages, read_members
from zoo.sources.cards import DatasetCard, Frames, Slices
from zoo.sources.frames import choose_frames
from zoo.sources.listing import check_file_name, list_folder
from zoo.specs.choice import Choice
from zoo.specs.transform import prepare_pixels
from zoo.trained.card import ModelCard
from zoo.trained.seen import find_difference


@dataclass(frozen=True, kw_only=True, eq=False)
class NewImage:
    """An image to predict, or the reason why it is refused."""

    name: str  # as in the command: a path, "scan.dcm#12", or "set.npz/test/12"
    file: str  # the name of its file or clip
    source: Any = None  # (path, frame), or (a function that reads, its argument)
    header: Header | None = None
    tags: Mapping[str, str] = field(default_factory=dict)  # requested DICOM tags
    cells: Mapping[str, str] = field(default_factory=dict)  # of the second input's columns
    refused: str = ""
    fix: str = ""


NAME_TAGS = ("PatientID", "PatientName", "SeriesInstanceUID")  # written on request only
# Fixes for new images, of errors whose usual fix changes a dataset.
OWN_FIXES = {"not-levels": "give files with levels, as the training images have"}


class File(NamedTuple):
    """A file, and its name as in the command."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """The slices of a DICOM series."""

    name: str  # folder/series-1
    slices: dict[File, Header]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadImage:
    """A read image: its square (size, size, channels), and how its header differs from training; or its refusal."""

    image: NewImage
    pixels: Array | None = None
    placement: Placement | None = None  # of the image in the square
    differs: str = ""
    refused: str = ""
    fix: str = ""


def list_images(paths: Sequence[Path], card: ModelCard, cache: Path, tags: Sequence[str] = ()) -> Iterator[NewImage]:
    """Yield the images of paths, one by one, with some DICOM tags. Raises UsageError for a path that does not exist.

    If the model was scored by clip or patient, the slices of a DICOM series in one folder are the frames of one input,
    as those of a volume.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", fix="correct the path", code="data")
    inputs = (each for path in paths for each in list_inputs(path, cache))
    for each in inputs if card.unit == "image" else fold_series(inputs, card):
        if isinstance(each, File):
            yield from list_frames(each.path, each.name, card, tags)
        elif isinstance(each, Series):
            yield from list_slices(each, card, tags)
        else:
            yield each


def list_inputs(path: Path, cache: Path) -> Iterator[File | NewImage]:
    if path.is_dir():
        yield from list_below(path, path)
    elif is_archive_name(path.name) and not is_volume_name(path.name):
        yield from list_below(find_unpacked(path, cache), path)
    elif path.suffix.lower() == ".npz":
        yield from list_arrays(path)
    else:
        yield File(path, str(path))


def list_below(folder: Path, shown: Path) -> Iterator[File | NewImage]:
    refused: dict[str, DataError] = {}
    listing = list_folder(folder, refused.__setitem__)
    for name in listing.images:
        yield File(folder / name, str(shown / name))
    for name in listing.unread_images:
        yield refuse_input(str(shown / name), "zoo does not read this format", how_to_read(name))
    for name, error in refused.items():
        yield refuse_image(str(shown / name), error)
    if not (listing.images or listing.unread_images or refused):
        fix = how_to_read(listing.unread[0]) if listing.unread else "name a folder of images"
        yield refuse_input(str(shown), "no images in it", fix)


def fold_series(inputs: Iterable[File | NewImage], card: ModelCard) -> Iterator[File | Series | NewImage]:
    """Replace the DICOM slices of one folder with one SeriesInstanceUID by their series, in place of the first.

    A series is named by its number within the folder, because its UID identifies a patient.
    """
    found: dict[tuple[type, str, str], File | NewImage | dict[File, Header]] = {}
    for each in inputs:
        header = find_slice_header(each.path, card) if isinstance(each, File) else None
        if header is None or isinstance(each, NewImage):
            found[type(each), each.name, ""] = each
            continue
        folder = each.name.removesuffix(each.path.name)
        slices = found.setdefault((Series, folder, header.tags["SeriesInstanceUID"]), {})
        assert isinstance(slices, dict)
        slices[each] = header
    taken = {name for kind, name, _ in found if kind is not Series}
    for (_, folder, _), entry in found.items():
        if not isinstance(entry, dict):
            yield entry
        elif len(entry) == 1:
            yield next(iter(entry))
        else:
            name = next(name for number in count(1) if (name := f"{folder}series-{number}") not in taken)
            taken.add(name)
            yield Series(name=name, slices=entry)


def find_slice_header(path: Path, card: ModelCard) -> Header | None:
    """The header of a DICOM file that may be one slice of a series; None for any other file."""
    try:
        header = read_header(path, card.file_reading) if path.is_file() and has_tags(path) else None
    except DataError:  # refused by its own name later
        return None
    if header is None or header.skip or header.frames is not None or not header.tags.get("SeriesInstanceUID"):
        return None
    return header if re.fullmatch(r"-?\d{1,9}", header.tags.get("InstanceNumber", "")) else None


def list_slices(series: Series, card: ModelCard, tags: Sequence[str]) -> Iterator[NewImage]:
    """The slices of a series by InstanceNumber: those that the training data's card selects of a volume or clip."""
    slices = sorted(series.slices.items(), key=lambda each: int(each[1].tags["InstanceNumber"]))
    choice = frame_choice(card)
    is_volume = choice.slices is not None
    blank = [row for row, (file, _) in enumerate(slices) if has_one_value(file.path, card)] if is_volume else ()
    whole = replace(slices[0][1], frames=len(slices), is_volume=is_volume, blank=tuple(blank))
    frames = choose_frames(choice, whole).frames
    if not frames:
        yield refuse_input(series.name, "every slice has only one value", "leave it out")
    for frame in frames:
        assert frame is not None
        file, header = slices[frame]
        yield NewImage(
            name=frame_name(series.name, frame),
            file=series.name,
            source=(file.path, None),
            header=header,
            tags={name: read_tag(file.path, name) for name in tags},
        )


def has_one_value(path: Path, card: ModelCard) -> bool:
    try:
        pixels = read_image(path, None, card.file_reading)
    except DataError:  # refused later
        return False
    return bool(pixels.min() == pixels.max())


def list_arrays(path: Path) -> Iterator[NewImage]:
    """The images of an npz: each row of `images` or of arrays called `*_images`."""
    read = NpzImages(path)
    try:
        members = read_members(path)
    except DataError as error:
        yield refuse_image(str(path), error)
        return
    names = [name for name in members if name == "images" or name.endswith("_images")]
    if not names:
        yield refuse_input(
            str(path),
            f"no array called images; it has {', '.join(members) or 'none'}",
            "save the images as an array `images` (N, H, W) or (N, H, W, 3)",
        )
    for name in names:
        split = name.removesuffix("_images")
        for row in range(members[name].shape[0]):
            shown = f"{path}/{split}/{row}"
            yield NewImage(name=shown, file=shown, source=(read, f"{split}/{row}"))


def list_frames(path: Path, shown: str, card: ModelCard, tags: Sequence[str]) -> Iterator[NewImage]:
    """The image of a file, or its frames: the slices or frames that the training data's card selects."""
    try:
        check_file_name(path, shown)
        check_regular(path)
        if not (is_image_name(path.name) or is_unnamed_image(path)):
            raise DataError(f"{path}: not an image that zoo reads", fix=how_to_read(path.name), code="image")
        header = read_header(path, card.file_reading)
        if header.skip:
            raise DataError(f"{path}: {header.skip}", fix="leave it out", code="image")
        known = {name: read_tag(path, name) for name in tags if has_tags(path)}
    except DataError as error:
        yield refuse_image(shown, error)
        return
    chosen = choose_frames(frame_choice(card), header)
    if not chosen.frames:
        yield refuse_input(shown, "every slice has only one value", "leave it out")
    for frame in chosen.frames:
        yield NewImage(name=frame_name(shown, frame), file=shown, source=(path, frame), header=header, tags=known)


def frame_choice(card: ModelCard) -> DatasetCard:
    """The slices of volumes and frames of clips that training used."""
    chosen = card.seen.get("frames") or {}
    return DatasetCard(
        slices=Slices(**chosen["slices"]) if chosen.get("slices") else None,
        frames=Frames(**chosen["frames"]) if chosen.get("frames") else None,
    )


def refuse_input(name: str, problem: str, fix: str) -> NewImage:
    """A refused image, with its name before the problem as in the messages of errors."""
    return NewImage(name=clean(name), file=name, refused=clean(f"{name}: {problem}"), fix=fix)


def refuse_image(name: str, error: Exception) -> NewImage:
    problem, fix = problem_of(name, error)
    return NewImage(name=clean(name), file=split_frame(name)[0], refused=clean(problem), fix=fix)


def problem_of(name: str, error: Exception) -> tuple[str, str]:
    """The message of an error, which names the image, and its fix."""
    if isinstance(error, ZooError):
        return error.message, OWN_FIXES.get(error.code, error.fix)
    return f"{name}: {type(error).__name__}: {message_of(error)}", "copy it again, or leave it out"


def read_new_image(card: ModelCard, image: NewImage, transforms: Sequence[Choice] = ()) -> ReadImage:
    """Read an image as training did, with its preprocessing steps.

    What training would have refused is refused: depth, color, damage.
    """
    if image.refused:
        return ReadImage(image=image, refused=image.refused, fix=image.fix)
    try:
        pixels = read_pixels(card, image)
        if str(pixels.dtype) != card.seen["dtype"]:
            raise DataError(
                f"{image.name}: {pixels.dtype}, but the training images are {card.seen['dtype']}",
                fix="give it the bit depth of the training images",
                code="mixed-depth",
            )
        fitted, placement = fit_with_placement(prepare_pixels(pixels, transforms), card.image_size)
        square = match_channels(fitted, card.channels)
        if square is None:
            raise DataError(
                f"{image.name}: {pixels.shape[2]} channels, but the training images are gray",
                fix="convert it to gray, or leave it out",
                code="channels",
            )
    except Exception as error:  # a codec may raise anything; the other images are predicted
        problem, fix = problem_of(image.name, error)
        return ReadImage(image=image, refused=problem, fix=fix)
    height, width = pixels.shape[:2]
    header = image.header or Header(width=width, height=height, channels=1 if pixels.ndim == 2 else 3)
    return ReadImage(image=image, pixels=square, placement=placement, differs=find_difference(header, card))


def read_pixels(card: ModelCard, image: NewImage) -> Array:
    place, which = image.source
    if isinstance(place, Path):
        return read_image(place, which, card.file_reading)
    pixels: Array = place(which)
    return pixels
