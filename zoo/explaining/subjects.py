"""The images that `zoo explain` is about: those that were named, or some of the test images of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.explaining.locating import FindMask, FolderMasks
from zoo.explaining.sampling import Place, TestedImages, open_tested, read_tested, sample_ids_of
from zoo.images.formats import split_frame
from zoo.system.progress import Progress
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage, list_images


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Some images, their masks if there are any, and whose they are."""

    images: list[NewImage]
    find_mask: FindMask | None
    owner_of: Callable[[str], str]  # an image's name -> its patient, else its file


def list_named(paths: Sequence[Path], card: ModelCard, cache: Path, tags: Sequence[str] = ()) -> Subject:
    """The images of some paths, with some DICOM tags."""
    return Subject(
        images=list(list_images(paths, card, cache, tags)),
        find_mask=None,
        owner_of=lambda name: split_frame(name)[0],
    )


def list_tested(folder: Path, card: ModelCard, place: Place, progress: Progress | None = None) -> Subject:
    """Some test images of the model in a folder of results."""
    test = read_tested(folder, card)
    tested = TestedImages(open_tested(card, place, progress), sample_ids_of(test))
    return Subject(
        images=list(tested.list_images()),
        find_mask=tested.find_mask if tested.has_masks else None,
        owner_of=tested.patient_of,
    )


def with_masks(subject: Subject, folder: Path) -> Subject:
    """The same images with the masks in a folder. Raises UsageError if none belongs to an image."""
    masks = FolderMasks(folder)
    masks.check([image.name for image in subject.images])
    return replace(subject, find_mask=masks)
