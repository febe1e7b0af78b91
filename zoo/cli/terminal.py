"""What a command tells on stderr, and how wide and how coloured it may be on stdout."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.progress import Console
    from zoo.registry import Registry


def tell(text: str) -> None:
    """On stderr, if anybody listens."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def registry_with_warnings(console: Console | None = None) -> Registry:
    """Everything installed; a broken plugin is one warning line, and the others serve on."""
    from zoo.progress import Console
    from zoo.registry import open_registry

    registry = open_registry()
    for broken in registry.broken:
        (console or Console()).warn(f"plugin {broken.plugin} is broken and left out: {broken.reason}")
    return registry


def in_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def terminal_width() -> int:

    return shutil.get_terminal_size((140, 40)).columns
