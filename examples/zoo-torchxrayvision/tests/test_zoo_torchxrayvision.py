"""The model by zoo's conformance kit, and against the library: weights, scaling and logits."""

import copy
import functools
import http.server
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchxrayvision.models import DenseNet, model_urls
from torchxrayvision.utils import normalize
from zoo_torchxrayvision import NUM_PATHOLOGIES, build, register_models

from zoo import BuildRequest, WeightsError
from zoo.testing import parametrize_with_checks

(SPEC,) = register_models()
# A plugin whose weights come from another place.
LOCAL_PLUGIN = """
from dataclasses import replace
from zoo import hookimpl
import zoo_torchxrayvision

@hookimpl
def register_models():
    (spec,) = zoo_torchxrayvision.register_models()
    return [replace(spec, name="xrv-local", weights=(replace(spec.weights[0], url={url!r}),))]
"""


@parametrize_with_checks([SPEC])
def test_the_model_conforms(spec, check):
    check(spec)


@pytest.fixture(scope="module")
def released():
    """A network as the library releases it, with weights that no initialization draws."""
    torch.manual_seed(0)
    module = DenseNet(num_classes=NUM_PATHOLOGIES).eval()
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.mul_(0.9).add_(0.001)
    return module


@pytest.fixture(scope="module", params=[True, False], ids=["torch 1.6 and newer", "older torch"])
def released_file(request, released, tmp_path_factory):
    """The network saved whole, as the library saves it, in both formats of torch."""
    path = tmp_path_factory.mktemp("released") / "whole.pt"
    torch.save(copy.deepcopy(released), path, _use_new_zipfile_serialization=request.param)
    return path


def test_the_weights_are_those_of_the_library():
    for weights in SPEC.weights:
        entry = model_urls[f"densenet121-res224-{weights.tag}"]
        assert (weights.url, weights.image_size) == (entry["weights_url"], entry["input_resolution"])
    assert len(SPEC.weights) == sum(name.startswith("densenet121-") for name in model_urls)


def test_images_are_scaled_as_by_the_library():
    levels = np.arange(256, dtype=np.uint8)
    assert np.allclose((levels / 255 - SPEC.mean[0]) / SPEC.std[0], normalize(levels, 255), atol=1e-3)


def test_a_network_that_was_saved_whole_gives_the_logits_of_the_library(released, released_file):
    request = BuildRequest(num_outputs=NUM_PATHOLOGIES, channels=1, image_size=64, weights=released_file, tag="all")
    images = 1024 * (2 * torch.rand(2, 1, 64, 64) - 1)
    with torch.no_grad():
        assert torch.equal(build(request).eval()(images), released(images))


class Command:
    """What a file may contain instead of a network."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_new", [True, False])
def test_code_in_a_file_of_weights_is_refused(tmp_path, is_new):
    torch.save(Command(tmp_path / "made"), tmp_path / "bad.pt", _use_new_zipfile_serialization=is_new)
    with pytest.raises(WeightsError):
        build(BuildRequest(num_outputs=2, channels=1, image_size=64, weights=tmp_path / "bad.pt"))
    assert not (tmp_path / "made").exists()


# --- whole benches ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of gray images in two classes, brighter with a finding."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for offset, label in ((0, "healthy"), (90, "finding")):
        (folder / label).mkdir()
        for number in range(40):
            pixels = rng.integers(0, 160, (48, 48)) + offset
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


def bench(folder, images, *words, **environment):
    """Run a bench of one training step with pretrained weights, without the network settings of this machine."""
    own = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    words = [
        "--weights",
        "pretrained",
        "--protocol",
        "quick",
        "--set",
        "steps=1",
        "--set",
        "image_size=64",
        "--seeds",
        "1",
        *words,
    ]
    return subprocess.run(
        [sys.executable, "-m", "zoo", "bench", "--datasets", str(images), *words],
        cwd=folder,
        env={**own, "ZOO_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("released_file", [False], ids=["older torch"], indirect=True)
def test_released_weights_are_downloaded_and_used(tmp_path, images, released_file):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=released_file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/whole.pt"
        (tmp_path / "local.py").write_text(LOCAL_PLUGIN.format(url=url))
        done = bench(tmp_path, images, "--plugin", "local.py", "--models", "xrv-local")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "pretrained weights" in done.stdout and "xrv-local.all" in done.stdout


def test_without_the_network_a_bench_ends_in_seconds_with_one_line(tmp_path, images):
    start = time.monotonic()
    nowhere = "http://127.0.0.1:9"  # a proxy that refuses every connection
    done = bench(tmp_path, images, "--models", "xrv-densenet121", HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere)
    assert done.returncode == 2 and time.monotonic() - start < 60
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("zoo: error")]
    assert "xrv-densenet121.all are not available" in line and "https://github.com cannot be reached" in line
