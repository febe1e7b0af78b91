"""`zoo info`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import CATALOG_KINDS, FILE_TYPE, RESULTS, TEXT
from zoo.cli.terminal import registry_with_warnings
from zoo.errors import UsageError


@click.command("info")
@click.argument("kind", type=click.Choice([*CATALOG_KINDS[:5], "runs"]))
@click.argument("name", type=TEXT)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--sheet", type=FILE_TYPE, help="Where a dataset's contact sheet (PNG) is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info_command(kind: str, name: str, results: Path, sheet: Path | None, as_json: bool) -> None:
    """Show all that is known of one model, dataset (or PATH), metric, protocol, suite or run."""
    from zoo.registry.loading import quiet_stdout
    from zoo.report.catalog import describe_item
    from zoo.report.text import to_text
    from zoo.results.lookup import describe_run

    if sheet and kind != "datasets":
        raise UsageError("--sheet is for datasets", fix="zoo info datasets PATH --sheet FILE")
    with quiet_stdout():
        if kind == "runs":
            described = describe_run(name, results, registry_with_warnings())
        else:
            described = describe_item(kind, name, registry_with_warnings(), sheet=sheet)
    if as_json:
        document = {"schema": 1, "command": "info", "kind": kind, "item": described}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        if kind == "datasets" and "sizes" in described:
            from zoo.data.datasheet import to_readable

            described = to_readable(described)
        click.echo(to_text(described))
