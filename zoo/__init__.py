"""zoo: a plugin-based model zoo and benchmark harness for medical imaging.

What a plugin needs is importable from here, `from zoo import ModelSpec, hookimpl`; torch is not imported by it.
"""

from zoo.downloads import download
from zoo.errors import DataError, Undefined, WeightsError, ZooError
from zoo.files import written_whole
from zoo.hookspecs import hookimpl
from zoo.models import load_weights
from zoo.protocol import FINETUNE, Protocol
from zoo.sources import card_dataset, find_data, find_source, read_npz_samples
from zoo.specs import (
    BuildRequest,
    DatasetSpec,
    ExecutorSpec,
    FetchRequest,
    MetricRequest,
    MetricSpec,
    ModelSpec,
    Samples,
    SamplesRequest,
    Weights,
)
from zoo.tasks import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION, Task


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when asked for: it costs 20 ms
        from importlib import metadata

        return metadata.version("zoo-bench")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


__all__ = [
    "BINARY",
    "FINETUNE",
    "MULTICLASS",
    "MULTILABEL",
    "ORDINAL",
    "REGRESSION",
    "BuildRequest",
    "DataError",
    "DatasetSpec",
    "ExecutorSpec",
    "FetchRequest",
    "MetricRequest",
    "MetricSpec",
    "ModelSpec",
    "Protocol",
    "Samples",
    "SamplesRequest",
    "Task",
    "Undefined",
    "Weights",
    "WeightsError",
    "ZooError",
    "card_dataset",
    "download",
    "find_data",
    "find_source",
    "hookimpl",
    "load_weights",
    "read_npz_samples",
    "written_whole",
]
