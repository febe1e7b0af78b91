"""A third party's plugin as it could be written against zoo at 2e28dcf; never adapt it to a later zoo."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo import (
    BINARY,
    FINETUNE,
    MULTICLASS,
    MULTILABEL,
    ORDINAL,
    REGRESSION,
    SEGMENTATION,
    Answers,
    BuildRequest,
    DataError,
    DatasetSpec,
    Decisions,
    Event,
    ExecutorSpec,
    FetchRequest,
    Head,
    MetricRequest,
    MetricSpec,
    ModelSpec,
    ObserverSpec,
    Presentation,
    Protocol,
    RemoteWork,
    Samples,
    SamplesRequest,
    Suite,
    TargetFault,
    Targets,
    Task,
    Undefined,
    Weights,
    WeightsError,
    ZooError,
    card_dataset,
    download,
    find_data,
    find_source,
    hash_in_name,
    hookimpl,
    load_weights,
    read_npz_samples,
    written_whole,
)

# --- models ----------------------------------------------------------------------------------------------------------


def build_cnn(request: BuildRequest):
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


def build_masker(request: BuildRequest):
    """Logits of every pixel."""
    from torch import nn

    first = nn.Conv2d(request.channels, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, request.num_outputs, 3, padding=1))


def fetch_weights(request: FetchRequest):
    """Weights drawn from a seed instead of a download."""
    import torch
    from safetensors.torch import save_file

    path = request.folder / "v2_cnn.safetensors"
    if not path.exists():
        random = torch.Generator().manual_seed(1)
        shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (10, 32), "fc.bias": (10,)}
        request.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            save_file({name: torch.randn(shape, generator=random) for name, shape in shapes.items()}, temporary)
    return path


def layer_groups(module):
    return [list(module[:-1].parameters()), list(module[-1].parameters())]


def features(module, images):
    return module[:-1](images)


@hookimpl
def register_models():
    return [
        ModelSpec(
            name="v2_cnn",
            title="five layers",
            family="small",
            build=build_cnn,
            tasks=("binary", "v2_smoothed"),
            weights=(Weights(tag="drawn", image_size=16, license="CC0", pretraining=("noise",)),),
            fetch_weights=fetch_weights,
            classifier="fc",
            first_conv="conv",
            image_size=16,
            min_image_size=8,
            layer_groups=layer_groups,
            features=features,
            license="MIT",
            citation="ours",
            version=1,
        ),
        ModelSpec(name="v2_masker", build=build_masker, tasks=("segmentation",), image_size=16, size_multiple=2),
    ]


# --- datasets --------------------------------------------------------------------------------------------------------


def table_of_dots():
    """120 images of 40 patients."""
    import pandas

    number = np.arange(120)
    return pandas.DataFrame(
        {
            "sample_id": [f"dot{n}" for n in number],
            "image": number,
            "patient": [f"p{n // 6 * 2 + n % 2}" for n in number],
            "split": np.where(number < 60, "train", np.where(number < 84, "val", "test")),
            "site": np.where(number % 4 < 2, "north", "south"),
        }
    )


def read_dot(image):
    random = np.random.default_rng(int(image))
    pixels = random.integers(0, 60, (16, 16)) + np.where(mask_of_dot(image), 190, 0)
    return pixels.astype(np.uint8)


def mask_of_dot(image):
    """uint8 (16, 16): a square of two sizes."""
    size = 4 + 6 * (int(image) % 2)
    mask = np.zeros((16, 16), np.uint8)
    mask[3 : 3 + size, 3 : 3 + size] = 1
    return mask


def find_dot(image):
    return mask_of_dot(image)[None].astype(bool)


def half_a_millimeter(image):
    return (0.5, 0.5)


def open_dots(request: SamplesRequest):
    if not request.folder:
        raise DataError("no folder", fix="give one")
    table = table_of_dots()
    return Samples(table=table, targets=(table["image"].to_numpy() % 2), read=read_dot, findings=find_dot)


def open_masks(request: SamplesRequest):
    table = table_of_dots()
    return Samples(table=table, read=read_dot, masks=mask_of_dot, spacing=half_a_millimeter, notes=("squares",))


DOTS = DatasetSpec(
    name="v2_dots",
    title="Dots",
    task=BINARY,
    labels=("small", "large"),
    positive="large",
    samples=open_dots,
    license="CC0",
    channels=1,
    image_size=16,
    patient="patient",
    official_splits=("train", "val", "test"),
    metadata=("site",),
    symmetries=("hflip", "vflip"),
    synthetic=True,
)


@hookimpl
def register_datasets():
    return [
        DOTS,
        replace(DOTS, name="v2_smooth_dots", task=SMOOTHED),
        replace(DOTS, name="v2_masks", task=SEGMENTATION, labels=("dot",), positive="", samples=open_masks),
    ]


# --- metrics, a task, protocols, a suite -----------------------------------------------------------------------------


def is_right(request: MetricRequest):
    return (request.decisions == request.targets).astype(float)


def compute_share(request: MetricRequest):
    if request.decisions is None or not len(request.targets):
        raise Undefined("no decisions")
    return float(is_right(request).mean())


def resample_share(request, weights):
    return weights @ is_right(request) / weights.sum(axis=1)


def count_right(request):
    return int(is_right(request).sum()), len(request.targets)


def influence_on_share(request):
    return is_right(request) - is_right(request).mean()


def note_of_share(request):
    return "of all units"


@hookimpl
def register_metrics():
    tasks = ("binary", "v2_smoothed")
    return [
        MetricSpec(name="v2_right", title="right", tasks=tasks, per_unit=is_right),
        MetricSpec(
            name="v2_share",
            title="share of right decisions",
            tasks=tasks,
            compute=compute_share,
            resample=resample_share,
            counts=count_right,
            influence=influence_on_share,
            note=note_of_share,
            bounds=(0.0, 1.0),
            citation="ours",
            higher_is_better=True,
            version=2,
        ),
    ]


class SmoothedHead(Head):
    def loss(self, logits, targets):
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, label_smoothing=0.1)


SMOOTHED = Task(
    name="v2_smoothed",
    primary_metric="v2_share",
    metrics=("v2_share", "v2_right"),
    targets=BINARY.targets,
    head=SmoothedHead(),
    answers=BINARY.answers,
    decisions=BINARY.decisions,
    presentation=Presentation(title="smoothed", chance=("v2_share", 0.5, ".5")),
)


@hookimpl
def register_tasks():
    kinds = (Targets, Head, Answers, Decisions)
    parts = (SMOOTHED.targets, SMOOTHED.head, SMOOTHED.answers, SMOOTHED.decisions)
    assert all(map(isinstance, parts, kinds)) and TargetFault(None, "a", "b").row is None
    assert all(isinstance(task, Task) for task in (MULTICLASS, MULTILABEL, ORDINAL, REGRESSION))
    return [SMOOTHED]


@hookimpl
def register_protocols():
    quick = replace(FINETUNE, name="v2_quick", title="eight steps", epochs=None, steps=8, rounds=2, image_size=16)
    return [
        replace(quick, min_steps=0, max_steps=None, without_weights=""),
        Protocol(name="v2_masks", steps=4, rounds=1, batch_size=4, image_size=16, select_by="best", weights="none"),
    ]


@hookimpl
def register_suites():
    return [
        Suite(
            name="v2_suite",
            title="two tasks",
            models=("v2_cnn",),
            datasets=("v2_dots", "v2_smooth_dots"),
            protocol="v2_quick",
            metrics=("v2_share", "v2_right"),
            seeds=(0,),
        )
    ]


# --- an executor and an observer -------------------------------------------------------------------------------------


def execute(works, carry_out, **options):
    """One work after the other, each in a forked process."""
    waiting, pending = list(works), True
    while waiting or pending:
        ready = options["more"]() if pending else None
        pending = ready is not None
        waiting += ready or ()
        if not waiting:
            continue
        work = waiting.pop(0)
        device = next(device for device in options["devices"] if options["fits"](work, device))
        yield Event(work=work, kind="started")
        child = os.fork()
        if not child:
            try:
                carry_out(work, device, lambda details: None)
            except ZooError:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        outcome = {"status": "ok"} if not status else {"status": "failed", "code": "failed", "message": "it failed"}
        yield Event(work=work, kind="ended", **outcome)


@hookimpl
def register_executors():
    assert RemoteWork
    return [ExecutorSpec(name="v2_forks", title="forks", execute=execute)]


class Recorder:
    def bench_started(self, event):
        self.path = Path(event["results"]) / "recorded.txt"

    def run_finished(self, event):
        with open(self.path, "a") as stream:
            stream.write(json.dumps([event["run"]["model"], event["status"]]) + "\n")


@hookimpl
def register_observers():
    return [ObserverSpec(name="v2_recorder", title="records", start=Recorder)]


USED_ELSEWHERE = (WeightsError, card_dataset, download, find_data, find_source, hash_in_name, read_npz_samples)
