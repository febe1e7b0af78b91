"""The core's own specs, registered like those of any plugin."""

from zoo.specs.estimator import EstimatorSpec
from zoo.specs.executor import ExecutorSpec
from zoo.specs.hooks import hookimpl
from zoo.specs.loss import LossSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec
from zoo.specs.observer import ObserverSpec
from zoo.specs.protocol import PROTOCOLS, Protocol
from zoo.specs.sampling import SamplingSpec
from zoo.specs.section import SectionSpec
from zoo.specs.transform import TransformSpec
from zoo.tasks.kinds import CORE_TASKS
from zoo.tasks.task import Task


@hookimpl
def register_models() -> list[ModelSpec]:
    from zoo.models.baselines import BASELINES

    return list(BASELINES)


@hookimpl
def register_metrics() -> list[MetricSpec]:
    from zoo.evaluation.metrics.catalogue import METRICS

    return list(METRICS)


@hookimpl
def register_protocols() -> list[Protocol]:
    return list(PROTOCOLS)


@hookimpl
def register_tasks() -> list[Task]:
    return list(CORE_TASKS)


@hookimpl
def register_estimators() -> list[EstimatorSpec]:
    from zoo.models.estimators import ESTIMATORS

    return list(ESTIMATORS)


@hookimpl
def register_losses() -> list[LossSpec]:
    from zoo.training.losses import LOSSES

    return list(LOSSES)


@hookimpl
def register_samplings() -> list[SamplingSpec]:
    from zoo.training.samplings import SAMPLINGS

    return list(SAMPLINGS)


@hookimpl
def register_transforms() -> list[TransformSpec]:
    from zoo.training.transforms import TRANSFORMS

    return list(TRANSFORMS)


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    from zoo.system.workers import execute

    return [ExecutorSpec(name="local", execute=execute, title="worker processes on this machine")]


@hookimpl
def register_observers() -> list[ObserverSpec]:
    from zoo.system.event_log import EventLog

    return [ObserverSpec(name="jsonl", start=EventLog, title="events.jsonl in the results folder")]


@hookimpl
def register_sections() -> list[SectionSpec]:
    from zoo.leaderboard.sections import SECTIONS

    return list(SECTIONS)
