"""The labels that a card leaves out of a task with several labels per image."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import DataError, nearest
from zoo.sources.cards import DatasetCard
from zoo.sources.listing import one_form


def names_in_card(card: DatasetCard) -> dict[str, str]:
    """Map the text of each label to its name in the card; empty if the card does not set `labels`."""
    names = card.labels if isinstance(card.labels, dict) else {label: label for label in card.labels}
    return {one_form(text): one_form(name) for text, name in names.items()}


def find_ignored(card: DatasetCard, present: Sequence[str]) -> tuple[str, ...]:
    """The labels of the data that the card leaves out; raise DataError if it names one that is not there, or all."""
    named, listed = names_in_card(card), [one_form(label) for label in card.ignore if label != "*"]
    for label in listed:
        if label in named:
            raise DataError(f"ignore: {label!r} is in labels too", fix="remove it from one of them")
        if label not in present:
            hint = nearest(label, present) or f"the labels are {', '.join(present[:10])}"
            raise DataError(f"ignore: unknown label {label!r}", fix=hint)
    ignored = tuple(label for label in present if label in listed or ("*" in card.ignore and label not in named))
    if ignored and len(ignored) == len(present):
        raise DataError("ignore leaves no label", fix="remove a label from `ignore`")
    return ignored


def ignored_note(ignored: Sequence[str]) -> tuple[str, ...]:
    return (f"labels left out: {', '.join(ignored)} (`ignore`)",) if ignored else ()
