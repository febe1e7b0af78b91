"""`zoo predict`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import PATH, RESULTS, TEXT, plugin_option
from zoo.cli.terminal import registry_with_warnings, tell

if TYPE_CHECKING:
    from zoo.report.new_answers import AnswerWriter


@click.command("predict")
@click.argument("model", type=TEXT)
@click.argument("inputs", type=PATH, nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "-o", "--output", type=PATH, help="A .csv or .json file. Default: CSV on stdout. For masks: a new folder."
)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option(
    "--device", type=TEXT, default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Device."
)
@click.option("--metadata", type=PATH, metavar="CSV", help="The columns that the model takes beside the image.")
@click.option("--keep-names", is_flag=True, help="Add PatientID, PatientName, SeriesInstanceUID of DICOM.")
@plugin_option
def predict_command(
    model: str, inputs: tuple[Path, ...], output: Path | None, results: Path, device: str, **flags: Any
) -> int:
    """Predict new images with a trained model.

    MODEL is DATASET/MODEL of a results folder, a run's id, or an exported folder. IMAGES are files, folders, archives
    or npz files. Research use only; not a medical device.
    """
    from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, convert_disk_errors
    from zoo.registry.loading import quiet_stdout
    from zoo.report.new_answers import AnswerTable, open_writer, summary
    from zoo.report.new_masks import MaskTable, open_mask_folder, require_new_folder
    from zoo.system.devices import resolve_device
    from zoo.system.files import cache_root
    from zoo.system.machine import num_cores, prepare_torch
    from zoo.system.progress import Console
    from zoo.trained.answering import answer_files
    from zoo.trained.card import read_model_card
    from zoo.trained.inputs import NAME_TAGS
    from zoo.trained.opening import find_models, open_model
    from zoo.trained.second_input import attach_metadata

    console = Console()
    folders = find_models(model, results)
    registry = registry_with_warnings(console)
    card = read_model_card(folders[0])
    attach_metadata((), card, flags["metadata"])  # report a missing table before loading the model
    masks = require_new_folder(output) if card.task_kind.targets.spatial else None
    with quiet_stdout(), console.counting("loading the model"):
        prepare_torch(num_cores())
        models = [open_model(folder, registry, cache_root(), resolve_device(device)) for folder in folders]
    tags = NAME_TAGS if flags["keep_names"] else ()
    opened: AbstractContextManager[AnswerWriter]
    opened = (
        open_mask_folder(masks, inputs, MaskTable(models, tags))
        if masks
        else open_writer(output, AnswerTable(models, tags))
    )
    with console.counting("listing the images"):
        count, answers = answer_files(models, inputs, cache_root(), tags=tags, metadata=flags["metadata"])
    with convert_disk_errors(), opened as writer, console.counting("predicting", "images") as progress:
        for answer in answers:
            writer.write(answer)
            progress(writer.num_images, count)
    for line in summary(writer, output):
        tell(line)
    if not writer.num_refused:
        return 0
    return EXIT_SOME_FAILED if writer.num_predicted else EXIT_NOTHING_RAN
