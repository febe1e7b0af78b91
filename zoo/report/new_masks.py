"""Write the masks of `zoo predict` as label maps, and what they contain as CSV, one image after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError
from zoo.images.formats import split_frame, without_suffix
from zoo.report.new_answers import AnswerTable, CsvWriter
from zoo.system.files import folder_written_whole
from zoo.trained.card import NOTICE
from zoo.trained.predicting import NewAnswer
from zoo.trained.segmenting import NewMask

TABLE_FILE = "masks.csv"


class MaskTable(AnswerTable):
    """The columns of masks: the file, and the pixels of each label."""

    def values(self, answer: NewAnswer) -> dict[str, Any]:
        assert isinstance(answer, NewMask)
        names = [f"pixels: {label}" for label in self.card.labels]
        if answer.mask is None:
            return {"mask": None, **dict.fromkeys(names)}
        counts = np.bincount(answer.mask.ravel(), minlength=len(names) + 1)[1:]
        return {"mask": answer.file, **dict(zip(names, counts.tolist(), strict=True))}


class MaskWriter(CsvWriter):
    """Write each mask to a file of its own, and its line to the table."""

    def __init__(self, stream: IO[str], table: AnswerTable, folder: Path, inputs: Sequence[Path]) -> None:
        super().__init__(stream, table)
        self.folder, self.inputs = folder, inputs
        self.files: set[str] = set()

    def write(self, answer: NewAnswer) -> None:
        assert isinstance(answer, NewMask)
        if answer.mask is not None:
            answer = replace(answer, file=self.choose_file(answer.name))
            self.files.add(answer.file)
            assert answer.mask is not None
            save_label_map(self.folder / answer.file, answer.mask, self.table.card.labels)
        super().write(answer)

    def choose_file(self, name: str) -> str:
        """The path of an image below the input that it was found in, as PNG; numbered if another image has it."""
        stem = relative_stem(name, self.inputs)
        names = [f"{stem}.png", *(f"{stem}-{number}.png" for number in range(2, len(self.files) + 3))]
        return next(each for each in names if each not in self.files)


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
