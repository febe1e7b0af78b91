"""The commands `zoo list`, `info`, `plugin list`, `doctor`, `cache list` and `cache clear`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

CATALOG_KINDS = ("models", "datasets", "metrics", "protocols", "suites", "executors")


class Number(click.FloatRange):
    """A number in a range, which NaN is not: it passes every comparison that click makes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A text that says something: an empty one would pass for an option that was not given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text.strip():
            self.fail("expected a text, got none", param, ctx)
        return text


class SomePath(click.Path):
    """A path that was typed: `Path("")` is the working folder, and `-`, elsewhere stdout, would be a file's name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("expected a path, got none", param, ctx)
        if str(value) == "-":
            self.fail("expected a path; of a file that is called -, say ./-", param, ctx)
        return super().convert(value, param, ctx)


SHARE_TYPE = Number(min=0, max=1, min_open=True, max_open=True)
TEXT = Text()
PATH = SomePath(path_type=Path)
RESULTS = SomePath(path_type=Path, readable=False)  # who reads it says what is wrong with it: exit status 5
FILE_TYPE = SomePath(path_type=Path, dir_okay=False)


def split_names(_: Any, __: Any, values: Sequence[str]) -> tuple[str, ...]:
    """Options that repeat or take commas."""
    names = tuple(name.strip() for value in values for name in value.split(",") if name.strip())
    if values and not names:
        raise click.BadParameter("expected at least one name")
    return names


def several(*names: str, **settings: Any) -> Callable[..., Any]:
    return click.option(*names, type=TEXT, multiple=True, callback=split_names, **settings)
