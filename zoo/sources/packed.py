"""Read a `dataset.toml` whose root is a `.npz`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.errors import nearest
from zoo.sources.arrays import describe_npz, read_npz_samples, understand_npz
from zoo.sources.assembly import Assembled, find_unknown_labels, said_of_any
from zoo.sources.cards import DatasetCard, card_error
from zoo.sources.targets import guess_positive, guessed_positive
from zoo.specs.dataset import Origin
from zoo.tasks.kinds import BINARY, find_task

# What files and tables need; in a .npz the arrays say it.
NOT_IN_ARRAYS = frozenset(
    "images exclude table add join masks slices frames crop metadata hide".split()  # noqa: SIM905
)


def assemble_packed(card: DatasetCard, path: Path, card_path: Path, name: str) -> Assembled:
    """The images of an npz with what a card says of them: names of labels, what to leave out, known conflicts."""
    if mistakes := find_misplaced(card):
        raise card_error(card_path, mistakes)
    task, labels = find_task(card.task) if card.task else None, tuple(card.labels)
    npz, samples = understand_npz(path, task, labels), read_npz_samples(path, task=task, labels=labels)
    sample_ids = samples.table["sample_id"].to_numpy().astype(str)
    known = set(sample_ids.tolist())
    named = [(f"drop.{number}", each) for number, each in enumerate(card.drop)]
    named += [(f"known_conflicts.{number}", each) for number, pair in enumerate(card.known_conflicts) for each in pair]
    positive = card.label.positive
    mistakes = [
        f"{place}: no image {each!r}. {nearest(each, known)}".rstrip() for place, each in named if each not in known
    ]
    if positive and positive not in npz.labels.names:
        mistakes.append(f"label.positive: no label {positive!r}; there are {', '.join(npz.labels.names)}")
    mistakes += find_unknown_labels(card, npz.labels.names)
    if mistakes:
        raise card_error(card_path, mistakes)
    guessed = npz.labels.task == BINARY and not positive
    if guessed:
        positive = guess_positive(npz.labels.names)
    kept = ~np.isin(sample_ids, card.drop)
    conflicts = tuple(pair for pair in card.known_conflicts if not set(pair) & set(card.drop))
    found = describe_npz(npz, card.name or name)
    spec = replace(
        found,
        title=card.title or found.title,
        positive=positive,
        patient=f"none: {card.patient.none}" if card.patient else found.patient,
        known_conflicts=conflicts,
        **said_of_any(card),
    )
    samples = replace(
        samples,
        table=samples.table[kept].reset_index(drop=True),
        targets=samples.targets[kept],
        notes=(
            *samples.notes,
            *((f"{len(card.drop)} images left out: named by drop",) if card.drop else ()),
            *((guessed_positive(positive),) if guessed else ()),
        ),
        origin=Origin(path=card_path, root=path, card_root=path),
    )
    return Assembled(spec, samples)


def find_misplaced(card: DatasetCard) -> list[str]:
    """Every key that says nothing of images in arrays."""
    misplaced = sorted(card.model_fields_set & NOT_IN_ARRAYS)
    misplaced += sorted(f"label.{key}" for key in card.label.model_fields_set - {"positive"})
    misplaced += [f"patient.{key}" for key in ("column", "regex", "tag") if card.patient and getattr(card.patient, key)]
    misplaced += ["split"] if card.split and card.split.model_fields_set - {"folds", "val"} else []
    mistakes = [f"{place}: does not fit a .npz, whose arrays say it" for place in misplaced]
    if isinstance(card.labels, dict):
        mistakes.append("labels: of a .npz, a list of names in the order of its numbers")
    return mistakes
