"""The command `zoo-nnunet`: write a dataset as nnU-Net's raw data, train on them, and return masks for `zoo score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from zoo import ZooError, write_nnunet
from zoo_nnunet.running import Installation, Recipe, collect_masks, open_raw, require_new, train_and_predict

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def program() -> None:
    """nnU-Net on zoo's split, as a row of a dataset's board.

    \b
    zoo-nnunet export path/to/set -o nnUNet_raw
    zoo-nnunet run nnUNet_raw/Dataset900_set --env nnunet -o masks
    zoo score --masks masks --datasets path/to/set --name nnunet
    """


@program.command("export")
@click.argument("dataset")
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder nnUNet_raw; one folder per fold is added.")
@click.option("--number", type=click.IntRange(1, 999), default=900, show_default=True, help="Number of the first fold.")
@click.option("--folds", type=click.IntRange(min=1), metavar="N", help="As in the bench whose board nnU-Net joins.")
@click.option("--resplit", is_flag=True, default=None, help="As in the bench.")
@click.option("--drop-leaks", is_flag=True, default=None, help="As in the bench.")
@click.option("--allow-leak", metavar="REASON", help="As in the bench.")
def export_data(dataset: str, output: Path, number: int, **options: Any) -> None:
    """Write a dataset with masks as raw data of nnU-Net, with zoo's split by patient; without the masks of test."""
    given = {name: value for name, value in options.items() if value is not None}
    for folder in write_nnunet(dataset, output, number=number, **given):
        click.echo(folder)


@program.command("run")
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=FOLDER, required=True, help="The new folder of the masks of all test images.")
@click.option("--env", "environment", type=FOLDER, help="nnU-Net's virtual environment. Default: the PATH.")
@click.option("--work", type=FOLDER, default="nnunet-work", show_default=True, help="For models, logs and other files.")
@click.option("--configuration", help="Default: 2d for images, 3d_fullres for volumes.")
@click.option("--trainer", default="nnUNetTrainer", show_default=True, help="A trainer of nnU-Net.")
@click.option("--plans", default="nnUNetPlans", show_default=True, help="Plans of nnU-Net.")
@click.option("--device", type=click.Choice(["cuda", "cpu", "mps"]), default="cuda", show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Each holds whole images.")
def run_contender(folders: tuple[Path, ...], output: Path, *, environment: Path | None, **options: Any) -> None:
    """Train nnU-Net on exported folders, and predict their test images. A finished training is not repeated."""
    require_new(output)
    nnunet = Installation(environment=environment, work=options.pop("work"))
    recipe = Recipe(**{name: value for name, value in options.items() if value is not None})
    opened = [open_raw(folder) for folder in folders]
    predicted = [train_and_predict(raw, recipe, nnunet, lambda line: click.echo(line, err=True)) for raw in opened]
    count = sum(collect_masks(raw, masks, output) for raw, masks in zip(opened, predicted, strict=True))
    click.echo(f"{count} masks in {output}; next: zoo score --masks {output} --datasets SET --name nnunet")


def main() -> None:
    """Run the command; an error that a user can fix is one line."""
    try:
        program()
    except ZooError as error:
        click.echo(error.line(), err=True)
        sys.exit(error.exit_status)
