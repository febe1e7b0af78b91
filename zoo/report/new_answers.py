"""Write the answers of `zoo predict` as CSV or JSON, one image after the other."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from zoo.errors import UsageError, with_fix
from zoo.leaderboard.formatting import disarm
from zoo.system.files import written_whole
from zoo.trained.card import NOTICE
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import NewAnswer

MAX_LINES = 10  # of refused images on stderr
OUTSIDE = {
    "features": "features unlike those of val",
    "modality": "other modality",
    "size": "other image size",
    "channels": "gray, trained on color",
}


class AnswerWriter:
    """Write answers as they come, and count them."""

    def __init__(self, stream: IO[str], models: Sequence[OpenModel], tags: Sequence[str]) -> None:
        self.stream, self.models, self.tags = stream, models, tags
        self.card = models[0].card
        self.names = self.card.task_kind.answers.columns(self.card.labels)
        self.num_images = self.num_predicted = self.num_refused = self.num_outside = 0
        self.problems: list[str] = []

    def write(self, answer: NewAnswer) -> None:
        self.num_images += answer.num_images
        if answer.refused:
            self.num_refused += 1
            if len(self.problems) < MAX_LINES:
                self.problems.append(with_fix(answer.refused, answer.fix))
        else:
            self.num_predicted += 1
            self.num_outside += bool(answer.outside)
        self.write_row(self.describe(answer))

    def describe(self, answer: NewAnswer) -> dict[str, Any]:
        """One answer by column; None where there is no value."""
        numbers = [("", answer.probabilities), ("calibrated ", answer.calibrated), ("SD of seeds, ", answer.spread)]
        columns = {
            f"{prefix}{name}": None if values is None else float(values[i])
            for prefix, values in numbers
            if self.has_column(prefix)
            for i, name in enumerate(self.names)
        }
        decided = {"decision": self.show_decision(answer.decision)} if self.card.task_kind.decisions else {}
        return {
            "image": answer.name,
            **{tag: answer.tags.get(tag) for tag in self.tags},
            "status": "refused" if answer.refused else "ok",
            **decided,
            **columns,
            "outside": "; ".join(OUTSIDE[reason] for reason in answer.outside) or None,
            "distance": answer.distance,
            "images": answer.num_images,
            "problem": with_fix(answer.refused, answer.fix) or None,
        }

    def has_column(self, prefix: str) -> bool:
        if prefix.startswith("calibrated"):
            return bool(self.card.task_kind.presentation.calibrated)
        return not prefix or len(self.models) > 1

    def show_decision(self, decision: Any) -> str | None:
        if decision is None:
            return None
        if np.ndim(decision):
            return "; ".join(label for label, is_present in zip(self.card.labels, decision, strict=True) if is_present)
        return self.card.labels[int(decision)]

    def write_row(self, row: dict[str, Any]) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Write what follows the last answer."""


class CsvWriter(AnswerWriter):
    """Write one line per image, with the notice in the last column."""

    writer: Any = None

    def write_row(self, row: dict[str, Any]) -> None:
        if self.writer is None:
            self.writer = csv.writer(self.stream, lineterminator="\n")
            self.writer.writerow([*map(disarm, row), "notice"])
        self.writer.writerow([*map(disarm, row.values()), NOTICE])


class JsonWriter(AnswerWriter):
    """Write one document: the models, then the images."""

    def write_row(self, row: dict[str, Any]) -> None:
        text = json.dumps(row, allow_nan=False, ensure_ascii=False)
        self.stream.write(f"{',' if self.num_predicted + self.num_refused > 1 else self.head()}\n  {text}")

    def head(self) -> str:
        document = {
            "schema": 1,
            "command": "predict",
            "notice": NOTICE,
            "model": self.card.name,
            "runs": [model.card.run for model in self.models],
            "labels": self.card.labels,
            "thresholds": self.card.thresholds,
        }
        return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)[:-2] + ',\n "images": ['

    def end(self) -> None:
        self.stream.write("\n ]\n}\n")


ANSWER_WRITERS: dict[str, type[AnswerWriter]] = {".csv": CsvWriter, ".json": JsonWriter}


@contextmanager
def open_writer(output: Path | None, models: Sequence[OpenModel], tags: Sequence[str]) -> Iterator[AnswerWriter]:
    """Yield a writer to a .csv or .json file, which appears when it is whole; or of CSV to stdout."""
    if output is None:
        yield CsvWriter(sys.stdout, models, tags)
        return
    kind = ANSWER_WRITERS.get(output.suffix.lower())
    if kind is None:
        raise UsageError(f"{output}: unknown format", fix="choose a name that ends in .csv or .json")
    with written_whole(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = kind(stream, models, tags)
        yield writer
        writer.end()


def summary(writer: AnswerWriter, output: Path | None) -> list[str]:
    """The lines after a prediction: refused images, what was predicted by what, and the notice."""
    card, count = writer.card, len(writer.models)
    lines = [f"zoo: refused: {problem}" for problem in writer.problems]
    if writer.num_refused > len(writer.problems):
        lines.append(f"zoo: {writer.num_refused - len(writer.problems)} more refused")
    by = f"{count} seeds of {card.name}" if count > 1 else f"{card.name} (run {card.run[:8]})"
    counts = f"{writer.num_predicted} predicted by {by}, {writer.num_refused} refused, {writer.num_outside} outside"
    lines.append(f"{counts}{f'; in {output}' if output else ''}")
    if card.reading is None:
        lines.append("the training images were made by a plugin's code: new files were read as they are stored")
    return [*lines, NOTICE]
