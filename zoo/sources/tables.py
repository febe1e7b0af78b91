"""Read a CSV, TSV, JSON-lines, .xlsx or .parquet file as rows of text, and match its names to images."""

from __future__ import annotations

import csv
import io
import json
import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError
from zoo.images.formats import without_suffix
from zoo.sources.decimals import to_number

if TYPE_CHECKING:
    import pandas

MAX_TABLE_BYTES = 200_000_000  # rows of text take six times as much memory; NIH's 112,120 rows are 8 MB
MOST_TRIED = 200  # names, evenly spread, tried to find leading folders that do not exist here
LINE = "line"  # name of the index: the line number of a row in the file
SPREADSHEETS = (".xlsx", ".parquet")  # read by pandas with openpyxl or pyarrow
LIST = "list"  # as a separator: the cell is a Python or JSON list
QUOTED_CELL = re.compile(r'"([^"]*)"|\'([^\']*)\'')
WORDS_OF_FLAGS = {
    **dict.fromkeys(("true", "yes", "y", "present", "positive"), 1.0),
    **dict.fromkeys(("false", "no", "n", "absent", "negative"), 0.0),
}
FLAGS = (0.0, 1.0, -1.0)
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_table(path: Path) -> pandas.DataFrame:
    """Read the rows of a table as text, which keeps `007` and a class named `NA`; the index is the line number.

    Ragged rows and repeated columns, which pandas fills and renames silently, are errors.
    """
    import pandas

    if path.suffix.lower() in SPREADSHEETS:
        return read_spreadsheet(path)
    text = decode_text(path)
    if path.suffix.lower() == ".jsonl":
        return read_json_lines(path, text)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    header: list[str] = []
    least = 0  # cells per row; those after the last named column are optional
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                least = max(number for number, name in enumerate(header, start=1) if name)
                continue
            if not least <= len(row) <= len(header):
                raise DataError(
                    f"{path} line {reader.line_num}: {len(row)} cells, but the header has {len(header)}",
                    fix="quote cells that contain the separator, or add or remove cells",
                )
            lines.append(reader.line_num)
            rows.append([cell.strip() for cell in row] + [""] * (len(header) - len(row)))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}", fix="correct that line") from error
    if not all(header):
        header, rows = leave_out_nameless(path, header, lines, rows)
    check_header(path, header)
    if not rows:
        raise DataError(f"{path}: no rows below the header", fix="write one row per image")
    return pandas.DataFrame(rows, columns=header, index=pandas.Index(lines, name=LINE), dtype=str)


def read_spreadsheet(path: Path) -> pandas.DataFrame:
    """Read the rows of an .xlsx (first sheet) or .parquet as text; the index is the row number, the header being 1."""
    import pandas

    check_table_file(path)
    is_excel = path.suffix.lower() == ".xlsx"
    try:
        if is_excel:
            import_module("openpyxl")  # without it, pandas inspects the file first and reports it as damaged
        rows = pandas.read_excel(path, dtype=str, keep_default_na=False) if is_excel else pandas.read_parquet(path)
    except ImportError as error:
        package = "openpyxl" if is_excel else "pyarrow"
        raise DataError(
            f"{path}: reading {path.suffix.lower()} needs the package {package}, which is not installed",
            fix=f"pip install {package}, or save it as CSV UTF-8",
            code="package",
        ) from error
    except Exception as error:  # readers raise many classes for a damaged file
        raise DataError(
            f"{path}: cannot be read: {error or type(error).__name__}", fix="save it as CSV UTF-8"
        ) from error
    header = [str(column).strip() for column in rows.columns]
    check_header(path, header)
    if rows.empty:
        raise DataError(f"{path}: no rows below the header", fix="write one row per image")
    texts = [[cell_text(value) for value in row] for row in rows.itertuples(index=False)]
    lines = pandas.Index(range(2, len(texts) + 2), name=LINE)
    return pandas.DataFrame(texts, columns=header, index=lines, dtype=str)


def cell_text(value: Any) -> str:
    """Convert a cell to text: blank if it has no value, or contains bytes or a record."""
    import pandas

    if isinstance(value, str):
        return value.strip()
    is_nothing = isinstance(value, bytes | dict) or (not hasattr(value, "__len__") and pandas.isna(value))
    return (
        "" if is_nothing else str(value.tolist() if hasattr(value, "__len__") and hasattr(value, "tolist") else value)
    )


def read_json_lines(path: Path, text: str) -> pandas.DataFrame:
    """Read one JSON object per line, all with the same keys, like Hugging Face's `metadata.jsonl`."""
    import pandas

    lines: list[int] = []
    rows: list[list[str]] = []
    header: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            pairs = json.loads(line, object_pairs_hook=JsonPairs)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: invalid JSON: {error}", fix="write one JSON object per line") from error
        if not isinstance(pairs, JsonPairs):
            raise DataError(
                f"{place}: not a JSON object", fix='write {"file_name": "a.png", "label": "x"}, one per line'
            )
        names = [name.strip() for name, _ in pairs]
        if not header:
            header = names
            check_header(path, header)
        if sorted(names) != sorted(header):
            raise DataError(
                f"{place}: its keys are {', '.join(names)}, but those of the first line are {', '.join(header)}",
                fix="give all lines the same keys",
            )
        values = {name.strip(): cell_to_text(value) for name, value in pairs}
        lines.append(number)
        rows.append([values[name] for name in header])
    if not all(header):
        header, rows = leave_out_nameless(path, header, lines, rows)
    if not rows:
        raise DataError(f"{path}: the file is empty", fix="write a header and one row per image")
    return pandas.DataFrame(rows, columns=header, index=pandas.Index(lines, name=LINE), dtype=str)


class JsonPairs(list[tuple[str, Any]]):
    """A JSON object as (key, value) pairs; a dict would silently keep the last of repeated keys."""


def cell_to_text(value: Any) -> str:
    """Convert a JSON value to the text of a cell: lists of texts joined by `|`, other nested values as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and not isinstance(value, JsonPairs) and all(isinstance(part, str) for part in value):
        return "|".join(value) or "|"  # an empty list means no label, a blank cell an unknown one
    return json.dumps(dict(value) if isinstance(value, JsonPairs) else value)


def to_flag(text: str) -> float | None:
    """Convert a cell of a 0/1 column: 1, 0, -1 for uncertain, NaN for blank; None for anything else."""
    if not text:
        return math.nan
    value = WORDS_OF_FLAGS.get(text.lower(), to_number(text))
    return value if value in FLAGS else None


def is_list(text: str) -> bool:
    """Whether a cell looks like a list: `['a', 'b']`, `["a"]`, `[]`, `('a', 'b')` or `{'a'}`."""
    return text[:1] + text[-1:] in {"[]", "{}"} or (text[:1] + text[-1:] == "()" and bool(QUOTED_CELL.search(text)))


def split_labels(text: str, separator: str) -> list[str]:
    """Return the labels in a cell. A list is parsed, not evaluated; raise ValueError for text outside its quotes."""
    if separator != LIST:
        return [part.strip() for part in text.split(separator) if part.strip()]
    if not is_list(text):
        return [text]
    inner = text[1:-1].strip()
    if text[0] == "{" and ":" in QUOTED_CELL.sub("", inner):
        raise ValueError("it is a JSON object, but each label must be a 0/1 column of its own")
    if not QUOTED_CELL.search(inner):
        return [part.strip() for part in inner.split(",") if part.strip()]
    if QUOTED_CELL.sub("", inner).strip(", \t"):
        raise ValueError("there is text outside the quoted labels")
    return [(double or single).strip() for double, single in QUOTED_CELL.findall(inner)]


def check_table_file(path: Path) -> None:
    """Refuse a path that is not a regular file, or a file over MAX_TABLE_BYTES."""
    if not path.is_file():
        raise DataError(
            f"{path}: " + ("not a regular file" if path.exists() else "no such file"), fix="correct the path"
        )
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size / 1e6:.0f} MB; a table may have at most {MAX_TABLE_BYTES / 1e6:.0f} MB",
            fix="split it, or remove columns",
        )


def decode_text(path: Path) -> str:
    """Decode a file in UTF-8, or in UTF-16 with a byte order mark (Excel's "Unicode text")."""
    check_table_file(path)
    data = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} line {line}: not valid {encoding.removesuffix('-sig').upper()} text",
            fix="save it as UTF-8 (CSV UTF-8 in a spreadsheet)",
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path} line {text[: text.index(chr(0))].count(chr(10)) + 1}: contains a NUL character",
            fix="save it as CSV UTF-8",
        )
    return text


def leave_out_nameless(
    path: Path, header: list[str], lines: list[int], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Drop columns without a name if they are blank or the index that pandas writes; otherwise raise DataError."""
    for column, name in enumerate(header):
        cells = [] if name else [row[column] for row in rows]
        is_index = column == 0 and len(set(cells)) == len(cells) and all(cell.isdecimal() for cell in cells)
        if any(cells) and not is_index:
            line, cell = next(place for place in zip(lines, cells, strict=True) if place[1])
            raise DataError(
                f"{path} line {line}: column {column + 1} contains {cell!r} but has no name in the header",
                fix="name the column in the header, or remove it",
            )
    named = [column for column, name in enumerate(header) if name]
    return [header[column] for column in named], [[row[column] for column in named] for row in rows]


def check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path}: the file is empty", fix="write a header and one row per image")
    for name, count in Counter(header).items():
        if count > 1:
            raise DataError(f"{path}: {count} columns are named {name!r}", fix="rename or remove one")


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Images of a folder by all names a table may use: path or file name, with or without suffix."""

    root: Path
    paths: frozenset[str]
    by_name: dict[str, list[str]]  # by every shorter name; several images where it is ambiguous
    images: tuple[str, ...] = ()  # in the order of the dataset
    prefix: str = ""  # leading folders of cells that do not exist here, with a slash at the end
    start: str = ""  # the folder that the cells are relative to, with a slash at the end

    def find(self, cell: str) -> list[str]:
        """Return the images that a cell names: several where the name is ambiguous."""
        if cell in self.paths:
            return [cell]
        if cell in self.by_name:
            return self.by_name[cell]
        if "/" not in cell and "\\" not in cell:
            return []
        tidy = self.start + self.tidy(cell)
        return [tidy] if tidy in self.paths else self.by_name.get(tidy, [])

    @cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """The images below each folder, by its path, and by its name if the name is unique."""
        return index_folders(self.images)

    def find_folder(self, cell: str) -> list[str]:
        """Return the images of the folder that a cell names, by path or name."""
        if cell in self.by_folder or ("/" not in cell and "\\" not in cell):
            return self.by_folder.get(cell, [])
        return self.by_folder.get(self.tidy(cell), [])

    def for_cells(self, cells: Iterable[str]) -> ImageIndex:
        """Return an index that ignores leading folders shared by all cells and absent here, or adds those they lack.

        Examples are the folder's own name, its path on another machine (`/home/ann/set/train/1.png`), and `sick/1.png`
        for `images/sick/1.png`.
        """
        paths = [cell.replace("\\", "/") for cell in cells if cell]
        some = paths[:: max(1, len(paths) // MOST_TRIED)]  # perf: an unknown name takes 50 us
        if not paths or not all("/" in path for path in paths) or any(map(self.finds, some)):
            return self
        first, last = (posixpath.dirname(path).split("/") for path in (min(paths), max(paths)))
        shared = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        for count in range(1, len(shared) + 1):
            index = replace(self, prefix="/".join(shared[:count]) + "/")
            exists = (self.root / index.prefix.strip("/")).is_dir()
            if not exists and ".." not in shared[:count] and any(map(index.finds_any, some)):
                return index
        ends = tuple(f"/{path.removeprefix('./')}" for path in some)
        starts = {self.start_of(image, ends) for image in self.images} - {""}
        return replace(self, start=starts.pop()) if len(starts) == 1 else self

    @staticmethod
    def start_of(image: str, ends: tuple[str, ...]) -> str:
        """The leading folders of an image whose path, with or without suffix, ends with one of several; else ""."""
        for name in (image, without_suffix(image)):
            if name.endswith(ends):  # perf: most images end with none
                return next(name[: 1 - len(end)] for end in ends if name.endswith(end))
        return ""

    def finds_any(self, cell: str) -> bool:
        """Whether a cell names an image, or a folder with images."""
        try:
            return bool(self.find(cell) or self.find_folder(cell))
        except DataError:
            return False

    def tidy(self, cell: str) -> str:
        """Return a path relative to the root, with forward slashes; raise DataError if it leads out of it."""
        path = cell.replace("\\", "/").removeprefix(self.prefix)
        if PurePosixPath(path).is_absolute() or path[1:3] == ":/":
            is_below = Path(path).is_relative_to(self.root)
            if not is_below:
                raise DataError(f"{cell!r} is outside {self.root.name}", fix="write paths relative to the folder")
            path = Path(path).relative_to(self.root).as_posix()
        parts: list[str] = []
        for part in PurePosixPath(path).parts:
            if part != "..":
                parts.append(part)
            elif parts:
                parts.pop()
            else:
                raise DataError(f"{cell!r} leads out of {self.root.name}", fix="write paths relative to the folder")
        return "/".join(parts)

    def find_one(self, cell: str) -> str:
        """Return the only image that a cell names; raise DataError if there is none, or several."""
        images = self.find(cell)
        if not images:
            raise DataError(f"no image {cell!r}", fix="add the file or drop the row")
        if len(images) > 1:
            raise DataError(f"{cell!r} is ambiguous: {images[0]} or {images[1]}", fix="name the image by its path")
        return images[0]

    def finds(self, cell: str) -> bool:
        try:
            return bool(self.find(cell))
        except DataError:
            return False


def index_images(root: Path, images: tuple[str, ...]) -> ImageIndex:
    """Index images by all of their names."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for image in images:
        # perf: string functions; pathlib took half the time of opening a dataset of 20,000 files
        stem = without_suffix(image)
        for name in {stem, posixpath.basename(image), posixpath.basename(stem)} - {image}:
            by_name[name].append(image)
    return ImageIndex(root, frozenset(images), dict(by_name), images)


@lru_cache(maxsize=1)  # perf: `for_cells` tries an index per prefix, each of the same images
def index_folders(images: tuple[str, ...]) -> dict[str, list[str]]:
    """The images below each folder, by its path, and by its name if the name is unique."""
    below: dict[str, list[str]] = defaultdict(list)
    for image in images:
        folder = posixpath.dirname(image)
        while folder:
            below[folder].append(image)
            folder = posixpath.dirname(folder)
    named: dict[str, set[str]] = defaultdict(set)
    for folder in below:
        named[posixpath.basename(folder)].add(folder)
    return dict(below) | {name: below[min(folders)] for name, folders in named.items() if len(folders) == 1}
