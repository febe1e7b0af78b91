"""Suites: the models, datasets, protocol and metrics of a bench, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = Literal["pretrained", "auto", "none"]


@dataclass(frozen=True, kw_only=True)
class SuiteKey:
    """How a field of a suite is set: by a flag of `zoo bench`, and by a key of a suite's file."""

    help: str
    flags: tuple[str, ...] = ()  # none: only a file sets it
    metavar: str = ""
    names: str = ""  # the kind of specs that the value names, for completion
    key: str | None = ""  # in a file; "": the name of the field; None: only the flag sets it
    file_type: Any = None  # of the value in a file, if the type of the field does not determine it
    limits: Mapping[str, Any] = field(default_factory=dict)  # of the value in a file, as pydantic names them
    required: bool = False  # in a file


def key(default: Any, help: str, *flags: str, **facts: Any) -> Any:
    """A field of a suite with its default, flags and key."""
    return field(default=default, metadata={"suite": SuiteKey(help=help, flags=flags, **facts)})


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The models, datasets, protocol and metrics of a bench, by name; nothing is resolved yet.

    In `models`, the name of a plugin's suite stands for the models of that suite. The flags of `zoo bench`, the keys
    of a suite's file and their documentation are made from these fields.
    """

    name: str = field(
        metadata={"suite": SuiteKey(help="Its name.", required=True, limits={"pattern": r"^[a-z0-9][a-z0-9_-]*$"})}
    )
    version: int = key(1, "Raise it when the suite changes.", limits={"ge": 1})
    title: str = key("", "For lists.")
    models: tuple[str, ...] = key(
        ("starter",),
        "Models, or a suite's, such as `starter`.",
        "--models",
        "-m",
        names="model",
        metavar="NAME|GLOB,...",
        limits={"min_length": 1},
    )
    datasets: tuple[str, ...] = key(
        (),
        "Datasets by name, or a folder, CSV or npz.",
        "--datasets",
        "-d",
        names="dataset",
        metavar="NAME|PATH,...",
        limits={"min_length": 1},
        required=True,
    )
    metrics: tuple[str, ...] = key(
        (), "Metrics in addition to the task's own.", "--metrics", names="metric", metavar="NAME,..."
    )
    primary_metric: str = key("", "The metric that ranks; default: the task's.")
    seeds: tuple[int, ...] = key(
        (0, 1, 2),
        "Number of seeds, or the seeds themselves (default 3).",
        "--seeds",
        metavar="N|a,b,c",
        file_type=int | list[int],
    )
    protocol: str | tuple[str, ...] = key(
        "finetune",
        "The training and testing recipe (default finetune; quickstart: quick); several make one board.",
        "--protocol",
        names="protocol",
        metavar="NAME,...",
        limits={"min_length": 1},
        file_type=str | list[str],
    )
    settings: tuple[tuple[str, str], ...] = key(
        (),
        "Change a field of the protocol.",
        "--set",
        metavar="FIELD=VALUE",
        key="set",
        file_type=dict[str, str | int | float | bool],
    )
    folds: int | None = key(
        None, "Cross-validate by patient in K folds; 1 is a hold-out.", "--folds", metavar="K", limits={"ge": 1}
    )
    weights: Policy = key("pretrained", "Initial weights.", "--weights")  # noqa: RUF009
    allow_leak: str = key("", "Run a leaking dataset; its results are not ranked.", "--allow-leak", metavar="REASON")
    drop_leaks: bool = key(False, "Exclude copies of test images from train and val.", "--drop-leaks")
    resplit: bool = key(False, "Discard official splits; the dataset is then NAME-resplit.", "--resplit")
    shuffle_labels: bool = key(False, "Control: train on shuffled labels, 20 times.", "--shuffle-labels", key=None)
    test_on: tuple[str, ...] = key(
        (),
        "Datasets to test every model on, too.",
        "--test-on",
        names="dataset",
        metavar="NAME|PATH[:test],...",
    )
    label_map: tuple[tuple[str, str], ...] = key(
        (),
        "Map their labels to those of the training dataset.",
        "--label-map",
        metavar="TEST=TRAIN,...",
    )
    distinct_patients: bool = key(False, "Treat patients of the same name as different people.", "--distinct-patients")

    @property
    def protocols(self) -> tuple[str, ...]:
        """The requested protocols."""
        return (self.protocol,) if isinstance(self.protocol, str) else self.protocol

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


def suite_keys() -> dict[str, SuiteKey]:
    """How each field of a suite is set."""
    return {name: part.metadata["suite"] for name, part in Suite.__dataclass_fields__.items()}
