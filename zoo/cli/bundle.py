"""`zoo bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import FILE_TYPE, PATH, RESULTS, plugin_option, several
from zoo.cli.stored import read_results
from zoo.cli.terminal import registry_with_warnings, tell
from zoo.errors import UsageError, clean


@click.command("bundle")
@click.argument("output", type=PATH)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option("--key", type=FILE_TYPE, help="The key file of the pseudonyms (default: beside the results).")
@several("--metadata", metavar="COLUMN,...", help="Columns of metadata to share unchanged (default: none).")
@plugin_option
def bundle_command(output: Path, results: Path, key: Path | None, metadata: tuple[str, ...]) -> int:
    """Write the results that can be shared to OUTPUT, a folder, .zip or .tar.xz, under pseudonyms."""
    from zoo.registry.loading import quiet_stdout
    from zoo.results.bundles import BundleRequest, is_bundle, make_bundle
    from zoo.results.pseudonyms import KEY_NAME, open_key
    from zoo.system.progress import Console

    if is_bundle(results):
        raise UsageError(f"{results} is a bundle already", fix="share it unchanged")
    registry, stored = registry_with_warnings(), read_results([results])
    place = key or results.resolve().parent / KEY_NAME
    with quiet_stdout(), Console().counting("bundling", "runs") as progress:
        request = BundleRequest(
            results=stored, root=results, output=output, key=open_key(place), registry=registry, metadata=metadata
        )
        made = make_bundle(request, progress)
    for line in made.left_out:
        tell(f"zoo: left out: {clean(line)}")
    tell(f"zoo: names in the bundle: {clean(', '.join(made.names))}")
    where, key_path = clean(made.path), clean(place)
    click.echo(f"{where}: {made.num_runs} runs; review it before you share it. The key stays here: {key_path}")
    return 0
