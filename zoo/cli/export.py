"""`zoo export`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import PATH, RESULTS, TEXT, plugin_option
from zoo.cli.terminal import registry_with_warnings

TARGETS = ("safetensors", "onnx", "torch-export", "hub-folder")


@click.command("export")
@click.argument("model", type=TEXT)
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="Format of the model.")
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write.")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@plugin_option
def export_command(model: str, target: str, output: Path, results: Path) -> None:
    """Export a trained model, and compare it with torch on images of val.

    MODEL is as for `zoo predict`; of several seeds the one with the best val score. Nothing is written if a logit
    differs by more than .001 or a decision flips. A hub folder has a Hugging Face model card; nothing is uploaded.
    """
    from zoo.registry.loading import quiet_stdout
    from zoo.report.model_cards import write_readme
    from zoo.system.files import cache_root
    from zoo.system.progress import Console
    from zoo.trained.card import NOTICE
    from zoo.trained.exporting import OUTPUT_FILES, export_model
    from zoo.trained.loader import LOADER_FILE
    from zoo.trained.opening import best_of, find_models, open_model

    console = Console()
    folder = best_of(find_models(model, results))
    with quiet_stdout(), console.counting("exporting"):
        registry = registry_with_warnings(console)
        opened = open_model(folder, registry, cache_root(), "cpu")
        texts = {"README.md": write_readme(folder, results, registry)} if target == "hub-folder" else {}
        parity = export_model(opened, target, output, texts)
    difference, flips = parity.largest_difference, parity.flipped_decisions
    click.echo(f"{opened.card.name} (run {opened.card.run[:8]}) in {output}")
    click.echo(f"{parity.images} images of val: largest difference of a logit {difference:.2g}, {flips} decisions flip")
    if target not in OUTPUT_FILES and not (output / LOADER_FILE).exists():
        click.echo(f"no {LOADER_FILE}: the library of this architecture does not build this module; use `zoo predict`")
    click.echo(NOTICE)
