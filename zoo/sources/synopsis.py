"""Read a card file without pandas or pydantic, for lists of datasets whose data may not be here yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.errors import DataError, nearest
from zoo.specs.dataset import DatasetSpec, Samples
from zoo.system.toml import parse_toml
from zoo.tasks.kinds import REGRESSION, TASKS, Task

TEXTS = ("title", "description", "modality", "license", "citation", "url", "reference_standard", "unit")
LISTS = ("symmetries", "metadata", "known_issues", "derived_from")


def read_synopsis(path: Path) -> DatasetSpec:
    """What a card says of itself: its task and labels, which it must say, and what else stands in a list.

    All of it is checked when the data are opened; here only what is shown. DataError with every mistake, and its place.
    """
    document = read_toml_document(path)
    mistakes: list[str] = []
    task = said_task(document, mistakes)
    labels = said_labels(document, task, mistakes)
    for name in ("name", "root", *TEXTS):
        if not isinstance(document.get(name, ""), str):
            mistakes.append(f"{name}: expected text, got {document[name]!r}")
    for name in LISTS:
        if not is_names(document.get(name, [])):
            mistakes.append(f"{name}: expected a list of texts")
    if mistakes or task is None:
        count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
        raise DataError(f"{path}: {count}{'; '.join(mistakes)}", fix="correct these", code="card")
    shown: dict[str, Any] = {name: document[name] for name in TEXTS if name in document}
    shown |= {name: tuple(document[name]) for name in LISTS if name in document}
    name, patient = document.get("name") or name_of_file(path), said_patient(document)
    return DatasetSpec(name=name, task=task, labels=labels, samples=not_opened, patient=patient, **shown)


def read_toml_document(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, from byte {error.start}", fix="save it as UTF-8", code="card"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not TOML: {error}", fix="correct that line", code="card") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", fix="make it readable", code="card") from error


def not_opened(request: object) -> Samples:  # noqa: ARG001
    raise AssertionError("replaced by card_dataset")


def said_task(document: dict[str, Any], mistakes: list[str]) -> Task | None:
    said = document.get("task")
    if said not in TASKS:
        hint = nearest(said, TASKS) if isinstance(said, str) else ""
        mistakes.append(
            f"task: {'must be said' if said is None else repr(said)}. {hint or 'One of ' + ', '.join(TASKS)}"
        )
        return None
    return TASKS[said]


def said_labels(document: dict[str, Any], task: Task | None, mistakes: list[str]) -> tuple[str, ...]:
    """Names of the labels in the order of the targets: those of `labels`, of 0/1 columns, or of grades."""
    label = document.get("label", {})
    label = label if isinstance(label, dict) else {}
    said = document.get("labels") or label.get("columns") or label.get("names")
    if isinstance(said, dict):
        said = list(dict.fromkeys(map(str, said.values())))
    if not said and task == REGRESSION:
        said = [label.get("column") or "value"]
    if not said or not is_names(said):
        mistakes.append("labels: must be said, as a list of names or a table from value to name")
        return ()
    return tuple(said)


def said_patient(document: dict[str, Any]) -> str:
    patient = document.get("patient")
    if not isinstance(patient, dict):
        return "none: image level"
    return f"none: {patient['none']}" if patient.get("none") else str(patient.get("means", "patient"))


def is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def name_of_file(path: Path) -> str:
    """The file's name; of a `dataset.toml` that of its folder, `busi` of the package `zoo_busi`."""
    return path.parent.name.removeprefix("zoo_") if path.stem == "dataset" else path.stem


def said_root(path: Path, root: str) -> Path:
    """The folder that a card names: relative to it, with `~` and `$VARIABLES` in place."""
    return path.parent / os.path.expandvars(Path(root).expanduser()) if root else path.parent
