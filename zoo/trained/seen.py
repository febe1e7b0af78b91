"""Describe the images of a training set, to recognize new images of another kind."""

from __future__ import annotations

from typing import Any

from zoo.data.opening import OpenDataset
from zoo.images.formats import read_header
from zoo.images.reading import Header
from zoo.sources.channels import endings_of
from zoo.specs.dataset import Samples
from zoo.trained.card import ModelCard

MAX_HEADERS = 256
MAX_DECODED = 16


def describe_images(source: OpenDataset) -> dict[str, Any]:
    """Modalities as in DICOM, longest sides in pixels, and whether any image is gray, of images spread over the set.

    Without files of their own, images are decoded. Of volumes, which are read whole, only how their files are named.
    """
    samples = source.samples
    chosen = {"frames": dict(samples.frames), "patient": dict(samples.patient)}
    if source.spec.dims == 3:
        return {**chosen, "endings": find_channel_endings(samples)}
    origin, files = samples.origin, list(dict.fromkeys(samples.files))
    if origin and origin.root.is_dir():  # not arrays, or files of a plugin's own
        headers = [read_header(path) for path in files[:: max(1, -(-len(files) // MAX_HEADERS))]]
    else:
        images = samples.table["image"].tolist()
        arrays = [samples.read(image) for image in images[:: max(1, -(-len(images) // MAX_DECODED))]]
        headers = [
            Header(width=array.shape[1], height=array.shape[0], channels=1 if array.ndim == 2 else 3)
            for array in arrays
        ]
    sides = [max(header.width, header.height) for header in headers if not header.skip]
    return {
        "modalities": sorted({header.modality for header in headers if header.modality}),
        "longest_side": [min(sides), max(sides)] if sides else None,
        "gray": any(header.channels == 1 for header in headers),
        "examined": len(headers),
        **chosen,
    }


def find_channel_endings(samples: Samples) -> tuple[str, ...]:
    """What distinguishes the files of the channels of a volume; () if it is one file."""
    named = zip(samples.table["image"], samples.files, strict=False)
    endings = {endings_of([str(first), *map(str, samples.more_files.get(image, ()))]) for image, first in named}
    return endings.pop() if len(endings) == 1 else ()


def find_difference(header: Header, card: ModelCard) -> str:
    """How an image differs from those of training by its header: "modality", "size", "channels" or ""."""
    modalities, limits = card.seen["modalities"], card.seen["longest_side"]
    if modalities and header.modality and header.modality not in modalities:
        return "modality"
    if limits and not limits[0] / 2 <= max(header.width, header.height) <= limits[1] * 2:
        return "size"
    return "channels" if card.channels > 1 and header.channels == 1 and not card.seen["gray"] else ""
