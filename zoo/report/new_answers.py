"""Write the answers of `zoo predict` as CSV or JSON, one image after the other."""

from __future__ import annotations

import csv
import json
import sys
from abc import ABC, abstractmethod
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


class AnswerTable:
    """The columns of answers, None where there is no value."""

    def __init__(self, models: Sequence[OpenModel], tags: Sequence[str] = ()) -> None:
        self.models, self.tags, self.card = models, tags, models[0].card
        self.task = self.card.task_kind
        self.names = self.task.answers.columns(self.card.labels)

    def row(self, answer: NewAnswer) -> dict[str, Any]:
        """One answer by column; every answer has the same columns."""
        return {
            "image": answer.name,
            **{tag: answer.tags.get(tag) for tag in self.tags},
            "status": "refused" if answer.refused else "ok",
            **self.values(answer),
            "outside": "; ".join(OUTSIDE[reason] for reason in answer.outside) or None,
            "distance": answer.distance,
            "images": answer.num_images,
            "problem": with_fix(answer.refused, answer.fix) or None,
            "notice": NOTICE,
        }

    def values(self, answer: NewAnswer) -> dict[str, Any]:
        """The decision and the numbers of an answer."""
        values = {"": answer.probabilities}
        if self.task.presentation.calibrated:
            values["calibrated "] = answer.calibrated
        if len(self.models) > 1:
            values["SD of seeds, "] = answer.spread
        numbers = {
            f"{prefix}{name}": None if each is None else float(each[i])
            for prefix, each in values.items()
            for i, name in enumerate(self.names)
        }
        return {**({"decision": self.show_decision(answer.decision)} if self.task.decisions else {}), **numbers}

    def show_decision(self, decision: Any) -> str | None:
        if decision is None:
            return None
        if np.ndim(decision):
            return "; ".join(label for label, is_present in zip(self.card.labels, decision, strict=True) if is_present)
        return self.card.labels[int(decision)]


class AnswerWriter(ABC):
    """Write answers to a stream as they come, and count them."""

    tail = ""  # what follows the last answer

    def __init__(self, stream: IO[str], table: AnswerTable) -> None:
        self.stream, self.table = stream, table
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
        self.write_row(self.table.row(answer), is_first=self.num_predicted + self.num_refused == 1)

    @abstractmethod
    def write_row(self, row: dict[str, Any], *, is_first: bool) -> None:
        """Write one row; the first one after what precedes the rows."""


class CsvWriter(AnswerWriter):
    """Write one line per image, under a heading."""

    def write_row(self, row: dict[str, Any], *, is_first: bool) -> None:
        writer = csv.writer(self.stream, lineterminator="\n")
        if is_first:
            writer.writerow(map(disarm, row))
        writer.writerow(map(disarm, row.values()))


class JsonWriter(AnswerWriter):
    """Write one document: the models, then the images."""

    tail = "\n ]\n}\n"

    def write_row(self, row: dict[str, Any], *, is_first: bool) -> None:
        text = json.dumps(row, allow_nan=False, ensure_ascii=False)
        self.stream.write(f"{self.head() if is_first else ','}\n  {text}")

    def head(self) -> str:
        models, card = self.table.models, self.table.card
        document = {
            "schema": 1,
            "command": "predict",
            "notice": NOTICE,
            "model": card.name,
            "runs": [model.card.run for model in models],
            "labels": card.labels,
            "thresholds": card.thresholds,
        }
        return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)[:-2] + ',\n "images": ['


ANSWER_WRITERS: dict[str, type[AnswerWriter]] = {".csv": CsvWriter, ".json": JsonWriter}


@contextmanager
def open_writer(output: Path | None, table: AnswerTable) -> Iterator[AnswerWriter]:
    """Yield a writer to a .csv or .json file, which appears when it is whole; or of CSV to stdout."""
    if output is None:
        yield CsvWriter(sys.stdout, table)
        return
    kind = ANSWER_WRITERS.get(output.suffix.lower())
    if kind is None:
        raise UsageError(f"{output}: unknown format", fix="choose a name that ends in .csv or .json")
    with written_whole(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = kind(stream, table)
        yield writer
        stream.write(writer.tail)


def list_refused(problems: Sequence[str], num_refused: int) -> list[str]:
    """The lines about refused images: the first problems, and the number of the others."""
    lines = [f"zoo: refused: {problem}" for problem in problems]
    return lines if num_refused == len(problems) else [*lines, f"zoo: {num_refused - len(problems)} more refused"]


def summary(writer: AnswerWriter, output: Path | None) -> list[str]:
    """The lines after a prediction: refused images, what was predicted by what, and the notice."""
    card, count = writer.table.card, len(writer.table.models)
    lines = list_refused(writer.problems, writer.num_refused)
    by = f"{count} models of {card.name}" if count > 1 else f"{card.name} (run {card.run[:8]})"
    counts = f"{writer.num_predicted} predicted by {by}, {writer.num_refused} refused, {writer.num_outside} outside"
    lines.append(f"{counts}{f'; in {output}' if output else ''}")
    if card.reading is None:
        lines.append("the training images were made by a plugin's code: new files were read as they are stored")
    return [*lines, NOTICE]
