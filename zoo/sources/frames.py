"""Joined files and their headers to one row a frame: `scan.dcm` of 30 frames becomes `scan.dcm#0` to `scan.dcm#29`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.errors import DataError
from zoo.images.formats import all_have_pages, frame_name, is_tiff_name, split_frame
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.sources.cards import DatasetCard, Frames, Slices
from zoo.sources.joining import Joined

WHOLE_VOLUME = Slices()
WHOLE_CLIP = Frames()


def choose_axis(card: DatasetCard, root: Path, images: tuple[str, ...]) -> Reading:
    """How headers are to be read: across which axis slices are cut, and whether the pages of a TIFF are slices.

    They are where the card speaks of slices, or where every TIFF has several pages: a stray one is a mistake.
    """
    tiffs = [root / image for image in images if is_tiff_name(image)]
    pages = bool(tiffs) and (card.slices is not None or all_have_pages(tiffs))
    return replace(AS_STORED, axis=card.slices.axis if card.slices else None, pages=pages, crop=card.crop)


@dataclass(frozen=True)
class Chosen:
    """The frames of a file that become images, counted from 0; None alone for a file that is one image."""

    frames: tuple[int | None, ...]
    num_blank: int = 0  # slices left out: they hold one value only


def expand_clips(card: DatasetCard, joined: Joined) -> Joined:
    """The chosen frames of every clip in place of its first, each with the clip's row of the table."""
    if not joined.clips:
        return joined
    said = card.frames or WHOLE_CLIP
    rows, images, names = [], [], []
    for row, image in enumerate(joined.images):
        clip = joined.clips.get(image)
        for number in range(0, len(clip.frames), said.every)[: said.max] if clip else (None,):
            rows.append(row)
            images.append(clip.frames[number] if clip and number is not None else image)
            names.append(frame_name(clip.name if clip else image, number))
    clips = [joined.clips[image] for image in joined.images if image in joined.clips]
    num_frames = sum(len(clip.frames) for clip in clips)
    note = f"{len(clips)} clips of {num_frames} frames in files of their own{describe_choice(said)}"
    return replace(
        joined,
        images=tuple(images),
        files=tuple(images),
        names=tuple(names),
        captures=tuple(joined.captures[row] for row in rows),
        cells=joined.cells.iloc[rows],
        has_frames=True,
        notes=(*joined.notes, note),
    )


def check_frame_sizes(joined: Joined, find_header: Callable[[str], Header]) -> None:
    """Refuse a clip whose frames, files of their own, differ in size: something else lies among them."""
    if not joined.clips:
        return
    first: dict[str, tuple[str, Header]] = {}
    for image, name in zip(joined.images, joined.sample_ids, strict=True):
        clip, frame = split_frame(name)
        if frame is None:
            continue
        header = find_header(image)
        other, expected = first.setdefault(clip, (image, header))
        if (header.width, header.height) != (expected.width, expected.height):
            raise DataError(
                f"{image}: {header.width} x {header.height} pixels, {other} of the same clip has "
                f"{expected.width} x {expected.height}",
                fix="leave out what is no frame of it (exclude, in dataset.toml)",
            )


def describe_choice(said: Frames) -> str:
    return every_so_many(said.every) + (f", at most {said.max} a clip" if said.max else "")


def every_so_many(step: int) -> str:
    return "" if step == 1 else f", every {({2: '2nd', 3: '3rd'}).get(step, f'{step}th')}"


def expand_frames(card: DatasetCard, joined: Joined, headers: Mapping[str, Header]) -> Joined:
    """One entry a frame of every file that has several, each with its file's row of the table."""
    found = [headers.get(image) for image in joined.images]
    chosen = [choose_frames(card, header) for header in found]
    if all(each.frames == (None,) for each in chosen):
        return joined
    rows = [row for row, each in enumerate(chosen) for _ in each.frames]
    if not rows:
        raise DataError(
            f"{joined.images[0]}: every slice holds one value only, as in all other volumes",
            fix="bring the images themselves: these may be masks, or empty",
        )
    return replace(
        joined,
        images=tuple(frame_name(joined.images[row], frame) for row, each in enumerate(chosen) for frame in each.frames),
        files=tuple(joined.images[row] for row in rows),
        names=tuple(
            frame_name(joined.sample_ids[row], frame) for row, each in enumerate(chosen) for frame in each.frames
        ),
        captures=tuple(joined.captures[row] for row in rows),
        cells=joined.cells.iloc[rows],
        has_frames=True,
        notes=(*joined.notes, *describe_volumes(card, joined, found, chosen), *describe_clips(card, found, chosen)),
    )


def choose_frames(card: DatasetCard, header: Header | None) -> Chosen:
    if header is None or header.frames is None:
        return Chosen((None,))
    if header.is_volume:
        said = card.slices or WHOLE_VOLUME
        frames = range(0, header.frames, said.step)
        blank = set(header.blank).intersection(frames) if said.keep == "nonempty" else set()
        return Chosen(tuple(frame for frame in frames if frame not in blank), len(blank))
    clip = card.frames or WHOLE_CLIP
    return Chosen(tuple(range(0, header.frames, clip.every)[: clip.max]))


def describe_volumes(
    card: DatasetCard, joined: Joined, headers: list[Header | None], chosen: list[Chosen]
) -> tuple[str, ...]:
    rows = [row for row, header in enumerate(headers) if header and header.is_volume]
    if not rows:
        return ()
    said = card.slices or WHOLE_VOLUME
    across = f"axis {said.axis}" if said.axis is not None else usual_axes({joined.images[row] for row in rows})
    num_slices, num_blank = (
        sum(f(chosen[row]) for row in rows) for f in (lambda c: len(c.frames), lambda c: c.num_blank)
    )
    left_out = f"; {num_blank} that hold one value only are left out" if num_blank else ""
    axis = 0 if all(is_tiff_name(joined.images[row]) for row in rows) else 2
    guessed = "" if card.slices else f" (guessed; in dataset.toml: slices = {{axis = {axis}, step = 1}})"
    notes = [
        f"{len(rows)} volumes give {num_slices} slices across {across}{every_so_many(said.step)}{left_out}{guessed}"
    ]
    empty = [joined.images[row] for row in rows if not chosen[row].frames]
    if empty:
        notes.append(f"{len(empty)} volumes have no slice left, {empty[0]} the first of them")
    return tuple(notes)


def usual_axes(images: set[str]) -> str:
    """What a volume is cut across where the card names no axis."""
    tiffs = sum(map(is_tiff_name, images))
    return "axis 2 (axial)" if not tiffs else "their pages" if tiffs == len(images) else "axis 2, of a TIFF its pages"


def describe_clips(card: DatasetCard, headers: list[Header | None], chosen: list[Chosen]) -> tuple[str, ...]:
    rows = [row for row, header in enumerate(headers) if header and header.frames and not header.is_volume]
    if not rows:
        return ()
    said = card.frames or WHOLE_CLIP
    num_frames = sum(len(chosen[row].frames) for row in rows)
    guessed = "" if card.frames else " (all of them; in dataset.toml: frames = {every = 8, max = 16})"
    frames = f"{num_frames} frames are read as images{describe_choice(said)}{guessed}"
    return (f"{len(rows)} files hold several frames: {frames}",)
