"""zoo: a plugin-based model zoo and benchmark harness for medical imaging.

Plugins import what they need from here: `from zoo import ModelSpec, hookimpl`. Programs and notebooks call
the functions of `zoo.api`, such as `zoo.bench`. Neither imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.api import (
        Leaderboard as Leaderboard,
    )
    from zoo.api import (
        TrainedModel as TrainedModel,
    )
    from zoo.api import (
        audit as audit,
    )
    from zoo.api import (
        bench as bench,
    )
    from zoo.api import (
        explain as explain,
    )
    from zoo.api import (
        load_model as load_model,
    )
    from zoo.api import (
        load_results as load_results,
    )
    from zoo.api import (
        open_dataset as open_dataset,
    )
    from zoo.api import (
        predict as predict,
    )
    from zoo.api import (
        write_nnunet as write_nnunet,
    )
    from zoo.errors import DataError, Undefined, WeightsError, ZooError
    from zoo.leaderboard.tables import SectionRequest
    from zoo.models.building import load_weights
    from zoo.registry.engines import Engine, JobState, execute_on
    from zoo.registry.remote import RemoteWork
    from zoo.sources.arrays import read_npz_samples
    from zoo.sources.opening import card_dataset, find_data, find_source
    from zoo.specs.dataset import DatasetSpec, FetchRequest, Samples, SamplesRequest
    from zoo.specs.estimator import EstimatorRequest, EstimatorSpec
    from zoo.specs.executor import ExecutorSpec
    from zoo.specs.hooks import hookimpl
    from zoo.specs.loss import LossRequest, LossSpec
    from zoo.specs.metric import MetricRequest, MetricSpec
    from zoo.specs.model import BuildRequest, ModelSpec, Weights
    from zoo.specs.observer import ObserverSpec
    from zoo.specs.protocol import FINETUNE, Protocol
    from zoo.specs.reader import ReaderSpec
    from zoo.specs.sampling import SamplingRequest, SamplingSpec
    from zoo.specs.section import FigureSeries, Section, SectionFigure, SectionSpec
    from zoo.specs.suite import Suite
    from zoo.specs.transform import TransformSpec
    from zoo.system.downloads import download
    from zoo.system.files import hash_in_name, written_whole
    from zoo.system.workers import Event
    from zoo.tasks.classes import BINARY, MULTICLASS
    from zoo.tasks.masks import SEGMENTATION
    from zoo.tasks.multilabel import MULTILABEL
    from zoo.tasks.ordinal import ORDINAL
    from zoo.tasks.regression import REGRESSION
    from zoo.tasks.task import Answers, Decisions, Head, Presentation, TargetFault, Targets, Task

__all__ = [
    "BINARY",
    "FINETUNE",
    "MULTICLASS",
    "MULTILABEL",
    "ORDINAL",
    "REGRESSION",
    "SEGMENTATION",
    "Answers",
    "BuildRequest",
    "DataError",
    "DatasetSpec",
    "Decisions",
    "Engine",
    "EstimatorRequest",
    "EstimatorSpec",
    "Event",
    "ExecutorSpec",
    "FetchRequest",
    "FigureSeries",
    "Head",
    "JobState",
    "LossRequest",
    "LossSpec",
    "MetricRequest",
    "MetricSpec",
    "ModelSpec",
    "ObserverSpec",
    "Presentation",
    "Protocol",
    "ReaderSpec",
    "RemoteWork",
    "Samples",
    "SamplesRequest",
    "SamplingRequest",
    "SamplingSpec",
    "Section",
    "SectionFigure",
    "SectionRequest",
    "SectionSpec",
    "Suite",
    "TargetFault",
    "Targets",
    "Task",
    "TransformSpec",
    "Undefined",
    "Weights",
    "WeightsError",
    "ZooError",
    "card_dataset",
    "download",
    "execute_on",
    "find_data",
    "find_source",
    "hash_in_name",
    "hookimpl",
    "load_weights",
    "read_npz_samples",
    "written_whole",
]
# The modules that define these names, the lightest first.
# perf: `from zoo import hookimpl` does not import pandas
_MODULES = (
    "errors",
    "specs.protocol",
    "specs.model",
    "specs.dataset",
    "specs.metric",
    "specs.estimator",
    "specs.executor",
    "specs.observer",
    "specs.suite",
    "specs.loss",
    "specs.sampling",
    "specs.transform",
    "specs.reader",
    "specs.section",
    "specs.hooks",
    "tasks.task",
    "tasks.classes",
    "tasks.ordinal",
    "tasks.multilabel",
    "tasks.regression",
    "tasks.masks",
    "system.files",
    "system.downloads",
    "system.workers",
    "registry.remote",
    "registry.engines",
    "models.building",
    "sources.arrays",
    "sources.opening",
    "leaderboard.tables",
)


# What programs and notebooks call; on the top floor, so that a plugin does not depend on it.
_API = (
    "Leaderboard",
    "TrainedModel",
    "audit",
    "bench",
    "explain",
    "load_model",
    "load_results",
    "open_dataset",
    "predict",
    "write_nnunet",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("zoo-bench")
    if name in __all__:
        for module in map(import_module, (f"zoo.{module}" for module in _MODULES)):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    if name in _API:
        globals()[name] = getattr(import_module("zoo.api"), name)
        return globals()[name]
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_API, "__version__"]
