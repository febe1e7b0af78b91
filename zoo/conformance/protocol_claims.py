"""Checks of protocols: their fields, and a few steps of training on noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, expect, step
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.errors import ZooError
from zoo.registry.choices import find_choices
from zoo.registry.opening import open_registry
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.specs.protocol import Protocol
from zoo.tasks.kinds import TASKS
from zoo.training.batches import plan_steps
from zoo.training.fitting import FitRequest, fit

if TYPE_CHECKING:
    from torch import Tensor, nn

NUM_TRAIN = 1_000  # images, for the budget
NUM_NOISE_IMAGES, NOISE_PIXELS = 60, 16
NUM_STEPS, NUM_ROUNDS, BATCH_SIZE = 6, 2, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class TripwirePixels(Pixels):
    """Images some rows of which nobody may read."""

    forbidden: frozenset[int]

    def gather(self, rows: Tensor) -> Tensor:
        read = self.forbidden & set(rows.tolist())
        expect(not read, f"training reads {len(read)} images of the test split")
        return super().gather(rows)


def build_tiny_network(request: BuildRequest) -> nn.Module:
    from collections import OrderedDict

    from torch import nn

    layers = {"conv": nn.Conv2d(request.channels, 4, 3), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict({**layers, "fc": nn.Linear(4, request.num_outputs)}))


TINY_NETWORK = ModelSpec(name="tiny-network", build=build_tiny_network, classifier="fc", channels=1)


def check_protocol_fields(subject: CheckedSpec) -> None:
    check_plain_fields("protocol", subject.spec)


def check_budget(subject: CheckedSpec) -> None:
    protocol: Protocol = subject.spec
    if protocol.method != "finetune":
        raise Inapplicable("it does not train by steps")
    name = f"protocol {protocol.name!r}"
    least, most = protocol.min_steps, protocol.max_steps
    expect(most is None or least <= most, f"{name}: min_steps = {least} is more than max_steps = {most}")
    steps, _ = plan_steps(protocol, NUM_TRAIN)
    expect(
        protocol.rounds <= steps,
        f"{name}: on {NUM_TRAIN} images it takes {steps} steps, fewer than its {protocol.rounds} rounds",
    )


def check_grid_points(subject: CheckedSpec) -> None:
    """Check every point of the grid that is tuned on val as a protocol of its own."""
    protocol: Protocol = subject.spec
    if not protocol.tune:
        raise Inapplicable("it tunes nothing")
    names = [name for name, _ in protocol.tune]
    for values in itertools.product(*(values for _, values in protocol.tune)):
        point = dict(zip(names, values, strict=True))
        try:
            check_plain_fields("protocol", replace(protocol, **point, tune=()))
        except (TypeError, ZooError, AssertionError) as error:
            raise AssertionError(f"protocol {protocol.name!r}: `tune` has the point {point}: {error}") from error


def check_substitute(subject: CheckedSpec) -> None:
    protocol: Protocol = subject.spec
    if not protocol.without_weights:
        raise Inapplicable("it names no protocol for random init")
    known = open_registry().protocols
    expect(
        protocol.without_weights in known,
        f"protocol {protocol.name!r}: `without_weights` names {protocol.without_weights!r}, which is not installed",
    )


def check_training_steps(subject: CheckedSpec) -> None:
    """Train a tiny network for a few steps; reading an image of test fails."""
    if subject.spec.method != "finetune":
        raise Inapplicable("it does not train by steps")
    try:
        check_plain_fields("protocol", subject.spec)
    except AssertionError as error:
        raise Inapplicable(str(error)) from error
    name = f"protocol {subject.spec.name!r}"
    with step(name):
        request = short_training(subject.spec)
    before = [parameter.detach().clone() for parameter in request.module.parameters()]
    try:
        after = list(fit(request).module.parameters())
    except ZooError as error:
        raise AssertionError(f"{name}: training fails: {error}") from error
    expect(all(value.isfinite().all() for value in after), f"{name}: after {NUM_STEPS} steps parameters are not finite")
    moved = any(not one.equal(other) for one, other in zip(before, after, strict=True))
    expect(moved, f"{name}: {NUM_STEPS} steps change no parameter")


def short_training(protocol: Protocol) -> FitRequest:
    import torch

    generator = torch.Generator().manual_seed(0)
    split_of = np.array(["train", "val", "test"])[np.arange(NUM_NOISE_IMAGES) % 3]
    targets = np.arange(NUM_NOISE_IMAGES) // 3 % 2
    one = torch.ones(1, 1, 1, 1)
    pixels = TripwirePixels(
        images=torch.randint(
            0, 256, (NUM_NOISE_IMAGES, NOISE_PIXELS, NOISE_PIXELS, 1), dtype=torch.uint8, generator=generator
        ),
        scale=(0.0, 255.0),
        mean=0.5 * one,
        std=0.25 * one,
        device="cpu",
        forbidden=frozenset(np.flatnonzero(split_of == "test").tolist()),
    )
    changes: dict[str, Any] = {"epochs": None, "steps": NUM_STEPS, "min_steps": 0, "max_steps": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_tiny_network(BuildRequest(num_outputs=2, channels=1, image_size=NOISE_PIXELS))
    return FitRequest(
        choices=find_choices(protocol, open_registry()),
        spec=TINY_NETWORK,
        module=module,
        dataset=draw_fold(targets, split_of),
        pixels=pixels,
        protocol=replace(protocol, **changes, rounds=NUM_ROUNDS, batch_size=BATCH_SIZE, tune=()),
        seed=0,
        precision="fp32",
        val_score=lambda val: float(val.probabilities[np.arange(len(val)), val.targets].mean()),
        notify=lambda _: None,
    )


def draw_fold(targets: Any, split_of: Any) -> DecodedFold:
    ids = np.arange(NUM_NOISE_IMAGES).astype(str)
    return DecodedFold(
        name="noise",
        task=next(task for task in TASKS.values() if task.targets.has_positive),
        labels=("no", "yes"),
        positive=1,
        unit="image",
        has_patients=False,
        symmetries=(),
        intensity=(0.0, 255.0),
        sample_ids=ids,
        patients=ids,
        targets=targets,
        split_of=split_of,
        images=Path("none.npy"),  # the pixels are in memory
        content_hash="",
        split_hash="",
        fold=0,
        num_folds=1,
    )


PROTOCOL_CHECKS = (
    Check(id="protocol-fields", claim="Its fields are valid", run=check_protocol_fields),
    Check(id="protocol-budget", claim="Its budget of steps holds its limits and rounds", run=check_budget),
    Check(id="protocol-grid", claim="Every point of its grid is a valid protocol", run=check_grid_points),
    Check(id="protocol-substitute", claim="The protocol for random init is installed", run=check_substitute),
    Check(
        id="protocol-trains", claim="A few steps change parameters, without images of test", run=check_training_steps
    ),
)
