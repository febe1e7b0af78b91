"""A third party's plugin as it could be written against zoo at 9b98e11; never adapt it to a later zoo."""

import numpy as np

from zoo import (
    BINARY,
    FINETUNE,
    DataError,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    Samples,
    Task,
    Undefined,
    Weights,
    hookimpl,
    load_weights,
)


def build(request):
    from collections import OrderedDict

    from torch import nn

    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, stride=2, padding=1),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(32, 10),
        )
    )
    if request.weights:
        load_weights(module, request.weights)
    return module


def open_dots(request):
    """Bright and dark squares of 40 patients, three images each."""
    import pandas

    if not request.folder:
        raise DataError("no folder", fix="give one")
    number = np.arange(120)
    levels = 60 + 90 * (number % 2)
    table = pandas.DataFrame(
        {
            "sample_id": [f"dot{n}" for n in number],
            "image": number,
            "patient": [f"p{n // 6 * 2 + n % 2}" for n in number],
            "split": np.where(number < 60, "train", np.where(number < 84, "val", "test")),
            "site": np.where(number % 4 < 2, "north", "south"),
        }
    )

    def read(image):
        noise = np.random.default_rng(int(image)).integers(0, 60, (16, 16))
        return (levels[int(image)] + noise).astype(np.uint8)

    return Samples(table=table, targets=(number % 2).astype(np.int64), read=read)


def right_share(request):
    if request.decisions is None or not len(request.targets):
        raise Undefined("no decisions")
    return float((request.decisions == request.targets).mean())


def resampled_share(request, weights):
    right = (request.decisions == request.targets).astype(float)
    return weights @ right / weights.sum(axis=1)


def influence_on_share(request):
    right = (request.decisions == request.targets).astype(float)
    return right - right.mean()


@hookimpl
def register_models():
    assert isinstance(BINARY, Task)
    head = {"classifier": "fc", "first_conv": "conv", "image_size": 32}
    return [
        ModelSpec(name="old_cnn", title="five layers", build=build, weights=(Weights(tag="demo"),), **head),
        ModelSpec(name="old_binary_cnn", build=build, tasks=("binary",), **head),
    ]


@hookimpl
def register_datasets():
    return [
        DatasetSpec(
            name="old_dots",
            title="Dots",
            task=BINARY,
            labels=("dark", "bright"),
            positive="bright",
            samples=open_dots,
            license="CC0",
            channels=1,
            image_size=16,
            patient="patient",
            official_splits=("train", "val", "test"),
            metadata=("site",),
        )
    ]


@hookimpl
def register_metrics():
    return [
        MetricSpec(
            name="old_share",
            title="share of right decisions",
            tasks=("binary", "multiclass"),
            compute=right_share,
            resample=resampled_share,
            influence=influence_on_share,
            higher_is_better=True,
        )
    ]


@hookimpl
def register_protocols():
    from dataclasses import replace

    return [replace(FINETUNE, name="old_quick", title="eight steps", epochs=None, steps=8, rounds=2, image_size=16)]
