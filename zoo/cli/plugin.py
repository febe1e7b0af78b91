"""`zoo plugin`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from zoo.cli.options import PATH, plugin_option
from zoo.errors import clean


@click.group("plugin")
def plugin_command() -> None:
    """List the installed plugins, check them, or start a new one."""


@plugin_command.command("list")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def plugin_list(as_json: bool) -> None:
    """List the plugins, what each provides, and why a broken one is broken."""
    from zoo.registry.opening import open_registry
    from zoo.report.catalog import list_plugins, tabulate_plugins
    from zoo.report.text import table_lines

    items = list_plugins(open_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "plugin list", "plugins": items}, ensure_ascii=False))
    else:
        click.echo("\n".join(table_lines(tabulate_plugins(items))))


@plugin_command.command("new")
@click.argument("kind", type=click.Choice(("model", "dataset", "dataset-card", "metric", "protocol", "task", "executor")))
@click.argument("name")
@click.option("--output", type=PATH, metavar="DIR", help="The folder to write (default: NAME in the working folder).")
def plugin_new(kind: str, name: str, output: Path | None) -> None:
    """Write the project of a new plugin: a distribution with its tests, to be filled in.

    NAME is that of the distribution, such as zoo-mynet.
    """
    from zoo.scaffold.writing import write_project

    folder = output or Path(name)
    files = write_project(kind, name, folder)
    place = shlex.quote(str(folder))
    lines = [f"wrote {folder / file}" for file in files]
    lines += ["", "next:", f"  pip install -e {place} pytest", f"  zoo plugin check {name}", f"  python -m pytest {place}"]
    click.echo("\n".join(map(clean, lines)))
