"""Leave out files that are not images of the dataset, such as reports and screen captures; sort DICOM slices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import DataError
from zoo.images.reading import Header
from zoo.sources.cards import Captures
from zoo.sources.headers import Headers


@dataclass(frozen=True, eq=False)
class Screened:
    """The images of a dataset, and the files left out, with reasons."""

    files: dict[str, Captures]
    spare: dict[str, Captures]  # secondary captures, localizers, ...: used only where they are the only image of a row
    skipped: dict[str, str]  # file -> reason; files without pixels and the spare ones
    notes: tuple[str, ...]


def screen(files: dict[str, Captures], headers: Headers) -> Screened:
    """Leave files out, with a note per reason; if every image would be left out, keep them all."""
    tagged = headers.tagged(files)
    files = in_series_order(files, tagged)
    skipped = {file: header.skip for file, header in tagged.items() if header.skip}
    spare = {file: files[file] for file in skipped if tagged[file].width}
    kept = {file: captures for file, captures in files.items() if file not in skipped}
    notes = []
    if not kept and spare:
        kinds = ", ".join(sorted({skipped[file] for file in spare}))
        notes.append(f"all {len(spare)} images are {kinds}: they are read nevertheless")
        kept, spare = {file: files[file] for file in files if file in spare}, {}
        skipped = {file: why for file, why in skipped.items() if file not in kept}
    if not kept:
        file, why = next(iter(skipped.items()))
        raise DataError(
            f"{headers.root}: no images among {len(skipped)} files; {file}: {why}",
            fix="convert them to PNG, or name the folder that contains images",
        )
    notes += [f"{count} files left out: {why}" for why, count in Counter(skipped.values()).items()]
    return Screened(kept, spare, skipped, tuple(notes))


def in_series_order(files: dict[str, Captures], headers: Mapping[str, Header]) -> dict[str, Captures]:
    """Sort the slices of each DICOM series by InstanceNumber, at the position of its first file; keep other files."""
    place = {file: number for number, file in enumerate(files)}
    first: dict[tuple[str, str], int] = {}

    def key(file: str) -> tuple[int, int, int]:
        tags = headers[file].tags if file in headers else {}
        number = tags.get("InstanceNumber", "")
        if not tags.get("SeriesInstanceUID") or not re.fullmatch(r"-?\d{1,9}", number):
            return place[file], 0, 0
        series = (file.rpartition("/")[0], tags["SeriesInstanceUID"])
        return first.setdefault(series, place[file]), int(number), place[file]

    keys = {file: key(file) for file in files}
    return {file: files[file] for file in sorted(files, key=keys.__getitem__)}
