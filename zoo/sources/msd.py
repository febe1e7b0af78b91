"""Read `dataset.json` of the Medical Segmentation Decathlon (Antonelli et al. 2022): the names of its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import DataError


def read_label_fields(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a card that a description gives: labels, modality, license.

    MSD maps values to names, nnU-Net names to values. Raises DataError if the file is no such description.
    """
    try:
        named = document["labels"]
        if all(isinstance(value, int) for value in named.values()):
            named = {str(value): name for name, value in named.items()}
        labels = {str(int(value)): str(name) for value, name in named.items() if int(value)}
        modality = document.get("modality", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
