"""`zoo list`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import RESULTS, KindOrRuns, NameOfKind, plugin_option
from zoo.cli.terminal import registry_with_warnings, tell, terminal_width
from zoo.errors import UsageError


@click.command("list")
@click.argument("kind", type=KindOrRuns())
@click.argument("pattern", type=NameOfKind(), required=False)
@click.option("--results", type=RESULTS, metavar="DIR", help="Results folder, for runs (default: results).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def list_command(kind: str, pattern: str | None, results: Path | None, as_json: bool) -> None:
    """List what is installed, or stored runs.

    PATTERN is a glob, or a part of a name. For runs it is matched with the id, dataset, model, protocol and status.
    """
    from zoo.report.text import table_lines

    if results and kind != "runs":
        raise UsageError("--results is for runs", fix="zoo list runs --results DIR")
    if kind == "runs":
        from zoo.report.runs import list_runs, table_of_runs

        items = list_runs(results or Path("results"), pattern)
        lines = table_of_runs(items, terminal_width())
    else:
        from zoo.report.catalog import list_items

        items = list_items(kind, pattern, registry_with_warnings())
        lines = table_lines(items)
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "list", "kind": kind, "items": items}, ensure_ascii=False))
    elif lines:
        click.echo("\n".join(lines))
    elif pattern:
        click.echo(f"no {kind} match {pattern!r}")
    else:
        tell(f"zoo: no {kind}")
