"""Write a `dataset.toml`: a card of a guessed dataset, or a card that leaves images out.

Python's standard library reads TOML but does not write it. A card written by a person is kept except for changed keys.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import clean
from zoo.images.formats import clips_of
from zoo.sources.cards import DatasetCard, placeholders
from zoo.sources.clips import fold_clips
from zoo.sources.listing import Listing, natural_key
from zoo.sources.patients import GUESSED_TAGS
from zoo.sources.selection import select_files
from zoo.specs.dataset import FACTS, DatasetSpec, Samples, parse_patient

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
TOP_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")
WIDTH = 110  # a longer list has one item per line
DOCS = "docs/dataset-toml.md"

# Comments beside keys, and examples that are written commented out for unknown keys
REMARKS = {
    "task": "binary, multiclass, ordinal, multilabel or regression",
    "labels": "in this order",
    "root": "the folder of the data",
    "images": "{label}, {split} and {patient} are read from the path; ** also crosses folders",
    "exclude": "left out",
    "join": "the column that names the image",
    "masks": "not images themselves",
    "metadata": "columns to report",
    "inputs": "columns for `--set metadata=true`",
}
EXAMPLES = {
    **{name: each.example for name, each in FACTS.items() if each.example},
    "patient": '{column = "patient_id"}            # or {regex = "(P[0-9]+)_"} on the path. No patient key: '
    "a patient may be in two splits",
    "split": '{column = "split"}                   # no official split: zoo draws one by patient',
    "hide": '["column"]                            # columns that reveal the label',
}


# --- a card of a guessed dataset -------------------------------------------------------------------------------------
def compose_card(card: DatasetCard, spec: DatasetSpec, root: str, notes: Sequence[str]) -> str:
    """Return the text of a card that gives the same samples and contains every guess; `root` is written as it is."""
    keys = {**card_keys(card, spec), **({"root": root} if root else {})}
    unknown = examples_for(spec, arrays="images" not in keys)
    lines = [f"# How zoo reads these data. Correct what is wrong; {DOCS} explains every key.", "schema = 1"]
    lines += [f"# guessed: {clean(note).removesuffix(' (guessed)')}" for note in notes]
    for name in DatasetCard.model_fields:
        if name in keys:
            remark = f"  # {REMARKS[name]}" if name in REMARKS else ""
            text = to_toml(keys[name])
            lines.append(f"{name} = {text}" + (remark if "\n" not in text else ""))
        elif name in unknown:
            lines.append(f"# {name} = {unknown[name]}")
    return "\n".join(lines) + "\n"


def examples_for(spec: DatasetSpec, *, arrays: bool) -> dict[str, str]:
    """Return the keys that the user should consider, each with an example."""
    settled = {"split"} if spec.official_splits else set()
    settled |= set() if parse_patient(spec.patient).missing else {"patient"}
    settled |= {"patient", "split", "hide"} if arrays else set()
    more = {"labels": to_toml([f"name of {label}" for label in spec.labels])} if arrays else {}
    return {name: example for name, example in EXAMPLES.items() if name not in settled} | more


def card_keys(card: DatasetCard, spec: DatasetSpec) -> dict[str, Any]:
    """Return the keys of the card, and those read from labels and files: task, labels, positive, patient."""
    keys = card.model_dump(by_alias=True, exclude_defaults=True)
    of_files = "images" in keys or card.table != ""
    keys |= {"name": spec.name, "task": spec.task.name}
    if of_files:
        keys["images"] = card.images
    label = dict(keys.get("label", {}))
    if spec.positive:
        label["positive"] = spec.positive
    if label:
        keys["label"] = label
    named_by_card = card.labels or card.label.columns or card.label.bins or spec.task.targets.form == "number"
    numbers_of_arrays = not of_files and all(label.isdecimal() for label in spec.labels)
    if not named_by_card and not numbers_of_arrays:
        keys["labels"] = list(spec.labels)
    tags = {meaning: keyword for keyword, meaning in GUESSED_TAGS.items()}
    if of_files and card.patient is None and "patient" not in placeholders(card.images) and spec.patient in tags:
        keys["patient"] = {"tag": tags[spec.patient], **({"means": spec.patient} if spec.patient != "patient" else {})}
    return keys


def card_of_arrays(spec: DatasetSpec) -> DatasetCard:
    """Return the card of an npz: everything that its arrays do not define."""
    return DatasetCard(**{name: getattr(spec, name) for name in (*FACTS, "known_conflicts")})


# --- a card that leaves images out -----------------------------------------------------------------------------------
def leave_out(text: str, changes: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """Return the text of a card with some keys replaced, everything else unchanged, and remarks on top.

    If a key cannot be cut out of the text, the whole card is written again, without its comments.
    """
    wanted = {**tomllib.loads(text), **changes}
    head = [
        *(f"# {clean(remark)}" for remark in remarks),
        *(f"{key} = {to_toml(value)}" for key, value in changes.items()),
    ]
    rest = cut_keys(text.removeprefix("\ufeff").splitlines(), changes)
    changed = "\n".join([*head, "", *rest]) + "\n"
    try:
        if tomllib.loads(changed) == wanted:
            return changed
    except tomllib.TOMLDecodeError:
        pass
    others = [f"{to_key(key)} = {to_toml(value)}" for key, value in wanted.items() if key not in changes]
    return "\n".join([*head, "", *others]) + "\n"


def cut_keys(lines: Sequence[str], keys: Collection[str]) -> list[str]:
    """Remove the lines that set one of the keys before the first section."""
    kept: list[str] = []
    row = 0
    while row < len(lines) and not lines[row].lstrip().startswith("["):
        match = TOP_KEY.match(lines[row])
        end = row + 1
        if match and match[1] in keys:
            end = next((end for end in range(row + 1, len(lines) + 1) if is_whole(lines[row:end])), row + 1)
        else:
            kept.append(lines[row])
        row = end
    return [*kept, *lines[row:]]


def is_whole(lines: Sequence[str]) -> bool:
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def files_of(card: DatasetCard, listing: Listing, samples: Samples, sample_ids: Collection[str]) -> list[str]:
    """Return the files of some images as `drop` names them; a volume or clip is dropped as a whole."""
    names = samples.table["sample_id"].to_numpy().astype(str)
    wholes = clips_of(names)
    dropped = set(wholes[[name in sample_ids for name in names]].tolist())
    files = {
        Path(path).relative_to(listing.root).as_posix()
        for path, whole in zip(samples.files, wholes, strict=True)
        if whole in dropped
    }
    deep = frozenset(name for name in placeholders(card.images) if card.table and not card.join)
    _, clips = fold_clips(card, select_files(card, listing, deep).files, deep)
    files |= {frame for clip in clips.values() if files & set(clip.frames) for frame in clip.frames}
    return sorted(files, key=natural_key)


def relative_root(root: Path, card: Path) -> str:
    """Return `root` for a card: relative if it is below the card's folder, "" if it is that folder, else absolute."""
    folder = card.resolve().parent
    if root == folder:
        return ""
    return root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)


# --- TOML ------------------------------------------------------------------------------------------------------------
def to_toml(value: Any) -> str:
    """Convert a value to TOML; a long list gets one item per line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_key(key)} = {to_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    items = [to_toml(each) for each in value]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= WIDTH else "\n".join(["[", *(f"    {item}," for item in items), "]"])


def to_key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else to_toml(key)
