"""Predict new files with trained models of any kind: labels, values or masks, of images or of volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.trained.classifying_volumes import classify_volumes
from zoo.trained.inputs import list_images
from zoo.trained.predicting import NewAnswer, find_rules, predict_images
from zoo.trained.second_input import attach_metadata
from zoo.trained.segmenting import by_answer, segment_images
from zoo.trained.segmenting_volumes import segment_volumes
from zoo.trained.volume_inputs import list_volumes

if TYPE_CHECKING:
    from zoo.trained.opening import OpenModel


def answer_files(
    models: Sequence[OpenModel],
    paths: Sequence[Path],
    cache: Path,
    *,
    tags: Sequence[str] = (),
    metadata: Path | None = None,
) -> tuple[int, Iterator[NewAnswer]]:
    """The number of images or volumes in some paths, and the answers in their order, predicted one after the other.

    `tags` are the DICOM tags that answers keep, `metadata` the table of a second input. The answers of a model of masks
    are `NewMask`. Raises UsageError for a path that does not exist, a table that the model does not take, and a missing
    one.
    """
    card = models[0].card
    has_masks = card.task_kind.targets.spatial
    if card.volumes:
        attach_metadata((), card, metadata)  # raises an error: no model takes metadata beside a volume
        volumes = list(list_volumes(paths, card, cache))
        answers: Iterator[NewAnswer] = (
            segment_volumes(models, volumes) if has_masks else classify_volumes(models, volumes, find_rules(models))
        )
        return len(volumes), answers
    listed = list_images(paths, by_answer(card), cache, tags)
    images = list(attach_metadata(listed, card, metadata))
    return len(images), (
        segment_images(models, images) if has_masks else predict_images(models, images, find_rules(models))
    )
