"""Write small folders of images, tables and cards for tests, and open them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.sources.opening import find_source
from zoo.specs.dataset import DatasetSpec, Samples, SamplesRequest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return SHARED / name


def images(root: Path, *names: str, color: bool = False) -> Path:
    """Write small image files below `root`, all with different pixels."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3) if color else (8, 8), number % 256, np.uint8)
        pixels[4:] = number // 256
        Image.fromarray(pixels).save(path)
    return root


def table(root: Path, *rows: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))
    return root


def card(root: Path, text: str) -> Path:
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    return root


def open_source(path: Path) -> tuple[DatasetSpec, Samples]:
    """Return the spec and samples of a path, pickled and unpickled as in a worker process."""
    spec = find_source(path)
    return spec, pickle.loads(pickle.dumps(spec.samples))(SamplesRequest(folder=path))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_source(path)
    assert "\n" not in caught.value.line()
    return caught.value.line()
