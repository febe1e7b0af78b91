"""3-D ResNets with inflated weights: what they compute, how they begin, and what is recorded."""

import pytest
import torch
from torch import nn

from zoo import BuildRequest
from zoo.testing import check_model
from zoo_torchvision import register_models
from zoo_torchvision.inflating import adapt_input, inflate

SPECS = {spec.name: spec for spec in register_models() if spec.dims == (3,)}
RESNET = SPECS["resnet18_3d"]


def randomize(module: nn.Module) -> nn.Module:
    """Give running statistics and affine parameters other values than those of a new network."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if "running" in name or ("bn" in name and tensor.is_floating_point()):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module.eval()


def test_the_layers_of_two_networks_are_inflated():
    from torchvision import models

    assert sorted(SPECS) == ["resnet18_3d", "resnet50_3d"]
    assert RESNET.weights_of == "resnet18"
    assert [weights.url for weights in RESNET.weights] == [models.ResNet18_Weights.DEFAULT.url]


def test_a_volume_of_equal_slices_gets_the_activations_of_the_slice_within_the_borders():
    """Convolutions see padding along depth at the borders only, so the middle of a deep volume has none."""
    flat = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    randomize(flat)
    image = torch.rand(1, 2, 16, 16)
    with torch.inference_mode():
        expected = flat(image)
        volume = inflate(flat).eval()(image[:, :, None].expand(-1, -1, 17, -1, -1))
    torch.testing.assert_close(volume[:, :, 4], expected)


def test_the_network_has_the_weights_of_the_file_repeated_along_depth_and_divided_by_it(tmp_path):
    from torchvision import models

    flat = randomize(models.resnet18())
    torch.save(flat.state_dict(), tmp_path / "resnet18.pth")
    request = BuildRequest(num_outputs=1000, channels=3, image_size=64, dims=3, weights=tmp_path / "resnet18.pth")
    deep = RESNET.build(request).state_dict()
    for name, tensor in flat.state_dict().items():
        if tensor.ndim == 4:
            torch.testing.assert_close(deep[name].sum(dim=2), tensor)
            assert (deep[name] == deep[name][:, :, :1]).all()
        else:
            assert torch.equal(deep[name], tensor)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_a_gray_volume_gets_the_same_response_with_one_channel_and_with_all_repeated(channels):
    convolution = nn.Conv3d(3, 4, 3, bias=False)
    volume = torch.rand(1, 1, 3, 3, 3)
    expected = convolution(volume.expand(-1, 3, -1, -1, -1))
    adapt_input(convolution, channels)
    torch.testing.assert_close(convolution(volume.expand(-1, channels, -1, -1, -1)), expected, atol=1e-5, rtol=1e-4)


def test_the_spec_states_how_weights_are_derived():
    assert "repeated along depth" in RESNET.derivation
    assert "1705.07750" in RESNET.citation


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_networks_pass_the_conformance_kit(name):
    check_model(SPECS[name])
