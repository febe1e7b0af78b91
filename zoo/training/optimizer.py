"""Build the optimizer, its parameter groups and its learning rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zoo.errors import RunError
from zoo.models.building import has_batch_norm, layer_groups
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import Protocol
from zoo.system.devices import open_device

if TYPE_CHECKING:
    import torch
    from torch import nn


def build_optimizer(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """Build the optimizer with layer-wise learning rates, which `Feed` sets; no weight decay for norms and biases.

    Raises RunError if the model has no parameter that requires a gradient.
    """
    import torch

    groups = parameter_groups(spec, module, protocol)
    if not groups:
        raise RunError(
            f"model {spec.name!r} has no parameter that requires a gradient: there is nothing to fine-tune",
            fix="let the plugin's build return trainable parameters, or use --protocol linear-probe",
            code="nothing-to-train",
        )
    options: dict[str, Any] = open_device(str(next(module.parameters()).device)).optimizer_options()
    if protocol.optimizer == "sgd":
        options = {name: value for name, value in options.items() if name != "capturable"}  # SGD always is
        return torch.optim.SGD(groups, lr=protocol.learning_rate, momentum=protocol.momentum, **options)
    kind = torch.optim.AdamW if protocol.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=protocol.learning_rate, **options)


def parameter_groups(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay; the rate decreases geometrically from the head to the stem.

    The protocol fixes the ratio of stem to head, not the decay per group: .75 per group would give .075 for a resnet18
    with 10 groups and 4e-8 for a densenet121 with 60.
    """
    ratio = protocol.stem_to_head_ratio if has_batch_norm(module) else protocol.stem_to_head_ratio_no_batchnorm
    layers = layer_groups(spec, module)
    grouped = {id(parameter) for layer in layers for parameter in layer}
    layers[-1].extend(parameter for parameter in module.parameters() if id(parameter) not in grouped)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for depth, layer in enumerate(layers):
        share = ratio ** (1 - depth / (len(layers) - 1)) if len(layers) > 1 else 1.0
        for parameter in layer:
            if parameter.requires_grad:
                decay = protocol.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((share, decay), []).append(parameter)
    return [{"params": chosen, "weight_decay": decay, "share": share} for (share, decay), chosen in groups.items()]


def schedule_factor(protocol: Protocol, step: int, num_steps: int) -> float:
    """The factor on the peak learning rate at a step from 1 to num_steps: linear warm-up, then the schedule."""
    warmup = round(protocol.warmup * num_steps)
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, num_steps - warmup)
    if protocol.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if protocol.schedule == "steps":
        return float(0.1 ** sum((step - 1) / num_steps >= milestone for milestone in protocol.milestones))
    return 1.0
