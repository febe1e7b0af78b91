"""Train nnU-Net on raw data that zoo wrote, and predict their test images, with the commands of nnU-Net."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo import DataError, ZooError

PREPROCESS, TRAIN, PREDICT = "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"
FOLD = "0"  # of splits_final.json, which has one
HIDDEN = ("PYTHONPATH", "PYTHONHOME")  # variables of zoo's environment


class StepError(ZooError):
    """A command of nnU-Net is missing or failed."""

    exit_status = 4
    code = "nnunet"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train, in the words of nnU-Net; an empty configuration is 2d for images and 3d_fullres for volumes."""

    configuration: str = ""
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    device: str = "cuda"
    processes: int = 2


@dataclass(frozen=True, kw_only=True)
class RawData:
    """A folder `Dataset900_NAME` that zoo wrote, with the path of the mask of each test case."""

    folder: Path
    number: str
    ending: str
    masks: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.folder.name


def open_raw(folder: Path) -> RawData:
    """Read a folder of raw data. Raises DataError if zoo did not write it."""
    match = re.fullmatch(r"Dataset(\d{3})_.+", folder.name)
    try:
        if match is None:
            raise ValueError("its name is not Dataset900_NAME")
        document = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        with open(folder / "cases.csv", encoding="utf-8", newline="") as stream:
            masks = {row["case"]: row["mask"] for row in csv.DictReader(stream) if row["split"] == "test"}
        if outside := [mask for mask in masks.values() if Path(mask).is_absolute() or ".." in Path(mask).parts]:
            raise ValueError(f"cases.csv has the path {outside[0]}")
        return RawData(folder=folder, number=match[1], ending=document["file_ending"], masks=masks)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not raw data of zoo: {error}", fix="write them with: zoo-nnunet export") from error


@dataclass(frozen=True, kw_only=True)
class Installation:
    """nnU-Net in an environment, or "" for the PATH; `work` is the folder for what it writes."""

    environment: Path | None
    work: Path

    def find(self, command: str) -> str:
        """The path of a command. Raises StepError if it is missing."""
        places = [str(self.environment / name) for name in ("bin", "Scripts")] if self.environment else []
        path = shutil.which(command, path=os.pathsep.join(places) or None)
        if path is None:
            raise StepError(
                f"{command} is not in {self.environment or 'the PATH'}",
                fix="python -m venv nnunet; nnunet/bin/pip install nnunetv2; then --env nnunet",
            )
        return path

    def variables(self, raw: RawData, processes: int) -> dict[str, str]:
        """The environment of a command."""
        kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        return kept | {
            "nnUNet_raw": str(raw.folder.parent.resolve()),
            "nnUNet_preprocessed": str((self.work / "nnUNet_preprocessed").resolve()),
            "nnUNet_results": str((self.work / "nnUNet_results").resolve()),
            "nnUNet_n_proc_DA": str(processes),
        }

    def log(self, raw: RawData) -> Path:
        return self.work / f"{raw.name}.log"

    def call(self, words: list[str], raw: RawData, processes: int) -> None:
        """Call a command, with its output appended to the log. Raises StepError if it fails."""
        command, *arguments = words
        program, log = self.find(command), self.log(raw)
        with open(log, "a", encoding="utf-8", errors="replace") as stream:
            print(f"\n$ {' '.join(words)}", file=stream, flush=True)
            done = subprocess.run(
                [program, *arguments],
                env=self.variables(raw, processes),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise StepError(
                f"{command} of {raw.name} ended with status {done.returncode}: {last_line(log)}", fix=f"read {log}"
            )


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def train_and_predict(raw: RawData, recipe: Recipe, nnunet: Installation, say: Callable[[str], None]) -> Path:
    """Preprocess, train and predict one folder of raw data, and return the folder of its predicted masks.

    A training that is done is not repeated, and an interrupted one goes on from nnU-Net's last checkpoint.
    """
    for command in (PREPROCESS, TRAIN, PREDICT):
        nnunet.find(command)
    nnunet.work.mkdir(parents=True, exist_ok=True)
    configuration = recipe.configuration or ("2d" if raw.ending == ".png" else "3d_fullres")
    model = nnunet.work / "nnUNet_results" / raw.name / f"{recipe.trainer}__{recipe.plans}__{configuration}"
    fold = model / f"fold_{FOLD}"
    processes = str(recipe.processes)
    choice = ["-tr", recipe.trainer, "-p", recipe.plans, "-device", recipe.device]
    predicted = nnunet.work / "predicted" / raw.name / model.name

    def step(*words: str) -> None:
        say(f"{raw.name}: {words[0]}; its output is in {nnunet.log(raw)}")
        nnunet.call(list(words), raw, recipe.processes)

    if not (fold / "checkpoint_final.pth").exists():
        preprocessed = nnunet.work / "nnUNet_preprocessed" / raw.name
        if not (fold / "checkpoint_latest.pth").exists():
            parallel = ["-np", processes, "-npfp", processes]
            step(PREPROCESS, "-d", raw.number, "-c", configuration, *parallel, "--verify_dataset_integrity")
        shutil.copy(raw.folder / "splits_final.json", preprocessed)  # else nnU-Net draws folds by case
        proceed = ["--c"] if (fold / "checkpoint_latest.pth").exists() else []
        step(TRAIN, raw.number, configuration, FOLD, *choice, *proceed)
    parallel = ["-npp", processes, "-nps", processes]
    places = ["-i", str(raw.folder / "imagesTs"), "-o", str(predicted)]
    step(PREDICT, *places, "-d", raw.number, "-c", configuration, "-f", FOLD, *choice, *parallel)
    return predicted


def collect_masks(raw: RawData, predicted: Path, output: Path) -> int:
    """Copy predicted masks to the paths by which `zoo score` knows their images; return their number."""
    for case, mask in raw.masks.items():
        source = predicted / f"{case}{raw.ending}"
        if not source.is_file():
            raise StepError(f"{source}: nnU-Net wrote no mask of this test image", fix="run it again, and read its log")
        (output / mask).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, output / mask)
    return len(raw.masks)


def require_new(output: Path) -> None:
    if output.exists():
        raise ZooError(f"{output}: exists already", fix="name another folder, or remove it", code="usage")
