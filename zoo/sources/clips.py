"""Frames saved as files of their own to clips: those of one folder, or of one `{clip}`, stand together as one."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass

from zoo.errors import DataError
from zoo.images.formats import is_single_name
from zoo.sources.cards import PATH_FACTS, Captures, DatasetCard, compile_pattern, placeholders

CLIP = "clip"  # the placeholder that names one


@dataclass(frozen=True)
class Clip:
    """A name, and its frames in natural order."""

    name: str
    frames: tuple[str, ...]


def fold_clips(
    card: DatasetCard, files: dict[str, Captures], deep: frozenset[str] = frozenset()
) -> tuple[dict[str, Captures], dict[str, Clip]]:
    """The files with the first frame alone in place of every clip, and the clips by that frame.

    A clip is what the pattern calls {clip}; without it, where the card speaks of frames, a folder of single images.
    Placeholders in `deep` may stand for a path.
    """
    is_named = CLIP in placeholders(card.images)
    if not is_named and card.frames is None:
        return files, {}
    compiled, names = compile_pattern(card.images, deep)
    frames: dict[str, list[str]] = defaultdict(list)
    for image in files:
        found = compiled.fullmatch(image) if is_named else None
        if found:
            frames[image[: found.end(f"g{names.index(CLIP)}")]].append(image)
        elif is_single_name(image):
            frames[posixpath.dirname(image)].append(image)
    clips = {
        images[0]: Clip(name or ".", tuple(images)) for name, images in frames.items() if is_single_name(images[0])
    }
    further = {frame for clip in clips.values() for frame in clip.frames[1:]}
    kept = {image: captures for image, captures in files.items() if image not in further}
    return shared_captures(kept, clips, files), clips


def shared_captures(
    kept: dict[str, Captures], clips: dict[str, Clip], of_all: dict[str, Captures]
) -> dict[str, Captures]:
    """What a path says of a frame, and not of its clip, is dropped; a clip in two classes or splits is a mistake."""
    differ = set()
    for first, clip in clips.items():
        for frame in clip.frames[1:]:
            for name, text in of_all[frame].items():
                if text == of_all[first][name]:
                    continue
                if name in PATH_FACTS:
                    raise DataError(
                        f"clip {clip.name}: {first} and {frame} differ in their {name}",
                        fix="correct one, or give each frame a clip of its own",
                    )
                differ.add(name)
    return {
        image: {name: text for name, text in captures.items() if name not in differ} for image, captures in kept.items()
    }
