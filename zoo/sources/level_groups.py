"""Find groups of files whose levels differ although one reading serves all: rescaling was lost, gray turned around.

Groups are those that headers tell apart. A set whose groups differ in levels can be learned without looking at tissue;
the notes say so, and the columns `levels_by_...` let the audit compare the groups with the labels.
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
from zoo.specs.dataset import LEVELS_BY
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

MEASURED = 16  # files of a group that are decoded
MIN_FILES = 2  # of a group that is measured: one image alone may be unusual
MAX_GROUPS = 8  # of a fact that is measured, the largest ones
ENDS = (5, 95)  # percentiles between which an image's levels lie: text and padding are outside
MIN_OVERLAP = 0.25  # of two ranges of levels, shared part by both together; 12 and 16 bits of one scene share 6 %
TAGS = ("PhotometricInterpretation", "Modality", "Manufacturer")


@dataclass(frozen=True)
class LevelGroups:
    """What should be said about groups of files, and the columns of the groups that differ, one text a file."""

    notes: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def find_level_groups(root: Path, headers: Mapping[str, Header], reading: Reading) -> LevelGroups:
    """Compare the levels of gray files by every fact in which their headers differ. `headers` are by file."""
    gray = {file: header for file, header in headers.items() if header.channels == 1}
    facts = {file: tell_apart(file, header) for file, header in gray.items()}
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


def tell_apart(file: str, header: Header) -> dict[str, str]:
    """The facts about how a file keeps its values, each as a text that names its group."""
    facts = {"depth": f"{header.bits} bits", "type": "DICOM" if header.tags else kind_by_name(file)}
    if header.tags:
        facts["rescaling"] = "with rescaling" if header.is_rescaled else "without rescaling"
    return facts | {keyword: header.tags[keyword] for keyword in TAGS if keyword in header.tags}


def group_files(facts: Mapping[str, Mapping[str, str]], fact: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for file, each in facts.items():
        if fact in each:
            groups[each[fact]].append(file)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def describe_lost_rescaling(headers: Mapping[str, Header]) -> tuple[str, ...]:
    """A note for each modality where only some files have a rescaling that changes values; blank ones count as none."""
    notes = []
    for modality in sorted({header.modality for header in headers.values() if header.tags}):
        files = {file: header for file, header in headers.items() if header.modality == modality and header.tags}
        rescaled = {(header.step, header.values[0] < 0) for header in files.values() if header.is_rescaled}
        lost = [file for file, header in files.items() if lacks_rescaling(header, rescaled)]
        if lost:
            notes.append(
                f"{len(lost)} of {len(files)} {modality or 'DICOM'} files have no rescaling ({lost[0]}; "
                "RescaleSlope and RescaleIntercept are missing or change nothing): their values are not in the unit of "
                "the others; bring them back, or leave the files out"
            )
    return tuple(notes)


def lacks_rescaling(header: Header, rescaled: Collection[tuple[float, bool]]) -> bool:
    """Whether values are as stored, and rescaled files have another step or negative values, which this one cannot.

    `rescaled`: step and whether the least value is negative, of each. Signed values may be Hounsfield units as stored.
    """
    is_positive = header.values[0] >= 0
    return not header.is_rescaled and any(step != header.step or (is_positive and below) for step, below in rescaled)


# --- measured --------------------------------------------------------------------------------------------------------
def measure_groups(
    root: Path, groups: Mapping[str, Sequence[str]], headers: Mapping[str, Header], reading: Reading
) -> dict[str, tuple[float, float]]:
    """The range of levels of each group: the medians over its files of both percentiles; remembered by file."""
    ranges = {}
    for name, files in list(groups.items())[:MAX_GROUPS]:
        if len(files) < MIN_FILES:
            continue
        chosen = files[:: max(1, -(-len(files) // MEASURED))]
        frames = {root / file: middle_frame(headers[file]) for file in chosen}
        find = partial(find_ends, frames=frames, reading=reading)
        memo = FileMemo(cache_root(), what=f"levels:1:{json.dumps(asdict(reading))}", find=find)
        try:
            ends = [found for path in frames if (found := memo(path))]
        finally:
            memo.close()
        if ends:
            low, high = np.median(ends, axis=0)
            ranges[name] = (float(low), float(high))
    return ranges


def middle_frame(header: Header) -> int | None:
    return header.frames // 2 if header.frames else None


def find_ends(path: Path, frames: Mapping[Path, int | None], reading: Reading) -> list[float]:
    """Both percentiles of a file's middle frame; none of a file that cannot be read: decoding the set names it."""
    try:
        levels = read_image(path, frames[path], reading)
    except DataError:
        return []
    ends: list[float] = np.percentile(levels, ENDS).tolist()
    return ends


def describe_difference(
    fact: str, groups: Mapping[str, Sequence[str]], ranges: Mapping[str, tuple[float, float]]
) -> str:
    """A note where the levels of two groups hardly overlap; else ""."""
    if not any(levels_overlap(a, b) < MIN_OVERLAP for a, b in combinations(ranges.values(), 2)):
        return ""
    told = [f"{low:.0f} to {high:.0f} in {len(groups[name])} files ({name})" for name, (low, high) in ranges.items()]
    return (
        f"levels differ by {fact}: {', '.join(told)}; bring the files to one scale, or leave one group out "
        "(`zoo audit` says whether the labels differ too)"
    )


def levels_overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The length that two ranges share, by the length of both together; 1 for two equal points."""
    together = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / together if together else 1.0
