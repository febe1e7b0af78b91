"""The sections below every board: those of the core and of plugins, built in one way."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.registry.isolation import noted_interrupts, process_unchanged
from zoo.registry.lookup import Registry
from zoo.specs.section import FigureSeries, Section, SectionFigure, SectionSpec

if TYPE_CHECKING:
    from zoo.leaderboard.tables import SectionRequest

CORE_PLUGIN = "zoo-bench"


def build_core_section(request: SectionRequest, *, module: str) -> Section | None:
    """Build a section of the core. perf: its module is imported with the first board, not with the registry."""
    built: Section | None = import_module(f"zoo.leaderboard.{module}").build_section(request)
    return built


# In the order below a board.
SECTIONS: tuple[SectionSpec, ...] = tuple(
    SectionSpec(name=name, title=title, build=partial(build_core_section, module=module))
    for name, module, title in (
        ("calibration", "calibration", "ECE, Brier score and log loss before and after temperature scaling"),
        ("operating", "operating_points", "operating points: sensitivity, specificity, PPV and NPV"),
        ("cases", "cases", "the primary metric of each case"),
        ("subgroups", "subgroups", "scores by group, with --by"),
        ("ensembles", "ensembles", "the mean probability of seeds and models, with --ensembles"),
    )
)


@dataclass(frozen=True, kw_only=True)
class OwnedSection:
    """A section with the shortest name that denotes it and the distribution that registers it."""

    name: str
    plugin: str
    spec: SectionSpec


@dataclass(frozen=True, kw_only=True)
class DroppedSection:
    """A section that a board lacks because it failed."""

    name: str
    plugin: str
    reason: str


CORE_SECTIONS = tuple(OwnedSection(name=spec.name, plugin=CORE_PLUGIN, spec=spec) for spec in SECTIONS)


def list_sections(registry: Registry) -> tuple[OwnedSection, ...]:
    """All installed sections, those of the core first."""
    return tuple(
        OwnedSection(name=key, plugin=registry.qualified("section", key).partition(":")[0], spec=spec)
        for key, spec in registry.specs("section").items()
    )


def build_sections(
    request: SectionRequest, sections: Sequence[OwnedSection]
) -> tuple[tuple[Section, ...], tuple[DroppedSection, ...]]:
    """Build the sections of a board; also return those that failed."""
    from zoo.evaluation.reasons import describe_error

    built: list[Section] = []
    dropped, reserved = [], {section.name for section in sections}
    for section in sections:
        if section.spec.tasks and request.card.task.name not in section.spec.tasks:
            continue
        try:
            with noted_interrupts() as interrupts, process_unchanged():
                parts = complete_sections(section.spec.build(request), section)
                refuse_taken_names(parts, section, reserved | {part.name for part in built})
                built += parts
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and interrupts:
                raise
            dropped.append(DroppedSection(name=section.name, plugin=section.plugin, reason=describe_error(error)))
    return tuple(built), tuple(dropped)


def complete_sections(built: object, section: OwnedSection) -> list[Section]:
    """Name and check what a spec built. Raises TypeError or ValueError if it cannot be shown in every format."""
    parts = list(built) if isinstance(built, (list, tuple)) else [] if built is None else [built]
    completed: list[Section] = []
    for part in parts:
        if not isinstance(part, Section):
            raise TypeError(f"`build` returned {type(part).__name__}, expected Section, a list of them, or None")
        own = part.name in ("", section.spec.name)
        name = section.name if own else f"{section.name}.{part.name}"
        if name in [other.name for other in completed]:
            raise ValueError(f"two of its tables are called {name!r}: set `name` of a further one")
        completed.append(
            complete_section(replace(part, name=name, title=part.title or section.spec.title or section.name))
        )
    return completed


def refuse_taken_names(parts: Sequence[Section], section: OwnedSection, names: Container[str]) -> None:
    """Raise ValueError if a further table has the name of another section: part `b` of `a` that of a section `a.b`."""
    if taken := [part.name for part in parts if part.name != section.name and part.name in names]:
        raise ValueError(f"another section is called {taken[0]!r}: set another `name`")


def complete_section(section: Section) -> Section:
    """A section with plain cells. Raises TypeError or ValueError for the first invalid field."""
    texts = (section.title, section.text, *section.columns)
    if isinstance(section.notes, str):
        raise TypeError("`notes` is a text, expected a tuple of texts")
    if any(type(text) is not str for text in texts):
        raise TypeError("`title`, `text` and `columns` are texts")
    columns = tuple(section.columns)
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"`columns` are {', '.join(columns) or 'empty'}, expected names, each once")
    if missing := [column for column in section.compact if column not in columns]:
        raise ValueError(f"`compact` has the column {missing[0]!r}, which `columns` lacks")
    rows = tuple(tuple(map(complete_cell, cells)) for cells in section.rows)
    if odd := [place for place, cells in enumerate(rows) if len(cells) != len(columns)]:
        raise ValueError(f"row {odd[0]} has {len(rows[odd[0]])} cells, expected {len(columns)}")
    json.dumps(dict(section.details), allow_nan=False)
    return replace(
        section,
        columns=columns,
        rows=rows,
        notes=tuple(map(checked_note, section.notes)),
        figures=tuple(map(complete_figure, section.figures)),
    )


def complete_cell(value: Any) -> Any:
    """A cell as every format shows it; an undefined number becomes None."""
    import numpy as np

    from zoo.evaluation.values import Score

    if isinstance(value, tuple) and len(value) == 3:
        number, low, high = map(finite_or_none, value)
        return Score(value=number, low=low, high=high)
    if value is None or isinstance(value, Score) or type(value) is str:
        return value
    if isinstance(value, np.str_):
        return str(value)
    return finite_or_none(value)


def finite_or_none(value: Any) -> float | int | None:
    """A finite number, or None if it is undefined. Raises TypeError if it is not a number."""
    import numpy as np

    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value
    if type(plain) is int or plain is None:
        return plain
    if type(plain) is not float:
        raise TypeError(f"a cell is {type(value).__name__}, expected a text, a number, None or (value, low, high)")
    return plain if np.isfinite(plain) else None


def checked_note(note: Any) -> Any:
    from zoo.evaluation.reasons import Reason

    if not isinstance(note, (str, Reason)):
        raise TypeError(f"a note is {type(note).__name__}, expected a text")
    return note


def complete_figure(figure: Any) -> SectionFigure:
    """A figure with plain numbers. Raises TypeError or ValueError if it cannot be drawn."""
    if not isinstance(figure, SectionFigure):
        raise TypeError(f"a figure is {type(figure).__name__}, expected SectionFigure")
    if figure.kind not in ("lines", "dots"):
        raise ValueError(f"`kind` of a figure is {figure.kind!r}, expected lines or dots")
    if len(figure.axes) != 2 or any(type(text) is not str for text in (figure.title, figure.text, *figure.axes)):
        raise TypeError("`title`, `text` and the two `axes` of a figure are texts")
    series = tuple(complete_series(each, figure.kind) for each in figure.series)
    if not any(value is not None for each in series for value in each.y):
        raise ValueError(f"the figure {figure.title!r} has no values")
    return replace(figure, series=series)


def complete_series(series: Any, kind: str) -> FigureSeries:
    if not isinstance(series, FigureSeries):
        raise TypeError(f"a series of a figure is {type(series).__name__}, expected FigureSeries")
    numbers = {name: tuple(map(finite_or_none, getattr(series, name))) for name in ("y", "low", "high")}
    x: list[float | str] = []
    for value in series.x:
        place = str(value) if kind == "dots" else finite_or_none(value)
        if place is None:
            raise ValueError(f"`x` of {series.name!r} is undefined in a place")
        x.append(place)
    lengths = {len(numbers["y"]), *(len(numbers[name]) for name in ("low", "high") if numbers[name])}
    if lengths != {len(x)} or bool(numbers["low"]) != bool(numbers["high"]):
        raise ValueError(f"`x`, `y`, `low` and `high` of {series.name!r} differ in length")
    return FigureSeries(name=str(series.name), x=tuple(x), **numbers)
