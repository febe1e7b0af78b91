"""TorchXRayVision's chest X-ray DenseNet-121 for zoo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import BuildRequest, ModelSpec, Weights, hookimpl, load_weights

if TYPE_CHECKING:
    from torch import nn

RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
# Gray levels of 0 to 1 become -1024 to 1024: 2048 * (x - 0.5).
MEAN, STD = (0.5,), (1 / 2048,)
NUM_PATHOLOGIES = 18
NIH, PADCHEST, CHEXPERT, MIMIC = "chestx-ray14", "padchest", "chexpert", "mimic-cxr"
# What the weights were trained on. The images of the RSNA challenge and of Google's labels are those of ChestX-ray14.
PRETRAINING = {
    "all": (NIH, PADCHEST, CHEXPERT, MIMIC, "openi"),
    "nih": (NIH,),
    "pc": (PADCHEST,),
    "chex": (CHEXPERT,),
    "rsna": (NIH,),
    "mimic_nb": (MIMIC,),
    "mimic_ch": (MIMIC,),
}
# How the name of the file begins.
FILES = {"all": "nih-pc-chex-mimic_ch-google-openi-kaggle", "rsna": "kaggle"}


def build(request: BuildRequest) -> nn.Module:
    """Build the network with its 18 outputs and load its weights; zoo replaces the head and the first convolution."""
    from torchxrayvision.models import DenseNet

    module: nn.Module = DenseNet(num_classes=NUM_PATHOLOGIES, in_channels=1)
    if request.weights:
        load_weights(module, request.weights, whole=True)
    return module


def describe_weights(tag: str) -> Weights:
    """The record of one set of weights."""
    file = f"{FILES.get(tag, tag)}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    return Weights(
        tag=tag,
        url=RELEASE + file,
        file_names=(file,),
        mean=MEAN,
        std=STD,
        license="Apache-2.0 (the library)",
        pretraining=PRETRAINING[tag],
    )


@hookimpl
def register_models() -> list[ModelSpec]:
    """The models of this plugin."""
    return [
        ModelSpec(
            name="xrv-densenet121",
            title="DenseNet-121 (TorchXRayVision)",
            family="densenet",
            build=build,
            image_size=224,
            min_image_size=32,
            channels=1,
            mean=MEAN,
            std=STD,
            weights=tuple(map(describe_weights, PRETRAINING)),
            license="Apache-2.0",
            citation="Cohen et al., TorchXRayVision, MIDL 2022",
            version=1,
            imports=("torchxrayvision.models",),
            classifier="classifier",
            first_conv="features.conv0",
            code="from torchxrayvision.models import DenseNet\n\n"
            "model = DenseNet(num_classes={num_outputs}, in_channels={channels})",
        )
    ]
