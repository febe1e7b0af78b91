"""Checks of losses, samplings and transforms, on drawn targets and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, check_tasks, expect, step
from zoo.conformance.task_claims import num_labels_of
from zoo.specs.loss import LossRequest, LossSpec
from zoo.specs.sampling import SamplingRequest, SamplingSpec
from zoo.specs.transform import TransformSpec, find_prepared_fault
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from torch import Generator, Tensor

CHOICE_BATCH, CHOICE_SIDES = 32, (16, 14, 11)
SMOOTHING = 0.1
SAME_LOSS = 1e-5  # float32 sums in another order
WIDE_RANGE = (-1.0, 2.0)  # of augmented images: noise and contrast may leave 0 to 1, another scale does not fit
# A tensor of this device has a shape and no values, so reading one fails, as it would in a captured step of a GPU.
WITHOUT_VALUES = "meta"


def check_choice_fields(subject: CheckedSpec) -> None:
    check_plain_fields(subject.kind, subject.spec)
    if subject.spec.tasks:
        check_tasks(subject.kind, subject.spec)


# --- losses ----------------------------------------------------------------------------------------------------------
def served_tasks(spec: LossSpec) -> list[Task]:
    tasks = [TASKS[name] for name in spec.tasks or TASKS if name in TASKS and not TASKS[name].head.dense]
    if not tasks:
        raise Inapplicable("its logits are of pixels")
    return tasks


def draw_answers(task: Task) -> tuple[Tensor, Tensor]:
    """The logits of perfect answers, float32 (CHOICE_BATCH, outputs), and their standardized targets."""
    import torch

    targets, perfect = task.targets.draw(np.random.default_rng(0), CHOICE_BATCH, num_labels_of(task))
    scale = task.targets.scale(targets)
    scaled = torch.from_numpy(task.targets.standardize(targets, scale))
    logits = task.answers.to_logits(perfect if task.labeled else (perfect - scale[0]) / scale[1], floor=0.05)
    return torch.from_numpy(np.asarray(logits)).float(), scaled


def losses_of(spec: LossSpec, task: Task, device: str = "cpu") -> Iterator[Callable[..., Any]]:
    """The loss, built as plain and with all that it supports of class weights and label smoothing."""
    import torch

    num_labels = num_labels_of(task)
    weights = torch.linspace(0.5, 1.5, num_labels, device=device) if spec.class_weights else None
    smoothing = SMOOTHING if spec.label_smoothing else 0.0
    for chosen, share in dict.fromkeys([(None, 0.0), (weights if task.head.likelihood else None, smoothing)]):
        if share and not task.head.likelihood:
            continue
        with step(f"loss {spec.name!r}: `build` for {task.name} tasks"):
            loss = spec.build(
                LossRequest(
                    task=task,
                    num_labels=num_labels,
                    device=device,
                    options=spec.options,
                    class_weights=chosen,
                    label_smoothing=share,
                )
            )
        yield loss


def check_loss_gradients(subject: CheckedSpec) -> None:
    import torch

    spec: LossSpec = subject.spec
    for task in served_tasks(spec):
        logits, targets = draw_answers(task)
        for sharpness in (0.0, 1.0, 100.0):  # even certain answers have finite gradients
            given = (sharpness * logits).requires_grad_()
            for loss in losses_of(spec, task):
                what = f"loss {spec.name!r} of {task.name} tasks"
                with step(what):
                    value = loss(given, targets)
                    expect(isinstance(value, torch.Tensor) and value.ndim == 0, f"{what}: it is no scalar")
                    (gradient,) = torch.autograd.grad(value, given, allow_unused=True)
                expect(gradient is not None, f"{what}: it does not depend on the logits")
                finite = bool(value.isfinite()) and bool(gradient.isfinite().all())
                expect(finite, f"{what}: the loss or its gradient is not finite for logits times {sharpness:g}")
                expect(sharpness or bool(gradient.any()), f"{what}: its gradient is 0 for equal logits")


def check_loss_direction(subject: CheckedSpec) -> None:
    spec: LossSpec = subject.spec
    for task in served_tasks(spec):
        logits, targets = draw_answers(task)
        for loss in losses_of(spec, task):
            with step(f"loss {spec.name!r} of {task.name} tasks"):
                right, wrong = float(loss(logits, targets)), float(loss(logits.flip(0), targets))
            expect(right < wrong, f"loss {spec.name!r} of {task.name} tasks: right answers have no smaller loss")


def check_loss_replay(subject: CheckedSpec) -> None:
    spec: LossSpec = subject.spec
    for task in served_tasks(spec):
        logits, targets = (each.to(WITHOUT_VALUES) for each in draw_answers(task))
        for loss in losses_of(spec, task, WITHOUT_VALUES):
            with step(f"loss {spec.name!r} of {task.name} tasks reads a value or a shape that depends on one: it"):
                loss(logits, targets)


def check_loss_one_image(subject: CheckedSpec) -> None:
    """The last batch of a pass may have one image."""
    import torch

    spec: LossSpec = subject.spec
    for task in served_tasks(spec):
        logits, targets = (each[:1] for each in draw_answers(task))
        given = logits.clone().requires_grad_()
        for loss in losses_of(spec, task):
            what = f"loss {spec.name!r} of {task.name} tasks"
            with step(f"{what}, of one image"):
                value = loss(given, targets)
                (gradient,) = torch.autograd.grad(value, given)
            finite = bool(value.isfinite()) and bool(gradient.isfinite().all())
            expect(finite, f"{what}: the loss or its gradient is not finite for a batch of one image")


def check_loss_order(subject: CheckedSpec) -> None:
    import torch

    spec: LossSpec = subject.spec
    for task in served_tasks(spec):
        logits, targets = draw_answers(task)
        logits = logits * torch.linspace(0.2, 1.0, len(logits))[:, None]  # images of different losses
        for loss in losses_of(spec, task):
            with step(f"loss {spec.name!r} of {task.name} tasks"):
                value, reordered = float(loss(logits, targets)), float(loss(logits.flip(0), targets.flip(0)))
            same = math.isclose(value, reordered, rel_tol=SAME_LOSS, abs_tol=SAME_LOSS)
            expect(same, f"loss {spec.name!r} of {task.name} tasks: it depends on the order of the images of a batch")


# --- samplings -------------------------------------------------------------------------------------------------------
def open_small_sampling(spec: SamplingSpec, labeled: bool = True) -> Callable[[Generator], Any]:
    """The sampling of 3 classes of 20, 9 and 3 images, or of images without labels."""
    flags = np.eye(3)[np.repeat([0, 1, 2], [20, 9, CHOICE_BATCH - 29])] if labeled else None
    request = SamplingRequest(flags=flags, patients=np.arange(CHOICE_BATCH).astype(str), options=spec.options)
    with step(f"sampling {spec.name!r}: `build`"):
        drawn: Callable[[Generator], Any] = spec.build(request)
    return drawn


def draw_passes(spec: SamplingSpec, seed_elsewhere: int) -> Tensor:
    """Two passes, drawn while every other source of random numbers has another seed."""
    import random

    import torch

    draw, generator = open_small_sampling(spec), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_elsewhere)
        np.random.seed(seed_elsewhere)
        random.seed(seed_elsewhere)
        with step(f"sampling {spec.name!r}"):
            return torch.stack([draw(generator), draw(generator)])


def check_sampling_pass(subject: CheckedSpec) -> None:
    import torch

    spec: SamplingSpec = subject.spec
    with step(f"sampling {spec.name!r}"):
        drawn = open_small_sampling(spec)(torch.Generator().manual_seed(0))
        is_pass = drawn.dtype == torch.int64 and tuple(drawn.shape) == (CHOICE_BATCH,)
    expect(
        is_pass, f"sampling {spec.name!r}: it drew {drawn.dtype} {tuple(drawn.shape)}, expected int64 ({CHOICE_BATCH},)"
    )
    inside = bool(((drawn >= 0) & (drawn < CHOICE_BATCH)).all())
    expect(inside, f"sampling {spec.name!r}: it drew an index outside 0 to {CHOICE_BATCH - 1}")


def check_sampling_seed(subject: CheckedSpec) -> None:
    spec: SamplingSpec = subject.spec
    same = draw_passes(spec, 1).equal(draw_passes(spec, 2))
    expect(same, f"sampling {spec.name!r}: one state of the generator gives two passes; use no other random numbers")


def check_sampling_unlabeled(subject: CheckedSpec) -> None:
    import torch

    spec: SamplingSpec = subject.spec
    if all(TASKS[name].labeled for name in spec.tasks or TASKS if name in TASKS):
        raise Inapplicable("all of its tasks have labels")
    with step(f"sampling {spec.name!r}, of images without labels (`flags` is None; else name its `tasks`)"):
        open_small_sampling(spec, labeled=False)(torch.Generator().manual_seed(0))


# --- transforms ------------------------------------------------------------------------------------------------------
def draw_pixels() -> Iterator[Array]:
    """Images of both depths, gray and color, of unequal sides, and a constant one."""
    rng = np.random.default_rng(0)
    for dtype, levels in ((np.uint8, 256), (np.uint16, 4096)):
        for shape in ((40, 25), (25, 40, 3)):
            yield rng.integers(0, levels, shape).astype(dtype)
        yield np.full((24, 24), levels // 2, dtype)


def draw_batches(spec: TransformSpec, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """Images and volumes, as far as a transform takes them, with their draws."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for dims in spec.dims:
        images = torch.rand((CHOICE_BATCH, 3, *CHOICE_SIDES[:dims]), generator=generator)
        yield images.to(device), torch.rand((CHOICE_BATCH, spec.num_draws), generator=generator).to(device)


def check_transform_shape(subject: CheckedSpec) -> None:
    import torch

    spec: TransformSpec = subject.spec
    name = f"transform {spec.name!r}"
    if spec.augment is not None:
        for images, draws in draw_batches(spec):
            with step(name):
                augmented = spec.augment(images.clone(), draws, **spec.options)
                kept = augmented.shape == images.shape and augmented.dtype == torch.float32
            expect(
                kept, f"{name} returned {augmented.dtype} {tuple(augmented.shape)} for float32 {tuple(images.shape)}"
            )
            expect(bool(augmented.isfinite().all()), f"{name}: its images are not finite")
        return
    assert spec.prepare is not None
    for pixels in draw_pixels():
        with step(name):
            fault = find_prepared_fault(pixels, spec.prepare(pixels.copy(), **spec.options))
        expect(not fault, f"{name} {fault}")


def check_transform_repeats(subject: CheckedSpec) -> None:
    """Apply it twice to the same argument, which a preprocessing step may not change."""
    spec: TransformSpec = subject.spec
    name = f"transform {spec.name!r}"
    if spec.augment is not None:
        for images, draws in draw_batches(spec):
            with step(name):
                one, other = (spec.augment(images.clone(), draws, **spec.options) for _ in range(2))
            expect(bool(one.equal(other)), f"{name}: the same images and draws give two results")
        return
    assert spec.prepare is not None
    for pixels in draw_pixels():
        before = pixels.copy()
        with step(name):
            first, second = (np.array(spec.prepare(pixels, **spec.options)) for _ in range(2))
        expect(np.array_equal(pixels, before), f"{name}: it writes into its argument")
        expect(np.array_equal(first, second), f"{name}: the same image gives two results")


def require_augment(spec: TransformSpec) -> Callable[..., Any]:
    if spec.augment is None:
        raise Inapplicable("it does not augment batches")
    return spec.augment


def check_transform_batch(subject: CheckedSpec) -> None:
    spec: TransformSpec = subject.spec
    augment = require_augment(spec)
    for images, draws in draw_batches(spec):
        with step(f"transform {spec.name!r}"):
            whole = augment(images.clone(), draws, **spec.options)
            alone = augment(images[:1].clone(), draws[:1], **spec.options)
        same = whole[:1].shape == alone.shape and whole[:1].allclose(alone, atol=1e-5)
        expect(same, f"transform {spec.name!r}: an image depends on the other images of its batch")


def check_transform_range(subject: CheckedSpec) -> None:
    spec: TransformSpec = subject.spec
    augment = require_augment(spec)
    for images, draws in draw_batches(spec):
        with step(f"transform {spec.name!r}"):
            augmented = augment(images, draws, **spec.options)
            low, high = float(augmented.min()), float(augmented.max())
        inside = WIDE_RANGE[0] <= low and high <= WIDE_RANGE[1]
        expect(inside, f"transform {spec.name!r}: images of values 0 to 1 become {low:.3g} to {high:.3g}")


def check_transform_replay(subject: CheckedSpec) -> None:
    spec: TransformSpec = subject.spec
    augment = require_augment(spec)
    for images, draws in draw_batches(spec, WITHOUT_VALUES):
        with step(f"transform {spec.name!r} reads a value or a shape that depends on one: it"):
            augment(images, draws, **spec.options)


LOSS_CHECKS = (
    Check(id="loss-fields", claim="Its fields are valid", run=check_choice_fields),
    Check(id="loss-gradients", claim="The loss and its gradients are finite", run=check_loss_gradients),
    Check(id="loss-direction", claim="Right answers have a smaller loss than wrong ones", run=check_loss_direction),
    Check(id="loss-one-image", claim="The loss of one image is finite", run=check_loss_one_image),
    Check(id="loss-order", claim="It does not depend on the order of the batch", run=check_loss_order),
    Check(id="loss-replay", claim="A GPU can capture it: no value is read back", run=check_loss_replay),
)
SAMPLING_CHECKS = (
    Check(id="sampling-fields", claim="Its fields are valid", run=check_choice_fields),
    Check(id="sampling-pass", claim="A pass has as many images as train", run=check_sampling_pass),
    Check(id="sampling-seed", claim="It depends on no random numbers but its generator's", run=check_sampling_seed),
    Check(id="sampling-unlabeled", claim="It needs no labels, or names its tasks", run=check_sampling_unlabeled),
)
TRANSFORM_CHECKS = (
    Check(id="transform-fields", claim="Its fields are valid", run=check_choice_fields),
    Check(id="transform-shape", claim="It keeps shape and type of images", run=check_transform_shape),
    Check(id="transform-repeats", claim="The same arguments give the same images", run=check_transform_repeats),
    Check(id="transform-batch", claim="An image does not depend on its batch", run=check_transform_batch),
    Check(id="transform-range", claim="Augmented images keep the scale of 0 to 1", run=check_transform_range),
    Check(id="transform-replay", claim="A GPU can capture it: no value is read back", run=check_transform_replay),
)
