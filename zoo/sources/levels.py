"""Guess which level of folders is the split, the label and the patient, from the folder names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.errors import DataError
from zoo.sources.listing import natural_key, words_of
from zoo.sources.names import MIN_FOLDERS, holds_images, is_negative
from zoo.sources.selection import split_of

LEVEL_SHARE = 0.9  # of the images must be at least this deep for a level to count
MANY_FOLDERS = 20  # more folders with names of one shape are patients or exams, whatever the names
MAX_CODES = 10  # more bare numbers are patients or images rather than grades
MAX_LISTED = 3
# Names of views, sides and visits: beside another level, such a level is not the label
VIEWS = frozenset(
    "left right l r od os ap pa cc mlo lateral frontal oblique axial coronal sagittal t1 t2 flair dwi adc t1ce "  # noqa: SIM905
    "view views x study studies visit session scan series sequence day week month slice slices frame frames".split()
)
PERSON = r"(?:p|pt|pat|patients?|sub|subj|subject|case|id|s|study|person|participant|donor|mouse|rat|animal)[-_ ]*\d+"
PEOPLE = re.compile(rf"{PERSON}.*|\d{{3,}}|[\d.]{{15,}}", re.IGNORECASE)
CLASS_AND_PERSON = re.compile(rf"([^-_ ]+)([-_ ]+){PERSON}", re.IGNORECASE)  # ill_P01
GRADES = frozenset(
    "grade class stage level score type category label birads kl isup gleason degree group severity".split()  # noqa: SIM905
)
Paths = Sequence[list[str]]  # the folders of every image, from the top


def guess_pattern(root: Path, images: Iterable[str], *, clips: bool = False) -> str:
    """Guess the pattern of class folders, such as `{split}/{label}/**/*`; "" if no folder is a label.

    `clips`: the card sets `frames`, so the folders below the classes are clips.
    Raise DataError if two levels could be the label, or if a folder contains a second copy of the dataset.
    """
    paths = [image.split("/")[:-1] for image in images]
    split, glob = find_split(paths)
    if split == 0 and glob == "{split}":
        paths = [path for path in paths if path and split_of(path[0])]
    depth = max((len(path) for path in paths), default=0)
    levels = [level for level in range(depth) if sum(len(path) > level for path in paths) >= LEVEL_SHARE * len(paths)]
    levels = [level for level in levels if level != split and len(names_at(paths, level)) > 1]
    if not levels:
        check_splits_have_folders(root, paths, split)
        return ""
    check_not_within_itself(root, paths, levels[0])
    people = [level for level in levels if are_people(names_at(paths, level), paths, levels)]
    others = [level for level in levels if level not in people]
    if people and all(is_view(name) for level in others for name in names_at(paths, level)):
        return ""
    label = choose_label(root, paths, others[:1] if clips else others)
    if label is None:
        return ""
    parts = ["*"] * (label + 1)
    separator = person_separator(names_at(paths, label))
    parts[label] = f"{{label}}{separator}{{patient}}" if separator else "{label}"
    people = [] if separator else people
    for level in [level for level in people if level < label][-1:]:
        parts[level] = "{patient}"
    if split is not None:
        parts += ["*"] * (split + 1 - len(parts))
        parts[split] = glob
    return "/".join([*parts, "**", "*"])


def names_at(paths: Paths, level: int) -> set[str]:
    return {path[level] for path in paths if len(path) > level}


def find_split(paths: Paths) -> tuple[int | None, str]:
    """Return the level whose folders name splits, and its pattern: `{split}`, `ISIC_{split}_images`."""
    if any(path and split_of(path[0]) for path in paths):
        return 0, "{split}"
    for level in range(max((len(path) for path in paths), default=0)):
        if all(len(path) > level for path in paths) and (glob := split_glob(names_at(paths, level))):
            return level, glob
    return None, ""


def split_glob(names: set[str]) -> str:
    """Return the pattern of two or more names that each contain a split between a common prefix and suffix, or ""."""
    if len(names) < 2 or any(set(name) & set("*?{}") for name in names):
        return ""
    head = re.sub(r"[A-Za-z0-9]*$", "", os.path.commonprefix(sorted(names)))  # noqa: RUF071
    rest = [name[len(head) :] for name in names]
    tail = re.sub(r"[A-Za-z0-9]*$", "", os.path.commonprefix([name[::-1] for name in rest]))[::-1]  # noqa: RUF071
    for before, after in (("", ""), (head, tail)):
        splits = [split_of(name[len(before) : len(name) - len(after)]) for name in names]
        if all(splits) and len(set(splits)) == len(names):
            return f"{before}{{split}}{after}"
    return ""


def are_people(names: set[str], paths: Paths = (), levels: Sequence[int] = ()) -> bool:
    """Whether folders are patients or exams: by their names, or as many more numbered folders than at other levels."""
    if len(names) < MIN_FOLDERS or any(GRADES & set(words_of(name)) or holds_images(name) for name in names):
        return False
    if all(map(PEOPLE.fullmatch, names)):
        return True
    if not is_numbered(names) or are_codes(names):
        return False
    others = [count for level in levels if (count := len(names_at(paths, level))) != len(names)]
    return len(names) > MANY_FOLDERS or any(len(names) > 2 * count for count in others)


def are_codes(names: Iterable[str]) -> bool:
    """Whether names are the numbers from 0 or 1 up to at most ten of them, as grades or classes may have."""
    numbers = sorted(int(name) if name.isdecimal() else -1 for name in names)
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) <= MAX_CODES


def person_separator(names: set[str]) -> str:
    """Return what separates class and patient in names such as ill_P01 and well_P02, or "" for other names."""
    matches = [CLASS_AND_PERSON.fullmatch(name) for name in names]
    pairs = {(match[1], match[2]) for match in matches if match}
    classes, separators = {name for name, _ in pairs}, {separator for _, separator in pairs}
    is_shared = all(matches) and len(separators) == 1 and 2 <= len(classes) <= len(names) // 2
    return separators.pop() if is_shared and len(names) >= MIN_FOLDERS else ""


def is_numbered(names: Iterable[str]) -> bool:
    """Whether names differ in their numbers only: P001, P002, or 1, 2, 3."""
    shapes = {re.sub(r"\d+", "0", name) for name in names}
    return len(shapes) == 1 and "0" in min(shapes)


def choose_label(root: Path, paths: Paths, levels: Sequence[int]) -> int | None:
    """Return the level that is the label, or None; raise DataError if there are two."""
    candidates = [level for level in levels if not all(map(is_view, names_at(paths, level)))] or list(levels[:1])
    first = candidates[:1]
    candidates = first + [level for level in candidates[1:] if not are_parts(paths, first[0], level)]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    with_negative = [level for level in candidates if any(map(is_negative, names_at(paths, level)))]
    if len(with_negative) == 1:
        return with_negative[0]
    patterns = ["/".join([*["*"] * level, "{label}", "**", "*"]) for level in candidates]
    raise DataError(
        f"{root}: two levels of folders could be the label: "
        f"{' or '.join(list_names(names_at(paths, k)) for k in candidates)}",
        fix=f"set in dataset.toml images = {' or '.join(map(repr, patterns))}".replace("'", '"'),
        code="label-level",
    )


def list_names(names: set[str]) -> str:
    ordered = sorted(names, key=natural_key)
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return ", ".join(ordered[:MAX_LISTED]) + more


def is_view(name: str) -> bool:
    """Whether a folder name says only "images", a view, a side or a visit, and so is not a label."""
    words = [word for word in words_of(name) if not word.isdecimal()]
    return holds_images(name) or (bool(words) and set(words) <= VIEWS) or bool(re.fullmatch(r"\d+x", name.lower()))


def are_parts(paths: Paths, above: int, level: int) -> bool:
    """Whether the folders below the classes are exams, clips or patients: numbered, or many in each class."""
    names = names_at(paths, level)
    if any(GRADES & set(words_of(name)) for name in names):
        return False
    if are_codes(names) and not all(map(str.isdecimal, names_at(paths, above))):
        return False
    if is_numbered(names) and not all(map(str.isdecimal, names)):
        return True
    in_class: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if len(path) > level:
            in_class[path[above]].add(path[level])
    has_numbers = all(re.search(r"\d", name) for name in names)
    return has_numbers and min(map(len, in_class.values())) >= MIN_FOLDERS


def check_splits_have_folders(root: Path, paths: Paths, split: int | None) -> None:
    """Refuse a split folder without class folders beside one that has them, such as a test set without labels."""
    tops = {path[0] for path in paths if path}
    flat = sorted(tops - {path[0] for path in paths if len(path) > 1})
    if split == 0 and flat and len(flat) < len(tops):
        count = sum(path == [flat[0]] for path in paths)
        raise DataError(
            f"{root}: the {count} images of {flat[0]} are in no class folder, unlike those of "
            f"{min(tops - set(flat))}: they have no label",
            fix=f'put them into class folders, or set in dataset.toml exclude = "{flat[0]}/**"',
            code="label-level",
        )


def check_not_within_itself(root: Path, paths: Paths, level: int) -> None:
    """Refuse a folder beside the classes that contains folders with its siblings' names: a second copy of the set.

    Numbers at both levels are not a copy: grades may contain numbered clips.
    """
    names = names_at(paths, level)
    below: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if len(path) > level:
            below[path[level]].add(path[level + 1] if len(path) > level + 1 else "")
    copies = {name: inside for name, inside in below.items() if inside <= names and inside != {name}}
    others = [inside - {name} for name, inside in below.items() if name not in copies]
    if len(copies) == len(below) or any(names & inside for inside in others):
        return
    for name, inside in copies.items():
        raise DataError(
            f"{root}: {name} contains folders with the same names as its siblings ({list_names(inside)}): "
            "probably a second copy of the dataset",
            fix=f'remove one of them, or set in dataset.toml exclude = "{"*/" * level}{name}/**"',
            code="label-level",
        )
