"""Image names of a few well-known shapes to the card's patient: guessed on strong evidence only, and always said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from zoo.sources.cards import Patient


@dataclass(frozen=True)
class Shape:
    """How the files of a well-known set are named. Every image must be named so."""

    what: str
    regex: str  # on the path; the group is the patient
    pairs: bool = False  # some patient must have several images, else the names may mean something else


SHAPES = (
    Shape("an eye of each side: 10_left, 10_right", r"(?:^|/)([0-9]+)_(?:left|right)\.[^./]+$", pairs=True),
    # The number alone is no key: person 1 with bacteria is in train, person 1 with a virus in test
    Shape(
        "Kermany's chest X-rays: person1_bacteria_2, IM-0115-0001",
        r"(?:^|/)(person[0-9]+_(?:bacteria|virus)|(?:NORMAL2-)?IM-[0-9]+)[-_][^/]*$",
    ),
    Shape(
        "Kermany's numbered patients: CNV-1016042-1, VIRUS-6875-0001",
        r"(?:^|/)(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-([0-9]+)-[0-9]+\.[^./]+$",
    ),
)


def guess_patient(images: tuple[str, ...], notes: list[str]) -> Patient | None:
    """The patient in the names of the images, where they are of a known shape without an exception."""
    for shape in SHAPES:
        expression = re.compile(shape.regex)
        found = []
        for image in images:
            match = expression.search(image)
            if match is None:
                break
            found.append(match[1])
        patients = Counter(found)
        if len(found) < len(images) or (shape.pairs and max(patients.values()) < 2):
            continue
        notes.append(f"patient read from the file names ({shape.what}): {len(patients)} of {len(images)} images")
        return Patient(regex=shape.regex, means="patient")
    return None
