"""`zoo compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import RESULTS, Name, plugin_option
from zoo.cli.stored import has_readable_scores, read_shared
from zoo.cli.terminal import in_color, registry_with_warnings, terminal_width


@click.command("compare")
@click.argument("models", type=Name("model"), nargs=2, metavar="MODEL MODEL")
@click.option("--dataset", type=Name("dataset"), metavar="NAME", help="Only the boards of this dataset.")
@click.option("--protocol", type=Name("protocol"), metavar="NAME", help="Only the boards of this protocol.")
@click.option("--recipes", is_flag=True, help="Name models with their recipe: 'resnet18 · finetune@1'.")
@click.option("--results", "folders", type=RESULTS, multiple=True, help="Results folders and bundles.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def compare_command(
    models: tuple[str, str],
    dataset: str | None,
    protocol: str | None,
    recipes: bool,
    folders: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Test two models against each other on every board that has both, and show where they disagree."""
    from zoo.leaderboard.boards import build_leaderboard
    from zoo.leaderboard.pairwise import compare_models, select_results
    from zoo.leaderboard.tables import ReportOptions
    from zoo.registry.loading import quiet_stdout
    from zoo.report.pairs import pair_to_document, pair_to_terminal
    from zoo.results.memo import ScoreMemo
    from zoo.system.files import cache_root

    registry = registry_with_warnings()
    with quiet_stdout():
        stored = [r for r in read_shared(folders or (Path("results"),), registry) if has_readable_scores(r)]
        chosen = select_results(stored, dataset, protocol)
        # perf: a comparison needs neither the other metrics' intervals nor the sections of a board
        primary = {r.details.get("primary_metric") for r in chosen}
        metrics = {name: spec for name, spec in registry.metrics.items() if name in primary}
        boards = build_leaderboard(
            chosen, metrics, ReportOptions(recipes=recipes), sections=(), memo=ScoreMemo(cache=cache_root())
        )
        contrasts = compare_models(boards, *models)
    if as_json:
        click.echo(json.dumps(pair_to_document(contrasts), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        click.echo(pair_to_terminal(contrasts, width=terminal_width(), color=in_color()), nl=False)
