"""`zoo score`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import RESULTS, several
from zoo.cli.stored import read_results
from zoo.cli.terminal import registry_with_warnings


@click.command("score")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@several("--metrics", kind="metric", metavar="NAME,...", help="Metrics in addition to the stored ones.")
def score_command(results: Path, metrics: tuple[str, ...]) -> int:
    """Recompute scores from stored predictions, without training or a GPU."""
    from zoo.registry.loading import quiet_stdout
    from zoo.results.rescoring import rescore
    from zoo.system.progress import Console

    registry = registry_with_warnings()
    names = [name for pattern in metrics for name in registry.match("metric", pattern)]
    stored = [result for result in read_results([results]) if result.ok and result.run["purpose"] != "tune"]
    with quiet_stdout(), Console().counting("scoring", "runs") as progress:
        failed = rescore(stored, names, registry, progress)
    click.echo(
        f"{len(stored)} runs scored" + (f", {failed} score{'s' * (failed != 1)} without a value" if failed else "")
    )
    return 0
