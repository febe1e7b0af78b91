"""`zoo doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import RESULTS, TEXT, plugin_option


@click.command("doctor")
@click.option("--results", type=RESULTS, default=Path("results"), help="The results folder.")
@click.option("--device", type=TEXT, help="Train a tiny network there, captured and eager, and compare with the CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def doctor_command(results: Path, device: str | None, as_json: bool) -> None:
    """Check the machine, versions, plugins, cache and results, and report what is wrong and how to fix it."""
    from zoo.registry.opening import open_registry
    from zoo.report.doctor import examine_machine
    from zoo.report.text import to_text
    from zoo.system.files import cache_root
    from zoo.system.progress import Console

    with Console().counting("examining this machine"):
        report = examine_machine(open_registry(), cache_root(), results, device)
    click.echo(json.dumps({"schema": 1, "command": "doctor", **report}, indent=1) if as_json else to_text(report))
