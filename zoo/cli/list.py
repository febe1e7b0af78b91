"""`zoo list`."""

from __future__ import annotations

import json

import click

from zoo.cli.options import CATALOG_KINDS, TEXT
from zoo.cli.terminal import registry_with_warnings


@click.command("list")
@click.argument("kind", type=click.Choice(CATALOG_KINDS))
@click.argument("pattern", type=TEXT, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_command(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what is installed, all or what matches PATTERN (a glob, or a part of a name)."""
    from zoo.report.catalog import list_items
    from zoo.report.text import table_lines

    items = list_items(kind, pattern, registry_with_warnings())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "list", "kind": kind, "items": items}, ensure_ascii=False))
        return
    click.echo("\n".join(table_lines(items)) or f"no {kind} match {pattern!r}")
