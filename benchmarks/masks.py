"""Peak memory and CPU-seconds of the statistics of one case of 512 x 512 x 400 voxels with 3 labels.

python benchmarks/masks.py            # with clDice's skeletons: python benchmarks/masks.py skeletons
"""

import resource
import sys
import time

import numpy as np

from zoo.evaluation.masks.cases import MaskCase, compare_case
from zoo.evaluation.masks.rule import MaskRule

SHAPE = (512, 512, 400)


def draw(shift: int) -> np.ndarray:
    """An ellipsoid that fills the volume, one inside it, and 200 small ones."""
    label_map = np.zeros(SHAPE, np.uint8)
    fill(label_map, 1, (256 + shift, 256, 200), (250, 250, 195))
    fill(label_map, 2, (180, 200 + shift, 200), (90, 80, 100))
    for x, y, z in np.random.default_rng(3).integers(20, 370, (200, 3)).tolist():
        fill(label_map, 3, (x + shift, y, z), (6, 6, 5))
    return label_map


def fill(label_map: np.ndarray, value: int, center: tuple[int, ...], radii: tuple[int, ...]) -> None:
    x, y, z = (((np.arange(n) - c) / r) ** 2 for n, c, r in zip(SHAPE, center, radii, strict=True))
    for row in np.flatnonzero(x <= 1):
        label_map[row][x[row] + y[:, None] + z[None] <= 1] = value


if __name__ == "__main__":
    case = MaskCase(case="a", patient="a", reference=draw(0), prediction=draw(2), spacing=(0.8, 0.8, 1.5))
    start = time.process_time()
    rows = compare_case(
        case, {"body": 1, "organ": 2, "lesions": 3}, MaskRule(tolerance=1.0, skeletons="skeletons" in sys.argv)
    )
    seconds = time.process_time() - start
    print(*rows, sep="\n")
    print(f"{seconds:.0f} CPU-seconds, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
