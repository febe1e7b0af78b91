"""Joined images to whom each belongs: by a column, the path or a DICOM tag; frames of a file stay together."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from zoo.errors import DataError
from zoo.images.formats import split_frame
from zoo.sources.cards import DatasetCard
from zoo.sources.headers import Headers
from zoo.sources.joining import Joined
from zoo.sources.listing import one_form
from zoo.sources.names import suggest_patient
from zoo.specs.dataset import AmbiguityNote

GUESSED_TAGS = {"PatientID": "patient", "StudyInstanceUID": "study"}  # keyword -> what it stands for


@dataclass(frozen=True, eq=False)
class Patients:
    """One text an image, or none at all where there is no key."""

    texts: list[str]
    meaning: str  # "patient", "study", "file"; "none: REASON"
    notes: tuple[str, ...] = ()
    doubts: tuple[AmbiguityNote, ...] = ()


def find_patients(card: DatasetCard, joined: Joined, headers: Headers) -> Patients:
    """As the card says, else by the path, else by the tags of DICOM files. A blank one is a patient of its own."""
    said = card.patient
    if said and said.column:
        return complete_patients(list(joined.cells[said.column]), said.means, joined)
    if said and said.regex:
        return complete_patients([patient_in_name(said.regex, image) for image in joined.images], said.means, joined)
    if said and said.tag:
        return complete_patients([headers.tag(file, said.tag) for file in joined.files], said.means, joined)
    if not said and "patient" in joined.captures[0]:
        return complete_patients([captures["patient"] for captures in joined.captures], "patient", joined)
    found = Patients([], f"none: {said.none if said else 'image level'}")
    if not said:
        found = guess_by_tag(joined, headers)
    if not found.texts and (rows := shared_rows(joined)):
        note = f"nothing names the patient: images of one row of {joined.table} are taken as of one"
        return Patients(rows, "row", (*found.notes, note))
    if not found.texts and joined.has_frames:
        note = "nothing names the patient: every volume or clip is taken as one"
        wholes = [split_frame(sample_id)[0] for sample_id in joined.sample_ids]
        return Patients(wholes, "file", (*found.notes, note))
    if not found.texts and not said:
        note = "no patient key: image level, images of a patient may be in two splits"
        hint = suggest_patient(tuple(joined.images))
        return replace(found, notes=(*found.notes, note, *([hint] if hint else [])))
    return found


def shared_rows(joined: Joined) -> list[str]:
    """The row of every image, or its path where it has none; nothing where a row means one image, volume or clip."""
    wholes = [split_frame(sample_id)[0] for sample_id in joined.sample_ids]
    rows = [str(place) or whole for place, whole in zip(joined.cells.index, wholes, strict=True)]
    return rows if len(set(rows)) < len(set(wholes)) else []


def complete_patients(texts: list[str], meaning: str, joined: Joined) -> Patients:
    blank = texts.count("")
    texts = [one_form(text) or f"unknown {file}" for text, file in zip(texts, joined.files, strict=True)]
    if not blank:
        return Patients(texts, meaning)
    note = f"{blank} of {len(texts)} images have no {meaning}: each is taken as a {meaning} of its own"
    doubt = AmbiguityNote(
        check="patient-unknown",
        message=f"{note}, and may share one with images of another split",
        fix=f"fill in the {meaning}s, or leave these images out",
        count=blank,
    )
    return Patients(texts, meaning, (note,), (doubt,))


def patient_in_name(expression: str, image: str) -> str:
    found = re.search(expression, image)
    if not found or not found[1]:
        raise DataError(
            f"{image}: patient.regex {expression!r} finds no patient in this name",
            fix="correct the expression, or name a column: patient = {column = ...}",
        )
    return found[1]


def guess_by_tag(joined: Joined, headers: Headers) -> Patients:
    """PatientID, where every file has one and they differ, else StudyInstanceUID; why not, if neither will do."""
    files = tuple(dict.fromkeys(joined.files))
    telling = headers.tagged(files)
    if len(telling) < len(files):
        return Patients([], "none: image level")
    notes = []
    for keyword, meaning in GUESSED_TAGS.items():
        values = Counter(telling[file].tags.get(keyword, "") for file in files)
        if "" not in values and len(values) > 1:
            notes.append(f"the {meaning} is DICOM tag {keyword}: {len(values)} in {len(files)} files (guessed)")
            texts = [one_form(telling[file].tags[keyword]) for file in joined.files]
            return Patients(texts, meaning, tuple(notes))
        missing = f"missing in {values['']} of {len(files)} files" if "" in values else "the same in all files"
        notes.append(f"DICOM tag {keyword} is {missing}: it tells no {meaning} apart")
    return Patients([], "none: image level", tuple(notes))
