"""List and read new volumes: files and folders; what cannot be read is refused by name."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from zoo.arrays import Array
from zoo.data.volumes import check_resampled_size, check_values, sides_of
from zoo.errors import DataError, UsageError, clean
from zoo.images.formats import is_volume_name
from zoo.images.label_maps import read_grid
from zoo.images.placement import Spacing
from zoo.sources.channels import find_channels
from zoo.sources.listing import check_file_name
from zoo.sources.whole_volumes import read_channels, read_voxel_size, read_whole_volume
from zoo.trained.card import ModelCard
from zoo.trained.inputs import File, list_inputs, problem_of
from zoo.trained.predicting import NewAnswer

AnyAnswer = TypeVar("AnyAnswer", bound=NewAnswer)

MAX_RATIO = 2  # of the sides of a volume to those of the training volumes


@dataclass(frozen=True, kw_only=True, eq=False)
class NewVolume:
    """A volume to predict, or the reason why it is refused."""

    name: str  # as in the command; of several files, that of the first channel
    files: tuple[Path, ...] = ()  # of the channels, or one file
    read: Callable[[], ReadVolume] | None = None  # of a dataset, in place of files
    refused: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadVolume:
    """The values of a volume (A, B, C') or (A, B, C', channels) in RAS+ order, and how it differs from training."""

    values: Array
    spacing: Spacing | None  # mm per voxel
    differs: tuple[str, ...]


def list_volumes(paths: Sequence[Path], card: ModelCard, cache: Path) -> Iterator[NewVolume]:
    """Yield the volumes of files and folders. Other files of a folder are refused together.

    Raises UsageError for a path that does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", fix="correct the path", code="data")
    files: dict[str, Path] = {}
    others: dict[str, list[str]] = defaultdict(list)  # by folder
    for each in (each for path in paths for each in list_inputs(path, cache)):
        if isinstance(each, File) and is_volume_name(each.name):
            files[each.name] = each.path
        elif isinstance(each, File):
            others[posixpath.dirname(each.name)].append(each.name)
        else:
            yield NewVolume(name=each.name, refused=each.refused or f"{each.name}: not a volume", fix=each.fix)
    yield from group_channels(files, card)
    for names in others.values():
        yield refuse_others(names)


def group_channels(files: dict[str, Path], card: ModelCard) -> Iterator[NewVolume]:
    """Join the files of the channels of a volume if those of the training volumes were files of their own."""
    assert card.volumes is not None
    groups = find_channels(card.volumes["endings"], files).files
    further = {each for own in groups.values() for each in own[1:]}
    for name, path in files.items():
        if name in further:
            continue
        own = groups.get(name, (name,))
        if missing := [each for each in own if each not in files]:
            yield NewVolume(name=name, refused=f"{missing[0]}: missing, a channel of {name}", fix="add this file")
            continue
        yield NewVolume(name=name, files=tuple(files[each] for each in own) if len(own) > 1 else (path,))


def refuse_others(names: Sequence[str]) -> NewVolume:
    more = f" (and {len(names) - 1} more in its folder)" if len(names) > 1 else ""
    return NewVolume(
        name=clean(names[0]),
        refused=clean(f"{names[0]}{more}: the model reads volumes, such as .nii.gz"),
        fix="convert a series of DICOM to NIfTI, for example with dcm2niix",
    )


def answer_volumes(
    volumes: Sequence[NewVolume], answer: Callable[[NewVolume], AnyAnswer], kind: type[AnyAnswer]
) -> Iterator[AnyAnswer]:
    """Yield the answers, of one kind, in the order of the volumes; one volume is in memory."""
    for volume in volumes:
        if volume.refused:
            yield kind(name=volume.name, refused=volume.refused, fix=volume.fix)
            continue
        try:
            given = answer(volume)
        except Exception as error:  # a decoder may raise anything; the other volumes are predicted
            problem, fix = problem_of(volume.name, error)
            given = kind(name=volume.name, refused=clean(problem), fix=fix)
        yield given


def read_new_volume(volume: NewVolume, card: ModelCard) -> ReadVolume:
    """Read a volume as the bench read those of training. Raises DataError for what training would have refused."""
    if volume.read is not None:
        return volume.read()
    assert card.volumes is not None
    first = volume.files[0]
    check_file_name(first, volume.name)
    grid, spacing = read_grid(first).shape, read_voxel_size(first.parent, first.name)
    if spacing is None and is_in_mm(card):
        of_training = f" is {describe_spacing(target)}" if (target := card.volumes["spacing"]) else " is known"
        raise DataError(
            f"{volume.name}: the size of its voxels is unknown, that of the training volumes{of_training}",
            fix="give a NIfTI whose header has the size of its voxels",
            code="geometry",
        )
    target = card.volumes["spacing"]
    check_resampled_size(volume.name, grid, spacing, target and tuple(target))
    differs = find_other_size(card, grid, spacing)
    return ReadVolume(values=read_values_of(volume, card), spacing=spacing, differs=differs)


def read_values_of(volume: NewVolume, card: ModelCard) -> Array:
    """The values of a volume, with as many channels as those of training."""
    first = volume.files[0]
    if len(volume.files) == 1:
        values = read_whole_volume(first.parent, first.name)
    else:
        names = tuple(str(path) for path in volume.files)
        values = read_channels(Path(), {names[0]: names}, names[0])
    check_values(values, volume.name)
    channels = values.shape[3] if values.ndim == 4 else 1
    if channels != card.channels:
        raise DataError(
            f"{volume.name}: {channels} channels, but the training volumes have {card.channels}",
            fix="give all channels of the training volumes, in their order",
            code="channels",
        )
    return values


def describe_spacing(spacing: Sequence[float]) -> str:
    return f"{' x '.join(f'{step:.4g}' for step in spacing)} mm"


def is_in_mm(card: ModelCard) -> bool:
    """Whether the size of the voxels of every training volume is known."""
    assert card.volumes is not None
    return bool(card.volumes.get("in_mm", card.volumes["spacing"]))  # missing in older cards, of masks


def find_other_size(card: ModelCard, grid: Sequence[int], spacing: Spacing | None) -> tuple[str, ...]:
    """("size",) if a side of a volume is under half or over twice those of the training volumes."""
    assert card.volumes is not None
    smallest, largest = card.volumes["sides"]
    sides = np.array(sides_of(grid, spacing if is_in_mm(card) else None))
    inside = (sides >= np.array(smallest) / MAX_RATIO) & (sides <= np.array(largest) * MAX_RATIO)
    return () if inside.all() else ("size",)
