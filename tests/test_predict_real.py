"""`zoo predict` after a short fine-tuning on real data: photographs, DICOM files, 16-bit images and clips."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).parents[1] / "leaderboard"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "data" / "ham10000_mel_nv").is_dir(), reason="needs leaderboard/data"),
]


@pytest.fixture(scope="module")
def trained(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    done = zoo(
        *("bench", "-d", DATA / "datasets" / "ham10000_mel_nv.toml", "-m", "resnet18", "--weights", "none"),
        *("--set", "image_size=64", "--set", "steps=20", "--set", "rounds=2", "--seeds", "1", "--drop-leaks"),
        *("--results", folder),
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def predict(zoo, trained, tmp_path):
    def run(*inputs):
        output = tmp_path / "out.csv"
        done = zoo("predict", "ham10000_mel_nv/resnet18", *inputs, "-o", output, "--results", trained)
        assert "Traceback" not in done.stderr
        with output.open() as stream:
            return done, {Path(row["image"]).name: row for row in csv.DictReader(stream)}

    return run


def test_photographs_are_outside_and_lesions_are_not(predict, tmp_path):
    from sklearn.datasets import load_sample_images

    for number, photograph in enumerate(load_sample_images().images):
        Image.fromarray(photograph).save(tmp_path / f"photo{number}.png")
    lesions = sorted((DATA / "data" / "ham10000_mel_nv" / "test" / "nv").iterdir())[:100]
    done, rows = predict(*tmp_path.glob("photo*.png"), *lesions)
    assert done.returncode == 0, done.stderr
    assert all(rows[f"photo{number}.png"]["outside"] for number in (0, 1))
    assert sum(bool(rows[path.name]["outside"]) for path in lesions) <= 10


def test_an_image_of_16_bits_is_refused_by_name(predict, tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 65535, (150, 150)).astype(np.uint16)).save(tmp_path / "deep.png")
    done, rows = predict(tmp_path / "deep.png")
    assert done.returncode == 4
    assert "uint16" in rows["deep.png"]["problem"]


def test_a_clip_is_one_answer(predict, tmp_path):
    av = pytest.importorskip("av")
    random = np.random.default_rng(0)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 160
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (160, 160, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _, rows = predict(tmp_path / "clip.mp4")
    assert rows["clip.mp4"]["images"] == "8"
