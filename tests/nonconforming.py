"""Specs that conform, and specs that fail one check of the conformance kit each, by the id of the check."""

import os
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pandas
import torch
from torch import nn

from zoo import (
    BINARY,
    FINETUNE,
    SEGMENTATION,
    DataError,
    DatasetSpec,
    EstimatorSpec,
    Event,
    ExecutorSpec,
    Head,
    LossSpec,
    MetricSpec,
    ModelSpec,
    ObserverSpec,
    ReaderSpec,
    Samples,
    SamplingSpec,
    Section,
    SectionSpec,
    Suite,
    TransformSpec,
    Undefined,
    Weights,
)
from zoo.models.estimators import ESTIMATORS
from zoo.system.workers import execute
from zoo.training.losses import FOCAL, TASK_LOSS
from zoo.training.samplings import BALANCED, UNIFORM
from zoo.training.transforms import CLAHE, CUTOUT

SIDE = 32


# --- models ----------------------------------------------------------------------------------------------------------
class Tiny(nn.Module):
    """One convolution and one linear layer; `inside` changes the features, `outside` the logits."""

    def __init__(self, inside=None, outside=None, outputs=10, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.fc = nn.Linear(8, outputs)
        self.inside, self.outside = inside, outside

    def forward(self, images):
        features = self.conv(images).relu().mean(dim=(2, 3))
        logits = self.fc(self.inside(features) if self.inside else features)
        return self.outside(logits) if self.outside else logits


def build_tiny(request, inside=None, outside=None, before=None):
    if before:
        before(request)
    return Tiny(inside, outside)


def build_own_head(request, least=1):
    """A model whose spec names no layer, of at least some outputs."""
    return Tiny(outputs=max(least, request.num_outputs), channels=request.channels)


def build_three_channels(request):
    return Tiny(outputs=request.num_outputs)


def refuse_size(request, size):
    if request.image_size == size:
        raise ValueError(f"{size} px")


def fail(_):
    raise ValueError("cannot be built")


def call_home(_):
    socket.create_connection(("example.org", 80))


def seed_torch(_):
    torch.manual_seed(5)


def seed_python(_):
    random.seed(0)


def build_double(request):
    return Tiny().double()


def build_unrepeatable(request):
    module = Tiny()
    noise = np.random.default_rng(list(os.urandom(4))).normal(size=module.conv.weight.shape)
    with torch.no_grad():
        module.conv.weight.copy_(torch.from_numpy(noise))
    return module


def give_pair(logits):
    return logits, logits


def refuse_four(logits):
    if len(logits) == 4:
        raise ValueError("four images")
    return logits


def log_of_negative(features):
    return torch.log(features * 0 - 1)


def divide_by_spread(images):
    return images / images.std()


class Normalizing(Tiny):
    def forward(self, images):
        return super().forward(images / images.std())


def build_normalizing(request):
    return Normalizing()


def drop_always(features):
    return torch.dropout(features, 0.5, train=True)


def minus_batch_mean(features):
    return features - features.mean(dim=0)


def drop_batch_axis(logits):
    return logits[0] if len(logits) == 1 else logits


def detach(features):
    return features.detach()


class Hiding(Tiny):
    """A network with a layer in a plain list."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8)]
        self.inside = self.layers[0].forward


def build_hiding(request):
    return Hiding()


class Forgetting(Tiny):
    """A network whose buffer is not in its state dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(8), persistent=False)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean(dim=(2, 3)) + self.shift)


def build_forgetting(request):
    return Forgetting()


def stem_only(module):
    return [list(module.conv.parameters())]


def mean_of_batch(module, images):
    return module.conv(images).mean()


def fetch_tiny(request):
    """Write the weights of a network, as if they had been downloaded."""
    from safetensors.torch import save_file

    path = Path(gettempdir()) / f"zoo-tiny-{os.getpid()}.safetensors"
    torch.manual_seed(1)
    save_file(Tiny().state_dict(), path)
    return path


def build_with_weights(request):
    from zoo import load_weights

    module = Tiny()
    if request.weights:
        load_weights(module, request.weights)
    return module


TINY = ModelSpec(name="tiny", build=build_tiny, classifier="fc", first_conv="conv", image_size=SIDE, min_image_size=8)
WITH_WEIGHTS = replace(TINY, build=build_with_weights, weights=(Weights(tag="demo"),), fetch_weights=fetch_tiny)
OWN_HEAD = replace(TINY, build=build_own_head, classifier="", first_conv="")


class Formula(nn.Module):
    """The mean of each channel, and a head; `noise` is drawn."""

    def __init__(self, outputs, noise=None):
        super().__init__()
        self.fc = nn.Linear(1, outputs)
        self.noise = nn.Parameter(torch.randn(1), requires_grad=False) if noise else None

    def forward(self, images):
        features = images.mean(dim=(1, 2, 3))[:, None]
        return self.fc(features if self.noise is None else features * self.noise)


def build_formula(request, noise=None):
    return Formula(request.num_outputs, noise)


class TwoInputs(Tiny):
    """Adds the metadata to the logits' input, or ignores them."""

    def __init__(self, request, ignore=False):
        super().__init__(outputs=request.num_outputs, channels=request.channels)
        self.ignore, self.join = ignore, nn.Linear(max(1, request.metadata), 8)

    def forward(self, images, metadata=None):
        features = self.conv(images).relu().mean(dim=(2, 3))
        if metadata is not None and not self.ignore:
            features = features + self.join(metadata)
        return self.fc(features)


def build_two_inputs(request, ignore=False):
    return TwoInputs(request, ignore)


def build_two_inputs_of_three_channels(request):
    return TwoInputs(replace(request, channels=3))


class Named(nn.Module):
    """Logits from the length of each label's name, or from its position."""

    def __init__(self, labels, by_position=False):
        super().__init__()
        self.factors = [index if by_position else len(label) for index, label in enumerate(labels)]

    def forward(self, images):
        return images.mean(dim=(1, 2, 3))[:, None] * torch.tensor(self.factors, dtype=torch.float32)


def build_named(request, by_position=False):
    return Named(request.labels, by_position)


def tiny(**changes):
    return replace(TINY, build=partial(build_tiny, **changes))


FIXED = ModelSpec(name="formula", build=build_formula, classifier="fc", fixed=True, min_image_size=8, version=1)
NAMED = ModelSpec(name="named", build=build_named, fixed=True, zero_shot=True, min_image_size=8, version=1)
TWO_INPUTS = ModelSpec(name="two", build=build_two_inputs, metadata=True, min_image_size=8, version=1)
GOOD_MODELS = {
    "two inputs": TWO_INPUTS,
    "two inputs, repeated gray": replace(TWO_INPUTS, build=build_two_inputs_of_three_channels, classifier="fc"),
    "named layers": TINY,
    "own head": OWN_HEAD,
    "weights": WITH_WEIGHTS,
    "fixed": FIXED,
    "zero-shot": NAMED,
}
BAD_MODELS = {
    "model-fields": replace(TINY, tasks=("binary", "multi-class")),
    "model-builds": tiny(before=fail),
    "model-offline": tiny(before=call_home),
    "model-seed": tiny(before=seed_torch),
    "model-float32": replace(TINY, build=build_double),
    "model-outputs": tiny(outside=give_pair),
    "model-repeats": replace(TINY, build=build_unrepeatable),
    "model-process": tiny(before=seed_python),
    "model-own-size": replace(tiny(before=partial(refuse_size, size=64)), image_size=64),
    "model-other-size": tiny(before=partial(refuse_size, size=48)),
    "model-gray": replace(OWN_HEAD, build=build_three_channels),
    "model-one-output": replace(OWN_HEAD, build=partial(build_own_head, least=2)),
    "model-evaluates": tiny(outside=refuse_four),
    "model-finite": tiny(inside=log_of_negative),
    "model-black": replace(TINY, build=build_normalizing),
    "model-deterministic": tiny(inside=drop_always),
    "model-batch": tiny(inside=minus_batch_mean),
    "model-one-image": tiny(outside=drop_batch_axis),
    "model-unbounded": tiny(outside=torch.sigmoid),
    "model-trains": tiny(inside=detach),
    "model-registered": replace(TINY, build=build_hiding),
    "model-groups": replace(TINY, layer_groups=stem_only),
    "model-features": replace(TINY, features=mean_of_batch),
    "model-state": replace(TINY, build=build_forgetting),
    "model-fixed": replace(FIXED, build=partial(build_formula, noise=True)),
    "model-zero-shot": replace(NAMED, build=partial(build_named, by_position=True)),
    "model-metadata": replace(TWO_INPUTS, build=partial(build_two_inputs, ignore=True)),
    "model-weights": replace(WITH_WEIGHTS, build=build_tiny),
}


# --- metrics ---------------------------------------------------------------------------------------------------------
def is_right(request):
    return (request.decisions == request.targets).astype(float)


def accuracy(request):
    return float(is_right(request).mean())


def resampled_accuracy(request, weights):
    return weights @ is_right(request) / weights.sum(axis=1)


def count_right(request):
    return int(is_right(request).sum()), len(request.targets)


def count_wrong(request):
    return int(len(request.targets) - is_right(request).sum()), len(request.targets)


def ignore_weights(request, weights):
    return np.linspace(0, 1, len(weights)) * 0 + accuracy(request) + np.arange(len(weights)) * 0.05


def always_undefined(request):
    raise Undefined("never defined")


def noise(request):
    return random.random()


def percent(request):
    return 100 * accuracy(request)


def later_counts_more(request):
    return float(np.average(is_right(request), weights=np.arange(1, 1 + len(request.targets))))


def of_second_class(request):
    """Recall of the class with index 1, whatever the positive one is."""
    rows = request.targets == 1
    if not rows.any():
        raise Undefined("no positives")
    return float(is_right(request)[rows].mean())


def nan_counts_as_zero(request):
    return float((request.decisions == (np.nan_to_num(request.targets) == 1)).mean())


def flags_right(request):
    right = (request.decisions == (request.targets == 1)).astype(float)
    return np.where(np.isnan(request.targets), np.nan, right)


def share_of_rank(request):
    """Not a value of the unit alone."""
    return is_right(request) * len(request.targets) / 240


def number_for_a_note(request):
    return 5


def nan_for_one_class(request):
    return float("nan") if len(set(request.targets.tolist())) < 2 else accuracy(request)


def zero_for_one_class(request):
    return 0.0 if len(set(request.targets.tolist())) < 2 else accuracy(request)


def of_even_patients(request):
    even = request.patients % 2 == 0
    if not even.any():
        raise Undefined("no patient of an even number")
    return float(is_right(request)[even].mean())


def wrong_patients(request):
    """The first image of each patient, and whether any of its images is wrong."""
    _, first, rows = np.unique(request.patients, return_index=True, return_inverse=True)
    return first, np.bincount(rows, weights=1 - is_right(request)) > 0


def patient_accuracy(request):
    return float(1 - wrong_patients(request)[1].mean())


def resampled_patients(request, weights):
    first, wrong = wrong_patients(request)
    return 1 - (weights[:, first] * wrong).sum(axis=1) / weights[:, first].sum(axis=1)


def each_patient_once(request, weights):
    return resampled_patients(request, np.minimum(weights, 1))


PATIENTS = MetricSpec(
    name="patients_right", tasks=("binary",), compute=patient_accuracy, resample=resampled_patients, patients=True
)
ACCURACY = MetricSpec(name="right", tasks=("binary", "multiclass"), compute=accuracy)
BY_UNIT = MetricSpec(name="right_by_unit", tasks=("binary", "multiclass"), per_unit=is_right)
FLAGS = MetricSpec(name="flags_right", tasks=("multilabel",), per_unit=flags_right)
COMPLETE = replace(ACCURACY, resample=resampled_accuracy, counts=count_right)
GOOD_METRICS = {
    "compute": ACCURACY,
    "per unit": BY_UNIT,
    "flags": FLAGS,
    "resample and counts": COMPLETE,
    "patients": PATIENTS,
}
BAD_METRICS = {
    "metric-fields": replace(ACCURACY, name="a b"),
    "metric-value": replace(ACCURACY, compute=always_undefined),
    "metric-deterministic": replace(ACCURACY, compute=noise),
    "metric-direction": replace(ACCURACY, higher_is_better=False, bounds=(0.0, None)),
    "metric-bounds": replace(ACCURACY, compute=percent),
    "metric-order": replace(ACCURACY, compute=later_counts_more),
    "metric-positive": replace(ACCURACY, compute=of_second_class, tasks=("binary",)),
    "metric-unknown": MetricSpec(name="flags", tasks=("multilabel",), compute=nan_counts_as_zero),
    "metric-patients": replace(PATIENTS, compute=of_even_patients, resample=None),
    "metric-per-unit": replace(BY_UNIT, per_unit=share_of_rank),
    "metric-resample": replace(ACCURACY, resample=ignore_weights),
    "metric-counts": replace(ACCURACY, counts=count_wrong),
    "metric-note": replace(ACCURACY, note=number_for_a_note),
    "metric-degenerate": replace(ACCURACY, compute=nan_for_one_class),
    "metric-stand-in": replace(ACCURACY, compute=zero_for_one_class),
}


# --- datasets --------------------------------------------------------------------------------------------------------
NUM_DOTS = 24


@dataclass(frozen=True)
class Dots:
    """Open 24 images of 12 patients; `changes` are table columns to set, or to drop with None."""

    changes: tuple = ()
    targets: object = None
    read: Callable | None = None
    before: Callable | None = None
    fields: tuple = ()

    def __call__(self, request):
        if self.before:
            self.before(request)
        table = pandas.DataFrame(
            {
                "sample_id": [f"image {row}" for row in range(NUM_DOTS)],
                "image": list(range(NUM_DOTS)),
                "patient": [f"patient {row // 2}" for row in range(NUM_DOTS)],
                "split": ["train"] * 12 + ["val"] * 4 + ["test"] * 8,
            }
        )
        for column, values in self.changes:
            if values is None:
                del table[column]
            else:
                table[column] = values
        targets = np.arange(NUM_DOTS) // 2 % 2 if self.targets is None else self.targets
        return Samples(table=table, targets=targets, read=self.read or read_dot, **dict(self.fields))


def read_dot(image):
    return np.full((8, 8), 9 * image, dtype=np.uint8)


def read_copy(image):
    """The first image of val is a copy of the last one of train."""
    return read_dot(11 if image == 12 else image)


def read_torn(image):
    if image == 20:
        raise OSError("image 20 is torn")
    return read_dot(image)


class Counting:
    """A reader with shared state, like that of a file handle."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return np.full((8, 8), self.calls % 250, dtype=np.uint8)


def read_by_thread(image):
    """Other pixels outside the main thread."""
    import threading

    return read_dot(image) + (threading.current_thread() is not threading.main_thread())


class Shuffled:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, request):
        return Dots(changes=(("sample_id", self.rng.permutation([f"image {row}" for row in range(NUM_DOTS)])),))(
            request
        )


def fail_to_open(request):
    raise KeyError("column 7")


def look_for_data(request):
    """Need the file `dots.txt`, and try the network for it whatever `offline` says."""
    if not (request.folder / "dots.txt").is_file():
        call_home(request)


def need_data(request):
    if not (request.folder / "dots.txt").is_file():
        raise DataError("no dots.txt", code="offline")


@dataclass(frozen=True)
class WithFiles:
    """Dots whose labels come from `dots.txt` in the folder."""

    def __call__(self, request):
        need_data(request)
        return Dots(fields=(("tables", (request.folder / "dots.txt",)),))(request)


DOTS = DatasetSpec(
    name="dots",
    task=BINARY,
    labels=("no", "yes"),
    samples=Dots(before=need_data),
    channels=1,
    patient="patient",
    official_splits=("train", "val", "test"),
    license="CC0-1.0",
)
MD5_OF_DOTS = "f3e3cf3e1a9ebd5e0d7ac1c5f1c6a7b1"  # not that of the file


def dots(**changes):
    return replace(DOTS, samples=Dots(before=need_data, **changes))


SHARED = tuple(f"patient {row // 2 % 8}" for row in range(NUM_DOTS))
ONE_CLASS = np.array([0, 1] * 6 + [0, 1] * 2 + [1] * 8)


def mask_of(image):
    mask = np.zeros((8, 8), np.uint8)
    mask[: 1 + image % 5] = 1
    return mask


class Masked:
    def __call__(self, request):
        need_data(request)
        return replace(Dots(fields=(("masks", mask_of),))(request), targets=None)


GOOD_DATASETS = {
    "masks": replace(DOTS, task=SEGMENTATION, labels=("dot",), samples=Masked()),
    "patients and splits": DOTS,
    "neither": replace(
        dots(changes=(("split", None), ("patient", None))), official_splits=(), patient="none: image level"
    ),
    "declared leaks": replace(dots(read=read_copy), known_issues=("image 12 is a copy of image 11",)),
}
BAD_DATASETS = {
    "dataset-fields": replace(DOTS, license=""),
    "dataset-opens": replace(DOTS, samples=fail_to_open),
    "dataset-rows": dots(changes=(("patient", None),)),
    "dataset-splits": replace(DOTS, official_splits=("train", "test")),
    "dataset-images": dots(read=read_torn),
    "dataset-threads": dots(read=read_by_thread),
    "dataset-stable": replace(DOTS, samples=Shuffled()),
    "dataset-patients": dots(changes=(("patient", SHARED),)),
    "dataset-copies": dots(read=read_copy),
    "dataset-classes": dots(targets=ONE_CLASS),
    "dataset-hashes": replace(DOTS, samples=WithFiles(), checksums={"dots.txt": MD5_OF_DOTS}),
    "dataset-offline": replace(DOTS, samples=Dots(before=look_for_data)),
}


# --- protocols and tasks ---------------------------------------------------------------------------------------------
STEPS = replace(FINETUNE, name="short", epochs=None, steps=100, min_steps=0, max_steps=None, without_weights="")
GOOD_PROTOCOLS = {"steps": STEPS, "epochs": FINETUNE}
BAD_PROTOCOLS = {
    "protocol-fields": replace(STEPS, learning_rate=-1.0),
    "protocol-budget": replace(STEPS, steps=10, rounds=20),
    "protocol-grid": replace(STEPS, tune=(("learning_rate", (1e-4, -1e-4)),)),
    "protocol-substitute": replace(STEPS, without_weights="scrach"),
    "protocol-trains": replace(STEPS, learning_rate=0.0),
}


class ConstantLoss(Head):
    def loss(self, logits, targets):
        return (logits * 0).sum()


class Unscaled(type(BINARY.answers)):
    def from_logits(self, logits, scale=(0.0, 1.0)):
        return logits


class Drawing(type(BINARY.targets)):
    """Draws classes that it refuses itself."""

    def draw(self, rng, count, num_labels):
        targets, perfect = super().draw(rng, count, num_labels)
        return targets + 7, perfect


GOOD_TASKS = {"binary": BINARY}
BAD_TASKS = {
    "task-fields": replace(BINARY, primary_metric="dice"),
    "task-targets": replace(BINARY, targets=Drawing()),
    "task-answers": replace(BINARY, answers=Unscaled()),
    "task-loss": replace(BINARY, head=ConstantLoss()),
    "task-metrics": replace(BINARY, metrics=(*BINARY.metrics, "no_such_metric")),
}


# --- estimators ------------------------------------------------------------------------------------------------------
class MeanTarget:
    """A logistic function of the distance to the mean input of the second class; the options make it wrong."""

    def __init__(self, arrays, columns=2, of_batch=False, flat=False):
        self.arrays, self.columns, self.of_batch, self.flat = arrays, columns, of_batch, flat

    def __call__(self, inputs):
        center = inputs.mean(axis=0) if self.of_batch else self.arrays["center"]
        values = 1 / (1 + np.exp(-((inputs - center) @ self.arrays["slope"])))
        values = 0 * values + 0.5 if self.flat else values
        return np.stack([1 - values, *[values] * (self.columns - 1)], axis=1)


def fit_mean_target(request, *, noise=None, write=False, one_label=False, **options):
    if write:
        request.inputs -= request.inputs.mean(axis=0)
    present = request.targets == 1
    if present.all() or not present.any():
        if one_label:
            raise ValueError("expected 2 classes")
        raise DataError("train has one class", fix="give images of both")
    slope = request.inputs[present].mean(axis=0) - request.inputs[~present].mean(axis=0)
    slope /= np.linalg.norm(slope)  # so that no probability is so near to 0 or 1 that noise does not change it
    if noise is not None:
        slope = slope + np.random.default_rng(noise(request)).normal(0, 0.1, len(slope))
    return MeanTarget({"center": request.inputs.mean(axis=0), "slope": slope}, **options)


def seed_of(request):
    return request.seed


def no_seed(_):
    return None


def arrays_of_mean(predict):
    return predict.arrays


def forget_center(predict):
    return {**predict.arrays, "center": 0 * predict.arrays["center"]}


def fit_known_labels(request):
    """Fails if train lacks a label."""
    from zoo.models.estimators import fit_centroids

    if (request.task.targets.to_flags(request.targets, request.num_labels) == 1).any(axis=0).sum() == 2:
        raise ValueError("a label is missing")
    return fit_centroids(request)


MEAN_TARGET = EstimatorSpec(
    name="mean-target", fit=fit_mean_target, tasks=("binary",), state=arrays_of_mean, restore=MeanTarget
)


def mean_target(**options):
    return replace(MEAN_TARGET, fit=partial(fit_mean_target, **options), state=None, restore=None)


GOOD_ESTIMATORS = {
    "mean target": MEAN_TARGET,
    "seeded": replace(mean_target(noise=seed_of), seeded=True),
    **{spec.name: spec for spec in ESTIMATORS},
}
BAD_ESTIMATORS = {
    "estimator-fields": replace(MEAN_TARGET, restore=None),
    "estimator-fits": mean_target(write=True),
    "estimator-answers": mean_target(columns=3),
    "estimator-absent": EstimatorSpec(name="known-labels", fit=fit_known_labels, tasks=("multiclass",)),
    "estimator-one-label": mean_target(one_label=True),
    "estimator-repeats": mean_target(noise=no_seed),
    "estimator-seeded": mean_target(noise=seed_of),
    "estimator-rows": mean_target(of_batch=True),
    "estimator-learns": mean_target(flat=True),
    "estimator-state": replace(MEAN_TARGET, state=forget_center),
}


# --- executors -------------------------------------------------------------------------------------------------------
def changed_events(works, carry_out, *, change, **options):
    """The events of the local executor, each replaced by those that `change` returns."""
    events = execute(works, carry_out, **options)
    try:
        for event in events:
            yield from change(event)
    finally:
        events.close()


def twice(event):
    return [event, event] if event.kind == "ended" else [event]


def without_start(event):
    return [] if event.kind == "started" else [event]


def raise_failures(event):
    if event.status == "failed":
        raise ValueError(event.message)
    return [event]


def raise_crashes(event):
    if event.status in ("crashed", "oom"):
        raise ValueError(event.message)
    return [event]


def claim_all(works, carry_out, **options):
    """Report works as done that were never carried out."""
    for work in works:
        yield Event(work=work, kind="started")
        yield Event(work=work, kind="ended", status="ok")


def without_option(works, carry_out, *, option, value, **options):
    yield from execute(works, carry_out, **{**options, option: value})


def leave_running(works, carry_out, **options):
    """Let a daemonic thread read the events of the local executor, which nobody closes."""
    import queue
    import threading

    events = queue.Queue()

    def read():
        for event in execute(works, carry_out, **options):
            events.put(event)
        events.put(None)

    threading.Thread(target=read, daemon=True).start()
    yield from iter(events.get, None)


def nothing_more():
    return None


def changing(change):
    return ExecutorSpec(name="changing", execute=partial(changed_events, change=change))


GOOD_EXECUTORS = {"local": ExecutorSpec(name="local", execute=execute)}
BAD_EXECUTORS = {
    "executor-fields": ExecutorSpec(name="a b", execute=execute),
    "executor-works": ExecutorSpec(name="claims", execute=claim_all),
    "executor-once": changing(twice),
    "executor-events": changing(without_start),
    "executor-failure": changing(raise_failures),
    "executor-kill": changing(raise_crashes),
    "executor-timeout": ExecutorSpec(name="patient", execute=partial(without_option, option="timeout", value=None)),
    "executor-cancel": ExecutorSpec(name="leaves", execute=leave_running),
    "executor-fail-fast": ExecutorSpec(
        name="stubborn", execute=partial(without_option, option="fail_fast", value=False)
    ),
    "executor-more": ExecutorSpec(name="deaf", execute=partial(without_option, option="more", value=nothing_more)),
}


# --- observers -------------------------------------------------------------------------------------------------------
class RunCounter:
    """Count the events of the end of a run; `fail_if` may raise."""

    def __init__(self, fail_if=None):
        self.fail_if, self.num_runs = fail_if, 0

    def run_finished(self, event):
        self.num_runs += 1
        if self.fail_if and self.fail_if(event):
            raise ValueError("no score")


class MisspelledMethod(RunCounter):
    def bench_finish(self, event):
        self.num_runs = 0


def has_scores(event):
    return event["scores"]


def has_no_scores(event):
    return not event["scores"]


class PrivateMethod(RunCounter):
    def _bench_finished(self):
        self.num_runs = 0


GOOD_OBSERVERS = {
    "counting": ObserverSpec(name="counting", start=RunCounter),
    "private method": ObserverSpec(name="private", start=PrivateMethod),
}
BAD_OBSERVERS = {
    "observer-fields": ObserverSpec(name="a b", start=RunCounter),
    "observer-methods": ObserverSpec(name="misspelled", start=MisspelledMethod),
    "observer-events": ObserverSpec(name="fails", start=partial(RunCounter, has_scores)),
    "observer-failures": ObserverSpec(name="needs_scores", start=partial(RunCounter, has_no_scores)),
}


# --- losses, samplings and transforms --------------------------------------------------------------------------------
def build_by_margin(request, margin):
    """A loss of the margin between the target and the other class."""
    return partial(margin_loss, margin=margin)


def margin_loss(logits, targets, margin):
    own = logits.gather(1, targets[:, None])[:, 0]
    return margin(2 * own - logits.sum(dim=1))


def log_of_margin(margins):
    return (-margins).exp().log().mean() - margins.abs().sqrt().mean()


def softplus(margins):
    return torch.nn.functional.softplus(-margins).mean()


def wrong_way(margins):
    return softplus(-margins)


def hardest_half(margins):
    losses = torch.nn.functional.softplus(-margins)
    return losses[losses >= losses.median()].mean()


def unbiased_mean(margins):
    return torch.nn.functional.softplus(-margins).sum() / (len(margins) - 1)


def by_place(margins):
    places = torch.linspace(0.5, 1.5, len(margins), device=margins.device)
    return (places * torch.nn.functional.softplus(-margins)).mean()


def margin_spec(margin, **changes):
    return LossSpec(name="margin", build=partial(build_by_margin, margin=margin), tasks=("binary",), **changes)


def build_half(request):
    return partial(draw_some, count=request.num_images // 2)


def build_by_first_label(request):
    return partial(draw_some, count=len(request.flags[:, 0]))


def build_unseeded(request):
    return partial(draw_unseeded, count=request.num_images)


def draw_some(generator, count):
    return torch.randperm(count, generator=generator)


def draw_unseeded(generator, count):
    return torch.randperm(count)


def halve(pixels):
    return pixels[::2, ::2]


def add_levels(pixels):
    pixels += 1
    return pixels


def center_batch(images, draws):
    return images - images.mean()


def to_levels_of_255(images, draws):
    return images * 255


def dim_one(images, draws):
    return images * 0.5 if draws[0, 0] > 0.5 else images * 0.6


GOOD_LOSSES = {"task": TASK_LOSS, "focal": FOCAL, "margin": margin_spec(softplus)}
BAD_LOSSES = {
    "loss-fields": margin_spec(softplus, version="1"),
    "loss-gradients": margin_spec(log_of_margin),
    "loss-direction": margin_spec(wrong_way),
    "loss-one-image": margin_spec(unbiased_mean),
    "loss-order": margin_spec(by_place),
    "loss-replay": margin_spec(hardest_half),
}
GOOD_SAMPLINGS = {"uniform": UNIFORM, "balanced": BALANCED}
BAD_SAMPLINGS = {
    "sampling-fields": replace(UNIFORM, tasks=("binry",)),
    "sampling-pass": SamplingSpec(name="half", build=build_half),
    "sampling-seed": SamplingSpec(name="unseeded", build=build_unseeded),
    "sampling-unlabeled": SamplingSpec(name="by-label", build=build_by_first_label),
}
GOOD_TRANSFORMS = {"clahe": CLAHE, "cutout": CUTOUT}
BAD_TRANSFORMS = {
    "transform-fields": replace(CUTOUT, citation=1993),
    "transform-shape": TransformSpec(name="half", prepare=halve),
    "transform-repeats": TransformSpec(name="brighter", prepare=add_levels),
    "transform-batch": TransformSpec(name="center", augment=center_batch),
    "transform-range": TransformSpec(name="levels", augment=to_levels_of_255),
    "transform-replay": TransformSpec(name="dim", augment=dim_one),
}


# --- readers ---------------------------------------------------------------------------------------------------------
DOT_ROWS, DOT_COLUMNS = 2, 5  # of the image in dots.txt, whose characters are its pixels


def read_dots(path, rows=DOT_ROWS, change=None, size=None):
    """The characters of a text of 10 bytes as an image."""
    values = np.frombuffer(path.read_bytes()[:size], np.uint8)
    pixels = np.resize(values, (rows, DOT_COLUMNS)) if size else values.reshape(rows, DOT_COLUMNS)
    return change(path, pixels) if change else pixels


def space_dots(path, sizes=(0.5, 0.5)):
    return sizes


def brighten_at_random(path, pixels):
    return pixels + np.uint8(random.randrange(100))


def brighten_in_threads(path, pixels):
    return pixels + np.uint8(threading.current_thread() is not threading.main_thread())


def note_beside(path, pixels):
    path.with_suffix(".note").write_text("read")
    return pixels


DOTS_IN_TEXT = ReaderSpec(name="dots", suffixes=(".dots",), read=read_dots, spacing=space_dots)


def dots_reader(**options):
    return replace(DOTS_IN_TEXT, read=partial(read_dots, **options))


GOOD_READERS = {"dots": DOTS_IN_TEXT, "without spacing": replace(DOTS_IN_TEXT, spacing=None)}
BAD_READERS = {
    "reader-fields": replace(DOTS_IN_TEXT, version="1"),
    "reader-arrays": dots_reader(rows=3),
    "reader-spacing": replace(DOTS_IN_TEXT, spacing=partial(space_dots, sizes=(0.5, 0.5, 0.5))),
    "reader-repeats": dots_reader(change=brighten_at_random),
    "reader-threads": dots_reader(change=brighten_in_threads),
    "reader-truncated": dots_reader(size=100),
    "reader-untouched": dots_reader(change=note_beside),
}


# --- suites ----------------------------------------------------------------------------------------------------------
SUITE = Suite(name="two", models=("constant", "thumb*"), metrics=("auroc",), settings=(("epochs", "3"),))
GOOD_SUITES = {"names": SUITE, "defaults": Suite(name="defaults", models=("constant",))}
BAD_SUITES = {
    "suite-fields": replace(SUITE, version="1"),
    "suite-names": replace(SUITE, datasets=("no-such-dataset",)),
    "suite-settings": replace(SUITE, settings=(("epocs", "3"),)),
}


# --- sections --------------------------------------------------------------------------------------------------------
def build_means(request, change=None):
    """The mean probability of each row; `change` makes it wrong."""
    if change:
        change(request)
    rows = [(row.label, row.stored[0][0]["test"].probabilities.mean()) for row in request.rows]
    return Section(columns=("model", "mean"), rows=tuple(rows)) if rows else None


def build_uneven(request):
    return Section(columns=("model", "mean"), rows=tuple((row.label,) for row in request.rows))


def build_noise(request):
    return Section(columns=("noise",), rows=((random.random(),),))


def use_second_row(request):
    return request.rows[1]


def center_probabilities(request):
    for row in request.rows:
        probabilities = row.stored[0][0]["test"].probabilities
        probabilities -= probabilities.mean()


def means_spec(change=None):
    return SectionSpec(name="means", build=partial(build_means, change=change), tasks=("binary",))


GOOD_SECTIONS = {"means": means_spec()}
BAD_SECTIONS = {
    "section-fields": replace(means_spec(), tasks=("binry", "binary")),
    "section-builds": replace(means_spec(), build=build_uneven),
    "section-repeats": replace(means_spec(), build=build_noise),
    "section-shrinks": means_spec(use_second_row),
    "section-reads": means_spec(center_probabilities),
}
