"""Store the module of a finished run in its architecture's own keys, and build it again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arrays import Array
from zoo.data.pixels import Pixels
from zoo.errors import ResultsError, WeightsError
from zoo.models.building import build_model, feature_extractor, read_stored, spec_with_metadata
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.system.devices import open_device
from zoo.system.files import hash_file
from zoo.training.probes import join_head, linear_layer, make_estimator_head, make_vote

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.trained.card import ModelCard

WHOLE = ("finetune", "zero-shot")  # methods whose module is the architecture, without a head of its own
ARRAYS = "head.arrays."  # begins the keys of an estimator's arrays
MERGE_TOLERANCE = 1e-3  # of a logit; a merged head adds in another order
NUM_COMPARED = 8  # images


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU. Copies, because safetensors rejects tensors that share memory."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}


def merged_state(joined: nn.Module, spec: ModelSpec, build: Callable[[], nn.Module], pixels: Pixels) -> Any:
    """The state of a frozen network with a linear head, with the head as the architecture's classifier.

    None if that module would answer differently, as with a head that is not linear.
    """
    import torch
    from torch import nn

    if not spec.classifier or not isinstance(joined.head, nn.Linear):
        return None
    module = build()
    state = state_of(joined.backbone)  # type: ignore[arg-type]
    expected = module.state_dict()
    for name in spec.classifier.split(","):
        for part in ("weight", "bias"):
            value = getattr(joined.head, part).detach().cpu()
            if f"{name}.{part}" not in expected or expected[f"{name}.{part}"].numel() != value.numel():
                return None
            state[f"{name}.{part}"] = value.reshape(expected[f"{name}.{part}"].shape).clone()
    if state.keys() != expected.keys():
        return None
    module.load_state_dict(state)
    rows = torch.arange(min(NUM_COMPARED, len(pixels.images)))
    with torch.inference_mode():
        images = pixels.inputs(rows)
        own = joined.eval()(images)
        merged = module.to(images.device).eval()(images)
    return state if torch.allclose(own, merged, rtol=MERGE_TOLERANCE, atol=MERGE_TOLERANCE) else None


def rebuild(card: ModelCard, weights: Path, spec: ModelSpec, estimator: EstimatorSpec | None = None) -> nn.Module:
    """Build the module of a card and load its weights; that of a frozen network has its head apart, as in the bench.

    `estimator` is that of a card with the method "estimator".
    """
    if card.method in WHOLE:
        return load_plain(card, weights, spec)
    used = spec_with_metadata(spec) if card.inputs else spec
    if card.layout == "plain":
        module = load_plain(card, weights, spec)
        head = linear_head(module, used)
        return join_head(feature_extractor(used, module), module, head).eval()
    module, state = build_empty(card, spec), read_weights(weights)
    joined = join_head(feature_extractor(used, module), module, build_head(card, state, estimator))
    return load_state(joined, state, card, weights)


def load_plain(card: ModelCard, weights: Path, spec: ModelSpec) -> nn.Module:
    """Build the architecture of a card and load weights that have its own keys."""
    return load_state(build_empty(card, spec), read_weights(weights), card, weights)


def build_empty(card: ModelCard, spec: ModelSpec) -> nn.Module:
    """Build the architecture with random weights."""
    tag = card.weights["tag"]
    request = BuildRequest(
        labels=card.labels,
        metadata=card.coding.num_inputs if card.coding else 0,
        num_outputs=card.task_kind.head.num_outputs(len(card.labels)),
        channels=card.channels,
        image_size=card.image_size,
        tag=tag if any(each.tag == tag for each in spec.weights) else "",
        dims=card.dims,
    )
    return build_model(spec, request, stem=card.protocol_fields["stem"])


def read_weights(weights: Path) -> dict[str, Tensor]:
    if not weights.is_file():
        raise ResultsError(
            f"{weights}: the weights of this run were not kept",
            fix="name another seed, or run the bench again with --keep-weights all --fresh",
            code="no-weights",
        )
    state: dict[str, Tensor] = read_stored(weights)
    return state


def check_owner(card: ModelCard, weights: Path) -> None:
    """Raise WeightsError for the weights of another run, as their metadata say, and for weights that were changed."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as stream:
        run = (stream.metadata() or {}).get("run")
    if run != card.run:
        raise WeightsError(
            f"{weights}: the weights of run {str(run)[:8]}, but its card is of run {card.run[:8]}",
            fix="copy the files of one run again",
            code="weights-misfit",
        )
    if card.weights_sha256 and hash_file(weights) != card.weights_sha256:
        raise WeightsError(
            f"{weights}: the weights were changed since they were trained",
            fix="copy the files of the run again",
            code="weights-misfit",
        )


def load_state(module: nn.Module, state: dict[str, Tensor], card: ModelCard, weights: Path) -> nn.Module:
    """Load weights strictly. Raises WeightsError for those of another run, and if the architecture does not fit."""
    check_owner(card, weights)
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # torchvision's MNASNet needs it
    try:
        module.load_state_dict(versioned)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights}: does not fit {card.model} as installed: {str(error).splitlines()[-1].strip()}",
            fix=f"install the versions of its card: {describe_versions(card)}",
            code="weights-misfit",
        ) from error
    return module.eval()


def linear_head(module: nn.Module, spec: ModelSpec) -> nn.Module:
    """The classifier as a linear layer on features (N, D), which a frozen network computes in float32."""
    classifier = module.get_submodule(spec.classifier.split(",")[0])
    weight = classifier.weight.detach().flatten(1).double().numpy()  # type: ignore[operator, union-attr]
    return linear_layer(weight, classifier.bias.detach().double().numpy())  # type: ignore[operator, union-attr]


def describe_versions(card: ModelCard) -> str:
    return ", ".join(f"{name} {version}" for name, version in card.versions.items())


def build_head(card: ModelCard, state: dict[str, Tensor], estimator: EstimatorSpec | None) -> nn.Module:
    """The head of a joined module, with weights of the right shapes."""
    from torch import nn

    if estimator is not None:
        return restore_estimator(card, state, estimator)

    if "head.bank" in state:
        fields = card.protocol_fields
        return make_vote(
            state["head.bank"], state["head.votes"], fields["neighbors"], fields["temperature"], card.task_kind.answers
        )
    outputs, inputs = state["head.weight"].shape
    return nn.Linear(inputs, outputs)


def restore_estimator(card: ModelCard, state: dict[str, Tensor], spec: EstimatorSpec) -> nn.Module:
    """The fitted estimator of a card, from its arrays."""
    assert spec.restore is not None  # its models are kept
    arrays = {key.removeprefix(ARRAYS): value.numpy() for key, value in state.items() if key.startswith(ARRAYS)}
    predict = spec.restore(arrays)
    return make_estimator_head(spec.name, predict, arrays, task=card.task_kind, num_labels=len(card.labels))


class FeatureTap:
    """Return a module's logits and the features they are computed from, in one forward pass.

    Features are the input of the classifier (or of a joined head), averaged over positions; without a classifier, the
    spec's `features`; else None.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, method: str) -> None:
        self.module, self.spec = module, spec
        self.name = spec.classifier.split(",")[0] if method in WHOLE else "head"
        self.has_features = bool(self.name) or spec.features is not None
        self.taken: list[Tensor] = []
        self.hook = module.get_submodule(self.name).register_forward_pre_hook(self.take) if self.name else None

    def remove(self) -> None:
        if self.hook:
            self.hook.remove()

    def take(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.taken.append(inputs[0])

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, outputs) and features (B, D) of normalized images (B, C, H, W)."""
        self.taken.clear()
        logits = self.module(images).float()
        if not self.name:
            return logits, self.spec.features(self.module, images).flatten(1).float() if self.spec.features else None
        values = self.taken[0].float()
        if values.ndim >= 4:  # of images or volumes, before pooling
            values = values.flatten(2).mean(dim=2)
        elif values.ndim == 3:
            values = values.mean(dim=1)
        return logits, values


def forward_rows(tap: FeatureTap, pixels: Pixels, rows: Array, precision: str) -> tuple[Array, Array | None]:
    """Logits float64 (N, outputs) and features float32 (N, D) of some decoded images."""
    import torch

    device = open_device(pixels.device)
    logits, features = [], []
    with torch.inference_mode(), device.autocast(precision):
        for part in torch.from_numpy(rows).split(device.prediction_batch(pixels.input_bytes)):  # type: ignore[no-untyped-call]
            outputs, values = tap(pixels.inputs(part))
            logits.append(outputs.cpu())
            features += [] if values is None else [values.cpu()]
    stacked = torch.cat(features).numpy() if features else None
    return torch.cat(logits).double().numpy(), stacked
