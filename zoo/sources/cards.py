"""Read a `dataset.toml` as a Card: what a set of images is, and how its files and table are read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zoo.errors import DataError, nearest
from zoo.system.toml import parse_toml

Names = tuple[str, ...]


class CardPart(BaseModel):
    """A section of the file: an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Label(CardPart):
    """Where the label stands, and how its text is read."""

    column: str = Field(default="", description="Column with the label.")
    columns: Names = Field(default=(), description="Instead: one 0/1 column a label.")
    separator: str = Field(
        default="",
        description='Between several labels of an image: "|"; or "list", where a cell is a list as Python or JSON '
        "write it: ['a', 'b']. Makes the task multilabel.",
    )
    none: str = Field(default="", description='Text that means no label at all: "No Finding".')
    uncertain: Literal["", "ignore", "zeros", "ones"] = Field(
        default="",
        description="Meaning of -1 in 0/1 columns: ignore = unknown (the default if the columns also contain 0), "
        "zeros = label absent, ones = label present.",
    )
    positive: str = Field(
        default="",
        description="Binary: the label called positive. Default: the one not called normal, negative, benign or so, "
        "else the last.",
    )
    bins: tuple[float, ...] = Field(default=(), description="Edges that turn a number into grades: [0, 40, 50, 100].")
    names: Names = Field(default=(), description="Names of the grades, one fewer than edges.")

    @model_validator(mode="after")
    def agree(self) -> Label:
        if self.column and self.columns:
            raise ValueError("give either column or columns")
        if self.bins and list(self.bins) != sorted(set(self.bins)):
            raise ValueError(f"bins must rise, got {list(self.bins)}")
        if self.bins and self.names and len(self.names) != len(self.bins) - 1:
            raise ValueError(f"{len(self.bins)} bins make {len(self.bins) - 1} grades, got {len(self.names)} names")
        return self


class Patient(CardPart):
    """Who an image belongs to: nobody may be in two splits."""

    column: str = Field(default="", description="Column with the patient.")
    regex: str = Field(default="", description="Expression on the image's path; its first group is the patient.")
    tag: str = Field(default="", description='DICOM tag with the patient: "PatientID", "StudyInstanceUID".')
    none: str = Field(default="", description='Why there is no key: "not published: image level".')
    means: str = Field("patient", description='What the key stands for: "patient", "lesion", "eye".')

    @field_validator("regex")
    @classmethod
    def compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if value and not groups:
            raise ValueError("needs one group in parentheses: the patient")
        return value

    @model_validator(mode="after")
    def agree(self) -> Patient:
        if sum(map(bool, (self.column, self.regex, self.tag, self.none))) != 1:
            raise ValueError("give exactly one of column, regex, tag, none")
        return self


class SplitRule(CardPart):
    """The official split: a column and the values in it that mean train, val and test; or files that list the images.

    Without either, what zoo is to draw: `folds`, and the share `val` of train.
    """

    column: str = Field(default="", description="Column with the split.")
    train: str | Names = Field(default=(), description="Values that mean train; without `column`, a file of names.")
    val: str | Names | Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=(), description="The same for val; or the share of train to draw it from."
    )
    test: str | Names = Field(default=(), description="The same for test.")
    rest: str = Field(default="", description="A file with the names of all that is not in test.")
    folds: int | None = Field(default=None, ge=2, le=1000, description="Draw this many folds by patient.")

    @model_validator(mode="after")
    def agree(self) -> SplitRule:
        if not self.model_fields_set:
            raise ValueError("give column, files of names, val or folds")
        if self.rest and (self.column or self.train):
            raise ValueError("rest, a file of names, stands for train: not beside column or train")
        if self.rest and not self.test:
            raise ValueError("rest is what is not in test: give test too")
        return self

    def lists(self) -> list[tuple[str, str]]:
        """Without a column: (key, file of names) of each list, the smaller ones first."""
        if self.column:
            return []
        given = {"test": self.test, "val": self.val, "train": self.train, "rest": self.rest}
        return [
            (key, name)
            for key, names in given.items()
            if not isinstance(names, float) and names
            for name in ([names] if isinstance(names, str) else names)
        ]

    @property
    def val_share(self) -> float | None:
        return self.val if isinstance(self.val, float) else None

    def meanings(self) -> dict[str, str]:
        """Value in the column -> split."""
        given = {"train": self.train, "val": self.val, "test": self.test}
        return {
            value: split
            for split, values in given.items()
            if not isinstance(values, float)
            for value in ([values] if isinstance(values, str) else values)
        }


class Join(CardPart):
    """How a row of the table finds its images, where no column stands in `images`."""

    column: str = Field(
        description="Column with the path or name of an image, with or without suffix; with those of a folder, whose "
        "images all have the row; or with the value of `tag`."
    )
    tag: str = Field(default="", description='DICOM tag that the column holds: "SOPInstanceUID", "AccessionNumber".')


class Add(CardPart):
    """A second table, whose columns are added to the first by a column that both have."""

    table: str = Field(description="CSV or TSV file.")
    by: str = Field(description="Column in both with the same values; in the second table each once.")


class Masks(CardPart):
    """Files that mark something in an image; they are no further images."""

    path: str = Field(description="Pattern with {stem}, the image's name without suffix, or other placeholders.")
    merge: Literal["union", "none"] = Field(
        default="union", description="What several masks of an image make. Masks are not read yet."
    )


class Slices(CardPart):
    """Which slices of a volume are images."""

    axis: int | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Across which axis of the array slices are cut. Default: 2 of a NIfTI, the pages of a TIFF.",
    )
    step: int = Field(default=1, ge=1, description="Every how many slices one is taken.")
    keep: Literal["all", "nonempty"] = Field(
        default="nonempty", description="nonempty: slices of one value are left out."
    )


class Frames(CardPart):
    """Which frames of a clip, or of a folder of frames, are images."""

    every: int = Field(default=1, ge=1, description="Every how many frames one is taken.")
    max: int | None = Field(default=None, ge=1, description="At most so many a clip, from its start.")


class Intensity(CardPart):
    """How values beyond 8 bits become levels: one mapping for the whole set, recorded with every result."""

    window: Literal["", "dicom"] | tuple[float, float] = Field(
        default="", description='"dicom": each file\'s own VOI LUT or window; or [centre, width].'
    )
    levels: tuple[float, float] | None = Field(default=None, description="Values that become black and white.")
    percentiles: tuple[float, float] | None = Field(
        default=None, description="The same, of all values of the train images of each fold."
    )
    each: Literal["set", "volume"] = Field(
        default="set",
        description="volume: the percentiles are those of each volume by itself, for values without a unit, as of MR.",
    )
    bits: Literal[8, 16] = Field(default=16, description="How many levels: 256 or 65,536.")

    @model_validator(mode="after")
    def agree(self) -> Intensity:
        if sum(map(bool, (self.window, self.levels, self.percentiles))) > 1:
            raise ValueError("give one of window, levels, percentiles")
        if self.each == "volume" and not self.percentiles:
            raise ValueError('each = "volume" needs percentiles')
        return self


class DatasetCard(CardPart):
    """What cannot be guessed about a set of images."""

    schema_: Literal[1] = Field(default=1, alias="schema", description="Version of this format.")
    name: str = Field(
        default="", pattern=r"^[a-z0-9_.\-]*$", description="Lower case; the folder's name is the default."
    )
    title: str = Field(default="", description="For the board; the folder's name is the default.")
    description: str = Field(default="", description="A sentence or two.")
    modality: str = Field(default="", description='How the images were made: "dermoscopy", "chest X-ray".')
    license: str = Field(default="", description='"CC BY 4.0".')
    citation: str = Field(default="", description="The paper.")
    url: str = Field(default="", description="Where the data come from.")
    task: Literal["", "binary", "multiclass", "ordinal", "multilabel", "regression"] = Field(
        default="", description="What is asked of an image; guessed from the labels."
    )
    unit: Literal["auto", "image", "clip", "patient"] = Field(
        default="auto",
        description="What is scored. auto: the patient where all images of each share a label, else the image.",
    )
    share_targets: bool = Field(
        default=True, description="false: the license keeps the targets; `zoo bundle` leaves them out."
    )
    reference_standard: str = Field(default="", description='Who or what says the label: "biopsy", "two readers".')
    derived_from: Names = Field(
        default=(),
        description='Collections the images come from, lower case: "ham10000". A board says where weights were trained '
        "on one.",
    )
    root: str = Field(
        default="",
        description="Folder of the data, where this file lies elsewhere; or an archive, a folder in it "
        "(`set.zip/inner`), or a `.npz`.",
    )
    images: str = Field(
        default="**/*",
        min_length=1,
        description="Pattern of the image files. {label}, {split}, {patient} are read from the path, {clip} makes one "
        "clip of its frames, {a column of the table} joins the row.",
    )
    exclude: str | Names = Field(default=(), description="Patterns of files to leave out.")
    table: str = Field(default="", description="CSV, TSV or JSON-lines file.")
    add: Add | None = Field(default=None, description="A second table.")
    join: Join | None = Field(default=None, description="How a row finds its images.")
    label: Label = Field(default=Label(), description="Where the label is, and how it is read.")
    labels: Names | dict[str, str] = Field(
        default=(),
        description="Order of the labels, or a table from the value in the data to the name shown, in order.",
    )
    patient: Patient | None = Field(default=None, description="Who an image belongs to.")
    split: SplitRule | None = Field(default=None, description="The official split, or how to draw one.")
    masks: Masks | None = Field(default=None, description="Files that are masks.")
    slices: Slices | None = Field(default=None, description="Which slices of a volume.")
    frames: Frames | None = Field(default=None, description="Which frames of a clip.")
    crop: Literal["", "ultrasound-region"] = Field(
        default="", description="ultrasound-region: what lies in a DICOM's SequenceOfUltrasoundRegions."
    )
    metadata: Names = Field(
        default=(), description="Columns worth reporting; `zoo audit` warns of one that tells the label."
    )
    hide: Names = Field(default=(), description="Columns that leak the label: kept out of everything.")
    symmetries: tuple[Literal["hflip", "vflip", "rot90"], ...] = Field(
        default=(), description="What does not change the label. None by default: left is not right in a chest."
    )
    intensity: tuple[float, float] | Intensity | None = Field(
        default=None,
        description="Two levels of 16-bit images that become 0 and 1, by default the .1 and 99.9 percentiles of train; "
        "or a section: how values become levels.",
    )
    near_duplicates: Literal["group", "ignore"] = Field(
        default="group", description="group: images that look alike stay on one side of every split zoo draws."
    )
    known_conflicts: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs of images, alike but with two labels, that are known and accepted."
    )
    known_issues: Names = Field(default=(), description="Said on the board.")
    checksums: dict[str, str] = Field(
        default_factory=dict,
        description="File below the root -> its md5, as published; the [audit](audit.md) compares them.",
    )
    drop: Names = Field(
        default=(),
        description="Images to leave out, by path or name; `zoo audit SET --fix OUT.toml` writes such a list.",
    )
    label_map: dict[str, str] = Field(
        default_factory=dict,
        description="Label -> what other sets call it whose models are [tested on this one](external-validation.md).",
    )

    def columns(self) -> dict[str, str]:
        """Place in this file -> column of the table it names."""
        named = {"label.column": self.label.column, "join.column": self.join.column if self.join else ""}
        named |= {"patient.column": self.patient.column if self.patient else ""}
        named |= {"split.column": self.split.column if self.split else ""}
        for place, columns in (("label.columns", self.label.columns), ("metadata", self.metadata), ("hide", self.hide)):
            named |= {f"{place}.{index}": column for index, column in enumerate(columns)}
        return {place: column for place, column in named.items() if column}

    @property
    def excludes(self) -> Names:
        return (self.exclude,) if isinstance(self.exclude, str) else self.exclude

    @property
    def labelled_by_path(self) -> bool:
        """Whether the folders say the label; a table then only adds to it."""
        return not self.label.column and not self.label.columns

    @property
    def deciding_columns(self) -> list[str]:
        """Columns in which rows of one image must agree."""
        named = [*self.label.columns, self.label.column, self.patient.column if self.patient else ""]
        return list(dict.fromkeys(column for column in [*named, self.split.column if self.split else ""] if column))

    @property
    def leaves_files_open(self) -> bool:
        """Whether it says neither where the images nor where the table is: both are then guessed."""
        return not {"images", "table", "join"} & self.model_fields_set

    def completed_by(self, guessed: DatasetCard) -> DatasetCard:
        """The guessed card with everything that this one says in its place."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        if "label" in said:
            label = {name: getattr(self.label, name) for name in self.label.model_fields_set}
            said["label"] = guessed.label.model_copy(update=label)
        if "exclude" in said:
            said["exclude"] = (*guessed.excludes, *self.excludes)
        return guessed.model_copy(update=said)

    @field_validator("intensity")
    @classmethod
    def is_range(cls, value: tuple[float, float] | Intensity | None) -> tuple[float, float] | Intensity | None:
        if isinstance(value, tuple) and not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("expected two finite levels, the lower one first")
        return value

    @model_validator(mode="after")
    def agree(self) -> DatasetCard:
        if not self.table and self.columns() and not self.leaves_files_open:
            raise ValueError(f"{', '.join(self.columns())}: needs `table`, the file with these columns")
        if self.labels and (self.label.bins or self.task == "regression"):
            raise ValueError("labels: " + ("a regression has none" if not self.label.bins else "use label.names"))
        return self


def read_card(path: Path) -> DatasetCard:
    """The card in a `dataset.toml`; every mistake in it at once, each with its place."""
    try:
        document = parse_toml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, from byte {error.start}", fix="save it as UTF-8", code="card"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not TOML: {error}", fix="correct that line", code="card") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", fix="make it readable", code="card") from error
    try:
        return DatasetCard.model_validate(document)
    except ValidationError as error:
        raise card_error(path, describe_mistakes(error)) from error


def card_error(path: Path, mistakes: list[str]) -> DataError:
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    return DataError(
        f"{path}: {count}{'; '.join(mistakes)}", fix="correct these; docs/your-own-data.md lists all keys", code="card"
    )


# What pydantic puts into the place of a mistake where a value may be of several kinds
PLACEHOLDER_KIND = re.compile(
    r"str|float|constrained-float|Intensity|(tuple|dict|literal|lax-or-strict|function-\w+)\[.*\]"
)


def describe_mistakes(error: ValidationError) -> list[str]:
    """One text for each place; where a value may be of several kinds, what is wrong with it as each of them."""
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
    near = [mistake for mistake in mistakes if not mistake["type"].endswith("_type")]  # right in kind, not in value
    texts = [mistake["msg"].removeprefix("Value error, ") for mistake in near or mistakes]
    text = " or ".join([texts[0], *(text.removeprefix("Input should be ") for text in texts[1:])])
    return f"{place}: {text}" if place else text


def known_keys(place: list[str]) -> list[str]:
    """The keys that may stand at a place: those of the file, or of one of its sections."""
    model = CARD_SECTIONS.get(place[0], DatasetCard) if place else DatasetCard
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
    """The JSON schema of `dataset.toml`, as `docs/dataset.schema.json` publishes it."""
    schema: dict[str, Any] = plain_schema(DatasetCard.model_json_schema())
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "dataset.toml: what cannot be guessed about a set of images", **schema}


def plain_schema(node: Any) -> Any:
    """Without what says nothing of a TOML file: null, which it cannot hold, empty defaults, titles made of names."""
    if isinstance(node, list):
        return [plain_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    kinds = [kind for kind in node.get("anyOf", []) if kind != {"type": "null"}]
    alone = kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    node = {**{key: value for key, value in node.items() if key != "anyOf"}, **alone}
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
PATH_FACTS = ("label", "split", "patient")  # what a path may say of an image
Captures = Annotated[dict[str, str], "placeholder -> the text it stood for"]
Compiled = Annotated[
    tuple[re.Pattern[str], list[str]], "an expression, and the placeholders in the order of its groups"
]


def placeholders(pattern: str) -> list[str]:
    return list(dict.fromkeys(PLACEHOLDER.findall(pattern)))


def compile_pattern(pattern: str, deep: frozenset[str] = frozenset()) -> Compiled:
    """A glob with {placeholders} as an expression on a posix path, and the placeholders in the order of its groups.

    A placeholder stays within a folder unless it is in `deep`: a column of a table may hold a path. One that is named
    twice must stand for the same text both times.
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
    found = expression.fullmatch(path)
    return None if found is None else {name: found[f"g{index}"] for index, name in enumerate(names)}
