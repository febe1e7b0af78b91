"""U-Nets: their maps, their outputs, and the weights of their encoders."""

from dataclasses import replace

import pytest
import torch

from zoo import BuildRequest, ZooError
from zoo.models.trials import Trial, find_unread, try_weights
from zoo.registry.opening import open_registry
from zoo.testing import check_model
from zoo.training.loop import describe_hooks, python_state
from zoo_segmentation import register_models
from zoo_segmentation.blocks import enlarge
from zoo_segmentation.encoders import encoder_first, find_maps

SPECS = {spec.name: spec for spec in register_models()}
ENCODERS = (
    "resnet18",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "densenet121",
    "vgg11",
    "squeezenet1_0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "mobilevit_xxs",
    "googlenet",
    "shufflenet_v2_x0_5",
)


def build(name, size=64, outputs=3):
    spec = SPECS[name]
    return spec.build(BuildRequest(num_outputs=outputs, channels=spec.channels, image_size=size)).eval()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ENCODERS[:3] else pytest.mark.slow) for n in ENCODERS]
)
def test_any_convolutional_encoder_gives_logits_for_every_pixel(name):
    module = build(f"unet-{name}")
    with torch.inference_mode():
        assert module(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64)
        assert module(torch.rand(1, 3, 96, 96)).shape == (1, 3, 96, 96)


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 128, 299])
def test_maps_without_padding_have_the_level_of_their_size(size):
    module = build("unet-inception_v3", size=size)
    with torch.inference_mode():
        assert module(torch.rand(1, 3, size, size)).shape == (1, 3, size, size)


def test_nothing_in_a_network_keeps_a_gpu_from_capturing_its_steps():
    module = build("unet-resnet18").train()
    before = python_state(module)
    module(torch.rand(2, 3, 64, 64))
    assert describe_hooks(module) == "" and python_state(module) == before


def test_the_maps_are_the_last_of_each_size():
    from timm import create_model

    maps = find_maps(create_model("resnet18"), torch.zeros(2, 3, 64, 64))
    assert list(maps.values()) == [64, 64, 128, 256, 512]
    assert list(maps)[1:] == ["layer1", "layer2", "layer3", "layer4"]


def test_the_classifier_is_no_part_of_the_network():
    with torch.device("meta"):
        names = [name for name, _ in build("unet-vgg11").encoder.named_parameters()]
    assert names and not any("classifier" in name or "fc" in name for name in names)


def test_every_parameter_of_the_decoder_learns():
    module = build("unet-resnet18").train()
    module(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_the_decoder_has_its_own_learning_rate():
    module = build("unet-resnet18")
    encoder, decoder = encoder_first(module)
    assert len(encoder) + len(decoder) == len(list(module.parameters()))
    assert {id(p) for p in encoder} == {id(p) for p in module.encoder.parameters()}


def test_a_network_without_maps_is_refused():
    with pytest.raises(ZooError, match="maps of 1 sizes"):
        build("unet-vit_tiny_patch16_224")


def test_enlarged_maps_beside_others_have_the_gradient_of_bilinear_interpolation():
    """And one with its own strides, for which torch is faster."""
    maps = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    skip = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 12, 8, 8).contiguous(memory_format=torch.channels_last)
    enlarged = enlarge(maps, skip)
    arriving = []
    enlarged.register_hook(arriving.append)
    (torch.cat([enlarged, skip], dim=1) * weights).sum().backward()
    assert arriving[0].is_contiguous(memory_format=torch.channels_last)
    plain = maps.detach().clone().requires_grad_()
    reference = torch.nn.functional.interpolate(plain, (8, 8), mode="bilinear", align_corners=False)
    (torch.cat([reference, skip], dim=1) * weights).sum().backward()
    assert torch.equal(maps.grad, plain.grad)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["unet2d", "unet3d", "unet-resnet18"])
def test_the_networks_pass_the_conformance_kit(name):
    check_model(SPECS[name])


def test_the_smallest_volume_has_logits_in_training_and_in_prediction():
    size = SPECS["unet3d"].min_image_size
    module = SPECS["unet3d"].build(BuildRequest(num_outputs=2, channels=1, image_size=size, dims=3))
    for is_training in (True, False):
        logits = module.train(is_training)(torch.zeros(1, 1, size, size, size))
        assert logits.shape == (1, 2, size, size, size)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["resnet18", pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow)])
def test_a_bench_accepts_a_file_that_sets_the_whole_encoder_and_nothing_else(tmp_path, name):
    """The core builds a network with two files before it trains, to see what each sets."""
    spec, path = SPECS[f"unet-{name}"], tmp_path / f"{name}.pth"
    assert (spec.weights_of, spec.weights_part) == (name, "encoder")
    encoder = (
        open_registry().find("model", spec.weights_of).build(BuildRequest(num_outputs=1000, channels=3, image_size=64))
    )
    torch.save(encoder.state_dict(), path)
    request = BuildRequest(num_outputs=2, channels=3, image_size=64, weights=path, tag=spec.weights[0].tag)
    trial = Trial(model=spec.name, spec=spec, path=path, request=request, folder=tmp_path)
    reports = []
    try_weights(trial, reports.append)
    assert reports == [{"fits": True}]
    whole = replace(spec, weights_part="")
    assert all(not name.startswith("encoder.") for name in find_unread(replace(trial, spec=whole)))
