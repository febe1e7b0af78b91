"""What `zoo explain` is about: the images or volumes that were named, or some of the model's test split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.errors import UsageError
from zoo.explaining.locating import FindMask, FolderMasks
from zoo.explaining.sampling import Place, TestedImages, open_tested, read_tested, sample_ids_of
from zoo.system.progress import Progress
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage, list_images
from zoo.trained.segmenting import by_answer
from zoo.trained.volume_inputs import NewVolume, list_volumes


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Some images or volumes, the masks of images if there are any, and whose they are."""

    images: Sequence[NewImage | NewVolume]
    find_mask: FindMask | None
    owner_of: Callable[[str], str]  # an image's name -> its patient; its file if that is unknown


def list_named(paths: Sequence[Path], card: ModelCard, cache: Path, tags: Sequence[str] = ()) -> Subject:
    """The images of some paths, with some DICOM tags, or the volumes."""
    rule = card.seen.get("patient") or {}
    if card.dims == 3:
        volumes = list(list_volumes(paths, card, cache))
        return Subject(images=volumes, find_mask=None, owner_of=lambda name: find_named_owner(name, rule) or name)
    images = list(list_images(paths, by_answer(card), cache, tags))
    owners = {image.name: find_owner(image, rule) for image in images}
    return Subject(images=images, find_mask=None, owner_of=owners.__getitem__)


def find_owner(image: NewImage, rule: Mapping[str, str]) -> str:
    """The patient of an image by the training data's rule if it applies, else by PatientID; else its file."""
    tags = image.header.tags if image.header else {}
    in_tags = tags.get(rule.get("tag", ""), "") or tags.get("PatientID", "")
    return find_named_owner(image.name, rule) or in_tags or image.file


def find_named_owner(name: str, rule: Mapping[str, str]) -> str:
    """The patient in a path by the training data's rule, or ""."""
    return patient_in_path(rule["regex"], name) if "regex" in rule else ""


def patient_in_path(expression: str, path: str) -> str:
    """The first group in the shortest end of a path that matches, or "": the rule is about paths within a dataset."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in reversed(range(len(parts))))
    return next((match[1] for end in ends if (match := re.search(expression, end)) and match[1]), "")


def list_tested(folder: Path, card: ModelCard, place: Place, progress: Progress | None = None) -> Subject:
    """Some test images of the model in a folder of results."""
    test = read_tested(folder, card)
    tested = TestedImages(open_tested(card, place, progress), sample_ids_of(test))
    return Subject(
        images=list(tested.list_inputs(card.dims)),
        find_mask=tested.find_mask if tested.has_masks and card.dims == 2 else None,
        owner_of=tested.patient_of,
    )


def with_masks(subject: Subject, folder: Path, card: ModelCard) -> Subject:
    """The same images with the masks in a folder. Raises UsageError if none belongs to an image."""
    if card.dims == 3:
        raise UsageError(f"--masks are of images, but {card.name} reads volumes", fix="leave --masks out", code="masks")
    has_numbers = card.task_kind.targets.spatial and len(card.labels) > 1
    masks = FolderMasks(folder, has_numbers)
    masks.check([image.name for image in subject.images])
    return replace(subject, find_mask=masks)
