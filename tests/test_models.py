"""Building models: heads, first convolutions, stems, weights and features."""

import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from zoo.errors import RunError, UsageError, WeightsError
from zoo.models.adapting import adapt_first_conv
from zoo.models.baselines import CONSTANT, THUMBNAILS
from zoo.models.building import (
    build_model,
    count_flops,
    count_parameters,
    feature_extractor,
    has_batch_norm,
    layer_groups,
    load_weights,
    read_state,
)
from zoo.models.layout import in_contiguous, in_float32_where_needed, place
from zoo.specs.model import BuildRequest, ModelSpec


class Tiny(nn.Module):
    """A small ResNet: a stem with max-pooling, a norm, a pooled linear head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(self.maxpool(self.norm(self.conv(images)).relu()).mean(dim=(2, 3)))


class Squeeze(nn.Module):
    """Like SqueezeNet: a head of a 1x1 convolution before the pooling, and a reshape by `num_classes`."""

    def __init__(self):
        super().__init__()
        self.num_classes = 10
        self.conv = nn.Conv2d(3, 6, 3)
        self.classifier = nn.Sequential(nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.classifier(self.conv(images)).reshape(len(images), self.num_classes)


def build_tiny(request):
    module = Tiny()
    if request.weights:
        load_weights(module, request.weights)
    return module


TINY = ModelSpec(name="tiny", build=build_tiny, classifier="fc", first_conv="conv")
SQUEEZE = ModelSpec(name="squeeze", build=lambda _: Squeeze(), classifier="classifier.0", first_conv="conv")
NO_FIRST_CONV = replace(TINY, first_conv="")


def build(spec, *, channels=3, num_outputs=4, size=16, weights=None, **options):
    request = BuildRequest(num_outputs=num_outputs, channels=channels, image_size=size, weights=weights)
    return build_model(spec, request, **options)


def images(count=2, channels=3, size=16, seed=0):
    return torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pretrained(tmp_path):
    """A weights file, and the module it was saved from."""
    torch.manual_seed(7)
    module = Tiny().eval()
    torch.save(module.state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth", module


# --- the first convolution -------------------------------------------------------------------------------------------
def test_a_gray_image_gives_the_output_of_the_repeated_image(pretrained):
    path, original = pretrained
    gray = build(TINY, channels=1, weights=path).eval()
    original.fc = gray.fc
    torch.testing.assert_close(gray(images(channels=1)), original(images(channels=1).expand(-1, 3, -1, -1)))


def test_one_channel_sums_the_weights_of_three(pretrained):
    path, original = pretrained
    torch.testing.assert_close(build(TINY, channels=1, weights=path).conv.weight, original.conv.weight.sum(1, True))


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weights in every forward, like timm's StdConv2d and ScaledStdConv2d."""

    def forward(self, batch):
        spread, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(batch, (self.weight - mean) / spread, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_convolution_that_standardizes_its_weights_keeps_them(channels):
    module = Tiny()
    module.conv = Standardized(3, 8, 3, padding=1)
    weight = module.conv.weight.detach().clone()
    batch = images(channels=channels)
    order = list(range(channels)) if channels > 1 else [0, 0, 0]
    folded = torch.zeros(2, 3, *batch.shape[2:])
    for position, channel in enumerate(order):
        folded[:, position % 3] += batch[:, channel] * 3 / len(order)
    expected = module.conv(folded)
    adapt_first_conv(module, "conv", channels)
    torch.testing.assert_close(module.conv(batch), expected)
    torch.testing.assert_close(module.conv.weight, weight)


class StandardizedByParent(Tiny):
    """A module that standardizes the weights of its first convolution in its own forward."""

    def forward(self, images):
        spread, mean = torch.std_mean(self.conv.weight, dim=(1, 2, 3), keepdim=True)
        weight = (self.conv.weight - mean) / spread
        return self.fc(nn.functional.conv2d(images, weight, stride=2, padding=3).relu().mean(dim=(2, 3)))


class WithImage(Tiny):
    """A module that uses its input a second time, beside the first convolution."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(11, 10)

    def forward(self, images):
        return self.fc(torch.cat([self.conv(images).mean(dim=(2, 3)), images.mean(dim=(2, 3))], dim=1))


def with_reparametrized_conv(reparametrize):
    module = Tiny()
    reparametrize(module.conv)
    return module


UNUSUAL_STEMS = {
    "weight_norm": lambda: with_reparametrized_conv(nn.utils.parametrizations.weight_norm),
    "spectral_norm": lambda: with_reparametrized_conv(nn.utils.parametrizations.spectral_norm),
    "old weight_norm": lambda: with_reparametrized_conv(nn.utils.weight_norm),
    "old spectral_norm": lambda: with_reparametrized_conv(nn.utils.spectral_norm),
    "by parent": StandardizedByParent,
    "with image": WithImage,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", UNUSUAL_STEMS)
@pytest.mark.parametrize("channels", [1, 6])
def test_weights_that_are_computed_elsewhere_are_kept_and_the_images_mapped(name, channels):
    spec = replace(TINY, build=lambda _: UNUSUAL_STEMS[name]())
    original, adapted = build(spec, channels=3).eval(), build(spec, channels=channels).eval()
    batch = images(channels=1)
    with torch.no_grad():
        for parameter in (*original.fc.parameters(), *adapted.fc.parameters()):
            parameter.fill_(0.1)
        expected = original(batch.expand(-1, 3, -1, -1))
        torch.testing.assert_close(adapted(batch.expand(-1, channels, -1, -1)), expected)


def test_features_of_a_module_whose_images_are_mapped_take_gray_images():
    spec = replace(
        TINY,
        build=lambda _: StandardizedByParent(),
        features=lambda module, batch: batch.mean(dim=(2, 3)) + 0 * module.fc.bias[0],
    )
    module = build(spec, channels=1).eval()
    assert feature_extractor(spec, module)(images(channels=1)).shape == (2, 3)


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_more_channels_repeat_the_weights_and_keep_their_scale(pretrained, channels):
    path, original = pretrained
    adapted = build(TINY, channels=channels, weights=path).conv
    assert adapted.in_channels == channels
    for channel in range(channels):
        expected = original.conv.weight[:, channel % 3] * 3 / channels
        torch.testing.assert_close(adapted.weight[:, channel], expected)


def test_six_channels_of_a_repeated_image_give_the_output_of_the_image(pretrained):
    path, original = pretrained
    six = build(TINY, channels=6, weights=path).eval()
    original.fc = six.fc
    torch.testing.assert_close(six(images().repeat(1, 2, 1, 1)), original(images()))


def test_a_constant_image_gives_the_same_output_for_any_number_of_channels(pretrained):
    path, original = pretrained
    for channels in (1, 2, 3, 5):
        conv = build(TINY, channels=channels, weights=path).conv
        inner = conv(torch.full((1, channels, 16, 16), 0.7))[..., 3:-3, 3:-3]
        if channels in (1, 3):
            torch.testing.assert_close(inner, original.conv(torch.full((1, 3, 16, 16), 0.7))[..., 3:-3, 3:-3])
        assert inner.std(dim=(2, 3)).max() < 1e-5


def test_the_models_own_channels_leave_the_first_convolution_unchanged(pretrained):
    path, original = pretrained
    assert torch.equal(build(TINY, channels=3, weights=path).conv.weight, original.conv.weight)


def test_several_first_convolutions_are_all_adapted():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), nn.Linear(4, 5)

        def forward(self, images):
            return self.fc(torch.cat([self.one(images), self.two(images)], dim=1).mean(dim=(2, 3)))

    spec = ModelSpec(name="parallel", build=lambda _: Parallel(), classifier="fc", first_conv="one,two")
    module = build(spec, channels=1)
    assert (module.one.in_channels, module.two.in_channels) == (1, 1)


def test_the_first_convolution_must_be_a_convolution():
    with pytest.raises(RunError, match="first convolution 'fc' is a Linear"):
        build(replace(TINY, first_conv="fc"), channels=1)


def test_without_a_first_convolution_gray_images_are_repeated(pretrained):
    path, original = pretrained
    gray = build(NO_FIRST_CONV, channels=1, weights=path).eval()
    original.fc = gray.fc
    torch.testing.assert_close(gray(images(channels=1)), original(images(channels=1).expand(-1, 3, -1, -1)))


def test_repeating_gray_images_keeps_the_names_of_submodules():
    own = replace(NO_FIRST_CONV, layer_groups=lambda m: [[m.conv.weight], [*m.norm.parameters(), *m.fc.parameters()]])
    module = build(own, channels=1)
    assert set(module.state_dict()) == set(Tiny().state_dict())
    assert [len(group) for group in layer_groups(own, module)] == [1, 4]


# --- the head --------------------------------------------------------------------------------------------------------
def test_a_new_head_is_drawn_from_a_narrow_normal_with_zero_bias():
    wide = replace(TINY, build=lambda _: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), classifier="1", first_conv="")
    head = build(wide, num_outputs=200, head_std=0.02)[1]
    assert head.weight.shape == (200, 768)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert head.weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert not head.bias.any()


def test_a_convolutional_head_is_replaced_and_num_classes_updated():
    module = build(SQUEEZE)
    assert module.classifier[0].weight.shape == (4, 6, 1, 1)
    assert module.num_classes == 4
    assert module(images()).shape == (2, 4)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Softmax(dim=1), nn.Tanh()], ids=repr)
def test_activations_after_a_new_head_are_removed(activation):
    """The ReLU of SqueezeNet is removed: after it no multi-label probability would be below 0.5."""

    def build_bounded(_):
        module = Squeeze()
        module.classifier.insert(1, activation)
        return module

    module = build(replace(SQUEEZE, build=build_bounded)).eval()
    for bias in (-9.0, 9.0):
        nn.init.constant_(module.classifier[0].bias, bias)
        torch.testing.assert_close(module(images()), torch.full((2, 4), bias), atol=0.5, rtol=0)


def test_activations_before_a_head_or_outside_its_sequential_are_kept():
    build_long = lambda _: nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 10))  # noqa: E731
    module = build(ModelSpec(name="long", build=build_long, classifier="3"))
    assert isinstance(module[2], nn.ReLU)


def test_several_heads_are_all_replaced():
    class Distilled(Tiny):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(8, 10)

        def forward(self, images):
            pooled = self.norm(self.conv(images)).mean(dim=(2, 3))
            return (self.fc(pooled) + self.other(pooled)) / 2

    module = build(replace(TINY, build=lambda _: Distilled(), classifier="fc,other"))
    assert (module.fc.out_features, module.other.out_features) == (4, 4)


def test_the_head_must_be_a_linear_layer_or_convolution():
    with pytest.raises(RunError, match="classifier 'norm' is a BatchNorm2d; expected a linear layer or a 1x1"):
        build(replace(TINY, classifier="norm"))


def test_initialization_depends_only_on_the_seed():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = build(TINY, seed=1)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(99)
    again, other = build(TINY, seed=1), build(TINY, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(one.conv.weight, other.conv.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)


def test_a_model_with_a_wrong_output_shape_is_refused_before_training():
    spec = ModelSpec(name="odd", build=lambda _: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    with pytest.raises(RunError, match=r"model 'odd' returned \(2, 3\), expected a tensor of shape \(2, 4\)"):
        build(spec)
    with pytest.raises(RunError, match="returned tuple"):
        build(replace(spec, build=lambda _: Two()))


class Two(nn.Module):
    def forward(self, images):
        return images, images


def test_checking_the_output_does_not_change_a_model():
    module = build(TINY)
    assert module.training
    assert torch.equal(module.norm.running_mean, torch.zeros(8))


# --- the small stem --------------------------------------------------------------------------------------------------
def test_a_small_stem_keeps_28_pixels():
    module = build(TINY, size=28, stem="small")
    assert (module.conv.kernel_size, module.conv.stride, module.conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(module.maxpool, nn.Identity)
    assert module.conv(images(size=28)).shape == (2, 8, 28, 28)


def test_a_small_stem_accepts_gray_images():
    assert build(TINY, channels=1, stem="small").conv.weight.shape == (8, 1, 3, 3)


@pytest.mark.parametrize("spec", [SQUEEZE, NO_FIRST_CONV], ids=["no max-pooling", "no first convolution"])
def test_a_small_stem_is_refused_without_a_resnet_stem(spec):
    with pytest.raises(UsageError, match="no ResNet stem"):
        build(spec, stem="small")


# --- weights ---------------------------------------------------------------------------------------------------------
def test_weights_come_from_either_kind_of_file(tmp_path):
    state = Tiny().state_dict()
    torch.save(state, tmp_path / "a.pth")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        module = Tiny()
        load_weights(module, tmp_path / name)
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["state_dict", "model", "DataParallel", "both"],
)
def test_weights_are_read_from_common_checkpoint_keys(tmp_path, wrap):
    state = Tiny().state_dict()
    torch.save(wrap(state), tmp_path / "a.pth")
    assert set(read_state(tmp_path / "a.pth")) == set(state)


def test_misfitting_weights_report_the_first_three_keys_and_count_the_rest(tmp_path):
    state = Tiny().state_dict()
    del state["conv.weight"], state["norm.bias"]
    state |= {"extra": torch.zeros(1), "fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "a.pth")
    expected = "a.pth: does not fit Tiny: missing conv.weight; missing norm.bias; unknown extra and 1 more"
    with pytest.raises(WeightsError, match=re.escape(expected)):
        load_weights(Tiny(), tmp_path / "a.pth")


def test_a_wrong_shape_is_reported_with_the_expected_one(tmp_path):
    torch.save(Tiny().state_dict() | {"fc.bias": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"Tiny: fc\.bias has shape \(3,\), expected \(10,\)"):
        build(TINY, weights=tmp_path / "a.pth")


def test_old_names_can_be_converted(tmp_path):
    torch.save({f"old.{key}": value for key, value in Tiny().state_dict().items()}, tmp_path / "a.pth")
    load_weights(
        Tiny(), tmp_path / "a.pth", convert=lambda state: {k.removeprefix("old."): v for k, v in state.items()}
    )
    with pytest.raises(WeightsError, match=r"missing conv\.weight"):
        load_weights(Tiny(), tmp_path / "a.pth")


class Bomb:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_with_code_or_without_content_is_refused_unexecuted(tmp_path, name, capsys):
    torch.save({"weight": Bomb()}, tmp_path / name)
    with pytest.raises(WeightsError, match=re.escape(f"{name}: cannot be read as weights")):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match=re.escape(f"{name}: cannot be read as weights")):
        read_state(tmp_path / name)
    assert capsys.readouterr().out == ""


FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["torch 1.6 and newer", "older torch"])


@FORMATS
def test_a_module_that_was_saved_whole_is_read_where_its_model_allows_it(tmp_path, is_zip):
    saved, path = Tiny(), tmp_path / "whole.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError) as caught:
        load_weights(Tiny(), path)
    assert caught.value.code == "weights-unreadable"
    module = Tiny()
    load_weights(module, path, whole=True)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in module.state_dict().items())


@FORMATS
@pytest.mark.parametrize("part", [Bomb(), Squeeze()], ids=["code", "class of another network"])
def test_a_module_with_other_classes_is_refused_unexecuted(tmp_path, is_zip, part, capsys):
    saved = Tiny()
    saved.extra = part
    torch.save(saved, tmp_path / "whole.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_weights(Tiny(), tmp_path / "whole.pt", whole=True)
    assert capsys.readouterr().out == ""


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not a dictionary of tensors"):
        read_state(tmp_path / "a.pth")


# --- parts and sizes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", [TINY, NO_FIRST_CONV], ids=["first_conv", "repeated"])
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_the_input_of_the_head(spec, channels):
    module = build(spec, channels=channels).eval()
    batch = images(channels=channels)
    logits, head = module(batch), module.fc
    features = feature_extractor(spec, module)(batch)
    assert features.shape == (2, 8)
    torch.testing.assert_close(head(features), logits)


def test_features_of_a_convolutional_head_are_pooled():
    module = build(SQUEEZE).eval()
    expected = module.conv(images()).mean(dim=(2, 3))
    torch.testing.assert_close(feature_extractor(SQUEEZE, module)(images()), expected)


def test_a_plugins_own_features_get_repeated_gray_images():
    spec = replace(NO_FIRST_CONV, features=lambda module, batch: module.norm(module.conv(batch)))
    module = build(spec, channels=1).eval()
    gray = images(channels=1)
    expected = module.norm(module.conv(gray.expand(-1, 3, -1, -1))).flatten(1)
    torch.testing.assert_close(feature_extractor(spec, module)(gray), expected)


def test_a_model_without_classifier_and_features_cannot_be_probed():
    with pytest.raises(RunError, match="'tiny' has no features"):
        feature_extractor(replace(TINY, classifier=""), Tiny())


def test_batch_norm_is_detected_in_any_submodule():
    assert has_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(2))))
    assert not has_batch_norm(nn.Sequential(nn.LayerNorm(2), nn.GroupNorm(1, 2)))


def test_parameters_and_operations_are_counted():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 36, 5))
    assert count_parameters(module) == 3 * 8 * 9 + 8 + 8 * 36 * 5 + 5
    # a multiply-add is two operations; torch's counter omits biases
    assert count_flops(module, (1, 3, 6, 6)) == 2 * (36 * 8 * 3 * 9 + 8 * 36 * 5)
    assert module.training


def test_depthwise_convolutions_stay_in_float32_under_cpu_autocast():
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8))
    module[1].forward = in_float32_where_needed(module[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        between = module[0](images(channels=4))
        outputs = module[1](between)
    assert (between.dtype, outputs.dtype) == (torch.bfloat16, torch.float32)
    expected = nn.functional.conv2d(between.float(), module[1].weight, module[1].bias, groups=8)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "sides"),
    [
        (nn.Conv3d, 3, 1, (2, 2, 2)),
        (nn.Conv3d, 3, 1, (4, 4, 4)),
        (nn.Conv3d, 3, 2, (3, 2, 1)),
        (nn.Conv3d, 5, 1, (4, 4, 4)),
        (nn.Conv2d, 3, 2, (4, 1)),
        (nn.Conv2d, 3, 1, (2, 2)),
    ],
)
def test_gradients_of_weights_in_bf16_are_those_in_float32(kind, kernel, stride, sides):
    """On CPUs with AVX512_BF16 but without AMX, oneDNN leaves some unwritten."""
    torch.manual_seed(0)
    module = kind(16, 16, kernel, stride, padding=kernel // 2)
    given, gradients = torch.randn(4, 16, *sides).bfloat16().float(), []
    with torch.no_grad():
        module.weight.copy_(module.weight.bfloat16())
    for precision in ("fp32", "bf16"):
        placed = place(module, "cpu", precision, image_size=64)
        _ = [torch.full((1 << size,), 1e30, dtype=torch.bfloat16) for size in range(10, 20)]  # what is left in memory
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = placed(given)
        gradients.append(torch.autograd.grad(outputs.float().sum(), module.weight)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0.02 * float(gradients[0].abs().max()))


def test_depthwise_convolutions_outside_channels_last_give_the_same_outputs():
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8)).to(memory_format=torch.channels_last)
    given = images(channels=4).contiguous(memory_format=torch.channels_last)
    expected, state = module(given), {name: value.clone() for name, value in module.state_dict().items()}
    module[1].forward = in_contiguous(module[1])
    outputs = module(given)
    torch.testing.assert_close(outputs, expected)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert module[1].weight.stride() == (9, 9, 3, 1)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    outputs.sum().backward()
    assert module[1].weight.grad.abs().sum() > 0


# --- the baselines ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("spec", [CONSTANT, THUMBNAILS], ids=lambda spec: spec.name)
def test_a_baseline_accepts_gray_and_color(spec, channels):
    module = build(spec, channels=channels)
    assert module(images(channels=channels)).shape == (2, 4)
    features = feature_extractor(spec, module)(images(channels=channels))
    assert features.shape == (2, {"constant": 1, "thumbnails": channels * 64}[spec.name])


def test_thumbnails_are_means_over_a_grid_and_the_constant_ignores_the_image():
    constant, thumbnails = (feature_extractor(spec, build(spec, channels=1)) for spec in (CONSTANT, THUMBNAILS))
    batch = images(channels=1)
    torch.testing.assert_close(thumbnails(batch)[:, 9], batch[:, 0, 2:4, 2:4].mean(dim=(1, 2)))
    assert not constant(batch).any()
