"""Find groups of files whose levels differ, for example after a lost rescaling or an inverted gray scale.

Groups are formed by differences in the headers. If their levels differ, a model can learn the group instead of the
tissue: notes report it, and the columns `levels_by_...` let the audit compare the groups with the labels.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from zoo.errors import DataError
from zoo.images.formats import kind_by_name, read_image
from zoo.images.reading import Header, Reading
from zoo.images.text_headers import stored_files
from zoo.specs.dataset import LEVELS_BY
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

MEASURED = 16  # files decoded per group
MIN_FILES = 2  # in a measured group: a single image may be unusual
MAX_GROUPS = 8  # measured per fact, the largest ones
ENDS = (5, 95)  # percentiles that bound an image's levels, without text and padding
MIN_OVERLAP = 0.25  # intersection over union of two ranges of levels; 12 and 16 bits of one scene reach 0.06
RESCALING_FIELDS = (("RescaleSlope", "RescaleIntercept"), ("scl_slope", "scl_inter"))  # of DICOM, of NIfTI
NIFTI_SUFFIXES = (".nii", ".nii.gz")
TAGS = ("PhotometricInterpretation", "Modality", "Manufacturer")


@dataclass(frozen=True)
class LevelGroups:
    """Notes on groups of files, and for each fact in which groups differ a column: file -> group."""

    notes: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def find_level_groups(root: Path, headers: Mapping[str, Header], reading: Reading) -> LevelGroups:
    """Compare the levels of gray files, grouped by every fact in which their headers (by file) differ."""
    gray = {file: header for file, header in headers.items() if header.channels == 1}
    facts = {file: group_facts(file, header) for file, header in gray.items()}
    notes, columns = list(describe_lost_rescaling(gray)), {}
    for fact in dict.fromkeys(name for each in facts.values() for name in each):
        groups = group_files(facts, fact)
        if len(groups) < 2:
            continue
        note = describe_difference(fact, groups, measure_groups(root, groups, gray, reading))
        if note or (fact == "rescaling" and notes):
            columns[LEVELS_BY + fact] = {file: each[fact] for file, each in facts.items() if fact in each}
            notes += [note] if note else []
    return LevelGroups(tuple(notes), columns)


def group_facts(file: str, header: Header) -> dict[str, str]:
    """Return facts about how a file stores its values, each with the name of the file's group."""
    facts = {"depth": f"{header.bits} bits", "type": "DICOM" if header.tags else kind_by_name(file)}
    if rescaling_unit(file, header):
        facts["rescaling"] = "with rescaling" if header.is_rescaled else "without rescaling"
    return facts | {keyword: header.tags[keyword] for keyword in TAGS if keyword in header.tags}


def group_files(facts: Mapping[str, Mapping[str, str]], fact: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for file, each in facts.items():
        if fact in each:
            groups[each[fact]].append(file)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def describe_lost_rescaling(headers: Mapping[str, Header]) -> tuple[str, ...]:
    """Return a note per kind of files of which only some have a rescaling; one that changes nothing does not count."""
    notes = []
    units = {file: rescaling_unit(file, header) for file, header in headers.items()}
    for unit in sorted(set(units.values()) - {""}):
        files = {file: header for file, header in headers.items() if units[file] == unit}
        rescaled = {(header.step, header.values[0] < 0) for header in files.values() if header.is_rescaled}
        without_rescaling = [file for file, header in files.items() if lacks_rescaling(header, rescaled)]
        if without_rescaling:
            notes.append(
                f"{len(without_rescaling)} of {len(files)} {unit} files have no rescaling "
                f"({without_rescaling[0]}; "
                f"{' and '.join(RESCALING_FIELDS['NIfTI' in unit])} are missing or change nothing): their values are "
                "not in the unit of the others; restore them, or leave the files out"
            )
    return tuple(notes)


def rescaling_unit(file: str, header: Header) -> str:
    """Return the kind of files that share a rescaling: DICOM of a modality, NIfTI of a depth; "" for other files."""
    if header.tags:
        return header.modality or "DICOM"
    return f"{header.bits}-bit NIfTI" if kind_by_name(file) in NIFTI_SUFFIXES else ""


def lacks_rescaling(header: Header, rescaled: Collection[tuple[float, bool]]) -> bool:
    """Whether a file without rescaling has another step than rescaled ones, or no negative values where they do.

    `rescaled` contains (step, whether the minimum is negative). Signed stored values may already be Hounsfield units.
    """
    is_positive = header.values[0] >= 0
    return not header.is_rescaled and any(step != header.step or (is_positive and below) for step, below in rescaled)


# --- measured --------------------------------------------------------------------------------------------------------
def measure_groups(
    root: Path, groups: Mapping[str, Sequence[str]], headers: Mapping[str, Header], reading: Reading
) -> dict[str, tuple[float, float]]:
    """Return the range of levels of each group: the medians over its files of both percentiles, cached by file."""
    ranges = {}
    for name, files in list(groups.items())[:MAX_GROUPS]:
        if len(files) < MIN_FILES:
            continue
        chosen = files[:: max(1, -(-len(files) // MEASURED))]
        frames = {root / file: middle_frame(headers[file]) for file in chosen}
        find = partial(find_ends, frames=frames, reading=reading)
        memo = FileMemo(cache_root(), f"levels:1:{json.dumps(asdict(reading))}", find, stored_files)
        try:
            ends = [both for path in frames if (both := memo(path))]
        finally:
            memo.close()
        if ends:
            low, high = np.median(ends, axis=0)
            ranges[name] = (float(low), float(high))
    return ranges


def middle_frame(header: Header) -> int | None:
    return header.frames // 2 if header.frames else None


def find_ends(path: Path, frames: Mapping[Path, int | None], reading: Reading) -> list[float]:
    """Return both percentiles of a file's middle frame; empty if it cannot be read, which decoding reports later."""
    try:
        levels = read_image(path, frames[path], reading)
    except DataError:
        return []
    ends: list[float] = np.percentile(levels, ENDS).tolist()
    return ends


def describe_difference(
    fact: str, groups: Mapping[str, Sequence[str]], ranges: Mapping[str, tuple[float, float]]
) -> str:
    """Return a note if the levels of two groups hardly overlap, else ""."""
    if not any(levels_overlap(a, b) < MIN_OVERLAP for a, b in combinations(ranges.values(), 2)):
        return ""
    texts = [f"{low:.0f} to {high:.0f} in {len(groups[name])} files ({name})" for name, (low, high) in ranges.items()]
    return (
        f"levels differ by {fact}: {', '.join(texts)}; convert the files to one scale, or leave one group out "
        "(`zoo audit` reports whether the labels differ too)"
    )


def levels_overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two ranges; 1 for two equal points."""
    together = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / together if together else 1.0
