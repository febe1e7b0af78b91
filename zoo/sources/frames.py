"""Joined files and their headers to one row a frame: `scan.dcm` of 30 frames becomes `scan.dcm#0` to `scan.dcm#29`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from zoo.images import Header, frame_name
from zoo.sources.cards import Card
from zoo.sources.joining import Joined


def expand_frames(card: Card, joined: Joined, headers: Mapping[str, Header]) -> Joined:
    """One entry a frame of every file that has several, each with its file's row of the table."""
    chosen = [choose_frames(card, headers.get(image)) for image in joined.images]
    if all(frames == (None,) for frames in chosen):
        return joined
    rows = [row for row, frames in enumerate(chosen) for _ in frames]
    images = [frame_name(joined.images[row], frame) for row, frames in enumerate(chosen) for frame in frames]
    clips = sum(frames != (None,) for frames in chosen)
    note = f"{clips} files hold several frames: {len(images) - len(chosen) + clips} frames are read as images"
    return replace(
        joined,
        images=tuple(images),
        captures=tuple(joined.captures[row] for row in rows),
        cells=joined.cells.iloc[rows],
        notes=(*joined.notes, note),
    )


def choose_frames(card: Card, header: Header | None) -> tuple[int | None, ...]:  # noqa: ARG001
    """The frames of a file that become images, counted from 0; None alone for a file that is one image."""
    if header is None or header.frames is None:
        return (None,)
    return tuple(range(header.frames))
