"""Build the module of a model spec for a dataset."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import RunError, WeightsError
from zoo.registry.isolation import network_refused
from zoo.specs.model import BuildRequest, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
from zoo.models.adapting import (
    adapt_first_conv,
    fold_inputs,
    repeat_gray,
    replace_head,
    submodule,
    takes_repeated_gray,
    use_small_stem,
)


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
