"""Trainings and predictions on a GPU, compared with those on a CPU.

ZOO_TEST_DEVICE names the device; the default is cuda, and without a GPU the tests are skipped. `sim` is the GPU that
simulated_gpu.py simulates; test_simulated_gpu.py runs these tests on it.
"""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
import simulated_gpu
import test_segmentation
import test_volume_classes
import test_volumes
import torch
from folders import open_source
from test_checkpoints import interrupted, new_module
from test_training import SHORT, TINY, Greedy, Tiny, make, train
from torch import nn

from zoo.data.cube_pixels import open_cubes
from zoo.data.dataset import Resolution, cache_decoded, open_fold
from zoo.data.opening import open_dataset
from zoo.data.pixels import open_pixels
from zoo.data.splits import draw_split
from zoo.data.volumes import Sides, open_volumes
from zoo.evaluation.predict import predict
from zoo.registry.choices import find_choices
from zoo.registry.opening import open_registry
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import QUICK3D, SEGMENT3D_QUICK, SEGMENT_QUICK, override
from zoo.system.devices import CaptureError, open_device
from zoo.system.replay import within_memory
from zoo.training.fitting import FitRequest, fit

DEVICE = os.environ.get("ZOO_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
if DEVICE == "sim":
    simulated_gpu.install()
pytestmark = pytest.mark.skipif(DEVICE not in ("cuda", "sim"), reason="torch sees no GPU here")
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="not simulated: streams, memory, speed, half precision")
ONE_OF = replace(SHORT, augmentation="one-of", symmetries=True)
TRANSFORMS = "bias-field,ghosting,motion,spike"  # of zoo-torchio
RESIDENT = pytest.mark.parametrize("resident", [True, False], ids=["resident", "sent"])


@pytest.fixture(autouse=True)
def prepared():
    open_device(DEVICE).prepare()


def on_gpu(pixels, *, resident=True):
    images = pixels.images.to(DEVICE) if resident else pixels.images
    return replace(pixels, images=images, mean=pixels.mean.to(DEVICE), std=pixels.std.to(DEVICE), device=DEVICE)


def with_hook(module):
    """The same network with a hook, which prevents capture."""
    module.register_forward_hook(lambda *_: None)
    return module


def parameters_of(fitted):
    """All parameters except the bias before the batch norm, whose gradient is rounding noise that AdamW scales to full
    steps."""
    named = fitted.module.named_parameters()
    return torch.cat([parameter.detach().cpu().flatten() for name, parameter in named if name != "conv.bias"])


# --- training -------------------------------------------------------------------------------------------------
@RESIDENT
@pytest.mark.parametrize("protocol", [SHORT, ONE_OF, replace(SHORT, optimizer="sgd")], ids=["plain", "one-of", "sgd"])
def test_a_captured_step_trains_as_an_eager_one_and_as_a_cpu(resident, protocol):
    dataset, pixels = make(symmetries=("hflip", "rot90"))
    on_cpu = train(dataset, pixels, protocol)
    captured = train(dataset, on_gpu(pixels, resident=resident), protocol)
    torch.manual_seed(0)
    eager = train(dataset, on_gpu(pixels, resident=resident), protocol, module=with_hook(Tiny(2)))
    assert captured.details["step"] == "captured" and "eager_reason" not in captured.details
    assert eager.details["step"] == "eager" and "hook" in eager.details["eager_reason"]
    torch.testing.assert_close(parameters_of(captured), parameters_of(eager), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(parameters_of(captured), parameters_of(on_cpu), atol=1e-3, rtol=1e-2)


@RESIDENT
def test_a_captured_step_with_every_choice_trains_as_on_a_cpu(resident):
    settings = {"loss": "focal", "class_weights": "inverse", "label_smoothing": "0.05", "sampling": "balanced"}
    protocol = override(SHORT, {**settings, "mixup": "0.2", "transforms": "cutout"})
    dataset, pixels = make()
    choices = find_choices(protocol, open_registry())
    on_cpu = train(dataset, pixels, protocol, choices=choices)
    captured = train(dataset, on_gpu(pixels, resident=resident), protocol, choices=choices)
    assert captured.details["step"] == "captured" and "eager_reason" not in captured.details
    torch.testing.assert_close(parameters_of(captured), parameters_of(on_cpu), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("at", [1, 7, 10, 29])
def test_an_interrupted_training_continues_to_the_same_network(at, tmp_path):
    dataset, pixels = make(symmetries=("hflip", "rot90"))
    whole = train(dataset, on_gpu(pixels), ONE_OF, module=new_module())
    actual = interrupted(tmp_path, at, dataset, on_gpu(pixels), ONE_OF)
    torch.testing.assert_close(parameters_of(actual), parameters_of(whole), atol=1e-4, rtol=1e-3)


def test_dropout_differs_from_step_to_step_and_follows_the_seed():
    dataset, pixels = make()
    first, again, other = (train(dataset, on_gpu(pixels), dropout=0.5, seed=seed) for seed in (1, 1, 2))
    assert first.details["step"] == "captured"
    torch.testing.assert_close(parameters_of(first), parameters_of(again))
    assert (parameters_of(first) - parameters_of(other)).abs().max() > 1e-3


def test_a_replayed_step_draws_new_dropout():
    device = open_device(DEVICE)
    with device.stream():
        total, ones = torch.zeros(1000, device=DEVICE), torch.ones(1000, device=DEVICE)

        def add():
            total.add_(nn.functional.dropout(ones, 0.5))

        add()
        replay = device.capture(add)
        total.zero_()
        for _ in range(64):
            replay()
    assert len(total.unique()) > 10  # the same mask each time would leave 0 and 128


@needs_cuda
def test_half_precision_with_scaled_gradients_learns():
    dataset, pixels = make()
    module = Tiny(2)
    fitted = train(dataset, on_gpu(pixels), module=module, precision="fp16")
    assert fitted.details["step"] == "captured"
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]


# --- masks, volumes and a second input ---------------------------------------------------------------------------
class Dense(nn.Module):
    """Logits of every pixel or voxel."""

    def __init__(self, outputs, dims):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.layers = nn.Sequential(convolution(1, 4, 3, padding=1), norm(4), nn.ReLU(), convolution(4, outputs, 1))

    def forward(self, images):
        return self.layers(images)


class Whole(nn.Module):
    """Logits of every volume."""

    def __init__(self, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(2))
        self.head = nn.Linear(32, outputs)

    def forward(self, volumes):
        return self.head(self.layers(volumes).flatten(1))


STEPS = {"steps": 8, "rounds": 2, "batch_size": 4, "epochs": None, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def images_with_masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    return open_decoded(test_segmentation.squares(folder, side=40), ("hflip", "rot90"), 40, 0, tmp_path_factory)


@pytest.fixture(scope="module")
def volumes_with_masks(tmp_path_factory):
    folder = test_volumes.msd(tmp_path_factory.mktemp("balls"))
    return open_decoded(folder, ("hflip", "rot90"), 16, 16, tmp_path_factory)


@pytest.fixture(scope="module")
def volumes_with_labels(tmp_path_factory):
    folder = test_volume_classes.write_set(tmp_path_factory.mktemp("scans"))
    return open_decoded(folder, ("hflip",), 12, 12, tmp_path_factory)


def open_decoded(folder, symmetries, side, patch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    source = open_dataset(open_source(folder)[0], cache)
    source = replace(source, spec=replace(source.spec, symmetries=symmetries))
    decoded = cache_decoded(source, Resolution(side, None), cache)
    return open_fold(source, draw_split(source, folds=1), 0, decoded, patch=patch)


def compare_with_cpu(dataset, protocol, build, open_on):
    """Train on a CPU and on the GPU, and compare the networks and what they predict."""
    fitted, predictions = [], []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        request = FitRequest(
            spec=replace(TINY, layer_groups=None),
            module=build(),
            dataset=dataset,
            pixels=open_on(device),
            protocol=protocol,
            seed=0,
            precision="fp32",
            val_score=lambda predictions: 0.0,
            notify=lambda row: None,
            choices=find_choices(protocol, open_registry()),
        )
        fitted.append(fit(request))
        predictions.append(fitted[-1].predict(dataset, request.pixels, "test", "fp32"))
    on_cpu, on_gpu = fitted
    assert on_gpu.details["step"] == "captured", on_gpu.details
    torch.testing.assert_close(flat(on_gpu), flat(on_cpu), atol=1e-3, rtol=1e-2)
    return predictions


def flat(fitted):
    """The parameters whose gradients are not rounding noise: not the biases before a batch norm."""
    return torch.cat([value.detach().cpu().flatten() for value in fitted.module.parameters() if value.ndim > 1])


@pytest.mark.parametrize("patch", [(), (16, 16)], ids=["whole", "patches"])
def test_masks_of_images_train_as_on_a_cpu(images_with_masks, patch):
    dataset = images_with_masks
    protocol = replace(SEGMENT_QUICK, **STEPS)
    expected, actual = compare_with_cpu(
        dataset, protocol, lambda: Dense(2, 2), lambda device: open_pixels(dataset, (0.5,), (0.25,), device, patch)
    )
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=20)  # counts of pixels, of 1,600


@pytest.mark.parametrize("transforms", ["", TRANSFORMS], ids=["plain", "transforms"])
def test_masks_of_volumes_train_as_on_a_cpu(volumes_with_masks, transforms):
    dataset = volumes_with_masks
    protocol = override(replace(SEGMENT3D_QUICK, **STEPS), {"transforms": transforms} if transforms else {})

    def open_on(device):
        return open_volumes(dataset.decoded, dataset.volumes, device, sides=Sides(8, 8))

    compare_with_cpu(dataset, protocol, lambda: Dense(3, 3), open_on)


def test_labels_of_volumes_train_as_on_a_cpu(volumes_with_labels):
    dataset = volumes_with_labels
    protocol = replace(QUICK3D, **STEPS)
    expected, actual = compare_with_cpu(
        dataset,
        protocol,
        lambda: Whole(2),
        lambda device: open_cubes(dataset.decoded, dataset.volumes.window, device),
    )
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-2)


# --- failed captures -----------------------------------------------------------------------------------------
class Waits(Tiny):
    def forward(self, images):
        return super().forward(images) * (1.0 if images.mean().item() < 1e9 else 0.0)


class Counts(Tiny):
    count = 0

    def forward(self, images):
        self.count += 1
        return super().forward(images)


class DrawsInPython(Tiny):
    def forward(self, images):
        import random

        return super().forward(images) * (0.9 + 0.2 * random.random())


class FailsWhenCaptured(Tiny):
    """Fails in a way that only the capture detects."""

    def forward(self, images):
        if open_device(DEVICE).is_capturing():
            raise RuntimeError("not while a stream is captured")
        return super().forward(images)


class WaitsWhenCaptured(Tiny):
    def forward(self, images):
        if open_device(DEVICE).is_capturing():
            torch.cuda.synchronize()
        return super().forward(images)


@pytest.mark.parametrize("kind", [Waits, Counts, DrawsInPython, FailsWhenCaptured, WaitsWhenCaptured])
def test_a_network_that_cannot_be_captured_trains_eagerly_and_reports_why(kind):
    dataset, pixels = make()
    fitted = train(dataset, on_gpu(pixels), module=kind(2, dropout=0.3).to(DEVICE))
    assert fitted.details["step"] == "eager" and fitted.details["eager_reason"]
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    after = train(dataset, on_gpu(pixels), dropout=0.3)  # the next training is not affected
    assert after.details["step"] == "captured"


def test_a_failed_capture_does_not_change_the_device():
    device = open_device(DEVICE)
    with device.stream():

        def fail():
            nn.functional.dropout(torch.ones(10, device=DEVICE), 0.5)
            raise ValueError("no")

        before = device.random_state()["device"]
        with pytest.raises(CaptureError, match="ValueError: no"):
            device.capture(fail)
        assert torch.equal(device.random_state()["device"], before)
        assert nn.functional.dropout(torch.ones(1000, device=DEVICE), 0.5).sum().item() > 0


# --- the host and the GPU --------------------------------------------------------------------------------------------
def count_waits(resident, module=None):
    """Count the waits in the second of two epochs of 60 steps, without the end of the epoch."""
    dataset, pixels = make(count=1600, symmetries=("hflip", "rot90"))  # 960 in train
    protocol = replace(ONE_OF, steps=None, epochs=2, rounds=2, min_steps=0)
    counts = []
    with open_device(DEVICE).counting_waits() as waits:
        notify = lambda row: counts.append(len(waits))  # noqa: E731
        train(dataset, on_gpu(pixels, resident=resident), protocol, notify=notify, module=module)
    return counts[118] - counts[60]


@RESIDENT
def test_the_host_waits_for_the_gpu_at_most_twice_per_epoch(resident):
    assert count_waits(resident) <= 2


def test_waits_of_a_network_are_counted():
    """Otherwise the test above could not fail."""
    assert count_waits(True, Waits(2).to(DEVICE)) >= 57


@needs_cuda
def test_the_host_is_only_a_few_steps_ahead():
    device = open_device(DEVICE)
    slow = torch.rand(8192, 8192, device=DEVICE)
    with device.stream():
        pace = device.pace()
        start = time.perf_counter()
        for _ in range(960):
            slow @ slow
            pace()
        queued = time.perf_counter() - start
        device.synchronize()
        whole = time.perf_counter() - start
    assert queued > 0.6 * whole  # some 3 s of work, of which half a second may be queued


# --- memory ----------------------------------------------------------------------------------------------------------
def test_running_out_of_gpu_memory_halves_the_part():
    dataset, pixels = make()

    class Hungry(Greedy):
        def forward(self, images):
            if len(images) > 4:
                torch.empty(1 << 50, device=DEVICE)  # a petabyte
            return Tiny.forward(self, images)

    fitted = train(dataset, on_gpu(pixels), module=Hungry(2, 4))
    assert fitted.deviations == (Deviation("batch-parts", (16, 4)),)
    probabilities = predict(fitted.module, dataset, on_gpu(pixels), "test", precision="fp32").probabilities
    assert np.isfinite(probabilities).all()


def test_a_run_on_a_shared_gpu_gets_it_alone_before_its_batch_is_halved():
    device, sizes = open_device(DEVICE), []

    def attempt(size):
        sizes.append(size)
        if len(sizes) < 3:
            raise torch.OutOfMemoryError("no")
        return "done"

    with device.shared():
        assert within_memory(attempt, 16, DEVICE) == ("done", 8)
    assert sizes == [16, 16, 8]


@needs_cuda
def test_peak_memory_and_name_are_those_of_the_device_itself():
    device = open_device("cuda:0")
    device.release_memory()
    before = torch.cuda.memory_allocated()
    device.prepare()
    kept = torch.empty(50_000_000, dtype=torch.uint8, device="cuda:0")
    assert 50_000_000 <= device.peak_memory_bytes() - before < 51_000_000
    assert device.describe()["gpu"] == torch.cuda.get_device_name(0)
    del kept
