"""The conformance kit for the tests of a plugin.

`check_model(spec)`, `check_dataset(spec, folder)` and `check_metric(spec)` try what a benchmark does, on little data.
They return None, or raise an AssertionError that describes the first problem and what was expected.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.checks import check_samples, complete_spec, unify_spellings
from zoo.errors import PluginError, Undefined, ZooError, nearest
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.thresholds import decide
from zoo.evaluation.values import compute
from zoo.models.building import build_model, feature_extractor, is_dense
from zoo.models.building import layer_groups as layer_groups_of
from zoo.registry.loading import check_fields, check_spec_name
from zoo.registry.lookup import Kind
from zoo.specs.dataset import DatasetSpec, Samples, SamplesRequest, parse_patient
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext, compute_mean, unit_values
from zoo.specs.model import BuildRequest, ModelSpec, Weights
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn


NUM_READ = 16  # images of a dataset to read
NUM_UNITS = 240  # predictions to compute a metric on
KIT_RESAMPLES = 10
FAR_OUTPUT = 50.0  # a bias that outweighs any ordinary feature; its sigmoid is 0 or 1
NUM_PUSHES = 50
NUM_LABELS = 4  # of random predictions; fewer if the task has a smaller maximum


def expect(condition: object, sentence: str) -> None:
    """Like `assert`, but not removed by `python -O`."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Turn any exception of a plugin's callable into an AssertionError that names the step."""
    try:
        yield
    except AssertionError:
        raise
    except ZooError as error:
        raise AssertionError(f"{what}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error


def check_spec_fields(kind: Kind, spec: Any) -> None:
    """Check that the name is valid in commands and paths, every field is valid, and every callable can be pickled."""
    try:
        check_spec_name(kind, spec.name)
        check_fields(kind, spec)
    except PluginError as error:
        raise AssertionError(str(error)) from error
    for part in dataclasses.fields(spec):
        value = getattr(spec, part.name)
        if not callable(value):
            continue
        try:
            pickle.dumps(value)
        except Exception as error:
            raise AssertionError(
                f"{kind} {spec.name!r}: `{part.name}` cannot be pickled, so it cannot be sent to a worker process "
                f"({error}); use a module-level function or functools.partial of one, not a lambda or nested function"
            ) from error


def check_tasks(kind: str, spec: ModelSpec | MetricSpec) -> None:
    for name in spec.tasks:
        expect(name in TASKS, f"{kind} {spec.name!r}: no task {name!r}. {nearest(name, TASKS) or ', '.join(TASKS)}")
    expect(spec.tasks, f"{kind} {spec.name!r}: `tasks` is empty, so it could never be used")


# --- models ----------------------------------------------------------------------------------------------------------
def check_model(spec: ModelSpec) -> None:
    """Build a model for one and three channels at two image sizes, and try a training step."""
    check_model_spec(spec)
    for dims in spec.dims:
        check_modules(spec, dims)


def check_modules(spec: ModelSpec, dims: int) -> None:
    """Check the modules of a model for images of two axes, or for volumes of three."""
    import torch

    first, second = sizes_to_try(spec, dims)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_module(spec, num_outputs=3, channels=1, size=first, dims=dims)
        images = torch.randn(4, 1, *(first,) * dims)
        check_evaluation(spec, module, images)
        again = build_module(spec, num_outputs=3, channels=1, size=first, dims=dims)
        expect(
            same_outputs(evaluate(module, images), evaluate(again, images)),
            f"model {spec.name!r}: two builds from the same seed give different outputs; draw random numbers from "
            "torch only",
        )
        module = build_module(spec, num_outputs=2, channels=3, size=second, dims=dims)
        check_training(spec, module, torch.randn(4, 3, *(second,) * dims), num_outputs=2)
        check_groups(spec, module)
        check_features(spec, module, torch.randn(4, 3, *(second,) * dims))
        check_bounds(spec, again, images)


def check_model_spec(spec: ModelSpec) -> None:
    name = f"model {spec.name!r}"
    check_spec_fields("model", spec)
    check_tasks("model", spec)
    records: list[tuple[str, ModelSpec | Weights]] = [(name, spec)]
    records += [(f"{name}, weights {weights.tag!r}", weights) for weights in spec.weights]
    for owner, record in records:
        expect(
            len(record.mean) == len(record.std) == spec.channels,
            f"{owner}: `mean` and `std` need one number for each of {spec.channels} channels",
        )
        expect(all(value > 0 for value in record.std), f"{owner}: `std` must be positive, got {record.std}")
        expect(record.image_size > 0, f"{owner}: `image_size` must be positive, got {record.image_size}")
    expect(
        spec.image_size % spec.size_multiple == 0 and spec.image_size >= spec.min_image_size,
        f"{name}: it does not accept its own `image_size` {spec.image_size}: expected a multiple of "
        f"{spec.size_multiple}, {spec.min_image_size} or more",
    )


def sizes_to_try(spec: ModelSpec, dims: int = 2) -> tuple[int, int]:
    """Two small image sizes that the spec allows; the only one, twice, if the size is fixed."""
    if spec.fixed_size:
        return spec.image_size, spec.image_size
    multiple = spec.size_multiple
    least = 32 if dims == 2 else 16
    first = -(-max(spec.min_image_size, least) // multiple) * multiple
    return first, first + max(1, least // 2 // multiple) * multiple


def build_module(spec: ModelSpec, *, num_outputs: int, channels: int, size: int, dims: int = 2) -> nn.Module:
    with step(f"model {spec.name!r}: building it for {num_outputs} outputs and {channels} channels at {size} px"):
        request = BuildRequest(num_outputs=num_outputs, channels=channels, image_size=size, dims=dims)
        return build_model(spec, request)


def evaluate(module: nn.Module, images: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        outputs: Tensor = module.eval()(images)
    return outputs


def same_outputs(first: Tensor, second: Tensor) -> bool:
    """Whether outputs are equal up to the rounding of float32 sums in a different order."""
    import torch

    return bool(torch.allclose(first, second, rtol=1e-3, atol=1e-4))


def check_evaluation(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    name = f"model {spec.name!r}"
    with step(f"{name}: evaluating it"):
        outputs = evaluate(module, images)
        expect(outputs.isfinite().all(), f"{name}: logits of ordinary images are not finite")
        expect(
            same_outputs(outputs, evaluate(module, images)),
            f"{name}: the same images give different logits the second time in eval mode; is dropout still active?",
        )
        expect(
            same_outputs(outputs[:1], evaluate(module, images[:1])),
            f"{name}: an image's logits depend on the other images of its batch in eval mode",
        )


def check_bounds(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    """Check that outputs are logits: nothing after the head bounds them. Changes the module's weights."""
    name = f"model {spec.name!r}"
    with step(f"{name}: moving its outputs"):
        if spec.classifier:
            low, high = (outputs_at(spec, module, images, bias) for bias in (-FAR_OUTPUT, FAR_OUTPUT))
        else:
            low, high = (push_outputs(module, images, sign) for sign in (-1, 1))
    if (low >= 0).any():
        bound = "below 0"
    elif (high <= 0).any():
        bound = "above 0"
    elif spec.classifier and max(low.max(), -high.min()) > -FAR_OUTPUT / 5:
        bound = f"beyond {low.min():.3g} and {high.max():.3g}"
    else:
        return
    raise AssertionError(
        f"{name}: outputs cannot go {bound}: something after the head bounds them (a ReLU, a sigmoid, a softmax?); "
        "return logits: the loss applies the activation"
    )


def outputs_at(spec: ModelSpec, module: nn.Module, images: Tensor, bias: float) -> Tensor:
    """The outputs of the module when its head has zero weights and this bias."""
    from torch import nn

    for name in spec.classifier.split(","):
        head = module.get_submodule(name)
        nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        nn.init.constant_(head.bias, bias)  # type: ignore[arg-type]
    return evaluate(module, images)


def push_outputs(module: nn.Module, images: Tensor, sign: int) -> Tensor:
    """Train the outputs towards one side of zero for some steps, for a module whose head the spec does not name."""
    import torch

    moved = copy.deepcopy(module).eval()
    trainable = [parameter for parameter in moved.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.03) if trainable else None
    outputs: Tensor = moved(images)
    for _ in range(NUM_PUSHES):
        if optimizer is None or not outputs.requires_grad or bool((sign * outputs > 0).all()):
            break
        optimizer.zero_grad()
        (-sign * outputs).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        outputs = moved(images)
    return outputs.detach()


def check_training(spec: ModelSpec, module: nn.Module, images: Tensor, *, num_outputs: int) -> None:
    """Check the shape of the logits in training mode, and that finite gradients reach the parameters."""
    import torch
    from torch.nn.functional import cross_entropy

    name = f"model {spec.name!r}"
    trainable = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    expect(trainable, f"{name}: no parameter requires a gradient; there is nothing to train")
    with step(f"{name}: a training step"):
        outputs = module.train()(images)
        grid = tuple(images.shape[2:]) if is_dense(spec) else ()
        expected = (len(images), num_outputs, *grid)
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        expect(shape == expected, f"{name}: in training mode it returns {shape}, expected a tensor of shape {expected}")
        classes = (torch.arange(len(images)) % num_outputs).reshape(-1, *[1] * len(grid)).expand(-1, *grid)
        loss = cross_entropy(outputs, classes)
        loss.backward()  # type: ignore[no-untyped-call]
    unreached = [key for key, parameter in trainable.items() if parameter.grad is None]
    expect(
        len(unreached) < len(trainable) / 2 and next(iter(trainable)) not in unreached,
        f"{name}: no gradient reaches {len(unreached)} of {len(trainable)} parameters, such as "
        f"{', '.join(unreached[:3])}; does forward() call detach() or no_grad()?",
    )
    for key, parameter in trainable.items():
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        expect(finite, f"{name}: the gradient of {key} is not finite")


def check_groups(spec: ModelSpec, module: nn.Module) -> None:
    """Check that `layer_groups` holds every trainable parameter once."""
    name = f"model {spec.name!r}"
    with step(f"{name}: layer_groups"):
        grouped = [id(parameter) for group in layer_groups_of(spec, module) for parameter in group]
    expect(len(grouped) == len(set(grouped)), f"{name}: `layer_groups` has a parameter in two groups")
    missing = [key for key, p in module.named_parameters() if p.requires_grad and id(p) not in set(grouped)]
    expect(not missing, f"{name}: `layer_groups` leaves out {', '.join(missing[:3])}: they would not be trained")


def check_features(spec: ModelSpec, module: nn.Module, images: Tensor) -> None:
    """Check that the features are (N, D), if frozen protocols can use the model."""
    if not spec.features and not spec.classifier:
        return
    name = f"model {spec.name!r}"
    with step(f"{name}: features"):
        import torch

        with torch.no_grad():
            features = feature_extractor(spec, module.eval())(images)
        shape = tuple(features.shape)
        expect(len(shape) == 2 and shape[0] == len(images), f"{name}: features of shape {shape}, expected (N, D)")
        expect(features.isfinite().all(), f"{name}: features of ordinary images are not finite")


# --- datasets --------------------------------------------------------------------------------------------------------
def check_dataset(spec: DatasetSpec, folder: Path, *, offline: bool = True) -> None:
    """Open the dataset in `folder`; compare its table, targets, splits and some images with its spec.

    Official splits that share patients only give a warning, because they are as published.
    """
    check_dataset_spec(spec)
    samples, again = (open_samples(spec, folder, offline) for _ in range(2))
    spec = complete_spec(spec, samples)
    check_dataset_spec(spec)
    with step(f"dataset {spec.name!r}"):
        check_samples(spec, samples)
    check_table(spec, samples)
    check_spec_targets(spec, samples)
    check_splits(spec, samples)
    check_pixels(spec, samples)
    expect(
        list(samples.table["sample_id"]) == list(again.table["sample_id"])
        and np.array_equal(samples.targets, again.targets, equal_nan=samples.targets.dtype.kind == "f"),
        f"dataset {spec.name!r}: opening it twice gives different samples or a different order; sort the files",
    )


def check_dataset_spec(spec: DatasetSpec) -> None:
    name = f"dataset {spec.name!r}"
    check_spec_fields("dataset", spec)
    expect(all(label.strip() for label in spec.labels), f"{name}: a label's name is empty")
    expect(
        not spec.positive or (spec.task.targets.has_positive and spec.positive in spec.labels),
        f"{name}: `positive` is {spec.positive!r}; expected a label of a binary task: {', '.join(spec.labels)}",
    )
    expect(spec.license, f"{name}: `license` is empty; write 'unknown' if it is not known")


def open_samples(spec: DatasetSpec, folder: Path, offline: bool) -> Samples:
    with step(f"dataset {spec.name!r}: opening it in {folder}"):
        samples = spec.samples(SamplesRequest(folder=folder, offline=offline))
    kind = type(samples).__name__
    expect(isinstance(samples, Samples), f"dataset {spec.name!r}: `samples` returned {kind}, expected Samples")
    return samples


def check_table(spec: DatasetSpec, samples: Samples) -> None:
    name, table = f"dataset {spec.name!r}", samples.table
    for column in {"sample_id", "split", "patient"} & set(table.columns):
        invalid = [value for value in table[column] if not isinstance(value, str)]
        expect(not invalid, f"{name}: column {column!r} holds {invalid[:1]}, expected str ('' for no official split)")
    has_patients = not parse_patient(spec.patient).missing
    expect(
        has_patients == ("patient" in table.columns),
        f"{name}: the spec declares patient = {spec.patient!r} but the table has "
        f"{'a' if 'patient' in table.columns else 'no'} column 'patient'",
    )
    if has_patients:
        expect(all(table["patient"]), f"{name}: a row has no patient; give a single image its own patient id")
    missing = [column for column in spec.metadata if column not in table.columns]
    expect(not missing, f"{name}: `metadata` names columns that are not in the table: {', '.join(missing)}")
    absent = [path for path in samples.files if not path.is_file()]
    expect(not absent, f"{name}: {len(absent)} of `files` do not exist, such as {absent[:1]}")


def check_spec_targets(spec: DatasetSpec, samples: Samples) -> None:
    """Check the dtype of the targets; `check_samples` compares their values with the labels."""
    name, dtype, expected = f"dataset {spec.name!r}", np.asarray(samples.targets).dtype, spec.task.targets.generic
    expect(
        isinstance(samples.targets, np.ndarray) and dtype.kind == expected.kind,
        f"{name}: targets are {dtype}, expected {'int64' if expected.kind == 'i' else 'a float'} array",
    )
    if not spec.task.classes:
        return
    counts = np.bincount(samples.targets, minlength=len(spec.labels))
    for label, count in zip(spec.labels, counts, strict=True):
        if count == 0:
            warnings.warn(f"{name}: no image is labeled {label!r}", stacklevel=3)


def check_splits(spec: DatasetSpec, samples: Samples) -> None:
    name, table = f"dataset {spec.name!r}", samples.table
    splits = {split for split in table["split"] if split} if "split" in table.columns else set()
    expect(
        splits == set(spec.official_splits),
        f"{name}: the spec declares official_splits = {sorted(spec.official_splits)}, the table has {sorted(splits)}",
    )
    if "patient" not in table.columns or not splits:
        return
    named = table[table["split"] != ""]
    named = named.assign(patient=unify_spellings(named["patient"]))
    shared = named.groupby("patient")["split"].nunique().loc[lambda counts: counts > 1]
    if len(shared):
        warnings.warn(
            f"{name}: {len(shared)} patients are in several official splits, such as {shared.index[0]!r}; "
            "document this in `known_issues`",
            stacklevel=3,
        )


def check_pixels(spec: DatasetSpec, samples: Samples) -> None:
    """Read images spread over the table, one by one and then in threads, as the image cache does."""
    name, images = f"dataset {spec.name!r}", list(samples.table["image"])
    chosen = sorted({int(row) for row in np.linspace(0, len(images) - 1, NUM_READ)})
    pixels = []
    for row in chosen:
        with step(f"{name}: reading the image of {samples.table['sample_id'].iloc[row]!r}"):
            pixels.append(samples.read(images[row]))
        check_image(f"{name}: {samples.table['sample_id'].iloc[row]}", pixels[-1], spec.channels)
    depths = sorted({str(image.dtype) for image in pixels})
    expect(len(depths) == 1, f"{name}: images are {' and '.join(depths)}; return one dtype for all")
    with step(f"{name}: reading images in several threads"), ThreadPoolExecutor(4) as pool:
        again = list(pool.map(samples.read, [images[row] for row in chosen]))
    equal = all(np.array_equal(first, second) for first, second in zip(pixels, again, strict=True))
    expect(equal, f"{name}: `read` gives different pixels when called in threads; open the file in each call")


def check_image(name: str, pixels: object, channels: int) -> None:
    expect(isinstance(pixels, np.ndarray), f"{name}: `read` returned {type(pixels).__name__}, expected an array")
    assert isinstance(pixels, np.ndarray)
    shape = pixels.shape
    expect(pixels.dtype in (np.uint8, np.uint16), f"{name}: pixels are {pixels.dtype}, expected uint8 or uint16")
    expect(
        len(shape) == 2 or (len(shape) == 3 and shape[2] == 3),
        f"{name}: pixels of shape {shape}, expected (height, width) or (height, width, 3)",
    )
    expect(min(shape) > 0, f"{name}: pixels of shape {shape}: the image is empty")
    gray = len(shape) == 2 or bool((pixels == pixels[:, :, :1]).all())
    expect(channels == 3 or gray, f"{name}: a color image, but the spec declares channels = 1")


# --- metrics ---------------------------------------------------------------------------------------------------------
def check_metric(spec: MetricSpec) -> None:
    """Compute a metric on perfect, random and one-class predictions of every task it names."""
    name = f"metric {spec.name!r}"
    check_spec_fields("metric", spec)
    check_tasks("metric", spec)
    for task in (TASKS[task] for task in spec.tasks):
        where = f"{name}, {task} task"
        random = make_read_only(request_for(task, quality="random"))
        perfect = make_read_only(request_for(task, quality="perfect"))
        value, best = value_of(where, spec, random), value_of(where, spec, perfect)
        better = best > value if spec.higher_is_better else best < value
        expect(
            better,
            f"{where}: perfect predictions give {best:.4g}, random ones {value:.4g}, but higher_is_better is "
            f"{spec.higher_is_better}",
        )
        expect(value == value_of(where, spec, random), f"{where}: the same predictions give two different values")
        order = np.random.default_rng(2).permutation(NUM_UNITS)
        expect(
            outputs_close(value, value_of(where, spec, make_read_only(random.take(order)))),
            f"{where}: the value depends on the order of the rows",
        )
        check_per_unit(where, spec, random, value)
        check_resample(where, spec, random, value)
        check_weighted_counts(where, spec, random, value)
        if spec.note:
            with step(f"{where}: note"):
                expect(isinstance(spec.note(random), str), f"{where}: `note` must return a str")
        check_undefined(where, spec, random)


def request_for(task: Task, *, quality: str) -> MetricRequest:
    """Predictions of a known quality. For a multi-label task a tenth of the targets is missing (NaN)."""
    rng = np.random.default_rng(1)
    num_labels = min(NUM_LABELS, task.targets.max_labels or NUM_LABELS)
    targets, perfect = task.targets.draw(rng, NUM_UNITS, num_labels)
    ids = np.arange(NUM_UNITS).astype(str)
    test = Predictions(
        sample_ids=ids,
        patients=ids,
        targets=targets,
        probabilities=perfect if quality == "perfect" else task.answers.draw(rng, NUM_UNITS, num_labels),
    )
    card = ScoringContext(
        task=task,
        labels=tuple(f"label {index}" for index in range(num_labels)),
        positive=1 if task.targets.has_positive else None,
    )
    return decide({"test": test}, card, "half").request


def make_read_only(request: MetricRequest) -> MetricRequest:
    """Make the arrays of a request read-only, as in a benchmark."""
    for values in (request.targets, request.probabilities, request.decisions, request.log_odds):
        if values is not None:
            values.flags.writeable = False
    return request


def outputs_close(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=1e-6, atol=1e-9))


def value_of(where: str, spec: MetricSpec, request: MetricRequest) -> float:
    try:
        with step(where):
            return compute(spec, request)
    except AssertionError as error:
        if isinstance(error.__cause__, Undefined):
            reason = f"{where}: undefined ({error.__cause__}) for ordinary predictions of every class"
            raise AssertionError(reason) from error
        raise


def check_per_unit(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Check that `per_unit` gives every unit its own value, finite or NaN, and agrees with `compute`."""
    if spec.per_unit is None:
        return
    with step(f"{where}: per_unit"):
        values = unit_values(request, spec.per_unit)
        half = unit_values(make_read_only(request.take(np.arange(NUM_UNITS // 2))), spec.per_unit)
    expect(not np.isinf(values).any(), f"{where}: `per_unit` gives infinity; expected numbers, NaN where undefined")
    expect(
        half.shape[1] == values.shape[1] and np.allclose(half, values[: NUM_UNITS // 2], equal_nan=True),
        f"{where}: `per_unit` gives a unit another value if it is tested with other units; a metric that is not a "
        "mean over units needs `compute`",
    )
    mean = compute_mean(request, per_unit=spec.per_unit)
    expect(
        outputs_close(mean, value), f"{where}: the mean of `per_unit` is {mean:.6g}, and `compute` gives {value:.6g}"
    )


def check_resample(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Compare `resample` with `compute` on the same units, each repeated by its weight."""
    if spec.resample is None:
        return
    drawn = np.random.default_rng(3).multinomial(NUM_UNITS, np.full(NUM_UNITS, 1 / NUM_UNITS), size=KIT_RESAMPLES)
    with step(f"{where}: resample"):
        values = np.asarray(spec.resample(request, np.concatenate([np.ones((1, NUM_UNITS)), drawn])))
    expected = (1 + KIT_RESAMPLES,)
    expect(values.shape == expected, f"{where}: `resample` returned the shape {values.shape}, expected {expected}")
    expect(
        outputs_close(float(values[0]), value),
        f"{where}: with all weights equal to 1 `resample` gives {values[0]:.6g} and `compute` {value:.6g}",
    )
    rows = [np.repeat(np.arange(NUM_UNITS), counts) for counts in drawn]
    computed = np.array([value_of(where, spec, make_read_only(request.take(row))) for row in rows])
    # A metric may keep the bins of the whole split, as `ece` does: then the values are close, but not equal.
    difference = np.abs(values[1:] - computed).mean()
    expect(
        difference <= 0.5 * np.abs(computed - value).mean() + 1e-9,
        f"{where}: for the same units `resample` gives {values[1]:.6g} and `compute` {computed[0]:.6g}",
    )


def check_weighted_counts(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Check that `counts` returns the (successes, trials) of the value."""
    if spec.counts is None:
        return
    try:
        successes, trials = spec.counts(request)
    except Undefined:  # no proportion in this task
        return
    expect(0 <= successes <= trials, f"{where}: `counts` gives {successes} successes of {trials} trials")
    expect(
        trials and outputs_close(successes / trials, value),
        f"{where}: `counts` gives {successes} of {trials}, and `compute` {value:.6g}",
    )


def check_undefined(where: str, spec: MetricSpec, request: MetricRequest) -> None:
    """Check that the metric has a value or raises Undefined, but is never NaN, for targets of one class or value."""
    same_rows = np.zeros(NUM_UNITS, dtype=np.int64)
    one_class = replace(request, targets=request.targets[same_rows])
    for case, what in ((one_class, "targets that are all equal"), (one_class.take(same_rows[:1]), "one row")):
        try:
            compute(spec, make_read_only(case))
        except Undefined as reason:
            expect(str(reason).strip(), f"{where}: with {what} it raises Undefined without a reason")
        except Exception as error:
            raise AssertionError(
                f"{where}: with {what} it fails ({type(error).__name__}: {error}); raise Undefined(reason) if there is "
                "no value"
            ) from error
