"""Checks of models. A model that cannot be built fails `model-builds` only: the others then have nothing to check."""

from __future__ import annotations

import copy
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.models import (
    check_bounds,
    check_card,
    check_features,
    check_groups,
    check_training,
    evaluate,
    same_outputs,
    sizes_to_try,
)
from zoo.conformance.steps import check_plain_fields, check_tasks, expect, step
from zoo.errors import RunError
from zoo.models.building import build_model, feature_extractor, is_dense
from zoo.models.weights import WEIGHTS_SUFFIXES, find_cached, find_local_weights, weights_folder
from zoo.registry.isolation import network_refused, process_unchanged
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.system.files import cache_root

if TYPE_CHECKING:
    from torch import Tensor, nn

BUILD_CHECKS = {"build-downloads", "build-seeds", "wrong-output", "wrong-precision"}  # codes with a check of their own
MAX_DEPTH = 6  # of containers searched for unregistered layers


def model_label(subject: CheckedSpec) -> str:
    return f"model {subject.spec.name!r}"


def request_of(
    spec: ModelSpec, *, num_outputs: int = 3, channels: int | None = None, size: int | None = None
) -> BuildRequest:
    return BuildRequest(
        num_outputs=num_outputs,
        channels=channels or spec.channels,
        image_size=size or small_sizes(spec)[0],
        dims=spec.dims[0],
    )


def small_sizes(spec: ModelSpec) -> tuple[int, int]:
    """The sizes to try with images of the first number of axes that the model takes."""
    return sizes_to_try(spec, spec.dims[0])


def build_or_skip(subject: CheckedSpec, **request: Any) -> nn.Module:
    """Build the model as a run does. Raises Inapplicable if that fails, which other checks report."""
    try:
        return build_model(subject.spec, request_of(subject.spec, **request))
    except Exception as error:
        raise Inapplicable(f"it cannot be built: {error}") from error


def draw_input(spec: ModelSpec, count: int = 4, *, channels: int | None = None, size: int | None = None) -> Tensor:
    """Random normalized images, or volumes for a model of volumes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    size = size or small_sizes(spec)[0]
    return torch.randn(count, channels or spec.channels, *(size,) * spec.dims[0], generator=generator)


def shape_of(spec: ModelSpec, images: Tensor, num_outputs: int = 3) -> tuple[int, ...]:
    """The expected shape of the outputs."""
    return (len(images), num_outputs, *(images.shape[2:] if is_dense(spec) else ()))


@contextmanager
def evaluating(name: str) -> Iterator[None]:
    """Turn an exception in the block into Inapplicable: `model-evaluates` reports it."""
    try:
        yield
    except (AssertionError, Inapplicable):
        raise
    except Exception as error:
        raise Inapplicable(f"{name} cannot be evaluated: {error}") from error


# --- spec and building -----------------------------------------------------------------------------------------------
def check_model_fields(subject: CheckedSpec) -> None:
    check_plain_fields("model", subject.spec)
    check_tasks("model", subject.spec)
    check_card(subject.spec)


def check_builds(subject: CheckedSpec) -> None:
    with step(f"{model_label(subject)}: building it"):
        try:
            build_model(subject.spec, request_of(subject.spec))
        except RunError as error:
            if error.code not in BUILD_CHECKS:
                raise


def check_build_for(code: str) -> Callable[[CheckedSpec], None]:
    """The check that building does not fail with an error of this code."""

    def check(subject: CheckedSpec) -> None:
        try:
            build_model(subject.spec, request_of(subject.spec))
        except RunError as error:
            expect(error.code != code, str(error))
            raise Inapplicable(f"it cannot be built: {error}") from error
        except Exception as error:
            raise Inapplicable(f"it cannot be built: {error}") from error

    return check


def check_build_repeats(subject: CheckedSpec) -> None:
    images = draw_input(subject.spec)
    with evaluating(model_label(subject)):
        module = build_or_skip(subject)
        first, second = repeatable(module, images), finite_or_skip(evaluate(build_or_skip(subject), images))
    expect(
        same_outputs(first, second),
        f"{model_label(subject)}: two builds from the same seed differ; draw random numbers from torch only",
    )


def check_process(subject: CheckedSpec) -> None:
    """Compare the state of the process before and after `build`, except for torch's own random numbers."""
    with process_unchanged(), network_refused():
        random.random(), np.random.random()  # so that a state to which `build` resets them is another one
        before = process_state()
        try:
            subject.spec.build(request_of(subject.spec))
        except Exception as error:
            raise Inapplicable(f"it cannot be built: {error}") from error
        after = process_state()
    changed = [name for name, value in before.items() if after[name] != value]
    expect(not changed, f"{model_label(subject)}: `build` changes {', '.join(changed)} of the process")


def process_state() -> Mapping[str, Any]:
    import torch

    return {
        "the random numbers of Python": random.getstate(),
        "the random numbers of NumPy": pickle.dumps(np.random.get_state()),
        "torch's number of threads": torch.get_num_threads(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradients": torch.is_grad_enabled(),
        "the working folder": Path.cwd(),
        "the environment": dict(os.environ),
    }


def check_own_size(subject: CheckedSpec) -> None:
    spec = subject.spec
    build_or_skip(subject)  # a model that cannot be built at all has another fault
    with step(f"{model_label(subject)}: at its own image size, {spec.image_size} px"):
        module = build_model(spec, request_of(spec, size=spec.image_size))
        evaluate(module, draw_input(spec, 2, size=spec.image_size))


def check_other_size(subject: CheckedSpec) -> None:
    spec, size = subject.spec, small_sizes(subject.spec)[1]
    if spec.fixed_size:
        raise Inapplicable(f"its only size is {spec.image_size} px")
    build_or_skip(subject)
    with step(f"{model_label(subject)}: at {size} px, which its spec allows"):
        evaluate(build_model(spec, request_of(spec, size=size)), draw_input(spec, 2, size=size))


def check_gray(subject: CheckedSpec) -> None:
    spec = subject.spec
    build_or_skip(subject)
    with step(f"{model_label(subject)}: with one channel"):
        evaluate(build_model(spec, request_of(spec, channels=1)), draw_input(spec, 2, channels=1))


def check_one_output(subject: CheckedSpec) -> None:
    spec, images = subject.spec, draw_input(subject.spec, 2)
    build_or_skip(subject)
    with step(f"{model_label(subject)}: with one output, as a number is predicted"):
        outputs = evaluate(build_model(spec, request_of(spec, num_outputs=1)), images)
    shape, expected = tuple(outputs.shape), shape_of(spec, images, 1)
    expect(shape == expected, f"{model_label(subject)}: with one output it returns {shape}, expected {expected}")


# --- outputs ---------------------------------------------------------------------------------------------------------
def check_evaluates(subject: CheckedSpec) -> None:
    module = build_or_skip(subject)
    with step(f"{model_label(subject)}: evaluating it"):
        evaluate(module, draw_input(subject.spec))


def check_finite(subject: CheckedSpec) -> None:
    with evaluating(model_label(subject)):
        outputs = evaluate(build_or_skip(subject), draw_input(subject.spec))
    expect(outputs.isfinite().all(), f"{model_label(subject)}: logits of ordinary images are not finite")


def check_black(subject: CheckedSpec) -> None:
    images = draw_input(subject.spec)
    with evaluating(model_label(subject)):
        module = build_or_skip(subject)
        if not evaluate(module, images).isfinite().all():
            raise Inapplicable("logits of ordinary images are not finite either")
        outputs = evaluate(module, images * 0)
    expect(outputs.isfinite().all(), f"{model_label(subject)}: logits of constant images are not finite")


def check_same_twice(subject: CheckedSpec) -> None:
    images = draw_input(subject.spec)
    with evaluating(model_label(subject)):
        module = build_or_skip(subject)
        first, second = (finite_or_skip(evaluate(module, images)) for _ in range(2))
    expect(
        same_outputs(first, second),
        f"{model_label(subject)}: the same images give different logits the second time in eval mode; is dropout still "
        "active?",
    )


def check_batch_independence(subject: CheckedSpec) -> None:
    images = draw_input(subject.spec)
    with evaluating(model_label(subject)):
        module = build_or_skip(subject)
        whole, part = repeatable(module, images), evaluate(module, images[:2])
    expect(
        same_outputs(whole[:2], part),
        f"{model_label(subject)}: an image's logits depend on the other images of its batch in eval mode",
    )


def check_one_image(subject: CheckedSpec) -> None:
    images = draw_input(subject.spec, 1)
    module = build_or_skip(subject)
    with step(f"{model_label(subject)}: a batch of one image"):
        outputs = evaluate(module, images)
    shape, expected = tuple(outputs.shape), shape_of(subject.spec, images)
    expect(shape == expected, f"{model_label(subject)}: for one image it returns {shape}, expected {expected}")


def check_unbounded(subject: CheckedSpec) -> None:
    if subject.spec.fixed:
        raise Inapplicable("nothing in it is trained")
    with evaluating(model_label(subject)):
        images = draw_input(subject.spec)
        module = build_or_skip(subject)
        finite_or_skip(evaluate(module, images))
        check_bounds(subject.spec, module, images)


def repeatable(module: nn.Module, images: Tensor) -> Tensor:
    """The outputs, if they are finite and the same twice."""
    outputs = finite_or_skip(evaluate(module, images))
    if not same_outputs(outputs, evaluate(module, images)):
        raise Inapplicable("its outputs are random")
    return outputs


def finite_or_skip(outputs: Tensor) -> Tensor:
    if not outputs.isfinite().all():
        raise Inapplicable("its logits are not finite")
    return outputs


# --- parameters ------------------------------------------------------------------------------------------------------
def check_trains(subject: CheckedSpec) -> None:
    if subject.spec.fixed:
        raise Inapplicable("nothing in it is trained")
    with evaluating(model_label(subject)):
        module, images = build_or_skip(subject), draw_input(subject.spec)
        finite_or_skip(evaluate(module, images))
    check_training(subject.spec, module, images, num_outputs=3)


def check_registered(subject: CheckedSpec) -> None:
    import torch

    module = build_or_skip(subject)
    modules = set(map(id, module.modules()))
    parameters = {id(parameter) for parameter in module.parameters()}
    for owner, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_") and attribute in vars(torch.nn.Module()):
                continue  # what torch registers
            for hidden in contained(value):
                known = id(hidden) in (modules if isinstance(hidden, torch.nn.Module) else parameters)
                place = f"{owner}.{attribute}".lstrip(".")
                expect(
                    known,
                    f"{model_label(subject)}: {place} holds a {type(hidden).__name__} that is not registered, so it "
                    "would be neither trained nor saved; use nn.ModuleList, nn.ModuleDict or nn.ParameterList",
                )


def contained(value: Any, depth: int = 0) -> Iterator[nn.Module | nn.Parameter]:
    """The modules and parameters in nested lists, tuples, sets and dicts."""
    import torch

    if isinstance(value, torch.nn.Module | torch.nn.Parameter):
        yield value
    elif isinstance(value, list | tuple | set | dict) and depth < MAX_DEPTH:
        for part in value.values() if isinstance(value, dict) else value:
            yield from contained(part, depth + 1)


def check_layer_groups(subject: CheckedSpec) -> None:
    check_groups(subject.spec, build_or_skip(subject))


def check_feature_shape(subject: CheckedSpec) -> None:
    spec = subject.spec
    if not spec.features and not spec.classifier:
        raise Inapplicable("it names neither `features` nor `classifier`, so frozen protocols cannot use it")
    with evaluating(model_label(subject)):
        module, images = build_or_skip(subject), draw_input(spec)
        finite_or_skip(evaluate(module, images))
    check_features(spec, module, images)


def check_state_dict(subject: CheckedSpec) -> None:
    """Load the state of a changed copy into a fresh build, and compare the outputs."""
    import torch

    images = draw_input(subject.spec)
    with evaluating(model_label(subject)):
        first, second = build_or_skip(subject), build_or_skip(subject)
        repeatable(first, images)
        with torch.no_grad():
            for value in (*first.parameters(), *first.buffers()):
                if value.is_floating_point():
                    value.add_(0.01)
        expected = finite_or_skip(evaluate(first, images))
    with step(f"{model_label(subject)}: loading its own state dict"):
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        outputs = evaluate(second, images)
    expect(
        same_outputs(expected, outputs),
        f"{model_label(subject)}: a new build with the state dict of a trained one gives other outputs; something that "
        "determines them is neither a parameter nor a buffer",
    )


def check_fixed(subject: CheckedSpec) -> None:
    """Compare the features of two seeds, or the answers of a model that answers without training."""
    import torch

    spec = subject.spec
    if not spec.fixed:
        raise Inapplicable("it is not `fixed`")
    expect(not spec.weights, f"{model_label(subject)}: it is `fixed` but has weights")
    images, outputs = draw_input(spec), []
    build_or_skip(subject)
    with evaluating(model_label(subject)):
        for seed in range(2):
            module = build_model(spec, request_of(spec), seed=seed).eval()
            respond = module if spec.zero_shot else feature_extractor(spec, module)
            with torch.inference_mode():
                outputs.append(respond(images))
    expect(
        same_outputs(*outputs),
        f"{model_label(subject)}: it is `fixed`, but two seeds give other "
        f"{'answers' if spec.zero_shot else 'features'}; something in it is drawn",
    )


def check_zero_shot(subject: CheckedSpec) -> None:
    spec = subject.spec
    if not spec.zero_shot:
        raise Inapplicable("it is not `zero_shot`")
    images, labels = draw_input(spec), ("effusion", "fracture", "no finding")
    build_or_skip(subject)
    with evaluating(model_label(subject)):
        first, reverse = (
            evaluate(build_model(spec, replace(request_of(spec), labels=names)), images)
            for names in (labels, labels[::-1])
        )
    expect(
        same_outputs(first, reverse.flip(1)),
        f"{model_label(subject)}: its answers depend on the order of the labels, not on their names",
    )


def check_metadata(subject: CheckedSpec) -> None:
    import torch

    spec, num_inputs = subject.spec, 3
    if not spec.metadata:
        raise Inapplicable("it does not declare `metadata`; zoo joins them with its features")
    images = draw_input(spec, channels=1)
    values = torch.linspace(-1, 1, num_inputs * len(images)).reshape(len(images), num_inputs)
    planes = values[:, :, None, None].expand(-1, -1, *images.shape[2:])
    with step(f"{model_label(subject)}: with {num_inputs} numbers per image"):
        module = build_model(spec, replace(request_of(spec, channels=1), metadata=num_inputs))
        outputs = evaluate(module, torch.cat([images, planes], dim=1))
        without = evaluate(module, torch.cat([images, 0 * planes], dim=1))
    expect(
        not same_outputs(outputs, without),
        f"{model_label(subject)}: it declares `metadata`, but its logits do not depend on them",
    )


def check_weights_read(subject: CheckedSpec) -> None:
    """Build from the weights on this machine and from a copy with other values, which must change every parameter."""
    from zoo.models.trials import Trial, find_unread

    spec = subject.spec
    build_or_skip(subject)
    path, tag = find_weights_here(spec)
    request = BuildRequest(num_outputs=3, channels=spec.channels, image_size=spec.image_size, weights=path, tag=tag)
    with step(f"{model_label(subject)}: building it with {path.name}"):
        unread = find_unread(Trial(model=spec.name, spec=spec, path=path, request=request))
    expect(
        not unread,
        f"{model_label(subject)}: the values in {path.name} do not reach {', '.join(unread[:3])}; load all of "
        "`request.weights` outside the head",
    )


def find_weights_here(spec: ModelSpec) -> tuple[Path, str]:
    """The first weights that are on this machine, with their tag."""
    for weights in spec.weights:
        path = find_local_weights(spec, weights, weights_folder(None))
        if not path:
            with suppress(Exception):  # a plugin may raise anything without the network
                path = find_cached(spec, weights, cache_root() / "weights")
        if path and path.suffix in WEIGHTS_SUFFIXES:
            return path, weights.tag
    raise Inapplicable("no weights of its own are on this machine; $ZOO_WEIGHTS may name a folder that has them")


MODEL_CHECKS = (
    Check(id="model-fields", claim="Its fields are valid and fit each other", run=check_model_fields),
    Check(id="model-builds", claim="It can be built", run=check_builds),
    Check(id="model-offline", claim="Building it uses no network", run=check_build_for("build-downloads")),
    Check(id="model-seed", claim="Building it does not seed torch", run=check_build_for("build-seeds")),
    Check(id="model-float32", claim="Its parameters are float32", run=check_build_for("wrong-precision")),
    Check(id="model-outputs", claim="It returns one row of logits per image", run=check_build_for("wrong-output")),
    Check(id="model-repeats", claim="Two builds from one seed are equal", run=check_build_repeats),
    Check(id="model-process", claim="Building it leaves the process as it was", run=check_process),
    Check(id="model-own-size", claim="It accepts its own image size", run=check_own_size),
    Check(id="model-other-size", claim="It accepts another size that its spec allows", run=check_other_size),
    Check(id="model-gray", claim="It accepts one channel", run=check_gray),
    Check(id="model-one-output", claim="It can have one output, for regression", run=check_one_output),
    Check(id="model-evaluates", claim="It evaluates a batch of images", run=check_evaluates),
    Check(id="model-finite", claim="Logits of ordinary images are finite", run=check_finite),
    Check(id="model-black", claim="Logits of constant images are finite", run=check_black),
    Check(id="model-deterministic", claim="The same images give the same logits in eval mode", run=check_same_twice),
    Check(
        id="model-batch",
        claim="Logits do not depend on the other images of the batch",
        run=check_batch_independence,
    ),
    Check(id="model-one-image", claim="A batch of one image keeps its batch axis", run=check_one_image),
    Check(id="model-unbounded", claim="Nothing after the head bounds the logits", run=check_unbounded),
    Check(id="model-trains", claim="A training step gives finite gradients to its parameters", run=check_trains),
    Check(id="model-registered", claim="Every layer and parameter is registered", run=check_registered),
    Check(id="model-groups", claim="`layer_groups` holds every trainable parameter once", run=check_layer_groups),
    Check(id="model-features", claim="Its features are one finite row per image", run=check_feature_shape),
    Check(id="model-state", claim="Its state dict determines its outputs", run=check_state_dict),
    Check(id="model-fixed", claim="A fixed model draws nothing", run=check_fixed),
    Check(id="model-zero-shot", claim="Without training it answers about the labels by name", run=check_zero_shot),
    Check(id="model-metadata", claim="It uses the metadata that it declares", run=check_metadata),
    Check(id="model-weights", claim="Its weights are read", run=check_weights_read),
)
