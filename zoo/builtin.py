"""The core's own models, metrics, protocols and executor, registered as a plugin registers its own."""

from zoo.hookspecs import hookimpl
from zoo.protocol import PROTOCOLS, Protocol
from zoo.specs import ExecutorSpec, MetricSpec, ModelSpec


@hookimpl
def register_models() -> list[ModelSpec]:
    from zoo.baselines import BASELINES

    return list(BASELINES)


@hookimpl
def register_metrics() -> list[MetricSpec]:
    from zoo.metrics import METRICS

    return list(METRICS)


@hookimpl
def register_protocols() -> list[Protocol]:
    return list(PROTOCOLS)


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    from zoo.executor import execute

    return [ExecutorSpec(name="local", execute=execute, title="worker processes on this machine")]
