"""Guess which columns of a table are the label."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import DataError
from zoo.sources.cards import Label
from zoo.sources.decimals import to_number
from zoo.sources.tables import LIST, is_list, split_labels, to_flag

if TYPE_CHECKING:
    import pandas

# A patient column: one of these words alone, or with a suffix (PatientNr, subjectkey) and any prefix (anon_patient_id),
# or after such a word (numero_de_patient). German, French, Spanish, Portuguese and Italian words follow English ones.
PATIENT_WORDS = (
    "patient|patients|subject|subjects|participant|participants|person|mrn|pid|pat|subj|"
    "patienten|proband|probanden|sujet|paciente|pacientes|sujeto|paziente|pazienti|soggetto"
)
PATIENT_SUFFIXES = "id|ids|identifier|no|nr|num|number|key|code|pseudonym|nummer|kennung|numero|codigo|codice"
PATIENT_COLUMN = re.compile(rf"(.+_)??({PATIENT_WORDS})(_?(?:{PATIENT_SUFFIXES}))?")
PATIENT_LAST = re.compile(rf"(?:{PATIENT_SUFFIXES})_(?:de_|del_|du_|do_|di_)?({PATIENT_WORDS})")
KEY_COLUMN = re.compile(r".*(id|nr|num|number|key|code|pseudonym|nummer|kennung|numero|codigo|codice)")
EXAM_COLUMN = re.compile(r"(case|study|lesion)(_?id)?")  # lesion_number may count the lesions of a patient
SPLIT_COLUMNS = ("split", "set", "partition", "subset", "fold", "dataset")
NO_FINDING = ("No Finding", "no finding", "No finding", "No Findings", "none", "None")
SEPARATORS = (";", ",", "/", "+", "&", " and ", " - ", " ")  # besides "|", which always separates labels
# A 0/1 column named only with these words describes the person, the view or the origin, not a finding
NOT_FINDINGS = frozenset(
    "is has was set sex gender male female man woman age old young child adult view frontal lateral ap pa left right "  # noqa: SIM905
    "side laterality eye ever current former never smoker smoke smokes smoked smoking history family test train "
    "training val valid validation split fold subset official holdout quality usable excluded exclude included include "
    "flag duplicate augmented portable bedside inpatient outpatient icu died dead deceased death survived".split()
)
FLAG = re.compile(r"-?[01](\.0*)?|true|false|", re.IGNORECASE)  # a cell of a 0/1 column
MIN_ROWS = 10  # in fewer rows, some columns may contain exactly one 1 by chance
MIN_CLASSES = 3


def normalize_name(column: str) -> str:
    plain = unicodedata.normalize("NFKD", column.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def patient_rank(column: str) -> int | None:
    """Return the rank of a column among those named like the patient, lower is better; None for other columns."""
    name, words = normalize_name(column), PATIENT_WORDS.split("|")
    match = PATIENT_COLUMN.fullmatch(name)
    if match and (match[3] or not match[1]):
        return words.index(match[2])
    if last := PATIENT_LAST.fullmatch(name):
        return words.index(last[1])
    exam = EXAM_COLUMN.fullmatch(name)
    return len(words) + ("case", "study", "lesion").index(exam[1]) if exam else None


def may_be_patient(cells: pandas.Series[str], column: str) -> bool:
    """Whether a column is named like a key, and its values belong to two or more images each, but to few."""
    counts = cells[cells != ""].value_counts()
    is_key = KEY_COLUMN.fullmatch(normalize_name(column)) is not None
    return is_key and len(counts) >= MIN_ROWS and bool(counts.median() >= 2) and 10 * counts.max() < len(cells)


# --- columns of 0 and 1 ----------------------------------------------------------------------------------------------
def one_hot_columns(rows: pandas.DataFrame, image_column: str) -> tuple[str, ...]:
    """Return the columns of 0, 1, -1 and blanks, except those named like other facts (`is_other_fact`)."""
    return tuple(
        column
        for column in rows.columns
        if column != image_column
        and not is_other_fact(column)
        and all(map(FLAG.fullmatch, cells := rows[column].unique()))
        and any(to_flag(cell) in (0, 1) for cell in cells)
    )


def is_other_fact(column: str) -> bool:
    """Whether a column describes the person, the view or the origin rather than a finding."""
    words = set(re.findall(r"[a-z]+", column.lower()))
    is_key = patient_rank(column) is not None or normalize_name(column) in SPLIT_COLUMNS
    return is_key or (bool(words) and words <= NOT_FINDINGS)


def why_no_label(rows: pandas.DataFrame, column: str) -> str:
    """Return why a column that looks like a 0/1 column is not read as a label; "" if it does not look like one."""
    cells = [cell for cell in rows[column].unique() if cell]
    flags = [cell for cell in cells if to_flag(cell) is not None]
    if len({to_flag(cell) for cell in flags}) < 2 or 2 * len(flags) < len(cells):
        return ""
    odd = next((cell for cell in cells if not FLAG.fullmatch(cell)), "")
    return f"it contains {odd!r}" if odd else "its name is not that of a finding" if is_other_fact(column) else ""


def guess_findings(rows: pandas.DataFrame, columns: Sequence[str], place: str, notes: list[str]) -> Label:
    """Choose the label among 0/1 columns: those that together have exactly one 1 in every row, else all of them.

    `place` is the table, for messages.
    """
    reasons = {column: why_no_label(rows, column) for column in rows.columns}
    empty = [column for column in columns if all(to_flag(cell) != 1 for cell in rows[column].unique())]
    columns = [column for column in columns if column not in empty]
    classes = find_classes(rows, columns) if len(rows) >= MIN_ROWS else []
    longest = max(classes, key=len, default=columns)
    rivals = [each for each in classes if len(each) == len(longest)]
    others = [column for column in columns if column not in longest]
    if others and (len(rivals) > 1 or len(longest) < MIN_CLASSES):
        candidates = " or ".join(", ".join(each) for each in rivals)
        raise DataError(
            f"{place}: the 0/1 columns {candidates} have exactly one 1 per row, like classes, but "
            f"{', '.join(others)} {'do' if len(others) > 1 else 'does'} not belong to them",
            fix="set `label = {columns = [...]}` in a dataset.toml beside the data",
        )
    reasons |= dict.fromkeys(others, f"{', '.join(longest)} have exactly one 1 in every row without it")
    notes.append(f"labels are the 0/1 columns {', '.join(longest)}")
    notes += [f"no image has a 1 in {', '.join(empty)}: left out"] if empty else []
    notes += [f"column {column!r} is not read as a label: {why}" for column, why in reasons.items() if why]
    return Label(columns=tuple(longest))


def find_classes(rows: pandas.DataFrame, columns: list[str]) -> list[list[str]]:
    """Return the runs of two or more neighboring columns that together have exactly one 1 in every row."""
    flags_of = {
        text: flag if (flag := to_flag(text)) in (0, 1) else 2 for text in set(rows[columns].to_numpy().ravel())
    }
    values = [rows[column].map(flags_of).to_numpy(int) for column in columns]  # 2: blank or -1, which classes never are
    runs: list[list[str]] = []
    start, total = 0, np.zeros(len(rows), int)
    for end, flags in enumerate(values):
        total = total + flags
        while (total > 1).any():
            total = total - values[start]
            start += 1
        if end > start and (total == 1).all():
            runs.append(columns[start : end + 1])
    return runs


# --- a column of text ------------------------------------------------------------------------------------------------
def guess_label(rows: pandas.DataFrame, column: str, notes: list[str]) -> Label:
    """Read the label from a column, and guess the separator of several labels in a cell."""
    texts = {text for text in rows[column].unique() if text}
    if any(map(is_list, texts)):
        notes.append(f"cells of column {column!r} are read as lists of labels (guessed)")
    separator = LIST if any(map(is_list, texts)) else "|" if any("|" in text for text in texts) else ""
    if not separator and None in map(to_number, texts):
        separator = next((each for each in SEPARATORS if parts_labels(texts, each)), "")
        doubtful = next((each for each in SEPARATORS[:3] if recur(texts, each)), "")
        if separator:
            notes.append(f"cells of column {column!r} contain several labels, separated by {separator!r} (guessed)")
        elif doubtful:
            notes.append(
                f"labels of column {column!r} contain {doubtful!r}: if it separates several labels, "
                f'set label = {{separator = "{doubtful}"}} in dataset.toml'
            )
    if not separator:
        return Label(column=column)
    labels = set().union(*(try_split(text, separator) for text in texts))
    none = next((text for text in NO_FINDING if text in labels), "")
    return Label(column=column, separator=separator, none=none)


def try_split(text: str, separator: str) -> list[str]:
    """Return the labels in a cell, or no label if it cannot be parsed: reading it reports the error."""
    with suppress(ValueError):
        return split_labels(text, separator)
    return []


def recur(texts: set[str], separator: str) -> bool:
    """Whether cells contain the separator and have fewer distinct parts than there are distinct cells."""
    parts = {part for text in texts for part in split_labels(text, separator)}
    return any(separator in text for text in texts) and len(parts) < len(texts)


def parts_labels(texts: set[str], separator: str) -> bool:
    """Whether a character separates labels: parts recur, and at least half of them also fill a cell alone."""
    parts = {part for text in texts for part in split_labels(text, separator)}
    return recur(texts, separator) and 2 * len(parts & texts) >= len(parts)
