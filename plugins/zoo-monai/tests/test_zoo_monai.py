"""MONAI's networks: the conformance kit, training, precision, stored weights, and UNETR at any size."""

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from zoo import BuildRequest, load_weights
from zoo.models.building import build_model
from zoo.system.devices import open_device
from zoo.testing import check_model
from zoo.trained.modules import state_of
from zoo_monai import register_models

pytestmark = pytest.mark.integration  # MONAI starts a process when it is imported
SPECS = {spec.name: spec for spec in register_models()}
SMALL = ("segresnet2d-16", "dynunet2d")
ALL = [pytest.param(name, marks=[] if name in SMALL else [pytest.mark.slow]) for name in SPECS]


def smallest(name):
    """The smallest sides that a model accepts, but at least 16."""
    spec = SPECS[name]
    return (max(spec.min_image_size, 16),) * spec.dims[0]


def build(name, seed=0):
    spec, sides = SPECS[name], smallest(name)
    request = BuildRequest(num_outputs=3, channels=1, image_size=sides[0], dims=spec.dims[0])
    return build_model(spec, request, seed=seed)


def test_the_module_imports_neither_torch_nor_monai():
    code = "import sys, zoo_monai; zoo_monai.register_models(); print({'torch', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_network_has_a_name_in_two_and_in_three_dimensions():
    flat, deep = ({name for name in SPECS if SPECS[name].dims == (dims,)} for dims in (2, 3))
    assert {name.replace("2d", "3d") for name in flat} == deep and len(flat) == len(deep) == len(SPECS) / 2


@pytest.mark.parametrize("name", ALL)
def test_the_networks_pass_the_conformance_kit(name):
    check_model(SPECS[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("swin") else []) for name in SPECS]
)
def test_the_title_states_the_number_of_parameters(name):
    spec = SPECS[name]
    request = BuildRequest(num_outputs=2, channels=spec.channels, image_size=spec.image_size, dims=spec.dims[0])
    with torch.device("cpu" if name.startswith("swin") else "meta"):  # perf: no numbers are drawn for 90 M parameters
        count = sum(parameter.numel() for parameter in spec.build(request).parameters())
    assert f" {count / 1e6:.1f} M parameters" in spec.title


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ALL)
def test_training_steps_lower_the_loss(name, precision):
    module = build(name).train()
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, *smallest(name), dtype=torch.long)
    masks[:, 2:9, 3:12] = 1
    images = masks.unsqueeze(1) + 0.1 * torch.randn(1, 1, *smallest(name), generator=generator)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        with open_device("cpu").autocast(precision):
            outputs = module(images)
        loss = cross_entropy(outputs.float(), masks)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ALL)
def test_stored_weights_give_the_same_outputs(name, tmp_path):
    from safetensors.torch import save_file

    first, second = build(name, seed=0).eval(), build(name, seed=1).eval()
    images = torch.rand(1, 1, *smallest(name))
    save_file(state_of(first), tmp_path / "model.safetensors")
    with torch.inference_mode():
        assert not torch.equal(first(images), second(images))
        load_weights(second, tmp_path / "model.safetensors")
        assert torch.equal(first(images), second(images))


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_unetr_equals_that_of_monai_at_its_own_size(dims):
    from monai.networks.nets import UNETR

    own = build(f"unetr{dims}d").eval()
    theirs = UNETR(1, 3, img_size=16, spatial_dims=dims).eval()
    theirs.load_state_dict(own.state_dict())
    images = torch.rand(2, 1, *(16,) * dims)
    with torch.inference_mode():
        torch.testing.assert_close(own(images), theirs(images))
