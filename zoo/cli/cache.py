"""`zoo cache list` and `zoo cache clear`."""

from __future__ import annotations

import json

import click

from zoo.cli.options import TEXT, Number
from zoo.errors import clean


@click.group("cache")
def cache_command() -> None:
    """List and clear cached data, all of which can be made or downloaded again."""


@cache_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def cache_list(as_json: bool) -> None:
    """List the entries of the cache with their size and last use."""
    from zoo.report.text import table_lines
    from zoo.system.caches import describe_cache
    from zoo.system.files import cache_root

    cache = describe_cache(cache_root())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "cache list", **cache}, ensure_ascii=False))
        return
    click.echo("\n".join([*table_lines(cache["entries"]), f"{clean(cache['folder'])}: {cache['gigabytes']:.2f} GB"]))
    click.echo(
        f"decoded images, volumes, features and scores are limited to {cache['limit_gigabytes']:g} GB; the least "
        "recently used go first"
    )


@cache_command.command("clear")
@click.argument("kinds", type=TEXT, nargs=-1)
@click.option("--older", type=Number(0), metavar="DAYS", help="Only entries not used for this many days.")
@click.option("--all", "everything", is_flag=True, help="Downloads as well.")
def cache_clear(kinds: tuple[str, ...], older: float | None, everything: bool) -> None:
    """Remove entries of all KINDS or of those named; downloads only if named or with --all."""
    from zoo.system.caches import choose_entries, remove_entries
    from zoo.system.files import cache_root

    chosen = choose_entries(cache_root(), kinds, older_days=older, everything=everything)
    freed = remove_entries(chosen)
    click.echo(f"{len(chosen)} entr{'y' if len(chosen) == 1 else 'ies'} removed, {freed / 1e9:.2f} GB")
