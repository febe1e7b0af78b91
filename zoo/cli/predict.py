"""`zoo predict`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import FILE_TYPE, PATH, RESULTS, TEXT, plugin_option
from zoo.cli.terminal import registry_with_warnings, tell


@click.command("predict")
@click.argument("model", type=TEXT)
@click.argument("inputs", type=PATH, nargs=-1, required=True, metavar="IMAGES...")
@click.option("-o", "--output", type=FILE_TYPE, help="A .csv or .json file. Default: CSV on stdout.")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option(
    "--device", type=TEXT, default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Device."
)
@click.option("--keep-names", is_flag=True, help="Add PatientID, PatientName, SeriesInstanceUID of DICOM.")
@plugin_option
def predict_command(
    model: str, inputs: tuple[Path, ...], output: Path | None, results: Path, device: str, keep_names: bool
) -> int:
    """Predict new images with a trained model.

    MODEL is DATASET/MODEL of a results folder, a run's id, or an exported folder. IMAGES are files, folders, archives
    or npz files. Research use only; not a medical device.
    """
    from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, convert_disk_errors
    from zoo.registry.loading import quiet_stdout
    from zoo.report.new_answers import AnswerTable, open_writer, summary
    from zoo.system.devices import resolve_device
    from zoo.system.files import cache_root
    from zoo.system.machine import num_cores, prepare_torch
    from zoo.system.progress import Console
    from zoo.trained.inputs import NAME_TAGS, list_images
    from zoo.trained.opening import find_models, open_model
    from zoo.trained.predicting import find_rules, predict_images

    console = Console()
    folders = find_models(model, results)
    registry = registry_with_warnings(console)
    with quiet_stdout(), console.counting("loading the model"):
        prepare_torch(num_cores())
        models = [open_model(folder, registry, cache_root(), resolve_device(device)) for folder in folders]
    tags = NAME_TAGS if keep_names else ()
    with console.counting("listing the images"):
        images = list(list_images(inputs, models[0].card, cache_root(), tags))
    with (
        convert_disk_errors(),
        open_writer(output, AnswerTable(models, tags)) as writer,
        console.counting("predicting", "images") as progress,
    ):
        for answer in predict_images(models, images, find_rules(models)):
            writer.write(answer)
            progress(writer.num_images, len(images))
    for line in summary(writer, output):
        tell(line)
    if not writer.num_refused:
        return 0
    return EXIT_SOME_FAILED if writer.num_predicted else EXIT_NOTHING_RAN
