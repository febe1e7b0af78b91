"""The example plugin does what it shows: a model for any size and channels, a metric that agrees with its formula."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

import zoo_example
from zoo import BINARY, MULTICLASS, BuildRequest, MetricRequest, Undefined
from zoo.testing import check_metric, check_model

(MODEL,) = zoo_example.register_models()
SPHERICAL, METRIC = zoo_example.register_metrics()


def asked(targets, decisions, labels, task=MULTICLASS):
    decisions = np.array(decisions)
    return MetricRequest(
        task=task,
        labels=labels,
        targets=np.array(targets),
        probabilities=np.eye(len(labels))[decisions],
        decisions=decisions,
    )


def test_the_plugin_fits_on_one_page():
    assert len(Path(inspect.getfile(zoo_example)).read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("size", [28, 64, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_model_accepts_any_size_and_channels(size, channels):
    import torch

    module = MODEL.build(BuildRequest(num_outputs=5, channels=channels, image_size=size))
    assert module(torch.randn(2, channels, size, size)).shape == (2, 5)


def test_the_model_has_three_convolutions_and_two_linear_layers():
    from torch import nn

    module = MODEL.build(BuildRequest(num_outputs=2, channels=3, image_size=28))
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(3, 64), (64, 128), (128, 256)]
    assert sum(isinstance(layer, nn.Linear) for layer in module.modules()) == 2


@pytest.mark.integration
def test_the_model_passes_the_conformance_kit():
    check_model(MODEL)


@pytest.mark.parametrize("metric", [SPHERICAL, METRIC])
def test_the_metrics_pass_the_conformance_kit(metric):
    check_metric(metric)


def test_the_spherical_score_of_two_known_rows():
    request = replace(asked([0, 1], [0, 1], ("no", "yes"), BINARY), probabilities=np.array([[0.6, 0.8], [0.0, 1.0]]))
    assert SPHERICAL.compute(request) == pytest.approx((0.6 + 1) / 2)


def test_the_metric_of_two_known_recalls():
    request = asked([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], ("no", "yes"), BINARY)
    assert METRIC.compute(request) == pytest.approx((0.75 * 0.5) ** 0.5)


def test_it_is_the_geometric_mean_of_the_recalls_of_scikit_learn():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 200)
    decisions = np.where(generator.random(200) < 0.6, targets, generator.integers(0, 3, 200))
    recalls = recall_score(targets, decisions, average=None)
    expected = np.exp(np.log(recalls).mean())
    assert METRIC.compute(asked(targets, decisions, ("a", "b", "c"))) == pytest.approx(expected)


def test_a_label_that_is_never_predicted_makes_the_metric_zero():
    assert METRIC.compute(asked([0, 1, 1], [0, 0, 0], ("no", "yes"), BINARY)) == 0.0


def test_a_label_without_images_makes_the_metric_undefined():
    with pytest.raises(Undefined, match="'yes'"):
        METRIC.compute(asked([0, 0], [0, 1], ("no", "yes"), BINARY))
