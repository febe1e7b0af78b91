"""`zoo export --to onnx` of many families of architectures: onnxruntime gives the logits of torch."""

import json

import numpy as np
import pytest

from zoo.models.building import build_model
from zoo.models.identity import nearest_size
from zoo.registry.opening import open_registry
from zoo.specs.model import BuildRequest
from zoo.specs.protocol import SCRATCH, resolved_fields
from zoo.trained.card import ModelCard
from zoo.trained.exporting import export_model
from zoo.trained.modules import FeatureTap, load_plain, state_of
from zoo.trained.opening import OpenModel

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.integration

# perf: `test_onnx_gives_torchs_logits` of mobilenetv3_small_050 takes 15 s of CPU, of squeezenet1_1 5 s;
# tests/test_export.py exports a residual network
FAMILIES = (
    "zoo-timm:convnext_atto",
    "zoo-timm:densenet121",
    "zoo-timm:dla46_c",
    "zoo-timm:edgenext_xx_small",
    "zoo-timm:efficientnet_b0",
    "zoo-timm:ghostnet_050",
    "zoo-timm:lcnet_050",
    "zoo-timm:maxvit_rmlp_pico_rw_256",
    "zoo-timm:mnasnet_small",
    "zoo-timm:mobilenetv3_small_050",
    "zoo-timm:mobilevit_xxs",
    "zoo-timm:regnetx_002",
    "zoo-timm:repvgg_a0",
    "zoo-timm:swin_tiny_patch4_window7_224",
    "zoo-timm:vit_tiny_patch16_224",
    "zoo-torchvision:googlenet",
    "zoo-torchvision:inception_v3",
    "zoo-torchvision:mnasnet0_5",
    "zoo-torchvision:shufflenet_v2_x0_5",
    "zoo-torchvision:vgg11",
)


@pytest.fixture(scope="module")
def registry():
    return open_registry()


def open_random(name, registry, folder):
    """A model as it is opened after a bench: random weights, statistics of its normalization layers from images."""
    from safetensors.torch import save_file

    spec = registry.find("model", name)
    # at 75 px, torch itself differs by .002 between batches of 1 and 8: one position is left to normalize by
    size = nearest_size(spec, 139 if "inception" in name else 64)
    request = BuildRequest(num_outputs=3, channels=3, image_size=size)
    module = build_model(spec, request, head_std=0.1, seed=0)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the statistics of the images, so that activations keep their scale
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    with torch.no_grad():
        module.train()(torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 128 - 1)
    card = make_card(name, size)
    save_file(state_of(module), folder / "model.safetensors", {"run": card.run})
    module = load_plain(card, folder / "model.safetensors", spec)
    return OpenModel(
        transforms=(),
        estimator=None,
        card=card,
        spec=spec,
        folder=folder,
        module=module,
        tap=FeatureTap(module, spec, "finetune"),
        device="cpu",
        reference=None,
        val=None,
        images=images,
    )


def make_card(name, size):
    return ModelCard(
        run="0" * 64,
        model=name,
        shown=name.partition(":")[2],
        network="",
        protocol="scratch",
        method="finetune",
        protocol_fields=resolved_fields(SCRATCH),
        seed=0,
        fold=0,
        layout="plain",
        task="multiclass",
        labels=("a", "b", "c"),
        positive=None,
        unit="image",
        image_size=size,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        intensity=(0.0, 255.0),
        target_scale=(0.0, 1.0),
        precision="fp32",
        reading={},
        seen={"dtype": "uint8"},
        thresholds=None,
        cuts=None,
        temperature=None,
        temperature_missing=None,
        outside=None,
        dataset={"name": "random"},
        val_score=None,
        scores={},
        versions={},
        weights={"init": "random", "tag": ""},
    )


@pytest.mark.slow  # test_export.py has two networks
@pytest.mark.parametrize("name", ["zoo-torchvision:squeezenet1_1", *FAMILIES])
def test_onnx_gives_torchs_logits(name, registry, tmp_path):
    model = open_random(name, registry, tmp_path)
    parity = export_model(model, "onnx", tmp_path / "out")
    assert parity.largest_difference <= 1e-3
    assert parity.flipped_decisions == 0
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["batches"] == [1, 2, 5]
