"""`zoo worker`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import PATH


@click.command("worker")
@click.argument("path", type=PATH, metavar="ASSIGNMENT")
@click.option("--apart", is_flag=True, help="Share no folder with the bench: pack the results beside ASSIGNMENT.")
def worker_command(path: Path, apart: bool) -> None:
    """Carry out one run of a bench on another machine; executors call this."""
    from zoo.errors import with_fix
    from zoo.registry.remote import carry_out_file

    ended = carry_out_file(path, apart=apart)
    click.echo(ended["status"] if ended["status"] == "ok" else with_fix(ended["message"], ended.get("fix", "")))
