"""Build the module of a model spec for a dataset."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import RunError, WeightsError
from zoo.models.adapting import (
    adapt_channels,
    fold_inputs,
    replace_head,
    submodule,
    takes_repeated_gray,
    use_small_stem,
)
from zoo.models.identity import nearest_size
from zoo.registry.isolation import network_refused
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.tasks.kinds import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_model(
    spec: ModelSpec, request: BuildRequest, *, stem: str = "own", head_std: float = 0.01, seed: int = 0
) -> nn.Module:
    """Build `spec` for the requested outputs and channels; its random initialization depends only on `seed`.

    The new head of every model is drawn from normal(0, head_std) with zero bias: timm's EfficientNet head costs 0.25
    AUROC on the quickstart data. Raises WeightsError if the weights do not fit, and RunError if the module's output
    does not have the shape (N, num_outputs).
    """
    num_outputs, channels, image_size = request.num_outputs, request.channels, request.image_size
    with seeded(seed):
        module = call_build(spec, request)
        if stem == "small":
            use_small_stem(module, spec)
        if spec.first_conv and channels != spec.channels:
            with downloads_refused(spec, "forward"):
                adapt_channels(module, spec, channels, image_size)
        if spec.classifier:
            for name in spec.classifier.split(","):
                replace_head(module, name, num_outputs, head_std)
    if takes_repeated_gray(spec, channels):
        module.register_forward_pre_hook(partial(fold_inputs, channels=spec.channels))
    check_precision(module, spec)
    with downloads_refused(spec, "forward"):
        check_output(module, spec, request)
    return module


def call_build(spec: ModelSpec, request: BuildRequest) -> nn.Module:
    """Call a plugin's `build`. Raises RunError if it contacts the network, seeds torch or does not return a module.

    Downloads would not be recorded, and with its own seed all runs would start from the same initialization.
    """
    import torch

    seed = torch.initial_seed()
    with downloads_refused(spec, "build"), noted_seeds() as seeds:
        module = spec.build(request)
    if seeds or torch.initial_seed() != seed:
        raise RunError(
            f"model {spec.name!r}: its plugin's `build` seeds torch, so all seeds have the same initialization",
            fix="remove `torch.manual_seed` from the plugin: zoo seeds every build",
            code="build-seeds",
        )
    if not isinstance(module, torch.nn.Module):
        raise RunError(
            f"model {spec.name!r}: its plugin's `build` returns {type(module).__name__}, expected a torch.nn.Module",
            fix="make the plugin return the module",
            code="wrong-output",
        )
    return module


@contextmanager
def downloads_refused(spec: ModelSpec, function: str) -> Iterator[None]:
    """Refuse network connections in the block, and raise RunError if a plugin's `function` attempts one.

    Programs that a plugin starts, and threads that connect after the block, are not detected.
    """
    with network_refused() as hosts:
        try:
            yield
        except Exception:
            if not hosts:
                raise
    if hosts:
        raise RunError(
            f"model {spec.name!r}: its plugin's `{function}` contacts {hosts[0]}",
            fix="make the plugin download in `fetch_weights`",
            code="build-downloads",
        )


@contextmanager
def noted_seeds() -> Iterator[list[Any]]:
    """Yield a list of the seeds passed to `torch.manual_seed` in the block, even if the generator is forked."""
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
    """Seed torch's global generator for the block and restore it afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


PURE_HOOKS = (fold_inputs,)  # zoo's own hooks, which have no side effects that a captured step would miss


def check_precision(module: nn.Module, spec: ModelSpec) -> None:
    """Raise RunError if a parameter is not float32, from which autocast derives the precision of a run."""
    import torch

    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise RunError(
                f"model {spec.name!r}: {name} is {str(parameter.dtype).removeprefix('torch.')}, expected float32",
                fix="make the plugin's `build` return a float32 module; use --set precision=bf16 for lower precision",
                code="wrong-precision",
            )


def is_dense(spec: ModelSpec) -> bool:
    """Whether the model returns logits for every pixel: a task of its spec has a dense head."""
    return any(TASKS[name].head.dense for name in spec.tasks if name in TASKS)


def check_output(module: nn.Module, spec: ModelSpec, request: BuildRequest) -> None:
    """Call the module on a small batch, to detect a wrong output shape before training."""
    import torch

    was_training, size = module.training, checked_size(spec, request)
    with torch.inference_mode():
        outputs = module.eval()(torch.zeros(2, request.channels, *size))
    module.train(was_training)
    output_shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    expected = (2, request.num_outputs, *(size if is_dense(spec) else ()))
    if output_shape != expected:
        raise RunError(
            f"model {spec.name!r} returned {output_shape}, expected a tensor of shape {expected}",
            fix="make the module's forward return only the logits",
            code="wrong-output",
        )


MAX_CHECKED_SIDE = 32  # of volumes


def checked_size(spec: ModelSpec, request: BuildRequest) -> tuple[int, ...]:
    """The sides of the images by which a module is checked: those of its runs, or a small volume."""
    if request.dims == 2:
        return (request.image_size, request.image_size)
    return (min(request.image_size, nearest_size(spec, max(MAX_CHECKED_SIDE, 2 * spec.size_multiple))),) * 3


def read_stored(path: Path, classes: Sequence[type] = ()) -> Any:
    """Read what a `.safetensors` or `.pth` file contains without executing code in it (`weights_only=True`).

    `classes` may be stored too: those of the parts of a module that was saved whole.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if classes and not zipfile.is_zipfile(path):  # saved by a torch before 1.6
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted_pickle(classes))
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own errors
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(error, pickle.UnpicklingError):  # torch's message explains how to execute it anyway
            reason = "it contains more than tensors, or is not a pickle; no code in it was executed"
        raise WeightsError(
            f"cannot be read as weights: {reason}",
            subject=path,
            fix="copy the file again, or save only `module.state_dict()`",
            code="weights-unreadable",
        ) from error


STORED_GLOBALS = re.compile(
    r"torch\.[A-Z]\w+Storage|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.nn\.backends\.thnn\._get_thnn_function_backend|collections\.OrderedDict|(builtins|__builtin__)\.set"
)


def restricted_pickle(classes: Sequence[type]) -> ModuleType:
    """A stand-in for `pickle` that refuses every global but `classes` and those of stored tensors.

    torch's own safe reader refuses whole modules in the format of torch before 1.6.
    """
    allowed = {f"{each.__module__}.{each.__qualname__}" for each in classes}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in allowed and not STORED_GLOBALS.fullmatch(f"{module}.{name}"):
                raise pickle.UnpicklingError(f"{module}.{name} is not a class of this network")
            return super().find_class(module, name)

    stand_in = ModuleType("restricted_pickle")
    vars(stand_in).update(Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load())
    return stand_in


def read_state(path: Path, classes: Sequence[type] = ()) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or `.pth` file, without the wrappers of common training scripts."""
    import torch

    state: Any = read_stored(path, classes)
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            "not a dictionary of tensors", subject=path, fix="save `module.state_dict()`", code="weights-unreadable"
        )
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def classes_of(module: nn.Module) -> tuple[type, ...]:
    """The classes of a module and of its parts."""
    return tuple({type(part) for part in module.modules()})


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    whole: bool = False,
) -> None:
    """Load a state dict strictly. Raises WeightsError with the first three missing, unknown or misshapen keys.

    With `whole` the file may contain a module that was saved whole (`torch.save(module)`) instead of its state dict,
    if its parts are of the same classes as those of `module`; other code in it is refused.
    """
    state = read_state(path, classes_of(module) if whole else ())
    if convert:
        state = convert(state)
    expected = module.state_dict()
    misfits = [f"missing {key}" for key in expected if key not in state]
    misfits += [f"unknown {key}" for key in state if key not in expected]
    misfits += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise WeightsError(
            f"does not fit {type(module).__name__}: {'; '.join(misfits[:3])}{more}",
            subject=path,
            fix="use a file made for this architecture, or --weights none",
            code="weights-misfit",
        )
    module.load_state_dict(state)


def layer_groups(spec: ModelSpec, module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters in groups from stem to head; a single group if the spec does not define them."""
    if spec.layer_groups:
        return [group for group in spec.layer_groups(module) if group]
    return [list(module.parameters())]


def has_batch_norm(module: nn.Module) -> bool:
    from torch import nn

    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def feature_extractor(spec: ModelSpec, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from images to features (N, D): the spec's `features`, or the module without its classifier."""
    from torch import nn

    if spec.features:
        features = spec.features
        hooks = [hook for hook in module._forward_pre_hooks.values() if getattr(hook, "func", None) in PURE_HOOKS]

        def extract(images: Tensor) -> Tensor:
            for hook in hooks:  # they apply to the module's forward, not to `features`
                (images,) = hook(module, (images,))
            return features(module, images).flatten(1)

        return extract
    if not spec.classifier:
        raise RunError(
            f"model {spec.name!r} has no features: its spec sets neither `classifier` nor `features`",
            fix="set one of them in its spec, or choose a protocol that trains the model",
        )
    for name in spec.classifier.split(","):
        parent, attribute, old = submodule(module, name)
        # After a convolutional head the model pools over its input channels.
        setattr(parent, attribute, nn.Identity())
        if isinstance(old, nn.Conv2d) and hasattr(module, "num_classes"):
            module.num_classes = old.in_channels  # type: ignore[assignment]
    return lambda images: module(images).flatten(1)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Floating-point operations of the forward pass of one image; a multiply-add counts as two (torch's counter)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(torch.zeros((1, *shape[1:])))
    module.train(was_training)
    return int(counter.get_total_flops()) or None
