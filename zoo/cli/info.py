"""`zoo info`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import FILE_TYPE, RESULTS, KindOrRuns, NameOfKind, plugin_option
from zoo.cli.terminal import registry_with_warnings, terminal_width
from zoo.errors import UsageError


@click.command("info")
@click.argument("kind", type=KindOrRuns())
@click.argument("name", type=NameOfKind())
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--sheet", type=FILE_TYPE, help="The file for a dataset's contact sheet (PNG).")
@click.option("--full", is_flag=True, help="Show everything stored of a run, and how each number was computed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def info_command(kind: str, name: str, results: Path, sheet: Path | None, full: bool, as_json: bool) -> None:
    """Describe one thing that is installed, a dataset's PATH, or a run."""
    from zoo.registry.loading import quiet_stdout
    from zoo.report.catalog import describe_item
    from zoo.report.runs import write_sentences
    from zoo.report.text import to_text
    from zoo.results.lookup import describe_run

    if sheet and kind != "datasets":
        raise UsageError("--sheet is for datasets", fix="zoo info datasets PATH --sheet FILE")
    if full and kind != "runs":
        raise UsageError("--full is for runs", fix="zoo info runs RUN --full")
    with quiet_stdout():
        if kind == "runs":
            described = write_sentences(describe_run(name, results, registry_with_warnings()))
        else:
            described = describe_item(kind, name, registry_with_warnings(), sheet=sheet)
    if as_json:
        document = {"schema": 1, "command": "info", "kind": kind, "item": described}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        if kind == "datasets" and "sizes" in described:
            from zoo.data.datasheet import to_readable

            described = to_readable(described)
        if kind == "runs" and not full:
            from zoo.report.runs import run_lines

            click.echo("\n".join(run_lines(described, terminal_width())))
            return
        click.echo(to_text(described))
