"""Build the module of a model spec for a dataset: load weights, replace the head, adapt the first convolution."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.devices import device_kind
from zoo.errors import RunError, UsageError, WeightsError
from zoo.specs import BuildRequest, ModelSpec
from zoo.system import network_refused

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_model(
    spec: ModelSpec,
    *,
    num_outputs: int,
    channels: int,
    image_size: int,
    weights: Path | None = None,
    tag: str = "",
    stem: str = "own",
    head_std: float = 0.01,
    seed: int = 0,
) -> nn.Module:
    """Build `spec` for `num_outputs` and `channels`; everything random in it follows from `seed` alone.

    The new head is drawn from normal(0, head_std) with zero bias for every model: timm's EfficientNet head costs .25
    AUROC on the quickstart data. Raises WeightsError where the weights do not fit, RunError where the module's output
    has not the shape (N, num_outputs).
    """
    request = BuildRequest(num_outputs=num_outputs, channels=channels, image_size=image_size, weights=weights, tag=tag)
    with seeded(seed):
        module = call_build(spec, request)
        if stem == "small":
            use_small_stem(module, spec)
        if spec.first_conv and channels != spec.channels:
            for name in spec.first_conv.split(","):
                adapt_first_conv(module, name, channels)
        if spec.classifier:
            for name in spec.classifier.split(","):
                replace_head(module, name, num_outputs, head_std)
    if takes_repeated_gray(spec, channels):
        module.register_forward_pre_hook(partial(repeat_gray, channels=spec.channels))
    check_precision(module, spec)
    check_output(module, spec, (2, channels, image_size, image_size), num_outputs)
    return module


def call_build(spec: ModelSpec, request: BuildRequest) -> nn.Module:
    """Call a plugin's `build`. RunError where it contacts the network, seeds torch or returns no module.

    What it downloaded would be in no record, and under a seed of its own all seeds start from one initialization.
    """
    import torch

    seed, module = torch.initial_seed(), None
    with network_refused() as hosts, noted_seeds() as seeds:
        try:
            module = spec.build(request)
        except Exception:
            if not hosts:
                raise
    if hosts:
        raise RunError(
            f"model {spec.name!r}: its plugin's build contacts {hosts[0]}",
            fix="have the plugin download in `fetch_weights`",
            code="build-downloads",
        )
    if seeds or torch.initial_seed() != seed:
        raise RunError(
            f"model {spec.name!r}: its plugin's build seeds torch, so that different seeds start alike",
            fix="remove `torch.manual_seed` from the plugin: zoo seeds every build",
            code="build-seeds",
        )
    if not isinstance(module, torch.nn.Module):
        raise RunError(
            f"model {spec.name!r}: its plugin's build returns {type(module).__name__}, expected a torch.nn.Module",
            fix="return the module",
            code="wrong-output",
        )
    return module


@contextmanager
def noted_seeds() -> Iterator[list[Any]]:
    """List the seeds that `torch.manual_seed` is given inside the block, under a fork of the generator too."""
    import torch

    seeds: list[Any] = []
    own = torch.random.manual_seed

    def note(seed: Any) -> torch.Generator:
        seeds.append(seed)
        return own(seed)

    torch.manual_seed = torch.random.manual_seed = note
    try:
        yield seeds
    finally:
        torch.manual_seed = torch.random.manual_seed = own


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's global generator follow `seed` inside the block, and leave it as it was afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def submodule(module: nn.Module, name: str) -> tuple[nn.Module, str, nn.Module]:
    """Return the parent, the attribute and the submodule a dotted `name` denotes."""
    parent_name, _, attribute = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    return parent, attribute, getattr(parent, attribute)


def replace_head(module: nn.Module, name: str, num_outputs: int, std: float) -> None:
    """Put a fresh layer of `num_outputs` where the pretrained classifier was: linear, or a 1x1 convolution.

    What bounded the old one's outputs goes with it: losses take logits, of either sign.
    """
    from torch import nn

    parent, attribute, old = submodule(module, name)
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_outputs)
    elif isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_outputs, kernel_size=1)
    else:
        raise RunError(f"classifier {name!r} is a {type(old).__name__}; expected a linear layer or a 1x1 convolution")
    nn.init.normal_(new.weight, std=std)
    nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    setattr(parent, attribute, new)
    drop_activations(parent, attribute)
    for owner in (module, parent):  # timm and squeezenet read the number of classes back when they reshape
        if hasattr(owner, "num_classes"):
            owner.num_classes = num_outputs  # type: ignore[assignment]


def drop_activations(parent: nn.Module, attribute: str) -> None:
    """Take out the activations that follow a head in its Sequential: SqueezeNet has a ReLU there.

    Behind it no logit is negative, so that no probability of a multi-label set is below .5, and a logit that is zero
    for every image never learns again. Features are the same without it.
    """
    from torch import nn

    if not isinstance(parent, nn.Sequential):
        return
    names = [name for name, _ in parent.named_children()]
    for name in names[names.index(attribute) + 1 :]:
        if type(getattr(parent, name)).__module__ == nn.ReLU.__module__:  # torch's own, from ReLU to LogSoftmax
            setattr(parent, name, nn.Identity())


def adapt_first_conv(module: nn.Module, name: str, channels: int) -> None:
    """Make the first convolution take `channels`, keeping what it responds to.

    For one channel its weights are summed over the old ones, so that a gray image gives what the same image repeated
    over the old channels gave; for more they are repeated in turn and scaled by old / new, which keeps the response
    to a constant image. A convolution that does something else with its weights than to apply them (one that
    standardizes them in every forward, as in NFNet and BiT) keeps them, and its input is mapped to the old channels.
    """
    import torch
    from torch import nn

    parent, attribute, old = submodule(module, name)
    if not isinstance(old, nn.Conv2d):
        raise RunError(f"first convolution {name!r} is a {type(old).__name__}; expected a 2-d convolution")
    weight = old.weight.detach()
    if channels == 1:
        adapted = weight.sum(dim=1, keepdim=True)
    else:
        order = torch.arange(channels) % weight.shape[1]
        adapted = weight[:, order] * (weight.shape[1] / channels)
    # Changed in place: some networks subclass Conv2d for their padding ("same").
    kept, old_channels = old.weight, old.in_channels
    images = torch.rand(2, channels, *probe_size(old), generator=torch.Generator().manual_seed(0)).to(kept)
    expected = respond(old, fold_channels(images, old_channels))
    old.in_channels = channels
    old.weight = nn.Parameter(adapted.contiguous())
    if not torch.allclose(respond(old, images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        old.in_channels, old.weight = old_channels, kept
        old.register_forward_pre_hook(partial(fold_inputs, channels=old_channels))
    for owner in (module, parent):
        if hasattr(owner, "in_chans"):
            owner.in_chans = channels  # type: ignore[assignment]
    setattr(parent, attribute, old)


def probe_size(convolution: nn.Conv2d) -> tuple[int, int]:
    """Height and width of an image on which a convolution has several outputs, borders among them."""
    height, width = (2 * d * (k - 1) + 2 * s + 1 for k, s, d in zip(*window(convolution), strict=True))
    return height, width


def window(convolution: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return convolution.kernel_size, convolution.stride, convolution.dilation


def respond(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """The outputs for some images; nothing that a forward may keep is changed."""
    import torch

    was_training = convolution.training
    with torch.no_grad():
        outputs: Tensor = convolution.eval()(images)
    convolution.train(was_training)
    return outputs


def fold_channels(images: Tensor, channels: int) -> Tensor:
    """Images (N, n, H, W) as ones of `channels`: what weights repeated in turn and scaled by channels / n see of them.

    One channel is repeated. Of several, channel c is added to c mod `channels`, times channels / n.
    """
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    import torch

    order = torch.arange(images.shape[1], device=images.device) % channels
    shape = (len(images), channels, *images.shape[2:])
    folded = torch.zeros(shape, dtype=images.dtype, device=images.device).index_add(1, order, images)
    return folded * (channels / images.shape[1])


def fold_inputs(module: nn.Module, inputs: tuple[Tensor], *, channels: int) -> tuple[Tensor]:  # noqa: ARG001
    """A forward pre-hook of a convolution whose weights must stay as they are."""
    return (fold_channels(inputs[0], channels),)


def use_small_stem(module: nn.Module, spec: ModelSpec) -> None:
    """Give a ResNet the CIFAR stem: a 3x3 stride-1 first convolution, no max-pooling (He et al. 2016, section 4.2)."""
    from torch import nn

    if not spec.first_conv or not isinstance(getattr(module, "maxpool", None), nn.Module):
        raise UsageError(f"model {spec.name!r} has no ResNet stem to make small", fix="--set stem=own", code="stem")
    parent, attribute, old = submodule(module, spec.first_conv)
    if not isinstance(old, nn.Conv2d):
        raise UsageError(f"model {spec.name!r} has no ResNet stem to make small", fix="--set stem=own", code="stem")
    new = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(parent, attribute, new)
    module.maxpool = nn.Identity()


def takes_repeated_gray(spec: ModelSpec, channels: int) -> bool:
    """Whether gray images are repeated, because the model has no first convolution that could take them."""
    return channels == 1 and spec.channels != 1 and not spec.first_conv and bool(spec.classifier)


def repeat_gray(module: nn.Module, inputs: tuple[Tensor], *, channels: int) -> tuple[Tensor]:  # noqa: ARG001
    """A forward pre-hook; a module around it would hide the names that `classifier` and `layer_groups` rely on."""
    return (inputs[0].expand(-1, channels, -1, -1),)


PURE_HOOKS = (repeat_gray, fold_inputs)  # zoo's own, which do nothing that a captured step would leave out


def check_precision(module: nn.Module, spec: ModelSpec) -> None:
    """RunError where a parameter is not float32, from which autocast makes the precision of a run."""
    import torch

    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise RunError(
                f"model {spec.name!r}: {name} is {str(parameter.dtype).removeprefix('torch.')}, expected float32",
                fix="have the plugin's build return a float32 module; --set precision=bf16 trains it in less",
                code="wrong-precision",
            )


def check_output(module: nn.Module, spec: ModelSpec, shape: tuple[int, ...], num_outputs: int) -> None:
    """Try the module once on a small batch, so that a wrong shape is found before the first step."""
    import torch

    was_training = module.training
    with torch.inference_mode():
        outputs = module.eval()(torch.zeros(shape))
    module.train(was_training)
    found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if found != (shape[0], num_outputs):
        raise RunError(
            f"model {spec.name!r} returned {found}, expected one tensor {(shape[0], num_outputs)}",
            fix="have the module's forward return its logits alone",
            code="wrong-output",
        )


# --- weights ---------------------------------------------------------------------------------------------------------
def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or `.pth` file; nothing in it is executed (`weights_only=True`)."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own errors, and all of them mean the same here
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(error, pickle.UnpicklingError):  # torch's own text says how to execute it all the same
            reason = "it holds more than tensors, or is no pickle; nothing in it was executed"
        raise WeightsError(
            f"{path}: cannot be read as weights: {reason}",
            fix="bring the file again, or save `module.state_dict()` alone",
            code="weights-unreadable",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            f"{path}: holds no table of tensors", fix="save `module.state_dict()`", code="weights-unreadable"
        )
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Load a state dict strictly; a WeightsError lists the first three keys that are missing, unknown or misshapen."""
    state = read_state(path)
    if convert:
        state = convert(state)
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"unknown {key}" for key in state if key not in own]
    wrong += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{path.name} does not fit {type(module).__name__}: {'; '.join(wrong[:3])}{more}",
            fix="give the file made for this architecture, or --weights none",
            code="weights-misfit",
        )
    module.load_state_dict(state)


# --- parts of a module -----------------------------------------------------------------------------------------------
def layer_groups(spec: ModelSpec, module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters from stem to head; one group where the plugin does not say."""
    if spec.layer_groups:
        return [group for group in spec.layer_groups(module) if group]
    return [list(module.parameters())]


def has_batch_norm(module: nn.Module) -> bool:
    from torch import nn

    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def feature_extractor(spec: ModelSpec, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Images to features (N, D): the plugin's own, or the module with its classifier taken off."""
    from torch import nn

    if spec.features:
        features, gray = spec.features, takes_repeated_gray(spec, 1)  # which the hook on forward does not see to

        def extract(images: Tensor) -> Tensor:
            repeated = images.expand(-1, spec.channels, -1, -1) if gray and images.shape[1] == 1 else images
            return features(module, repeated).flatten(1)

        return extract
    if not spec.classifier:
        raise RunError(
            f"model {spec.name!r} names no classifier and no features: it cannot be probed frozen",
            fix="give its spec `classifier` or `features`, or choose a protocol that trains it",
        )
    for name in spec.classifier.split(","):
        parent, attribute, old = submodule(module, name)
        # A convolutional head is followed by pooling over the channels it was given.
        setattr(parent, attribute, nn.Identity())
        if isinstance(old, nn.Conv2d) and hasattr(module, "num_classes"):
            module.num_classes = old.in_channels  # type: ignore[assignment]
    return lambda images: module(images).flatten(1)


SMALL_IMAGE = 128  # pixels a side; see `place`


def place(module: nn.Module, device: str, precision: str, image_size: int) -> nn.Module:
    """Move a module to a device, in the layout that is fastest there, with the exceptions that pay.

    CPU: depthwise convolutions stay in float32 under bf16 autocast, where oneDNN is slower (mobilenet .8x). CUDA:
    depthwise convolutions of small images leave channels_last, for which cuDNN compiles kernels in every process:
    efficientnet_b0 on an H200 begins after 1 s instead of 17 s and takes 5.1 ms a step of 32 images at 64 px instead
    of 6.4; at 224 px it would take 18.8 ms instead of 9.4.
    """
    import torch

    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = device_kind(device)
    if kind == "cpu" and precision == "bf16":
        wrap_depthwise(module, in_float32)
    elif kind == "cuda" and image_size <= SMALL_IMAGE:
        wrap_depthwise(module, in_contiguous)
    return module


Forward = Callable[["Tensor"], "Tensor"]


def wrap_depthwise(module: nn.Module, wrap: Callable[[nn.Conv2d], Forward]) -> None:
    """Replace the forward of every depthwise convolution."""
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1 and part.groups == part.in_channels:
            part.forward = wrap(part)  # type: ignore[method-assign, assignment]


def in_float32(part: nn.Conv2d) -> Forward:
    import torch

    own = part.forward

    def forward(images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return own(images.float())

    return forward


def in_contiguous(part: nn.Conv2d) -> Forward:
    import torch

    own = part.forward
    with torch.no_grad():  # strides that say contiguous: to torch, (C, 1, k, k) in channels_last is both
        part.weight.set_(torch.empty(part.weight.shape, device=part.weight.device).copy_(part.weight))  # type: ignore[call-overload]

    def forward(images: Tensor) -> Tensor:
        return own(images.contiguous()).contiguous(memory_format=torch.channels_last)

    return forward


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Floating-point operations of one forward pass of one image: multiply-adds counted twice (torch's counter)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(torch.zeros((1, *shape[1:])))
    module.train(was_training)
    return int(counter.get_total_flops()) or None
