"""Write stored predictions as CSV: one line per test image, model, seed and fold."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from zoo.evaluation.predictions import Predictions
from zoo.leaderboard.formatting import disarm
from zoo.leaderboard.rows import name_weights
from zoo.leaderboard.sanity_checks import SCORED
from zoo.results.store import Result
from zoo.tasks.kinds import find_task

PLACE = ("dataset", "tested_on", "protocol", "model", "weights", "seed", "fold", "sample_id", "patient")


def write_predictions(
    results: Sequence[Result], stream: IO[str], progress: Callable[[int, int | None], None]
) -> tuple[int, int]:
    """Write one line per image, out-of-fold if there are folds; return the number of lines and of runs.

    `target` is a class name or a number; multi-label tasks have a column per label, empty if unknown. Text that a
    spreadsheet would read as a formula gets a leading quote.
    """
    chosen = [r for r in results if r.ok and r.run["purpose"] in SCORED and r.provenance != "stated"]
    columns = list(dict.fromkeys(name for result in chosen for name in csv_columns(result)))
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([disarm(name) for name in (*PLACE, *columns)])
    count = 0
    for done, result in enumerate(chosen, start=1):
        test = result.predictions()["test"]
        place = [disarm(cell) for cell in place_of(result)]
        for cells in rows_of(result, test):
            patient = cells["patient"] if result.dataset["has_patients"] else None
            line = [*place, cells["sample_id"], patient, *(cells.get(name) for name in columns)]
            writer.writerow([disarm(cell) for cell in line])
        count += len(test)
        progress(done, len(chosen))
    return count, len(chosen)


def place_of(result: Result) -> Iterable[Any]:
    run = result.run
    weights = name_weights(run)
    return run["dataset"], run.get("tested_on"), run["protocol_label"], run["shown"], weights, run["seed"], run["fold"]


def csv_columns(result: Result) -> list[str]:
    """The columns of targets and predictions, named by the dataset's labels."""
    labels, task = result.dataset["labels"], find_task(result.dataset["task"])
    return task.targets.columns(labels) + task.answers.columns(labels)


def rows_of(result: Result, test: Predictions) -> Iterator[dict[str, Any]]:
    names, task = csv_columns(result), find_task(result.dataset["task"])
    targets = task.targets.cells(test.targets, result.dataset["labels"])
    for sample_id, patient, target, predicted in zip(
        test.sample_ids.tolist(), test.patients.tolist(), targets, task.answers.cells(test.probabilities), strict=True
    ):
        yield {"sample_id": sample_id, "patient": patient, **dict(zip(names, [*target, *predicted], strict=True))}
