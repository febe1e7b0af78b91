"""Group the files of an image that are its channels: `a_0000.nii.gz` and `a_0001.nii.gz`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from zoo.images.formats import without_suffix


@dataclass(frozen=True, eq=False)
class Channels:
    """The files of the first channels, which stand for the images."""

    files: Mapping[str, tuple[str, ...]]  # of each image, its files
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    mistakes: tuple[str, ...] = ()

    @property
    def several(self) -> Mapping[str, tuple[str, ...]]:
        """The files of each image; {} if every image is one file."""
        return self.files if any(len(own) > 1 for own in self.files.values()) else {}


def find_channels(endings: Sequence[str], files: Collection[str]) -> Channels:
    """Find the files that end with the first of `endings` and, for each, those with the other endings."""
    if not endings:
        return Channels({file: (file,) for file in files})
    groups = {file: channel_files(file, endings) for file in files if without_suffix(file).endswith(endings[0])}
    further = {other for own in groups.values() for other in own[1:]}
    images = {file: own for file, own in groups.items() if file not in further}
    present = set(files)
    missing = [other for own in images.values() for other in own if other not in present]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    left_out = Counter({f"their names do not end with {endings[0]}": len(present - images.keys() - further)})
    return Channels(images, +left_out, (f"channels: {missing[0]} is missing{more}",) if missing else ())


def channel_files(first: str, endings: Sequence[str]) -> tuple[str, ...]:
    """The files of all channels of an image; `first` is that of the first channel."""
    stem = without_suffix(first)
    suffix, base = first[len(stem) :], stem.removesuffix(endings[0])
    return tuple(base + ending + suffix for ending in endings)


def endings_of(names: Sequence[str]) -> tuple[str, ...]:
    """What distinguishes the names of the files of an image, without suffix; () for one file."""
    stems = [without_suffix(name) for name in names]
    first, last = min(stems), max(stems)
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return tuple(stem[shared:] for stem in stems) if len(names) > 1 else ()
