"""All kinds of answer by name, and the kind that suits the targets a source reads."""

from __future__ import annotations

from collections.abc import Callable

from zoo.tasks.classes import BINARY, MULTICLASS
from zoo.tasks.masks import SEGMENTATION
from zoo.tasks.multilabel import MULTILABEL
from zoo.tasks.ordinal import ORDINAL
from zoo.tasks.regression import REGRESSION
from zoo.tasks.task import Form, Task

CORE_TASKS = (BINARY, MULTICLASS, ORDINAL, MULTILABEL, REGRESSION, SEGMENTATION)
TASKS = {task.name: task for task in CORE_TASKS}  # and those of plugins, once they are registered
# The tasks with one answer per image, rather than per pixel: the default of models and metrics.
IMAGE_TASKS = tuple(task.name for task in CORE_TASKS if not task.head.dense)
MASK_TASKS = tuple(task.name for task in CORE_TASKS if task.targets.spatial)


def find_task(name: str) -> Task:
    """Return the task called `name`. Raises KeyError."""
    if name not in TASKS:
        raise KeyError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def task_names(holds: Callable[[Task], bool]) -> tuple[str, ...]:
    """The names of the tasks for which `holds` is true."""
    return tuple(name for name, task in TASKS.items() if holds(task))


def mask_task() -> Task:
    """The task of images with masks and no labels."""
    return next(task for task in CORE_TASKS if task.targets.spatial)


def default_task(form: Form, num_labels: int = 1, *, ordered: bool = False) -> Task:
    """The task of targets of a form if nothing names one: the first that permits so many labels, else the last."""
    suitable = [task for task in CORE_TASKS if (task.targets.form, task.targets.ordered) == (form, ordered)]
    for task in suitable:
        if task.targets.min_labels <= num_labels <= (task.targets.max_labels or num_labels):
            return task
    return suitable[-1]
