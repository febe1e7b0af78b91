"""The quickstart data: datasets of synthetic chest-CT-like slices and volumes with known truth.

The truth about a slice (its lesions, `masks`, `boxes`) is recomputed from its parameters:
`masks(draw(PARAMETERS["phantom"]), 12)`.
"""

from zoo import DatasetSpec, hookimpl
from zoo_phantom.datasets import DATASETS, PARAMETERS, SHA256, open_samples
from zoo_phantom.paint import paint
from zoo_phantom.parameters import PhantomParameters
from zoo_phantom.scenes import draw
from zoo_phantom.segmentation import MASKED
from zoo_phantom.truth import Lesion, boxes, find_lesions, masks
from zoo_phantom.volumes import STACKED

__all__ = [
    "DATASETS",
    "PARAMETERS",
    "SHA256",
    "Lesion",
    "PhantomParameters",
    "boxes",
    "draw",
    "find_lesions",
    "masks",
    "open_samples",
    "paint",
]


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [*DATASETS.values(), MASKED, *STACKED]
