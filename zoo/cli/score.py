"""`zoo score`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import FILE_TYPE, RESULTS, TEXT, Name, Number, plugin_option, several
from zoo.cli.terminal import registry_with_warnings, tell
from zoo.errors import UsageError

# Options of `--masks` that need --reference, and those that need --datasets.
OF_REFERENCE = ("reference", "patients", "tolerance", "spacing", "connectivity", "lesion_iou", "cldice", "output")
OF_DATASET = ("name", "folds", "resplit", "drop_leaks", "allow_leak")
IOU = Number(min=0, max=1, max_open=True)


@click.command("score")
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@several("--metrics", kind="metric", metavar="NAME,...", help="Metrics in addition to the stored ones.")
@click.option("--masks", type=TEXT, metavar="FOLDER|PATH*", help="Score predicted masks instead of a results folder.")
@click.option("--reference", type=TEXT, metavar="FOLDER|PATH*", help="The reference masks, of the same names.")
@click.option(
    "--datasets", "dataset", type=Name("dataset"), metavar="NAME|PATH", help="Store the masks of its test images."
)
@click.option("--name", type=TEXT, metavar="NAME", help="With --datasets: the name of their row on its board.")
@click.option("--folds", type=click.IntRange(min=1), metavar="N", help="As in the bench whose board they join.")
@click.option("--resplit", is_flag=True, default=None, help="As in the bench.")
@click.option("--drop-leaks", is_flag=True, default=None, help="As in the bench.")
@click.option("--allow-leak", type=TEXT, metavar="REASON", help="As in the bench.")
@click.option("--patients", type=FILE_TYPE, metavar="FILE.csv", help="The patient of each case: columns case, patient.")
@click.option("--labels", type=TEXT, metavar="[NAME=]N,...", help="The labels to score. Default: all that occur.")
@click.option("--tolerance", type=Number(min=0), metavar="MM", help="Tolerance of NSD. Default: the size of a voxel.")
@click.option("--spacing", type=TEXT, metavar="MM,...", help="Size of a voxel along each axis, if files declare none.")
@click.option("--connectivity", type=click.Choice(["full", "faces"]), help="Neighbors in a lesion. Default: full.")
@click.option("--lesion-iou", type=IOU, metavar="IOU", help="Lesions match above it. Default: any overlap.")
@click.option("--cldice", is_flag=True, default=None, help="Add clDice, for vessels (needs scikit-image).")
@click.option("-o", "--output", type=FILE_TYPE, metavar="FILE", help="Write the case table: a .csv or .npz file.")
@plugin_option
def score_command(results: Path, metrics: tuple[str, ...], masks: str | None, **options: Any) -> int:
    """Recompute scores from stored predictions, or score masks of any tool; without training or a GPU.

    \b
    zoo score --metrics geometric_mean
    zoo score --masks predictions/ --datasets path/to/set --name nnunet
    zoo score --masks predictions/ --reference labelsTs/ --tolerance 1 -o cases.csv
    zoo score --masks 'out/*_pred.png' --reference 'data/*_mask.png' --patients patients.csv
    """
    given = {name: value for name, value in options.items() if value is not None}
    if masks:
        if metrics:
            raise UsageError("--metrics is for a results folder", fix="leave it out: all metrics of masks are computed")
        return add_row(masks, results, given) if "dataset" in given else score_masks(masks, given)
    if given:
        raise UsageError(f"--{next(iter(given)).replace('_', '-')} is for masks", fix="add --masks FOLDER")
    return score_stored(results, metrics)


def score_stored(results: Path, metrics: tuple[str, ...]) -> int:
    """Recompute the scores of a results folder."""
    from zoo.cli.stored import read_results
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


# --- masks -----------------------------------------------------------------------------------------------------------
def score_masks(masks: str, options: Mapping[str, Any]) -> int:
    """Compare predicted masks with reference masks, print the scores and write the case table."""
    from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, clean, convert_disk_errors
    from zoo.evaluation.masks.files import MaskRequest, compare_files, find_voxel_size
    from zoo.evaluation.masks.records import save_case_scores
    from zoo.evaluation.masks.rule import MaskRule
    from zoo.evaluation.masks.skeletons import require_skimage
    from zoo.report.mask_scores import comparison_lines, mask_score_lines, pairing_lines
    from zoo.sources.label_map_pairs import find_label_maps, pair_label_maps, read_case_patients
    from zoo.system.progress import Console

    output: Path | None = options.get("output")
    if not options.get("reference"):
        raise UsageError("--masks needs references", fix="add --reference FOLDER, or --datasets NAME")
    refuse_alone(options, OF_DATASET, "--datasets")
    if output and output.suffix.lower() not in (".csv", ".npz"):
        raise UsageError(f"{output}: expected a .csv or .npz file", fix="name it cases.csv")
    if options.get("cldice"):
        require_skimage()
    spacing = read_spacing_option(options.get("spacing"))
    registry_with_warnings()  # plugins may read the masks
    places = find_label_maps(masks), find_label_maps(options["reference"])
    cases = pair_label_maps(*places)
    for line in pairing_lines(cases, places):
        tell(f"zoo: {line}")
    voxel_size = find_voxel_size(cases, spacing)
    request = MaskRequest(
        rule=MaskRule(
            tolerance=options.get("tolerance", voxel_size),
            connectivity=options.get("connectivity", "full"),
            lesion_iou=options.get("lesion_iou", 0.0),
            skeletons=bool(options.get("cldice")),
        ),
        labels=read_labels_option(options.get("labels")),
        patients=read_case_patients(options["patients"]) if "patients" in options else None,
        spacing=spacing,
    )
    with Console().counting("comparing", "cases") as progress:
        comparison = compare_files(cases, request, progress)
    for error in comparison.refused:
        tell(error.line())
    if not len(comparison.scores):
        return EXIT_NOTHING_RAN
    for line in comparison_lines(comparison):
        tell(f"zoo: {line}")
    click.echo("\n".join(mask_score_lines(comparison, has_patients=request.patients is not None)))
    if output:
        with convert_disk_errors():
            save_case_scores(output, comparison.scores)
        tell(f"zoo: wrote {clean(output)}: {len(comparison.scores)} rows")
    return EXIT_SOME_FAILED if comparison.refused else 0


def refuse_alone(options: Mapping[str, Any], names: Sequence[str], other: str) -> None:
    """Raise UsageError for an option that needs another one."""
    if foreign := next((name for name in names if name in options), ""):
        raise UsageError(f"--{foreign.replace('_', '-')} needs {other}", fix=f"add {other}, or leave it out")


def add_row(masks: str, results: Path, options: Mapping[str, Any]) -> int:
    """Store the masks of a dataset's test images as finished runs, and print the boards that they stand on."""
    from zoo.cli.bench import print_boards
    from zoo.cli.stored import read_results
    from zoo.errors import EXIT_NOTHING_RAN, clean
    from zoo.leaderboard.boards import build_leaderboard
    from zoo.leaderboard.rows import data_key
    from zoo.leaderboard.sanity_checks import is_imported
    from zoo.registry.context import Context
    from zoo.registry.loading import quiet_stdout
    from zoo.report.mask_scores import import_lines
    from zoo.results.memo import ScoreMemo
    from zoo.runner.importing import ImportRequest, import_masks
    from zoo.sources.label_map_pairs import find_label_maps
    from zoo.specs.suite import Suite
    from zoo.system.progress import Console
    from zoo.system.settings import Settings

    refuse_alone(options, OF_REFERENCE, "--reference")
    console = Console()
    registry = registry_with_warnings(console)  # plugins may read the masks
    request = ImportRequest(
        name=read_row_name(options.get("name")),
        files=find_label_maps(masks),
        labels=read_labels_option(options.get("labels")),
    )
    chosen = {name: options[name] for name in ("folds", "resplit", "drop_leaks", "allow_leak") if name in options}
    suite = Suite(name="score", datasets=(options["dataset"],), **chosen)
    context = Context(registry=registry, settings=Settings(results=results), console=console)
    with quiet_stdout():
        outcome = import_masks(request, suite, context)
    for error in outcome.refused:
        tell(error.line())
    for line in import_lines(outcome):
        tell(f"zoo: {line}")
    if not outcome.results:
        return EXIT_NOTHING_RAN
    data = {data_key(result) for result in outcome.results}
    with quiet_stdout(), console.counting("building the leaderboard"):
        every = read_results([results])
        stored = [result for result in every if data_key(result) in data]
        boards = build_leaderboard(
            stored, context.registry.metrics, sections=(), memo=ScoreMemo(cache=context.settings.cache)
        )
    name = outcome.results[0].run["dataset"]
    has_others = sum(each.run["dataset"] == name for each in every) > len(stored)
    if has_others and all(is_imported(each.run) for each in stored):
        tell(
            f"zoo: the models of {name} in {clean(results)} are of another split or version of it: give --folds, "
            "--resplit and --drop-leaks as in their bench"
        )
    print_boards(boards, results)
    return 0


def read_row_name(name: str | None) -> str:
    """The name of a row. Raises UsageError if it is missing, or if it could not be typed in a command."""
    if name is None:
        raise UsageError("--datasets needs a name for the row", fix="add --name nnunet")
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise UsageError(f"--name {name}: expected letters, digits and . + - _", fix="add --name nnunet")
    return name


def read_spacing_option(text: str | None) -> tuple[float, ...] | None:
    """The sizes of `--spacing 0.5,0.5,2`."""
    if text is None:
        return None
    sizes = [Number(min=0, min_open=True).convert(part, None, None) for part in text.split(",")]
    if len(sizes) not in (2, 3):
        raise UsageError(f"--spacing {text}: expected 2 or 3 numbers", fix="give the size of a voxel along each axis")
    return tuple(sizes)


def read_labels_option(text: str | None) -> dict[str, int] | None:
    """The names and values of `--labels anterior=1,posterior=2`, or `--labels 1,2`."""
    if text is None:
        return None
    labels: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        if not value.isdecimal() or not 0 < int(value) <= 65_535:
            raise UsageError(
                f"--labels {text}: {part!r} is no label", fix="write numbers from 1, with names if you like: tumor=1"
            )
        if (name or value) in labels or int(value) in labels.values():
            raise UsageError(f"--labels {text}: {part!r} repeats a name or a number", fix="give each label once")
        labels[name or value] = int(value)
    return labels
