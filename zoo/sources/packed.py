"""Read a `dataset.toml` whose root is a `.npz`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.errors import nearest
from zoo.sources.arrays import Labels, describe_npz, read_npz_samples, understand_npz
from zoo.sources.assembly import Assembled, common_fields, find_unknown_labels
from zoo.sources.cards import DatasetCard, card_error
from zoo.sources.ignored_labels import ignored_note
from zoo.sources.targets import guess_positive, guessed_positive
from zoo.specs.dataset import Origin
from zoo.tasks.kinds import find_task

# Keys for files and tables; in a .npz the arrays define them.
NOT_IN_ARRAYS = frozenset(
    "images exclude table add join masks slices frames crop metadata hide".split()  # noqa: SIM905
)


def assemble_packed(card: DatasetCard, path: Path, card_path: Path, name: str) -> Assembled:
    """Assemble the images of an npz with its card: names of labels, images to leave out, known conflicts."""
    if mistakes := find_misplaced(card):
        raise card_error(card_path, mistakes)
    task, labels = find_task(card.task) if card.task else None, tuple(card.labels)
    npz, samples = understand_npz(path, task, labels), read_npz_samples(path, task=task, labels=labels)
    sample_ids = samples.table["sample_id"].to_numpy().astype(str)
    ids = set(sample_ids.tolist())
    mentions = [(f"drop.{number}", each) for number, each in enumerate(card.drop)]
    mentions += [
        (f"known_conflicts.{number}", each) for number, pair in enumerate(card.known_conflicts) for each in pair
    ]
    positive = card.label.positive
    mistakes = [
        f"{place}: unknown image {each!r}. {nearest(each, ids)}".rstrip() for place, each in mentions if each not in ids
    ]
    if positive and positive not in npz.labels.names:
        mistakes.append(f"label.positive: unknown label {positive!r}; the labels are {', '.join(npz.labels.names)}")
    mistakes += find_unknown_labels(card, npz.labels.names)
    mistakes += find_unignorable(card, npz.labels)
    if mistakes:
        raise card_error(card_path, mistakes)
    is_guess = npz.labels.task.targets.has_positive and not positive
    if is_guess:
        positive = guess_positive(npz.labels.names)
    kept = ~np.isin(sample_ids, card.drop)
    conflicts = tuple(pair for pair in card.known_conflicts if not set(pair) & set(card.drop))
    described = describe_npz(npz, card.name or name)
    columns = [i for i, label in enumerate(npz.labels.names) if label not in card.ignore]
    spec = replace(
        described,
        labels=tuple(npz.labels.names[i] for i in columns),
        title=card.title or described.title,
        positive=positive,
        patient=f"none: {card.patient.none}" if card.patient else described.patient,
        known_conflicts=conflicts,
        **common_fields(card),
    )
    samples = replace(
        samples,
        table=samples.table[kept].reset_index(drop=True),
        targets=samples.targets[kept][:, columns] if card.ignore else samples.targets[kept],
        notes=(
            *samples.notes,
            *((f"{len(card.drop)} images left out: listed in drop",) if card.drop else ()),
            *((guessed_positive(positive),) if is_guess else ()),
            *ignored_note(card.ignore),
        ),
        origin=Origin(path=card_path, root=path, card_root=path),
    )
    return Assembled(spec, samples)


def find_unignorable(card: DatasetCard, labels: Labels) -> list[str]:
    """Return the mistakes in `ignore`."""
    if card.ignore and labels.task.targets.form != "flags":
        return [f"ignore: labels can be left out of a multilabel task only; this one is {labels.task}"]
    if set(labels.names) <= set(card.ignore):
        return ["ignore leaves no label"]
    unknown = [each for each in card.ignore if each not in labels.names]
    return [f"ignore: unknown label {each!r}; the labels are {', '.join(labels.names)}" for each in unknown]


def find_misplaced(card: DatasetCard) -> list[str]:
    """Return one mistake per key that does not apply to images in arrays."""
    misplaced = sorted(card.model_fields_set & NOT_IN_ARRAYS)
    misplaced += sorted(f"label.{key}" for key in card.label.model_fields_set - {"positive"})
    misplaced += [f"patient.{key}" for key in ("column", "regex", "tag") if card.patient and getattr(card.patient, key)]
    misplaced += ["split"] if card.split and card.split.model_fields_set - {"folds", "val"} else []
    mistakes = [f"{place}: does not apply to a .npz, whose arrays define it; remove it" for place in misplaced]
    if isinstance(card.labels, dict):
        mistakes.append("labels: for a .npz, expected a list of names in the order of its numbers")
    return mistakes
