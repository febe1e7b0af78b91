"""Messages on stderr, and the width and color of stdout."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.registry.lookup import BrokenPlugin, Registry
    from zoo.system.progress import Console


def tell(text: str) -> None:
    """Print to stderr; a closed stderr is ignored."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def registry_with_warnings(console: Console | None = None) -> Registry:
    """Open the registry of installed plugins, and warn of each broken plugin once a day.

    `zoo plugin list`, and the errors for names that a broken plugin might provide, mention it every time.
    """
    from zoo.registry.opening import open_registry
    from zoo.system.progress import Console

    registry = open_registry()
    for broken in not_warned_today(registry.broken):
        (console or Console()).warn(f"plugin {broken.plugin} is {broken.state}: {broken.reason}")
    return registry


def not_warned_today(broken: Sequence[BrokenPlugin]) -> list[BrokenPlugin]:
    """Return the broken plugins of which no command has warned today for this reason, and record them as warned."""
    import datetime
    import json

    from zoo.system.files import cache_root, read_regular, write_json

    path, today = cache_root() / "plugins" / "warned.json", datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = {f"{each.plugin} {each.version}: {each.reason}": each for each in broken}
    stored: object = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        stored = json.loads(read_regular(path))
    warned = stored.get("lines") if isinstance(stored, dict) and stored.get("day") == today else []
    warned = [line for line in warned if isinstance(line, str)] if isinstance(warned, list) else []
    fresh = [line for line in lines if line not in warned]
    if fresh:
        with contextlib.suppress(OSError):  # a read-only cache: the warning is repeated each time
            write_json(path, {"day": today, "lines": [*warned, *fresh]})
    return [lines[line] for line in fresh]


def in_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def terminal_width() -> int:
    """The columns of the terminal, or of $COLUMNS; 140 without either."""
    return shutil.get_terminal_size((140, 40)).columns
