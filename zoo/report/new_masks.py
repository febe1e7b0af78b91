"""Write the masks of `zoo predict` as label maps, PNG or NIfTI, and what they contain as CSV, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError
from zoo.images.formats import split_frame, without_suffix
from zoo.images.nifti_masks import save_volume_mask
from zoo.report.new_answers import AnswerTable, CsvWriter
from zoo.system.files import folder_written_whole
from zoo.trained.card import NOTICE
from zoo.trained.predicting import NewAnswer
from zoo.trained.segmenting import NewMask
from zoo.trained.segmenting_volumes import NewVolumeMask

TABLE_FILE = "masks.csv"
CUBIC_MM_PER_ML = 1000


class MaskTable(AnswerTable):
    """The columns of masks: the file, and the pixels of each label; of volumes the voxels and the milliliters."""

    def values(self, answer: NewAnswer) -> dict[str, Any]:
        assert isinstance(answer, NewMask)
        labels, is_volume = self.card.labels, self.card.volumes is not None
        counts: list[Any] = [None] * len(labels)
        milliliters = list(counts)
        if answer.mask is not None:
            counts = count_labels(answer.mask, len(labels))
            if isinstance(answer, NewVolumeMask) and answer.spacing:
                voxel = math.prod(answer.spacing) / CUBIC_MM_PER_ML
                milliliters = [float(f"{number * voxel:.6g}") for number in counts]
        columns = {"voxels": counts, "ml": milliliters} if is_volume else {"pixels": counts}
        return {
            "mask": answer.file or None,
            **{
                f"{unit}: {label}": value
                for unit, values in columns.items()
                for label, value in zip(labels, values, strict=True)
            },
        }


def count_labels(mask: Array, num_labels: int) -> list[int]:
    """The pixels or voxels of each label, by planes: `bincount` copies its input as int64."""
    counts = np.zeros(num_labels + 1, np.int64)
    for plane in mask:
        counts += np.bincount(plane.ravel(), minlength=num_labels + 1)
    return [int(count) for count in counts[1:]]


class MaskWriter(CsvWriter):
    """Write each mask to a file of its own, and its line to the table."""

    def __init__(self, stream: IO[str], table: AnswerTable, folder: Path, inputs: Sequence[Path]) -> None:
        super().__init__(stream, table)
        self.folder, self.inputs = folder, inputs
        self.files: set[str] = set()  # case folded: on some systems `A.png` is the file `a.png`

    def write(self, answer: NewAnswer) -> None:
        assert isinstance(answer, NewMask)
        if answer.mask is not None:
            is_volume = isinstance(answer, NewVolumeMask)
            answer = replace(answer, file=self.choose_file(answer.name, ".nii.gz" if is_volume else ".png"))
            self.save(answer)
        super().write(answer)

    def save(self, answer: NewMask) -> None:
        path, labels = self.folder / answer.file, self.table.card.labels
        assert answer.mask is not None
        if isinstance(answer, NewVolumeMask):
            assert answer.volume is not None
            save_volume_mask(path, answer.mask, answer.volume, NOTICE)
        else:
            save_label_map(path, answer.mask, labels)

    def choose_file(self, name: str, suffix: str) -> str:
        """The path of an image below the input that it was found in; numbered if another image has it."""
        stem = relative_stem(name, self.inputs)
        names = chain([f"{stem}{suffix}"], (f"{stem}-{number}{suffix}" for number in count(2)))
        file = next(each for each in names if each.casefold() not in self.files)
        self.files.add(file.casefold())
        return file


def relative_stem(name: str, inputs: Sequence[Path]) -> str:
    """The path of an image below its input, without the suffix; its file name if it is an input itself."""
    file, frame = split_frame(name)
    path = PurePath(file)
    root = next((each for each in inputs if path != each and path.is_relative_to(each)), path.parent)
    parts = [part for part in path.relative_to(root).parts if part != ".."]
    return without_suffix("/".join(parts)) + ("" if frame is None else f"_{frame}")


def save_label_map(path: Path, mask: Array, labels: Sequence[str]) -> None:
    """Write a mask as a gray PNG of label numbers, with their names and the notice in its texts."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_itxt("Labels", ", ".join(f"{number} = {label}" for number, label in enumerate(labels, start=1)))
    texts.add_itxt("Disclaimer", NOTICE)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, pnginfo=texts)


def require_new_folder(output: Path | None) -> Path:
    """Return the folder of masks. Raises UsageError if it is not named, or exists."""
    if output is None:
        raise UsageError("masks are files, so they need a folder", fix="add -o FOLDER")
    if output.exists():
        raise UsageError(f"{output}: exists already", fix="name another folder, or remove it")
    return output


@contextmanager
def open_mask_folder(output: Path, inputs: Sequence[Path], table: MaskTable) -> Iterator[MaskWriter]:
    """Yield a writer to a new folder, which appears when it is whole."""
    with (
        folder_written_whole(output) as folder,
        open(folder / TABLE_FILE, "w", encoding="utf-8", newline="") as stream,
    ):
        yield MaskWriter(stream, table, folder, inputs)
