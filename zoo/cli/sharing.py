"""Stored results scored again, given to others, checked and explained: `zoo score`, `bundle`, `verify`, `why`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import FILE, PATH, RESULTS, TEXT, several
from zoo.cli.stored import read_results
from zoo.cli.terminal import registry_with_warnings, tell
from zoo.errors import EXIT_SOME_FAILED, UsageError, clean


@click.command("score")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@several("--metrics", metavar="NAME,...", help="Metrics beside those scored before.")
def score_(results: Path, metrics: tuple[str, ...]) -> int:
    """Compute scores again from stored predictions; no GPU, no training."""
    from zoo.progress import Console
    from zoo.registry import quiet_stdout
    from zoo.rescoring import rescore

    registry = registry_with_warnings()
    names = [name for pattern in metrics for name in registry.match("metric", pattern)]
    stored = [result for result in read_results([results]) if result.ok and result.run["purpose"] != "tune"]
    with quiet_stdout(), Console().counting("scoring", "runs") as progress:
        failed = rescore(stored, names, registry, progress)
    click.echo(
        f"{len(stored)} runs scored" + (f", {failed} score{'s' * (failed != 1)} without a value" if failed else "")
    )
    return 0


@click.command()
@click.argument("output", type=PATH)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--key", type=FILE, help="The key of the pseudonyms (default: beside the results).")
@several("--metadata", metavar="COLUMN,...", help="Columns of metadata to share as they are; none without it.")
def bundle(output: Path, results: Path, key: Path | None, metadata: tuple[str, ...]) -> int:
    """Make OUTPUT, a folder or a .zip, of the results: what can be shared, under pseudonyms."""
    from zoo.bundles import is_bundle, make_bundle
    from zoo.progress import Console
    from zoo.pseudonyms import KEY_NAME, open_key
    from zoo.registry import quiet_stdout

    if is_bundle(results):
        raise UsageError(f"{results}: is a bundle already", fix="share it as it is")
    registry, stored = registry_with_warnings(), read_results([results])
    place = key or results.resolve().parent / KEY_NAME
    with quiet_stdout(), Console().counting("bundling", "runs") as progress:
        made = make_bundle(stored, results, output, open_key(place), registry, progress, metadata)
    for line in made.left_out:
        tell(f"zoo: left out: {clean(line)}")
    tell(f"zoo: names that go along: {clean(', '.join(made.names))}")
    where, kept = clean(made.path), clean(place)
    click.echo(f"{where}: {made.num_runs} runs; read it before you share it. The key stays here: {kept}")
    return 0


@click.command()
@click.argument("path", type=PATH, metavar="BUNDLE")
@several("--datasets", "-d", metavar="NAME|PATH,...", help="Datasets on this machine to compare with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(path: Path, datasets: tuple[str, ...], as_json: bool) -> int:
    """Compute every score of a bundle again, compare every hash; exit status 3 where anything differs."""
    from zoo.planning import open_named
    from zoo.progress import Console
    from zoo.registry import quiet_stdout
    from zoo.verifying import compare_data, describe_verification, open_bundle, to_lines
    from zoo.verifying import verify as verify_bundle

    registry, console = registry_with_warnings(), Console()
    with quiet_stdout():
        with console.counting(f"verifying {path.name}", "runs") as progress:
            found = verify_bundle(open_bundle(path), path.stem, registry, progress)
        for name in datasets:
            for source, prints in open_named(name, registry, console):
                compare_data(found, source, prints)
    if as_json:
        click.echo(json.dumps(describe_verification(found, path), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        click.echo("\n".join(to_lines(found)))
    return EXIT_SOME_FAILED if found.differences else 0


@click.command()
@click.argument("run_id", type=TEXT)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def why(run_id: str, results: Path, as_json: bool) -> None:
    """Tell, field by field, why a run is, or is not, the same as one already done."""
    from zoo.catalog import explain_run, to_text

    explained = explain_run(run_id, results)
    click.echo(json.dumps({"schema": 1, "command": "why", **explained}, indent=1) if as_json else to_text(explained))
