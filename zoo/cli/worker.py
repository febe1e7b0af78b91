"""`zoo worker`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import PATH


@click.command("worker")
@click.argument("path", type=PATH, metavar="ASSIGNMENT")
def worker_command(path: Path) -> None:
    """Carry out one run of a bench on another machine; executors call this."""
    from zoo.errors import with_fix
    from zoo.registry.remote import carry_out_file

    ended = carry_out_file(path)
    click.echo(ended["status"] if ended["status"] == "ok" else with_fix(ended["message"], ended.get("fix", "")))
