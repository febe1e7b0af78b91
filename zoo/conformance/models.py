"""Try a model as a benchmark does, on little data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from zoo.conformance.steps import check_spec_fields, check_tasks, expect, step
from zoo.models.building import build_model, feature_extractor, is_dense
from zoo.models.building import layer_groups as layer_groups_of
from zoo.specs.model import BuildRequest, ModelSpec, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

FAR_OUTPUT = 50.0  # a bias that outweighs any ordinary feature; its sigmoid is 0 or 1
NUM_PUSHES = 50


def check_model(spec: ModelSpec) -> None:
    """Build a model for one and three channels at two image sizes, and try a training step."""
    check_model_spec(spec)
    for dims in spec.dims:
        check_modules(spec, dims)


def check_modules(spec: ModelSpec, dims: int) -> None:
    """Check the modules of a model for images of two axes, or for volumes of three."""
    import torch

    first, second = sizes_to_try(spec, dims)
    same, other = (
        (first,) * dims,
        (second, second) if dims == 2 else (second, first, first),
    )  # volumes have unequal sides
    num_images = 4 if dims == 2 else 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_module(spec, num_outputs=3, channels=1, size=first, dims=dims)
        images = torch.randn(num_images, 1, *same)
        check_evaluation(spec, module, images)
        again = build_module(spec, num_outputs=3, channels=1, size=first, dims=dims)
        expect(
            same_outputs(evaluate(module, images), evaluate(again, images)),
            f"model {spec.name!r}: two builds from the same seed give different outputs; draw random numbers from "
            "torch only",
        )
        module = build_module(spec, num_outputs=2, channels=3, size=second, dims=dims)
        check_training(spec, module, torch.randn(num_images, 3, *other), num_outputs=2)
        check_groups(spec, module)
        check_features(spec, module, torch.randn(num_images, 3, *other))
        check_bounds(spec, again, images)


def check_model_spec(spec: ModelSpec) -> None:
    check_spec_fields("model", spec)
    check_tasks("model", spec)
    check_card(spec)


def check_card(spec: ModelSpec) -> None:
    """Check that sizes, channels and normalization of the spec and its weights fit each other."""
    name = f"model {spec.name!r}"
    records: list[tuple[str, ModelSpec | Weights]] = [(name, spec)]
    records += [(f"{name}, weights {weights.tag!r}", weights) for weights in spec.weights]
    for owner, record in records:
        expect(
            len(record.mean) == len(record.std) == spec.channels,
            f"{owner}: `mean` and `std` need one number for each of {spec.channels} channels",
        )
        expect(all(value > 0 for value in record.std), f"{owner}: `std` must be positive, got {record.std}")
        expect(record.image_size > 0, f"{owner}: `image_size` must be positive, got {record.image_size}")
    if spec.weights:
        own, default = (spec.mean, spec.std), (spec.weights[0].mean, spec.weights[0].std)
        expect(
            own == default,
            f"{name}: `mean` and `std` are {own}, but those of its default weights {spec.weights[0].tag!r} are "
            f"{default}; declare them in `Weights`, whose defaults are those of ImageNet",
        )
    expect(
        spec.image_size % spec.size_multiple == 0 and spec.image_size >= spec.min_image_size,
        f"{name}: it does not accept its own `image_size` {spec.image_size}: expected a multiple of "
        f"{spec.size_multiple}, {spec.min_image_size} or more",
    )


def sizes_to_try(spec: ModelSpec, dims: int) -> tuple[int, int]:
    """Two small image sizes that the spec allows; the only one, twice, if the size is fixed."""
    if spec.fixed_size:
        return spec.image_size, spec.image_size
    multiple = spec.size_multiple
    least = 32 if dims == 2 else 16
    first = -(-max(spec.min_image_size, least) // multiple) * multiple
    return first, first + max(1, least // 2 // multiple) * multiple


def build_module(spec: ModelSpec, *, num_outputs: int, channels: int, size: int, dims: int) -> nn.Module:
    with step(f"model {spec.name!r}: building it for {num_outputs} outputs and {channels} channels at {size} px"):
        request = BuildRequest(num_outputs=num_outputs, channels=channels, image_size=size, dims=dims)
        return build_model(spec, request)


def evaluate(module: nn.Module, images: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        outputs: Tensor = module.eval()(images)
    return outputs


def same_outputs(first: Tensor, second: Tensor) -> bool:
    """Whether outputs are equal up to the rounding of float32 sums in a different order."""
    import torch

    return bool(torch.allclose(first, second, rtol=1e-3, atol=1e-4))


def check_evaluation(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    name = f"model {spec.name!r}"
    with step(f"{name}: evaluating it"):
        outputs = evaluate(module, images)
        expect(outputs.isfinite().all(), f"{name}: logits of ordinary images are not finite")
        expect(
            same_outputs(outputs, evaluate(module, images)),
            f"{name}: the same images give different logits the second time in eval mode; is dropout still active?",
        )
        expect(
            same_outputs(outputs[:1], evaluate(module, images[:1])),
            f"{name}: an image's logits depend on the other images of its batch in eval mode",
        )


def check_bounds(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    """Check that outputs are logits: nothing after the head bounds them. Changes the module's weights."""
    name = f"model {spec.name!r}"
    with step(f"{name}: moving its outputs"):
        if spec.classifier:
            low, high = (outputs_at(spec, module, images, bias) for bias in (-FAR_OUTPUT, FAR_OUTPUT))
        else:
            low, high = (push_outputs(module, images[:1], sign) for sign in (-1, 1))
    if (low >= 0).any():
        bound = "below 0"
    elif (high <= 0).any():
        bound = "above 0"
    elif spec.classifier and max(low.max(), -high.min()) > -FAR_OUTPUT / 5:
        bound = f"beyond {low.min():.3g} and {high.max():.3g}"
    else:
        return
    raise AssertionError(
        f"{name}: outputs cannot go {bound}: something after the head bounds them (a ReLU, a sigmoid, a softmax?); "
        "return logits: the loss applies the activation"
    )


def outputs_at(spec: ModelSpec, module: nn.Module, images: Tensor, bias: float) -> Tensor:
    """The outputs of the module when its head has zero weights and this bias."""
    from torch import nn

    for name in spec.classifier.split(","):
        head = module.get_submodule(name)
        nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        nn.init.constant_(head.bias, bias)  # type: ignore[arg-type]
    return evaluate(module, images)


def push_outputs(module: nn.Module, images: Tensor, sign: int) -> Tensor:
    """Train the outputs towards one side of zero for some steps, for a module whose head the spec does not name."""
    import torch

    moved = copy.deepcopy(module).eval()
    trainable = [parameter for parameter in moved.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.03) if trainable else None
    outputs: Tensor = moved(images)
    for _ in range(NUM_PUSHES):
        if optimizer is None or not outputs.requires_grad or bool((sign * outputs > 0).all()):
            break
        optimizer.zero_grad()
        (-sign * outputs).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        outputs = moved(images)
    return outputs.detach()


def check_training(spec: ModelSpec, module: nn.Module, images: Tensor, *, num_outputs: int) -> None:
    """Check the shape of the logits in training mode, and that finite gradients reach the parameters."""
    import torch
    from torch.nn.functional import cross_entropy

    name = f"model {spec.name!r}"
    trainable = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    expect(trainable, f"{name}: no parameter requires a gradient; there is nothing to train")
    with step(f"{name}: a training step"):
        outputs = module.train()(images)
        grid = tuple(images.shape[2:]) if is_dense(spec) else ()
        expected = (len(images), num_outputs, *grid)
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        expect(shape == expected, f"{name}: in training mode it returns {shape}, expected a tensor of shape {expected}")
        classes = (torch.arange(len(images)) % num_outputs).reshape(-1, *[1] * len(grid)).expand(-1, *grid)
        loss = cross_entropy(outputs, classes)
        loss.backward()  # type: ignore[no-untyped-call]
    unreached = [key for key, parameter in trainable.items() if parameter.grad is None]
    expect(
        len(unreached) < len(trainable) / 2 and next(iter(trainable)) not in unreached,
        f"{name}: no gradient reaches {len(unreached)} of {len(trainable)} parameters, such as "
        f"{', '.join(unreached[:3])}; does forward() call detach() or no_grad()?",
    )
    for key, parameter in trainable.items():
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        expect(finite, f"{name}: the gradient of {key} is not finite")


def check_groups(spec: ModelSpec, module: nn.Module) -> None:
    """Check that `layer_groups` holds every trainable parameter once."""
    name = f"model {spec.name!r}"
    with step(f"{name}: layer_groups"):
        grouped = [id(parameter) for group in layer_groups_of(spec, module) for parameter in group]
    expect(len(grouped) == len(set(grouped)), f"{name}: `layer_groups` has a parameter in two groups")
    missing = [key for key, p in module.named_parameters() if p.requires_grad and id(p) not in set(grouped)]
    expect(not missing, f"{name}: `layer_groups` leaves out {', '.join(missing[:3])}: they would not be trained")


def check_features(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    """Check that the features are (N, D), if frozen protocols can use the model."""
    if not spec.features and not spec.classifier:
        return
    name = f"model {spec.name!r}"
    with step(f"{name}: features"):
        import torch

        with torch.no_grad():
            features = feature_extractor(spec, module.eval())(images)
        shape = tuple(features.shape)
        expect(len(shape) == 2 and shape[0] == len(images), f"{name}: features of shape {shape}, expected (N, D)")
        expect(features.isfinite().all(), f"{name}: features of ordinary images are not finite")
