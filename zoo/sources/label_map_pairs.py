"""Pair the label maps of two places, predictions and references, by the name of the case."""

from __future__ import annotations

import csv
import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UsageError
from zoo.images.formats import is_ignored, without_suffix
from zoo.images.label_maps import is_label_map_name
from zoo.sources.listing import one_form

STAR = "*"


@dataclass(frozen=True)
class LabelMapFiles:
    """The label maps of one place by case, and the other files there."""

    place: str
    by_case: Mapping[str, Path]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairedCases:
    """The cases of a comparison, in the order of their names."""

    pairs: Mapping[str, tuple[Path, Path | None]]  # the reference, and its prediction if there is one
    unmatched: tuple[Path, ...]  # predictions without a reference

    @property
    def unpredicted(self) -> tuple[Path, ...]:
        """The references without a prediction."""
        return tuple(reference for reference, prediction in self.pairs.values() if prediction is None)


def find_label_maps(place: str) -> LabelMapFiles:
    """Find the label maps of a folder, or those that a path with one `*` matches.

    The case is the path of a file below the folder without its suffix, or what the `*` stands for. Raises UsageError
    for a place without label maps, or with two files of one case.
    """
    files = match_star(place) if STAR in place else list_label_folder(Path(place))
    by_case: dict[str, Path] = {}
    others = []
    for name, path in files:
        case = one_form(name)
        if not is_label_map_name(path.name):
            others.append(path.name)
        elif case in by_case:
            raise UsageError(
                f"{path}: the case {case!r} also has {by_case[case]}",
                fix="name the masks by a path with one *: 'masks/*.nii.gz'",
                code="masks",
            )
        else:
            by_case[case] = path
    if not by_case:
        raise UsageError(
            f"{place}: no label maps", fix="name a folder of PNG, TIFF, NIfTI or NPY files, or use one *", code="masks"
        )
    return LabelMapFiles(place, by_case, tuple(others))


def list_label_folder(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: no such folder", fix="name a folder of label maps, or a path with one *", code="masks"
        )
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if not any(map(is_ignored, name.parts))]
    return [(without_suffix(name.as_posix()), folder / name) for name in kept]


def match_star(place: str) -> list[tuple[str, Path]]:
    """The files that a path with one `*` matches, and the text that it stands for, which has no `/`."""
    before, _, after = place.partition(STAR)
    if STAR in after:
        raise UsageError(f"{place}: more than one *", fix="use one *, where the name of the case stands", code="masks")
    names = sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}"))  # noqa: PTH207  Path.glob cannot escape
    return [(name[len(before) : len(name) - len(after)], path) for name in names if (path := Path(name)).is_file()]


def pair_label_maps(predictions: LabelMapFiles, references: LabelMapFiles) -> PairedCases:
    """Pair files of the same case. Raises UsageError if no case has both."""
    if not predictions.by_case.keys() & references.by_case.keys():
        raise UsageError(
            f"no case has a prediction and a reference: {predictions.place} has {example_case(predictions)}, "
            f"{references.place} has {example_case(references)}",
            fix="name both by a path with one * where the case stands: --reference 'masks/*_seg.png'",
            code="masks",
        )
    return PairedCases(
        pairs={case: (path, predictions.by_case.get(case)) for case, path in sorted(references.by_case.items())},
        unmatched=tuple(path for case, path in predictions.by_case.items() if case not in references.by_case),
    )


def example_case(files: LabelMapFiles) -> str:
    """The first case of a place and the number of the others."""
    more = len(files.by_case) - 1
    return repr(next(iter(files.by_case))) + (f" and {more} more" if more else "")


def read_case_patients(path: Path) -> dict[str, str]:
    """The patient of each case from a CSV file with the columns `case` and `patient`. Raises UsageError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}", fix="write a CSV in UTF-8", code="masks") from error
    patients: dict[str, str] = {}
    for line in lines:
        case, patient = one_form(line.get("case") or ""), line.get("patient")
        if not case or not patient or patients.setdefault(case, patient) != patient:
            raise UsageError(
                f"{path}: a row with case {case!r} and patient {patient!r}",
                fix="write the columns case and patient, each filled in, and each case once",
                code="masks",
            )
    return patients
