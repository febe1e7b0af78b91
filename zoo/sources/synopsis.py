"""Read the parts of a card that lists of datasets show, without pandas, pydantic or the data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args, get_origin

from zoo.errors import DataError, nearest
from zoo.specs.dataset import FACT_TYPES, FACTS, DatasetSpec, Samples
from zoo.system.toml import parse_toml
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task

LISTS = ("metadata", *(name for name in FACTS if get_origin(FACT_TYPES[name]) is tuple))
SWITCHES = tuple(name for name in FACTS if FACT_TYPES[name] in (bool, bool | None))
NUMBER_FACTS = {name: kinds for name in FACTS if isinstance((kinds := get_args(FACT_TYPES[name]) or ("",))[0], int)}
MEASURES = tuple(name for name in FACTS if FACT_TYPES[name] == float | None)
TEXTS = tuple(name for name in FACTS if name not in (*LISTS, *SWITCHES, *NUMBER_FACTS, *MEASURES))


def read_synopsis(path: Path) -> DatasetSpec:
    """Return a spec with the task and labels, which are required here, and the other fields shown in lists.

    Only these fields are checked; opening the data checks the rest. One DataError lists every mistake with its key.
    """
    document = read_toml_document(path)
    mistakes: list[str] = []
    task = read_task(document, mistakes)
    labels = read_labels(document, task, mistakes)
    for name in ("name", "root", *TEXTS):
        if not isinstance(document.get(name, ""), str):
            mistakes.append(f"{name}: expected text, got {document[name]!r}")
    for name in SWITCHES:
        if not isinstance(document.get(name, True), bool):
            mistakes.append(f"{name}: expected true or false, got {document[name]!r}")
    for name, numbers in NUMBER_FACTS.items():
        if name in document and document[name] not in numbers:
            mistakes.append(f"{name}: expected {' or '.join(map(str, numbers))}, got {document[name]!r}")
    for name in MEASURES:
        value = document.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            mistakes.append(f"{name}: expected a number, got {value!r}")
    for name in LISTS:
        if not is_names(document.get(name, [])):
            mistakes.append(f"{name}: expected a list of texts, got {document[name]!r}")
    if mistakes or task is None:
        count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
        raise DataError(f"{path}: {count}{'; '.join(mistakes)}", fix="correct the card", code="card")
    fields: dict[str, Any] = {
        name: document[name] for name in (*TEXTS, *SWITCHES, *NUMBER_FACTS, *MEASURES) if name in document
    }
    fields |= {name: tuple(document[name]) for name in LISTS if name in document}
    name, patient = document.get("name") or name_of_file(path), read_patient(document)
    return DatasetSpec(name=name, task=task, labels=labels, samples=not_opened, patient=patient, **fields)


def read_toml_document(path: Path) -> dict[str, Any]:
    """Parse a TOML file; a DataError says why it cannot be read."""
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, from byte {error.start}", fix="save it as UTF-8", code="card"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: invalid TOML: {error}", fix="correct that line", code="card") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", fix="make it readable", code="card") from error


def not_opened(request: object) -> Samples:  # noqa: ARG001
    raise AssertionError("replaced by card_dataset")


def read_task(document: dict[str, Any], mistakes: list[str]) -> Task | None:
    name = document.get("task")
    if name not in TASKS:
        hint = nearest(name, TASKS) if isinstance(name, str) else ""
        mistakes.append(
            f"task: {'missing' if name is None else f'unknown task {name!r}'}. "
            f"{hint or 'Expected one of ' + ', '.join(TASKS)}"
        )
        return None
    return TASKS[name]


def read_labels(document: dict[str, Any], task: Task | None, mistakes: list[str]) -> tuple[str, ...]:
    """Return the names of the labels in the order of the targets: those of `labels`, of 0/1 columns, or of grades."""
    label = document.get("label", {})
    label = label if isinstance(label, dict) else {}
    labels = document.get("labels") or label.get("columns") or label.get("names")
    if isinstance(labels, dict):
        labels = list(dict.fromkeys(map(str, labels.values())))
    if not labels and task and task.targets.form == "number":
        labels = [label.get("column") or "value"]
    if not labels or not is_names(labels):
        mistakes.append("labels: required, as a list of names or a table from value to name")
        return ()
    return tuple(labels)


def read_patient(document: dict[str, Any]) -> str:
    patient = document.get("patient")
    if not isinstance(patient, dict):
        return "none: image level"
    return f"none: {patient['none']}" if patient.get("none") else str(patient.get("means", "patient"))


def is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def name_of_file(path: Path) -> str:
    """Return the file's name, or for a `dataset.toml` that of its folder: `busi` for the package `zoo_busi`."""
    return path.parent.name.removeprefix("zoo_") if path.stem == "dataset" else path.stem


def resolve_root(path: Path, root: str) -> Path:
    """Return the folder that a card names, relative to the card, with `~` and `$VARIABLES` expanded."""
    return path.parent / os.path.expandvars(Path(root).expanduser()) if root else path.parent
