"""What only a GPU shows; skipped, saying so, where there is none."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import SHORT, Greedy, Tiny, make, train

from zoo.inference import predict

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def on_gpu(pixels, *, resident):
    images = pixels.images.cuda() if resident else pixels.images
    return replace(pixels, images=images, mean=pixels.mean.cuda(), std=pixels.std.cuda(), device="cuda")


@pytest.mark.parametrize("resident", [True, False])
def test_the_host_waits_for_the_gpu_twice_an_epoch_at_most(resident):
    dataset, pixels = make(count=1600, symmetries=("hflip", "rot90"))  # 960 in train: 60 steps an epoch
    protocol = replace(SHORT, steps=None, epochs=2, rounds=2, min_steps=0, augmentation="one-of", symmetries=True)
    train(dataset, on_gpu(pixels, resident=resident), protocol)  # what is waited for the first time alone
    waits = []

    def count(row):
        if "val_score" not in row:
            waits.append(len(caught))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(dataset, on_gpu(pixels, resident=resident), protocol, notify=count)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    within_epochs = [waits[58] - waits[0], waits[117] - waits[60]]  # between the first and the last step but the end
    assert max(within_epochs) <= 2, [str(each.message) for each in caught][:5]


@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_learns_what_a_cpu_learns(resident):
    dataset, pixels = make()
    expected = train(dataset, pixels)
    found = train(dataset, on_gpu(pixels, resident=resident))
    for one, other in zip(expected.module.parameters(), found.module.cpu().parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)


def test_memory_that_runs_out_on_a_gpu_halves_the_part():
    dataset, pixels = make()

    class Hungry(Greedy):
        def forward(self, images):
            if len(images) > 4:
                torch.empty(1 << 50, device="cuda")  # a petabyte
            return Tiny.forward(self, images)

    found = train(dataset, on_gpu(pixels, resident=True), module=Hungry(2, 4))
    assert found.deviations == ("out of memory: batches of 16 in parts of 4",)
    probabilities = predict(
        found.module, dataset, on_gpu(pixels, resident=True), "test", precision="fp32"
    ).probabilities
    assert np.isfinite(probabilities).all()
