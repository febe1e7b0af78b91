"""Maps of networks and the numbers about them, against closed forms and known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import make_predictions
from PIL import Image
from torch import nn

from zoo import BINARY, ORDINAL, SEGMENTATION, ModelSpec
from zoo.errors import RunError, UsageError
from zoo.explaining.collecting import MapCollection
from zoo.explaining.explainer import enlarge, evidence_of
from zoo.explaining.gradcam import grad_cam
from zoo.explaining.layers import check_gradient, find_layer
from zoo.explaining.locating import FolderMasks, center_map, compare_with_mask, mask_stem, point, share_inside
from zoo.explaining.numbers import MEASURED_MAPS, MIN_COMPARED, MapNumbers, Stage, compare
from zoo.explaining.randomizing import (
    compare_randomized,
    order_layers,
    rank_correlation,
    shuffled,
    structural_similarity,
)
from zoo.explaining.sampling import sample_ids_of
from zoo.explaining.subjects import find_owner
from zoo.images.formats import split_frame
from zoo.images.placement import place_in_square
from zoo.images.reading import Header
from zoo.models.building import build_model
from zoo.models.weights import find_model_spec
from zoo.registry.opening import open_registry
from zoo.report.map_statements import state_numbers
from zoo.specs.model import BuildRequest
from zoo.trained.inputs import NewImage
from zoo.trained.modules import FeatureTap

CARD = SimpleNamespace(name="dots/net", method="finetune", task_kind=BINARY)
WHOLE = place_in_square(32, 32, 32)


class Pooled(nn.Module):
    """One convolution, averaged over positions, and a linear head."""

    def __init__(self, channels=4, outputs=3):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1, stride=2)
        self.act = nn.ReLU()
        self.fc = nn.Linear(channels, outputs)

    def forward(self, images):
        return self.fc(self.act(self.conv(images)).mean(dim=(2, 3)))


def tap_of(module, classifier="fc"):
    return FeatureTap(module.eval(), ModelSpec(name="net", build=lambda _: module, classifier=classifier), "finetune")


def as_logits(logits):
    return logits


@pytest.fixture
def pooled():
    torch.manual_seed(0)
    return tap_of(Pooled())


@pytest.fixture
def images():
    return torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


# --- maps ------------------------------------------------------------------------------------------------------------
def test_grad_cam_of_a_pooled_map_is_the_class_activation_map(pooled, images):
    layer = find_layer(pooled, images, as_logits, CARD)
    maps = grad_cam(pooled, images, torch.tensor([2, 0]), as_logits, layer)
    network = pooled.module
    activations = network.act(network.conv(images)).detach()
    weights = network.fc.weight.detach()[[2, 0]]
    expected = (weights[:, :, None, None] * activations).sum(dim=1).clamp(min=0) / 64  # positions
    assert (layer.name, layer.layout, layer.grid) == ("act", "NCHW", 8)
    torch.testing.assert_close(maps, expected)


def test_grad_cam_of_volumes_is_that_of_images_along_three_axes():
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("conv", nn.Conv3d(1, 4, 2, stride=2))
    network.add_module("pool", nn.AdaptiveAvgPool3d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(4, 3))
    tap, volumes = tap_of(network), torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    layer = find_layer(tap, volumes, as_logits, CARD)
    (values,) = grad_cam(tap, volumes, torch.tensor([2]), as_logits, layer)
    weights = network.fc.weight.detach()[2]
    expected = (weights[:, None, None, None] * network.conv(volumes)[0].detach()).sum(dim=0).clamp(min=0) / 64
    assert (layer.name, layer.grid, layer.axes) == ("conv", 4, 3)
    torch.testing.assert_close(values, expected)
    assert enlarge(values[None], 8).shape == (1, 8, 8, 8)


def test_two_classes_are_explained_by_the_difference_of_their_logits():
    logits = torch.tensor([[1.0, 3.5], [0.2, -4.0]])
    expected = logits[:, [1]] - logits[:, [0]]
    torch.testing.assert_close(BINARY.answers.evidence(logits), torch.cat([-expected, expected], dim=1))


@pytest.mark.parametrize("task", [BINARY, ORDINAL])
def test_evidence_is_the_log_odds_of_the_answer(task):
    logits = torch.randn(
        6, task.head.num_outputs(2 if task is BINARY else 4), generator=torch.Generator().manual_seed(3)
    )
    logits = logits.sort(dim=1, descending=True).values  # as those of grades are
    expected = task.answers.to_log_odds(logits.double().numpy())
    np.testing.assert_allclose(task.answers.evidence(logits.double()).numpy(), expected, rtol=1e-6, atol=1e-6)


class Masked(nn.Module):
    """A U-Net of two levels: a map of 2 x 2 pixels at a time, enlarged beside the image."""

    def __init__(self):
        super().__init__()
        self.down, self.act, self.up = nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, images):
        return self.head(torch.cat([self.up(self.act(self.down(images))), images], dim=1))


def test_seg_grad_cam_is_the_bottleneck_weighted_by_its_part_in_the_logits_of_the_region(images):
    torch.manual_seed(0)
    network = Masked().eval()
    tap = FeatureTap(network, ModelSpec(name="net", build=lambda _: network, tasks=("segmentation",)), "finetune")
    decided = np.zeros((16, 16), np.uint8)
    decided[4:9, 2:5], decided[0, 0] = 2, 1
    evidence = evidence_of(SimpleNamespace(task_kind=SEGMENTATION), decided)
    layer = find_layer(tap, images[:1], evidence, SimpleNamespace(name="dots/net", task_kind=SEGMENTATION))
    (values,) = grad_cam(tap, images[:1], torch.tensor([1]), evidence, layer)
    weights = network.head.weight.detach()[2, :4, 0, 0] * 15 / 64  # pixels of label 2; positions
    expected = (weights[:, None, None] * network.act(network.down(images[:1])).detach()[0]).sum(dim=0).clamp(min=0)
    assert (layer.name, layer.grid) == ("act", 8)
    torch.testing.assert_close(values, expected)


NETWORKS = [  # size, layout, tokens before the grid, positions of a side
    ("zoo-timm:vit_tiny_patch16_224", 224, "tokens", 1, 14),
    ("zoo-timm:deit_tiny_distilled_patch16_224", 224, "tokens", 2, 14),
    ("zoo-timm:swin_tiny_patch4_window7_224", 224, "NHWC", 0, 7),
    ("zoo-timm:convnext_atto", 96, "NCHW", 0, 3),
    ("zoo-torchvision:squeezenet1_1", 96, "NCHW", 0, 5),
]
MORE_NETWORKS = [
    ("zoo-timm:vit_small_patch14_reg4_dinov2", 140, "tokens", 5, 10),
    ("zoo-timm:convit_tiny", 224, "tokens", 1, 14),
    ("zoo-timm:inception_next_atto", 96, "NCHW", 0, 3),
    ("zoo-timm:mobilenetv3_small_100", 96, "NCHW", 0, 3),
    ("zoo-torchvision:densenet121", 96, "NCHW", 0, 3),
]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "size", "layout", "prefix", "grid"),
    [
        *(pytest.param(*each, id=each[0]) for each in NETWORKS),
        *(pytest.param(*each, id=each[0], marks=pytest.mark.slow) for each in MORE_NETWORKS),
    ],
)
def test_the_last_map_of_a_network_is_found_by_one_run(name, size, layout, prefix, grid, tmp_path):
    spec = find_model_spec(name, open_registry(), tmp_path)
    module = build_model(spec, BuildRequest(num_outputs=3, channels=3, image_size=size))
    tap = tap_of(module, spec.classifier)
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    layer = find_layer(tap, image, as_logits, CARD)
    assert (layer.layout, layer.prefix, layer.grid) == (layout, prefix, grid)
    assert grad_cam(tap, image, torch.tensor([1]), as_logits, layer).shape == (1, grid, grid)


def test_a_class_token_is_recognized_where_the_network_does_not_state_it():
    from torchvision.models import VisionTransformer

    small = VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=3
    )
    nn.init.normal_(small.heads.head.weight)  # zeros at first
    layer = find_layer(tap_of(small, "heads.head"), torch.rand(1, 3, 64, 64), as_logits, CARD)
    assert (layer.name, layer.prefix, layer.grid) == ("encoder.layers.encoder_layer_1.ln_1", 1, 4)


def test_tokens_are_laid_on_the_image_row_by_row():
    class Tokens(nn.Module):
        num_prefix_tokens = 1

        def __init__(self):
            super().__init__()
            self.patches, self.norm, self.fc = nn.Unfold(4, stride=4), nn.Identity(), nn.Linear(16, 2)

        def forward(self, images):
            patches = self.patches(images).mT
            tokens = self.norm(torch.cat([torch.zeros(len(images), 1, 16), patches], dim=1))
            return self.fc(tokens[:, 1:].mean(dim=1))

    tap, image = tap_of(Tokens()), torch.zeros(1, 1, 16, 16)
    image[0, 0, 4:8, 8:12] = 1.0  # the patch in row 1, column 2
    with torch.no_grad():
        tap.module.fc.weight[:] = torch.tensor([1.0, -1.0])[:, None]
    layer = find_layer(tap, image, as_logits, CARD)
    (values,) = grad_cam(tap, image, torch.tensor([0]), as_logits, layer)
    assert values.nonzero().tolist() == [[1, 2]]


def test_a_network_without_positions_is_refused():
    flat = nn.Sequential()
    flat.add_module("flatten", nn.Flatten())
    flat.add_module("fc", nn.Linear(256, 2))
    with pytest.raises(RunError, match="no map of positions") as caught:
        find_layer(tap_of(flat), torch.rand(1, 1, 16, 16), as_logits, CARD)
    assert caught.value.code == "no-map"


def test_integrated_gradients_of_a_head_without_gradient_are_refused(pooled, images):
    with pytest.raises(RunError, match="has no gradient") as caught:
        check_gradient(pooled, images, lambda logits: logits.detach(), CARD)
    assert caught.value.code == "no-map"


# --- masks -----------------------------------------------------------------------------------------------------------
def a_mask(size=32):
    mask = np.zeros((size, size), bool)
    mask[3:9, 20:26] = True
    return mask


def test_a_map_equal_to_the_mask_points_at_it_and_lies_inside():
    location = compare_with_mask(a_mask().astype(np.float32), a_mask(), WHOLE)
    assert (location.pointing, location.mass) == (1, 1)
    assert location.center_pointing == 0 and location.center_mass < 0.05


def test_equal_maxima_count_by_their_share_inside():
    values = a_mask().astype(np.float32)
    values[0, 0:12] = 1
    assert point(values, a_mask()) == pytest.approx(36 / 48)


def test_a_map_of_zeros_is_as_good_as_chance():
    zeros = np.zeros((32, 32), np.float32)
    assert point(zeros, a_mask()) == share_inside(zeros, a_mask()) == a_mask().mean()


def test_the_center_map_is_highest_in_the_middle_of_the_image_and_zero_in_the_padding():
    placement = place_in_square(20, 40, 32)  # 16 rows in the middle of 32
    center = center_map(32, placement)
    assert not center[:8].any() and not center[24:].any()
    assert sorted(zip(*np.nonzero(center == center.max()), strict=True)) == [(15, 15), (15, 16), (16, 15), (16, 16)]
    assert center[16, 24] == pytest.approx(center[16, 16] * np.exp(-0.5 * (8.5**2 - 0.5**2) / 8**2), rel=1e-5)


# --- randomization ---------------------------------------------------------------------------------------------------
def test_layers_are_ordered_as_a_pass_enters_them(pooled, images):
    assert [name for name, _ in order_layers(pooled, images[:1])] == ["conv", "fc"]


def test_shuffled_weights_come_back(pooled):
    layers = [pooled.module.conv, pooled.module.fc]
    before = [layer.weight.detach().clone() for layer in layers]
    with shuffled(layers):
        assert all(not torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True))
        assert all(
            torch.equal(layer.weight.flatten().sort().values, old.flatten().sort().values)
            for layer, old in zip(layers, before, strict=True)
        )
    assert all(torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True))


def test_an_edge_detector_survives_randomization_and_is_flagged(pooled, images):
    """Adebayo et al. 2018, section 5: a map that does not depend on the network."""
    edges = np.abs(np.diff(images.numpy()[:, 0], axis=1, append=0))
    num_layers, similarities = compare_randomized(pooled, images[:1], edges, lambda: edges)
    assert num_layers == 2 and [each.layers for each in similarities] == [1, 2]
    assert all(np.allclose(each.spearman, 1) and np.allclose(each.ssim, 1) for each in similarities)
    last = similarities[-1]
    stage = Stage(layers=2, last=last.last, spearman=last.spearman.mean(), low=None, high=None, ssim=1.0)
    statements = state_numbers(MapNumbers(maps=MIN_COMPARED, empty=0, num_layers=2, stages=(stage,)), 8)
    assert any("survive randomization" in each for each in statements)


def test_grad_cam_changes_with_the_head(pooled, images):
    layer = find_layer(pooled, images, as_logits, CARD)

    def explain():
        return grad_cam(pooled, images, torch.tensor([0, 1]), as_logits, layer).numpy()

    _, similarities = compare_randomized(pooled, images[:1], explain(), explain)
    assert similarities[0].last == "fc" and similarities[0].spearman.max() < 0.99


def test_rank_correlation_is_that_of_scipy_and_0_for_an_empty_map():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    first, second = random.random((2, 9, 9)).round(1)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert rank_correlation(first, np.zeros((9, 9))) == 0


def test_structural_similarity_is_1_of_equal_maps_and_lower_of_others():
    random = np.random.default_rng(0)
    first, second = random.random((2, 24, 24))
    assert structural_similarity(first, 5 * first) == pytest.approx(1)
    assert structural_similarity(first, second) < 0.5


def test_alpha_of_a_gray_mask_is_not_inside(tmp_path):
    levels = Image.fromarray(a_mask().astype(np.uint8) * 255)
    Image.merge("LA", (levels, Image.new("L", levels.size, 255))).save(tmp_path / "scan.png")
    np.testing.assert_array_equal(FolderMasks(tmp_path)("scan.dcm", 0, WHOLE), a_mask())


def test_each_frame_has_its_own_mask():
    assert (mask_stem("a/scan7.dcm"), mask_stem("a/clip3.dcm#12")) == ("scan7", "clip3-12")


def test_a_mask_that_fits_two_images_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    masks = FolderMasks(tmp_path)
    masks.check(["a/1.png", "a/2.png", "b/2.png"])
    with pytest.raises(UsageError, match="2 images have the mask"):
        masks.check(["a/1.png", "b/1.png"])


# --- verdicts --------------------------------------------------------------------------------------------------------
def owners(count):
    return np.array([f"p{number}" for number in range(count)])


def test_maps_beat_the_center_only_if_the_interval_of_the_difference_is_above_0():
    random, count = np.random.default_rng(0), 20
    center = random.random(count)
    assert compare(center + 0.2 + 0.05 * random.random(count), center, owners(count)).beats_center is True
    assert compare(center + random.normal(0, 0.3, count), center, owners(count)).beats_center is False
    assert compare(center - 0.2, center, owners(count), sign=-1).beats_center is True
    assert compare(center[:5] + 0.2, center[:5], owners(5)).beats_center is None


def test_empty_maps_do_not_count_as_changed_by_randomization():
    stage = Stage(layers=2, last="conv", spearman=0.0, low=None, high=None, ssim=1.0)
    assert MapNumbers(maps=20, empty=0, stages=(stage,)).survives is False
    assert MapNumbers(maps=20, empty=20, stages=(stage,)).survives is None


def test_refused_images_do_not_take_the_place_of_measured_ones():
    collected = MapCollection(2 * MEASURED_MAPS, lambda name: name)
    explanation = SimpleNamespace(output=SimpleNamespace(column=0), map=np.zeros((2, 2)), location=None)
    for number in range(2 * MEASURED_MAPS):
        square = None if number % 2 == 0 else np.zeros((2, 2, 1))
        answer = SimpleNamespace(name=str(number))
        explained = {"answer": answer, "square": square, "placement": WHOLE, "mask": None}
        collected.add(SimpleNamespace(**explained, explanations=[explanation]))
    assert len(collected.measured) == MEASURED_MAPS // 2


def test_images_of_one_patient_are_one():
    """Twenty copies of one patient's difference say nothing about other patients."""
    assert compare(np.ones(20), np.zeros(20), np.array(["p"] * 20)).beats_center is None


def test_equal_numbers_do_not_beat_the_center():
    comparison = compare(np.zeros(20), np.zeros(20), owners(20))
    assert comparison.beats_center is False
    statements = state_numbers(MapNumbers(maps=20, empty=3, comparisons={"pointing": comparison}), 2)
    assert statements[0].startswith("The maps do not beat the center of the image")
    assert "3 of 20 maps are empty" in statements[1] and "2 positions to a side" in statements[2]


def test_without_masks_it_is_said_that_nothing_was_tested():
    assert state_numbers(MapNumbers(maps=0, empty=0), 7) == [
        "No masks: whether the maps show the findings was not tested."
    ]


# --- patients --------------------------------------------------------------------------------------------------------
def owner_of(name, rule, **tags):
    header = Header(width=8, height=8, channels=1, tags=tags) if tags else None
    return find_owner(NewImage(name=name, file=split_frame(name)[0], header=header), rule)


@pytest.mark.parametrize(
    ("name", "rule", "tags", "patient"),
    [
        ("p9/new/p3_1.png", {"regex": r"(p\d+)"}, {}, "p3"),
        ("new/p3/1.png", {"regex": r"^([^/]+)/"}, {}, "p3"),
        ("new/1.dcm", {"regex": r"(p\d+)"}, {"PatientID": "7"}, "7"),
        ("new/1.dcm", {"tag": "StudyInstanceUID"}, {"PatientID": "7", "StudyInstanceUID": "1.2"}, "1.2"),
        ("new/clip.dcm#3", {}, {"Modality": "US"}, "new/clip.dcm"),
    ],
)
def test_the_patient_of_a_new_image_is_by_the_rule_of_training_then_by_tag_then_its_file(name, rule, tags, patient):
    assert owner_of(name, rule, **tags) == patient


# --- samples ---------------------------------------------------------------------------------------------------------
def test_the_sample_takes_every_patient_before_a_second_image_and_does_not_depend_on_the_order():
    ids = [f"s{number}" for number in range(12)]
    patients = [f"p{number // 3}" for number in range(12)]
    test = make_predictions([0, 1] * 6, np.linspace(0.1, 0.9, 12), ids=ids, patients=patients)
    chosen = sample_ids_of(test, 6)
    owner = dict(zip(ids, patients, strict=True))
    assert sorted(owner[name] for name in chosen[:4]) == ["p0", "p1", "p2", "p3"]
    assert sample_ids_of(test.take(np.arange(12)[::-1]), 6).tolist() == chosen.tolist()
