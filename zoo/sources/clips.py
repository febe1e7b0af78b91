"""Combine frames saved as separate files to clips: those of one folder, or of one `{clip}` in the pattern."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass

from zoo.errors import DataError
from zoo.images.formats import is_single_name
from zoo.sources.cards import PATH_FACTS, Captures, DatasetCard, compile_pattern, placeholders

CLIP = "clip"  # the placeholder that names a clip


@dataclass(frozen=True)
class Clip:
    """A clip's name and its frames in natural order."""

    name: str
    frames: tuple[str, ...]


def fold_clips(
    card: DatasetCard, files: dict[str, Captures], deep: frozenset[str] = frozenset()
) -> tuple[dict[str, Captures], dict[str, Clip]]:
    """Keep only the first frame of each clip among the files; return these files, and the clips by first frame.

    A clip is what {clip} in the pattern matches; without {clip}, a folder of single images where the card sets
    `frames`. Placeholders in `deep` may match a path.
    """
    is_named = CLIP in placeholders(card.images)
    if not is_named and card.frames is None:
        return files, {}
    compiled, names = compile_pattern(card.images, deep)
    frames: dict[str, list[str]] = defaultdict(list)
    for image in files:
        match = compiled.fullmatch(image) if is_named else None
        if match:
            frames[image[: match.end(f"g{names.index(CLIP)}")]].append(image)
        elif is_single_name(image):
            frames[posixpath.dirname(image)].append(image)
    clips = {
        images[0]: Clip(name or ".", tuple(images)) for name, images in frames.items() if is_single_name(images[0])
    }
    later_frames = {frame for clip in clips.values() for frame in clip.frames[1:]}
    kept = {image: captures for image, captures in files.items() if image not in later_frames}
    return shared_captures(kept, clips, files), clips


def shared_captures(
    kept: dict[str, Captures], clips: dict[str, Clip], of_all: dict[str, Captures]
) -> dict[str, Captures]:
    """Drop placeholders in which the frames of a clip differ; refuse a clip in two classes, splits or patients."""
    differing = set()
    for first, clip in clips.items():
        for frame in clip.frames[1:]:
            for name, text in of_all[frame].items():
                if text == of_all[first][name]:
                    continue
                if name in PATH_FACTS:
                    raise DataError(
                        f"clip {clip.name}: its frames {first} and {frame} have a different {name}",
                        fix=f"correct the {name} of one, or make them separate clips",
                    )
                differing.add(name)
    return {
        image: {name: text for name, text in captures.items() if name not in differing}
        for image, captures in kept.items()
    }
