"""Suites: the models, datasets, protocol and metrics of a bench, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["pretrained", "auto", "none"]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The models, datasets, protocol and metrics of a bench, by name; nothing is resolved yet.

    In `models`, the name of a plugin's suite stands for the models of that suite.
    """

    name: str
    version: int = 1
    title: str = ""
    models: tuple[str, ...] = ("starter",)
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()  # in addition to the task's own
    primary_metric: str = ""  # default: the task's
    protocol: str = "finetune"
    settings: tuple[tuple[str, str], ...] = ()  # --set
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: int | None = None
    weights: Policy = "pretrained"
    allow_leak: str = ""  # reason to use a dataset in spite of a leak; stamped on every result
    drop_leaks: bool = False  # remove copies of test images from train and val
    resplit: bool = False  # discard official splits and draw new ones
    shuffle_labels: bool = False  # control: shuffle the labels of train and val, once per seed
    test_on: tuple[str, ...] = ()  # external datasets
    label_map: tuple[tuple[str, str], ...] = ()  # external label -> label of the training dataset; "": no counterpart
    distinct_patients: bool = False  # equal patient names in external datasets are other people

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"
