"""Find the JSON file that describes a set of masks: of nnU-Net, MONAI or the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.sources.cards import DatasetCard
from zoo.sources.datalist import guess_datalist, is_datalist, read_json_object
from zoo.sources.listing import Listing
from zoo.sources.nnunet import describe_nnunet, is_nnunet, read_nnunet

DESCRIPTION_FILE = "dataset.json"


@dataclass(frozen=True, eq=False)
class Description:
    """A JSON file beside images, and its content."""

    path: Path
    document: Mapping[str, Any]

    @property
    def lists_files(self) -> bool:
        """Whether it says which mask belongs to which image; that of the Decathlon is read for its labels only."""
        return is_nnunet(self.document) or (is_datalist(self.document) and "modality" not in self.document)


def find_description(listing: Listing) -> Description | None:
    """Return `dataset.json` of a folder, or its only datalist. Raises DataError if several files may be it."""
    tops = [name for name in listing.others if "/" not in name and name.lower().endswith(".json")]
    candidates = [DESCRIPTION_FILE] if DESCRIPTION_FILE in tops else tops
    described = [each for name in candidates if (each := try_description(listing.root / name))]
    if len(described) > 1:
        raise DataError(
            f"{listing.root}: several datalists: {' and '.join(each.path.name for each in described)}",
            fix="name one of them as the dataset",
            code="card",
        )
    return described[0] if described else None


def try_description(path: Path) -> Description | None:
    """Return the description in a JSON file; None for other content, which many tools write."""
    # perf: annotations of other tools have up to 500 MB; parsing takes 30 times as long as searching
    text = path.read_bytes()
    if not any(key in text for key in (b'"training"', b'"channel_names"', b'"labels"')):
        return None
    described = Description(path, read_json_object(path))
    is_known = path.name == DESCRIPTION_FILE or is_datalist(described.document)
    return described if is_known else None


def guess_described(description: Description, listing: Listing, card: DatasetCard) -> tuple[DatasetCard, list[str]]:
    """Return the card of a description that lists files, and notes; fields set in `card` are respected."""
    path, document = description.path, description.document
    if is_nnunet(document):
        guessed = read_nnunet(path, document, listing, card)
        return guessed, describe_nnunet(listing.root, guessed)
    return guess_datalist(path, document)
