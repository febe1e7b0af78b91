"""`zoo plugin`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from zoo.cli.options import PATH, TEXT, Number, plugin_option
from zoo.errors import EXIT_SOME_FAILED, UsageError, clean

NEW_KINDS = (
    *("model", "dataset", "dataset-card", "metric", "protocol", "task", "executor", "observer"),
    *("estimator", "loss", "sampling", "transform", "suite", "reader", "section"),
)


@click.group("plugin")
def plugin_command() -> None:
    """List the installed plugins, check them, or start a new one."""


@plugin_command.command("list")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def plugin_list(as_json: bool) -> None:
    """List the plugins, what each provides, and why a broken one is broken."""
    from zoo.registry.opening import open_registry
    from zoo.report.catalog import list_plugins, tabulate_plugins
    from zoo.report.text import table_lines

    items = list_plugins(open_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "plugin list", "plugins": items}, ensure_ascii=False))
    else:
        click.echo("\n".join(table_lines(tabulate_plugins(items))))


@plugin_command.command("new", epilog=f"KIND is one of: {', '.join(NEW_KINDS)}.")
@click.argument("kind", type=click.Choice(NEW_KINDS), metavar="KIND")
@click.argument("name", type=TEXT)
@click.option("--output", type=PATH, metavar="DIR", help="The folder to write (default: NAME in the working folder).")
def plugin_new(kind: str, name: str, output: Path | None) -> None:
    """Write the project of a new plugin: a distribution with its tests, to be filled in.

    NAME is that of the distribution, such as zoo-mynet.
    """
    from zoo.scaffold.writing import check_command, write_project

    folder = output or Path(name)
    files = write_project(kind, name, folder)
    place = shlex.quote(str(folder))
    lines = [f"wrote {folder / file}" for file in files]
    lines += [
        "",
        "next:",
        f"  pip install -e {place} pytest",
        f"  {check_command(kind, name, folder)}",
        f"  python -m pytest {place}",
    ]
    click.echo("\n".join(map(clean, lines)))


@plugin_command.command("check")
@click.argument("name", type=TEXT, required=False, default="", metavar="[PLUGIN[:NAME]]")
@plugin_option
@click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="The data of the checked dataset (default: where zoo finds them), or files for a reader.",
)
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="End a check after this time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table of all checks.")
def plugin_check(name: str, data: Path | None, timeout: float, as_json: bool, markdown: bool) -> int:
    """Check plugins by the conformance kit, each check in a process of its own; exit 3 if one fails.

    NAME is one spec of the plugin, or a glob. Without arguments all plugins but the core are checked.
    """
    from zoo.conformance.running import plan_checks, run_checks
    from zoo.registry.loading import quiet_stdout
    from zoo.registry.opening import open_registry
    from zoo.report.conformance import check_document, check_lines, check_markdown
    from zoo.system.progress import Console

    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other", fix="give one")
    registry = open_registry()
    plan = plan_checks(name, registry, data)
    with quiet_stdout(), Console().counting("checking", "checks") as progress:
        ended = run_checks(plan.tasks, registry, timeout, lambda done: progress(done, len(plan.tasks)))
    results = sorted([*plan.results, *ended], key=lambda result: result.task.plugin)
    if as_json:
        click.echo(json.dumps(check_document(results, plan), ensure_ascii=False))
    else:
        click.echo("\n".join((check_markdown if markdown else check_lines)(results, plan)))
    return EXIT_SOME_FAILED if any(result.outcome == "failed" for result in results) else 0
