"""Expand files to frames: `scan.dcm` of 30 frames becomes `scan.dcm#0` to `scan.dcm#29`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.errors import DataError
from zoo.images.formats import all_have_pages, default_axis, frame_name, is_tiff_name, readers_of, split_frame
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.sources.cards import DatasetCard, Frames, Slices
from zoo.sources.joining import Joined

WHOLE_VOLUME = Slices()
WHOLE_CLIP = Frames()


def choose_axis(card: DatasetCard, root: Path, images: tuple[str, ...]) -> Reading:
    """Choose the axis across which slices are cut, and whether the pages of a TIFF are slices.

    Pages are slices if the card sets `slices`, or if every TIFF has several pages. Otherwise a TIFF with several pages
    is an error.
    """
    tiffs = [root / image for image in images if is_tiff_name(image)]
    pages = bool(tiffs) and (card.slices is not None or all_have_pages(tiffs))
    return replace(
        AS_STORED,
        axis=card.slices.axis if card.slices else None,
        pages=pages,
        crop=card.crop,
        readers=readers_of(images),
    )


@dataclass(frozen=True)
class Chosen:
    """The frames of a file that become images, counted from 0; (None,) for a file that is one image."""

    frames: tuple[int | None, ...]
    num_blank: int = 0  # slices left out because they have only one value


def expand_clips(card: DatasetCard, joined: Joined) -> Joined:
    """Replace the first frame of every clip by its chosen frames, each with the clip's row of the table."""
    if not joined.clips:
        return joined
    choice = card.frames or WHOLE_CLIP
    rows, images, names = [], [], []
    for row, image in enumerate(joined.images):
        clip = joined.clips.get(image)
        for number in range(0, len(clip.frames), choice.every)[: choice.max] if clip else (None,):
            rows.append(row)
            images.append(clip.frames[number] if clip and number is not None else image)
            names.append(frame_name(clip.name if clip else image, number))
    clips = [joined.clips[image] for image in joined.images if image in joined.clips]
    num_frames = sum(len(clip.frames) for clip in clips)
    note = f"{len(clips)} clips of {num_frames} frames in separate files{describe_choice(choice)}"
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
    """Refuse a clip whose frames, saved as separate files, differ in size: another file is among them."""
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
                f"{image}: {header.width} x {header.height} pixels, but {other} of the same clip has "
                f"{expected.width} x {expected.height}",
                fix="leave out files that are not frames of the clip: set `exclude` in dataset.toml",
            )


def describe_choice(choice: Frames) -> str:
    return every_so_many(choice.every) + (f", at most {choice.max} per clip" if choice.max else "")


def every_so_many(step: int) -> str:
    return "" if step == 1 else f", every {({2: '2nd', 3: '3rd'}).get(step, f'{step}th')}"


def expand_frames(card: DatasetCard, joined: Joined, headers: Mapping[str, Header]) -> Joined:
    """Replace every file of several frames by one entry per chosen frame, each with the file's row of the table."""
    header_of = [headers.get(image) for image in joined.images]
    chosen = [choose_frames(card, header) for header in header_of]
    if all(each.frames == (None,) for each in chosen):
        return joined
    rows = [row for row, each in enumerate(chosen) for _ in each.frames]
    if not rows:
        raise DataError(
            f"{joined.images[0]}: every slice has only one value, as in all other volumes",
            fix="these may be masks or empty volumes: name the folder with the images",
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
        notes=(
            *joined.notes,
            *describe_volumes(card, joined, header_of, chosen),
            *describe_clips(card, header_of, chosen),
        ),
    )


def choose_frames(card: DatasetCard, header: Header | None) -> Chosen:
    if header is None or header.frames is None:
        return Chosen((None,))
    if header.is_volume:
        choice = card.slices or WHOLE_VOLUME
        frames = range(0, header.frames, choice.step)
        blank = set(header.blank).intersection(frames) if choice.keep == "nonempty" else set()
        return Chosen(tuple(frame for frame in frames if frame not in blank), len(blank))
    clip = card.frames or WHOLE_CLIP
    return Chosen(tuple(range(0, header.frames, clip.every)[: clip.max]))


def describe_volumes(
    card: DatasetCard, joined: Joined, headers: list[Header | None], chosen: list[Chosen]
) -> tuple[str, ...]:
    rows = [row for row, header in enumerate(headers) if header and header.is_volume]
    if not rows:
        return ()
    choice = card.slices or WHOLE_VOLUME
    across = f"axis {choice.axis}" if choice.axis is not None else usual_axes({joined.images[row] for row in rows})
    num_slices, num_blank = (
        sum(f(chosen[row]) for row in rows) for f in (lambda c: len(c.frames), lambda c: c.num_blank)
    )
    left_out = f"; {num_blank} with only one value are left out" if num_blank else ""
    axis = max(default_axis(joined.images[row]) for row in rows)
    guessed = "" if card.slices else f" (guessed; in dataset.toml: slices = {{axis = {axis}, step = 1}})"
    notes = [
        f"{len(rows)} volumes give {num_slices} slices across {across}{every_so_many(choice.step)}{left_out}{guessed}"
    ]
    empty = [joined.images[row] for row in rows if not chosen[row].frames]
    if empty:
        notes.append(f"{len(empty)} volumes have no slice left, first {empty[0]}")
    return tuple(notes)


def usual_axes(images: set[str]) -> str:
    """Describe the default axis of volumes."""
    if not any(map(is_tiff_name, images)) and any(default_axis(image) == 0 for image in images):
        others = any(map(default_axis, images))
        return "axis 2 (of a plugin's files: axis 0)" if others else "axis 0"
    tiffs = sum(map(is_tiff_name, images))
    return "axis 2 (axial)" if not tiffs else "pages" if tiffs == len(images) else "axis 2 (TIFF: pages)"


def describe_clips(card: DatasetCard, headers: list[Header | None], chosen: list[Chosen]) -> tuple[str, ...]:
    rows = [row for row, header in enumerate(headers) if header and header.frames and not header.is_volume]
    if not rows:
        return ()
    choice = card.frames or WHOLE_CLIP
    num_frames = sum(len(chosen[row].frames) for row in rows)
    guessed = "" if card.frames else " (all of them; in dataset.toml: frames = {every = 8, max = 16})"
    frames = f"{num_frames} frames are read as images{describe_choice(choice)}{guessed}"
    return (f"{len(rows)} files have several frames: {frames}",)
