"""The conformance kit: valid specs pass, and each error fails with a sentence."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import nn

from zoo import BINARY, MULTILABEL, REGRESSION
from zoo.errors import Undefined
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.specs.dataset import DatasetSpec, Samples
from zoo.specs.metric import MetricSpec
from zoo.specs.model import BuildRequest, ModelSpec, Weights
from zoo.testing import check_dataset, check_metric, check_model


# --- models ----------------------------------------------------------------------------------------------------------
class Tiny(nn.Module):
    """One convolution and one linear layer; `after` may spoil the features."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.after = after or nn.Identity()
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(self.after(self.conv(images).relu().mean(dim=(2, 3))))


def build_tiny(request: BuildRequest, after: Callable | None = None) -> nn.Module:
    return Tiny(after() if after else None)


def build_whole(request: BuildRequest) -> nn.Module:
    """A model that looks after its head and its first convolution itself."""
    conv = nn.Conv2d(request.channels, 4, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, request.num_outputs))


TINY = ModelSpec(name="tiny", build=build_tiny, classifier="fc", first_conv="conv")


class Detached(nn.Module):
    def forward(self, features):
        return features.detach()


class AlwaysDropout(nn.Module):
    def forward(self, features):
        return torch.dropout(features, 0.5, train=True)


class MinusBatchMean(nn.Module):
    def forward(self, features):
        return features - features.mean(dim=0)


class LogOfNegative(nn.Module):
    def forward(self, features):
        return torch.log(features - 1e6)


class Bounded(Tiny):
    """A model whose outputs pass through `bound`, which the spec does not name."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, images):
        return self.bound(super().forward(images))


def build_bounded(request, bound):
    return Bounded(bound)


def build_whole_and_bounded(request, bound):
    return nn.Sequential(build_whole(request), bound)


class TwoInTraining(Tiny):
    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


def build_two_in_training(request):
    return TwoInTraining()


def build_from_numpy_noise(request):
    module = Tiny()
    with torch.no_grad():
        module.conv.weight.copy_(torch.from_numpy(np.random.normal(size=(8, 3, 3, 3))))
    return module


def build_fixed(request):
    if request.image_size != 96:
        raise ValueError(f"{request.image_size} px")
    return Tiny()


def one_dimension(module, images):
    return module.conv(images).mean()


def twice(module):
    return [list(module.parameters()), list(module.fc.parameters())]


def stem_only(module):
    return [list(module.conv.parameters())]


@pytest.mark.parametrize(
    "spec",
    [
        TINY,
        ModelSpec(name="whole", build=build_whole),
        replace(TINY, first_conv=""),  # gray images are repeated
        replace(TINY, build=build_fixed, image_size=96, fixed_size=True),
        replace(TINY, size_multiple=14, image_size=224),
    ],
    ids=["head and stem named", "builds its own", "gray repeated", "fixed size", "multiple of 14"],
)
def test_a_valid_model_passes(spec):
    assert check_model(spec) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "res net"}, "model name 'res net': expected letters"),
        ({"name": "net.v2"}, "model name 'net.v2'"),
        ({"tasks": ("binary", "multi-class")}, "no task 'multi-class'. Did you mean 'multiclass'"),
        ({"tasks": ()}, "`tasks` is empty"),
        ({"build": lambda request: Tiny()}, "`build` cannot be pickled"),
        ({"weights": (Weights(tag="a"), Weights(tag="a"))}, "repeated weights tag: a, a"),
        ({"weights": (Weights(tag="a", mean=(0.5,)),)}, "weights 'a': `mean` and `std` need one number for each of 3"),
        ({"std": (1.0, 0.0, 1.0)}, "`std` must be positive"),
        ({"mean": (0.0,) * 3, "weights": (Weights(tag="a"),)}, "but those of its default weights 'a' are"),
        ({"image_size": 225, "size_multiple": 32}, "`image_size` 225"),
        ({"build": build_fixed}, "building it for 3 outputs and 1 channels at 32 px raised ValueError: 32 px"),
        ({"classifier": "head"}, "building it for 3 outputs"),
        ({"classifier": ""}, "returned (2, 10), expected a tensor of shape (2, 3)"),
        ({"build": build_from_numpy_noise}, "two builds from the same seed give different outputs"),
        ({"build": partial(build_tiny, after=AlwaysDropout)}, "is dropout still active?"),
        ({"build": partial(build_tiny, after=MinusBatchMean)}, "depend on the other images of its batch"),
        ({"build": partial(build_tiny, after=LogOfNegative)}, "logits of ordinary images are not finite"),
        ({"build": partial(build_tiny, after=Detached)}, "no gradient reaches 2 of 4 parameters, such as conv.weight"),
        ({"build": build_two_in_training}, "in training mode it returns tuple, expected a tensor of shape (4, 2)"),
        ({"features": one_dimension}, "features"),
        ({"layer_groups": twice}, "`layer_groups` has a parameter in two groups"),
        ({"layer_groups": stem_only}, "`layer_groups` leaves out fc.weight, fc.bias"),
    ],
)
def test_an_invalid_model_fails_with_the_reason(changes, words):
    with pytest.raises(AssertionError) as caught:
        check_model(replace(TINY, **changes))
    assert words in str(caught.value)


class Transpose(nn.Module):
    def forward(self, volumes):
        return volumes.transpose(2, 3)


def build_for_cubes(request):
    return nn.Sequential(nn.Conv3d(request.channels, request.num_outputs, 1), Transpose())


def test_a_model_of_volumes_accepts_unequal_sides():
    spec = ModelSpec(name="cubes", build=build_for_cubes, tasks=("segmentation",), dims=(3,), image_size=32)
    with pytest.raises(AssertionError, match=r"returns \(2, 2, 16, 24, 16\), expected .* \(2, 2, 24, 16, 16\)"):
        check_model(spec)


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (torch.relu, "outputs cannot go below 0: something after the head bounds them"),
        (torch.sigmoid, "outputs cannot go below 0: something after the head bounds them"),
        (partial(torch.softmax, dim=1), "outputs cannot go below 0: something after the head bounds them"),
        (partial(torch.log_softmax, dim=1), "outputs cannot go above 0: something after the head bounds them"),
        (torch.tanh, "outputs cannot go beyond -1 and 1: something after the head bounds them"),
    ],
    ids=["ReLU", "sigmoid", "softmax", "log-softmax", "tanh"],
)
def test_a_model_with_bounded_outputs_fails(bound, words):
    with pytest.raises(AssertionError) as caught:
        check_model(replace(TINY, build=partial(build_bounded, bound=bound)))
    assert words in str(caught.value)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("bound", "side"),
    [(nn.ReLU(), "below"), (nn.Sigmoid(), "below"), (nn.Softmax(dim=1), "below"), (nn.LogSoftmax(dim=1), "above")],
    ids=["ReLU", "sigmoid", "softmax", "log-softmax"],
)
def test_bounded_outputs_are_detected_without_a_named_classifier(bound, side):
    spec = ModelSpec(name="whole", build=partial(build_whole_and_bounded, bound=bound))
    with pytest.raises(AssertionError, match=f"outputs cannot go {side} 0: something after the head bounds them"):
        check_model(spec)


def test_checking_a_model_restores_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_model(TINY)
    assert torch.equal(torch.rand(3), expected)


# --- datasets --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dots:
    """Open 24 images of 12 patients; `changes` are table columns to set, or to drop with None."""

    changes: tuple = ()
    targets: object = None
    read: Callable | None = None
    fields: tuple = ()

    def __call__(self, request):
        table = pandas.DataFrame(
            {
                "sample_id": [f"image {row}" for row in range(24)],
                "image": list(range(24)),
                "patient": [f"patient {row // 2}" for row in range(24)],
                "split": ["train"] * 12 + ["val"] * 4 + ["test"] * 8,
            }
        )
        for column, values in self.changes:
            if values is None:
                del table[column]
            else:
                table[column] = values
        targets = np.arange(24) // 2 % 2 if self.targets is None else self.targets
        return Samples(table=table, targets=targets, read=self.read or read_dot, **dict(self.fields))


def read_dot(image):
    return np.full((8, 8), image, dtype=np.uint8)


def read_as(image, dtype=np.uint8, shape=(8, 8)):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def read_mixed(image):
    return np.zeros((8, 8), np.uint8 if image % 2 else np.uint16)


def read_missing(image):
    raise FileNotFoundError("image.png")


class Counting:
    """A reader with shared state, like that of a file handle."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return np.full((8, 8), self.calls % 250, dtype=np.uint8)


class Shuffled:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, request):
        return Dots(changes=(("sample_id", self.rng.permutation([f"image {row}" for row in range(24)])),))(request)


DOTS = DatasetSpec(
    name="dots",
    task=BINARY,
    labels=("no", "yes"),
    samples=Dots(),
    channels=1,
    patient="patient",
    official_splits=("train", "val", "test"),
    license="CC0-1.0",
)
NAN = float("nan")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"samples": Dots(changes=(("split", None), ("patient", None))), "official_splits": (), "patient": "none"},
        {"samples": Dots(read=partial(read_as, dtype=np.uint16))},
        {"samples": Dots(read=partial(read_as, shape=(8, 6, 3))), "channels": 3},
        {"samples": Dots(targets=np.linspace(0, 1, 24)), "task": REGRESSION, "labels": ("score",)},
        {"samples": Dots(targets=np.array([[1, NAN], [0, 1], [1, 0]] * 8)), "task": MULTILABEL},
    ],
    ids=["gray", "no patients or splits", "16 bit", "color", "regression", "multi-label with missing targets"],
)
def test_a_valid_dataset_passes(tmp_path, changes):
    assert check_dataset(replace(DOTS, **changes), tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "dots/2"}, "dataset name 'dots/2': expected letters"),
        ({"samples": lambda request: Dots()(request)}, "`samples` cannot be pickled"),
        ({"task": "binary"}, "task is 'binary', expected Task such as zoo.BINARY"),
        ({"labels": ("no", "no")}, "labels is ('no', 'no'), expected tuple[str, ...], each once"),
        ({"labels": ("no", "perhaps", "yes")}, "expected 2 labels, got 3"),
        ({"positive": "maybe"}, "`positive` is 'maybe'; expected a label of a binary task: no, yes"),
        ({"symmetries": ("flip",)}, "symmetries is ('flip',), expected tuple[str, ...] of hflip, vflip, rot90"),
        ({"unit": "lesion"}, "unit is 'lesion', expected one of auto, image, clip, patient"),
        ({"title": 5}, "dataset 'dots': title is 5, expected str"),
        ({"license": ""}, "`license` is empty"),
        (
            {"intensity": (400, -1000)},
            "intensity is (400, -1000), expected tuple[float, float] | None, finite, the lower",
        ),
        ({"samples": Counting()}, "`samples` returned ndarray, expected Samples"),
        ({"samples": Dots(changes=(("sample_id", "one"),))}, "sample_id 'one' is repeated"),
        ({"samples": Dots(changes=(("patient", 7),))}, "column 'patient' holds [7], expected str"),
        ({"samples": Dots(changes=(("patient", ""),))}, "a row has no patient"),
        ({"samples": Dots(changes=(("patient", None),))}, "patient = 'patient' but the table has no column 'patient'"),
        ({"patient": "none: image level"}, "the table has a column 'patient'"),
        ({"samples": Dots(changes=(("split", "training"),))}, "split 'training'"),
        ({"official_splits": ("train", "test")}, "official_splits = ['test', 'train'], the table has"),
        ({"metadata": ("age",)}, "`metadata` names columns that are not in the table: age"),
        ({"samples": Dots(targets=np.zeros(23, np.int64))}, "23 targets for 24 images"),
        ({"samples": Dots(targets=np.arange(24) % 2 * 1.0)}, "targets are float64"),
        ({"samples": Dots(targets=np.arange(24) % 3)}, "label 2, expected 0 to 1"),
        ({"samples": Dots(read=partial(read_as, dtype=np.float32))}, "pixels are float32, expected uint8 or uint16"),
        (
            {"samples": Dots(read=partial(read_as, shape=(3, 8, 8)))},
            "pixels of shape (3, 8, 8), expected (height, width)",
        ),
        ({"samples": Dots(read=partial(read_as, shape=(0, 8)))}, "the image is empty"),
        (
            {"samples": Dots(read=partial(read_as, shape=(8, 8, 3)))},
            "a color image, but the spec declares channels = 1",
        ),
        ({"samples": Dots(read=read_mixed)}, "images are uint16 and uint8"),
        ({"samples": Dots(read=read_missing)}, "reading the image of 'image 0' raised FileNotFoundError: image.png"),
        ({"samples": Dots(read=Counting())}, "`read` gives different pixels when called in threads"),
        ({"samples": Shuffled()}, "opening it twice gives different samples or a different order"),
    ],
)
def test_an_invalid_dataset_fails_with_the_reason(tmp_path, changes, words):
    with pytest.raises(AssertionError) as caught:
        check_dataset(replace(DOTS, **changes), tmp_path)
    assert words in str(caught.value)


def test_missing_files_are_named(tmp_path):
    spec = replace(DOTS, samples=Dots(fields=(("files", (tmp_path / "gone.png",)),)))
    with pytest.raises(AssertionError, match=r"1 of `files` do not exist, such as .*gone\.png"):
        check_dataset(spec, tmp_path)


def test_official_splits_that_share_a_patient_are_a_warning(tmp_path):
    patients = ["patient 0", *[f"patient {row // 2}" for row in range(1, 23)], "patient 0"]
    spec = replace(DOTS, samples=Dots(changes=(("patient", patients),)))
    with pytest.warns(UserWarning, match="1 patients are in several official splits, such as 'patient 0'"):
        check_dataset(spec, tmp_path)


# --- metrics ---------------------------------------------------------------------------------------------------------
def accuracy(request):
    return accuracy_score(request.targets, request.decisions)


def resampled_accuracy(request, weights):
    return weights @ (request.targets == request.decisions) / weights.sum(axis=1)


def resample_without_weights(request, weights):
    return np.full(len(weights), accuracy(request))


def count_right(request):
    return int((request.targets == request.decisions).sum()), len(request.targets)


def count_wrong(request):
    return int((request.targets != request.decisions).sum()), len(request.targets)


def error_rate(request):
    return 1 - accuracy(request)


def not_a_number(request):
    return accuracy(request) * float("nan")


def random_number(request):
    return accuracy(request) * np.random.uniform(0.9, 1.0)


def later_counts_more(request):
    return np.average(request.targets == request.decisions, weights=np.arange(1, len(request.targets) + 1))


def one_resample_for_all(request, weights):
    return accuracy(request)


def writes(request):
    request.probabilities[:] = 0
    return accuracy(request)


def nan_for_one_class(request):
    return accuracy(request) if len(np.unique(request.targets)) > 1 else float("nan")


def always_undefined(request):
    raise Undefined("not today")


def undefined_without_a_reason(request):
    if len(np.unique(request.targets)) < 2:
        raise Undefined
    return accuracy(request)


ACCURACY = MetricSpec(
    name="accuracy", compute=accuracy, resample=resampled_accuracy, counts=count_right, tasks=("binary", "multiclass")
)


@pytest.mark.parametrize("spec", [ACCURACY, *METRICS], ids=lambda spec: spec.name)
def test_a_valid_metric_passes(spec):
    assert check_metric(spec) is None


def is_right(request):
    return request.targets == request.decisions


def right_by_label(request):
    return np.stack([np.where(request.targets == label, is_right(request), np.nan) for label in range(2)], axis=1)


def one_number(request):
    return np.array(is_right(request).mean())


def rank_of_unit(request):
    return np.argsort(np.argsort(request.probabilities[:, 1])) * is_right(request) / len(request.targets)


def infinite_if_wrong(request):
    return np.where(is_right(request), 1.0, -np.inf)


@pytest.mark.parametrize("per_unit", [is_right, right_by_label])
def test_a_metric_of_one_function_passes(per_unit):
    assert check_metric(MetricSpec(name="right", per_unit=per_unit, tasks=("binary",))) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"per_unit": one_number}, "per_unit gives the shape (), expected"),
        ({"per_unit": rank_of_unit}, "another value if it is tested with other units"),
        ({"per_unit": infinite_if_wrong}, "got -inf"),
        ({"per_unit": infinite_if_wrong, "compute": accuracy}, "`per_unit` gives infinity"),
        ({"per_unit": right_by_label, "compute": accuracy}, "the mean of `per_unit` is"),
        ({"per_unit": is_right, "resample": resample_without_weights}, "`resample` gives"),
    ],
)
def test_an_invalid_metric_of_one_function_fails_with_the_reason(fields, words):
    with pytest.raises(AssertionError) as caught:
        check_metric(MetricSpec(name="right", tasks=("binary",), **fields))
    assert words in str(caught.value)


def test_an_error_rate_passes_when_lower_is_better():
    spec = MetricSpec(name="error", compute=error_rate, tasks=("binary",), higher_is_better=False)
    assert check_metric(spec) is None
    with pytest.raises(AssertionError, match=r"perfect predictions give 0, random ones 0\.\d+, but higher_is_better"):
        check_metric(replace(spec, higher_is_better=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a b"}, "metric name 'a b': expected letters"),
        ({"tasks": "binary"}, "metric 'accuracy': tasks is 'binary', expected tuple[str, ...]"),
        ({"tasks": ("detection",)}, "no task 'detection'"),
        ({"compute": lambda request: 1.0}, "`compute` cannot be pickled"),
        ({"compute": not_a_number}, "expected a finite number, got nan (raise Undefined where there is none)"),
        ({"compute": random_number}, "the same predictions give two different values"),
        ({"compute": later_counts_more}, "the value depends on the order of the rows"),
        ({"compute": writes}, "read-only"),
        ({"compute": nan_for_one_class}, "raise Undefined(reason) if there is no value"),
        ({"compute": always_undefined}, "undefined (not today) for ordinary predictions of every class"),
        ({"compute": undefined_without_a_reason}, "raises Undefined without a reason"),
        ({"bounds": (0.0, 0.6)}, "outside the metric's bounds"),
        ({"resample": resample_without_weights}, "`resample` gives"),
        ({"resample": one_resample_for_all}, "`resample` returned the shape ()"),
        ({"counts": count_wrong}, "`counts` gives"),
        ({"note": count_right}, "`note` must return a str"),
        ({"tasks": ("regression",)}, "metric 'accuracy', regression task"),
    ],
)
def test_an_invalid_metric_fails_with_the_reason(changes, words):
    with pytest.raises(AssertionError) as caught:
        check_metric(replace(ACCURACY, **changes))
    assert words in str(caught.value)
