"""Tests of the plugin's index, models and weights files."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from zoo import BuildRequest, FetchRequest, ModelSpec, WeightsError
from zoo_torchvision import read_index, register_models
from zoo_torchvision.fetching import fetch_weights

SPECS = {spec.name: spec for spec in register_models()}
SHARED_WEIGHTS = Path(__file__).resolve().parents[4] / "shared" / "weights"
SAMPLE = ("alexnet", "densenet121", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v3_small", "resnet18",
          "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit_b_32")  # fmt: skip
LIGHT = {"mnasnet0_5", "mobilenet_v3_small", "resnet18", "squeezenet1_1"}  # the unit tests
QUICK = {*LIGHT, "inception_v3", "swin_t"}


def by_cost(names: Iterable[str]) -> list[object]:
    """The names as parameters: all but the quick ones are marked slow, and all but the light ones integration."""
    kept = {name: () if name in LIGHT else pytest.mark.integration for name in QUICK}
    return [pytest.param(name, marks=kept.get(name, pytest.mark.slow)) for name in names]


EVERY = by_cost(sorted(SPECS))


def build(spec: ModelSpec, size: int = 0, weights: Path | None = None):
    return spec.build(BuildRequest(num_outputs=2, channels=3, image_size=size or spec.image_size, weights=weights))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real web server of one folder: its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


# --- the index -------------------------------------------------------------------------------------------------------
def skip_unless_made_from(installed: str) -> None:
    if read_index()["torchvision"] != installed.partition("+")[0]:
        pytest.skip(f"the index is of torchvision {read_index()['torchvision']}, installed is {installed}")


def test_the_index_names_every_architecture_of_torchvision():
    import torchvision

    skip_unless_made_from(torchvision.__version__)
    assert sorted(SPECS) == sorted(torchvision.models.list_models(module=torchvision.models))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0"])  # the slow test makes all again
@pytest.mark.integration
def test_an_entry_of_the_index_is_reproducible(name):
    import torchvision

    from zoo_torchvision.make_index import describe_architecture

    skip_unless_made_from(torchvision.__version__)
    assert json.loads(json.dumps(describe_architecture(name))) == read_index()["models"][name]


@pytest.mark.slow
def test_the_whole_index_is_reproducible():
    import torchvision

    from zoo_torchvision.make_index import make_index

    skip_unless_made_from(torchvision.__version__)
    assert json.loads(json.dumps(make_index())) == read_index()


@pytest.mark.integration
def test_listing_imports_neither_torch_nor_torchvision():
    code = (
        "import sys, zoo_torchvision as plugin; assert len(plugin.register_models()) > 50;"
        "print([name for name in ('torch', 'torchvision', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_default_weights_are_torchvisions_default():
    from torchvision.models import ResNet50_Weights

    assert SPECS["resnet50"].weights[0].url == ResNet50_Weights.DEFAULT.url
    assert SPECS["resnet50"].weights[0].tag == "imagenet1k_v2"


def test_swag_weights_are_non_commercial_and_declare_their_pretraining():
    swag = next(weight for weight in SPECS["vit_b_16"].weights if "swag_e2e" in weight.tag)
    assert (swag.license, swag.pretraining) == ("CC-BY-NC-4.0", ("instagram-3.6b", "imagenet-1k"))
    assert swag.image_size == 384


def test_specs_can_be_sent_to_another_process():
    spec = pickle.loads(pickle.dumps(SPECS["resnet18"]))
    assert spec.weights == SPECS["resnet18"].weights
    assert sum(parameter.numel() for parameter in build(spec).parameters()) == 11_689_512  # torchvision's own figure


# --- the models ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", by_cost(SAMPLE))
def test_a_model_returns_one_tensor_of_logits_in_training_and_testing_at_its_smallest_size(name):
    import torch

    spec = SPECS[name]
    size = max(spec.min_image_size, 32)
    with torch.device("meta"):  # perf: shapes alone
        module, images = build(spec, size), torch.zeros(2, 3, size, size)
    for mode in (True, False):
        assert module.train(mode)(images).shape == (2, 1000)


@pytest.mark.parametrize("name", EVERY)
def test_the_classifier_and_the_first_convolution_are_where_the_index_says(name):
    from torch import nn

    from zoo_torchvision.make_index import build_on_meta

    module = build_on_meta(name)
    head = module.get_submodule(SPECS[name].classifier)
    first = module.get_submodule(SPECS[name].first_conv)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert getattr(head, "out_features", getattr(head, "out_channels", 0)) == 1000
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 3


@pytest.mark.parametrize("name", EVERY)
def test_layer_groups_contain_every_parameter_once_and_end_with_the_classifier(name):
    from architectures import check_layer_groups

    from zoo_torchvision.make_index import build_on_meta

    module = build_on_meta(name)
    check_layer_groups(SPECS[name], module)
    first = module.get_submodule(SPECS[name].first_conv).weight
    flat = [id(parameter) for group in SPECS[name].layer_groups(module) for parameter in group]
    assert id(first) in flat[:3]


@pytest.fixture(scope="module", params=EVERY)
def adapted(request):
    from architectures import Adapted

    spec, multiple = SPECS[request.param], SPECS[request.param].size_multiple
    return Adapted(
        spec, spec.image_size if spec.fixed_size else -(-max(spec.min_image_size, 64) // multiple) * multiple
    )


def test_a_gray_image_and_its_rgb_copy_have_equal_logits(adapted):
    adapted.check_equal_logits_of_gray_and_color()


def test_outputs_of_a_new_head_follow_its_bias(adapted):
    adapted.check_outputs_follow_the_bias_of_the_head()


@pytest.mark.integration
def test_a_squeezenet_can_predict_probabilities_below_one_half():
    """With torchvision's ReLU behind its head it could not: every probability of a multi-label set was .5 or more."""
    import torch

    from zoo.models.building import build_model

    module = build_model(SPECS["squeezenet1_0"], BuildRequest(num_outputs=3, channels=1, image_size=64))
    images, targets = torch.rand(8, 1, 64, 64), torch.zeros(8, 3)
    optimizer = torch.optim.SGD(module.classifier[1].parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(module(images), targets).backward()
        optimizer.step()
    assert module.eval()(images).sigmoid().max() < 0.2


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_normalization_by_the_spec_equals_torchvisions_own_input_transform(name):
    import torch
    from torchvision import models
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
    ours = build(SPECS[name]).eval()
    own = ours.state_dict()
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in own})
    pixels = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = theirs(normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        found = ours(normalize(pixels, list(SPECS[name].mean), list(SPECS[name].std)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- weights ---------------------------------------------------------------------------------------------------------
def test_the_real_squeezenet_file_loads_strictly():
    import torch

    path = SHARED_WEIGHTS / "squeezenet1_0.pth"
    if not path.is_file():
        pytest.skip("squeezenet1_0.pth is not on this machine")
    module = build(SPECS["squeezenet1_0"], weights=path)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_a_file_of_another_architecture_is_an_error_that_names_three_keys(tmp_path):
    import torch

    path = tmp_path / "resnet18.pth"
    torch.save(build(SPECS["squeezenet1_1"]).state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"missing conv1\.weight; missing bn1\.weight; missing bn1\.bias and \d+ more"
    ):
        build(SPECS["resnet18"], weights=path)


@pytest.mark.slow
@pytest.mark.integration
def test_a_file_for_a_vision_transformer_is_fitted_to_another_image_size(tmp_path):
    import torch

    torch.manual_seed(0)
    path = tmp_path / "vit_b_32.pth"
    pristine = build(SPECS["vit_b_32"])
    torch.save(pristine.state_dict(), path)
    module = build(SPECS["vit_b_32"], 64, path)
    assert module.encoder.pos_embedding.shape == (1, 5, 768)
    assert torch.equal(module.encoder.pos_embedding[:, 0], pristine.encoder.pos_embedding[:, 0])
    assert torch.equal(module.conv_proj.weight, pristine.conv_proj.weight)


def test_an_old_densenet_file_with_dots_in_its_names_and_no_batch_counts_loads(tmp_path):
    import re

    import torch

    state = build(SPECS["densenet121"]).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    loaded = build(SPECS["densenet121"], weights=tmp_path / "old.pth").state_dict()
    key = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(loaded[key], state[key])


def test_a_mnasnet_kept_as_safetensors_loads(tmp_path):
    import torch
    from safetensors.torch import save_file

    state = build(SPECS["mnasnet0_5"]).state_dict()
    save_file(dict(state), tmp_path / "mnasnet0_5.safetensors")
    loaded = build(SPECS["mnasnet0_5"], weights=tmp_path / "mnasnet0_5.safetensors").state_dict()
    assert torch.equal(loaded["layers.0.weight"], state["layers.0.weight"])


# --- fetching --------------------------------------------------------------------------------------------------------
def test_offline_a_missing_tag_resolves_to_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    request = FetchRequest(name="resnet18", folder=tmp_path / "weights", offline=True)
    assert SPECS["resnet18"].fetch_weights(request) is None


def test_the_cache_of_torch_is_used(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = Path(torch.hub.get_dir()) / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    request = FetchRequest(name="resnet18", tag="imagenet1k_v1", folder=tmp_path / "weights", offline=True)
    assert SPECS["resnet18"].fetch_weights(request) == path


def test_a_download_is_checked_against_the_hash_in_its_name_and_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address, folder = server
    content = b"weights" * 100_000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    seen: list[tuple[int, int | None]] = []
    request = FetchRequest(name="net", folder=tmp_path / "weights", progress=lambda *state: seen.append(state))
    path = fetch_weights({"v1": f"{address}/{name}"}, request)
    assert path == tmp_path / "weights" / name
    assert path.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    (folder / name).unlink()
    assert fetch_weights({"v1": f"{address}/{name}"}, request) == path


def test_a_download_with_another_hash_is_refused_and_removed(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address, folder = server
    (folder / "net-00000000.pth").write_bytes(b"tampered")
    request = FetchRequest(name="net", folder=tmp_path / "weights")
    with pytest.raises(WeightsError, match="expected sha256 00000000, got"):
        fetch_weights({"v1": f"{address}/net-00000000.pth"}, request)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_file_the_server_does_not_have_is_an_error_that_names_its_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address, _ = server
    with pytest.raises(WeightsError, match=r"absent-12345678\.pth.*404"):
        fetch_weights({"v1": f"{address}/absent-12345678.pth"}, FetchRequest(name="net", folder=tmp_path / "weights"))
