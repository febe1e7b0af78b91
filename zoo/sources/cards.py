"""The format of `dataset.toml`: what a dataset is, and how its files and table are read."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from zoo.errors import DataError, nearest
from zoo.sources.synopsis import read_toml_document
from zoo.specs.dataset import FACT_TYPES, FACTS, DatasetSpec
from zoo.tasks.kinds import TASKS
from zoo.tasks.names import TaskNameOrNone

Names = tuple[str, ...]


class CardPart(BaseModel):
    """A section of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Label(CardPart):
    """Where the label is, and how its text is read."""

    column: str = Field(default="", description="Column with the label.")
    columns: Names = Field(default=(), description="Instead of `column`: one 0/1 column per label.")
    separator: str = Field(
        default="",
        description='Separates several labels of an image, for example "|"; "list" where a cell is a Python or JSON '
        "list: ['a', 'b']. Makes the task multilabel.",
    )
    none: str = Field(default="", description='Text that means no label, for example "No Finding".')
    uncertain: Literal["", "ignore", "zeros", "ones"] = Field(
        default="",
        description="Meaning of -1 in 0/1 columns: ignore = unknown (the default if the columns also contain 0), "
        "zeros = label absent, ones = label present.",
    )
    positive: str = Field(
        default="",
        description="Binary tasks: the positive label. Default: the one whose name is not normal, negative, benign or "
        "similar, else the last.",
    )
    bins: tuple[float, ...] = Field(
        default=(), description="Edges that turn numbers into grades, for example [0, 40, 50, 100]."
    )
    names: Names = Field(default=(), description="Names of the grades, one fewer than `bins`.")

    @model_validator(mode="after")
    def agree(self) -> Label:
        if self.column and self.columns:
            raise ValueError("set either column or columns, not both")
        if self.bins and list(self.bins) != sorted(set(self.bins)):
            raise ValueError(f"bins must be in increasing order, got {list(self.bins)}")
        if self.bins and self.names and len(self.names) != len(self.bins) - 1:
            raise ValueError(f"{len(self.bins)} bins make {len(self.bins) - 1} grades, got {len(self.names)} names")
        return self


class Patient(CardPart):
    """The patient of each image; no patient may be in two splits."""

    column: str = Field(default="", description="Column with the patient.")
    regex: str = Field(
        default="", description="Regular expression on the image's path; its first group is the patient."
    )
    tag: str = Field(default="", description='DICOM tag with the patient: "PatientID", "StudyInstanceUID".')
    none: str = Field(default="", description='Why there is no patient key: "not published: image level".')
    means: str = Field("patient", description='What the key identifies: "patient", "lesion", "eye".')

    @field_validator("regex")
    @classmethod
    def compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if value and not groups:
            raise ValueError("needs one group in parentheses, which matches the patient")
        return value

    @model_validator(mode="after")
    def agree(self) -> Patient:
        if sum(map(bool, (self.column, self.regex, self.tag, self.none))) != 1:
            raise ValueError("set exactly one of column, regex, tag, none")
        return self


class SplitRule(CardPart):
    """The official split: a column and its values for train, val and test; or files that list the images.

    Without either, how zoo draws a split: the number of `folds`, and the share `val` of train.
    """

    column: str = Field(default="", description="Column with the split.")
    train: str | Names = Field(
        default=(), description="Values that mean train; without `column`, files that list the images of train."
    )
    val: str | Names | Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=(), description="The same for val; or the share of train to draw as val."
    )
    test: str | Names = Field(default=(), description="The same for test.")
    rest: str = Field(default="", description="A file that lists every image that is not in test.")
    folds: int | None = Field(default=None, ge=2, le=1000, description="Draw this many folds by patient.")

    @model_validator(mode="after")
    def agree(self) -> SplitRule:
        if not self.model_fields_set:
            raise ValueError("set column, files of names, val or folds")
        if self.rest and (self.column or self.train):
            raise ValueError("rest replaces train and cannot be combined with column or train")
        if self.rest and not self.test:
            raise ValueError("rest lists what is not in test, so test must be set too")
        return self

    def lists(self) -> list[tuple[str, str]]:
        """Return (key, file of names) of each list, the shorter ones first; empty where a column gives the split."""
        if self.column:
            return []
        by_key = {"test": self.test, "val": self.val, "train": self.train, "rest": self.rest}
        return [
            (key, name)
            for key, names in by_key.items()
            if not isinstance(names, float) and names
            for name in ([names] if isinstance(names, str) else names)
        ]

    @property
    def val_share(self) -> float | None:
        return self.val if isinstance(self.val, float) else None

    def meanings(self) -> dict[str, str]:
        """Map each value of the column to its split."""
        by_split = {"train": self.train, "val": self.val, "test": self.test}
        return {
            value: split
            for split, values in by_split.items()
            if not isinstance(values, float)
            for value in ([values] if isinstance(values, str) else values)
        }


class Join(CardPart):
    """How a row of the table finds its images, where `images` contains no column."""

    column: str = Field(
        description="Column with the path or name of an image, with or without suffix; with the path or name of a "
        "folder, so that the row applies to all images in it; or with the value of `tag`."
    )
    tag: str = Field(default="", description='DICOM tag that the column holds: "SOPInstanceUID", "AccessionNumber".')


class Add(CardPart):
    """A second table, joined to the first by a column that both have."""

    table: str = Field(description="CSV or TSV file.")
    by: str = Field(description="Column of both tables; in the second, each value occurs once.")


class Masks(CardPart):
    """Files that are masks of images, not images themselves."""

    path: str = Field(
        default="", description="Pattern with {stem}, the image's name without suffix, or other placeholders."
    )
    second: str = Field(
        default="",
        description="Pattern of a second reader's masks, in addition to `path`: boards have a row that scores them "
        "against the first reader's and is not ranked.",
    )
    column: str = Field(default="", description="Instead of `path`: column with the path of the mask.")
    modality: Literal["", "SEG", "RTSTRUCT"] = Field(
        default="",
        description="Instead of `path`: the masks are the segments or contours of DICOM files of this modality, "
        "which refer to their images.",
    )
    merge: Literal["union", "none"] = Field(
        default="union", description="How several masks of an image are combined; none: they are refused."
    )

    @model_validator(mode="after")
    def agree(self) -> Masks:
        if sum(map(bool, (self.path, self.column, self.modality))) != 1:
            raise ValueError("set exactly one of path, column, modality")
        if self.second and not self.path:
            raise ValueError("second goes with path")
        return self


class Slices(CardPart):
    """Which slices of a volume are images."""

    axis: int | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Axis of the array across which slices are cut. Default: axis 2 of a NIfTI, the pages of a TIFF.",
    )
    step: int = Field(default=1, ge=1, description="Take one slice in this many.")
    keep: Literal["all", "nonempty"] = Field(
        default="nonempty", description="nonempty: leave out slices that have only one value."
    )


class Frames(CardPart):
    """Which frames of a clip, or of a folder of frames, are images."""

    every: int = Field(default=1, ge=1, description="Take one frame in this many.")
    max: int | None = Field(default=None, ge=1, description="Take at most this many frames per clip, from its start.")


class Intensity(CardPart):
    """How values of more than 8 bits become levels: one mapping for the whole set, recorded with every result."""

    window: Literal["", "dicom"] | tuple[float, float] = Field(
        default="", description='"dicom": each file\'s own VOI LUT or window; or [center, width].'
    )
    levels: tuple[float, float] | None = Field(default=None, description="The values that become black and white.")
    percentiles: tuple[float, float] | None = Field(
        default=None, description="The same as percentiles of all values in the train images of each fold."
    )
    each: Literal["set", "volume"] = Field(
        default="set",
        description="volume: take the percentiles of each volume separately, for values without a unit, as in MR.",
    )
    bits: Literal[8, 16] = Field(default=16, description="Bits of the result: 256 or 65,536 levels.")

    @model_validator(mode="after")
    def agree(self) -> Intensity:
        if sum(map(bool, (self.window, self.levels, self.percentiles))) > 1:
            raise ValueError("set only one of window, levels, percentiles")
        if self.each == "volume" and not self.percentiles:
            raise ValueError('each = "volume" needs percentiles')
        return self


class CardHead(CardPart):
    """The version of the format, and the name."""

    schema_: Literal[1] = Field(default=1, alias="schema", description="Version of this format.")
    name: str = Field(
        default="", pattern=r"^[a-z0-9_.\-]*$", description="Lower-case name. Default: the folder's name."
    )


if TYPE_CHECKING:

    class FactsOfCard(CardHead):
        """`CardHead` and one key per fact."""

        def __getattr__(self, fact: str) -> Any: ...

else:
    defaults = {each.name: each.default for each in fields(DatasetSpec)}
    fact_fields = {
        name: (FACT_TYPES[name], Field(default=defaults[name], description=each.help)) for name, each in FACTS.items()
    }
    FactsOfCard = create_model("FactsOfCard", __base__=CardHead, **fact_fields)


class DatasetCard(FactsOfCard):
    """What zoo cannot guess about a dataset."""

    task: TaskNameOrNone = Field(default="", description="What is predicted. Default: guessed from the labels.")
    root: str = Field(
        default="",
        description="Folder of the data. Default: the folder of this file. It may be an archive, a folder in one "
        "(`set.zip/inner`), or a `.npz`.",
    )
    images: str = Field(
        default="**/*",
        min_length=1,
        description="Pattern of the image files. {label}, {split} and {patient} are read from the path, {clip} groups "
        "frames into a clip, {COLUMN} joins the row of the table with this value.",
    )
    channels: Names = Field(
        default=(),
        description="Endings of the names of the files of an image, one per channel, without suffix: "
        '`["_0000", "_0001"]`. {stem} is the name without them.',
    )
    exclude: str | Names = Field(default=(), description="Patterns of files to leave out.")
    table: str = Field(default="", description="CSV, TSV or JSON-lines file.")
    add: Add | None = Field(default=None, description="A second table.")
    join: Join | None = Field(default=None, description="How a row finds its images.")
    label: Label = Field(default=Label(), description="Where the label is, and how it is read.")
    labels: Names | dict[str, str] = Field(
        default=(),
        description="Order of the labels; or a table from each value in the data to the name displayed, in order.",
    )
    ignore: Names = Field(
        default=(),
        description="Labels to leave out of a multilabel task, or segments of DICOM segmentations, as they are in the "
        'data; "*": all that `labels` does not name. Their images stay.',
    )
    patient: Patient | None = Field(default=None, description="The patient of each image.")
    split: SplitRule | None = Field(default=None, description="The official split, or how to draw one.")
    masks: Masks | None = Field(default=None, description="Files that are masks.")
    slices: Slices | None = Field(default=None, description="Which slices of a volume are read.")
    frames: Frames | None = Field(default=None, description="Which frames of a clip are read.")
    crop: Literal["", "ultrasound-region"] = Field(
        default="", description="ultrasound-region: crop to the region in a DICOM's SequenceOfUltrasoundRegions."
    )
    metadata: Names = Field(default=(), description="Columns to report; `zoo audit` warns if one predicts the label.")
    hide: Names = Field(default=(), description="Columns that leak the label; they are not used anywhere.")
    intensity: tuple[float, float] | Intensity | None = Field(
        default=None,
        description="The two levels of 16-bit images that become 0 and 1. Default: percentiles 0.1 and 99.9 of train. "
        "Or a section that maps values to levels.",
    )
    known_conflicts: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs of images that look alike and have different labels, known and accepted."
    )
    checksums: dict[str, str] = Field(
        default_factory=dict,
        description="The published md5 of each file below the root; the [audit](audit.md) compares them.",
    )
    drop: Names = Field(
        default=(),
        description="Images to leave out, by path or name; `zoo audit DATASET --fix OUT.toml` writes such a list.",
    )
    label_map: dict[str, str] = Field(
        default_factory=dict,
        description="For each label, its name in other datasets whose models are "
        "[tested on this one](external-validation.md).",
    )

    def columns(self) -> dict[str, str]:
        """Map each place in this file that names a column to that column."""
        by_place = {"label.column": self.label.column, "join.column": self.join.column if self.join else ""}
        by_place |= {"patient.column": self.patient.column if self.patient else ""}
        by_place |= {"split.column": self.split.column if self.split else ""}
        by_place |= {"masks.column": self.masks.column if self.masks else ""}
        for place, columns in (("label.columns", self.label.columns), ("metadata", self.metadata), ("hide", self.hide)):
            by_place |= {f"{place}.{index}": column for index, column in enumerate(columns)}
        return {place: column for place, column in by_place.items() if column}

    @property
    def excludes(self) -> Names:
        return (self.exclude,) if isinstance(self.exclude, str) else self.exclude

    @property
    def label_in_path(self) -> bool:
        """Whether the label comes from the folders; a table then only adds other columns."""
        return not self.label.column and not self.label.columns and not (self.masks and self.masks.column)

    @property
    def deciding_columns(self) -> list[str]:
        """The columns in which all rows of an image must agree."""
        named = [*self.label.columns, self.label.column, self.patient.column if self.patient else ""]
        named.append(self.masks.column if self.masks else "")
        return list(dict.fromkeys(column for column in [*named, self.split.column if self.split else ""] if column))

    @property
    def leaves_files_open(self) -> bool:
        """Whether neither images nor table are set, so that both are guessed."""
        return not {"images", "table", "join"} & self.model_fields_set

    def completed_by(self, guessed: DatasetCard) -> DatasetCard:
        """Return the guessed card with every field that this card sets replaced by its own."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        if "label" in own:
            label = {name: getattr(self.label, name) for name in self.label.model_fields_set}
            own["label"] = guessed.label.model_copy(update=label)
        if "exclude" in own:
            own["exclude"] = (*guessed.excludes, *self.excludes)
        return guessed.model_copy(update=own)

    @field_validator("intensity")
    @classmethod
    def is_range(cls, value: tuple[float, float] | Intensity | None) -> tuple[float, float] | Intensity | None:
        if isinstance(value, tuple) and not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("expected two finite levels, the lower one first")
        return value

    @model_validator(mode="after")
    def agree(self) -> DatasetCard:
        if not self.table and self.columns() and not self.leaves_files_open:
            raise ValueError(f"{', '.join(self.columns())}: set `table` too, the file with these columns")
        if self.labels and (self.label.bins or (self.task and TASKS[self.task].targets.form == "number")):
            raise ValueError(
                "labels: " + ("use label.names beside bins" if self.label.bins else "leave it out for a regression")
            )
        if "*" in self.ignore and not self.labels:
            raise ValueError('ignore: "*" leaves out all labels that `labels` does not name; set `labels`')
        return self


def read_card(path: Path) -> DatasetCard:
    """Read a `dataset.toml`; one DataError lists every mistake with its key."""
    document = read_toml_document(path)
    try:
        return DatasetCard.model_validate(document)
    except ValidationError as error:
        raise card_error(path, describe_mistakes(error)) from error


def describe_nested(error: DataError) -> str:
    """Return an error's message, with its fix in parentheses, as one of several mistakes."""
    return f"{error.message} ({error.fix})" if error.fix else error.message


def card_error(path: Path, mistakes: list[str]) -> DataError:
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    return DataError(
        f"{path}: {count}{'; '.join(mistakes)}",
        fix="correct the card; docs/dataset-toml.md lists all keys",
        code="card",
    )


# pydantic inserts these into the location of a mistake where a value may have several types
PLACEHOLDER_KIND = re.compile(
    r"str|float|constrained-float|Intensity|(tuple|dict|literal|lax-or-strict|function-\w+)\[.*\]"
)


def describe_mistakes(error: ValidationError) -> list[str]:
    """Return one text per key; where a value may have several types, join the messages of all of them."""
    by_place: dict[str, list[Any]] = {}
    for mistake in error.errors():
        place = [str(part) for part in mistake["loc"] if not PLACEHOLDER_KIND.fullmatch(str(part))]
        by_place.setdefault(".".join(place), []).append({**mistake, "loc": place})
    return [describe_mistake(place, mistakes) for place, mistakes in by_place.items()]


def describe_mistake(place: str, mistakes: list[Any]) -> str:
    if mistakes[0]["type"] == "extra_forbidden":
        *above, key = mistakes[0]["loc"]
        hint = nearest(key, known_keys(above))
        return f"{place}: unknown key" + (f". {hint}" if hint else "")
    of_value = [mistake for mistake in mistakes if not mistake["type"].endswith("_type")]  # right type, wrong value
    texts = [mistake["msg"].removeprefix("Value error, ") for mistake in of_value or mistakes]
    text = " or ".join([texts[0], *(text.removeprefix("Input should be ") for text in texts[1:])])
    return f"{place}: {text}" if place else text


def known_keys(section: list[str]) -> list[str]:
    """List the valid keys of the file, or of the section in `place`."""
    model = CARD_SECTIONS.get(section[0], DatasetCard) if section else DatasetCard
    return [field.alias or name for name, field in model.model_fields.items()]


CARD_SECTIONS: dict[str, type[CardPart]] = {
    "label": Label,
    "patient": Patient,
    "split": SplitRule,
    "join": Join,
    "add": Add,
    "masks": Masks,
    "slices": Slices,
    "frames": Frames,
    "intensity": Intensity,
}


def card_schema() -> dict[str, Any]:
    """Return the JSON schema of `dataset.toml`, published as `docs/dataset.schema.json`."""
    schema: dict[str, Any] = plain_schema(DatasetCard.model_json_schema())
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "dataset.toml: what zoo cannot guess about a dataset", **schema}


def plain_schema(node: Any) -> Any:
    """Remove what is useless for a TOML file: null (TOML has none), empty defaults, titles generated from names."""
    if isinstance(node, list):
        return [plain_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    types = [kind for kind in node.get("anyOf", []) if kind != {"type": "null"}]
    single = types[0] if len(types) == 1 else {"anyOf": types} if types else {}
    node = {**{key: value for key, value in node.items() if key != "anyOf"}, **single}
    plain = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            plain[key] = {name: plain_schema(each) for name, each in value.items()}
        elif key != "title" and not (key == "default" and is_empty(value)):
            plain[key] = plain_schema(value)
    return plain


def is_empty(default: Any) -> bool:
    return not any(default.values()) if isinstance(default, dict) else default in (None, "", [])


# --- patterns --------------------------------------------------------------------------------------------------------
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
PATH_FACTS = ("label", "split", "patient")  # the placeholders with a fixed meaning
Captures = Annotated[dict[str, str], "placeholder -> the text that it matched"]
Compiled = Annotated[
    tuple[re.Pattern[str], list[str]], "a regular expression, and the placeholders in the order of its groups"
]


def placeholders(pattern: str) -> list[str]:
    return list(dict.fromkeys(PLACEHOLDER.findall(pattern)))


def compile_pattern(pattern: str, deep: frozenset[str] = frozenset()) -> Compiled:
    """Compile a glob with {placeholders} to a regular expression on a posix path.

    A placeholder matches within one folder, unless it is in `deep`: a column of a table may hold a path. A repeated
    placeholder must match the same text each time.
    """
    names = placeholders(pattern)
    expression = ""
    seen: set[str] = set()
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\{[^{}]+\})", pattern):
        if part.startswith("{") and len(part) > 2:
            name = part[1:-1]
            group = f"g{names.index(name)}"
            expression += f"(?P={group})" if name in seen else f"(?P<{group}>{'.+' if name in deep else '[^/]+?'})"
            seen.add(name)
        else:
            expression += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(expression, re.DOTALL), names


def match_path(compiled: Compiled, path: str) -> Captures | None:
    expression, names = compiled
    match = expression.fullmatch(path)
    return None if match is None else {name: match[f"g{index}"] for index, name in enumerate(names)}
