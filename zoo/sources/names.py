"""Guess the patient from names of images and folders, on strong evidence only and always with a note."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from zoo.images.formats import kind_by_name
from zoo.sources.cards import Patient

# Words in folder names without a meaning for the images: images_001, HAM10000_images_part_1, train_images
CONTAINER_WORDS = frozenset(
    "image images img imgs picture pictures photo photos part parts batch chunk data raw "  # noqa: SIM905
    "png jpg jpeg tif tiff bmp".split()
)
# A class whose name contains such a word is the negative one of two.
NEGATIVE_WORDS = frozenset(
    "no none not non normal negative neg benign healthy control controls absent false nv naevus nevus "  # noqa: SIM905
    "uninfected regular well unremarkable "
    "gesund kein keine negativ gutartig sain saine sano sana negatif negativo negativa benigno benigna benin".split()
)
MIN_FOLDERS = 5  # in every class: at least the number of folds


@dataclass(frozen=True)
class Shape:
    """The file names of a well-known dataset; every image must match."""

    what: str
    regex: str  # on the path; its group is the patient
    pairs: bool = False  # require a patient with several images, as the names may have another meaning


SHAPES = (
    Shape("a left and a right eye: 10_left, 10_right", r"(?:^|/)([0-9]+)_(?:left|right)\.[^./]+$", pairs=True),
    # The number alone is not a key: person1_bacteria is in train, person1_virus is another person in test
    Shape(
        "Kermany's chest X-rays: person1_bacteria_2, IM-0115-0001",
        r"(?:^|/)(person[0-9]+_(?:bacteria|virus)|(?:NORMAL2-)?IM-[0-9]+)[-_][^/]*$",
    ),
    Shape(
        "Kermany's numbered patients: CNV-1016042-1, VIRUS-6875-0001",
        r"(?:^|/)(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-([0-9]+)-[0-9]+\.[^./]+$",
    ),
    Shape("NIH's chest X-rays: 00000005_001", r"(?:^|/)([0-9]{8})_[0-9]{3}\.[^./]+$", pairs=True),
)


def guess_patient(images: tuple[str, ...], notes: list[str]) -> Patient | None:
    """Return the patient in the names of the images if all of them match one known shape, else None."""
    for shape in SHAPES:
        expression = re.compile(shape.regex)
        keys = []
        for image in images:
            match = expression.search(image)
            if match is None:
                break
            keys.append(match[1])
        patients = Counter(keys)
        if len(keys) < len(images) or (shape.pairs and max(patients.values()) < 2):
            continue
        notes.append(f"patient read from the file names ({shape.what}): {len(patients)} of {len(images)} images")
        return Patient(regex=shape.regex, means="patient")
    return None


# The part of a name before its last piece, if it contains a number: P017 of P017_2, 042-L of 042-L-CC
STEM = r"([^/]*[0-9][^/]*)[-_ ][A-Za-z0-9]+\.[^./]+$"


def suggest_patient(images: tuple[str, ...], ending: str = "") -> str:
    """Return a hint on what to set in dataset.toml if many names share a beginning, which may be the patient; or "".

    `ending` is what all names have in common before their suffix.
    """
    suffix = kind_by_name(images[0])
    several = bool(ending) or suffix.count(".") > 1
    regex = STEM.replace(r"\.[^./]+$", re.escape(ending + suffix) + "$") if several else STEM
    expression = re.compile(regex)
    beginnings = [match[1] for image in images if (match := expression.search(image))]
    stems = Counter(beginnings)
    shared = [stem for stem, count in stems.items() if count > 1]
    if len(beginnings) < len(images) or len(stems) < MIN_FOLDERS or 2 * len(shared) < len(stems):
        return ""
    first, second = [posixpath.basename(i) for i, stem in zip(images, beginnings, strict=True) if stem == shared[0]][:2]
    return (
        f"the names of the {len(images)} images share {len(stems)} beginnings, as {first} and {second} do: if each is "
        f"a patient, set in dataset.toml patient = {{regex = '{regex}'}}"
    )


def is_negative(name: str) -> bool:
    """Whether a class is named normal, benign or similar."""
    return bool(NEGATIVE_WORDS & set(re.split(r"[^a-z]+", name.lower())))


# --- folders ---------------------------------------------------------------------------------------------------------
def is_container(folder: str) -> bool:
    return folder.isdecimal() or holds_images(folder)


def holds_images(folder: str) -> bool:
    return bool(CONTAINER_WORDS & set(re.split(r"[^a-z]+", folder.lower())))


def guess_patient_folder(images: tuple[str, ...], pattern: str, notes: list[str]) -> Patient | None:
    """Take the folders below the classes as patients, exams or clips, so that no folder is in two splits.

    `pattern` defines which folders are split and class. Among nested folders, take the outermost level of which every
    class has several. The same name in two classes is one patient; in two official splits it may be two patients.
    """
    parts = pattern.removesuffix("/**/*").split("/")
    depth = len(parts)
    split = next((level for level, part in enumerate(parts) if "{split}" in part), None)
    folders = [image.split("/")[:-1] for image in images]
    for level in range(depth, min(map(len, folders))):
        in_class: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            in_class["/".join(folder[:depth])].add("/".join(folder[: level + 1]))
        all_folders = set[str]().union(*in_class.values())
        if min(map(len, in_class.values())) < MIN_FOLDERS or len(all_folders) == len(images):
            continue
        if any(holds_images(posixpath.basename(folder)) for folder in all_folders):
            continue
        splits_of: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            splits_of[folder[level]].add("" if split is None else folder[split])
        above = f"(?:[^/]+/){{{level}}}"
        is_path = any(len(splits) > 1 for splits in splits_of.values())
        notes.append(
            f"the {len(images)} images are in {len(all_folders)} folders below the classes: each folder stays in one "
            "split (guessed; if they are frames of clips, set frames = {every = 1} in dataset.toml)"
        )
        return Patient(regex=f"^({above}[^/]+)/" if is_path else f"^{above}([^/]+)/", means="folder")
    return None
