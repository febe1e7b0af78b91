"""`zoo export`: exported models give torch's logits, or nothing is written."""

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors import safe_open

from zoo.errors import RunError
from zoo.registry.opening import open_registry
from zoo.trained import exporting
from zoo.trained.opening import open_model

TARGETS = ("onnx", "torch-export", "safetensors")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trained(zoo, tiny_data, tmp_path_factory):
    """A timm network of one step on gray images, and a network of the tests' own plugin."""
    folder = tmp_path_factory.mktemp("export")
    common = ("--datasets", tiny_data / "folders", "--weights", "none", "--seeds", "1", "--results", folder)
    budget = ("--protocol", "quick", "--set", "steps=2", "--set", "rounds=1", "--set", "image_size=32")
    vote = ("--protocol", "knn", "--set", "image_size=32")
    for models, protocol in (("tiny_cnn,zoo-timm:resnet10t", budget), ("tiny_cnn", vote)):
        done = zoo("bench", "--models", models, *common, *protocol, "--metrics", "auroc")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def export(zoo, trained, tmp_path):
    def run(model, target):
        return zoo("export", model, "--to", target, "-o", tmp_path / "out", "--results", trained)

    return run


def notices(folder):
    """What each file of an exported folder says about itself; none has a path of this machine."""
    for path in folder.iterdir():
        assert not re.search(rb"site-packages|/zoo/", contents_of(path))
        if path.suffix == ".onnx":
            import onnx

            model = onnx.load(path)
            yield model.doc_string
            yield {each.key: each.value for each in model.metadata_props}["notice"]
        elif path.suffix == ".pt2":
            import torch

            files = {"metadata.json": ""}
            torch.export.load(path, extra_files=files)
            yield json.loads(files["metadata.json"])["notice"]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as stream:
                yield stream.metadata()["notice"]
        else:
            yield path.read_text()


def contents_of(path):
    if path.suffix != ".pt2":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize(
    ("model", "target"),
    [
        *(("tiny_cnn", target) for target in TARGETS),
        ("resnet10t", "onnx"),
        *(pytest.param("resnet10t", target, marks=pytest.mark.slow) for target in TARGETS[1:]),
    ],
)
def test_an_exported_model_has_torchs_logits(export, tmp_path, model, target):
    if target == "onnx":
        pytest.importorskip("onnxruntime")
    done = export(f"folders/{model}/quick@2+image_size=32+rounds=1+steps=2", target)
    assert done.returncode == 0, done.stderr
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["largest_difference"] <= 1e-4
    assert parity["flipped_decisions"] == 0
    assert "not a medical device" in done.stdout
    assert all("not a medical device" in text for text in notices(tmp_path / "out"))


def test_the_loader_of_a_timm_model_needs_no_zoo(export, tmp_path):
    export("folders/resnet10t/quick@2+image_size=32+rounds=1+steps=2", "safetensors")
    code = (
        "import runpy, sys, torch\n"
        "found = runpy.run_path(sys.argv[1])\n"
        "assert not any(name.split('.')[0] == 'zoo' for name in sys.modules)\n"
        "print(found['logits'](torch.zeros(1, 1, 32, 32)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out" / "load.py"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "torch.Size([1, 2])", done.stderr


def test_an_exported_folder_predicts_as_the_run_does(zoo, export, trained, tiny_data, tmp_path):
    model = "folders/tiny_cnn/quick@2+image_size=32+rounds=1+steps=2"
    export(model, "safetensors")
    images = tiny_data / "folders" / "test"
    answers = [zoo("predict", name, images, "--results", trained).stdout for name in (model, tmp_path / "out")]
    assert answers[0] == answers[1] != ""


def test_a_neighbor_vote_is_refused_for_onnx_and_has_another_way(export):
    done = export("folders/tiny_cnn/knn@1+image_size=32", "onnx")
    assert done.returncode != 0
    assert "--to safetensors" in done.stderr


def test_a_neighbor_vote_is_exported_as_safetensors_without_a_loader(export, tmp_path):
    done = export("folders/tiny_cnn/knn@1+image_size=32", "safetensors")
    assert done.returncode == 0, done.stderr
    assert "no load.py" in done.stdout
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["loader"] is False


def test_a_difference_from_torch_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    folder = next(trained.glob("folders/resnet10t*/quick*/"))
    model = open_model(folder, open_registry(), tmp_path, "cpu")
    wrong = exporting.torch_responder(exporting.graph_of(model))
    monkeypatch.setitem(exporting.EXPORTERS, "torch-export", lambda *_: lambda levels: wrong(levels) + np.float64(0.01))
    with pytest.raises(RunError) as caught:
        exporting.export_model(model, "torch-export", tmp_path / "out")
    assert caught.value.code == "parity"
    assert not (tmp_path / "out").exists()
