"""`zoo verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.cli.options import PATH, plugin_option, several
from zoo.cli.terminal import registry_with_warnings
from zoo.errors import EXIT_SOME_FAILED


@click.command("verify")
@click.argument("path", type=PATH, metavar="BUNDLE")
@several("--datasets", "-d", kind="dataset", metavar="NAME|PATH,...", help="Datasets on this machine to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def verify_command(path: Path, datasets: tuple[str, ...], as_json: bool) -> int:
    """Recompute every score of a bundle and compare every hash; exit status 3 if anything differs."""
    from zoo.data.lookup import open_named
    from zoo.registry.loading import quiet_stdout
    from zoo.report.verification import describe_verification, verification_lines
    from zoo.results.bundles import bundle_name
    from zoo.results.verifying import compare_data, open_bundle
    from zoo.results.verifying import verify as verify_bundle
    from zoo.system.progress import Console

    registry, console = registry_with_warnings(), Console()
    with quiet_stdout():
        with console.counting(f"verifying {path.name}", "runs") as progress:
            verification = verify_bundle(open_bundle(path), bundle_name(path), registry, progress)
        for name in datasets:
            for source, fingerprints in open_named(name, registry, console):
                compare_data(verification, source, fingerprints)
    if as_json:
        click.echo(json.dumps(describe_verification(verification, path), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        click.echo("\n".join(verification_lines(verification)))
    return EXIT_SOME_FAILED if verification.differences else 0
