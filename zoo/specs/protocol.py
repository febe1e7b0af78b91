"""The training and testing recipes, as frozen data with a name and a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zoo.errors import UsageError, nearest
from zoo.specs.choice import split_choices

# estimator: a model without gradients, on frozen features; zero-shot: the model answers as it is built; none: the
# predictions are imported
Method = Literal["finetune", "probe", "knn", "estimator", "zero-shot", "none"]


def only(method: Method, default: Any) -> Any:
    """A field of a protocol that one method uses."""
    return field(default=default, metadata={"method": method})


def choice(kind: str, default: Any, method: Method | None = None) -> Any:
    """A field of a protocol that names specs of a kind, with their options: a text, or a tuple of texts."""
    return field(default=default, metadata={"kind": kind, **({"method": method} if method else {})})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A recipe for training and testing. A published (name, version) never changes; variants use `replace`.

    Exactly one of `steps` and `epochs` is set. `rounds` is how often val is scored (0: once per epoch).
    """

    name: str
    version: int = 1
    title: str = ""
    method: Method = "finetune"
    demonstration: bool = False  # the board is titled "demonstration": not a recipe for publishable numbers
    dims: Literal[2, 3] = 2  # of the images that it is for: 3 for volumes

    steps: int | None = only("finetune", None)
    epochs: int | None = only("finetune", None)
    min_steps: int = only("finetune", 0)
    max_steps: int | None = only("finetune", None)
    rounds: int = only("finetune", 20)
    batch_size: int = only("finetune", 32)
    sampling: str = choice("sampling", "uniform", "finetune")

    loss: str = choice("loss", "task", "finetune")  # task: the task's own
    class_weights: Literal["none", "inverse"] = only("finetune", "none")  # inverse: to the frequencies of train
    label_smoothing: float = only("finetune", 0.0)  # share of each target that is spread evenly over its labels
    # Zhang et al. 2018: both parameters of the Beta distribution of the shares; 0: images are not mixed
    mixup: float = only("finetune", 0.0)

    optimizer: Literal["adamw", "adam", "sgd"] = only("finetune", "adamw")
    learning_rate: float = only("finetune", 3e-4)
    momentum: float = only("finetune", 0.9)
    weight_decay: float = only("finetune", 0.05)
    clip_norm: float | None = only("finetune", 1.0)
    schedule: Literal["cosine", "constant", "steps"] = only("finetune", "cosine")
    milestones: tuple[float, ...] = only("finetune", ())  # shares of the budget at which "steps" divides the rate by 10
    warmup: float = only("finetune", 0.1)  # share of the budget
    stem_to_head_ratio: float = only("finetune", 1.0)  # of learning rates, for models with BatchNorm
    stem_to_head_ratio_no_batchnorm: float = only("finetune", 0.1)
    head_std: float = only("finetune", 0.01)

    # None: the dataset's own; else the longest side of its images if patches are cut from them, else 224. Of volumes:
    # the longest side of a patch
    image_size: int | None = 224
    # Of tasks with masks: train on patches of this shape and predict by tiles of it. One number stands for all axes;
    # (): whole images
    patch: tuple[int, ...] = only("finetune", ())
    spacing: float | None = None  # mm per voxel that volumes are resampled to; None: the median of the dataset's
    stem: Literal["own", "small"] = "own"  # small: 3x3 stride-1 first convolution and no max-pooling (28 px ResNets)
    normalization: Literal["model", "imagenet", "half"] = "model"
    symmetries: bool = only("finetune", True)  # the flips and 90-degree rotations that the dataset declares
    augmentation: Literal["none", "one-of"] = only("finetune", "one-of")
    transforms: tuple[str, ...] = choice("transform", ())  # in this order

    metadata: bool = False  # the columns in the dataset's `inputs` are a second input of the model
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # val: the round with the best val score, or the last one if val has fewer than 30 of a class; best: always the best
    select_by: Literal["val", "best", "last"] = only("finetune", "val")
    threshold: Literal["val", "half"] = "val"  # Youden's J on val, or 0.5
    weights: Literal["any", "none"] = "any"  # none: a recipe for random init
    without_weights: str = ""  # the protocol to use if `--weights auto` finds no weights; empty: this one
    tune: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # a grid of field values, chosen on val with one tuning seed
    regularizations: tuple[float, ...] = only("probe", tuple(10.0**power for power in range(-6, 4)))
    neighbors: int = only("knn", 20)
    temperature: float = only("knn", 0.07)
    estimator: str = only("estimator", "")  # the name of an `EstimatorSpec`
    seeded: bool = only("estimator", False)  # whether the outcome of this estimator depends on the seed
    overrides: tuple[tuple[str, str], ...] = ()  # name and text of each `--set`; ("shuffled", "") of the control

    def __post_init__(self) -> None:
        if self.method == "finetune" and (self.steps is None) == (self.epochs is None):
            raise UsageError(
                f"protocol {self.name!r}: set exactly one of steps, epochs",
                fix="set one with --set steps=N or --set epochs=N, and the other to none",
                code="bad-protocol",
            )
        if (self.method == "estimator") != (self.estimator != ""):
            raise UsageError(
                f"protocol {self.name!r}: an estimator goes with the method estimator, and with no other",
                fix="name it in `estimator`, and set method to estimator",
                code="bad-protocol",
            )

    @property
    def label(self) -> str:
        """`finetune@1`, or `finetune@1+epochs=3` if fields were overridden."""
        changes = (f"+{name}={text}" if text else f"+{name}" for name, text in self.overrides)
        return f"{self.name}@{self.version}{''.join(changes)}"

    def patch_shape(self, num_axes: int) -> tuple[int, ...]:
        """The patch in images of so many axes; () for whole images. Raises UsageError if it has other axes."""
        if len(self.patch) not in (0, 1, num_axes):
            raise UsageError(
                f"--set patch={','.join(map(str, self.patch))}: {len(self.patch)} axes; the images have {num_axes}",
                fix=f"give one number, or {num_axes}",
            )
        return self.patch * num_axes if len(self.patch) == 1 else self.patch

    def is_deterministic(self, init: str) -> bool:
        """Whether every seed has the same outcome from this kind of initial weights.

        A head on the features of given weights is the optimum of a convex loss, a vote, or an estimator that says so;
        a small stem is drawn.
        """
        given = init in ("pretrained", "fixed") and self.stem == "own"
        return given and self.method != "finetune" and not self.seeded


FINETUNE = Protocol(
    name="finetune",
    title="fine-tune every layer: AdamW 3e-4, cosine, 20 epochs within 500-10,000 steps, 224 px",
    epochs=20,
    min_steps=500,
    max_steps=10_000,
    without_weights="scratch",
)
TUNED = replace(
    FINETUNE,
    name="tuned",
    title="finetune@1 with each model's learning rate chosen on val from x1/3, x1, x3",
    tune=(("learning_rate", (1e-4, 3e-4, 9e-4)),),
)
QUICK = Protocol(
    name="quick",
    version=2,
    title="minutes on a CPU: 144 steps at 64 px",
    demonstration=True,
    steps=144,
    rounds=4,
    learning_rate=1e-3,
    image_size=64,
    augmentation="none",
    symmetries=True,
)
SCRATCH = Protocol(
    name="scratch",
    title="from random init: AdamW 1e-3, cosine, 100 epochs within 2,000-50,000 steps, 224 px",
    epochs=100,
    min_steps=2_000,
    max_steps=50_000,
    learning_rate=1e-3,
    stem_to_head_ratio_no_batchnorm=1.0,
    weights="none",
)
SEGMENT = Protocol(
    name="segment",
    title="masks: cross-entropy + Dice, AdamW 3e-4, cosine, 4,000 steps of 8 images, 512 px",
    steps=4_000,
    batch_size=8,
    image_size=512,
    stem_to_head_ratio_no_batchnorm=1.0,
    select_by="best",
    without_weights="segment-scratch",
)
SEGMENT_SCRATCH = replace(
    SEGMENT,
    name="segment-scratch",
    title="segment@1 from random init: AdamW 1e-3",
    learning_rate=1e-3,
    weights="none",
    without_weights="",
)
SEGMENT_QUICK = Protocol(
    name="segment-quick",
    version=2,
    title="masks in minutes on a CPU: 1,000 steps of 8 images at the dataset's own size",
    demonstration=True,
    steps=1_000,
    rounds=4,
    batch_size=8,
    learning_rate=4e-3,
    image_size=None,
    stem_to_head_ratio_no_batchnorm=1.0,
    augmentation="none",
    select_by="best",
)
SEGMENT3D = replace(
    SEGMENT,
    name="segment3d",
    title="masks of volumes: cross-entropy + Dice, AdamW 1e-3, cosine, 10,000 steps of 2 patches of up to 128 voxels",
    dims=3,
    steps=10_000,
    batch_size=2,
    learning_rate=1e-3,
    image_size=128,
    without_weights="",
)
SEGMENT3D_QUICK = replace(
    SEGMENT3D,
    name="segment3d-quick",
    title="masks of volumes in minutes on a CPU: 600 steps of 2 patches of up to 48 voxels",
    demonstration=True,
    steps=600,
    rounds=4,
    learning_rate=2e-3,
    image_size=48,
)
SEGMENT_PATCHES = replace(
    SEGMENT_QUICK,
    name="segment-patches",
    version=1,
    title="fine structures on a CPU: 1,350 steps of 8 patches of 128 px at the images' own resolution",
    steps=1_350,
    rounds=5,
    learning_rate=2e-3,
    patch=(128,),
)
FINETUNE3D = replace(
    FINETUNE,
    name="finetune3d",
    title="volumes: AdamW 3e-4, cosine, 50 epochs of 8 volumes within 500-10,000 steps, cubes of 96 voxels",
    dims=3,
    epochs=50,
    batch_size=8,
    image_size=96,
    without_weights="",
)
SCRATCH3D = replace(
    SCRATCH,
    name="scratch3d",
    title="volumes from random init: AdamW 1e-3, cosine, 100 epochs of 8 volumes within 2,000-50,000 steps, 96 voxels",
    dims=3,
    batch_size=8,
    image_size=96,
)
QUICK3D = replace(
    QUICK,
    name="quick3d",
    version=2,
    title="volumes in minutes on a CPU: 100 steps of 8 volumes, cubes of 48 voxels",
    dims=3,
    steps=100,
    batch_size=8,
    learning_rate=3e-4,
    image_size=48,
)
LINEAR_PROBE = Protocol(
    name="linear-probe",
    title="logistic regression on frozen features, its L2 penalty chosen on val",
    method="probe",
    augmentation="none",
    symmetries=False,
)
KNN = Protocol(
    name="knn",
    title="weighted 20-nearest-neighbor vote on frozen features (cosine, temperature .07)",
    method="knn",
    augmentation="none",
    symmetries=False,
)
LINEAR_PROBE3D = replace(
    LINEAR_PROBE,
    name="linear-probe3d",
    title="volumes: logistic regression on frozen features, its L2 penalty chosen on val, cubes of 96 voxels",
    dims=3,
    image_size=96,
)
KNN3D = replace(
    KNN,
    name="knn3d",
    title="volumes: weighted 20-nearest-neighbor vote on frozen features, cubes of 96 voxels",
    dims=3,
    image_size=96,
)
NEAREST_CENTROID = replace(
    LINEAR_PROBE,
    name="nearest-centroid",
    title="the class with the nearest mean of frozen features",
    method="estimator",
    estimator="nearest-centroid",
)
SVM = replace(
    NEAREST_CENTROID,
    name="svm",
    title="support vector machine (RBF kernel, C = 1) on frozen features",
    estimator="svm",
)
GRADIENT_BOOSTING = replace(
    NEAREST_CENTROID,
    name="gradient-boosting",
    title="100 rounds of gradient boosting of trees on frozen features",
    estimator="gradient-boosting",
)
ZERO_SHOT = Protocol(
    name="zero-shot",
    title="the model answers as it is: nothing is trained",
    method="zero-shot",
    augmentation="none",
    symmetries=False,
)
TUTORIAL = Protocol(
    name="tutorial",
    title="what tutorials do: SGD .001, momentum .9, 10 epochs, no augmentation",
    epochs=10,
    rounds=0,
    optimizer="sgd",
    learning_rate=1e-3,
    momentum=0.9,
    weight_decay=0.0,
    clip_norm=None,
    schedule="constant",
    warmup=0.0,
    stem_to_head_ratio_no_batchnorm=1.0,
    normalization="imagenet",
    augmentation="none",
    symmetries=False,
    precision="fp32",
    select_by="best",
    threshold="half",
)
MEDMNIST = Protocol(
    name="medmnist",
    title="MedMNIST v2's published recipe at 28 px, from random init (Yang et al. 2023)",
    epochs=100,
    rounds=0,
    batch_size=128,
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=0.0,
    clip_norm=None,
    schedule="steps",
    milestones=(0.5, 0.75),
    warmup=0.0,
    stem_to_head_ratio_no_batchnorm=1.0,
    image_size=28,
    stem="small",
    normalization="half",
    augmentation="none",
    symmetries=False,
    precision="fp32",
    select_by="best",
    threshold="half",
    weights="none",
)
BASELINE = Protocol(
    name="baseline",
    title="the class prior, and logistic regression on 8x8 thumbnails",
    method="probe",
    image_size=None,
    augmentation="none",
    symmetries=False,
    weights="none",
)

# Not among PROTOCOLS: no bench can carry it out.
IMPORTED = Protocol(
    name="imported",
    title="predictions of another tool; nothing was trained here",
    method="none",
    image_size=None,
    weights="none",
)

SECOND_READER = replace(IMPORTED, name="second-reader", title="the masks of a second reader of the dataset")

PROTOCOLS = (
    FINETUNE,
    TUNED,
    QUICK,
    SCRATCH,
    LINEAR_PROBE,
    KNN,
    NEAREST_CENTROID,
    SVM,
    GRADIENT_BOOSTING,
    ZERO_SHOT,
    TUTORIAL,
    MEDMNIST,
    SEGMENT,
    SEGMENT_SCRATCH,
    SEGMENT_QUICK,
    SEGMENT3D,
    SEGMENT3D_QUICK,
    SEGMENT_PATCHES,
    FINETUNE3D,
    SCRATCH3D,
    QUICK3D,
    LINEAR_PROBE3D,
    KNN3D,
    BASELINE,
)

# The fields that name specs: field -> kind. `zoo.registry.choices.find_choices` resolves them.
CHOICE_KINDS: dict[str, str] = {
    part.name: part.metadata["kind"] for part in dataclasses.fields(Protocol) if "kind" in part.metadata
}

_FIXED = {"name", "version", "dims", "title", "overrides", "demonstration", "method", "without_weights", "tune"}
# Decided before the first run, so they cannot be tuned by runs.
_PLANNED = {"image_size", "precision", "weights", "estimator", "seeded", "metadata", *CHOICE_KINDS}


def list_settings(method: Method | None = None) -> list[str]:
    """The fields of a protocol that `--set` can change: those that a method uses, else those of any method."""
    return [
        part.name
        for part in dataclasses.fields(Protocol)
        if part.name not in _FIXED and (method is None or part.metadata.get("method", method) == method)
    ]


def chosen_names(protocol: Protocol, name: str) -> tuple[str, ...]:
    """The texts in a field that names specs."""
    value = getattr(protocol, name)
    return value if isinstance(value, tuple) else (value,)


def refuse_foreign(protocol: Protocol, names: Iterable[str]) -> None:
    """Raise UsageError for `--set` of a field that the protocol's method does not use.

    `override` accepts it, because stored results may have such a label.
    """
    for name in names:
        if not uses_setting(protocol, name):
            raise UsageError(
                f"--set {name}: protocol {protocol.name!r} does not use it: its method is {protocol.method}",
                fix=f"choose from {', '.join(list_settings(protocol.method))}",
            )


def uses_setting(protocol: Protocol, name: str) -> bool:
    """Whether the protocol's method uses a field; `override` reports names that no method has."""
    return name not in list_settings() or name in list_settings(protocol.method)


def override(protocol: Protocol, settings: Mapping[str, str]) -> Protocol:
    """Replace fields of a protocol by `--set` texts, and its label, so that it never mixes with the published one.

    Several values separated by commas make a grid, from which one tuning seed chooses on val.
    """
    types = get_type_hints(Protocol)
    settable = list_settings()
    changes: dict[str, Any] = {}
    tune = {name: values for name, values in protocol.tune if name not in settings}
    for name, text in settings.items():
        if name not in settable:
            raise UsageError(f"--set {name}={text}: no such field", fix=nearest(name, settable) or ", ".join(settable))
        values = split_values(name, text)
        parsed = tuple(parse_field(name, value, types[name]) for value in values)
        if len(parsed) > 1 and name in _PLANNED:
            raise UsageError(f"--set {name}={text}: expected one value", fix="run zoo bench once per value")
        if len(set(parsed)) < len(parsed):
            raise UsageError(f"--set {name}={text}: repeated value", fix="give each value once")
        changes[name] = parsed[0]
        if len(parsed) > 1:
            tune[name] = parsed
    if changes.get("steps") is not None:
        changes.setdefault("epochs", None)
    elif changes.get("epochs") is not None:
        changes.setdefault("steps", None)
        # The protocol's limits on steps must not silently change the requested number of epochs.
        changes.setdefault("min_steps", 0)
        changes.setdefault("max_steps", None)
    least, most = (changes.get(name, getattr(protocol, name)) for name in ("min_steps", "max_steps"))
    if most is not None and least > most and {"min_steps", "max_steps"} & set(settings):
        raise UsageError(f"--set min_steps={least}: more than max_steps={most}", fix="set min_steps <= max_steps")
    overrides = (*protocol.overrides, *sorted(settings.items()))
    return replace(protocol, **changes, tune=tuple(tune.items()), overrides=overrides)


def split_values(name: str, text: str) -> tuple[str, ...]:
    """The values in a `--set` text: several make a grid, but a field that is a tuple takes them all."""
    if name in {"milestones", "regularizations", "patch", "transforms"}:
        return (text,)
    return split_choices(text) if name in CHOICE_KINDS else tuple(text.split(","))


POSITIVE = {
    "steps",
    "epochs",
    "max_steps",
    "batch_size",
    "image_size",
    "patch",
    "spacing",
    "neighbors",
    "temperature",
    "clip_norm",
}
MAX_IMAGE_SIZE = 8192  # larger than a mammogram; a million is a typing error and would take 3 TB per image
MAX_BUDGET = 10**9  # more would take years on any device
SHARES = ("warmup", "milestones")  # shares of the budget
# The maximum of every numeric field: a larger value is a mistake. The minimum is 0, exclusive for POSITIVE.
MAX_VALUES: dict[str, float] = {
    **dict.fromkeys(("steps", "epochs", "min_steps", "max_steps"), MAX_BUDGET),
    **dict.fromkeys(("rounds", "batch_size", "neighbors"), 10**6),
    **dict.fromkeys(("learning_rate", "weight_decay", "temperature"), 100),
    **dict.fromkeys(("stem_to_head_ratio", "stem_to_head_ratio_no_batchnorm"), 100),
    **dict.fromkeys(SHARES, 1),
    **dict.fromkeys(("image_size", "patch"), MAX_IMAGE_SIZE),
    "spacing": 1000,
    "momentum": 0.9999,  # at 1 a gradient never decays
    "clip_norm": 10**9,
    "head_std": 10,
    "label_smoothing": 0.9,
    "mixup": 100,
    "regularizations": 10**12,
}


def parse_field(name: str, text: str, kind: Any) -> Any:
    """Parse a `--set` value as the declared type of its field."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"--set {name}={text}: unknown value", fix=f"choose from {', '.join(get_args(kind))}")
        return text
    options = get_args(kind) or (kind,)
    if str in options:
        return text.strip() if kind is str else () if text.lower() == "none" else split_choices(text)
    if type(None) in options and text.lower() == "none":
        return None
    if get_origin(kind) is tuple:
        return tuple(parse_field(name, part, options[0]) for part in text.split(","))
    try:
        if bool in options:
            return {"true": True, "false": False}[text.lower()]
        if int in options:
            value = int(text)
            if value < 0 or (value == 0 and name in POSITIVE):
                raise ValueError
            refuse_beyond(name, value)
            return value
        number = float(text)
        if not 0 <= number < float("inf") or (number == 0 and name in POSITIVE):
            raise ValueError
        refuse_beyond(name, number)
        return number
    except (KeyError, ValueError):
        kind_name = "true or false" if bool in options else "a whole number" if int in options else "a number"
        least = "" if bool in options else " above 0" if name in POSITIVE else ", 0 or more"
        alternative = " or none" if type(None) in options else ""
        raise UsageError(f"--set {name}={text}: expected {kind_name}{least}{alternative}") from None


def refuse_beyond(name: str, value: float) -> None:
    """Raise UsageError for a value that is so large that it must be a mistake."""
    if value > MAX_VALUES[name]:
        unit = ", a share of the budget" if name in SHARES else ""
        text = value if isinstance(value, int) else f"{value:g}"
        raise UsageError(f"--set {name}={text}: expected at most {MAX_VALUES[name]}{unit}", fix="use a smaller value")


# Fields that were added when results existed, with the value that stands for their absence.
ADDED: dict[str, Any] = {
    "patch": (),
    "dims": 2,
    "spacing": None,
    "sampling": "uniform",
    "loss": "task",
    "class_weights": "none",
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "transforms": (),
    "estimator": "",
    "seeded": False,
    "metadata": False,
}


def resolved_fields(protocol: Protocol) -> dict[str, Any]:
    """The fields that affect the outcome of a run, for its identity."""
    fields = dataclasses.asdict(protocol)
    return {
        name: fields[name]
        for name in sorted(fields)
        if name not in {"title", "overrides", "tune", "demonstration", "without_weights"}
        and not (name in ADDED and fields[name] == ADDED[name])
    }
