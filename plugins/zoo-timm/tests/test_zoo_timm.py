"""Tests of the plugin's index, models and weights files."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from costs import cost_ratio

from zoo import BuildRequest, ModelSpec, WeightsError
from zoo_timm import read_index, register_models

SPECS = {spec.name: spec for spec in register_models() if spec.name != "hf-hub"}
SHARED_WEIGHTS = Path(__file__).resolve().parents[4] / "shared" / "weights"

# The lightest architecture of the families people use most, and one of each kind of head, stem and size rule.
SAMPLE = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_tiny", "convnext_atto", "crossvit_tiny_240",
    "davit_tiny", "deit_tiny_distilled_patch16_224", "densenet121", "dla46_c", "dpn48b", "edgenext_xx_small",
    "efficientformer_l1", "efficientnet_b0", "efficientvit_b0", "eva02_tiny_patch14_224", "fastvit_t8",
    "focalnet_tiny_srf", "ghostnet_050", "hrnet_w18_small", "inception_v3", "lcnet_035", "levit_128s",
    "maxvit_tiny_tf_224", "mixer_s32_224", "mobilenetv3_small_050", "mobilevit_xxs", "mvitv2_tiny", "nfnet_l0",
    "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnetx_002", "repvit_m0_9", "resnet18", "resnetv2_50x1_bit",
    "rexnet_100", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "tf_efficientnet_lite0", "tiny_vit_5m_224",
    "tresnet_m", "vgg11", "vit_small_patch14_dinov2", "vit_tiny_patch16_224", "volo_d1_224", "xcit_nano_12_p8_224",
)  # fmt: skip
QUICK = {"convnext_atto", "deit_tiny_distilled_patch16_224", "efficientnet_b0", "levit_128s", "resnet18",
         "swin_tiny_patch4_window7_224"}  # fmt: skip
LIGHT = {"convnext_atto", "levit_128s", "resnet18"}  # the unit tests: .1 s for each architecture and claim


def by_cost(names: Iterable[str]) -> list[object]:
    """The names as parameters: all but the quick ones are marked slow, and all but the light ones integration."""
    kept = {name: () if name in LIGHT else pytest.mark.integration for name in QUICK}
    return [pytest.param(name, marks=kept.get(name, pytest.mark.slow)) for name in names]


FAMILIES = by_cost(SAMPLE)
# One architecture of every family: of SAMPLE where there is one, else one whose name says that it is small.
SMALL = re.compile(r"atto|femto|pico|nano|xx_?small|xxs|tiny|_t\d?_|_s\d*_|small|lite0|_0\d\d|18|26|s12|b0|8xt|_1")
BY_FAMILY = {family: [name for name, spec in SPECS.items() if spec.family == family] for family in
             sorted({spec.family for spec in SPECS.values()})}  # fmt: skip


def smallest(names: list[str]) -> str:
    return min(names, key=lambda name: (name not in SAMPLE, not SMALL.search(name), len(name), name))


MADE_AGAIN = ("resnet18", "deit_tiny_distilled_patch16_224", "fastvit_t8")  # the slow test makes all again


def build(spec: ModelSpec, size: int = 0, weights: Path | None = None, tag: str = "", num_outputs: int = 2):
    request = BuildRequest(
        num_outputs=num_outputs, channels=3, image_size=size or spec.image_size, weights=weights, tag=tag
    )
    return spec.build(request)


def nearest_size(spec: ModelSpec, wanted: int) -> int:
    if spec.fixed_size:
        return spec.image_size
    return max(-(-wanted // spec.size_multiple) * spec.size_multiple, spec.min_image_size)


def build_without_numbers(spec: ModelSpec, size: int = 0):
    import torch

    with torch.device("meta"):
        return build(spec, size)


@cache  # perf: several tests look at the same module without changing it
def module_without_numbers(name: str):
    return build_without_numbers(SPECS[name]).eval()


# --- the index -------------------------------------------------------------------------------------------------------
def skip_unless_made_from(installed: str) -> None:
    if read_index()["timm"] != installed:
        pytest.skip(f"the index is of timm {read_index()['timm']}, installed is {installed}")


def entries(index: dict) -> dict:
    """The rows of an index with the places in its tables looked up, so that two indices can be compared."""
    return {
        name: (
            index["families"][family],
            index["layouts"][layout],
            index["sizes"][size],
            has_features,
            [[tag, index["settings"][setting], *source] for tag, setting, *source in weights],
        )
        for name, (family, layout, size, has_features, weights) in index["models"].items()
    }


def test_the_index_names_every_architecture_and_tag_of_timm_that_can_classify():
    import timm

    skip_unless_made_from(timm.__version__)
    missing = set(timm.list_models()) - set(SPECS)
    assert set(SPECS) <= set(timm.list_models())
    # Encoders of language models: no head, and no place for one.
    assert all(name.endswith("_enc") for name in missing)
    tags = {f"{name}.{weight.tag}" for name, spec in SPECS.items() for weight in spec.weights if weight.tag}
    theirs = {full for full in timm.list_models(pretrained=True) if full.partition(".")[0] not in missing}
    assert {full for full in theirs if "." in full} == tags


@pytest.mark.integration
def test_entries_of_the_index_are_reproducible():
    import timm

    from zoo_timm.make_index import make_index

    skip_unless_made_from(timm.__version__)
    again = entries(json.loads(json.dumps(make_index(MADE_AGAIN))))
    known = entries(read_index())
    assert again == {name: known[name] for name in MADE_AGAIN}


@pytest.mark.slow
def test_the_whole_index_is_reproducible():
    import timm

    from zoo_timm.make_index import make_index

    skip_unless_made_from(timm.__version__)
    assert json.loads(json.dumps(make_index())) == read_index()


@pytest.mark.integration
def test_listing_imports_neither_torch_nor_timm():
    code = (
        "import sys, zoo_timm as plugin; assert len(plugin.register_models()) > 1200;"
        "print([name for name in ('torch', 'timm', 'pandas', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.integration
def test_registering_every_model_costs_little_more_than_reading_the_index():
    assert cost_ratio(register_models, read_index, rounds=5) < 30  # 9 when measured


def test_the_default_tag_is_timms_and_its_settings_are_the_registrys():
    import timm

    weights = SPECS["resnet18"].weights[0]
    config = timm.get_pretrained_cfg("resnet18")
    assert (weights.tag, weights.mean, weights.std) == (config.tag, config.mean, config.std)
    assert weights.image_size == config.input_size[-1]
    assert weights.url == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert weights.license == "Apache-2.0"


@pytest.mark.parametrize(
    ("model", "tag", "datasets"),
    [
        ("resnet18", "a1_in1k", ("imagenet-1k",)),
        ("vit_small_patch14_dinov2", "lvd142m", ("lvd-142m",)),
        ("convnext_tiny", "in12k_ft_in1k", ("imagenet-12k", "imagenet-1k")),
        ("resnet50", "fb_swsl_ig1b_ft_in1k", ("instagram-1b", "imagenet-1k")),
        ("vit_base_patch16_clip_224", "laion2b_ft_in12k_in1k", ("laion-2b", "imagenet-12k", "imagenet-1k")),
    ],
)
def test_pretraining_data_are_listed_in_the_order_of_training(model, tag, datasets):
    assert next(weight for weight in SPECS[model].weights if weight.tag == tag).pretraining == datasets


def test_weights_come_from_the_mirror_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
    spec = next(spec for spec in register_models() if spec.name == "resnet18")
    assert spec.weights[0].url == "https://mirror.example/hub/timm/resnet18.a1_in1k/resolve/main/model.safetensors"


def test_specs_can_be_sent_to_another_process():
    spec = pickle.loads(pickle.dumps(SPECS["resnet18"]))
    assert spec.weights == SPECS["resnet18"].weights
    assert sum(parameter.numel() for parameter in build(spec).parameters()) == 11_689_512  # as torchvision's resnet18


# --- the models ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_an_architecture_accepts_the_sizes_that_its_spec_declares(name):
    import torch

    spec = SPECS[name]
    for size in {nearest_size(spec, wanted) for wanted in (64, 224)}:
        module = build_without_numbers(spec, size).eval()
        assert module(torch.zeros(2, 3, size, size, device="meta")).shape == (2, module.num_classes)


@pytest.fixture(scope="module", params=by_cost(dict.fromkeys((*SAMPLE, *map(smallest, BY_FAMILY.values())))))
def adapted(request):
    from architectures import Adapted

    spec = SPECS[request.param]
    return Adapted(spec, nearest_size(spec, 64))


def test_the_core_adapts_an_architecture_to_gray_images_and_two_labels(adapted):
    assert deepcopy(adapted.gray).train()(adapted.images).shape == (2, 2)


def test_a_gray_image_and_its_rgb_copy_have_equal_logits(adapted):
    adapted.check_equal_logits_of_gray_and_color()


def test_outputs_of_a_new_head_follow_its_bias(adapted):
    adapted.check_outputs_follow_the_bias_of_the_head()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_heads_and_first_convolutions_are_where_the_index_says(name):
    from torch import nn

    spec, module = SPECS[name], module_without_numbers(name)
    heads = [module.get_submodule(head) for head in spec.classifier.split(",")]
    assert all(isinstance(head, nn.Linear | nn.Conv2d) for head in heads)
    if name != "tresnet_m":  # its images are folded to 48 channels first
        assert all(module.get_submodule(conv).in_channels == 3 for conv in spec.first_conv.split(","))


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_groups_contain_every_parameter_once_and_end_with_the_heads(name):
    from architectures import check_layer_groups

    check_layer_groups(SPECS[name], module_without_numbers(name))


def test_frozen_parameters_are_in_no_layer_group():
    module = build_without_numbers(SPECS["resnet18"])
    module.conv1.weight.requires_grad_(False)
    groups = SPECS["resnet18"].layer_groups(module)
    assert id(module.conv1.weight) not in {id(parameter) for group in groups for parameter in group}


@pytest.mark.parametrize("name", FAMILIES)
def test_features_have_one_row_per_image(name):
    import torch

    spec, module = SPECS[name], module_without_numbers(name)
    found = spec.features(module, torch.zeros(2, 3, spec.image_size, spec.image_size, device="meta"))
    assert found.ndim == 2
    assert found.shape[0] == 2


def test_features_are_the_input_of_the_classifier():
    import torch

    module = build(SPECS["resnet18"]).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = SPECS["resnet18"].features(module, images)
        torch.testing.assert_close(module.fc(found), module(images))


def test_weights_without_a_head_get_one_with_the_requested_outputs():
    module = build(SPECS["vit_small_patch14_dinov2"], 42, num_outputs=7)
    assert module.head.weight.shape == (7, 384)


def check_architecture(spec: ModelSpec) -> None:
    """Fail unless the model accepts a new head and returns features, at a small size."""
    import torch

    from zoo.models.adapting import replace_head

    assert spec.classifier
    size = nearest_size(spec, 64)
    images = torch.zeros(2, 3, size, size, device="meta")
    module = build_without_numbers(spec, size).eval()
    if spec.features:
        assert spec.features(module, images).ndim == 2
    with torch.device("meta"):
        for head in spec.classifier.split(","):
            replace_head(module, head, 3, 0.01)
    assert module(images).shape == (2, 3)
    flat = [id(parameter) for group in spec.layer_groups(module) for parameter in group]
    assert len(flat) == len(set(flat)) == len(list(module.parameters()))


# perf: one test per family, as every process of pytest collects every test: one per architecture costs each 2 s
@pytest.mark.slow
@pytest.mark.parametrize("family", BY_FAMILY)
def test_every_architecture_accepts_a_new_head_and_returns_features_at_a_small_size(family):
    faults = {}
    for name in BY_FAMILY[family]:
        try:
            check_architecture(SPECS[name])
        except Exception as error:
            faults[name] = repr(error)
    assert not faults


# --- weights ---------------------------------------------------------------------------------------------------------
def test_the_real_efficientnet_file_loads_strictly():
    import torch

    path = SHARED_WEIGHTS / "tf_efficientnet_lite0.pth"
    if not path.is_file():
        pytest.skip("tf_efficientnet_lite0.pth is not on this machine")
    module = build(SPECS["tf_efficientnet_lite0"], weights=path)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items() if key in state)
    assert {key for key in module.state_dict() if key not in state} <= {
        key for key in module.state_dict() if key.endswith("num_batches_tracked")
    }


@pytest.mark.integration
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet34", r"missing layer1\.2\.conv1\.weight; missing [\w.]+; missing [\w.]+ and \d+ more"),
        ("dla46_c", r"missing base_layer\.0\.weight; missing [\w.]+; missing [\w.]+ and \d+ more"),
        ("vit_tiny_patch16_224", r"missing cls_token; missing pos_embed; missing [\w.]+ and \d+ more"),
    ],
)
def test_a_file_of_another_architecture_is_an_error_that_names_three_keys(tmp_path, suffix, name, expected):
    path = tmp_path / f"resnet18{suffix}"
    save(build(SPECS["resnet18"]), path)
    with pytest.raises(WeightsError, match=expected):
        build(SPECS[name], weights=path)


def save(module, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = module.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def test_a_head_of_another_number_of_classes_is_an_error(tmp_path):
    module = build(SPECS["test_resnet"])
    module.reset_classifier(10)
    save(module, tmp_path / "test_resnet.pth")
    with pytest.raises(WeightsError, match=r"fc\.weight has shape \(10, \d+\), expected \(1000, \d+\)"):
        build(SPECS["test_resnet"], weights=tmp_path / "test_resnet.pth")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_without_weights_is_an_error(tmp_path, content, suffix):
    path = tmp_path / f"test_resnet{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"test_resnet.*cannot be read as weights"):
        build(SPECS["test_resnet"], weights=path)


def test_code_in_a_weights_file_is_not_executed(tmp_path):
    import torch

    witness = tmp_path / "witness"
    torch.save({"fc.weight": Payload(str(witness))}, tmp_path / "test_resnet.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        build(SPECS["test_resnet"], weights=tmp_path / "test_resnet.pth")
    assert not witness.exists()


class Payload:
    """What unpickling would execute: creating a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(("name", "size"), [("test_vit", 64), ("test_vit2", 96), *(
    pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("swin_tiny_patch4_window7_224", 96), ("vit_tiny_patch16_224", 64), ("xcit_nano_12_p8_224", 64)])])  # fmt: skip
def test_weights_are_fitted_to_another_image_size(tmp_path, name, size):
    import torch

    pristine = build(SPECS[name])
    save(pristine, tmp_path / f"{name}.pth")
    module = build(SPECS[name], size, tmp_path / f"{name}.pth").eval()
    with torch.no_grad():
        assert module(torch.rand(2, 3, size, size)).shape == (2, 1000)
    same = [key for key, value in pristine.state_dict().items() if value.shape == module.state_dict()[key].shape]
    assert len(same) > len(pristine.state_dict()) / 2
    learnt = [key for key in same if key in dict(pristine.named_parameters())]
    assert all(torch.equal(pristine.state_dict()[key], module.state_dict()[key]) for key in learnt)


def test_a_tag_of_another_number_of_classes_loads_with_its_own_head(tmp_path):
    import timm

    path = tmp_path / "tiny_vit.pth"
    save(timm.create_model("tiny_vit_5m_224.dist_in22k"), path)
    assert build(SPECS["tiny_vit_5m_224"], weights=path, tag="dist_in22k").head.fc.out_features == 21_841


@pytest.mark.slow
def test_an_architecture_without_weights_loads_a_file_without_requests_to_the_hub(tmp_path, monkeypatch):
    import torch

    # timm's entry point would download the weights of the ResNet-26 inside.
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_url", lambda *args, **kwargs: pytest.fail("network"))
    name = "vit_small_resnet26d_224"
    pristine = build(SPECS[name])
    save(pristine, tmp_path / f"{name}.pth")
    loaded = build(SPECS[name], weights=tmp_path / f"{name}.pth")
    assert torch.equal(loaded.head.weight, pristine.head.weight)


def test_building_leaves_timms_logging_as_it_was(tmp_path):
    import logging

    logger = logging.getLogger("timm.models._builder")
    before = (logger.level, logger.propagate, list(logger.handlers))
    save(build(SPECS["test_resnet"]), tmp_path / "test_resnet.pth")
    build(SPECS["test_resnet"], weights=tmp_path / "test_resnet.pth")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
