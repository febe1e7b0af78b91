"""`zoo robustness`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import FILE_TYPE, RESULTS, TEXT, plugin_option, several
from zoo.cli.terminal import registry_with_warnings, tell


@click.command("robustness")
@click.argument("model", type=TEXT)
@several("--corruptions", kind="transform", metavar="NAME,...", help="Default: all installed ones with severities.")
@click.option("--metric", type=TEXT, default=None, metavar="NAME", help="Default: that which ranks the task.")
@click.option("-o", "--output", type=FILE_TYPE, metavar="FILE.csv", help="Write the table as CSV, with all digits.")
@click.option("--data", type=TEXT, default=None, metavar="NAME|PATH", help="The dataset of the model.")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option(
    "--device", type=TEXT, default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Device."
)
@plugin_option
def robustness_command(
    model: str, corruptions: tuple[str, ...], output: Path | None, results: Path, **flags: str | None
) -> None:
    """Score a trained model on its test images or volumes with corruptions of growing severity.

    MODEL is as for `zoo predict`; of several seeds the one with the best val score. Nothing is trained or stored.
    """
    from zoo.errors import clean, convert_disk_errors
    from zoo.explaining.robustness import (
        INPUTS,
        find_corruptions,
        find_task_metric,
        measure_robustness,
        open_tested_model,
    )
    from zoo.explaining.sampling import Place
    from zoo.registry.loading import quiet_stdout
    from zoo.report.robustness import robustness_lines, write_robustness
    from zoo.system.devices import resolve_device
    from zoo.system.files import cache_root
    from zoo.system.machine import num_cores, prepare_torch
    from zoo.system.progress import Console
    from zoo.trained.card import read_model_card
    from zoo.trained.opening import best_of, find_models, open_model

    console = Console()
    source = best_of(find_models(model, results))
    card, registry = read_model_card(source), registry_with_warnings(console)
    chosen = find_corruptions(corruptions, registry, card.dims)
    metric = find_task_metric(flags["metric"] or "", card.task_kind, registry)
    with quiet_stdout(), console.counting("loading the model"):
        prepare_torch(num_cores())
        opened = open_model(source, registry, cache_root(), resolve_device(str(flags["device"])))
    with quiet_stdout(), console.counting(f"reading the test {INPUTS[card.dims]}") as progress:
        place = Place(registry=registry, cache=cache_root(), data=flags["data"] or "")
        tested = open_tested_model(opened, place, progress)
    with quiet_stdout(), console.counting("predicting", INPUTS[card.dims]) as progress:
        robustness = measure_robustness(tested, chosen, metric, progress)
    click.echo("\n".join(robustness_lines(robustness)))
    if output:
        with convert_disk_errors():
            write_robustness(output, robustness)
        tell(f"zoo: wrote {clean(output)}: {len(robustness.rows)} rows")
