"""The commands `zoo list`, `info`, `plugin list`, `doctor`, `cache list` and `cache clear`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import FILE, RESULTS, TEXT, Number
from zoo.cli.terminal import registry_with_warnings
from zoo.errors import UsageError, clean

KINDS = ("models", "datasets", "metrics", "protocols", "suites", "executors")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("pattern", type=TEXT, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what is installed, all or what matches PATTERN (a glob, or a part of a name)."""
    from zoo.catalog import list_items, to_lines

    items = list_items(kind, pattern, registry_with_warnings())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "list", "kind": kind, "items": items}, ensure_ascii=False))
        return
    click.echo("\n".join(to_lines(items)) or f"no {kind} match {pattern!r}")


@click.command()
@click.argument("kind", type=click.Choice([*KINDS[:5], "runs"]))
@click.argument("name", type=TEXT)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--sheet", type=FILE, help="Where a dataset's contact sheet (PNG) is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info(kind: str, name: str, results: Path, sheet: Path | None, as_json: bool) -> None:
    """Show all that is known of one model, dataset (or PATH), metric, protocol, suite or run."""
    from zoo.catalog import describe_item, describe_run, to_text
    from zoo.registry import quiet_stdout

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
            from zoo.datasheet import to_readable

            described = to_readable(described)
        click.echo(to_text(described))


@click.group()
def plugin() -> None:
    """See the plugins that are installed."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plugin_list(as_json: bool) -> None:
    """List the plugins, what each gives, and why a broken one is."""
    from zoo.catalog import list_plugins, to_lines
    from zoo.registry import open_registry

    items = list_plugins(open_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "plugin list", "plugins": items}, ensure_ascii=False))
    else:
        click.echo("\n".join(to_lines(items)))


@click.command()
@click.option("--results", type=RESULTS, default=Path("results"), help="The results folder.")
@click.option("--device", type=TEXT, help="Train a tiny network there, captured and eager, and compare with the CPU.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(results: Path, device: str | None, as_json: bool) -> None:
    """Check the machine, versions, plugins, cache and results, and report what is wrong and how to fix it."""
    from zoo.catalog import to_text
    from zoo.diagnosis import examine
    from zoo.files import cache_root
    from zoo.progress import Console
    from zoo.registry import open_registry

    with Console().counting("examining this machine"):
        found = examine(open_registry(), cache_root(), results, device)
    click.echo(json.dumps({"schema": 1, "command": "doctor", **found}, indent=1) if as_json else to_text(found))


@click.group()
def cache() -> None:
    """Show and clear what can be made or downloaded again."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def cache_list(as_json: bool) -> None:
    """List what the cache holds, how large it is and when it was last used."""
    from zoo.caches import describe_cache
    from zoo.catalog import to_lines
    from zoo.files import cache_root

    found = describe_cache(cache_root())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "cache list", **found}, ensure_ascii=False))
        return
    click.echo("\n".join([*to_lines(found["entries"]), f"{clean(found['folder'])}: {found['gigabytes']:.2f} GB"]))
    click.echo(
        f"decoded images and features are kept to {found['limit_gigabytes']:g} GB, the least recently used go first"
    )


@cache.command("clear")
@click.argument("kinds", type=TEXT, nargs=-1)
@click.option("--older", type=Number(0), metavar="DAYS", help="Only what was not used for so many days.")
@click.option("--all", "everything", is_flag=True, help="Downloads too.")
def cache_clear(kinds: tuple[str, ...], older: float | None, everything: bool) -> None:
    """Remove what can be made again: of all KINDS, or of those named; downloads only where named or with --all."""
    from zoo.caches import choose_entries, remove
    from zoo.files import cache_root

    chosen = choose_entries(cache_root(), kinds, older_days=older, everything=everything)
    freed = remove(chosen)
    click.echo(f"{len(chosen)} entr{'y' if len(chosen) == 1 else 'ies'} removed, {freed / 1e9:.2f} GB")
