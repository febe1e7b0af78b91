"""Find the patient of each image in a column, the path or a DICOM tag; frames of a file stay together."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from zoo.errors import DataError, plural_of
from zoo.images.formats import split_frame
from zoo.sources.cards import DatasetCard
from zoo.sources.headers import Headers
from zoo.sources.joining import Joined
from zoo.sources.listing import one_form
from zoo.sources.names import suggest_patient
from zoo.sources.selection import first_ending
from zoo.specs.dataset import AmbiguityNote

GUESSED_TAGS = {"PatientID": "patient", "StudyInstanceUID": "study"}  # keyword -> what it identifies


@dataclass(frozen=True, eq=False)
class Patients:
    """One text per image; empty where there is no patient key."""

    texts: list[str]
    meaning: str  # "patient", "study", "file"; "none: REASON"
    notes: tuple[str, ...] = ()
    doubts: tuple[AmbiguityNote, ...] = ()


def find_patients(card: DatasetCard, joined: Joined, headers: Headers) -> Patients:
    """Find patients as the card defines, else by the path, else by DICOM tags. A blank one is a separate patient."""
    rule = card.patient
    if rule and rule.column:
        return complete_patients(list(joined.cells[rule.column]), rule.means, joined)
    if rule and rule.regex:
        return complete_patients([patient_in_name(rule.regex, image) for image in joined.images], rule.means, joined)
    if rule and rule.tag:
        return complete_patients([headers.tag(file, rule.tag) for file in joined.files], rule.means, joined)
    if not rule and "patient" in joined.captures[0]:
        return complete_patients([captures["patient"] for captures in joined.captures], "patient", joined)
    patients = Patients([], f"none: {rule.none}") if rule else guess_by_tag(joined, headers)
    if not patients.texts and (rows := shared_rows(joined)):
        note = f"no patient key: the images of one row of {joined.table} are taken as one patient"
        return Patients(rows, "row", (*patients.notes, note))
    if not patients.texts and joined.has_frames:
        note = "no patient key: every volume or clip is taken as one patient"
        wholes = [split_frame(sample_id)[0] for sample_id in joined.sample_ids]
        return Patients(wholes, "file", (*patients.notes, note))
    if not patients.texts and not rule:
        note = "no patient key: image level, so images of one patient may be in two splits"
        hint = suggest_patient(tuple(joined.images), first_ending(card))
        return replace(patients, notes=(*patients.notes, note, *([hint] if hint else [])))
    return patients


def shared_rows(joined: Joined) -> list[str]:
    """Return the row of every image, or its path if it has none; empty if every row has one image, volume or clip."""
    wholes = [split_frame(sample_id)[0] for sample_id in joined.sample_ids]
    rows = [str(place) or whole for place, whole in zip(joined.cells.index, wholes, strict=True)]
    return rows if len(set(rows)) < len(set(wholes)) else []


def complete_patients(texts: list[str], meaning: str, joined: Joined) -> Patients:
    blank = texts.count("")
    texts = [one_form(text) or f"unknown {file}" for text, file in zip(texts, joined.files, strict=True)]
    if not blank:
        return Patients(texts, meaning)
    note = f"{blank} of {len(texts)} images have no {meaning}: each is taken as a separate {meaning}"
    doubt = AmbiguityNote(
        check="patient-unknown",
        message=f"{note}, although it may share one with images of another split",
        fix=f"fill in the {plural_of(meaning)}, or leave these images out",
        count=blank,
    )
    return Patients(texts, meaning, (note,), (doubt,))


def patient_in_name(expression: str, image: str) -> str:
    match = re.search(expression, image)
    if not match or not match[1]:
        raise DataError(
            f"{image}: patient.regex {expression!r} matches no patient in this path",
            fix="correct the expression, or set a column: patient = {column = ...}",
        )
    return match[1]


def guess_by_tag(joined: Joined, headers: Headers) -> Patients:
    """Take PatientID if every file has one and they differ, else StudyInstanceUID; else note why neither works."""
    files = tuple(dict.fromkeys(joined.files))
    tagged = headers.tagged(files)
    if len(tagged) < len(files):
        return Patients([], "none: image level")
    notes = []
    for keyword, meaning in GUESSED_TAGS.items():
        values = Counter(tagged[file].tags.get(keyword, "") for file in files)
        if "" not in values and len(values) > 1:
            notes.append(f"the {meaning} is DICOM tag {keyword}: {len(values)} in {len(files)} files (guessed)")
            texts = [one_form(tagged[file].tags[keyword]) for file in joined.files]
            return Patients(texts, meaning, tuple(notes))
        reason = f"missing in {values['']} of {len(files)} files" if "" in values else "the same in all files"
        notes.append(f"DICOM tag {keyword} is {reason}: it is not used as the {meaning}")
    return Patients([], "none: image level", tuple(notes))
