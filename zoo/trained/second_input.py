"""Give new images the metadata that a model takes beside them, from a CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from zoo.errors import UsageError
from zoo.images.formats import split_frame
from zoo.sources.tables import read_table
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage

IMAGE_COLUMN = "image"  # of the CSV: paths as in the command, or names of files


def attach_metadata(images: Iterable[NewImage], card: ModelCard, table: Path | None) -> Iterator[NewImage]:
    """Yield the images with their cells of the table; one without a row is refused by name.

    Raises UsageError if the model takes metadata and there is no table, or it lacks a column; or the reverse.
    """
    coding = card.coding
    if coding is None:
        if table is not None:
            raise UsageError(f"--metadata {table}: {card.name} takes images only", fix="leave it out", code="inputs")
        return iter(images)
    if table is None:
        raise no_metadata(card)
    return each_with_cells(images, read_cells(table, coding.names), table)


def no_metadata(card: ModelCard) -> UsageError:
    assert card.coding is not None
    columns = ",".join((IMAGE_COLUMN, *card.coding.names))
    return UsageError(
        f"{card.name} takes {', '.join(card.coding.names)} beside the image",
        fix=f"add --metadata FILE.csv with the columns {columns}",
        code="inputs",
    )


def read_cells(table: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The cells of each image by the text of its column `image`. Raises UsageError if two rows of an image differ."""
    rows = read_table(table)
    for name in (IMAGE_COLUMN, *names):
        if name not in rows.columns:
            raise UsageError(
                f"--metadata {table}: no column {name!r}",
                fix=f"its columns are {', '.join(map(str, rows.columns))}",
                code="inputs",
            )
    distinct = rows[[IMAGE_COLUMN, *names]].drop_duplicates()
    repeated = distinct[IMAGE_COLUMN][distinct[IMAGE_COLUMN].duplicated()]
    if len(repeated):
        raise UsageError(
            f"--metadata {table} line {repeated.index[0]}: another row for {repeated.iloc[0]!r}, with other cells",
            fix="leave one of them",
            code="inputs",
        )
    return {row[IMAGE_COLUMN]: {name: row[name] for name in names} for row in distinct.to_dict("records")}


def each_with_cells(
    images: Iterable[NewImage], cells: Mapping[str, Mapping[str, str]], table: Path
) -> Iterator[NewImage]:
    """Yield the images with their cells. Raises UsageError if a row has the name of files in several folders."""
    files: dict[str, str] = {}  # by the key of their row
    for image in images:
        name = split_frame(image.name)[0]
        key = next((each for each in (image.name, name, Path(name).name) if each in cells), None)
        if key is None and not image.refused:
            yield replace(image, refused=f"{image.name}: no row in {table}", fix="add a row for it")
            continue
        if key is not None and files.setdefault(key, name) != name:
            raise UsageError(
                f"--metadata {table}: its row {key!r} could be of {files[key]} or of {name}",
                fix="write their paths as in the command",
                code="inputs",
            )
        yield replace(image, cells={} if key is None else cells[key])
