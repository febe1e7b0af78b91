"""Read `dataset.json` of the Medical Segmentation Decathlon (Antonelli et al. 2022): the names of its labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import DataError

MSD_FILE = "dataset.json"


def read_msd_fields(root: Path) -> dict[str, Any]:
    """The fields of a card that `dataset.json` of a folder gives: labels, modality, license; {} without the file.

    MSD maps values to names, nnU-Net names to values. Raises DataError if the file is no such description.
    """
    path = root / MSD_FILE
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        named = document["labels"]
        if all(isinstance(value, int) for value in named.values()):
            named = {str(value): name for name, value in named.items()}
        labels = {str(int(value)): str(name) for value, name in named.items() if int(value)}
        modality = document.get("modality", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no description of a set of masks: {type(error).__name__}: {error}",
            fix="correct `labels` in it, or describe the set by a dataset.toml",
            code="card",
        ) from error
    fields = {
        "labels": labels,
        "modality": ", ".join(map(str, modality.values())) if isinstance(modality, dict) else str(modality),
        "license": str(document.get("licence", document.get("license", ""))),
    }
    return {name: value for name, value in fields.items() if value}
