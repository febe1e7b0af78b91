"""`zoo why`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import RESULTS, TEXT, plugin_option


@click.command("why")
@click.argument("run_id", type=TEXT)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def why_command(run_id: str, results: Path, as_json: bool) -> None:
    """Explain, field by field, why a run does or does not equal a stored one."""
    from zoo.report.text import to_text
    from zoo.results.lookup import explain_run

    explained = explain_run(run_id, results)
    click.echo(json.dumps({"schema": 1, "command": "why", **explained}, indent=1) if as_json else to_text(explained))
