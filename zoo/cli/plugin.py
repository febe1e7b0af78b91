"""`zoo plugin list`."""

from __future__ import annotations

import json

import click


@click.group("plugin")
def plugin_command() -> None:
    """List the installed plugins."""


@plugin_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def plugin_list(as_json: bool) -> None:
    """List the plugins, what each provides, and why a broken one is broken."""
    from zoo.registry.opening import open_registry
    from zoo.report.catalog import list_plugins
    from zoo.report.text import table_lines

    items = list_plugins(open_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "plugin list", "plugins": items}, ensure_ascii=False))
    else:
        click.echo("\n".join(table_lines(items)))
