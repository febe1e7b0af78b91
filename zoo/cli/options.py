"""Types of options and arguments, with their checks and shell completion."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo.errors import UsageError
from zoo.system.plugin_files import PLUGIN_FILES


class KindOrRuns(click.Choice[str]):
    """What `zoo list` and `zoo info` are about: every kind of spec, and stored runs.

    perf: the kinds are imported when a command is used, because their classes import numpy.
    """

    def __init__(self) -> None:
        self.case_sensitive = True

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        from zoo.specs.hooks import KIND_OF

        return (*KIND_OF, "runs")


class Number(click.FloatRange):
    """A finite number in a range. NaN would pass click's comparisons."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A text with at least one visible character: an empty one would count as an option that was not given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text.strip():
            self.fail("expected a text, got none", param, ctx)
        return text


class SomePath(click.Path):
    """A path. Empty is refused because `Path("")` is the working folder; `-` because it usually means stdout."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("expected a path, got none", param, ctx)
        if str(value) == "-":
            self.fail("expected a path; write ./- for a file named -", param, ctx)
        return super().convert(value, param, ctx)


class Name(Text):
    """The name of something installed, or several with commas; the shell completes the last one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # one of KINDS

    def shell_complete(self, _: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from zoo.cli.completion import complete_name

        return complete_name(self.kind, incomplete)


class NameOfKind(Text):
    """A name whose kind is the argument before it: `zoo info models resnet18`."""

    def shell_complete(self, ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from zoo.cli.completion import complete_name
        from zoo.specs.hooks import KIND_OF

        return complete_name(KIND_OF.get(str(ctx.params.get("kind")), ""), incomplete)


SHARE_TYPE = Number(min=0, max=1, min_open=True, max_open=True)
TEXT = Text()
PATH = SomePath(path_type=Path)
RESULTS = SomePath(path_type=Path, readable=False)  # the reader reports what is wrong: exit status 5
FILE_TYPE = SomePath(path_type=Path, dir_okay=False)


def add_plugin_files(ctx: click.Context, _: Any, paths: Sequence[Path]) -> None:
    """Add files to ZOO_PLUGINS, which worker processes inherit, until the command ends."""
    before = os.environ.get(PLUGIN_FILES)
    if not paths:
        return
    for path in map(Path.resolve, paths):
        if os.pathsep in str(path):
            raise UsageError(
                f"--plugin {path}: contains {os.pathsep!r}, which separates the paths of {PLUGIN_FILES}",
                fix="rename the file or its folder, or copy the file elsewhere",
            )
    os.environ[PLUGIN_FILES] = os.pathsep.join([*map(str, map(Path.resolve, paths)), *([before] if before else [])])
    ctx.call_on_close(partial(restore_plugin_files, before))


def restore_plugin_files(before: str | None) -> None:
    if before is None:
        os.environ.pop(PLUGIN_FILES, None)
    else:
        os.environ[PLUGIN_FILES] = before


# For every command that loads the registry.
plugin_option = click.option(
    "--plugin",
    "plugin_files",
    type=FILE_TYPE,
    multiple=True,
    expose_value=False,
    callback=add_plugin_files,
    metavar="FILE.py",
    help="A plugin of one file, not installed.",
)


def split_names(_: Any, __: Any, values: Sequence[str]) -> tuple[str, ...]:
    """Split the values of an option that repeats or takes commas."""
    names = tuple(name.strip() for value in values for name in value.split(",") if name.strip())
    if values and not names:
        raise click.BadParameter("expected at least one name")
    return names


def several(*names: str, kind: str = "", **settings: Any) -> Callable[..., Any]:
    """An option that repeats or takes commas; `kind` is what its names are completed from."""
    return click.option(*names, type=Name(kind) if kind else TEXT, multiple=True, callback=split_names, **settings)
