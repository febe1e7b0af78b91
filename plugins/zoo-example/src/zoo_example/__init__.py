"""The smallest useful plugin: one model and two metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo import BuildRequest, MetricRequest, MetricSpec, ModelSpec, Undefined, hookimpl

if TYPE_CHECKING:
    from torch import nn


def build_tutorial_cnn(request: BuildRequest) -> nn.Module:
    """Three convolutions with max-pooling, then two linear layers."""
    from torch import nn  # not at the top: `zoo list` must not import torch

    layers: list[nn.Module] = []
    for num_in, num_out in ((request.channels, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(num_in, num_out, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # one vector per image, whatever its size
    layers += [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, request.num_outputs)]
    return nn.Sequential(*layers)


def spherical_score(request: MetricRequest) -> np.ndarray:
    """Spherical score: probability of the target class, divided by the Euclidean norm of all class probabilities."""
    of_target = np.take_along_axis(request.probabilities, request.targets[:, None], axis=1)[:, 0]
    return of_target / np.linalg.norm(request.probabilities, axis=1)  # (N,): the metric is its mean


def compute_geometric_mean(request: MetricRequest) -> float:
    """Geometric mean of the recalls of all labels: 0 if any label is never predicted correctly."""
    if request.decisions is None:
        raise Undefined("no decisions")
    recalls = []
    for index, label in enumerate(request.labels):
        members = request.targets == index
        if not members.any():
            raise Undefined(f"no image with label {label!r}")
        recalls.append(np.mean(request.decisions[members] == index))
    return float(np.prod(recalls) ** (1 / len(recalls)))


@hookimpl
def register_models() -> list[ModelSpec]:
    return [ModelSpec(name="tutorial_cnn", title="Three-layer CNN", build=build_tutorial_cnn, min_image_size=8)]


@hookimpl
def register_metrics() -> list[MetricSpec]:
    return [
        MetricSpec(
            name="spherical_score",
            title="spherical score",
            tasks=("binary", "multiclass"),
            per_unit=spherical_score,
            citation="Gneiting & Raftery, Strictly proper scoring rules, prediction, and estimation, JASA 2007",
        ),
        MetricSpec(
            name="geometric_mean",
            title="geometric mean of the recalls",
            tasks=("binary", "multiclass"),
            compute=compute_geometric_mean,
            citation="Kubat & Matwin, Addressing the curse of imbalanced training sets, ICML 1997",
        ),
    ]
