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
    """On stderr, if anybody listens."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def registry_with_warnings(console: Console | None = None) -> Registry:
    """Everything installed; a broken plugin is one warning line a day, and the others serve on.

    `zoo plugin list` and an error for a name that it may offer mention it whenever they are printed.
    """
    from zoo.registry.opening import open_registry
    from zoo.system.progress import Console

    registry = open_registry()
    for broken in not_warned_today(registry.broken):
        (console or Console()).warn(f"plugin {broken.plugin} is {broken.state}: {broken.reason}")
    return registry


def not_warned_today(broken: Sequence[BrokenPlugin]) -> list[BrokenPlugin]:
    """The broken plugins that no command of today has warned of with this reason, each noted as warned of."""
    import datetime
    import json

    from zoo.system.files import cache_root, read_regular, write_json

    path, today = cache_root() / "plugins" / "warned.json", datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = {f"{each.plugin} {each.version}: {each.reason}": each for each in broken}
    noted: object = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        noted = json.loads(read_regular(path))
    told = noted.get("lines") if isinstance(noted, dict) and noted.get("day") == today else []
    told = [line for line in told if isinstance(line, str)] if isinstance(told, list) else []
    fresh = [line for line in lines if line not in told]
    if fresh:
        with contextlib.suppress(OSError):  # a cache that cannot be written to: they are warned of each time
            write_json(path, {"day": today, "lines": [*told, *fresh]})
    return [lines[line] for line in fresh]


def in_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def terminal_width() -> int:

    return shutil.get_terminal_size((140, 40)).columns
