"""`zoo explain`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import PATH, RESULTS, TEXT, plugin_option
from zoo.cli.terminal import registry_with_warnings, tell


@click.command("explain")
@click.argument("model", type=TEXT)
@click.argument("inputs", type=PATH, nargs=-1, metavar="[IMAGES]...")
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write.")
@click.option(
    "--method",
    type=click.Choice(("grad-cam", "integrated-gradients", "occlusion")),
    default="grad-cam",
    show_default=True,
    help="Method of the maps.",
)
@click.option("--label", type=TEXT, default=None, metavar="NAME", help="Label to explain. Default: the decision.")
@click.option("--masks", type=PATH, metavar="DIR", help="PNG masks of the images, to test the maps.")
@click.option("--data", type=TEXT, default=None, metavar="NAME|PATH", help="Without IMAGES: the dataset of the model.")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option(
    "--device", type=TEXT, default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Device."
)
@click.option("--keep-names", is_flag=True, help="Add PatientID, PatientName, SeriesInstanceUID of DICOM.")
@plugin_option
def explain_command(
    model: str, inputs: tuple[Path, ...], output: Path, results: Path, masks: Path | None, **flags: str | Path | bool
) -> int:
    """Show where a trained model looks, with numbers about how far the maps can be trusted.

    MODEL is as for `zoo predict`; of several seeds the one with the best val score. Of masks it also shows where they
    are unsure, and where the seeds disagree. Without IMAGES, 24 of its test images or volumes are explained. Research
    use only; not a medical device.
    """
    from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, UsageError
    from zoo.explaining.choosing import open_explainer
    from zoo.explaining.explainer import check_method
    from zoo.explaining.explanations import Request
    from zoo.explaining.outputs import check_explainable, choose_seeds
    from zoo.explaining.sampling import Place
    from zoo.explaining.subjects import list_named, list_tested, with_masks
    from zoo.registry.loading import quiet_stdout
    from zoo.report.map_folder import summarize_maps, write_maps
    from zoo.system.devices import resolve_device
    from zoo.system.files import cache_root
    from zoo.system.machine import num_cores, prepare_torch
    from zoo.system.progress import Console
    from zoo.trained.inputs import NAME_TAGS
    from zoo.trained.opening import find_models, open_model

    check_method(str(flags["method"]))
    if inputs and flags["data"]:
        raise UsageError("--data is for test images, but IMAGES are named", fix="leave one of them out")
    console, tags = Console(), NAME_TAGS if flags["keep_names"] else ()
    named = find_models(model, results)
    registry = registry_with_warnings(console)
    sources = choose_seeds(named)
    with quiet_stdout(), console.counting("loading the model"):
        prepare_torch(num_cores())
        device = resolve_device(str(flags["device"]))
        opened = [open_model(source, registry, cache_root(), device) for source in sources]
    card, label = opened[0].card, str(flags["label"] or "")
    check_explainable(card, label, str(flags["method"]))
    with quiet_stdout(), console.counting("listing the images") as progress:
        if inputs:
            subject = list_named(inputs, card, cache_root(), tags)
        else:
            place = Place(registry=registry, cache=cache_root(), data=str(flags["data"] or ""))
            subject = list_tested(sources[0], card, place, progress)
        if masks:
            subject = with_masks(subject, masks, card)
    request = Request(method=str(flags["method"]), label=label, find_mask=subject.find_mask)
    explaining = open_explainer(opened, request)
    with quiet_stdout():
        written, numbers = write_maps(explaining, subject, output, console, tags)
    for line in summarize_maps(written, numbers, output):
        tell(line)
    if not written.num_refused:
        return 0
    return EXIT_SOME_FAILED if written.num_explained else EXIT_NOTHING_RAN
