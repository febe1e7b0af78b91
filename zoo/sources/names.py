"""Names of images and folders to the card's patient: guessed on strong evidence only, and always said."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from zoo.sources.cards import Patient

# Names of folders that hold images and say nothing about them: images_001, HAM10000_images_part_1, train_images
CONTAINER_WORDS = frozenset(
    "image images img imgs picture pictures photo photos part parts batch chunk data raw "  # noqa: SIM905
    "png jpg jpeg tif tiff bmp".split()
)
# One of two classes whose name holds such a word is the negative one: the other is called positive.
NEGATIVE_WORDS = frozenset(
    "no none not non normal negative neg benign healthy control controls absent false nv naevus nevus "  # noqa: SIM905
    "uninfected regular well unremarkable".split()
)
MIN_FOLDERS = 5  # in every class: no fewer than there are folds


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


# The part of a name before its last piece, where a number is in it: P017 of P017_2, 042-L of 042-L-CC
STEM = r"([^/]*[0-9][^/]*)[-_ ][A-Za-z0-9]+\.[^./]+$"


def suggest_patient(images: tuple[str, ...]) -> str:
    """What to say in dataset.toml if the names tell the patient, where many share a part; no more than a hint."""
    expression = re.compile(STEM)
    found = [match[1] for image in images if (match := expression.search(image))]
    stems = Counter(found)
    shared = [stem for stem, count in stems.items() if count > 1]
    if len(found) < len(images) or len(stems) < MIN_FOLDERS or 2 * len(shared) < len(stems):
        return ""
    first, second = [posixpath.basename(i) for i, stem in zip(images, found, strict=True) if stem == shared[0]][:2]
    return (
        f"the names of the {len(images)} images share {len(stems)} beginnings, as {first} and {second} do: if each is "
        f"a patient, say in dataset.toml patient = {{regex = '{STEM}'}}"
    )


def is_negative(name: str) -> bool:
    """Whether a class is called normal, benign or so."""
    return bool(NEGATIVE_WORDS & set(re.split(r"[^a-z]+", name.lower())))


# --- folders ---------------------------------------------------------------------------------------------------------
def is_container(folder: str) -> bool:
    return folder.isdecimal() or holds_images(folder)


def holds_images(folder: str) -> bool:
    return bool(CONTAINER_WORDS & set(re.split(r"[^a-z]+", folder.lower())))


def guess_patient_folder(images: tuple[str, ...], pattern: str, notes: list[str]) -> Patient | None:
    """The folders below those of the classes as patients, exams or clips: whatever they are, they are not parted.

    `pattern` says which folders are split and class. Of nested folders the outermost are taken of which every class
    has several. One name in two classes is one patient; in two official splits it may mean two.
    """
    parts = pattern.removesuffix("/**/*").split("/")
    depth = len(parts)
    split = next((level for level, part in enumerate(parts) if "{split}" in part), None)
    folders = [image.split("/")[:-1] for image in images]
    for level in range(depth, min(map(len, folders))):
        in_class: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            in_class["/".join(folder[:depth])].add("/".join(folder[: level + 1]))
        found = set[str]().union(*in_class.values())
        if min(map(len, in_class.values())) < MIN_FOLDERS or len(found) == len(images):
            continue
        if any(holds_images(posixpath.basename(folder)) for folder in found):
            continue
        splits_of: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            splits_of[folder[level]].add("" if split is None else folder[split])
        above = f"(?:[^/]+/){{{level}}}"
        is_path = any(len(splits) > 1 for splits in splits_of.values())
        notes.append(
            f"the {len(images)} images lie in {len(found)} folders below the classes: those of one are kept together "
            "(guessed; if they are frames of clips, say frames = {every = 1} in dataset.toml)"
        )
        return Patient(regex=f"^({above}[^/]+)/" if is_path else f"^{above}([^/]+)/", means="folder")
    return None
