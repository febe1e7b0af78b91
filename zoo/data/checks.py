"""Check a dataset's samples against its card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, dataset_subject
from zoo.images.formats import clips_of
from zoo.sources.listing import one_form
from zoo.specs.dataset import SPLITS, DatasetSpec, Samples
from zoo.specs.validation import find_spec_fault
from zoo.system.files import hash_bytes
from zoo.tasks.task import Task

# A whole number as tables spell it; 12 may be 0012, 12.0, 1.2e+1 (in a column with blanks) or "12,0". 1,000 and 1.000
# do not match, because they may mean a thousand.
WHOLE_NUMBER = re.compile(r"\d+([.,](?!000\Z)0*)?|\d([.,]\d+)?[eE]\+\d{1,2}")
MAKER = "report it to the maintainer of the plugin"


def unify_spellings(patients: Iterable[object]) -> Array:
    """Return names of patients (N,), with equal keys replaced by their first spelling."""
    texts = [one_form(str(patient)) for patient in patients]
    first: dict[str, str] = {}
    spelling = {text: first.setdefault(patient_key(text), text) for text in dict.fromkeys(texts)}
    return np.array([spelling[text] for text in texts], dtype=np.str_)


def patient_key(patient: str) -> str:
    """Return the same text for all spellings of one number (12, 0012, 12.0, '12), and other names unchanged."""
    text = patient.strip().removeprefix("'")  # the mark of text in spreadsheets
    if not WHOLE_NUMBER.fullmatch(text):
        return patient
    number = Decimal(text.replace(",", "."))
    return str(int(number)) if number == int(number) else patient


def complete_spec(spec: DatasetSpec, samples: Samples) -> DatasetSpec:
    """Return the spec completed by the files, where it was listed without them."""
    return spec if samples.spec is None else replace(samples.spec, name=spec.name, samples=spec.samples)


def card_text(spec: DatasetSpec) -> str:
    """Return the fields of a spec that determine a run's result, as text; they are part of the content hash."""
    names = ("labels", "channels", "positive", "unit", "symmetries", "intensity")
    facts = {"task": spec.task.name, **{name: getattr(spec, name) for name in names}}
    if spec.tolerance_mm is not None:  # other datasets keep the hash they had before there was one
        facts["tolerance_mm"] = spec.tolerance_mm
    return json.dumps(facts)


def target_texts(targets: Array) -> list[str]:
    """Return one text per target, the same on every machine."""
    targets = np.asarray(targets)
    if targets.ndim > 2:
        return [hash_bytes(target.tobytes()) for target in targets]
    if np.issubdtype(targets.dtype, np.integer):
        return [str(target) for target in targets.tolist()]
    return [" ".join(f"{value:.9g}" for value in row) for row in targets.reshape(len(targets), -1).tolist()]


def check_samples(spec: DatasetSpec, samples: Samples) -> None:
    """Compare samples with their spec; raise a DataError with the row for the first mistake."""
    table, targets, name = samples.table, np.asarray(samples.targets), spec.name

    def refuse(what: str, fix: str) -> None:
        raise DataError(what, subject=dataset_subject(name), fix=fix)

    if fault := find_spec_fault(spec, DatasetSpec):
        refuse(fault, MAKER)
    if not len(table):
        refuse("it has no images", "add images")
    if spec.dims == 3 and samples.volumes is None:
        refuse("dims is 3, but it has no volumes", "return `volumes` in its Samples")
    if spec.dims == 3 and spec.task.targets.spatial and samples.masks is None:
        refuse("dims is 3, but it has no volumes with masks", "set `masks` in dataset.toml; a plugin returns both")
    if spec.tolerance_mm is not None and not spec.task.targets.spatial:
        refuse(f"tolerance_mm is for masks, but its task is {spec.task.name}", "leave tolerance_mm out")
    for column in ("sample_id", "image"):
        if column not in table.columns:
            refuse(f"its table has no column {column!r}", MAKER)
    if "patient" in table.columns and table["patient"].isna().any():
        refuse(
            f"{table['sample_id'][table['patient'].isna()].iloc[0]!r} has no patient, but other images do",
            "fill it, or drop the row",
        )
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        refuse(f"sample_id {repeated.iloc[0]!r} is repeated", "give each row a different sample_id")
    if len(targets) != len(table):
        refuse(f"{len(targets)} targets for {len(table)} images", MAKER)
    check_targets(spec, samples, refuse)
    check_unit(spec, samples, refuse)
    if "split" in table.columns:
        strange = table.loc[~table["split"].isin([*SPLITS, ""]), ["sample_id", "split"]]
        if len(strange):
            sample_id, split = str(strange.iloc[0, 0]), str(strange.iloc[0, 1])
            refuse(f"{sample_id}: unknown split {split!r}", fix="use train, val, test, or leave it empty")


def check_targets(spec: DatasetSpec, samples: Samples, refuse: Callable[..., None]) -> None:
    """Check that targets have the task's type and range, and are not all equal."""
    targets, kind, num_labels = np.asarray(samples.targets), spec.task.targets, len(spec.labels)
    few = num_labels < kind.min_labels
    if few or (kind.max_labels and num_labels > kind.max_labels):
        least = "at least " if few else ""
        refuse(f"expected {least}{kind.min_labels} labels, got {num_labels}", "correct `labels` or `task`")
    if fault := kind.find_fault(targets, spec.labels):
        place = "" if fault.row is None else f"{samples.table['sample_id'].iloc[fault.row]}: "
        refuse(f"{place}{fault.problem}", fault.fix or MAKER)


def check_unit(spec: DatasetSpec, samples: Samples, refuse: Callable[..., None]) -> None:
    """Check that all images of each scored patient or clip share their target, and those of a clip their patient."""
    table, sample_ids = samples.table, samples.table["sample_id"].to_numpy().astype(np.str_)
    if spec.unit in ("auto", "image"):
        return
    if spec.unit == "patient":
        if "patient" not in table.columns:
            refuse('unit is "patient", but there is no patient key', fix='set `patient`, or unit = "image"')
        owners = unify_spellings(table["patient"])
    else:
        owners = clips_of(sample_ids)
        if (owners == sample_ids).all():
            refuse(
                'unit is "clip", but no image is a frame of a clip', fix='set frames = {every = 1}, or unit = "image"'
            )
    if rows := find_conflict(spec.task, owners, samples.targets):
        first, second = (sample_ids[row] for row in rows)
        refuse(
            f'unit is "{spec.unit}", but {first} and {second} of {owners[rows[0]]} have different labels',
            'correct one, or set unit = "image"',
        )
    if spec.unit == "clip" and "patient" in table.columns:
        numbers = np.unique(unify_spellings(table["patient"]), return_inverse=True)[1]
        if rows := find_disagreement(owners, numbers):
            first, second = (sample_ids[row] for row in rows)
            refuse(
                f'unit is "clip", but {first} and {second} of one clip have different patients',
                'correct one, or set unit = "image"',
            )


def find_conflict(task: Task, owners: Array, targets: Any) -> tuple[int, int] | None:
    """Return two rows of one owner with different targets, or None. Masks cannot conflict: each image has its own."""
    return None if task.targets.spatial else find_disagreement(owners, targets)


def find_disagreement(owners: Array, targets: Any) -> tuple[int, int] | None:
    """Return two rows of one owner with different targets, or None; unknown targets (NaN) are equal."""
    values = np.asarray(targets, dtype=float).reshape(len(owners), -1)
    _, first, inverse = np.unique(owners, return_index=True, return_inverse=True)
    same = np.isclose(values, values[first][inverse], equal_nan=True).all(axis=1)
    row = int(np.argmin(same))
    return None if same[row] else (int(first[inverse[row]]), row)
